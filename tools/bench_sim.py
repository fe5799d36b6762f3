"""How fast the embedded simulator is for the real carla client on this machine, each figure with its target.

Every workload runs through the client: `world.tick()`, and all measurements of the tick taken in before the next.
Beside the rate stands what a tick costs the server in CPU time, which other jobs on the machine disturb less.

    python tools/bench_sim.py --map Town10HD.xodr --port 2000
    python tools/bench_sim.py --map Town10HD.xodr --reloads 1000      # memory over many episodes
"""

from __future__ import annotations

import argparse
import contextlib
import json
import queue
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict, dataclass
from typing import Any, cast

import carla as _carla
import psutil

carla = cast(Any, _carla)

RADIUS_M = 100.0
DELTA_S = 0.05
WARM_TICKS = 10
LENS = {"image_size_x": 400, "image_size_y": 224}
BEAMS = {"channels": 64, "points_per_second": 600_000, "rotation_frequency": 1 / DELTA_S, "range": 80}
VIEWS = ((1.5, 0.0), (1.5, 90.0), (1.5, -90.0), (-1.5, 180.0))


@dataclass(frozen=True, slots=True)
class Figure:
    """One line: what was measured, and what it should be at least or at most on two cores with Town10HD."""

    what: str
    value: float
    unit: str
    target: str = ""
    server_ms: float | None = None

    def __str__(self) -> str:
        cpu = "" if self.server_ms is None else f"{self.server_ms:8.2f} ms server CPU a tick"
        return f"{self.what:46}{self.value:9.2f} {self.unit:8} {self.target:10}{cpu}"


@dataclass(slots=True)
class Simulator:
    """A running simulator and a client of it."""

    process: subprocess.Popen[str]
    client: Any
    world: Any
    cpu: psutil.Process

    def server_s(self) -> float:
        """CPU time that the server has used."""
        times = self.cpu.cpu_times()
        return float(times.user + times.system)

    def memory_mb(self) -> float:
        """Resident memory of the server."""
        return float(self.cpu.memory_info().rss) / 2**20


@contextlib.contextmanager
def running(port: int, map_path: str) -> Generator[tuple[Simulator, float], None, None]:
    """A simulator in synchronous mode, and the seconds from its start to the end of its first tick."""
    command = [sys.executable, "-m", "zmqcarla.sim", "--port", str(port), "--map", map_path]
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        banner = process.stdout.readline().strip()
        if not banner:
            raise SystemExit(f"the simulator did not start (exit code {process.wait(timeout=10)})")
        client = carla.Client("127.0.0.1", port)
        client.set_timeout(20.0)
        world = client.get_world()
        world.apply_settings(carla.WorldSettings(synchronous_mode=True, fixed_delta_seconds=DELTA_S))
        world.tick()
        yield Simulator(process, client, world, psutil.Process(process.pid)), time.perf_counter() - began
    finally:
        process.terminate()
        process.wait(timeout=10)


def traffic(world: Any, count: int) -> list[Any]:
    """Vehicles near the first spawn point (further away when there are more than fit), driving in circles."""
    points = world.get_map().get_spawn_points()
    middle = points[0].location
    points.sort(key=lambda p: p.location.distance(middle))
    near = [p for p in points if p.location.distance(middle) < RADIUS_M]
    library = world.get_blueprint_library()
    models = [b for b in library.filter("vehicle.*") if str(b.get_attribute("base_type")) != "bicycle"]
    cars: list[Any] = []
    for place in [*near, *map(behind, near), *points[len(near) :], *map(behind, points[len(near) :])]:
        if len(cars) == count:
            break
        car = world.try_spawn_actor(models[len(cars) % len(models)], place)
        if car is not None:
            cars.append(car)
    for index, car in enumerate(cars):
        # circles: everybody moves and stays near
        car.apply_control(carla.VehicleControl(throttle=0.25, steer=1.0 if index % 2 else -1.0))
    return cars


def behind(point: Any) -> Any:
    """The place 14 m behind a spawn point, for maps with few points within reach."""
    ahead = point.get_forward_vector()
    place = point.location - carla.Location(x=ahead.x * 14, y=ahead.y * 14)
    return carla.Transform(place, point.rotation)


def sensor(world: Any, car: Any, name: str, place: Any, settings: dict[str, Any]) -> tuple[Any, queue.Queue[Any]]:
    """A listening sensor on a car."""
    blueprint = world.get_blueprint_library().find(name)
    for attribute, value in settings.items():
        blueprint.set_attribute(attribute, str(value))
    actor = world.spawn_actor(blueprint, place, attach_to=car)
    inbox: queue.Queue[Any] = queue.Queue()
    actor.listen(inbox.put)
    return actor, inbox


