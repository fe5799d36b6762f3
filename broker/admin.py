"""Orders to a running pool: restart, scale, drain. Decisions, and the socket that they come in by.

Whoever can connect to the admin socket may give orders: a unix socket of mode 0600, beside the broker's own socket or,
for a broker on TCP, in the runtime directory. So a client from another host, or with a key, cannot stop a pool.

One idea serves scale and drain: a *retiring* worker gets no new lease, keeps the one it has to its end, and is then
stopped by its supervisor. Its supervisor says so whenever it registers it, so that a restarted broker knows as well.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from typing import Any, Final, Protocol

import zmq

from zmqcarla.broker import protocol as p
from zmqcarla.broker.address import admin_address, claimed
from zmqcarla.broker.errors import ProtocolError, ProtocolVersionError

_LOG = logging.getLogger("zmqcarla.broker")
_MAX_REQUEST_BYTES: Final = 1 << 20
MAX_WORKERS: Final = 1024
"""More than these are a slip of the keyboard."""

Order = tuple[bytes, p.SupervisorOrder]
"""The peer of a supervisor, and what it is told."""


class Worker(Protocol):
    """What is asked of the lease table's workers."""

    offer: p.Register
    supervisor: bytes
    state: Any
    lease_id: bytes
    retiring: bool


# --- decisions ---


def decide(request: p.AdminRequest, workers: Collection[Worker]) -> tuple[p.AdminReply, list[Order]]:
    """What an order means for these workers; marks the ones that retire."""
    try:
        p.check_protocol(request.protocol, "administrator")
        order = _ORDERS.get(request.order)
        if order is None:
            raise ProtocolError(f"expected one of {', '.join(_ORDERS)}, found order {request.order!r}")
        text, concerned, orders = order(request, workers)
    except (ProtocolError, ProtocolVersionError) as error:
        return p.AdminReply(request.request_id, True, str(error), ()), []
    names = tuple([worker.offer.worker_id for worker in concerned])
    return p.AdminReply(request.request_id, False, text, names), orders


def pursue(workers: Iterable[Worker], *, settled: bool) -> Iterator[Order]:
    """What retiring workers' supervisors still have to be told; repeated until they have done it.

    Args:
        workers: of the pool.
        settled: the leases of the broker's life before can no longer come back. Until then only one whose env process
            said that it serves nobody is known to be idle.
    """
    for worker in workers:
        if worker.retiring and not worker.offer.retiring:
            yield worker.supervisor, p.SupervisorOrder("retire", worker.offer.worker_id)
        if worker.retiring and not worker.lease_id and (settled or worker.state == "ready"):
            yield worker.supervisor, p.SupervisorOrder("stop", worker.offer.worker_id)


_Decision = tuple[str, Sequence[Worker], list[Order]]


def _restart(request: p.AdminRequest, workers: Collection[Worker]) -> _Decision:
    known = {worker.offer.worker_id: worker for worker in workers}
    unknown = sorted(set(request.workers) - known.keys())
    if unknown or not known:
        raise ProtocolError(f"expected workers of this pool ({', '.join(known) or 'none'}), found {', '.join(unknown)}")
    chosen = [known[name] for name in request.workers] or list(workers)
    return "restarts", chosen, _orders("restart", chosen)


def _drain(request: p.AdminRequest, workers: Collection[Worker]) -> _Decision:
    chosen = list(workers)
    return "no new leases; stops when its lease ends", chosen, _retire(chosen)


def _scale(request: p.AdminRequest, workers: Collection[Worker]) -> _Decision:
    """Take away the free ones first and of these the youngest; add where there are fewest."""
    if not 1 <= request.count <= MAX_WORKERS:
        raise ProtocolError(f"expected 1 to {MAX_WORKERS} workers, found {request.count}; `drain` ends a pool")
    staying = [worker for worker in workers if not worker.retiring and worker.state != "gone"]
    surplus = len(staying) - request.count
    if surplus >= 0:
        if not surplus:
            return f"it has {request.count} workers already", [], []
        ranked = sorted(enumerate(staying), key=lambda one: (bool(one[1].lease_id), -one[0]))
        chosen = [worker for _, worker in ranked[:surplus]]
        return "no new leases; stops when its lease ends", chosen, _retire(chosen)
    supervisors = [worker.supervisor for worker in workers]
    if not supervisors:
        raise ProtocolError("expected a supervisor to add workers, found none; start one with `zmqcarla worker`")
    orders: list[Order] = []
    for _ in range(-surplus):
        fewest = min(dict.fromkeys(supervisors), key=supervisors.count)
        supervisors.append(fewest)
        orders.append((fewest, p.SupervisorOrder("add", "")))
    return f"{-surplus} more on the way", [], orders


def _retire(workers: Sequence[Worker]) -> list[Order]:
    for worker in workers:
        worker.retiring = True
    return _orders("retire", workers)


def _orders(order: str, workers: Iterable[Worker]) -> list[Order]:
    return [(worker.supervisor, p.SupervisorOrder(order, worker.offer.worker_id)) for worker in workers]


_ORDERS: Final[dict[str, Callable[[p.AdminRequest, Collection[Worker]], _Decision]]] = {
    "restart": _restart,
    "scale": _scale,
    "drain": _drain,
}


# --- the socket ---


class AdminSocket:
    """Looked at once a clock tick, so it costs the broker's hot path nothing."""

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self._socket = socket

    def serve(self, decide_on: Callable[[p.AdminRequest], p.AdminReply]) -> None:
        """Answer all requests that have come."""
        while True:
            try:
                peer, *frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            answer: p.Message
            try:
                p.check_frames(frames)
                request = p.decode(frames[0])
                if not isinstance(request, p.AdminRequest) or len(frames) != 1:
                    raise ProtocolError(f"expected an 'admin_request' on the admin socket, found {request.kind!r}")
                answer = decide_on(request)
                _LOG.info("order %s %s %d: %s", request.order, request.workers, request.count, answer)
            except ProtocolError as error:
                answer = p.Rejected(str(error))
            with contextlib.suppress(zmq.ZMQError):  # the administrator is gone
                self._socket.send_multipart([peer, p.encode(answer)], zmq.NOBLOCK)


@contextlib.contextmanager
def admin_socket(address: str) -> Generator[AdminSocket]:
    """The admin socket of a broker that serves `address`, for as long as the context lasts."""
    where = admin_address(address)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()  # of its own: keys are asked for on the other one
    socket = context.socket(zmq.ROUTER)
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.MAXMSGSIZE, _MAX_REQUEST_BYTES)
    try:
        with claimed(where):
            mask = os.umask(0o077)
            try:
                socket.bind(where)
            finally:
                os.umask(mask)
            yield AdminSocket(socket)
    finally:
        socket.close()
        context.term()
