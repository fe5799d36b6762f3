"""The default town and real maps: proven against carla.Map, not against our own parser."""

import math
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import carla
import numpy as np
import pytest

from zmqcarla.sim.motorway import generate_motorway
from zmqcarla.sim.opendrive import parse
from zmqcarla.sim.roads import MapError, RoadMap
from zmqcarla.sim.town import TOWN_NAME, generate_town

MAPS = Path(__file__).resolve().parents[2] / "shared" / "data" / "maps"
REAL = ("Town01", "Town10HD", "Town04")


@lru_cache(maxsize=8)
def loaded(name: str) -> RoadMap:
    if name.startswith(TOWN_NAME):
        blocks, seed = (int(part) for part in name.removeprefix(TOWN_NAME).split("-"))
        return RoadMap.load(TOWN_NAME, generate_town(blocks, seed))
    if name.startswith("Motorway"):
        lanes, seed = (int(part) for part in name.removeprefix("Motorway").split("-"))
        return RoadMap.load(name, generate_motorway(lanes, seed))
    path = MAPS / f"{name}.xodr"
    if not path.exists():
        pytest.skip(f"{path} is not there: real maps are not part of the repository")
    return RoadMap.load(name, path.read_text())


TOWNS = (f"{TOWN_NAME}3-0", f"{TOWN_NAME}2-1", f"{TOWN_NAME}4-5", "Motorway4-4")


def key_of(waypoint: Any) -> tuple[int, int, int]:
    return waypoint.road_id, waypoint.section_id, waypoint.lane_id


def reach(graph: dict[Any, set[Any]], start: Any) -> set[Any]:
    seen, todo = {start}, [start]
    while todo:
        fresh = graph.get(todo.pop(), set()) - seen
        seen |= fresh
        todo += fresh
    return seen


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "not XML"),
        ("hello", "'hello'"),
        ("<html><body/></html>", "<html>"),
        ("<OpenDRIVE/>", "no driving lane"),
        ('<OpenDRIVE><road id="1" length="x"/></OpenDRIVE>', "length='x'"),
        ('<OpenDRIVE><road id="1" length="9"/></OpenDRIVE>', "without a planView"),
    ],
)
def test_text_that_is_no_map_is_named_before_carla_sees_it(text: str, found: str) -> None:
    with pytest.raises(MapError, match="expected an OpenDRIVE document") as caught:
        RoadMap.load("bad", text)
    assert found in str(caught.value)


def test_unsupported_geometry_is_named() -> None:
    text = generate_town(2).replace("<line />", "<bezier />", 1)
    with pytest.raises(MapError, match="geometry bezier"):
        RoadMap.load("bad", text)


ONE_ROAD = """<?xml version="1.0"?><OpenDRIVE><header revMajor="1" revMinor="4">
<geoReference>+proj=tmerc +lat_0=0 +lon_0=0</geoReference></header>
<road name="r" length="50" id="1" junction="-1"><link/><planView>
<geometry s="0" x="10" y="5" hdg="0.5" length="50">{shape}</geometry></planView><elevationProfile/><lateralProfile/>
<lanes><laneSection s="0"><center><lane id="0" type="none" level="false"/></center><right>
<lane id="-1" type="driving" level="false"><width sOffset="0" a="3.5" b="0" c="0" d="0"/></lane>
</right></laneSection></lanes></road></OpenDRIVE>"""


@pytest.mark.parametrize(
    "shape",
    [
        '<spiral curvStart="0.0" curvEnd="0.02"/>',
        '<spiral curvStart="0.03" curvEnd="-0.01"/>',
        '<poly3 a="0" b="0" c="0.003" d="-0.00002"/>',
        '<paramPoly3 pRange="normalized" aU="0" bU="50" cU="0" dU="-2" aV="0" bV="0" cV="10" dV="-3"/>',
        '<paramPoly3 pRange="arcLength" aU="0" bU="1" cU="0" dU="0" aV="0" bV="0" cV="0.002" dV="0"/>',
    ],
)
def test_courses_run_where_the_carla_library_has_them(shape: str) -> None:
    text = ONE_ROAD.format(shape=shape)
    road, carla_map = parse(text).roads[1], cast("Any", carla.Map("one", text))
    for s_m in (0.5, 10.0, 25.0, 49.0):
        theirs = carla_map.get_waypoint_xodr(1, -1, s_m).transform
        (x, y, _), yaw = road.points(np.array([s_m]), np.array([-1.75]))[0], road.yaws_deg(np.array([s_m]))[0]
        assert (theirs.location.x, theirs.location.y) == pytest.approx((x, y), abs=0.01)
        assert abs(math.remainder(theirs.rotation.yaw - yaw, 360.0)) < 0.05


