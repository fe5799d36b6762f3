"""Vehicles on hills, bridges and banked roads: they stand and drive on the surface that is under them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, cast

import carla as _carla
import numpy as np
import pytest

from zmqcarla.sim import wire
from zmqcarla.sim.actors import Vehicle
from zmqcarla.sim.ground import Ground, lane_strips
from zmqcarla.sim.opendrive import parse
from zmqcarla.sim.roads import RoadMap
from zmqcarla.sim.world import World

carla = cast("Any", _carla)

BANKED = """<?xml version="1.0"?><OpenDRIVE><header revMajor="1" revMinor="4"/>
<road name="" length="80" id="1" junction="-1"><link/>
 <planView><geometry s="0" x="0" y="0" hdg="0" length="80"><line/></geometry></planView>
 <elevationProfile><elevation s="0" a="2" b="0.05" c="0" d="0"/></elevationProfile>
 <lateralProfile><superelevation s="0" a="0.1" b="0" c="0" d="0"/>{crossfall}</lateralProfile>
 <lanes><laneSection s="0">
  <left><lane id="1" type="driving"><width sOffset="0" a="4" b="0" c="0" d="0"/></lane></left>
  <center><lane id="0" type="none"/></center>
  <right><lane id="-1" type="driving"><width sOffset="0" a="4" b="0" c="0" d="0"/></lane></right>
 </laneSection></lanes></road></OpenDRIVE>"""


@pytest.fixture(scope="module")
def hills(town_maps: Path) -> RoadMap:
    return RoadMap.load("Town04", (town_maps / "Town04.xodr").read_text())


def steered(world: World, car: Vehicle, speed_mps: float) -> Any:
    """Let a car follow its lane at a speed for the next tick; the waypoint under it."""
    x, y, z, _, yaw, _ = world.table.pose(car.row)
    vx, vy, _ = world.table.velocity(car.row)
    here = world.road_map.carla_map.get_waypoint(carla.Location(x, y, z))
    ahead = max(4.0, 0.5 * speed_mps)
    aim = (here.next(ahead) or [here])[0].transform.location
    angle = math.atan2(aim.y - y, aim.x - x) - math.radians(yaw)
    turn = math.atan(2 * (car.model.front_m + car.model.rear_m) * math.sin(angle) / ahead)
    steer = max(-1.0, min(1.0, turn / car.model.powertrain(0, speed_mps)[2]))
    push = speed_mps - math.hypot(vx, vy)
    pedals = (max(0.0, min(1.0, push)), steer, max(0.0, min(1.0, -push / 3)))
    at = car.row * wire.RECORD_BYTES + wire.SPECIFIC_AT
    wire.VEHICLE_CONTROL.pack_into(world.table.buffer, at, *pedals, False, False, False, 0)
    return here


@pytest.mark.parametrize(("speed_mps", "delta_s"), [(8.0, 0.05), (14.0, 0.01), (14.0, 0.1)])
def test_a_car_follows_height_and_slope_of_its_road(hills: RoadMap, speed_mps: float, delta_s: float) -> None:
    world = World(hills)
    steepness = np.abs(hills.spawn_points[:, 3])
    start = hills.spawn_points[int(np.argmax(steepness))].tolist()
    car = world.spawn("vehicle.tesla.model3", [], tuple(start))
    assert isinstance(car, Vehicle)
    yaw = math.radians(start[4])
    world.tick(delta_s)
    world.table.set_motion(car.row, (speed_mps * math.cos(yaw), speed_mps * math.sin(yaw), *(0.0,) * 7))
    heights: list[float] = []
    steepest, on_lane, ticks = 0.0, 0, round(12 / delta_s)
    for _ in range(ticks):
        here = steered(world, car, speed_mps)
        x, y, z, pitch, _, roll = world.table.pose(car.row)
        world.tick(delta_s)
        road, beyond = here.transform.location, (here.next(2.0) or [here])[0].transform.location
        slope_deg = math.degrees(math.atan2(beyond.z - road.z, 2.0))
        assert abs(world.table.velocity(car.row)[2]) < 0.2 * speed_mps + 0.5
        heights.append(z)
        steepest = max(steepest, abs(pitch))
        if math.hypot(x - road.x, y - road.y) < 1.0:
            on_lane += 1
            assert abs(z - road.z) < 0.25 or len(heights) * delta_s < 0.7
            assert abs(pitch - slope_deg) < 3.0
            assert abs(roll) < 3.0
    assert on_lane > 0.8 * ticks
    assert max(heights) - min(heights) > 2.0
    assert steepest > 2.0


def test_on_and_under_a_bridge_everybody_stays_on_his_level(hills: RoadMap) -> None:
    assert hills.ground.has_bridges
    x, y = np.meshgrid(np.arange(-25.0, 25.0, 2.0), np.arange(2.0, 44.0, 2.0))
    points = np.stack([x.ravel(), y.ravel()], axis=1)
    top = hills.heights_m(points)
    low = hills.heights_m(points, np.zeros(len(points)))
    middle = points[int(np.argmax(top - low))]
    upper_m, lower_m = float((top - low).max()) + float(low[np.argmax(top - low)]), float(low[np.argmax(top - low)])
    assert upper_m - lower_m > 8.0
    world = World(hills)
    stood = (0.0, 90.0, 0.0)
    above = world.spawn("vehicle.audi.tt", [], (*middle.tolist(), upper_m + 0.3, *stood))
    below = world.spawn("vehicle.audi.tt", [], (*middle.tolist(), lower_m + 0.3, *stood))
    for _ in range(40):
        world.tick(0.05)
        assert world.impacts == []
    assert world.table.pose(above.row)[2] == pytest.approx(upper_m, abs=0.2)
    assert world.table.pose(below.row)[2] == pytest.approx(lower_m, abs=0.2)


@pytest.mark.parametrize("delta_s", [0.01, 0.05, 0.1])
def test_off_the_road_at_any_speed_nobody_sinks_or_takes_off_for_good(hills: RoadMap, delta_s: float) -> None:
    world = World(hills)
    for index in range(0, 120, 10):
        pose = hills.spawn_points[index].tolist()
        car = world.spawn("vehicle.tesla.model3", [], tuple(pose))
        yaw = math.radians(pose[4])
        world.tick(delta_s)
        world.table.set_motion(car.row, (50 * math.cos(yaw), 50 * math.sin(yaw), *(0.0,) * 7))
    rows = [car.row for car in world.roster.vehicles]
    for _ in range(round(5 / delta_s)):
        world.tick(delta_s)
        places = world.table.records["location"][rows].astype(np.float64)
        above = places[:, 2] - hills.heights_m(places[:, :2], places[:, 2])
        assert np.isfinite(places).all()
        assert above.min() > -0.6
        assert above.max() < 12.0
    assert np.abs(world.table.records["rotation"][rows][:, ::2]).max() < 60.0


def test_one_point_has_the_height_that_many_have(hills: RoadMap) -> None:
    chance = np.random.default_rng(0)
    (left, top, right, bottom), ground = hills.bounds_m, hills.ground
    points = chance.uniform((left - 50, top - 50), (right + 50, bottom + 50), (300, 2))
    near = chance.uniform(-1, 12, 300)
    alone = [ground.height_m(x, y, z) for (x, y), z in zip(points.tolist(), near.tolist(), strict=True)]
    assert alone == pytest.approx(ground.heights_m(points, near).tolist(), abs=1e-9)


@pytest.mark.parametrize("crossfall", ["", '<crossfall side="right" s="0" a="0.02" b="0" c="0" d="0"/>'])
def test_banked_roads_lean(crossfall: str) -> None:
    document = parse(BANKED.format(crossfall=crossfall))
    ground = Ground(lane_strips(document))
    assert ground.flat_m is None
    # CARLA's y points right: t = -y; the left side is higher
    fall = 0.02 if crossfall else 0.0
    points = np.array([(40.0, -2.0), (40.0, 2.0), (20.0, 0.0)])
    wanted = [4 + 2 * math.tan(0.1), 4 - 2 * math.tan(0.1) - 2 * math.tan(fall), 3.0]
    assert ground.heights_m(points).tolist() == pytest.approx(wanted, abs=0.03)
    heights, normals = ground.surface(points)
    assert heights.tolist() == pytest.approx(wanted, abs=0.03)
    assert np.linalg.norm(normals, axis=1) == pytest.approx(np.ones(3))
    slope = -normals[:2] / normals[:2, 2:]
    assert slope[:, 0].tolist() == pytest.approx([0.05, 0.05], abs=0.01)
    assert slope[:, 1].tolist() == pytest.approx([-math.tan(0.1), -math.tan(0.1) - math.tan(fall)], abs=0.01)
