"""A stream of cars between two places of the file, which the ego has to cross, to join or to leave."""

from __future__ import annotations

from typing import Final

import numpy as np

from zmqcarla.workers.criteria.base import Tick
from zmqcarla.workers.navigation import route_through
from zmqcarla.workers.scenarios.base import LEADERBOARD_TIMEOUT_S
from zmqcarla.workers.scenarios.flow import WithFlow
from zmqcarla.workers.scenarios.stage import CannotTakePlaceError

_ON_ROUTE_M: Final = 3.0


class InterurbanActorFlow(WithFlow):
    """Lasts until the ego left the next junction, or passed the stream's end where that is on its route, or 240 s."""

    timeout_s = LEADERBOARD_TIMEOUT_S

    def plan(self, rng: np.random.Generator) -> None:
        """The shortest way between the two places."""
        start_m, end_m = self.place("start_actor_flow"), self.place("end_actor_flow")
        try:
            line = route_through(self.stage.session.graph, [start_m, end_m]).xy_m
        except ValueError as error:
            raise CannotTakePlaceError(str(error)) from None
        s_m, away_m = self.stage.nearest(end_m[0], end_m[1])
        joins = away_m < _ON_ROUTE_M and s_m > self.trigger_s_m
        self._end_s_m = s_m if joins else self.stage.junction_after(self.trigger_s_m)[1]
        self._end_s_m = min(self._end_s_m, self.stage.route.length_m - 1.0)
        gaps_m = self.interval("source_dist_interval", (20.0, 50.0))
        self.plan_flow(rng, line, self.number("flow_speed", 10.0), gaps_m)

    def build(self, tick: Tick) -> None:
        """The cars come one by one."""

    def step(self, tick: Tick) -> bool:
        """Let them come."""
        self.flow(tick)
        return tick.s_m > self._end_s_m


class EnterActorFlow(InterurbanActorFlow):
    """The ego enters a road on which they drive."""


class HighwayExit(InterurbanActorFlow):
    """The ego leaves the motorway through them."""


class MergerIntoSlowTraffic(InterurbanActorFlow):
    """The ego has to find a gap between slow ones."""
