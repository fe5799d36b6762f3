"""Routes on a real road network: planned in order, smooth, on the lanes, with the right commands; and followed."""

from __future__ import annotations

import functools
import math
from pathlib import Path

import carla
import numpy as np
import pytest
from numpy.typing import NDArray

from zmqcarla.workers.lane_graph import LaneGraph
from zmqcarla.workers.navigation import (
    NUM_WAYPOINTS,
    WAYPOINT_SPACING_M,
    RoadOption,
    Route,
    RouteState,
    RouteTracker,
    plan_route,
    random_route,
    wrap_deg,
)

MAPS = Path(__file__).parents[1] / ".." / "shared" / "data" / "maps"
TOWNS = ["Town01", "Town10HD", "Town04"]


@functools.cache
def town(name: str) -> tuple[carla.Map, LaneGraph]:
    path = MAPS / f"{name}.xodr"
    if not path.exists():
        pytest.skip(f"no {path}")
    carla_map = carla.Map(name, path.read_text())
    return carla_map, LaneGraph(carla_map)


def random_town_route(name: str, seed: int, length_m: float = 300.0) -> Route:
    _, graph = town(name)
    rng = np.random.default_rng(seed)
    goals = [int(k) for k in rng.integers(len(graph), size=100)]
    return random_route(graph, int(rng.integers(len(graph))), goals, length_m, rng)


@pytest.mark.parametrize("name", TOWNS)
def test_the_graph_covers_every_driving_lane_and_leads_on(name: str) -> None:
    carla_map, graph = town(name)
    from_anywhere = graph.distances_from(graph.locate(*graph.xyz_m[0]))
    assert np.isfinite(from_anywhere).mean() > 0.95
    for waypoint in carla_map.generate_waypoints(37.0):
        here = waypoint.transform.location
        point = graph.locate(here.x, here.y, here.z)
        assert math.dist((here.x, here.y), graph.xyz_m[point, :2]) < 3.0


@pytest.mark.parametrize("name", TOWNS)
def test_a_random_route_is_long_enough_smooth_and_on_the_lanes(name: str) -> None:
    carla_map, _ = town(name)
    for seed in range(5):
        route = random_town_route(name, seed)
        assert route.length_m >= 300.0
        steps = np.diff(route.xy_m, axis=0)
        assert np.all(np.diff(route.s_m) > 0.0)
        assert np.diff(route.s_m).max() < 0.8
        heading = np.degrees(np.arctan2(steps[:, 1], steps[:, 0]))
        assert max(abs(wrap_deg(float(a - b))) for a, b in zip(heading[1:], heading, strict=False)) < 30.0
        following = route.command == RoadOption.LANEFOLLOW
        for x, y in route.xy_m[following & ~route.junction][::20]:
            centre = carla_map.get_waypoint(carla.Location(float(x), float(y))).transform.location
            assert math.dist((x, y), (centre.x, centre.y)) < 0.9  # a quarter of a lane


def test_the_same_generator_state_gives_the_same_route() -> None:
    first, second = random_town_route("Town10HD", 7), random_town_route("Town10HD", 7)
    assert np.array_equal(first.xy_m, second.xy_m)
    assert np.array_equal(first.command, second.command)


def test_a_route_longer_than_the_town_passes_several_goals() -> None:
    assert random_town_route("Town01", 1, 5000.0).length_m >= 5000.0


@pytest.mark.parametrize("name", ["Town01", "Town10HD"])
def test_commands_name_the_turn_that_the_line_makes(name: str) -> None:
    seen: set[int] = set()
    for seed in range(12):
        route = random_town_route(name, seed)
        for first, last in runs(route.junction):
            command = int(route.command[first])
            turn_deg = heading_deg(route, last) - heading_deg(route, first)
            expected = {RoadOption.RIGHT: (20, 180), RoadOption.LEFT: (-180, -20), RoadOption.STRAIGHT: (-50, 50)}
            low, high = expected[RoadOption(command)]
            if last < len(route.s_m) - 1:  # the route may end inside a junction
                assert low <= wrap_deg(turn_deg) <= high
            seen.add(command)
            before = int(np.searchsorted(route.s_m, route.s_m[first] - 10.0))
            if first > before and not route.junction[before:first].any():
                assert route.command[first - 1] != RoadOption.LANEFOLLOW
    assert seen == {RoadOption.LEFT, RoadOption.RIGHT, RoadOption.STRAIGHT}


