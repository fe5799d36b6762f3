"""What a criterion sees and what it says."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any, ClassVar, Final, NamedTuple

Vector = tuple[float, float, float]


class Kind(str, Enum):
    """What can be counted against a driver; the value is its name in the Leaderboard's result file."""

    COLLISION_LAYOUT = "collisions_layout"
    COLLISION_PEDESTRIAN = "collisions_pedestrian"
    COLLISION_VEHICLE = "collisions_vehicle"
    RED_LIGHT = "red_light"
    STOP = "stop_infraction"
    OUTSIDE_LANES = "outside_route_lanes"
    MIN_SPEED = "min_speed_infractions"
    YIELD_TO_EMERGENCY = "yield_emergency_vehicle_infractions"
    SCENARIO_TIMEOUT = "scenario_timeouts"
    ROUTE_DEVIATION = "route_dev"
    VEHICLE_BLOCKED = "vehicle_blocked"
    ROUTE_TIMEOUT = "route_timeout"


class Hit(NamedTuple):
    """One message of the collision sensor."""

    frame: int
    actor_id: int
    """0 for what is part of the map."""
    actor_type: str
    """Such as "vehicle.audi.tt" or "static.wall"."""


@dataclass(frozen=True, slots=True)
class Staged:
    """What the scenarios of a route mean for the judgement of a tick.

    Attributes:
        oncoming_allowed: whether the ego may drive on the oncoming lane.
        may_stand: whether something is in its way, so that standing is no blockage.
        emergency: place and heading (deg) of an emergency vehicle that wants to pass.
        overdue: names of the scenarios that ended with this tick because their time was up.
    """

    oncoming_allowed: bool = False
    may_stand: bool = False
    emergency: tuple[Vector, float] | None = None
    overdue: tuple[str, ...] = ()


NOTHING_STAGED: Final = Staged()


@dataclass(frozen=True, slots=True)
class Tick:
    """The ego and what concerns it after one tick of the simulator.

    Attributes:
        frame: of the simulator.
        time_s: simulated time since the episode began.
        position_m: of the vehicle's origin, world frame.
        yaw_deg: heading, clockwise from above.
        speed_mps: length of the velocity.
        forward_mps: its part along the heading; negative in reverse.
        speed_limit_mps: of the road, 0 when unknown.
        s_m: place on the route's line.
        offset_m: distance from that line.
        red_lights: ids of the lights near the ego that are red.
        traffic_mps: mean speed of the other traffic, None without any.
        hits: what the ego struck in this tick.
        staged: what the scenarios say.
    """

    frame: int
    time_s: float
    position_m: Vector
    yaw_deg: float
    speed_mps: float
    forward_mps: float
    speed_limit_mps: float
    s_m: float
    offset_m: float
    red_lights: frozenset[int] = frozenset()
    traffic_mps: float | None = None
    hits: tuple[Hit, ...] = ()
    staged: Staged = NOTHING_STAGED

    @property
    def forward(self) -> tuple[float, float]:
        """The heading as a unit vector in the plane."""
        yaw = math.radians(self.yaw_deg)
        return math.cos(yaw), math.sin(yaw)

    def distance_m(self, place: Vector) -> float:
        """Distance of the ego from a place."""
        return math.dist(self.position_m, place)


@dataclass(frozen=True, slots=True)
class Infraction:
    """One thing counted against the driver.

    Attributes:
        kind: what it is.
        tick: the ego at that moment; of the last moment for what lasts.
        message: the Leaderboard's sentence for it.
        percent: for the kinds whose penalty depends on a share, 0 to 100.
        distance_m: metres outside the route's lanes, for that kind.
    """

    kind: Kind
    tick: Tick
    message: str
    percent: float | None = None
    distance_m: float | None = None

    def as_info(self) -> dict[str, Any]:
        """For `info["infractions"]`: plain numbers and texts."""
        x_m, y_m, z_m = self.tick.position_m
        shares = {name: getattr(self, name) for name in ("percent", "distance_m") if getattr(self, name) is not None}
        where = {"time_s": self.tick.time_s, "frame": self.tick.frame, "x_m": x_m, "y_m": y_m, "z_m": z_m}
        return {"kind": self.kind.value, **where, **shares, "message": self.message}


@dataclass(slots=True)
class Criterion(ABC):
    """One rule, for one episode.

    Attributes:
        reads_hits: whether it reads `Tick.hits`, which are known only when the sensors have been read.
        infractions: what was counted so far, in order.
    """

    reads_hits: ClassVar[bool] = False
    infractions: list[Infraction] = field(default_factory=list, init=False)

    def get_state(self) -> dict[str, Any]:
        """Return what it has noted so far, by the names of its fields, for `set_state` of one made alike."""
        return {each.name: getattr(self, each.name) for each in fields(self) if not each.init}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what another one has noted."""
        for name, value in state.items():
            setattr(self, name, list(value) if isinstance(value, list) else value)

    @abstractmethod
    def update(self, tick: Tick) -> None:
        """Take the next tick."""

    def finish(self, tick: Tick) -> None:
        """The episode is over; `tick` is its last one. Most have nothing to judge then."""
        del tick


def place_text(position_m: Vector) -> str:
    """A place as the Leaderboard writes it."""
    x, y, z = (round(value, 3) for value in position_m)
    return f"(x={x}, y={y}, z={z})"
