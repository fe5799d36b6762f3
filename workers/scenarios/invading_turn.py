"""Oncoming cars reach into the ego's lane, because cones stand on theirs."""

from __future__ import annotations

from typing import Final

import numpy as np

from zmqcarla.workers.criteria.base import Tick
from zmqcarla.workers.scenarios.base import LEADERBOARD_TIMEOUT_S
from zmqcarla.workers.scenarios.flow import WithFlow
from zmqcarla.workers.scenarios.stage import CannotTakePlaceError, beside, lane_line, oncoming_lane

_SOURCE_M: Final = 30.0
_GAP_M: Final = 40.0
_CONE_STEP_M: Final = 5.0
# Taken off, so that "offset" is about what the car's body reaches over the middle.
_BODY_M: Final = 0.7
_SPEED_MPS: Final = 30.0 / 3.6


class InvadingTurn(WithFlow):
    """Lasts until the ego is past where the cars come from, or 240 s."""

    timeout_s = LEADERBOARD_TIMEOUT_S

    def plan(self, rng: np.random.Generator) -> None:
        """The flow's way, moved towards the ego's lane, and the cones."""
        distance = self.number("distance", 100.0)
        ahead, self._end_s_m = self.stage.lane_before_junction(self.trigger_s_m, distance + _SOURCE_M)
        source = oncoming_lane(ahead)
        if source is None or self._end_s_m - self.trigger_s_m < _GAP_M:
            raise CannotTakePlaceError("expected an oncoming lane without a junction for 40 m, found none")
        length_m = self._end_s_m - self.trigger_s_m
        line = lane_line(source, length_m)
        along = np.gradient(line, axis=0)
        left = np.stack([along[:, 1], -along[:, 0]], axis=1) / np.linalg.norm(along, axis=1)[:, None]
        shift_m = self.number("offset", 0.25) + source.lane_width / 2.0 - _BODY_M
        self.plan_flow(rng, line + shift_m * left, _SPEED_MPS, (_GAP_M, _GAP_M))
        self._cones = []
        cone = source
        for k in range(int(0.5 * distance / _CONE_STEP_M) + 2):
            following = cone.next(_CONE_STEP_M)
            if not following or following[0].is_junction:
                break
            cone = following[0]
            if k > 0:
                self._cones.append(beside(cone, right_m=0.4 * cone.lane_width))

    def build(self, tick: Tick) -> None:
        """Put the cones up."""
        del tick
        for k, place in enumerate(self._cones):
            if f"cone {k}" not in self.actors:
                self.actors[f"cone {k}"] = self.stage.spawn("static.prop.constructioncone", place, moves=False)

    def step(self, tick: Tick) -> bool:
        """Let the cars come."""
        self.flow(tick)
        return tick.s_m > self._end_s_m
