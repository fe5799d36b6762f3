"""What a client can read of vehicles is all there is: set on others of their kind, it moves them on exactly alike."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
from sim_process import DELTA_S, carla, connect, make_synchronous, running_sim

TICKS = 200
MODELS = ("vehicle.tesla.model3", "vehicle.yamaha.yzf", "vehicle.carlamotors.european_hgv", "vehicle.audi.tt")


@pytest.fixture(scope="module")
def town_port() -> Iterator[int]:
    with running_sim() as port:
        yield port


@pytest.fixture(scope="module", params=[("default", 16), ("default", 4), ("Town04", 14)], ids=str)
def crowd(request: pytest.FixtureRequest) -> Iterator[tuple[int, int]]:
    """A simulator's port and how many vehicles to try there: many move as arrays, few as floats."""
    name, count = request.param
    if name != "default":
        name = str(request.getfixturevalue("town_maps") / f"{name}.xodr")
    with running_sim("--map", name) as port:
        yield port, count


def born(world: Any, count: int, first: int) -> list[Any]:
    library, points = world.get_blueprint_library(), world.get_map().get_spawn_points()
    return [
        world.spawn_actor(library.find(MODELS[index % len(MODELS)]), points[first + index]) for index in range(count)
    ]


def control_of(index: int, tick: int) -> Any:
    return carla.VehicleControl(
        throttle=0.3 + 0.05 * (index % 8),
        steer=0.4 * math.sin(index + tick / 40),
        brake=1.0 if (tick // 50 + index) % 5 == 0 else 0.0,
        reverse=index % 7 == 6,
        manual_gear_shift=index % 4 == 3,
        gear=2,
    )


def numbers(car: Any) -> tuple[float, ...]:
    place, turn = car.get_transform().location, car.get_transform().rotation
    vectors = (car.get_velocity(), car.get_angular_velocity(), car.get_acceleration())
    control = car.get_control()
    return (
        *(place.x, place.y, place.z, turn.pitch, turn.yaw, turn.roll),
        *(number for vector in vectors for number in (vector.x, vector.y, vector.z)),
        *(control.throttle, control.steer, control.brake, control.gear),
    )


def drive_on(client: Any, world: Any, cars: list[Any], ticks: range) -> list[list[tuple[float, ...]]]:
    """The trajectory; the last car is left alone, parked."""
    seen: list[list[tuple[float, ...]]] = []
    for tick in ticks:
        if tick % 10 == 0:
            client.apply_batch_sync(
                [carla.command.ApplyVehicleControl(car, control_of(i, tick)) for i, car in enumerate(cars[:-1])]
            )
        world.tick()
        seen.append([numbers(car) for car in cars])
    return seen


def restored(client: Any, cars: list[Any], states: list[Any]) -> None:
    commands: list[Any] = []
    for car, (transform, velocity, spin, control) in zip(cars, states, strict=True):
        commands += [
            carla.command.ApplyTransform(car, transform),
            carla.command.ApplyTargetVelocity(car, velocity),
            carla.command.ApplyTargetAngularVelocity(car, spin),
            carla.command.ApplyVehicleControl(car, control),
        ]
    assert not any(response.has_error() for response in client.apply_batch_sync(commands))


def test_set_state_goes_on_to_the_bit(crowd: tuple[int, int]) -> None:
    port, count = crowd
    client, world = connect(port)
    make_synchronous(world)
    world = client.reload_world(False)
    cars = born(world, count, 0)
    drive_on(client, world, cars, range(100))
    states = [(c.get_transform(), c.get_velocity(), c.get_angular_velocity(), c.get_control()) for c in cars]
    wanted = drive_on(client, world, cars, range(100, 100 + TICKS))
    assert max(math.dist(a[:2], b[:2]) for a, b in zip(wanted[0], wanted[-1], strict=True)) > 10.0

    world = client.reload_world(False)
    others = born(world, count, 20)
    for _ in range(3):
        world.tick()
    restored(client, others, states)
    got = drive_on(client, world, others, range(100, 100 + TICKS))
    # the first acceleration is that of the jump to the set state
    assert [state[:12] for state in got[0]] == [state[:12] for state in wanted[0]]
    assert got[1:] == wanted[1:]
    world.apply_settings(carla.WorldSettings(synchronous_mode=False))


def test_what_acts_on_a_vehicle_acts_by_its_mass(town_port: int) -> None:
    client, world = connect(town_port)
    make_synchronous(world)
    world = client.reload_world(False)
    car = born(world, 1, 0)[0]
    for _ in range(15):
        world.tick()
    physics = car.get_physics_control()
    forward, mass = car.get_transform().get_forward_vector(), physics.mass
    car.add_impulse(carla.Vector3D(forward.x * mass * 6, forward.y * mass * 6, 0.0))
    world.tick()
    after_impulse = car.get_velocity().length()
    assert after_impulse == pytest.approx(6.0, abs=0.1)
    car.add_force(carla.Vector3D(forward.x * mass * 20, forward.y * mass * 20, 0.0))
    world.tick()
    assert car.get_velocity().length() - after_impulse == pytest.approx(20 * DELTA_S, abs=0.1)
    car.add_impulse(carla.Vector3D(0.0, 0.0, mass * 3))
    for _ in range(4):
        world.tick()
    assert car.get_location().z > 0.3
    for _ in range(20):
        world.tick()
    assert abs(car.get_location().z) < 0.05

    speeds: list[float] = []
    for heavier in (1.0, 3.0):
        car.set_transform(world.get_map().get_spawn_points()[0])
        car.set_target_velocity(carla.Vector3D())
        physics.mass = mass * heavier
        car.apply_physics_control(physics)
        car.apply_control(carla.VehicleControl(throttle=1.0))
        for _ in range(40):
            world.tick()
        speeds.append(car.get_velocity().length())
    assert speeds[0] > 2.0 * speeds[1] > 1.0

    car.apply_ackermann_control(carla.VehicleAckermannControl(steer=0.2, steer_speed=0.1, speed=5.0))
    world.tick()
    first = abs(car.get_control().steer)
    for _ in range(100):
        world.tick()
    assert first < 0.02
    assert abs(car.get_control().steer) > 0.15
    assert car.get_velocity().length() == pytest.approx(5.0, abs=1.0)
    car.enable_constant_velocity(carla.Vector3D(7.0, 0.0, 0.0))
    for _ in range(5):
        world.tick()
    assert car.get_velocity().length() == pytest.approx(7.0, abs=1e-3)
    world.apply_settings(carla.WorldSettings(synchronous_mode=False))
