"""Where the time of the latest steps went."""

from __future__ import annotations

import collections
from typing import Final

import numpy as np
from numpy.typing import NDArray

_REMEMBERED: Final = 4096
_TOLD: Final = 512
"""Fewer: the broker is told once a second, while steps go on."""


class StepTimes:
    """The times of the last steps without a reset among them."""

    def __init__(self) -> None:
        self._times_s: collections.deque[tuple[float, float, float]] = collections.deque(maxlen=_REMEMBERED)

    def add(self, began_s: float, ended_s: float, slowest_s: float) -> None:
        """A step lasted from `began_s` to `ended_s`, of any steady clock; the slowest env took `slowest_s` for it."""
        self._times_s.append((began_s, ended_s, slowest_s))

    def _spread(self, latest: int) -> dict[str, dict[str, float]]:
        times_ms = np.array(list(self._times_s)[-latest:] or [(0.0, 0.0, 0.0)]) * 1e3
        began_ms, ended_ms, worker_ms = times_ms.T
        step_ms = ended_ms - began_ms
        between_ms = began_ms[1:] - ended_ms[:-1] if len(times_ms) > 1 else np.zeros(1)
        parts = {"step_ms": step_ms, "worker_ms": worker_ms, "bus_ms": step_ms - worker_ms, "policy_ms": between_ms}
        return {name: _spread(values) for name, values in parts.items()}

    def spread(self) -> dict[str, dict[str, float]]:
        """p50, p99 and mean of each part, see `VectorEnv.statistics`."""
        return self._spread(_REMEMBERED)

    def told_ms(self) -> tuple[float, ...]:
        """For the broker, as `zmqcarla.broker.protocol.STEP_TIMES` names them; empty before the first step."""
        if not self._times_s:
            return ()
        parts = self._spread(_TOLD)
        others = [parts[name]["p50"] for name in ("worker_ms", "bus_ms", "policy_ms")]
        return (parts["step_ms"]["p50"], parts["step_ms"]["p99"], *others)


def _spread(values: NDArray[np.float64]) -> dict[str, float]:
    p50, p99 = np.percentile(values, [50, 99])
    return {"p50": float(p50), "p99": float(p99), "mean": float(values.mean())}
