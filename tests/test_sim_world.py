"""The world without sockets: birth and death, lights, determinism, and that nothing is hidden from the records."""

from __future__ import annotations

import gc
import math
from typing import Any

import pytest

from zmqcarla.sim import wire
from zmqcarla.sim.actors import Sensor, TrafficLight, Vehicle, Walker
from zmqcarla.sim.motion import VECTOR_FROM
from zmqcarla.sim.roads import RoadMap
from zmqcarla.sim.sensors import SENSORS
from zmqcarla.sim.town import generate_town
from zmqcarla.sim.wire import LightColour
from zmqcarla.sim.world import SimError, World

DELTA_S = 0.05


@pytest.fixture(scope="module")
def road_map() -> RoadMap:
    return RoadMap.load("Town", generate_town())


@pytest.fixture
def world(road_map: RoadMap) -> World:
    return World(road_map)


def point(world: World, index: int = 0) -> Any:
    return tuple(world.road_map.spawn_points[index].tolist())


def car_at(world: World, index: int = 0, model: str = "vehicle.audi.tt") -> Vehicle:
    car = world.spawn(model, [], point(world, index))
    assert isinstance(car, Vehicle)
    return car


def press(world: World, car: Vehicle, throttle: float, steer: float = 0.0, brake: float = 0.0) -> None:
    at = car.row * wire.RECORD_BYTES + wire.SPECIFIC_AT
    wire.VEHICLE_CONTROL.pack_into(world.table.buffer, at, throttle, steer, brake, False, False, False, 0)
    car.asleep = False


def run(world: World, ticks: int) -> None:
    for _ in range(ticks):
        world.tick(DELTA_S)


def test_first_tick_shows_the_spawn_pose_and_then_the_car_settles_and_sleeps(world: World) -> None:
    car = car_at(world)
    run(world, 1)
    assert world.table.pose(car.row) == pytest.approx(point(world), abs=0.005)
    run(world, 40)
    x, y, z, pitch, *_ = world.table.pose(car.row)
    assert (x, y) == pytest.approx(point(world)[:2], abs=0.01)
    ground = world.road_map.heights_m(world.road_map.spawn_points[:1, :2])[0]
    assert z == pytest.approx(ground, abs=0.02)
    assert car.asleep
    assert world.table.motion(car.row) == (0.0,) * 9
    assert abs(pitch) < 1.0


def test_a_place_is_taken_once_and_ids_are_never_reused(world: World) -> None:
    first = car_at(world)
    with pytest.raises(SimError, match="Spawn failed because of collision at spawn position"):
        car_at(world)
    assert world.destroy(first.id)
    assert not world.destroy(first.id)
    second = car_at(world)
    assert second.id > first.id
    world.load_episode(None, reset_settings=False)
    assert car_at(world).id > second.id


def test_the_largest_vehicle_fits_on_every_spawn_point_at_the_same_time(world: World) -> None:
    for index in range(len(world.road_map.spawn_points)):
        car_at(world, index, "vehicle.mitsubishi.fusorosa")
    run(world, 3)
    assert world.impacts == []


def test_unknown_blueprint_and_missing_actor_are_told(world: World) -> None:
    with pytest.raises(SimError, match=r"vehicle\.no\.such"):
        world.spawn("vehicle.no.such", [], point(world))
    with pytest.raises(SimError, match="99999"):
        world.get(99999)
    with pytest.raises(SimError, match="Actor does not match the expected type"):
        world.get_kind(world.spectator.id, Vehicle)


def test_children_follow_and_die_with_their_parent(world: World) -> None:
    car = car_at(world)
    on_roof = (0.5, 0.0, 2.0, 0.0, 90.0, 0.0)
    imu = world.spawn("sensor.other.imu", [], on_roof, car, SENSORS["sensor.other.imu"])
    assert isinstance(imu, Sensor)
    press(world, car, 1.0)
    run(world, 60)
    a, b = world.table.pose(car.row), world.table.pose(imu.row)
    assert b[2] == pytest.approx(a[2] + 2.0, abs=0.05)
    assert (b[4] - a[4]) % 360 == pytest.approx(90.0, abs=0.1)
    world.destroy(car.id)
    assert imu.id not in world.actors
    assert len(world.table) == len(world.actors)


def test_every_record_belongs_to_its_actor_after_births_and_deaths(world: World) -> None:
    cars = [car_at(world, index) for index in range(8)]
    for car in cars[1::2]:
        world.destroy(car.id)
    world.spawn("static.prop.trafficcone01", [], point(world, 1))
    ids = world.table.records["id"][: len(world.table)].tolist()
    assert ids == [actor.id for actor in world.table.actors]
    assert ids == list(world.actors)
    assert [actor.row for actor in world.table.actors] == list(range(len(ids)))


def test_the_table_grows(world: World) -> None:
    for index in range(400):
        world.spawn("static.prop.dirtdebris01", [], (float(index), 0.0, 0.0, 0.0, 0.0, 0.0))
    run(world, 2)
    assert len(world.table.body()) == len(world.actors) * wire.RECORD_BYTES


