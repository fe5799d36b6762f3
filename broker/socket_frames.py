"""Frames into and out of a socket, past pyzmq's conveniences.

`send_multipart` and `recv_multipart` look every option up as an enum and every frame's type, in Python: four fifths of
what a small message costs its process. These do the same with the compiled calls beneath.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, cast

import zmq
from zmq.backend import Socket as _Compiled

from zmqcarla.broker.step_frames import MARK

NO_WAIT: Final = int(zmq.NOBLOCK)
_MORE: Final = int(zmq.SNDMORE)
_RCVMORE: Final = int(zmq.RCVMORE)
_STEP: Final = bytes([MARK])
_send: Final = cast(Callable[[Any, bytes, int], None], _Compiled.send)


def send_frames(socket: zmq.Socket[bytes], frames: Sequence[bytes], flags: int = 0) -> None:
    """Send one message.

    Raises:
        zmq.ZMQError: of its first frame; nothing has been sent then.
    """
    for frame in frames[:-1]:
        _send(socket, frame, flags | _MORE)
    _send(socket, frames[-1], flags)


def receive_frames(socket: zmq.Socket[bytes], flags: int = 0) -> list[bytes]:
    """The next message.

    Raises:
        zmq.Again: none came in time.
    """
    receive = socket.recv
    frame = receive(flags, False)
    frames = [frame.bytes]
    while frame.more:
        frame = receive(flags, False)
        frames.append(frame.bytes)
    return frames


def receive_from_broker(socket: zmq.Socket[bytes], flags: int = 0) -> list[bytes]:
    """The next message at a DEALER socket; a frame about steps is one of its own, and nobody asks what follows it.

    Raises:
        zmq.Again: none came in time.
    """
    frames = [socket.recv(flags)]
    if frames[0][:1] != _STEP:
        while socket.getsockopt(_RCVMORE):
            frames.append(socket.recv(flags))
    return frames
