"""The vehicle ahead brakes hard, stands for ten seconds, and drives on."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from zmqcarla.workers.criteria.base import Tick
from zmqcarla.workers.scenarios.base import Phase, Scenario, distance_m
from zmqcarla.workers.scenarios.motion import drive, halt, set_off
from zmqcarla.workers.scenarios.stage import beside

_HALT_S: Final = 10.0
_END_M: Final = 15.0
_GAP_M: Final = 18.0
_COME_AHEAD_M: Final = 30.0
_LEAST_AHEAD_M: Final = 15.0
_AFTERWARDS_MPS: Final = 8.0
_BEFORE_ROUTE_END_M: Final = 5.0


class HardBreakRoute(Scenario):
    """Approximated: the Leaderboard stops what of its traffic is ahead; here a car comes for it and leads the ego."""

    own_state = ("_released_s_m",)

    def plan(self, rng: np.random.Generator) -> None:
        """Choose the car."""
        self._car = self.stage.car(rng)
        self._released_s_m: float | None = None
        self.stage.lane_at(self.trigger_s_m)

    def build(self, tick: Tick) -> None:
        """Bring the car ahead of the ego."""
        at_m = max(self.trigger_s_m - _COME_AHEAD_M, tick.s_m + _LEAST_AHEAD_M)
        self.actors["lead"] = self.stage.spawn(self._car, beside(self.stage.lane_at(at_m)))

    def advance(self, tick: Tick) -> bool:
        """Keep a gap to the ego until the trigger."""
        was_there = self.phase is Phase.READY
        overdue = super().advance(tick)
        if was_there and self.phase is Phase.READY:
            lead = self.actor("lead")
            gap_m = distance_m(tick, lead.get_location())
            closing = max(0.0, _GAP_M - gap_m)
            drive(lead, self._line(tick), tick.speed_mps + closing if gap_m < _GAP_M else 0.0)
        return overdue

    def step(self, tick: Tick) -> bool:
        """Brake, stand, drive on."""
        lead = self.actor("lead")
        if self.elapsed_s(tick) < _HALT_S:
            halt(lead)
            return False
        if self._released_s_m is None:
            self._released_s_m = tick.s_m
        left_m = set_off(lead, self._line(tick), _AFTERWARDS_MPS, self.stage.delta_s)
        return tick.s_m > self._released_s_m + _END_M or left_m < _BEFORE_ROUTE_END_M

    def _line(self, tick: Tick) -> NDArray[np.float64]:
        return self.stage.line(tick.s_m, tick.s_m + 120.0)