def busy(road_map: RoadMap) -> World:
    world = World(road_map)
    for index in range(20):
        press(world, car_at(world, index), 0.3 + index / 40, (index % 5 - 2) / 3)
    walker = world.spawn("walker.pedestrian.0001", [], (*point(world, 30)[:2], 1.5, 0.0, 0.0, 0.0))
    at = walker.row * wire.RECORD_BYTES + wire.SPECIFIC_AT
    wire.WALKER_CONTROL.pack_into(world.table.buffer, at, 1.0, 0.2, 0.0, 1.4, False)
    return world


def test_two_runs_are_alike_to_the_bit(road_map: RoadMap) -> None:
    first, second = busy(road_map), busy(road_map)
    for _ in range(300):
        run(first, 1)
        run(second, 1)
        assert bytes(first.table.body()) == bytes(second.table.body())


def test_a_world_rebuilt_from_its_records_moves_on_alike(road_map: RoadMap) -> None:
    """Nothing that moves a vehicle is hidden from the published records."""
    original = World(road_map)
    for index in range(5):
        press(original, car_at(original, index), 0.7, 0.1 * index)
    run(original, 50)
    rebuilt = World(road_map)
    for index in range(5):
        car_at(rebuilt, index)
    for car, twin in zip(original.roster.vehicles, rebuilt.roster.vehicles, strict=True):
        rebuilt.table.records[twin.row] = original.table.records[car.row]
        twin.fresh = False
    for _ in range(60):
        run(original, 1)
        run(rebuilt, 1)
        for car, twin in zip(original.roster.vehicles, rebuilt.roster.vehicles, strict=True):
            assert original.table.pose(car.row) == rebuilt.table.pose(twin.row)
            assert original.table.motion(car.row) == rebuilt.table.motion(twin.row)


def test_rear_end_hit_pushes_the_car_in_front(world: World) -> None:
    hitter = car_at(world)
    run(world, 15)
    x, y, z, pitch, yaw, roll = world.table.pose(hitter.row)
    run_up = 12.0
    ahead = (x + run_up * math.cos(math.radians(yaw)), y + run_up * math.sin(math.radians(yaw)))
    other = world.spawn("vehicle.nissan.micra", [], (*ahead, z + 0.2, pitch, yaw, roll))
    run(world, 10)
    world.table.set_motion(
        hitter.row, (15 * math.cos(math.radians(yaw)), 15 * math.sin(math.radians(yaw)), *(0.0,) * 7)
    )
    hitter.asleep = False
    impacts: list[Any] = []
    for _ in range(30):
        run(world, 1)
        impacts += world.impacts
    assert {hitter, other} == {impacts[0].actor, impacts[0].other}
    assert math.hypot(*impacts[0].impulse[:2]) > 1000
    assert math.dist(world.table.pose(other.row)[:2], ahead) > 1.0


def test_a_walker_walks_on_the_ground_where_it_is_told(world: World) -> None:
    x, y = point(world)[:2]
    walker = world.spawn("walker.pedestrian.0001", [], (x, y, 1.5, 0.0, 0.0, 0.0))
    assert isinstance(walker, Walker)
    run(world, 30)
    at = walker.row * wire.RECORD_BYTES + wire.SPECIFIC_AT
    wire.WALKER_CONTROL.pack_into(world.table.buffer, at, 0.0, 1.0, 0.0, 1.4, False)
    run(world, 20)
    pose = world.table.pose(walker.row)
    assert pose[:2] == pytest.approx((x, y + 1.4), abs=0.01)
    assert pose[2] == pytest.approx(walker.shape.extent_m[2], abs=0.05)
    assert pose[4] == pytest.approx(90.0)
    assert world.table.velocity(walker.row) == pytest.approx((0.0, 1.4, 0.0), abs=1e-5)


def colours(world: World, lights: list[TrafficLight]) -> list[int]:
    return [int(world.table.records["colour"][light.row]) for light in lights]


def test_each_light_gets_its_green_and_conflicting_phases_never_share_it(world: World) -> None:
    phases = world.lights.groups[0]
    lights = [light for phase in phases for light in phase]
    seen: set[int] = set()
    for _ in range(round(16 * len(phases) / DELTA_S)):
        run(world, 1)
        states = colours(world, lights)
        going = {light.id for light, state in zip(lights, states, strict=True) if state != LightColour.RED}
        seen |= going
        assert any(going <= {light.id for light in phase} for phase in phases)
    assert seen == {light.id for light in lights}


def test_light_times_can_be_set_and_frozen(world: World) -> None:
    phase = world.lights.groups[0][0]
    light = phase[0]
    world.lights.set_time(light, LightColour.GREEN, 1.0)
    run(world, 19)
    assert colours(world, [light]) == [LightColour.GREEN]
    run(world, 2)
    assert colours(world, [light]) == [LightColour.YELLOW]
    world.lights.freeze([light.group], True)
    elapsed = float(world.table.records["elapsed_s"][light.row])
    run(world, 200)
    assert colours(world, [light]) == [LightColour.YELLOW]
    assert float(world.table.records["elapsed_s"][light.row]) == elapsed
    world.lights.freeze([light.group], False)
    run(world, 70)
    assert colours(world, [light]) == [LightColour.RED]


