"""What stands beside the roads and rules them: traffic lights with their stop lines, stop signs with their boxes.

Read once a map from the server's actors. A light's stop lines are found as the Leaderboard finds them: the lanes under
its trigger box, each followed to the edge of the junction.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import carla
import numpy as np

Vector = tuple[float, float, float]
_NEAR_LIGHT_M: Final = 15.0
_WALK_M: Final = 0.5
_MAX_WALK: Final = 400


@dataclass(frozen=True, slots=True)
class StopLine:
    """Where one lane ends before a light.

    Attributes:
        lane: road and lane id.
        direction: of the lane, unit vector.
        ends_m: the line across the lane, a fifth wider than it.
    """

    lane: tuple[int, int]
    direction: tuple[float, float]
    ends_m: tuple[tuple[float, float], tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Light:
    """A traffic light; positions are of its post and of its trigger box."""

    light_id: int
    position_m: Vector
    centre_m: Vector
    stop_lines: tuple[StopLine, ...]


@dataclass(frozen=True, slots=True)
class StopSign:
    """A stop sign; `extent_m` is half the size of its trigger box along its own x and y."""

    sign_id: int
    position_m: Vector
    centre_m: Vector
    extent_m: tuple[float, float]


class Surroundings:
    """The lights and signs of a loaded world.

    Attributes:
        lights: all of them.
        light_actors: the same as the `carla` client knows them.
        signs: the stop signs.
    """

    def __init__(self, world: Any, carla_map: Any) -> None:
        actors = sorted(world.get_actors().filter("traffic.*"), key=lambda actor: int(actor.id))
        self.light_actors = [actor for actor in actors if actor.type_id == "traffic.traffic_light"]
        self.lights = tuple(_light(actor, carla_map) for actor in self.light_actors)
        self.signs = tuple(_sign(actor) for actor in actors if actor.type_id == "traffic.stop")
        self._centres_m = np.array([light.centre_m for light in self.lights], dtype=np.float64).reshape(-1, 3)

    @property
    def ids(self) -> list[int]:
        """Actor ids of all of them, in an order that is the map's: the same in every world of it."""
        return [light.light_id for light in self.lights] + [sign.sign_id for sign in self.signs]

    def red_lights(self, position_m: Vector) -> frozenset[int]:
        """Return the ids of the red lights whose box is within 15 m, as of the last tick; costs no round trip."""
        if not self.lights:
            return frozenset()
        offsets = self._centres_m - position_m
        near = np.flatnonzero((offsets * offsets).sum(axis=1) <= _NEAR_LIGHT_M**2)
        red = carla.TrafficLightState.Red
        return frozenset(self.lights[k].light_id for k in near if self.light_actors[k].state == red)


def _light(actor: Any, carla_map: Any) -> Light:
    pose, volume = actor.get_transform(), actor.trigger_volume
    centre = pose.transform(volume.location)
    yaw = math.radians(pose.rotation.yaw)
    lanes: dict[tuple[int, int], StopLine] = {}
    # Across the box, not quite to its ends: they may reach over the neighbouring lane.
    for along in np.arange(-0.9 * volume.extent.x, 0.9 * volume.extent.x, 1.0):
        place = carla.Location(centre.x + along * math.cos(yaw), centre.y + along * math.sin(yaw), centre.z)
        waypoint = carla_map.get_waypoint(place)
        if waypoint is not None:
            line = _stop_line(_at_junction(waypoint))
            lanes.setdefault(line.lane, line)
    return Light(int(actor.id), _xyz(pose.location), _xyz(centre), tuple(lanes.values()))


def _at_junction(waypoint: Any) -> Any:
    for _ in range(_MAX_WALK):
        following = [] if waypoint.is_junction else waypoint.next(_WALK_M)
        if not following or following[0].is_junction:
            break
        waypoint = following[0]
    return waypoint


def _stop_line(waypoint: Any) -> StopLine:
    place, yaw = waypoint.transform.location, math.radians(waypoint.transform.rotation.yaw)
    direction = math.cos(yaw), math.sin(yaw)
    half_m = 0.6 * waypoint.lane_width
    left = place.x + half_m * direction[1], place.y - half_m * direction[0]
    right = place.x - half_m * direction[1], place.y + half_m * direction[0]
    return StopLine((waypoint.road_id, waypoint.lane_id), direction, (left, right))


def _sign(actor: Any) -> StopSign:
    pose, volume = actor.get_transform(), actor.trigger_volume
    extent_m = float(volume.extent.x), float(volume.extent.y)
    return StopSign(int(actor.id), _xyz(pose.location), _xyz(pose.transform(volume.location)), extent_m)


def _xyz(location: Any) -> Vector:
    return float(location.x), float(location.y), float(location.z)
