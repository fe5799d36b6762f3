"""Whether the embedded simulator's memory stays flat over many reloads, driven by the real carla client.

Each episode has ten vehicles, a walker and a camera that is listened to, and lasts some ticks.

    python tools/check_memory.py --reloads 1000
"""

from __future__ import annotations

import argparse
import queue
import subprocess
import sys
from typing import Any, cast

import carla as _carla
import psutil

carla = cast(Any, _carla)

TICKS = 3


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


def main() -> int:
    """The command line; 1 when memory grew by more than the bound."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--map", default="default", help="as for zmqcarla sim")
    parser.add_argument("--reloads", type=int, default=1000)
    parser.add_argument("--most-mib", type=float, default=10.0, help="growth after the first tenth that is too much")
    parser.add_argument("--port", type=int, default=2000)
    options = parser.parse_args()
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