def test_a_car_in_a_trigger_box_is_told_its_light_even_asleep(world: World) -> None:
    light = world.lights.groups[0][0][0]
    box = light.trigger_boxes[0]
    x, y, z = box.centre
    car = world.spawn("vehicle.audi.tt", [], (x, y, z - 0.9, 0.0, box.yaw_deg, 0.0))
    assert isinstance(car, Vehicle)
    run(world, 60)
    assert car.asleep
    for colour in (LightColour.RED, LightColour.GREEN):
        world.lights.set_colour(light, colour)
        run(world, 1)
        record = world.table.records[car.row]
        assert (record["has_light"], record["light_id"], record["light_state"]) == (1, light.id, colour)
    far = next(p for p in world.road_map.spawn_points.tolist() if not world.lights.near(p[0], p[1]))
    world.table.set_pose(car.row, tuple(far))
    car.asleep = False
    run(world, 1)
    record = world.table.records[car.row]
    assert (record["has_light"], record["light_id"], record["light_state"]) == (0, 0, LightColour.GREEN)


def test_an_episode_starts_at_zero_and_restarts_the_lights(world: World) -> None:
    car_at(world)
    run(world, 250)
    frame, episode = world.frame, world.episode_id
    before = bytes(World(world.road_map).table.body())
    world.load_episode(None, reset_settings=True)
    assert (world.frame, world.elapsed_s) == (frame, 0.0)
    assert world.episode_id == episode + 1
    assert world.roster.vehicles == []
    fresh = World(world.road_map)
    assert world.table.records["colour"].tolist() == fresh.table.records["colour"].tolist()
    assert len(world.table.body()) == len(before)


def test_a_friction_trigger_acts_inside_and_only_there(world: World) -> None:
    car = car_at(world)
    normal = car.model.grip_mps2
    attributes = [["friction", 3, "0.0"], *(["extent_" + axis, 3, "500.0"] for axis in "xyz")]
    trigger = world.spawn("static.trigger.friction", attributes, point(world))
    run(world, 2)
    assert car.model.grip_mps2 == 0.0
    world.table.set_pose(trigger.row, point(world, 20))
    run(world, 1)
    assert car.model.grip_mps2 == normal


def test_impacts_between_props_and_parked_cars_do_not_repeat(world: World) -> None:
    car_at(world)
    run(world, 60)
    assert world.impacts == []


@pytest.mark.parametrize("count", [1, 12])
@pytest.mark.parametrize(
    ("place", "velocity"),
    [
        ((1e8, -1e8, 0.0), (0.0, 0.0, 0.0)),
        ((0.0, 0.0, 0.0), (9e8, -9e8, 0.0)),
        ((0.0, 0.0, 9e8), (0.0, 9e8, 9e8)),
    ],
)
def test_the_world_bears_what_a_script_may_set(world: World, count: int, place: Any, velocity: Any) -> None:
    cars = [car_at(world, index) for index in range(count)]
    run(world, 2)
    world.table.set_pose(cars[-1].row, (*place, 0.0, 30.0, 0.0))
    world.table.set_motion(cars[-1].row, (*velocity, 0.0, 0.0, 1e6, 0.0, 0.0, 0.0))
    cars[-1].asleep = False
    run(world, 10)
    assert all(map(math.isfinite, world.table.pose(cars[-1].row)))


def test_who_is_set_below_the_ground_stands_on_it_at_once(world: World) -> None:
    car = car_at(world)
    run(world, 2)
    x, y, _, pitch, yaw, roll = world.table.pose(car.row)
    world.table.set_pose(car.row, (x, y, -50.0, pitch, yaw, roll))
    car.asleep = False
    run(world, 1)
    assert world.table.pose(car.row)[2] == pytest.approx(0.0, abs=0.01)
    run(world, 20)
    assert world.table.pose(car.row)[2] == pytest.approx(0.0, abs=0.01)
    assert world.table.velocity(car.row) == (0.0, 0.0, 0.0)


def test_vehicles_that_are_gone_are_freed_without_the_garbage_collector(world: World) -> None:
    """In a ring they would live on, with 60 KB each, until the collector's next full round, hundreds of them."""

    def alive() -> int:
        return sum(isinstance(each, Vehicle) for each in gc.get_objects())

    def traffic_of_an_episode() -> None:
        cars = [car_at(world, index) for index in range(2 * VECTOR_FROM)]
        for car in cars:
            press(world, car, throttle=1.0)
        run(world, 2)
        for car in cars:
            assert world.destroy(car.id)

    traffic_of_an_episode()
    gc.collect()
    before = alive()  # some of the last ones are kept, to see whether the next are the same
    gc.disable()
    try:
        for _ in range(3):
            traffic_of_an_episode()
        assert alive() <= before
    finally:
        gc.enable()
