"""A route along the lanes, and where the ego stands on it.

`Route` is the line to drive, made from a path over the `LaneGraph`: cubic Hermite curves through the lane points with
the lanes' own headings as tangents, so that half-metre samples lie on the lane centre to about a centimetre even in
tight turns. `RouteTracker` projects the ego on that line each step, only near its last place, so that a route which
crosses itself is followed in order.

Frames: world is CARLA's (metres, yaw in degrees clockwise from above); the ego frame has x forward and y right.
"""

from __future__ import annotations

import bisect
import cmath
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from zmqcarla.workers.lane_graph import LaneGraph

NUM_WAYPOINTS = 16
WAYPOINT_SPACING_M = 2.0
GOAL_TOLERANCE_M = 2.0
"""The route counts as done this far before its end, or where the Leaderboard says so: past 99 % and within 10 m."""

_NEARLY_PERCENT = 99.0
_NEARLY_M = 10.0
_SAMPLE_M = 0.5
_COMMAND_AHEAD_M = 15.0
_TURN_DEG = 35.0
_SEARCH_BACK_M = 10.0
_SEARCH_AHEAD_M = 40.0
_MAX_LEGS = 50
_AHEAD_M = WAYPOINT_SPACING_M * np.arange(1, NUM_WAYPOINTS + 1)

FloatArray = NDArray[np.float64]


class RoadOption(IntEnum):
    """What to do next, with the numbers that CARLA's own agents use."""

    VOID = -1
    LEFT = 1
    RIGHT = 2
    STRAIGHT = 3
    LANEFOLLOW = 4
    CHANGELANELEFT = 5
    CHANGELANERIGHT = 6


@dataclass(frozen=True, slots=True, eq=False)
class Route:
    """A line to drive from start to goal, in samples about half a metre apart.

    Attributes:
        s_m: float64 (k,), distance from the start along the line, strictly increasing from 0.
        xy_m: float64 (k, 2), world frame.
        lane_width_m: float64 (k,).
        command: int64 (k,), the `RoadOption` in force at the sample: the manoeuvre there, or the next one when it
            begins within 15 m.
        junction: bool (k,), whether the sample lies in a junction.
        path: the points of the graph that it was made from; `route_along` makes the same line of them again.
    """

    s_m: FloatArray
    xy_m: FloatArray
    lane_width_m: FloatArray
    command: NDArray[np.int64]
    junction: NDArray[np.bool_]
    path: tuple[int, ...] = ()

    @property
    def length_m(self) -> float:
        """Length of the line."""
        return float(self.s_m[-1])

    @property
    def goal_xy_m(self) -> tuple[float, float]:
        """End of the line, world frame."""
        return float(self.xy_m[-1, 0]), float(self.xy_m[-1, 1])


@dataclass(frozen=True, slots=True, eq=False)
class RouteState:
    """Where the ego stands on its route.

    Attributes:
        s_m: place along the line.
        progress_m: how far the ego came since the last update; negative when it went back.
        distance_to_goal_m: what is left of the line.
        completion_percent: best share of the line reached so far, 0 to 100.
        lane_offset_m: distance from the lane's centre, positive to the right of it.
        heading_error_deg: ego heading minus lane heading, -180 to 180.
        lane_width_m: width of the lane there.
        command: what to do next.
        at_junction: whether that place lies in a junction.
        waypoints_ego_m: float64 (NUM_WAYPOINTS, 2), the line ahead every `WAYPOINT_SPACING_M`, ego frame; past the
            goal the goal is repeated.
        arrived: whether the goal is reached.
    """

    s_m: float
    progress_m: float
    distance_to_goal_m: float
    completion_percent: float
    lane_offset_m: float
    heading_error_deg: float
    lane_width_m: float
    command: RoadOption
    at_junction: bool
    waypoints_ego_m: FloatArray
    arrived: bool


