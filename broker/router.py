"""The broker process: a ZeroMQ ROUTER around the lease table.

Everything that it knows is in `LeaseTable`; this loop receives, decodes, asks, and sends. Addresses: an ipc socket in
a directory of mode 0700 (default) or tcp on the loopback interface; see docs/protocol.md.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import time
from collections.abc import Generator
from typing import Final

import zmq

from zmqcarla.broker import protocol as p
from zmqcarla.broker.address import claimed
from zmqcarla.broker.errors import AddressInUseError, ProtocolError
from zmqcarla.broker.lease_table import Clock, LeaseTable, Received, Send

_LOG = logging.getLogger("zmqcarla.broker")
_CLOCK_S: Final = 0.25
_CLOCK_MS: Final = 250
_BURST: Final = 64
"""Messages handled between two looks at the clock."""


def serve(address: str, lifeline_fd: int | None = None) -> None:
    """Run a broker until SIGTERM, SIGINT or the end of the lifeline.

    Args:
        address: `ipc://PATH` or `tcp://127.0.0.1:PORT`.
        lifeline_fd: read end of a pipe; the broker stops when its other end closes.

    Raises:
        AddressInUseError: another broker serves the address.
        ValueError: not an address that a broker may serve.
    """
    wake_read, wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    previous = {sig: signal.signal(sig, lambda *_: None) for sig in (signal.SIGTERM, signal.SIGINT)}
    previous_fd = signal.set_wakeup_fd(wake_write)
    try:
        with _bound_router(address) as router:
            _LOG.info("broker serves %s (protocol %d, pid %d)", address, p.PROTOCOL, os.getpid())
            _loop(router, [wake_read] if lifeline_fd is None else [wake_read, lifeline_fd])
            _LOG.info("broker stops")
    finally:
        signal.set_wakeup_fd(previous_fd)
        for sig, handler in previous.items():
            signal.signal(sig, handler)
        os.close(wake_read)
        os.close(wake_write)


@contextlib.contextmanager
def _bound_router(address: str) -> Generator[zmq.Socket[bytes]]:
    context = zmq.Context(io_threads=1)
    router = context.socket(zmq.ROUTER)
    router.setsockopt(zmq.ROUTER_MANDATORY, 1)
    router.setsockopt(zmq.LINGER, 0)
    router.setsockopt(zmq.MAXMSGSIZE, p.MAX_PAYLOAD_BYTES)
    router.setsockopt(zmq.HEARTBEAT_IVL, 5_000)
    router.setsockopt(zmq.HEARTBEAT_TIMEOUT, 30_000)
    try:
        with claimed(address):
            mask = os.umask(0o077)
            try:
                router.bind(address)
            except zmq.ZMQError as error:
                raise AddressInUseError(error.errno, f"cannot serve {address}: {error.strerror}") from None
            finally:
                os.umask(mask)
            yield router
    finally:
        router.close(linger=200)  # let a last reply leave
        context.term()


def _loop(router: zmq.Socket[bytes], stop_fds: list[int]) -> None:
    table = LeaseTable(secrets.token_bytes(16), lambda: secrets.token_bytes(16))
    poller = zmq.Poller()
    poller.register(router, zmq.POLLIN)
    for fd in stop_fds:
        poller.register(fd, zmq.POLLIN | zmq.POLLERR)
    next_clock = time.monotonic()
    while True:
        ready = dict(poller.poll(_CLOCK_MS))
        if any(fd in ready for fd in stop_fds):
            return
        for _ in range(_BURST):
            try:
                frames = router.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            _answer(router, table, frames)
        now = time.monotonic()
        if now >= next_clock:
            next_clock = now + _CLOCK_S
            _perform(router, table.handle(Clock(), now))


def _answer(router: zmq.Socket[bytes], table: LeaseTable, frames: list[bytes]) -> None:
    peer = frames[0]
    try:
        p.check_frames(frames[1:])
        event = Received(peer, p.decode(frames[1]), frames[2:])
    except ProtocolError as error:
        _LOG.warning("rejected a message from %s: %s", peer.hex(), error)
        _perform(router, [Send(peer, p.Rejected(str(error)))])
        return
    _perform(router, table.handle(event, time.monotonic()))


def _perform(router: zmq.Socket[bytes], actions: list[Send]) -> None:
    for action in actions:
        try:
            router.send_multipart([action.peer, p.encode(action.message), *action.payloads], zmq.NOBLOCK)
        except zmq.ZMQError as error:  # the peer is gone or does not read: its time to live will tell
            _LOG.debug("no way to %s for %s: %s", action.peer.hex(), action.message.kind, error)
