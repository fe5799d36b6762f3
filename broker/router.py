"""The broker process: a ZeroMQ ROUTER around the lease table.

Everything that it knows is in `LeaseTable`; this loop receives, decodes, asks, and sends. Addresses: an ipc socket in
a directory of mode 0700 (default) or tcp, beyond the loopback interface with keys; see docs/security.md.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import secrets
import select
import signal
import time
from collections.abc import Callable, Generator, Iterable
from signal import SIGINT, SIGTERM
from typing import Final

import zmq

from zmqcarla.broker import protocol as p
from zmqcarla.broker import step_frames
from zmqcarla.broker.address import claimed, listener
from zmqcarla.broker.admin import AdminSocket, admin_socket
from zmqcarla.broker.errors import AddressInUseError, ProtocolError
from zmqcarla.broker.guest_list import GuestList, cut, user_of
from zmqcarla.broker.keys import keys_for
from zmqcarla.broker.lease_table import Clock, LeaseTable, Received, Revoked, Send

_LOG = logging.getLogger("zmqcarla.broker")
_CLOCK_MS: Final = 250
"""How often the table hears of the time, and the loop looks whether it has to stop."""
_QUIET: Final = (p.Command, p.RowReply, p.Ready, p.Heartbeat, p.Renew, p.Probe, p.StatusRequest)
"""Come all the time; what else comes is logged, and with it what it leads to."""
_ROW_DONE: Final = bytes([step_frames.MARK, step_frames.ROW_REPLY])
_causes = itertools.count(1)


def serve(address: str, lifeline_fd: int | None = None) -> None:
    """Run a broker until SIGTERM, SIGINT or the end of the lifeline.

    Args:
        address: `ipc://PATH` or `tcp://HOST:PORT`.
        lifeline_fd: read end of a pipe; the broker stops when its other end closes.

    Raises:
        AddressInUseError: another broker serves the address.
        AddressError: not an address that a broker may serve.
        KeysError: an address beyond loopback without keys, and without ZMQCARLA_INSECURE=1.
    """
    stopping: list[int] = []
    previous = {sig: signal.signal(sig, lambda number, _: stopping.append(number)) for sig in (SIGTERM, SIGINT)}
    try:
        with _bound_router(address) as (router, guests), admin_socket(address) as admin:
            how = "keys are asked for" if guests is not None else "whoever reaches it may use it"
            _LOG.info("broker serves %s (protocol %d, pid %d; %s)", address, p.PROTOCOL, os.getpid(), how)
            _loop(router, guests, admin, lambda: bool(stopping) or _is_closed(lifeline_fd))
            _LOG.info("broker stops")
    finally:
        for sig, handler in previous.items():
            signal.signal(sig, handler)


def _is_closed(lifeline_fd: int | None) -> bool:
    """Whether the other end of the pipe is gone (nothing is ever written to it)."""
    return lifeline_fd is not None and bool(select.select([lifeline_fd], [], [], 0)[0])


@contextlib.contextmanager
def _bound_router(address: str) -> Generator[tuple[zmq.Socket[bytes], GuestList | None]]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=1)
    router = context.socket(zmq.ROUTER)
    router.setsockopt(zmq.ROUTER_MANDATORY, 1)
    router.setsockopt(zmq.LINGER, 0)
    # Blocking in recv costs one system call less a message than asking a poller first.
    router.setsockopt(zmq.RCVTIMEO, _CLOCK_MS)
    router.setsockopt(zmq.MAXMSGSIZE, p.MAX_PAYLOAD_BYTES)
    router.setsockopt(zmq.HEARTBEAT_IVL, 5_000)
    router.setsockopt(zmq.HEARTBEAT_TIMEOUT, 30_000)
    try:
        with claimed(address), contextlib.ExitStack() as stack:
            keys, guests = keys_for(address), None
            if keys is not None:
                keys.secure_broker(router)
                guests = stack.enter_context(GuestList(context, keys))
            _bind(router, address)
            yield router, guests
    finally:
        router.close(linger=200)  # let a last reply leave
        context.term()


def _bind(router: zmq.Socket[bytes], address: str) -> None:
    mask = os.umask(0o077)
    try:
        router.bind(address)
    except zmq.ZMQError as error:
        owner = listener(address) if error.errno == zmq.EADDRINUSE else ""
        raise AddressInUseError(error.errno, f"cannot serve {address}: {error.strerror}{owner}") from None
    finally:
        os.umask(mask)


def _loop(
    router: zmq.Socket[bytes], guests: GuestList | None, admin: AdminSocket, must_stop: Callable[[], bool]
) -> None:
    table = LeaseTable(secrets.token_bytes(16), lambda: secrets.token_bytes(16), time.monotonic())

    def administer(request: p.AdminRequest) -> p.AdminReply:
        reply, actions = table.administer(request, time.monotonic())
        _perform(router, actions)
        return reply

    next_clock = time.monotonic()
    while True:
        with contextlib.suppress(zmq.Again):
            _answer(router, table, *_receive(router, guests))
        now = time.monotonic()
        if now >= next_clock:
            next_clock = now + _CLOCK_MS / 1000
            for user in guests.who_left() if guests is not None else ():
                _LOG.warning("the key %s was revoked", user)
                _perform(router, table.handle(Revoked(user), now))
            _perform(router, table.handle(Clock(), now))
            admin.serve(administer)
            if must_stop():
                return


def _receive(router: zmq.Socket[bytes], guests: GuestList | None) -> tuple[list[bytes], str]:
    """The next message, and the key of who sent it; no frames from one whose key was revoked.

    Raises:
        zmq.Again: nothing came in time.
    """
    if guests is None:
        return p.receive_frames(router), ""
    route = router.recv(copy=False)
    frames = [route.bytes, *p.receive_frames(router)]
    user = user_of(route)
    if user in guests:
        return frames, user
    if guests.is_overdue(user):
        cut(route)
    return [], user


def _answer(router: zmq.Socket[bytes], table: LeaseTable, frames: list[bytes], user: str) -> None:
    if not frames:
        return
    peer = frames[0]
    try:
        if len(frames) == 2 and frames[1][:2] == _ROW_DONE:
            _perform(router, table.row_done(peer, *step_frames.read_row_frame(frames[1])))
            return
        message, payloads = p.from_frames(frames[1:])
    except ProtocolError as error:
        _LOG.warning("rejected a message from %s: %s", peer.hex(), error)
        _perform(router, [Send(peer, p.Rejected(str(error)))])
        return
    event = Received(peer, message, payloads, user)
    if isinstance(message, _QUIET):
        _perform(router, table.follow(event, time.monotonic()))  # the first workers step while others are yet told
        return
    actions = table.handle(event, time.monotonic())
    _perform(router, actions)
    _log_what_follows(message, actions)


def _log_what_follows(message: p.Message, actions: list[Send]) -> None:
    cause = {"cause": f"{message.kind}-{next(_causes)}"}
    _LOG.info("received %.400s", message, extra=cause)
    for action in actions:
        _LOG.info("sent to %s: %.400s", action.peer.hex(), action.message, extra=cause)


def _perform(router: zmq.Socket[bytes], actions: Iterable[Send]) -> None:
    for action in actions:
        try:
            p.send_frames(router, [action.peer, *p.to_frames(action.message, action.payloads)], p.NO_WAIT)
        except zmq.ZMQError as error:  # the peer is gone or does not read: its time to live will tell
            _LOG.debug("no way to %s for %s: %s", action.peer.hex(), action.message.kind, error)
