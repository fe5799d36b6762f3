"""How a heartbeat is read: it has one value a worker in every column."""

from __future__ import annotations

import dataclasses
from typing import Any, Final

from zmqcarla.broker import protocol as p
from zmqcarla.broker.records import Seen, Worker

_SEEN: Final = {"phase": "phases"}
"""Columns that are called otherwise than what `Seen` makes of them."""
_COLUMNS: Final = tuple([field.name for field in dataclasses.fields(p.Heartbeat) if field.name != "worker_ids"])
_SEEN_FROM: Final = {
    field.name: _SEEN.get(field.name, field.name) for field in dataclasses.fields(Seen) if field.name != "at"
}


def complaint(message: p.Heartbeat) -> str:
    """What is wrong with its form; empty for nothing."""
    count = len(message.worker_ids)
    if all(len(getattr(message, name)) == count for name in _COLUMNS):
        return ""
    return f"expected {count} values in each column of a heartbeat, found other numbers"


def take(worker: Worker, message: p.Heartbeat, index: int, now: float) -> None:
    """Note what the heartbeat says of a worker, at `index` of each column; heard at `now`."""
    worker.heard_at, worker.restarts = now, message.restarts[index]
    values: dict[str, Any] = {name: getattr(message, column)[index] for name, column in _SEEN_FROM.items()}
    worker.seen = Seen(now, **values)
