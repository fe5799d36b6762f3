"""The drivable lanes of a map as a directed graph of points, and shortest paths over it.

`carla.Map.get_topology()` gives the lane segments and their successors. Each segment is sampled every `SPACING_M` along
its direction of travel; a point leads to the next one, the last point of a segment to the first point of each
successor, and, where the lane markings allow it, a point leads diagonally to a point of the neighbour lane
`LANE_CHANGE_M` further on. So a path over the graph is already the line to drive, lane changes included.

Coordinates are CARLA's world frame: metres, x forward and y right of the map's origin, yaw clockwise from above.
"""

from __future__ import annotations

import bisect
import heapq
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import carla
import numpy as np
from numpy.typing import NDArray

SPACING_M = 2.0
LANE_CHANGE_M = 20.0
_LANE_CHANGE_PENALTY_M = 30.0
# Only every fourth point starts a lane change: enough choice, a quarter of the edges.
_LANE_CHANGE_STRIDE = 4
# Points nearer than this to the next segment's first point are left to that segment.
_SEAM_M = 0.5

SegmentKey = tuple[int, int, int]
"""(road, section, lane) of OpenDRIVE."""


@dataclass(frozen=True, slots=True)
class _Segment:
    """Samples of one lane segment: their s along the road and the index of the first one in the graph."""

    first: int
    s_m: tuple[float, ...]

    def index_at(self, s_m: float) -> int:
        """Index in the graph of the last sample at or before `s_m` in the direction of travel."""
        if len(self.s_m) == 1:
            return self.first
        sign = 1.0 if self.s_m[-1] >= self.s_m[0] else -1.0
        keys = [sign * s for s in self.s_m]
        return self.first + max(0, bisect.bisect_right(keys, sign * s_m + 1e-3) - 1)


