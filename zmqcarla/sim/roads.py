"""The road network that the embedded simulator drives on: one OpenDRIVE map, loaded once, asked every tick.

`RoadMap` joins what the carla library knows about a map (waypoints, topology) with what must be answered thousands of
times a second (ground height, speed limit) and with what Unreal keeps outside OpenDRIVE (spawn points, light groups).
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from zmqcarla.sim.ground import Ground, LaneStrip, bounds_of, lane_strips
from zmqcarla.sim.opendrive import Document, MapError, inner, parse
from zmqcarla.sim.signals import Box, LightGroups, Signal, find_signals, group_lights

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = ["Box", "LightGroups", "MapError", "RoadMap", "Signal"]

SPAWN_LIFT_M = 0.5
_SPAWN_LENGTH_M = 12.0
_SPAWN_WIDTH_M = 4.1
_JUNCTION_CLEARANCE_M = 6.0
_CANDIDATE_STEP_M = 3.0
_NARROWEST_LANE_M = 2.5

LaneKey = tuple[int, int, int]
"""(road id, carla section id, lane id)."""

Bounds = tuple[float, float, float, float]
"""min_x, min_y, max_x, max_y."""


def _lane_graph(
    carla_map: Any, strips: tuple[LaneStrip, ...]
) -> tuple[dict[LaneKey, set[LaneKey]], dict[int, LaneKey]]:
    """Which lane leads to which, by following and by permitted lane changes; and the key of each strip by its index."""
    graph: dict[LaneKey, set[LaneKey]] = defaultdict(set)
    for start, end in carla_map.get_topology():
        graph[_key(start)].add(_key(end))
    keys: dict[int, LaneKey] = {}
    for index, strip in enumerate(strips):
        if strip.lane.kind != "driving":
            continue
        middle = float(strip.s_m[0] + strip.s_m[-1]) / 2
        waypoint = carla_map.get_waypoint_xodr(strip.road.road_id, strip.lane.lane_id, middle)
        if waypoint is None:
            continue
        keys[index] = _key(waypoint)
        change = int(waypoint.lane_change)
        sides = ((1, waypoint.get_right_lane), (2, waypoint.get_left_lane))
        for beside in (neighbour() for bit, neighbour in sides if change & bit):
            if beside is not None and beside.lane_id * waypoint.lane_id > 0:
                graph[keys[index]].add(_key(beside))
    return graph, keys


def _key(waypoint: Any) -> LaneKey:
    return waypoint.road_id, waypoint.section_id, waypoint.lane_id


def _reach(graph: dict[LaneKey, set[LaneKey]], start: LaneKey) -> set[LaneKey]:
    seen, todo = {start}, [start]
    while todo:
        fresh = graph.get(todo.pop(), set()) - seen
        seen |= fresh
        todo.extend(fresh)
    return seen


def _largest_loop(graph: dict[LaneKey, set[LaneKey]], keys: Iterable[LaneKey]) -> set[LaneKey]:
    """The largest set of lanes that can all reach each other: no car is placed where it could not come back to."""
    backward: dict[LaneKey, set[LaneKey]] = defaultdict(set)
    for start, ends in graph.items():
        for end in ends:
            backward[end].add(start)
    best: set[LaneKey] = set()
    left = dict.fromkeys(keys)
    while len(left) > len(best):
        start = next(iter(left))
        loop = _reach(graph, start) & _reach(backward, start)
        best = max(best, loop, key=len)
        for lane in loop:
            left.pop(lane, None)
    return best


def _ends_at_junction(document: Document, link: tuple[str, int] | None) -> bool:
    """Whether a junction, a dead end or a road too short to keep clear of one lies beyond this end of a road."""
    if link is None or link[0] == "junction" or link[1] not in document.roads:
        return True
    beyond = document.roads[link[1]]
    return beyond.junction_id >= 0 or beyond.length_m < _JUNCTION_CLEARANCE_M


def _candidates(document: Document, strip: LaneStrip) -> Floats:
    """Poses (n, 6) along the middle of a lane, away from junctions, headed along its traffic."""
    road, start, end = strip.road, float(strip.s_m[0]), float(strip.s_m[-1])
    if _ends_at_junction(document, road.predecessor):
        start = max(start, _JUNCTION_CLEARANCE_M)
    if _ends_at_junction(document, road.successor):
        end = min(end, road.length_m - _JUNCTION_CLEARANCE_M)
    s_m = np.arange(start, end, _CANDIDATE_STEP_M) + 0.5
    poses, widths = _poses(strip, s_m[s_m < end])
    return poses[widths >= _NARROWEST_LANE_M]


def _poses(strip: LaneStrip, s_m: Floats) -> tuple[Floats, Floats]:
    """Poses (n, 6) in the middle of a lane, headed along its traffic; and its width there (n,)."""
    road = strip.road
    edges, lane_id = road.edges(strip.section, s_m), strip.lane.lane_id
    near, far = edges[inner(lane_id)], edges[lane_id]
    place = road.points(s_m, (near + far) / 2)
    backward = lane_id > 0
    pitch = np.degrees(np.arctan(road.slopes(s_m))) * (-1.0 if backward else 1.0)
    yaw = 180.0 - (180.0 - (road.yaws_deg(s_m) + (180.0 if backward else 0.0))) % 360.0
    poses = np.stack([*place.T, pitch, yaw, np.zeros(len(s_m))], axis=-1)
    poses[:, 2] += SPAWN_LIFT_M
    return poses, np.abs(far - near)


class _Parking:
    """Takes poses greedily so that the longest and widest vehicle fits on every one at the same time."""

    def __init__(self) -> None:
        self.taken: list[list[float]] = []
        self._cells: dict[tuple[int, int], list[tuple[float, float, float, float, float]]] = defaultdict(list)

    def offer(self, pose: list[float]) -> None:
        """Take the pose if its place is free."""
        x, y, z, _, yaw_deg, _ = pose
        cos, sin = math.cos(math.radians(yaw_deg)), math.sin(math.radians(yaw_deg))
        column, row = math.floor(x / _SPAWN_LENGTH_M), math.floor(y / _SPAWN_LENGTH_M)
        for cell in ((column + i, row + j) for i in (-1, 0, 1) for j in (-1, 0, 1)):
            for other_x, other_y, other_z, other_cos, other_sin in self._cells.get(cell, ()):
                dx, dy = x - other_x, y - other_y
                if abs(z - other_z) < 4.0 and (_overlap(dx, dy, cos, sin) or _overlap(dx, dy, other_cos, other_sin)):
                    return
        self.taken.append(pose)
        self._cells[column, row].append((x, y, z, cos, sin))


def _overlap(dx: float, dy: float, cos: float, sin: float) -> bool:
    return abs(dx * cos + dy * sin) < _SPAWN_LENGTH_M and abs(dy * cos - dx * sin) < _SPAWN_WIDTH_M


def _spawn_points(carla_map: Any, document: Document, strips: tuple[LaneStrip, ...]) -> Floats:
    graph, keys = _lane_graph(carla_map, strips)
    loop = _largest_loop(graph, keys.values())
    parking = _Parking()
    for index, key in keys.items():
        if key in loop and strips[index].road.junction_id < 0:
            for pose in _candidates(document, strips[index]).tolist():
                parking.offer(pose)
    if not keys:
        raise MapError("expected driving lanes, found none that the carla library can place a vehicle on")
    if not parking.taken:
        longest = max((strips[index] for index in keys), key=lambda strip: float(strip.s_m[-1] - strip.s_m[0]))
        middle = np.array([float(longest.s_m[0] + longest.s_m[-1]) / 2])
        return _poses(longest, middle)[0]
    return np.array(parking.taken).reshape(-1, 6)


@dataclass(frozen=True, slots=True, eq=False)
class RoadMap:
    """A loaded map. Build it with `RoadMap.load`; everything in it is read-only by convention.

    Attributes:
        name: As given, for example "Town10HD".
        opendrive: The document's text.
        document: The same, parsed.
        carla_map: The `carla.Map` of that text.
        strips: All lanes sampled about every metre.
        ground: Height and speed-limit grids.
        spawn_points: float64 (n, 6): x, y, z (0.5 m above ground), pitch, yaw in (-180, 180], roll; CARLA frame. On
            driving lanes outside junctions, from which every other one can be reached; the largest vehicle fits on
            all of them at once. The order is that of the document's lanes. A map too small for that has one point.
        signals: Lights and signs, see `Signal`.
        light_groups: By junction id: phases of OpenDRIVE light ids that are green together.
        georeference: (lat0, lon0), degrees.
        bounds_m: (min_x, min_y, max_x, max_y) of all lanes, CARLA frame.
        squares_m: Rectangles in which nothing is built, each as bounds_m.
    """

    name: str
    opendrive: str
    document: Document
    carla_map: Any
    strips: tuple[LaneStrip, ...]
    ground: Ground
    spawn_points: Floats
    signals: tuple[Signal, ...]
    light_groups: LightGroups
    georeference: tuple[float, float]
    bounds_m: Bounds
    squares_m: tuple[Bounds, ...] = ()

    @classmethod
    def load(cls, name: str, opendrive: str, squares_m: tuple[Bounds, ...] = ()) -> RoadMap:
        """Read a map.

        Args:
            name: What `world.get_map().name` will end in.
            opendrive: Text of an OpenDRIVE 1.4 document.
            squares_m: Where to build nothing beside the roads.

        Raises:
            MapError: The text is not a usable OpenDRIVE document; see `MapError`.
        """
        document = parse(opendrive)
        import carla  # noqa: PLC0415  slow to import, and a bad document is told without it

        try:
            carla_map: Any = cast("Any", carla).Map(name, opendrive)
        except RuntimeError as error:
            raise MapError(
                f"expected an OpenDRIVE document that the carla library accepts, found {name!r}, of which it says: "
                f"{error}; check the roads' links and lane sections"
            ) from error
        strips = lane_strips(document)
        spawn_points = _spawn_points(carla_map, document, strips)
        signals = find_signals(carla_map, document)
        return cls(
            name=name,
            opendrive=opendrive,
            document=document,
            carla_map=carla_map,
            strips=strips,
            ground=Ground(strips),
            spawn_points=spawn_points,
            signals=signals,
            light_groups=group_lights(document, signals),
            georeference=document.georeference_deg,
            bounds_m=bounds_of(strips),
            squares_m=squares_m,
        )

    def heights_m(self, xy_m: Floats, near_z_m: Floats | None = None) -> Floats:
        """Ground height (n,) at float64 (n, 2); `near_z_m` (n,) tells bridges from what is below, see `Ground`."""
        return self.ground.heights_m(xy_m, near_z_m)

    def speed_limits_kmh(self, xy_m: Floats) -> Floats:
        """Speed limit (n,) in km/h at float64 (n, 2)."""
        return self.ground.speed_limits_kmh(xy_m)
