"""`zmqcarla top`: the pool again and again, with steps per second."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from zmqcarla.broker.errors import BrokerUnavailableError
from zmqcarla.lease import ask_status
from zmqcarla.watch.status import pool_view


class Rates:
    """Steps per second of each worker, from two or more looks at a pool.

    Heartbeats and looks come at moments of their own; a rate is what changed from one heartbeat to the next that was
    seen, over the time between these two.

    Attributes:
        by_worker: steps per second by worker id; a worker seen once has none yet.
    """

    def __init__(self) -> None:
        self.by_worker: dict[str, float] = {}
        self._counts: dict[str, tuple[float, int]] = {}

    def update(self, pool: Mapping[str, Any], now: float) -> None:
        """Take in the state of the pool that was asked for at `now`, in seconds of a steady clock."""
        counts: dict[str, tuple[float, int]] = {}
        for worker in pool["workers"]:
            if worker["seen_s"] is not None:
                counts[worker["worker_id"]] = (now - worker["seen_s"], worker["steps"])
        for worker_id, (counted_at, steps) in counts.items():
            before_at, steps_before = self._counts.get(worker_id, (counted_at, steps))
            if steps < steps_before:  # its supervisor was started again
                self.by_worker.pop(worker_id, None)
            elif counted_at - before_at < _SAME_HEARTBEAT_S:
                counts[worker_id] = (before_at, steps_before)
            else:
                self.by_worker[worker_id] = (steps - steps_before) / (counted_at - before_at)
        self._counts = counts
        for worker_id in self.by_worker.keys() - counts.keys():
            del self.by_worker[worker_id]


_SAME_HEARTBEAT_S = 0.2
"""Two looks that place the last heartbeat as near as this have seen the same one."""


def watch(address: str, console: Console, interval_s: float, *, once: bool) -> None:
    """Show the pool until Ctrl-C; `once` looks twice, a heartbeat apart, and prints one frame.

    Raises:
        BrokerUnavailableError: nobody answers at the start. One that goes away later is waited for.
    """
    rates = Rates()
    pool = _look(address, rates)
    if once:
        time.sleep(max(interval_s, _ONCE_S))
        console.print(_frame(_look(address, rates), rates, console.width))
        return
    first = _frame(pool, rates, console.width)
    with suppress(KeyboardInterrupt), Live(first, console=console, screen=console.is_terminal) as live:
        while True:
            time.sleep(interval_s)
            try:
                pool, note = _look(address, rates), ""
            except BrokerUnavailableError as error:
                note = str(error)
            live.update(_frame(pool, rates, console.width, note), refresh=True)


_ONCE_S = 1.2
"""Longer than between two heartbeats."""


def _look(address: str, rates: Rates) -> dict[str, Any]:
    pool = ask_status(address)
    rates.update(pool, time.monotonic())
    return pool


def _frame(pool: Mapping[str, Any], rates: Rates, width: int, note: str = "") -> RenderableType:
    workers = pool["workers"]
    counts = Counter(worker["state"] for worker in workers)
    states = ": " * bool(counts) + ", ".join(f"{counts[state]} {state}" for state in sorted(counts))
    held = sum(bool(worker["lease"]) for worker in workers)
    memory_bytes = sum((worker["env_rss_bytes"] or 0) + (worker["server_rss_bytes"] or 0) for worker in workers)
    head = (
        f"{time.strftime('%H:%M:%S')}  {len(workers)} workers{states}; {held} leased; {len(pool['queue'])} waiting; "
        f"{sum(rates.by_worker.values()):.1f} steps/s; {memory_bytes / 2**30:.1f} GiB"
    )
    parts: list[RenderableType] = [Text(head, style="bold"), pool_view(pool, width, rates.by_worker)]
    return Group(*parts, Text(note, style="bold red")) if note else Group(*parts)
