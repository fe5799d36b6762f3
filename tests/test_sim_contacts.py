"""Collisions: with the map's houses, poles and trees, with each other, and that nobody jumps over anything."""

from __future__ import annotations

import math
from typing import Any

import pytest
from sim_process import carla, connect, make_synchronous, running_sim

from zmqcarla.sim import wire
from zmqcarla.sim.actors import Vehicle
from zmqcarla.sim.collisions import Rectangle, overlap
from zmqcarla.sim.contacts import rectangle_of
from zmqcarla.sim.obstacles import Obstacle, obstacles_of
from zmqcarla.sim.roads import RoadMap
from zmqcarla.sim.town import generate_town
from zmqcarla.sim.world import SimError, World

DELTA_S = 0.05


@pytest.fixture(scope="module")
def road_map() -> RoadMap:
    return RoadMap.load("Town", generate_town())


@pytest.fixture
def world(road_map: RoadMap) -> World:
    return World(road_map)


def lonely(world: World, kind: str) -> tuple[Obstacle, float]:
    """An obstacle of a kind with nothing else on the way to it, and the direction (rad) of a free way."""
    obstacles = obstacles_of(world.road_map)
    for item in obstacles.items:
        if item.actor.type_id != kind:
            continue
        for turn in range(8):
            yaw = turn * math.pi / 4 + math.atan2(item.rectangle.sin, item.rectangle.cos)
            middle = item.rectangle.x - 13 * math.cos(yaw), item.rectangle.y - 13 * math.sin(yaw)
            way = Rectangle(*middle, math.cos(yaw), math.sin(yaw), 16.0, 1.6)
            others = (o for o in obstacles.near(*middle, 17.0) if o is not item and o.low_m < 3.0)
            if all(overlap(way, other.rectangle) is None for other in others):
                return item, yaw
    raise AssertionError(f"no {kind} stands free")


def drive_at(world: World, obstacle: Obstacle, yaw: float, speed_mps: float, back_m: float = 18.0) -> Vehicle:
    x, y = obstacle.rectangle.x - back_m * math.cos(yaw), obstacle.rectangle.y - back_m * math.sin(yaw)
    z = float(world.road_map.ground.heights_m(world.road_map.spawn_points[:1, :2])[0])
    car = world.spawn("vehicle.audi.tt", [], (x, y, z, 0.0, math.degrees(yaw), 0.0))
    assert isinstance(car, Vehicle)
    world.table.set_motion(car.row, (speed_mps * math.cos(yaw), speed_mps * math.sin(yaw), *(0.0,) * 7))
    return car


@pytest.mark.parametrize("kind", ["static.building", "static.pole", "static.vegetation"])
@pytest.mark.parametrize("delta_s", [0.02, 0.05, 0.1])
def test_nobody_drives_through_what_stands_there(world: World, kind: str, delta_s: float) -> None:
    obstacle, yaw = lonely(world, kind)
    car = drive_at(world, obstacle, yaw, 50.0)
    impacts: list[Any] = []
    for _ in range(round(1.0 / delta_s)):
        world.tick(delta_s)
        impacts += world.impacts
        x, y, _, _, heading, _ = world.table.pose(car.row)
        found = overlap(rectangle_of(car, x, y, heading), obstacle.rectangle)
        assert found is None or found.depth_m < 0.02
        assert (obstacle.rectangle.x - x) * math.cos(yaw) + (obstacle.rectangle.y - y) * math.sin(yaw) > 0.0
    first = impacts[0]
    assert (first.actor, first.other.type_id) == (car, kind)
    assert first.other.wire()[0] == 0
    # the impulse is on the car: against its way, of the size of its momentum
    against = -(first.impulse[0] * math.cos(yaw) + first.impulse[1] * math.sin(yaw))
    assert 0.7 * 50 * car.model.mass_kg < against < 1.3 * 50 * car.model.mass_kg
    assert world.table.motion(car.row)[0] * math.cos(yaw) + world.table.motion(car.row)[1] * math.sin(yaw) < 1.0


