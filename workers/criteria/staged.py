"""Criteria that belong to scenarios: one that took too long, an emergency vehicle that could not pass."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from zmqcarla.workers.criteria.base import Criterion, Infraction, Kind, Tick


@dataclass(slots=True)
class ScenarioTimeouts(Criterion):
    """A scenario that is in the ego's way was cleared away because its time was up."""

    def update(self, tick: Tick) -> None:
        """Count each."""
        for _ in tick.staged.overdue:
            self.infractions.append(Infraction(Kind.SCENARIO_TIMEOUT, tick, "Agent timed out a scenario"))


@dataclass(slots=True)
class YieldToEmergency(Criterion):
    """An emergency vehicle is still behind the ego when its scenario, or the episode, ends."""

    _behind: Tick | None = field(default=None, init=False)

    def update(self, tick: Tick) -> None:
        """See whether it is behind; judge when it is gone."""
        if tick.staged.emergency is None:
            self.finish(tick)
            return
        (x_m, y_m, _), yaw_deg = tick.staged.emergency
        yaw = math.radians(yaw_deg)
        dx_m, dy_m = tick.position_m[0] - x_m, tick.position_m[1] - y_m
        self._behind = tick if dx_m * math.cos(yaw) + dy_m * math.sin(yaw) > 0.0 else None

    def finish(self, tick: Tick) -> None:
        """Judge what was seen last."""
        del tick
        last, self._behind = self._behind, None
        if last is not None:
            text = "Agent failed to yield to an emergency vehicle"
            self.infractions.append(Infraction(Kind.YIELD_TO_EMERGENCY, last, text))
