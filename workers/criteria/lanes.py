"""How much of the way the vehicle drove outside the lanes of its route."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import carla

from zmqcarla.workers.criteria.base import Criterion, Infraction, Kind, Tick

# The narrow strip between lane and pavement still counts as lane.
_ALLOWED_OUT_M: Final = 0.5
_WRONG_WAY_DEG: Final = 120.0
_REVERSED_DEG: Final = 150.0


class LaneSeen(NamedTuple):
    """The lane under the vehicle at one tick."""

    road_id: int
    lane_id: int
    is_junction: bool
    yaw_deg: float
    """Heading of the lane."""

    @classmethod
    def of(cls, waypoint: Any) -> LaneSeen:
        """Return what counts of a waypoint."""
        return cls(
            int(waypoint.road_id),
            int(waypoint.lane_id),
            bool(waypoint.is_junction),
            float(waypoint.transform.rotation.yaw),
        )


@dataclass(slots=True)
class OutsideLanes(Criterion):
    """The share of the driven route that was driven beside the road or against the traffic; one infraction that grows.

    Attributes:
        carla_map: for the lane under the vehicle.
        start_s_m: place on the route where the episode began.
    """

    carla_map: Any
    start_s_m: float
    _furthest_s_m: float = field(init=False)
    _outside_m: float = field(default=0.0, init=False)
    _wrong_way: bool = field(default=False, init=False)
    _last: LaneSeen | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._furthest_s_m = self.start_s_m

    def update(self, tick: Tick) -> None:
        """Charge the progress of this tick where the vehicle is outside."""
        location = carla.Location(*tick.position_m)
        lane = self.carla_map.get_waypoint(location)
        if lane is None:
            return
        self._follow_direction(LaneSeen.of(lane), tick.yaw_deg)
        progress_m = tick.s_m - self._furthest_s_m
        if progress_m <= 0.0:
            return
        self._furthest_s_m = tick.s_m
        wrong_way = self._wrong_way and not tick.staged.oncoming_allowed
        if wrong_way or self._beside(location, lane):
            self._outside_m += progress_m
        if self._outside_m > 0.0:
            percent = 100.0 * self._outside_m / (self._furthest_s_m - self.start_s_m)
            text = (
                f"Agent went outside its route lanes for about {round(self._outside_m, 3)} meters "
                f"({round(percent, 2)}% of the completed route)"
            )
            self.infractions[:] = [Infraction(Kind.OUTSIDE_LANES, tick, text, percent, self._outside_m)]

    def _beside(self, location: Any, lane: Any) -> bool:
        """Whether the vehicle's middle is on no driving and no parking lane."""
        distance_m = location.distance(lane.transform.location)
        if distance_m <= lane.lane_width / 2.0 + _ALLOWED_OUT_M:
            return False
        parking = self.carla_map.get_waypoint(location, lane_type=carla.LaneType.Parking)
        if parking is not None and location.distance(parking.transform.location) <= distance_m:
            return bool(location.distance(parking.transform.location) > parking.lane_width / 2.0 + _ALLOWED_OUT_M)
        return True

    def _follow_direction(self, lane: LaneSeen, yaw_deg: float) -> None:
        """Notice when the lane under the vehicle turns into one of the other direction, and back."""
        last, self._last = self._last, lane
        if lane.is_junction:
            self._wrong_way = False
        elif last is None or (last.road_id, last.lane_id) == (lane.road_id, lane.lane_id):
            return
        elif last.is_junction:
            self._wrong_way = _between_deg(lane.yaw_deg, yaw_deg) >= _WRONG_WAY_DEG
        elif _between_deg(lane.yaw_deg, last.yaw_deg) > _REVERSED_DEG:
            self._wrong_way = not self._wrong_way


def _between_deg(a_deg: float, b_deg: float) -> float:
    return abs((a_deg - b_deg + 180.0) % 360.0 - 180.0)