class RouteTracker:
    """Follows one ego along one route.

    Attributes:
        route: the line.
        start_s_m: place on it where the ego began.
    """

    def __init__(self, route: Route, x_m: float, y_m: float) -> None:
        """Start at the place of the line that is nearest to the ego, near the line's start."""
        self.route = route
        # The plane as complex numbers: a rotation is one product, and few calls of numpy are what makes a step cheap.
        self._line: NDArray[np.complex128] = np.ascontiguousarray(route.xy_m).view(np.complex128)[:, 0]
        self._length_m = np.diff(route.s_m)
        self._backward = np.conj(np.diff(self._line) / self._length_m)
        self._s: list[float] = route.s_m.tolist()
        self._s_m = 0.0
        self._s_m = self._project(x_m, y_m)[0]
        self.start_s_m = self._s_m
        self._told_s_m = self._s_m
        self._best_percent = 0.0

    def get_state(self) -> dict[str, float]:
        """Return the progress so far, for `set_state` of a tracker of the same route."""
        return {
            "start_s_m": self.start_s_m,
            "s_m": self._s_m,
            "told_s_m": self._told_s_m,
            "best_percent": self._best_percent,
        }

    def set_state(self, state: Mapping[str, float]) -> None:
        """Go on from a progress."""
        self.start_s_m, self._s_m = state["start_s_m"], state["s_m"]
        self._told_s_m, self._best_percent = state["told_s_m"], state["best_percent"]

    def follow(self, x_m: float, y_m: float) -> tuple[float, float]:
        """Take the pose of a tick between two updates; return the place along the line and the distance from it."""
        self._s_m, offset_m, _ = self._project(x_m, y_m)
        return self._s_m, abs(offset_m)

    def update(self, x_m: float, y_m: float, yaw_deg: float) -> RouteState:
        """Return the state for the ego's new pose in the world frame."""
        route = self.route
        s_m, offset_m, heading_deg = self._project(x_m, y_m)
        progress_m, self._s_m, self._told_s_m = s_m - self._told_s_m, s_m, s_m
        left_m = max(0.0, route.length_m - s_m)
        whole_m = max(route.length_m - self.start_s_m, 1e-6)
        percent = 100.0 * min(max((s_m - self.start_s_m) / whole_m, 0.0), 1.0)
        at_the_end = left_m <= GOAL_TOLERANCE_M and abs(offset_m) <= self._lane_width(s_m)
        goal_x_m, goal_y_m = route.goal_xy_m
        nearly = percent > _NEARLY_PERCENT and math.hypot(x_m - goal_x_m, y_m - goal_y_m) < _NEARLY_M
        arrived = at_the_end or nearly
        percent = 100.0 if arrived else percent
        self._best_percent = max(self._best_percent, percent)
        sample = self._sample_at(s_m)
        return RouteState(
            s_m=s_m,
            progress_m=progress_m,
            distance_to_goal_m=left_m,
            completion_percent=self._best_percent,
            lane_offset_m=offset_m,
            heading_error_deg=wrap_deg(yaw_deg - heading_deg),
            lane_width_m=self._lane_width(s_m),
            command=RoadOption(int(route.command[sample])),
            at_junction=bool(route.junction[sample]),
            waypoints_ego_m=self._waypoints(s_m, x_m, y_m, yaw_deg),
            arrived=arrived,
        )

    def _waypoints(self, s_m: float, x_m: float, y_m: float, yaw_deg: float) -> FloatArray:
        ahead: NDArray[np.complex128] = np.interp(s_m + _AHEAD_M, self.route.s_m, self._line)
        ahead -= complex(x_m, y_m)
        ahead *= cmath.rect(1.0, -math.radians(yaw_deg))
        return ahead.view(np.float64).reshape(-1, 2)

    def _project(self, x_m: float, y_m: float) -> tuple[float, float, float]:
        """Return (s, signed offset, heading of the line) of the line's nearest place around the last one."""
        s = self._s
        first = max(0, bisect.bisect_left(s, self._s_m - _SEARCH_BACK_M) - 1)
        last = min(len(s), bisect.bisect_left(s, self._s_m + _SEARCH_AHEAD_M) + 1) - 1
        # In the frame of each piece of the line: along it, and to the right of it.
        place = (complex(x_m, y_m) - self._line[first:last]) * self._backward[first:last]
        along = np.minimum(np.maximum(place.real, 0.0), self._length_m[first:last])
        distance_m = np.abs(place - along)
        k = int(distance_m.argmin())
        heading_deg = -math.degrees(cmath.phase(self._backward[first + k]))
        return s[first + k] + float(along[k]), math.copysign(distance_m[k], place[k].imag), heading_deg

    def _sample_at(self, s_m: float) -> int:
        return min(bisect.bisect_right(self._s, s_m) - 1, len(self._s) - 1)

    def _lane_width(self, s_m: float) -> float:
        return float(self.route.lane_width_m[self._sample_at(s_m)])


