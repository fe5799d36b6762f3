"""When an episode ends by itself: route completed, collision, off route, blocked, out of time."""

from __future__ import annotations

from collections.abc import Collection
from enum import Enum

from zmqcarla.workers.criteria.base import Kind


class Ending(str, Enum):
    """Why an episode terminated; the value is what `info["terminated_by"]` says."""

    NONE = ""
    ROUTE_COMPLETED = "route_completed"
    COLLISION = "collision"
    OFF_ROUTE = "off_route"
    BLOCKED = "blocked"
    ROUTE_TIMEOUT = "route_timeout"
    AGENT_FAILED = "agent_failed"


def ending_of(*, collided: bool, arrived: bool, fresh: Collection[Kind], failed: bool = False) -> Ending:
    """Return the ending after a step.

    An infraction in the step that reaches the goal counts before the goal, as long as the vehicle could act on it.

    Args:
        collided: it hit something, and that ends the episode.
        arrived: it reached the goal.
        fresh: what was counted against it in this step.
        failed: what drives it gave up.
    """
    if failed:
        return Ending.AGENT_FAILED
    if collided:
        return Ending.COLLISION
    if Kind.ROUTE_DEVIATION in fresh:
        return Ending.OFF_ROUTE
    if arrived:
        return Ending.ROUTE_COMPLETED
    if Kind.VEHICLE_BLOCKED in fresh:
        return Ending.BLOCKED
    return Ending.ROUTE_TIMEOUT if Kind.ROUTE_TIMEOUT in fresh else Ending.NONE
