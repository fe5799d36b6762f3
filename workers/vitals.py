"""How a worker does, in numbers that its supervisor can see without asking it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Vitals:
    """What a heartbeat says of one worker.

    Attributes:
        phase: of the env process, a `zmqcarla.shm.status_page.Phase` in lower case; "absent" while there is none.
        steps: done since the supervisor started, by all incarnations.
        restarts: since the supervisor started.
        env_rss_bytes: resident memory of the env process and its children; pages that they share count each time.
        server_rss_bytes: the same of the server and its guard; 0 where the server is not ours.
        parts_ms: of a step, see `zmqcarla.workers.step_parts.LatestParts`.
        server_vram_bytes: GPU memory of the server; looked at once a minute, 0 where nobody can tell.
        growth_bytes_per_h: of both in main memory; 0 while nothing can be said.
        leaks: what leaks, see `zmqcarla.workers.trend`.
    """

    phase: str
    steps: int
    restarts: int
    env_rss_bytes: int
    server_rss_bytes: int
    parts_ms: tuple[float, float, float] = (0.0, 0.0, 0.0)
    server_vram_bytes: int = 0
    growth_bytes_per_h: float = 0.0
    leaks: str = ""


def tree_pids(pid: int) -> list[int]:
    """A process and what it started, as far as it lives.

    Only what the processes' first threads have started is found (the kernel lists children by thread).
    """
    try:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as listed:
            children = listed.read().split()
    except OSError:
        return []
    return [pid, *[found for child in children for found in tree_pids(int(child))]]


def tree_rss_bytes(pid: int) -> int:
    """Resident memory of a process and of what it started; 0 for one that is gone."""
    return sum(_rss_bytes(each) for each in tree_pids(pid))


def _rss_bytes(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/statm", encoding="ascii") as statm:
            return int(statm.read().split()[1]) * _PAGE_BYTES
    except OSError:
        return 0