def test_two_fast_cars_cannot_pass_through_each_other(world: World) -> None:
    x, y, z, _, yaw, _ = world.road_map.spawn_points[0].tolist()
    cos, sin = math.cos(math.radians(yaw)), math.sin(math.radians(yaw))
    cars: list[Any] = []
    for far, way in ((0.0, 1.0), (23.3, -1.0)):
        heading = yaw if way > 0 else yaw + 180
        car = world.spawn("vehicle.micro.microlino", [], (x + far * cos, y + far * sin, z - 0.4, 0.0, heading, 0.0))
        world.table.set_motion(car.row, (50 * way * cos, 50 * way * sin, *(0.0,) * 7))
        cars.append(car)
    hits = 0
    for _ in range(5):
        world.tick(0.1)
        hits += len(world.impacts)
        places = [world.table.pose(car.row) for car in cars]
        assert (places[1][0] - places[0][0]) * cos + (places[1][1] - places[0][1]) * sin > 2.0
    assert hits >= 1


def test_a_car_that_scrapes_along_a_wall_keeps_going(world: World) -> None:
    wall = Rectangle(0.0, 0.0, 1.0, 0.0, 50.0, 1.0)
    before = Rectangle(-10.0, 1.9, math.cos(-0.05), math.sin(-0.05), 2.0, 0.9)
    after = before._replace(x=-8.5, y=1.85)
    found = overlap(wall, after, 1.5, -0.05)
    assert found is not None
    assert (found.normal_x, found.normal_y) == pytest.approx((0.0, 1.0))
    assert found.depth_m < 0.3


def test_cones_are_hit_and_litter_is_not(world: World) -> None:
    x, y, z, _, yaw, _ = world.road_map.spawn_points[0].tolist()
    cos, sin = math.cos(math.radians(yaw)), math.sin(math.radians(yaw))
    hit: dict[str, int] = {}
    for name in ("static.prop.dirtdebris01", "static.prop.trafficcone01", "static.prop.streetbarrier"):
        world.load_episode(None, reset_settings=False)
        car = world.spawn("vehicle.audi.tt", [], (x, y, z - 0.4, 0.0, yaw, 0.0))
        prop = world.spawn(name, [], (x + 6 * cos, y + 6 * sin, z - 0.5, 0.0, yaw, 0.0))
        world.table.set_motion(car.row, (15 * cos, 15 * sin, *(0.0,) * 7))
        hit[name] = 0
        for _ in range(20):
            world.tick(DELTA_S)
            hit[name] += sum(impact.other is prop or impact.actor is prop for impact in world.impacts)
    assert hit.pop("static.prop.dirtdebris01") == 0
    assert all(hit.values())


def test_props_with_physics_are_pushed_and_stop_at_walls(world: World) -> None:
    house, yaw = lonely(world, "static.building")
    cos, sin = math.cos(yaw), math.sin(yaw)
    place = (house.rectangle.x - 14 * cos, house.rectangle.y - 14 * sin)
    barrel = world.spawn("static.prop.barrel", [], (*place, 0.5, 0.0, 0.0, 0.0))
    barrel.physics = True
    for _ in range(20):
        world.tick(DELTA_S)
    assert world.table.pose(barrel.row)[2] == pytest.approx(0.0, abs=1e-3)
    drive_at(world, house, yaw, 20.0)
    heard: set[tuple[str, str]] = set()
    for _ in range(60):
        world.tick(DELTA_S)
        heard |= {(impact.actor.type_id, impact.other.type_id) for impact in world.impacts}
    assert ("static.prop.barrel", "static.building") in heard
    assert ("static.prop.barrel", "vehicle.audi.tt") in heard
    x, y = world.table.pose(barrel.row)[:2]
    assert math.dist((x, y), place) > 2.0
    found = overlap(rectangle_of(barrel, x, y, world.table.pose(barrel.row)[4]), house.rectangle)
    assert found is None or found.depth_m < 0.02


def test_mass_decides_who_is_pushed(world: World) -> None:
    x, y, z, _, yaw, _ = world.road_map.spawn_points[0].tolist()
    cos, sin = math.cos(math.radians(yaw)), math.sin(math.radians(yaw))
    speeds: dict[str, float] = {}
    for name in ("vehicle.nissan.micra", "vehicle.mitsubishi.fusorosa"):
        world.load_episode(None, reset_settings=False)
        car = world.spawn("vehicle.audi.tt", [], (x, y, z - 0.4, 0.0, yaw, 0.0))
        parked = world.spawn(name, [], (x + 11 * cos, y + 11 * sin, z - 0.4, 0.0, yaw, 0.0))
        for _ in range(5):
            world.tick(DELTA_S)
        world.table.set_motion(car.row, (15 * cos, 15 * sin, *(0.0,) * 7))
        car.asleep = False  # type: ignore[attr-defined]
        fastest = 0.0
        for _ in range(20):
            world.tick(DELTA_S)
            fastest = max(fastest, math.hypot(*world.table.velocity(parked.row)))
        speeds[name] = fastest
    assert speeds["vehicle.nissan.micra"] > 3 * speeds["vehicle.mitsubishi.fusorosa"] > 0.0