def plan_route(graph: LaneGraph, start: int, goal: int) -> Route:
    """Return the shortest route between two points of the graph.

    Raises:
        ValueError: there is no way, or start and goal are the same point.
    """
    path = graph.path(start, goal)
    if path is None or len(path) < 2:
        raise ValueError(
            f"expected a way from {_place(graph, start)} to {_place(graph, goal)}, found "
            f"{'none' if path is None else 'one point'}; choose another spawn point or goal"
        )
    return route_along(graph, path)


def route_through(graph: LaneGraph, keypoints_m: Sequence[tuple[float, float, float]]) -> Route:
    """Return the route through places of the world frame, each leg the shortest way to the next one's lane.

    Raises:
        ValueError: a place has no lane, or there is no way to it; the text counts the places from 0.
    """
    points = [graph.locate(*place) for place in keypoints_m]
    path = points[:1]
    for k, (here, there) in enumerate(itertools.pairwise(points)):
        leg = graph.path(here, there)
        if leg is None:
            raise ValueError(
                f"expected a way from keypoint {k} at {_place(graph, here)} to keypoint {k + 1} at "
                f"{_place(graph, there)}, found none on this map; correct the route file"
            )
        path += leg[1:]
    if len(path) < 2:
        raise ValueError(f"expected keypoints at different places, found only {_place(graph, path[0])}")
    return route_along(graph, path)


def random_route(
    graph: LaneGraph, start: int, goals: Sequence[int], min_length_m: float, rng: np.random.Generator
) -> Route:
    """Return a route of at least `min_length_m` from `start` to a random one of `goals`.

    On a map too small for one way of that length, the route passes several of the goals.

    Raises:
        ValueError: none of the goals can be reached.
    """
    path = [start]
    for _ in range(_MAX_LEGS):
        wanted_m = min_length_m - _path_length_m(graph, path)
        if wanted_m <= 0.0 and len(path) > 1:
            return route_along(graph, path)
        leg = graph.path(path[-1], _random_goal(graph, path[-1], goals, wanted_m, rng))
        assert leg is not None
        path += leg[1:]
    raise ValueError(
        f"expected a route of {min_length_m:g} m from {_place(graph, start)}, found "
        f"{_path_length_m(graph, path):.0f} m after {_MAX_LEGS} legs; ask for a shorter route_length_m"
    )


def route_along(graph: LaneGraph, path: Sequence[int]) -> Route:
    """Return the smooth line through at least two points of the graph."""
    points = np.asarray(path, dtype=np.intp)
    xy, yaw = graph.xyz_m[points, :2], np.radians(graph.yaw_deg[points])
    chord = np.linalg.norm(np.diff(xy, axis=0), axis=1)
    tangent = np.stack([np.cos(yaw), np.sin(yaw)], axis=1)
    # Each chord becomes as many steps as it needs, along a Hermite curve.
    steps = np.maximum(1, np.ceil(chord / _SAMPLE_M).astype(np.intp))
    k = np.repeat(np.arange(len(chord)), steps)
    t = ((np.arange(len(k)) - np.repeat(np.cumsum(steps) - steps, steps) + 1) / steps[k])[:, None]
    length_m = chord[k, None]
    line = (
        (2 * t**3 - 3 * t**2 + 1) * xy[k]
        + (t**3 - 2 * t**2 + t) * length_m * tangent[k]
        + (3 * t**2 - 2 * t**3) * xy[k + 1]
        + (t**3 - t**2) * length_m * tangent[k + 1]
    )
    line, owner = np.concatenate([xy[:1], line]), np.concatenate([[0], k])
    moved = np.concatenate([[True], np.linalg.norm(np.diff(line, axis=0), axis=1) > 1e-6])
    line, owner = line[moved], owner[moved]
    s_m = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
    return Route(
        s_m=s_m,
        xy_m=line,
        lane_width_m=graph.lane_width_m[points][owner],
        command=_announce(_commands(graph, points)[owner], s_m),
        junction=(graph.junction[points] >= 0)[owner],
        path=tuple(int(point) for point in path),
    )


