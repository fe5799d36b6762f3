"""Does the memory of a process keep growing? A slope over the last hour, and what counts as a leak.

The slope is the median of the slopes between all pairs of samples (Theil and Sen): a map that was loaded once, or an
episode that needed more, moves it little, where a fitted line would tip over.
"""

from __future__ import annotations

import collections
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final

Sample = tuple[float, int]
"""Seconds of a steady clock, and bytes."""

INTERVAL_S: Final = 60.0
_KEPT: Final = 61
_WARM_UP_S: Final = 300.0
_LEAST_SPAN_S: Final = 1200.0
_LEAST_GROWTH: Final = 0.1
_LEAST_GROWTH_BYTES: Final = 64 << 20
_STEADY: Final = 0.25
"""The later half of the time must see at least this part of the growth: one that comes to rest is no leak."""


@dataclass(frozen=True, slots=True)
class Growth:
    """Attributes: bytes_per_h: the slope; leaking: steady, and too much to be chance; grown_bytes: over the samples."""

    bytes_per_h: float
    leaking: bool
    grown_bytes: int


def growth(samples: Sequence[Sample]) -> Growth | None:
    """What the samples of one process's life say; None while they span too little time to say anything."""
    if len(samples) < 3 or samples[-1][0] - samples[0][0] < _LEAST_SPAN_S:
        return None
    slope = statistics.median((b[1] - a[1]) / (b[0] - a[0]) for a, b in combinations(samples, 2) if b[0] > a[0])
    span_s = samples[-1][0] - samples[0][0]
    grown = slope * span_s
    third = max(len(samples) // 3, 1)
    first, middle, last = (
        statistics.median(size for _, size in part)
        for part in (samples[:third], samples[third:-third], samples[-third:])
    )
    enough = grown >= max(_LEAST_GROWTH_BYTES, _LEAST_GROWTH * first)
    return Growth(slope * 3600.0, enough and last - middle >= _STEADY * (last - first) > 0, int(grown))


class Trend:
    """The samples of one process after the other; each life begins anew, and its first minutes do not count.

    Attributes:
        growth: of the present life; None while nothing can be said.
    """

    def __init__(self) -> None:
        self.growth: Growth | None = None
        self._samples: collections.deque[Sample] = collections.deque(maxlen=_KEPT)
        self._pid = 0
        self._due_at = 0.0
        self._told = False

    def take(self, pid: int, size_bytes: int, now: float) -> str:
        """Take a measurement.

        Args:
            pid: of the process; 0 while there is none.
            size_bytes: its memory.
            now: the time.

        Returns:
            That the process leaks, in words; once in each life, else empty.
        """
        if pid != self._pid:
            self._pid, self._due_at, self._told, self.growth = pid, now + _WARM_UP_S, False, None
            self._samples.clear()
        if not pid or now < self._due_at:
            return ""
        self._due_at = now + INTERVAL_S
        self._samples.append((now, size_bytes))
        self.growth = growth(list(self._samples))
        if self.growth is None or not self.growth.leaking or self._told:
            return ""
        self._told = True
        minutes = (self._samples[-1][0] - self._samples[0][0]) / 60
        return (
            f"grew by {self.growth.grown_bytes / 2**20:.0f} MiB within {minutes:.0f} minutes, to "
            f"{size_bytes / 2**20:.0f} MiB, and goes on; `zmqcarla restart` renews it"
        )
