"""Whether memory stays flat over many episodes.

    python tools/check_memory.py --reloads 1000                      the simulator, over reloads of its world
    python tools/check_memory.py --episodes 200 [--vehicles 20]      an env and its simulator, over resets

With reloads, each episode has ten vehicles, a walker and a camera that is listened to, and lasts some ticks. With
episodes, one env resets again and again; after twenty of them actors and Python objects must not become more, and
the memory of this process and of the simulator must stay within `--most-percent`.
"""

from __future__ import annotations

import argparse
import gc
import queue
import statistics
import subprocess
import sys
import time
from typing import Any, NamedTuple, cast

import carla as _carla
import numpy as np
import psutil

from zmqcarla.workers.carla_env import CarlaEnv
from zmqcarla.workers.vitals import tree_rss_bytes

carla = cast(Any, _carla)

TICKS = 3
WARM_UP = 20
STRAIGHT_ON = np.array([0.0, 0.3, 0.0], dtype=np.float32)


def episode(client: Any) -> None:
    """One episode: everything is spawned, seen, and left to the next reload but for the sensor."""
    world = client.reload_world(False)
    library, points = world.get_blueprint_library(), world.get_map().get_spawn_points()
    cars = [world.spawn_actor(library.find("vehicle.audi.tt"), point) for point in points[:10]]
    world.spawn_actor(library.find("walker.pedestrian.0001"), points[12])
    lens = library.find("sensor.camera.rgb")
    lens.set_attribute("image_size_x", "64")
    lens.set_attribute("image_size_y", "48")
    camera = world.spawn_actor(lens, carla.Transform(carla.Location(z=2.0)), attach_to=cars[0])
    images: queue.Queue[Any] = queue.Queue()
    camera.listen(images.put)
    for _ in range(TICKS):
        world.tick()
        images.get(timeout=20.0)
    camera.stop()
    camera.destroy()


class Size(NamedTuple):
    """What there is after an episode."""

    actors: int
    objects: int
    env_mib: float
    server_mib: float


def check_episodes(options: argparse.Namespace) -> int:
    """One env over many resets; 1 when something grew by more than its bound."""
    env = CarlaEnv(
        simulator="embedded",
        map=None if options.map == "default" else options.map,
        image_size=(64, 48),
        traffic_vehicles=options.vehicles,
        traffic_walkers=options.walkers,
        terminate_on_collision=False,
    )
    sizes: list[Size] = []
    reset_ms: list[float] = []
    try:
        for number in range(1, options.episodes + 1):
            began_s = time.perf_counter()
            env.reset(seed=0 if number == 1 or options.seeded else None)
            reset_ms.append(1e3 * (time.perf_counter() - began_s))
            for _ in range(TICKS):
                env.step(STRAIGHT_ON)
            sizes.append(_size(env))
            if number in (WARM_UP, options.episodes) or number % max(1, options.episodes // 10) == 0:
                print(f"{number} episodes: {sizes[-1]}", flush=True)
    finally:
        env.close()
    first, last = sizes[min(WARM_UP, len(sizes)) - 1], sizes[-1]
    # Not every car finds room in every episode.
    most_actors = max(size.actors for size in sizes[:WARM_UP])
    grown = {name: 100.0 * (getattr(last, name) / getattr(first, name) - 1.0) for name in ("env_mib", "server_mib")}
    print(f"reset p50 {statistics.median(reset_ms[1:]):.0f} ms; growth since episode {WARM_UP}: ", end="")
    print(", ".join(f"{name} {percent:+.1f} %" for name, percent in grown.items()))
    too_much = max(grown.values()) > options.most_percent
    return int(too_much or last.actors > most_actors or last.objects > 1.01 * first.objects)


def _size(env: CarlaEnv) -> Size:
    assert env.session is not None
    assert env.server is not None
    gc.collect()
    server_mib = tree_rss_bytes(env.server.pid) / 2**20
    env_mib = psutil.Process().memory_info().rss / 2**20
    return Size(len(env.session.world.get_actors()), len(gc.get_objects()), round(env_mib, 1), round(server_mib, 1))


def main() -> int:
    """The command line; 1 when memory grew by more than the bound."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--map", default="default", help="as for zmqcarla sim")
    parser.add_argument("--reloads", type=int, default=1000)
    parser.add_argument("--most-mib", type=float, default=10.0, help="growth after the first tenth that is too much")
    parser.add_argument("--port", type=int, default=2000)
    parser.add_argument("--episodes", type=int, help="check an env and its simulator over so many resets instead")
    parser.add_argument("--seeded", action="store_true", help="with a seed for each reset, so a new Traffic Manager")
    parser.add_argument("--vehicles", type=int, default=20)
    parser.add_argument("--walkers", type=int, default=5)
    parser.add_argument("--most-percent", type=float, default=5.0, help="growth of memory that is too much")
    options = parser.parse_args()
    if options.episodes is not None:
        return check_episodes(options)
    command = [sys.executable, "-m", "zmqcarla.sim", "--port", str(options.port), "--map", options.map]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        if not server.stdout.readline():
            raise SystemExit(f"the simulator did not start (exit code {server.wait(timeout=10)})")
        client = carla.Client("127.0.0.1", options.port)
        client.set_timeout(30.0)
        world = client.get_world()
        world.apply_settings(carla.WorldSettings(synchronous_mode=True, fixed_delta_seconds=0.05))
        sizes: list[float] = []
        for number in range(1, options.reloads + 1):
            episode(client)
            if number % max(1, options.reloads // 10) == 0:
                process = psutil.Process(server.pid)
                sizes.append(process.memory_info().rss / 2**20)
                print(f"{number} reloads: {sizes[-1]:.1f} MiB, {process.num_fds()} open files", flush=True)
    finally:
        server.terminate()
        server.communicate(timeout=15)
    return int(sizes[-1] - sizes[0] > options.most_mib)


if __name__ == "__main__":
    sys.exit(main())
