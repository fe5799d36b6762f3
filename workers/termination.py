"""When an episode ends by itself: route completed, collision, off route, blocked."""

from __future__ import annotations

from enum import Enum

from zmqcarla.workers.config import CarlaEnvConfig
from zmqcarla.workers.ego import EgoState
from zmqcarla.workers.events import StepEvents
from zmqcarla.workers.navigation import RouteState

_STANDING_MPS = 0.1


class Ending(str, Enum):
    """Why an episode terminated; the value is what `info["terminated_by"]` says."""

    NONE = ""
    ROUTE_COMPLETED = "route_completed"
    COLLISION = "collision"
    OFF_ROUTE = "off_route"
    BLOCKED = "blocked"


class EndingJudge:
    """Decides after each step of one episode whether it is over."""

    def __init__(self, config: CarlaEnvConfig) -> None:
        self._config = config
        self._standing_s = 0.0

    def judge(self, ego: EgoState, route: RouteState, events: StepEvents, passed_s: float) -> Ending:
        """Return the ending after a step of `passed_s` simulated seconds.

        An infraction in the step that reaches the goal counts before the goal.
        """
        self._standing_s = self._standing_s + passed_s if ego.speed_mps < _STANDING_MPS else 0.0
        if events.collision and self._config.terminate_on_collision:
            return Ending.COLLISION
        if abs(route.lane_offset_m) > self._config.off_route_m:
            return Ending.OFF_ROUTE
        if route.arrived:
            return Ending.ROUTE_COMPLETED
        if self._standing_s >= self._config.blocked_s - 1e-6:
            return Ending.BLOCKED
        return Ending.NONE
