"""How many ticks a second the embedded simulator gives to the real carla client on this machine.

Two workloads, each with its target (docs/simulator.md):

* one vehicle, no camera: `world.tick()` and a control a tick;
* 30 vehicles within 100 m and one 400x224 RGB camera, whose frame is awaited each tick.

    python tools/bench_sim.py --map Town10HD.xodr --port 2000
"""

from __future__ import annotations

import argparse
import json
import queue
import subprocess
import sys
import time
from typing import Any, cast

import carla as _carla

carla = cast(Any, _carla)

PLAIN_TARGET, CAMERA_TARGET = 2500, 300
NEIGHBOURS, RADIUS_M = 30, 100.0
DELTA_S = 0.05


def start(port: int, map_path: str) -> subprocess.Popen[str]:
    """Start the simulator and wait for its banner."""
    command = [sys.executable, "-m", "zmqcarla.sim", "--port", str(port), "--map", map_path]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    banner = process.stdout.readline().strip()
    if not banner:
        raise SystemExit(f"the simulator did not start (exit code {process.wait(timeout=10)})")
    print(banner, file=sys.stderr)
    return process


def plain(world: Any, ticks: int) -> float:
    """Ticks a second of one vehicle that drives a circle, without sensors."""
    point = world.get_map().get_spawn_points()[0]
    car = world.spawn_actor(world.get_blueprint_library().find("vehicle.lincoln.mkz_2020"), point)
    world.tick()
    control = carla.VehicleControl(throttle=0.4, steer=0.6)
    began = time.perf_counter()
    for _ in range(ticks):
        car.apply_control(control)
        world.tick()
    rate = ticks / (time.perf_counter() - began)
    car.destroy()
    return rate


def with_camera(world: Any, ticks: int) -> tuple[float, int]:
    """Ticks a second with all vehicles driving and the camera's frame awaited; and the number of vehicles."""
    library = world.get_blueprint_library()
    points = world.get_map().get_spawn_points()
    near = sorted(points, key=lambda p: p.location.distance(points[0].location))
    near = [p for p in near if p.location.distance(points[0].location) < RADIUS_M]
    models = [b for b in library.filter("vehicle.*") if str(b.get_attribute("base_type")) != "bicycle"]
    cars: list[Any] = []
    for point in spread(near):
        if len(cars) == NEIGHBOURS:
            break
        car = world.try_spawn_actor(models[len(cars) % len(models)], point)
        if car is not None:
            cars.append(car)
    lens = library.find("sensor.camera.rgb")
    lens.set_attribute("image_size_x", "400")
    lens.set_attribute("image_size_y", "224")
    place = carla.Transform(carla.Location(x=1.5, z=1.7))
    camera = world.spawn_actor(lens, place, attach_to=cars[0])
    images: queue.Queue[Any] = queue.Queue()
    camera.listen(images.put)
    for index, car in enumerate(cars):
        # circles: everybody moves and stays near
        car.apply_control(carla.VehicleControl(throttle=0.25, steer=1.0 if index % 2 else -1.0))
    for _ in range(20):
        world.tick()
        images.get(timeout=10)
    began = time.perf_counter()
    for _ in range(ticks):
        frame = world.tick()
        image = images.get(timeout=10)
        assert image.frame == frame
        cars[0].apply_control(carla.VehicleControl(throttle=0.25, steer=-1.0))
    rate = ticks / (time.perf_counter() - began)
    camera.stop()
    world.tick()
    for actor in (camera, *cars):
        actor.destroy()
    return rate, len(cars)


def spread(near: list[Any]) -> list[Any]:
    """The spawn points, then places 14 m behind each, for maps with fewer than 30 points within reach."""
    behind: list[Any] = []
    for point in near:
        ahead = point.get_forward_vector()
        place = point.location - carla.Location(x=ahead.x * 14, y=ahead.y * 14)
        behind.append(carla.Transform(place, point.rotation))
    return [*near, *behind]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=22990)
    parser.add_argument("--map", default="default", help="path of an .xodr file; the target is for Town10HD")
    parser.add_argument("--ticks", type=int, default=5000, help="of the first workload; the second takes a fifth")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    process = start(options.port, options.map)
    try:
        client = carla.Client("127.0.0.1", options.port)
        client.set_timeout(20.0)
        world = client.get_world()
        world.apply_settings(carla.WorldSettings(synchronous_mode=True, fixed_delta_seconds=DELTA_S))
        result: dict[str, float | str] = {"map": world.get_map().name}
        result["plain_ticks_per_s"] = round(plain(world, options.ticks), 1)
        rate, cars = with_camera(world, options.ticks // 5)
        result["camera_ticks_per_s"], result["camera_vehicles"] = round(rate, 1), cars
    finally:
        process.terminate()
        process.wait(timeout=10)
    if options.json:
        print(json.dumps(result))
        return
    print(f"map {result['map']}")
    print(f"1 vehicle, no camera            {result['plain_ticks_per_s']:8} ticks/s (target {PLAIN_TARGET})")
    print(f"{cars} vehicles, 400x224 RGB camera {rate:8.1f} ticks/s (target {CAMERA_TARGET} on Town10HD)")


if __name__ == "__main__":
    main()
