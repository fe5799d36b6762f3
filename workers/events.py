"""What happened during one step: collisions, lane edges, red lights."""

from __future__ import annotations

from dataclasses import dataclass

from zmqcarla.workers.navigation import RouteState


@dataclass(frozen=True, slots=True)
class StepEvents:
    """The infractions of one step.

    Attributes:
        collision: the vehicle hit something.
        lane_invasion: outside junctions, its body reaches over the edge of the route's lane.
        ran_red_light: it crossed the stop line of a red light, as `criteria.signs.RedLights` sees it.
    """

    collision: bool = False
    lane_invasion: bool = False
    ran_red_light: bool = False


def lane_invaded(route: RouteState, ego_half_width_m: float) -> bool:
    """Return whether the body reaches over the lane's edge.

    This is computed from the route and not by CARLA's lane invasion sensor, whose callback may run before or after
    the camera's of the same frame, so that two runs of one seed could differ.
    """
    if route.at_junction:
        return False
    return abs(route.lane_offset_m) + ego_half_width_m > route.lane_width_m / 2.0