def cameras(count: int) -> Callable[[Any, Any], list[tuple[Any, queue.Queue[Any]]]]:
    """Makes RGB cameras that look in different directions."""

    def make(world: Any, car: Any) -> list[tuple[Any, queue.Queue[Any]]]:
        places = [carla.Transform(carla.Location(x=x, z=1.7), carla.Rotation(yaw=yaw)) for x, yaw in VIEWS[:count]]
        return [sensor(world, car, "sensor.camera.rgb", place, LENS) for place in places]

    return make


def lidar(world: Any, car: Any) -> list[tuple[Any, queue.Queue[Any]]]:
    """A lidar that turns once a tick."""
    return [sensor(world, car, "sensor.lidar.ray_cast", carla.Transform(carla.Location(z=2.4)), BEAMS)]


def nothing(_world: Any, _car: Any) -> list[tuple[Any, queue.Queue[Any]]]:
    """No sensor."""
    return []


def rate(simulator: Simulator, vehicles: int, make: Callable[[Any, Any], Any], ticks: int) -> tuple[float, float]:
    """Ticks a second, and the server's CPU time a tick in ms, with all frames awaited."""
    world = simulator.world
    cars = traffic(world, vehicles)
    sensors = make(world, cars[0])
    control = carla.VehicleControl(throttle=0.25, steer=-1.0)
    began, server_s = 0.0, 0.0
    for tick in range(WARM_TICKS + ticks):
        if tick == WARM_TICKS:
            began, server_s = time.perf_counter(), simulator.server_s()
        cars[0].apply_control(control)
        frame = world.tick()
        for _, inbox in sensors:
            measurement = inbox.get(timeout=10)
            assert measurement.frame == frame
    result = ticks / (time.perf_counter() - began), (simulator.server_s() - server_s) / ticks * 1e3
    for actor, _ in sensors:
        actor.stop()
    world.tick()
    for actor in (*(actor for actor, _ in sensors), *cars):
        actor.destroy()
    return result


def reloads(simulator: Simulator, count: int) -> Iterator[Figure]:
    """Episodes with a car and a camera, one after the other: how long a reload takes, and what memory grows."""
    spent: list[float] = []
    server_s = simulator.server_s()
    memory = 0.0
    warm = min(10, count // 2)
    for number in range(count):
        if number == warm:
            memory = simulator.memory_mb()
        began = time.perf_counter()
        world = simulator.client.reload_world(False)
        spent.append(time.perf_counter() - began)
        cars = traffic(world, 1)
        (camera, inbox), *_ = cameras(1)(world, cars[0])
        world.tick()
        inbox.get(timeout=10)
        camera.stop()
        world.tick()
        camera.destroy()
    server_ms = (simulator.server_s() - server_s) / count * 1e3
    yield Figure("reload of the episode, as the client waits", sorted(spent)[len(spent) // 2] * 1e3, "ms", "< 50")
    yield Figure("server CPU of an episode, in all", server_ms, "ms")
    grown = simulator.memory_mb() - memory
    yield Figure(f"memory grown over {count - warm} episodes", grown, "MB", "flat")
    yield Figure("memory", simulator.memory_mb(), "MB")


def figures(port: int, map_path: str, ticks: int, episodes: int) -> Iterator[Figure]:
    """Everything, line by line."""
    with running(port, map_path) as (simulator, start_s):
        yield Figure("start of the process to its first tick", start_s, "s", "< 1.5")
        yield Figure("of that, server CPU", simulator.server_s(), "s")
        began = time.perf_counter()
        rate(simulator, 1, cameras(1), 1)
        yield Figure("first camera of a map", time.perf_counter() - began, "s")
        jobs = (
            ("1 vehicle", 1, nothing, ticks, ">= 2500"),
            ("30 vehicles", 30, nothing, ticks // 4, ""),
            ("100 vehicles", 100, nothing, ticks // 10, ""),
            ("30 vehicles, 1 camera 400x224", 30, cameras(1), ticks // 5, ">= 300"),
            ("30 vehicles, 4 cameras 400x224", 30, cameras(4), ticks // 10, ">= 80"),
            ("30 vehicles, lidar 64 channels 600k points/s", 30, lidar, ticks // 20, ">= 60"),
        )
        for what, vehicles, make, number, target in jobs:
            per_s, server_ms = rate(simulator, vehicles, make, max(number, 20))
            yield Figure(what, per_s, "ticks/s", target, server_ms)
        yield from reloads(simulator, episodes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=22990)
    parser.add_argument("--map", default="default", help="path of an .xodr file; the targets are for Town10HD")
    parser.add_argument("--ticks", type=int, default=5000, help="of the first workload; the others take a part")
    parser.add_argument("--reloads", type=int, default=30, help="episodes over which memory is watched")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    for figure in figures(options.port, options.map, options.ticks, options.reloads):
        print(json.dumps(asdict(figure)) if options.json else figure, flush=True)


if __name__ == "__main__":
    main()
