"""Who may come in: the broker's side of ZAP (RFC 27 of ZeroMQ), and who has to leave when the list changes.

A connection is asked for once, at its handshake, and would go on after its key was taken off the list. So the broker's
loop looks whether the list has changed, ends what was done with keys that are gone, and cuts their connections when
they next say something.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import socket
import threading
import time
from typing import Any, Final

import zmq

from zmqcarla.broker.errors import KeysError
from zmqcarla.broker.keys import KeyFolder

_LOG = logging.getLogger("zmqcarla.broker")
_ADDRESS: Final = "inproc://zeromq.zap.01"
_STOP: Final = b"stop"
_JOIN_S: Final = 5.0
_FAREWELL_S: Final = 1.0
"""How long a revoked key's connections stay, so that the end of its leases is told before they end."""


class GuestList:
    """The allowed keys, and the thread that answers handshakes by them.

    Args:
        context: whose sockets ask.
        keys: their folder.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], keys: KeyFolder) -> None:
        self._keys = keys
        self._version = keys.allowed_version()
        self._allowed = frozenset(keys.allowed())
        self._left: set[str] = set()
        self._left_at: dict[str, float] = {}
        self._context = context
        answering: zmq.Socket[bytes] = context.socket(zmq.REP)
        answering.linger = 0
        answering.bind(_ADDRESS)
        self._thread = threading.Thread(target=self._answer, args=(answering,), name="zmqcarla-zap", daemon=True)

    def __enter__(self) -> GuestList:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._context.socket(zmq.REQ) as last:
            last.linger = 0
            last.connect(_ADDRESS)
            last.send(_STOP)
            self._thread.join(_JOIN_S)

    def __contains__(self, user: str) -> bool:
        if user not in self._allowed:  # it may have been let in a moment ago
            self._read_again()
        return user in self._allowed

    def who_left(self) -> set[str]:
        """The keys that were taken off the list since the last call."""
        self._read_again()
        left, self._left = self._left, set()
        return left

    def is_overdue(self, user: str) -> bool:
        """Whether one who is not on the list has had the time to hear why."""
        return time.monotonic() - self._left_at.get(user, -math.inf) > _FAREWELL_S

    def _read_again(self) -> None:
        version = self._keys.allowed_version()
        if version == self._version:
            return
        try:
            allowed = frozenset(self._keys.allowed())
        except KeysError as error:  # who is in stays, and nobody comes in until it is mended
            _LOG.error("%s", error)
            allowed = self._allowed
        self._left |= self._allowed - allowed
        self._left_at.update(dict.fromkeys(self._allowed - allowed, time.monotonic()))
        self._allowed, self._version = allowed, version

    def _answer(self, answering: zmq.Socket[bytes]) -> None:
        with answering:
            while True:
                frames = answering.recv_multipart()
                if frames == [_STOP]:
                    return
                answering.send_multipart(self._verdict(frames))

    def _verdict(self, frames: list[bytes]) -> list[bytes]:
        version, request_id, _, address, _, mechanism, *credentials = frames
        key = ""
        if mechanism == b"CURVE" and len(credentials) == 1:
            key = credentials[0].hex()
        try:
            name = self._keys.allowed().get(key)
        except KeysError as error:
            _LOG.error("%s", error)
            name = None
        if name is None:
            _LOG.warning("refused a connection from %s with key %s", address.decode("ascii", "replace"), key or "none")
            return [version, request_id, b"400", b"expected a key that is authorised", b"", b""]
        _LOG.info("let in %s from %s", name, address.decode("ascii", "replace"))
        return [version, request_id, b"200", b"OK", key.encode("ascii"), b""]


def user_of(frame: zmq.Frame) -> str:
    """The key that the connection of a message has proved."""
    return str(frame.get("User-Id"))


def cut(frame: zmq.Frame) -> None:
    """End the connection that a message came from; its peer may knock again."""
    with contextlib.suppress(OSError):  # it has ended by itself
        connection = socket.socket(fileno=os.dup(_source_fd(frame)))
        with connection:
            connection.shutdown(socket.SHUT_RDWR)


def _source_fd(frame: Any) -> int:
    return int(frame.get(zmq.SRCFD))
