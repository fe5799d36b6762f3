"""Orders to a running pool, over its admin socket: restart, scale, drain."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any, Final

import zmq

from zmqcarla.broker import protocol as p
from zmqcarla.broker.errors import AdminError, BrokerUnavailableError, ProtocolError

_ANSWER_TIMEOUT_S: Final = 5.0


def give_order(
    address: str, order: str, workers: Sequence[str] = (), count: int = 0, timeout_s: float = _ANSWER_TIMEOUT_S
) -> p.AdminReply:
    """What the pool says to an order; it is then under way.

    Args:
        address: of the broker; its admin socket is where this user's broker puts it.
        order: "restart", "scale" or "drain".
        workers: ids, for "restart"; empty for all.
        count: how many workers there are to be, for "scale".
        timeout_s: for the answer.

    Raises:
        BrokerUnavailableError: nobody answers.
        AdminError: the order cannot be obeyed; the text says why.
    """
    where = p.admin_address(address)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, 0)
    try:
        socket.connect(where)
        socket.send(p.encode(p.AdminRequest(p.PROTOCOL, secrets.token_bytes(8), order, tuple(workers), count)))
        if not socket.poll(int(timeout_s * 1000)):
            raise BrokerUnavailableError(where, timeout_s)
        message = p.decode(socket.recv_multipart()[0])
    finally:
        socket.close()
        context.term()
    if isinstance(message, p.AdminReply) and not message.refused:
        return message
    if isinstance(message, p.AdminReply | p.Rejected):
        raise AdminError(message.text)
    raise ProtocolError(f"expected an answer to the order, found {message}")


def find_workers(names: Sequence[str], pool: dict[str, Any]) -> list[str]:
    """The ids of the workers that are meant.

    Args:
        names: each the end of a worker's id ("3" is the worker whose id ends with "-3"), or LEASE/ROW as `zmqcarla
            status` shows it.
        pool: as `zmqcarla.lease.ask_status` returns it.

    Raises:
        AdminError: a name means no worker, or several.
    """
    return [_find(name, pool["workers"]) for name in names]


def _find(name: str, workers: Sequence[dict[str, Any]]) -> str:
    lease, slash, row = name.rpartition("/")
    found: list[str] = [
        worker["worker_id"]
        for worker in workers
        if f"-{worker['worker_id']}".endswith(f"-{name}")
        or (slash and lease and worker["lease"].startswith(lease) and str(worker["row"]) == row)
    ]
    if len(found) != 1:
        known = ", ".join(worker["worker_id"] for worker in workers) or "none"
        raise AdminError(
            f"expected the end of one worker's id, or LEASE/ROW, of this pool ({known}); found {name!r}, which means "
            f"{', '.join(found) or 'none of them'}"
        )
    return found[0]