def test_a_road_too_short_to_park_on_is_still_a_map() -> None:
    text = ONE_ROAD.format(shape="<line/>").replace('length="50"', 'length="8"')
    points = RoadMap.load("short", text).spawn_points
    assert points.shape == (1, 6)


def test_the_town_depends_on_its_arguments_only() -> None:
    assert generate_town(3, 7) == generate_town(3, 7)
    assert generate_town(3, 7) != generate_town(3, 8)
    with pytest.raises(ValueError, match="blocks >= 2"):
        generate_town(1)
    assert generate_motorway(3, 7) == generate_motorway(3, 7)
    assert generate_motorway(3, 7) != generate_motorway(3, 8)
    with pytest.raises(ValueError, match="2 to 5 lanes"):
        generate_motorway(1)


@pytest.mark.parametrize("name", TOWNS)
def test_every_spawn_point_of_a_town_leads_to_every_other(name: str) -> None:
    road_map = loaded(name)
    graph: dict[Any, set[Any]] = {}
    for start, end in road_map.carla_map.get_topology():
        graph.setdefault(key_of(start), set()).add(key_of(end))
        if start.lane_change in (carla.LaneChange.Left, carla.LaneChange.Both):
            graph[key_of(start)].add(key_of(start.get_left_lane()))
        if start.lane_change in (carla.LaneChange.Right, carla.LaneChange.Both):
            graph[key_of(start)].add(key_of(start.get_right_lane()))
    keys = {key_of(spawn_waypoint(road_map, pose)) for pose in road_map.spawn_points}
    assert len(road_map.spawn_points) >= 60
    for start in keys:
        assert keys <= reach(graph, start)


@pytest.mark.parametrize("name", TOWNS)
def test_lanes_of_a_town_join_without_a_gap(name: str) -> None:
    for start, _ in loaded(name).carla_map.get_topology():
        last = [start, *start.next_until_lane_end(0.5)][-1]
        onward = last.next(0.7)
        assert onward
        here = last.transform.location
        assert all(abs(here.distance(waypoint.transform.location) - 0.7) < 0.15 for waypoint in onward)


def test_a_town_has_routes_of_more_than_300_m() -> None:
    road_map = loaded(TOWNS[0])
    for pose in road_map.spawn_points[::20]:
        waypoint, visited = spawn_waypoint(road_map, pose), set[tuple[int, int, int]]()
        for _ in range(150):
            onward = waypoint.next(2.0)
            waypoint = next((item for item in onward if key_of(item) not in visited), onward[0])
            visited.add(key_of(waypoint))
        assert len(visited) > 4


def spawn_waypoint(road_map: RoadMap, pose: np.ndarray[Any, Any]) -> Any:
    place = carla.Location(*(float(part) for part in pose[:3]))
    return road_map.carla_map.get_waypoint(place, project_to_road=True, lane_type=carla.LaneType.Driving)


@pytest.mark.parametrize("name", [*TOWNS, *REAL])
def test_spawn_points_are_legal_and_a_bus_fits_on_all_of_them(name: str) -> None:
    road_map = loaded(name)
    poses = road_map.spawn_points
    assert poses.dtype == np.float64
    assert poses.shape[1] == 6
    assert len(poses) >= 60
    assert ((poses[:, 4] > -180.0) & (poses[:, 4] <= 180.0)).all()
    for pose in poses:
        waypoint = spawn_waypoint(road_map, pose)
        place, turn = waypoint.transform.location, waypoint.transform.rotation.yaw - pose[4]
        yaw = math.radians(pose[4])
        assert not waypoint.is_junction
        aside = (place.y - pose[1]) * math.cos(yaw) - (place.x - pose[0]) * math.sin(yaw)
        assert abs(aside) < 0.05
        assert math.hypot(place.x - pose[0], place.y - pose[1]) < 0.5
        assert abs(math.remainder(turn, 360.0)) < 1.0
        assert 0.3 <= pose[2] - place.z <= 0.6
        assert not any(item.is_junction for item in (*waypoint.next(5.5), *waypoint.previous(5.5)))
    offset = poses[None, :, :2] - poses[:, None, :2]
    cos, sin = np.cos(np.radians(poses[:, 4]))[:, None], np.sin(np.radians(poses[:, 4]))[:, None]
    along = np.abs(offset[..., 0] * cos + offset[..., 1] * sin)
    across = np.abs(offset[..., 1] * cos - offset[..., 0] * sin)
    apart = (along > 10.5) | (across > 4.0) | (np.abs(poses[None, :, 2] - poses[:, None, 2]) > 4.0)
    np.fill_diagonal(apart, val=True)
    assert apart.all()


