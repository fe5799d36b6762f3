"""The things of a map that are not actors, as scripts ask for them: houses, trees, poles, and what a ray meets.

They are those that cameras show (scenery.py), as upright boxes with CARLA's semantic labels.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zmqcarla.sim.actors import Actor
from zmqcarla.sim.geometry import Pose, Vector, rotation, turn
from zmqcarla.sim.meshes import Kind
from zmqcarla.sim.roads import RoadMap
from zmqcarla.sim.scenery import furniture, grow

ROADS, SIDEWALKS, BUILDINGS, POLES, TRAFFIC_LIGHT, TRAFFIC_SIGNS, VEGETATION, TERRAIN = 1, 2, 3, 6, 7, 8, 9, 10
"""carla.CityObjectLabel."""

_LABELS = {
    Kind.HOUSE: (BUILDINGS, "House"),
    Kind.POLE: (POLES, "Pole"),
    Kind.LIGHT_HEAD: (TRAFFIC_LIGHT, "TrafficLight"),
    Kind.STOP_SIGN: (TRAFFIC_SIGNS, "StopSign"),
    Kind.YIELD_SIGN: (TRAFFIC_SIGNS, "YieldSign"),
}
_FIRST_ID = 1 << 32  # beyond all ids of actors
_GROUND_STEP_M = 0.25
_GROUND_SAMPLES = 20_000


@dataclass(frozen=True, slots=True)
class LevelObject:
    """One thing: its box in the world.

    Attributes:
        id: the same for equal maps.
        label: a carla.CityObjectLabel.
        signal: index of the traffic light or sign that it belongs to, -1 for none.
    """

    id: int
    name: str
    label: int
    centre_m: Vector
    half_m: Vector
    rotation_deg: Vector
    signal: int = -1

    @property
    def number(self) -> int:
        """Its place among the map's things: houses, then poles, lights and signs, then trees."""
        return self.id - _FIRST_ID


def _triple(numbers: NDArray[np.float64]) -> Vector:
    x, y, z = numbers.tolist()
    return x, y, z


def level_objects(road_map: RoadMap) -> list[LevelObject]:
    """All things of a map."""
    houses, trees = grow(road_map)
    found: list[LevelObject] = []
    for box in np.concatenate([houses, furniture(road_map)]):
        label, name = _LABELS[Kind(int(box["kind"]))]
        number = len(found)
        place = _triple(box["centre"]), _triple(box["half"]), _triple(box["rotation"])
        found.append(LevelObject(_FIRST_ID + number, f"{name}_{number}", label, *place, int(box["signal"])))
    for tree in trees:
        x, y, z = _triple(tree["foot"])
        number, tall, radius = len(found), float(tree["height"]), float(tree["radius"])
        place = (x, y, z + tall / 2), (radius, radius, tall / 2), (0.0, 0.0, 0.0)
        found.append(LevelObject(_FIRST_ID + number, f"Tree_{number}", VEGETATION, *place))
    return found


class Level:
    """The things of a map, and which of them are near a line."""

    def __init__(self, road_map: RoadMap) -> None:
        self.objects = level_objects(road_map)
        self._centres_m = np.array([thing.centre_m for thing in self.objects]).reshape(-1, 3)
        self._radii_m = np.array([math.hypot(*thing.half_m) for thing in self.objects])

    def near(self, start: Vector, end: Vector) -> list[LevelObject]:
        """Those whose bounding sphere a line touches."""
        run = np.subtract(end, start)
        away = self._centres_m - start
        share = np.clip(away @ run / max(float(run @ run), 1e-12), 0.0, 1.0)
        gap = np.linalg.norm(away - share[:, None] * run, axis=1)
        return [self.objects[index] for index in np.flatnonzero(gap <= self._radii_m)]


class LevelShelf:
    """The level of the map that was last asked for; it is made when it is first wanted."""

    def __init__(self) -> None:
        self._map: RoadMap | None = None
        self._level: Level | None = None

    def of(self, road_map: RoadMap) -> Level:
        """The level of a map."""
        if self._level is None or self._map is not road_map:
            self._map, self._level = road_map, Level(road_map)
        return self._level


def box_of(actor: Actor, pose: Pose) -> tuple[Vector, Vector, Vector]:
    """World box of an actor: centre, half sizes, rotation."""
    x, y, z = turn(rotation(*pose[3:]), actor.shape.centre_m)
    return (pose[0] + x, pose[1] + y, pose[2] + z), actor.shape.extent_m, pose[3:]


def box_hit(start: Vector, end: Vector, box: tuple[Vector, Vector, Vector]) -> float | None:
    """Where a line enters a box, as a share of its length; None if it misses or begins inside.

    Source: the slab method, Kay and Kajiya 1986.
    """
    centre, half, angles = box
    axes = list(zip(*rotation(*angles), strict=True))
    enter, leave = 0.0, 1.0
    inside = True
    for axis, size in zip(axes, half, strict=True):
        at = sum((start[i] - centre[i]) * axis[i] for i in range(3))
        run = sum((end[i] - start[i]) * axis[i] for i in range(3))
        inside = inside and abs(at) <= size
        if abs(run) < 1e-12:
            if abs(at) > size:
                return None
            continue
        near, far = sorted(((-size - at) / run, (size - at) / run))
        enter, leave = max(enter, near), min(leave, far)
        if enter > leave:
            return None
    return None if inside else enter


def ground_hit(road_map: RoadMap, start: Vector, end: Vector) -> float | None:
    """Where a line first goes through the ground from above, as a share of its length."""
    length = math.dist(start, end)
    samples = np.linspace(start, end, min(max(int(length / _GROUND_STEP_M), 2), _GROUND_SAMPLES) + 1)
    above = samples[:, 2] - road_map.heights_m(samples[:, :2], samples[:, 2])
    crossing = np.flatnonzero((above[:-1] >= 0) & (above[1:] <= 0))
    if not len(crossing):
        return None
    first = int(crossing[0])
    part = above[first] / max(above[first] - above[first + 1], 1e-9)
    return float((first + part) / (len(samples) - 1))


def ground_label(road_map: RoadMap, x_m: float, y_m: float, z_m: float) -> int:
    """What the ground is there."""
    import carla  # noqa: PLC0415  slow to import; the map that is asked has loaded it already

    lane_type = carla.LaneType
    place = carla.Location(x_m, y_m, z_m)
    waypoint = road_map.carla_map.get_waypoint(place, project_to_road=False, lane_type=lane_type.Any)
    if waypoint is None:
        return TERRAIN
    return SIDEWALKS if waypoint.lane_type == lane_type.Sidewalk else ROADS