class LaneGraph:
    """All driving lanes of one map.

    Attributes:
        xyz_m: float64 (n, 3), position of each point on its lane's centre.
        yaw_deg: float64 (n,), heading of the lane.
        lane_width_m: float64 (n,).
        junction: int64 (n,), id of the junction that the point lies in, -1 outside.
    """

    def __init__(self, carla_map: carla.Map) -> None:
        """Sample the lanes of `carla_map` and connect them; some tenths of a second for a large town."""
        self._map: Any = carla_map
        self._edges: list[list[tuple[int, float]]] = []
        self._lane_changes: set[tuple[int, int]] = set()
        self._segments: dict[SegmentKey, _Segment] = {}
        starts, successors = _segments_of(carla_map)
        waypoints = self._sample(starts)
        self.xyz_m: NDArray[np.float64] = np.array(
            [(w.transform.location.x, w.transform.location.y, w.transform.location.z) for w in waypoints]
        ).reshape(-1, 3)
        self.yaw_deg: NDArray[np.float64] = np.array([w.transform.rotation.yaw for w in waypoints])
        self.lane_width_m: NDArray[np.float64] = np.array([w.lane_width for w in waypoints])
        self.junction: NDArray[np.int64] = np.array(
            [w.junction_id if w.is_junction else -1 for w in waypoints], dtype=np.int64
        )
        self._searched: tuple[int, tuple[NDArray[np.float64], list[int]]] = -1, (np.empty(0), [])
        self._link_forward(successors)
        self._link_sideways(waypoints)

    def __len__(self) -> int:
        return len(self._edges)

    def locate(self, x_m: float, y_m: float, z_m: float) -> int:
        """Return the point on the nearest driving lane, at or just behind the given place.

        Raises:
            ValueError: the map has no driving lane there.
        """
        waypoint = self._map.get_waypoint(carla.Location(x_m, y_m, z_m))
        if waypoint is None or _key(waypoint) not in self._segments:
            raise ValueError(
                f"expected a driving lane near ({x_m:.1f}, {y_m:.1f}, {z_m:.1f}) m, found none; choose another place"
            )
        return self._segments[_key(waypoint)].index_at(waypoint.s)

    def distances_from(self, start: int) -> NDArray[np.float64]:
        """Return the driving cost in metres from `start` to every point, float64 (n,), infinite where there is no way.

        A lane change costs its length and a penalty.
        """
        self._searched = start, self._search(start, None)
        return self._searched[1][0]

    def path(self, start: int, goal: int) -> list[int] | None:
        """Return the points from `start` to `goal` on the cheapest way, both included, or None when there is none."""
        if start == goal:
            return [start]
        # Who asks for a path has mostly just asked which goals are how far from there.
        searched_from, searched = self._searched
        distance, parent = searched if searched_from == start else self._search(start, goal)
        if not math.isfinite(distance[goal]):
            return None
        path = [goal]
        while path[-1] != start:
            path.append(parent[path[-1]])
        return path[::-1]

    def is_lane_change(self, a: int, b: int) -> bool:
        """Return whether the step from point `a` to point `b` of a path changes the lane."""
        return (a, b) in self._lane_changes

    def lines(self) -> list[NDArray[np.float64]]:
        """Return the sampled centre line of every lane segment up to each segment that follows, float64 (k, 2) each."""
        lines: list[NDArray[np.float64]] = []
        for segment in self._segments.values():
            last = segment.first + len(segment.s_m) - 1
            own = list(range(segment.first, last + 1))
            ends = [to for to, _ in self._edges[last] if not self.is_lane_change(last, to)]
            lines.extend(self.xyz_m[[*own, end], :2] for end in ends)
        return lines

    def _search(self, start: int, goal: int | None) -> tuple[NDArray[np.float64], list[int]]:
        """Dijkstra's algorithm from `start`, ended early at `goal`."""
        infinity = math.inf
        distance = [infinity] * len(self._edges)
        parent = [-1] * len(self._edges)
        distance[start] = 0.0
        queue = [(0.0, start)]
        edges, push, pop = self._edges, heapq.heappush, heapq.heappop
        while queue:
            so_far, point = pop(queue)
            if so_far > distance[point]:
                continue
            if point == goal:
                break
            for to, cost in edges[point]:
                candidate = so_far + cost
                if candidate < distance[to]:
                    distance[to] = candidate
                    parent[to] = point
                    push(queue, (candidate, to))
        return np.array(distance), parent

    def _sample(self, starts: dict[SegmentKey, Any]) -> list[Any]:
        waypoints: list[Any] = []
        for key, start in starts.items():
            # The client's "lane end" is the road's end: it walks on into the next lane section.
            rest = start.next_until_lane_end(SPACING_M)
            samples = [start, *itertools.takewhile(_is_in(key), rest)]
            end = samples[-1].transform.location
            while len(samples) > 1 and samples[-1].transform.location.distance(end) < _SEAM_M:
                samples.pop()
            self._segments[key] = _Segment(len(waypoints), tuple(w.s for w in samples))
            waypoints.extend(samples)
        return waypoints

    def _link_forward(self, successors: dict[SegmentKey, list[SegmentKey]]) -> None:
        self._edges = [[] for _ in range(len(self.xyz_m))]
        for key, segment in self._segments.items():
            last = segment.first + len(segment.s_m) - 1
            for point in range(segment.first, last):
                self._connect(point, point + 1, 0.0)
            for successor in successors[key]:
                self._connect(last, self._segments[successor].first, 0.0)

    def _link_sideways(self, waypoints: list[Any]) -> None:
        ahead = round(LANE_CHANGE_M / SPACING_M)
        for segment in self._segments.values():
            end = segment.first + len(segment.s_m)
            for point in range(segment.first, end - ahead, _LANE_CHANGE_STRIDE):
                here, there = waypoints[point], waypoints[point + ahead]
                for neighbour in _allowed_neighbours(here, there):
                    target = self._segments.get(_key(neighbour))
                    if target is not None:
                        landing = target.index_at(neighbour.s)
                        self._connect(point, landing, _LANE_CHANGE_PENALTY_M)
                        self._lane_changes.add((point, landing))

    def _connect(self, a: int, b: int, penalty_m: float) -> None:
        dx, dy, dz = self.xyz_m[b] - self.xyz_m[a]
        self._edges[a].append((b, math.sqrt(dx * dx + dy * dy + dz * dz) + penalty_m))


def _is_in(segment: SegmentKey) -> Callable[[Any], bool]:
    return lambda waypoint: _key(waypoint) == segment


def _key(waypoint: Any) -> SegmentKey:
    return (waypoint.road_id, waypoint.section_id, waypoint.lane_id)


def _segments_of(carla_map: Any) -> tuple[dict[SegmentKey, Any], dict[SegmentKey, list[SegmentKey]]]:
    """Return the first waypoint of every lane segment, and the segments that follow each."""
    starts: dict[SegmentKey, Any] = {}
    successors: dict[SegmentKey, list[SegmentKey]] = {}
    for start, following in carla_map.get_topology():
        starts.setdefault(_key(start), start)
        starts.setdefault(_key(following), following)
        successors.setdefault(_key(start), []).append(_key(following))
    # The client lists the topology in no promised order; planning must not depend on it.
    ordered = {key: starts[key] for key in sorted(starts)}
    return ordered, {key: sorted(set(successors.get(key, []))) for key in ordered}


def _allowed_neighbours(here: Any, there: Any) -> list[Any]:
    """Return the waypoints beside `there` that a car may reach by starting to change lanes at `here`."""
    if here.is_junction:
        return []
    both = int(here.lane_change) & int(there.lane_change)
    sides = []
    if both & int(carla.LaneChange.Right):
        sides.append(there.get_right_lane())
    if both & int(carla.LaneChange.Left):
        sides.append(there.get_left_lane())
    return [
        side
        for side in sides
        if side is not None and side.lane_type == carla.LaneType.Driving and side.lane_id * here.lane_id > 0
    ]
