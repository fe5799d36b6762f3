"""Two simulators that are asked the same show the same, bit for bit."""

from __future__ import annotations

import gc
import hashlib
import math
import queue
from typing import Any

import pytest
from sim_process import carla, connect, make_synchronous, running_sim

TICKS = 150
GET_S = 10.0
SENSORS: dict[str, dict[str, float]] = {
    "sensor.camera.rgb": {"image_size_x": 160, "image_size_y": 90},
    "sensor.camera.depth": {"image_size_x": 160, "image_size_y": 90},
    "sensor.camera.instance_segmentation": {"image_size_x": 160, "image_size_y": 90},
    "sensor.lidar.ray_cast": {"channels": 16, "points_per_second": 40_000, "noise_stddev": 0.02, "noise_seed": 3},
    "sensor.other.radar": {"points_per_second": 2000},
    "sensor.other.imu": {"noise_accel_stddev_x": 0.1},
    "sensor.other.gnss": {"noise_lat_stddev": 0.001},
}


def contents(measurement: Any) -> bytes:
    """What was measured, without the frame's number, which counts from the start of the simulator."""
    match measurement:
        case carla.IMUMeasurement():
            return f"{measurement.accelerometer} {measurement.gyroscope} {measurement.compass!r}".encode()
        case carla.GnssMeasurement():
            return f"{measurement.latitude!r} {measurement.longitude!r} {measurement.altitude!r}".encode()
        case _:
            return bytes(measurement.raw_data)


def drive(port: int) -> tuple[list[str], str]:
    """Hashes of what every sensor sent over all ticks, and of where the vehicles ended."""
    client, world = connect(port)
    make_synchronous(world)
    world = client.reload_world(False)
    world.set_weather(carla.WeatherParameters.HardRainSunset)
    library, points = world.get_blueprint_library(), world.get_map().get_spawn_points()
    models = ("vehicle.lincoln.mkz_2020", "vehicle.audi.tt", "vehicle.carlamotors.firetruck", "vehicle.yamaha.yzf")
    cars = [world.spawn_actor(library.find(model), points[index]) for index, model in enumerate(models)]
    inboxes: list[queue.Queue[Any]] = []
    sensors: list[Any] = []
    for name, settings in SENSORS.items():
        blueprint = library.find(name)
        for attribute, value in settings.items():
            blueprint.set_attribute(attribute, str(value))
        sensors.append(world.spawn_actor(blueprint, carla.Transform(carla.Location(x=1.5, z=2.2)), attach_to=cars[0]))
        inboxes.append(queue.Queue())
        sensors[-1].listen(inboxes[-1].put)
    hashes = [hashlib.sha256() for _ in sensors]
    for tick in range(TICKS):
        for index, car in enumerate(cars):
            steer = 0.3 * math.sin(tick / 20 + index)
            car.apply_control(carla.VehicleControl(throttle=0.6, steer=steer, brake=float(tick % 50 > 45)))
        frame = world.tick()
        for inbox, digest in zip(inboxes, hashes, strict=True):
            measurement = inbox.get(timeout=GET_S)
            assert measurement.frame == frame
            digest.update(contents(measurement))
    places = "".join(f"{car.get_transform()} {car.get_velocity()}" for car in cars)
    for sensor in sensors:
        sensor.stop()
    world.tick()
    del sensors, cars, inboxes
    gc.collect()
    return [digest.hexdigest() for digest in hashes], places


@pytest.mark.timeout(240)  # on a machine that thirty other jobs keep busy
def test_two_simulators_of_one_seed_show_the_same() -> None:
    seen: list[tuple[list[str], str]] = []
    for _ in range(2):
        with running_sim("--seed", "11") as port:
            seen.append(drive(port))
    assert seen[0][1] == seen[1][1]
    assert dict(zip(SENSORS, seen[0][0], strict=True)) == dict(zip(SENSORS, seen[1][0], strict=True))