def test_without_collisions_or_physics(world: World) -> None:
    x, y, z, _, yaw, _ = world.road_map.spawn_points[0].tolist()
    cos, sin = math.cos(math.radians(yaw)), math.sin(math.radians(yaw))
    car = world.spawn("vehicle.audi.tt", [], (x, y, z - 0.4, 0.0, yaw, 0.0))
    other = world.spawn("vehicle.audi.tt", [], (x + 8 * cos, y + 8 * sin, z - 0.4, 0.0, yaw, 0.0))
    other.physics = False
    world.table.set_motion(car.row, (15 * cos, 15 * sin, *(0.0,) * 7))
    for _ in range(12):
        world.tick(DELTA_S)
    assert world.table.pose(other.row)[:2] == pytest.approx((x + 8 * cos, y + 8 * sin), abs=1e-4)
    assert math.hypot(world.table.pose(car.row)[0] - x, world.table.pose(car.row)[1] - y) < 8.0
    other.collides = False
    world.table.set_motion(car.row, (15 * cos, 15 * sin, *(0.0,) * 7))
    car.asleep = False  # type: ignore[attr-defined]
    for _ in range(12):
        world.tick(DELTA_S)
        assert world.impacts == []
    assert math.hypot(world.table.pose(car.row)[0] - x, world.table.pose(car.row)[1] - y) > 8.0


def test_a_walker_does_not_walk_into_a_house(world: World) -> None:
    house, yaw = lonely(world, "static.building")
    back = 14.0
    place = (house.rectangle.x - back * math.cos(yaw), house.rectangle.y - back * math.sin(yaw))
    walker = world.spawn("walker.pedestrian.0001", [], (*place, 1.0, 0.0, 0.0, 0.0))
    at = walker.row * wire.RECORD_BYTES + wire.SPECIFIC_AT
    wire.WALKER_CONTROL.pack_into(world.table.buffer, at, math.cos(yaw), math.sin(yaw), 0.0, 5.0, False)
    heard: set[str] = set()
    for _ in range(100):
        world.tick(DELTA_S)
        heard |= {impact.other.type_id for impact in world.impacts}
    x, y = world.table.pose(walker.row)[:2]
    found = overlap(rectangle_of(walker, x, y, 0.0), house.rectangle)
    assert found is None or found.depth_m < 0.02
    assert heard == {"static.building"}


def test_nothing_is_born_inside_a_house(world: World) -> None:
    house, _ = lonely(world, "static.building")
    with pytest.raises(SimError, match="collision at spawn position"):
        world.spawn("vehicle.audi.tt", [], (house.rectangle.x, house.rectangle.y, 0.5, 0.0, 0.0, 0.0))


def test_the_clients_collision_sensor_names_the_wall() -> None:
    with running_sim() as port:
        client, world = connect(port)
        make_synchronous(world)
        world = client.reload_world(False)
        town = World(RoadMap.load("Town", client.get_world().get_map().to_opendrive()))
        house, yaw = lonely(town, "static.building")
        x, y = house.rectangle.x - 18 * math.cos(yaw), house.rectangle.y - 18 * math.sin(yaw)
        place = carla.Transform(carla.Location(x, y, 0.3), carla.Rotation(yaw=math.degrees(yaw)))
        library = world.get_blueprint_library()
        car = world.spawn_actor(library.find("vehicle.audi.tt"), place)
        sensor = world.spawn_actor(library.find("sensor.other.collision"), carla.Transform(), attach_to=car)
        events: list[Any] = []
        sensor.listen(events.append)
        car.set_target_velocity(carla.Vector3D(50 * math.cos(yaw), 50 * math.sin(yaw), 0.0))
        for _ in range(30):
            world.tick()
        sensor.stop()
        world.tick()
        assert {event.other_actor.type_id for event in events} == {"static.building"}
        assert events[0].other_actor.id == 0
        impulse = events[0].normal_impulse
        assert impulse.x * math.cos(yaw) + impulse.y * math.sin(yaw) < -10_000
        sensor.destroy()
        car.destroy()
        world.apply_settings(carla.WorldSettings(synchronous_mode=False))