@pytest.mark.parametrize("name", [*TOWNS, *REAL])
def test_signals_rule_the_lanes_before_their_junction(name: str) -> None:
    road_map = loaded(name)
    landmarks = {mark.id for mark in road_map.carla_map.get_all_landmarks()}
    assert road_map.signals
    for signal in road_map.signals:
        assert signal.opendrive_id in landmarks
        yaw = math.radians(signal.yaw_deg)
        for box in signal.trigger_boxes:
            waypoint = road_map.carla_map.get_waypoint(carla.Location(*box.centre))
            assert not waypoint.is_junction
            assert abs(math.remainder(waypoint.transform.rotation.yaw - box.yaw_deg, 360.0)) < 1.0
            if not signal.type_id.startswith("traffic.speed_limit."):
                ahead = {item.junction_id for item in waypoint.next(15.0)}
                assert signal.junction_id in ahead
            # the box lies within the union, which is given in the actor's frame with x across the lane
            right = (box.centre[0] - signal.location[0], box.centre[1] - signal.location[1])
            x = right[0] * math.cos(yaw) + right[1] * math.sin(yaw)
            y = -right[0] * math.sin(yaw) + right[1] * math.cos(yaw)
            assert abs(x - signal.box_location[0]) <= signal.box_extent[0] + 1e-6
            assert abs(y - signal.box_location[1]) <= signal.box_extent[1] + 1e-6
        first = signal.trigger_boxes[0]
        assert abs(math.remainder(signal.yaw_deg - first.yaw_deg - 90.0, 360.0)) < 1e-6
        assert min(signal.box_extent) > 0.5


def test_speed_limit_signs_of_a_real_map_are_actors() -> None:
    road_map = loaded("Town01")
    marks = {mark.id: mark.value for mark in road_map.carla_map.get_all_landmarks_of_type("274")}
    signs = {s.opendrive_id: s.type_id for s in road_map.signals if s.type_id.startswith("traffic.speed_limit.")}
    assert signs == {number: f"traffic.speed_limit.{round(value)}" for number, value in marks.items()}
    assert len(signs) == 22


@pytest.mark.parametrize("name", [*TOWNS, *REAL])
def test_every_light_is_green_in_some_phase_of_its_junction(name: str) -> None:
    road_map = loaded(name)
    lights = {item.opendrive_id: item.junction_id for item in road_map.signals if "light" in item.type_id}
    phases = {
        light: junction_id for junction_id, group in road_map.light_groups.items() for phase in group for light in phase
    }
    assert phases == lights


def test_the_town_has_lights_stop_and_yield_signs_and_crosswalks() -> None:
    road_map = loaded(TOWNS[0])
    kinds = [signal.type_id for signal in road_map.signals]
    assert kinds.count("traffic.traffic_light") >= 20
    assert kinds.count("traffic.stop") == 2
    assert kinds.count("traffic.yield") == 1
    assert len(road_map.carla_map.get_crosswalks()) >= 100
    limits = road_map.speed_limits_kmh(road_map.spawn_points[:, :2])
    assert set(limits.tolist()) <= {30.0, 40.0, 50.0}
    assert len(set(limits.tolist())) >= 2
    latitude, longitude = road_map.georeference
    assert (latitude, longitude) == (49.0094, 8.4044)


@pytest.mark.parametrize("name", [TOWNS[0], *REAL])
def test_heights_are_those_of_the_road_also_on_and_under_bridges(name: str) -> None:
    road_map = loaded(name)
    places = [item.transform.location for item in road_map.carla_map.generate_waypoints(10.0)]
    points = np.array([(place.x, place.y, place.z) for place in places])
    errors = np.abs(road_map.heights_m(points[:, :2], points[:, 2] + 0.5) - points[:, 2])
    assert np.median(errors) < 0.01
    assert errors.max() < 0.2  # Town04 has kerb-high steps between overlapping lanes
    low_x, low_y, high_x, high_y = road_map.bounds_m
    assert ((points[:, 0] >= low_x) & (points[:, 0] <= high_x)).all()
    assert ((points[:, 1] >= low_y) & (points[:, 1] <= high_y)).all()
    far = road_map.heights_m(np.array([[low_x - 500.0, low_y], [high_x, high_y + 500.0]]))
    assert np.isfinite(far).all()


def test_equal_maps_give_equal_road_maps() -> None:
    first, second = (RoadMap.load(TOWN_NAME, generate_town(2)) for _ in range(2))
    assert first.spawn_points.tobytes() == second.spawn_points.tobytes()
    assert first.signals == second.signals
    assert first.light_groups == second.light_groups
