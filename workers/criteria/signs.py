"""Red lights and stop signs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import carla

from zmqcarla.workers.criteria.base import Criterion, Infraction, Kind, Tick, place_text
from zmqcarla.workers.surroundings import Light, StopSign

_STOP_REACH_M: Final = 4.0
_STOP_STEP_M: Final = 0.5
_STOPPED_MPS: Final = 0.1
# Cosine of 100 degrees: driving or standing against the lane's direction.
_AGAINST: Final = -0.17
_NEARBY_M: Final = 30.0


@dataclass(slots=True)
class RedLights(Criterion):
    """The vehicle's tail crosses the stop line of a red light on the lane that the tail is on.

    Attributes:
        carla_map: for the lane of the tail.
        lights: of the map.
        half_length_m: of the vehicle.
    """

    carla_map: Any
    lights: Sequence[Light]
    half_length_m: float
    _last_id: int | None = field(default=None, init=False)

    def update(self, tick: Tick) -> None:
        """Look at the red lights near the ego; one light is counted once in a row."""
        if not tick.red_lights:
            return
        (fx, fy), (x, y, z) = tick.forward, tick.position_m
        near, far = 0.8 * self.half_length_m, self.half_length_m + 1.0
        tail = ((x - near * fx, y - near * fy), (x - far * fx, y - far * fy))
        lane = self.carla_map.get_waypoint(carla.Location(*tail[1], z))
        if lane is None:
            return
        for light in self.lights:
            if light.light_id not in tick.red_lights or light.light_id == self._last_id:
                continue
            for line in light.stop_lines:
                same_lane = (lane.road_id, lane.lane_id) == line.lane
                along = fx * line.direction[0] + fy * line.direction[1] > 0.0
                if same_lane and along and _cross(tail, line.ends_m):
                    text = f"Agent ran a red light {light.light_id} at {place_text(light.position_m)}"
                    self.infractions.append(Infraction(Kind.RED_LIGHT, tick, text))
                    self._last_id = light.light_id
                    break


@dataclass(slots=True)
class StopSigns(Criterion):
    """The vehicle drives through a stop sign's box without having stood still there.

    Attributes:
        carla_map: for the lane ahead.
        signs: of the map.
    """

    carla_map: Any
    signs: Sequence[StopSign]
    _target: StopSign | None = field(default=None, init=False)
    _stopped: bool = field(default=False, init=False)
    _last_failed: int | None = field(default=None, init=False)

    def update(self, tick: Tick) -> None:
        """Find the sign that rules the lane ahead, or watch the one that was found."""
        near = [sign for sign in self.signs if tick.distance_m(sign.centre_m) <= _NEARBY_M]
        if self._target is None and not near:
            return
        ahead = self._lane_ahead(tick)
        if self._target is None:
            self._target = self._found(tick, ahead, near)
            return
        self._stopped = self._stopped or tick.speed_mps < _STOPPED_MPS
        if not _rules(self._target, ahead):
            if not self._stopped and self._last_failed != self._target.sign_id:
                text = f"Agent ran a stop with id={self._target.sign_id} at {place_text(self._target.position_m)}"
                self.infractions.append(Infraction(Kind.STOP, tick, text))
                self._last_failed = self._target.sign_id
            self._target, self._stopped = None, False

    def _found(self, tick: Tick, ahead: list[Any], near: list[StopSign]) -> StopSign | None:
        fx, fy = tick.forward
        lane = ahead[0].transform.get_forward_vector()
        if tick.forward_mps < _AGAINST or fx * lane.x + fy * lane.y < _AGAINST:
            return None
        return next((sign for sign in near if _rules(sign, ahead)), None)

    def _lane_ahead(self, tick: Tick) -> list[Any]:
        """Waypoints from the ego on, half a metre apart, as far as a sign can reach."""
        waypoints = [self.carla_map.get_waypoint(carla.Location(*tick.position_m))]
        for _ in range(round(_STOP_REACH_M / _STOP_STEP_M)):
            following = waypoints[-1].next(_STOP_STEP_M)
            if not following:
                break
            waypoints.append(following[0])
        return waypoints


def _rules(sign: StopSign, ahead: list[Any]) -> bool:
    """Whether a waypoint ahead lies in the sign's box, made a fifth larger; the box lies along the world's axes."""
    x_m, y_m, z_m = sign.centre_m
    if ahead[0].transform.location.distance(carla.Location(x_m, y_m, z_m)) > _STOP_REACH_M:
        return False
    half_x_m, half_y_m = (1.2 * extent_m for extent_m in sign.extent_m)
    places = (waypoint.transform.location for waypoint in ahead)
    return any(abs(place.x - x_m) < half_x_m and abs(place.y - y_m) < half_y_m for place in places)


_Segment = tuple[tuple[float, float], tuple[float, float]]


def _cross(a: _Segment, b: _Segment) -> bool:
    """Whether two segments of the plane meet."""
    (p, q), (r, s) = a, b
    return _side(p, q, r) * _side(p, q, s) <= 0.0 and _side(r, s, p) * _side(r, s, q) <= 0.0


def _side(p: tuple[float, float], q: tuple[float, float], r: tuple[float, float]) -> float:
    return (q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0])