def test_a_lane_change_moves_one_lane_to_the_named_side() -> None:
    found = 0
    for seed in range(30):
        route = random_town_route("Town04", seed)
        for option, sign in ((RoadOption.CHANGELANERIGHT, 1.0), (RoadOption.CHANGELANELEFT, -1.0)):
            for first, last in runs(route.command == option):
                yaw = math.radians(heading_deg(route, first))
                dx, dy = route.xy_m[last] - route.xy_m[first]
                if abs(wrap_deg(heading_deg(route, last) - heading_deg(route, first))) < 5.0:
                    assert sign * (math.cos(yaw) * dy - math.sin(yaw) * dx) > 2.5
                    found += 1
    assert found >= 3


def test_following_the_line_exactly_completes_the_route() -> None:
    route = random_town_route("Town10HD", 3)
    tracker = RouteTracker(route, *route.xy_m[0])
    progress_m = 0.0
    state = tracker.update(float(route.xy_m[0, 0]), float(route.xy_m[0, 1]), 0.0)
    for k, (x, y) in enumerate(route.xy_m):
        state = tracker.update(x, y, heading_deg(route, k))
        progress_m += state.progress_m
        assert abs(state.lane_offset_m) < 1e-6
        assert abs(state.heading_error_deg) < 35.0
        assert state.distance_to_goal_m == pytest.approx(route.length_m - route.s_m[k], abs=1e-6)
    assert state.arrived
    assert state.completion_percent == 100.0
    assert progress_m == pytest.approx(route.length_m, abs=1e-6)


def test_offset_is_positive_on_the_right_and_heading_error_to_the_right() -> None:
    route = straight_route()
    tracker = RouteTracker(route, 0.0, 0.0)
    state = tracker.update(10.0, 1.5, 20.0)  # CARLA's y points right of x
    assert state.lane_offset_m == pytest.approx(1.5)
    assert state.heading_error_deg == pytest.approx(20.0)
    assert tracker.update(10.0, -1.5, -20.0).lane_offset_m == pytest.approx(-1.5)


def test_waypoints_are_in_the_ego_frame_and_stop_at_the_goal() -> None:
    route = straight_route()
    tracker = RouteTracker(route, 0.0, 0.0)
    ahead = tracker.update(10.0, 1.0, 0.0).waypoints_ego_m
    assert ahead.shape == (NUM_WAYPOINTS, 2)
    assert np.allclose(ahead[:, 0], WAYPOINT_SPACING_M * np.arange(1, NUM_WAYPOINTS + 1))
    assert np.allclose(ahead[:, 1], -1.0)
    turned = tracker.update(10.0, 0.0, 90.0).waypoints_ego_m  # looking right: the road lies to the left
    assert np.allclose(turned[:, 0], 0.0, atol=1e-9)
    assert np.all(turned[:, 1] < 0.0)
    state = drive_to(tracker, 95.0)
    assert np.allclose(state.waypoints_ego_m[-1], (5.0, 0.0))


def test_completion_keeps_its_best_value_and_progress_turns_negative_backwards() -> None:
    route = straight_route()
    tracker = RouteTracker(route, 0.0, 0.0)
    best = drive_to(tracker, 50.0)
    back = tracker.update(45.0, 0.0, 0.0)
    assert back.progress_m == pytest.approx(-5.0)
    assert back.completion_percent == best.completion_percent == pytest.approx(50.0)


def test_passing_the_goal_beside_the_road_does_not_count() -> None:
    route = straight_route()
    tracker = RouteTracker(route, 0.0, 0.0)
    state = drive_to(tracker, 95.0, y_m=12.0)
    assert not tracker.update(99.5, 12.0, 0.0).arrived
    assert state.completion_percent < 100.0


def test_a_place_without_a_way_to_it_is_an_error() -> None:
    _, graph = town("Town01")
    with pytest.raises(ValueError, match="choose another spawn point or goal"):
        plan_route(graph, 5, 5)


def drive_to(tracker: RouteTracker, end_m: float, y_m: float = 0.0) -> RouteState:
    """Move along x in steps of five metres."""
    for x in range(0, int(end_m), 5):
        tracker.update(float(x), y_m, 0.0)
    return tracker.update(end_m, y_m, 0.0)


def straight_route() -> Route:
    s_m = np.linspace(0.0, 100.0, 201)
    return Route(
        s_m=s_m,
        xy_m=np.stack([s_m, np.zeros_like(s_m)], axis=1),
        lane_width_m=np.full(201, 4.0),
        command=np.full(201, int(RoadOption.LANEFOLLOW), dtype=np.int64),
        junction=np.zeros(201, dtype=np.bool_),
    )


def heading_deg(route: Route, k: int) -> float:
    a, b = (k, k + 1) if k + 1 < len(route.s_m) else (k - 1, k)
    dx, dy = route.xy_m[b] - route.xy_m[a]
    return math.degrees(math.atan2(dy, dx))


def runs(mask: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """First and last index of every run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(int)))
    return [(int(a), int(b) - 1) for a, b in zip(edges[::2], edges[1::2], strict=True)]
