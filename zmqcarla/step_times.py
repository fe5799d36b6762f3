"""Where the time of the latest steps went."""

from __future__ import annotations

import collections
from typing import Final

import numpy as np
from numpy.typing import NDArray

_REMEMBERED: Final = 4096


class StepTimes:
    """The times of the last steps without a reset among them."""

    def __init__(self) -> None:
        self._times_s: collections.deque[tuple[float, float]] = collections.deque(maxlen=_REMEMBERED)

    def add(self, step_s: float, slowest_s: float) -> None:
        """A step took `step_s`, of which the slowest env took `slowest_s`."""
        self._times_s.append((step_s, slowest_s))

    def spread(self) -> dict[str, dict[str, float]]:
        """p50, p99 and mean of each part, see `VectorEnv.statistics`."""
        times_ms = np.array(self._times_s or [(0.0, 0.0)]) * 1e3
        step_ms, worker_ms = times_ms[:, 0], times_ms[:, 1]
        parts = {"step_ms": step_ms, "worker_ms": worker_ms, "bus_ms": step_ms - worker_ms}
        return {name: _spread(values) for name, values in parts.items()}


def _spread(values: NDArray[np.float64]) -> dict[str, float]:
    p50, p99 = np.percentile(values, [50, 99])
    return {"p50": float(p50), "p99": float(p99), "mean": float(values.mean())}
