"""Whether memory stays flat over many episodes.

    python tools/check_memory.py --reloads 1000                      the simulator, over reloads of its world
    python tools/check_memory.py --episodes 200                      an env and its simulator, over resets
    python tools/check_memory.py --episodes 200 --in-pool            the same as a worker of a pool

With reloads, each episode has ten vehicles, a walker and a camera that is listened to, and lasts some ticks. With
episodes, one env with traffic resets again and again; after twenty of them actors, sensors and Python objects must not
become more, and the memory of its process and of the simulator must stay within `--most-percent`.
"""

from __future__ import annotations

import argparse
import gc
import os
import queue
import statistics
import subprocess
import sys
import time
from operator import attrgetter
from typing import Any, NamedTuple, cast

import carla as _carla
import numpy as np
import psutil

import zmqcarla
from zmqcarla.lease import ask_status
from zmqcarla.pool import LocalPool
from zmqcarla.workers.carla_env import CarlaEnv
from zmqcarla.workers.ports import listener_pid
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
    sensors: int
    objects: int
    env_mib: float
    server_mib: float


class EnvHere:
    """An env in this process, and the server that it starts."""

    def __init__(self, settings: dict[str, Any], renew_mib: int) -> None:
        self._env = CarlaEnv(simulator="embedded", **settings)
        self.close = self._env.close

    def reset(self, seed: int | None) -> None:
        """Begin an episode."""
        self._env.reset(seed=seed)

    def step(self) -> None:
        """Drive for a step."""
        self._env.step(STRAIGHT_ON)

    def look(self) -> Size:
        """What there is now."""
        assert self._env.session is not None
        assert self._env.server is not None
        gc.collect()
        return _size(self._env.session.world, os.getpid(), self._env.server.pid, len(gc.get_objects()))


class EnvInPool:
    """An env in the worker of a pool of one; another client counts the actors, without looking at them."""

    def __init__(self, settings: dict[str, Any], renew_mib: int) -> None:
        town = settings.pop("map")
        self._pool = LocalPool(1, map=town, worker={"renew_env_growth_mib": renew_mib})
        try:
            self._vec = zmqcarla.make_vec_env(1, address=self._pool.address, simulator="embedded", env_kwargs=settings)
        except BaseException:
            self._pool.close()
            raise

    def reset(self, seed: int | None) -> None:
        """Begin an episode."""
        self._vec.reset(seed=seed)

    def step(self) -> None:
        """Drive for a step."""
        *_, infos = self._vec.step(STRAIGHT_ON[None])
        assert "worker_lost" not in infos, infos

    def look(self) -> Size:
        """What there is now."""
        (worker,) = ask_status(self._pool.address)["workers"]
        client = carla.Client("127.0.0.1", worker["port"])
        client.set_timeout(30.0)
        server = listener_pid(worker["port"])
        assert server is not None
        return _size(client.get_world(), worker["pid"], server, 0)

    def close(self) -> None:
        """End the pool."""
        self._vec.close()
        self._pool.close()


def _size(world: Any, env_pid: int, server_pid: int, objects: int) -> Size:
    deadline_s = time.monotonic() + 30.0
    while (snapshot := world.get_snapshot()).frame == 0 and time.monotonic() < deadline_s:
        time.sleep(0.01)  # a client's first one takes a moment
    actors = world.get_actors([each.id for each in snapshot])
    sensors = len(actors.filter("sensor.*"))
    env_bytes, server_bytes = psutil.Process(env_pid).memory_info().rss, tree_rss_bytes(server_pid)
    return Size(len(snapshot), sensors, objects, round(env_bytes / 2**20, 1), round(server_bytes / 2**20, 1))


def check_episodes(options: argparse.Namespace) -> int:
    """One env over many resets; 1 when something grew by more than its bound."""
    settings = {
        "map": None if options.map == "default" else options.map,
        "image_size": (64, 48),
        "traffic_vehicles": options.vehicles,
        "traffic_walkers": options.walkers,
        "terminate_on_collision": False,
    }
    env = (EnvInPool if options.in_pool else EnvHere)(settings, options.renew_mib)
    sizes: list[Size] = []
    reset_ms: list[float] = []
    try:
        for number in range(1, options.episodes + 1):
            began_s = time.perf_counter()
            env.reset(0 if number == 1 else number if options.seeded else None)
            reset_ms.append(1e3 * (time.perf_counter() - began_s))
            for _ in range(TICKS):
                env.step()
            sizes.append(env.look())
            if number in (WARM_UP, options.episodes) or number % max(1, options.episodes // 10) == 0:
                print(f"{number} episodes: {sizes[-1]}", flush=True)
    finally:
        env.close()
    return _judge(sizes, reset_ms, options.most_percent)


def _judge(sizes: list[Size], reset_ms: list[float], most_percent: float) -> int:
    before, after = sizes[: min(WARM_UP, len(sizes))], sizes[WARM_UP:] or sizes[-1:]
    grown = {
        name: 100.0 * (max(getattr(size, name) for size in after) / getattr(before[-1], name) - 1.0)
        for name in ("env_mib", "server_mib")
    }
    print(f"reset p50 {statistics.median(reset_ms[1:]):.0f} ms; most growth since episode {WARM_UP}: ", end="")
    print(", ".join(f"{name} {percent:+.1f} %" for name, percent in grown.items()))
    # Not every car finds room in every episode.
    more = [
        name for name in ("actors", "sensors") if max(map(attrgetter(name), after)) > max(map(attrgetter(name), before))
    ]
    print(f"more than in the first {WARM_UP} episodes: {', '.join(more) or 'nothing'}")
    return int(bool(more) or max(grown.values()) > most_percent or after[-1].objects > 1.01 * before[-1].objects)


def main() -> int:
    """The command line; 1 when memory grew by more than the bound."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--map", default="default", help="as for zmqcarla sim")
    parser.add_argument("--reloads", type=int, default=1000)
    parser.add_argument("--most-mib", type=float, default=10.0, help="growth after the first tenth that is too much")
    parser.add_argument("--port", type=int, default=2000)
    parser.add_argument("--episodes", type=int, help="check an env and its simulator over so many resets instead")
    parser.add_argument("--seeded", action="store_true", help="with a seed for each reset")
    parser.add_argument("--in-pool", action="store_true", help="the env in a pool's worker, and not in this process")
    parser.add_argument("--renew-mib", type=int, default=3, help="the worker's renew_env_growth_mib")
    parser.add_argument("--vehicles", type=int, default=30)
    parser.add_argument("--walkers", type=int, default=10)
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