def wrap_deg(angle_deg: float) -> float:
    """Return the same angle between -180 and 180."""
    return (angle_deg + 180.0) % 360.0 - 180.0


def _commands(graph: LaneGraph, points: NDArray[np.intp]) -> NDArray[np.int64]:
    """Return the manoeuvre on the way from each point of a path to its next one."""
    commands = np.full(len(points), int(RoadOption.LANEFOLLOW), dtype=np.int64)
    junction = graph.junction[points]
    entry = 0
    while entry < len(points):
        exit_ = entry + 1
        while exit_ < len(points) and junction[exit_] == junction[entry]:
            exit_ += 1
        if junction[entry] >= 0:
            after = min(exit_, len(points) - 1)
            turn_deg = wrap_deg(float(graph.yaw_deg[points[after]] - graph.yaw_deg[points[entry]]))
            commands[entry:exit_] = int(_turn(turn_deg))
        entry = exit_
    for k in range(len(points) - 1):
        a, b = int(points[k]), int(points[k + 1])
        if graph.is_lane_change(a, b):
            dx, dy, _ = graph.xyz_m[b] - graph.xyz_m[a]
            yaw = math.radians(float(graph.yaw_deg[a]))
            to_the_right = math.cos(yaw) * dy - math.sin(yaw) * dx > 0.0
            commands[k] = RoadOption.CHANGELANERIGHT if to_the_right else RoadOption.CHANGELANELEFT
    return commands


def _turn(turn_deg: float) -> RoadOption:
    if abs(turn_deg) < _TURN_DEG:
        return RoadOption.STRAIGHT
    return RoadOption.RIGHT if turn_deg > 0.0 else RoadOption.LEFT


def _announce(commands: NDArray[np.int64], s_m: FloatArray) -> NDArray[np.int64]:
    """Let each manoeuvre be in force some metres before it begins."""
    manoeuvres = np.flatnonzero(commands != int(RoadOption.LANEFOLLOW))
    if not len(manoeuvres):
        return commands
    coming = np.searchsorted(manoeuvres, np.arange(len(commands)))
    next_one = manoeuvres[np.minimum(coming, len(manoeuvres) - 1)]
    near = (coming < len(manoeuvres)) & (s_m[next_one] - s_m <= _COMMAND_AHEAD_M)
    return np.where(near, commands[next_one], commands)


def _random_goal(graph: LaneGraph, start: int, goals: Sequence[int], wanted_m: float, rng: np.random.Generator) -> int:
    """Choose among the goals that lie far enough but not more than twice as far; else take the one that fits best."""
    ends = np.unique(np.asarray(goals, dtype=np.intp))
    cost_m = graph.distances_from(start)[ends]
    reachable = np.isfinite(cost_m) & (ends != start)
    if not reachable.any():
        raise ValueError(
            f"expected a way from {_place(graph, start)} to some spawn point, found none; choose another one"
        )
    suitable = ends[reachable & (cost_m >= wanted_m) & (cost_m <= 2.0 * max(wanted_m, 50.0))]
    if len(suitable):
        return int(rng.choice(suitable))
    far_enough = reachable & (cost_m >= wanted_m)
    if far_enough.any():
        return int(ends[np.argmin(np.where(far_enough, cost_m, np.inf))])
    return int(ends[np.argmax(np.where(reachable, cost_m, -np.inf))])


def _path_length_m(graph: LaneGraph, path: Sequence[int]) -> float:
    return float(np.linalg.norm(np.diff(graph.xyz_m[list(path)], axis=0), axis=1).sum())


def _place(graph: LaneGraph, point: int) -> str:
    x, y, _ = graph.xyz_m[point]
    return f"({x:.1f}, {y:.1f}) m"
