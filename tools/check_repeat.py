"""Whether the embedded simulator repeats itself: the same drive in fresh processes, compared bit by bit.

A drive is a synchronous world with a Traffic Manager's vehicles and AI walkers, all seeded; one vehicle carries a
colour camera and a lidar with noise. Compared are the snapshots of all actors and what the sensors measured. Each drive
runs with a simulator and a client process of its own. With --busy, other processes keep the machine busy meanwhile.

    python tools/check_repeat.py --map Town10HD.xodr --ticks 2000 --vehicles 50 --walkers 15 --busy 2
"""

from __future__ import annotations

import argparse
import hashlib
import queue
import random
import subprocess
import sys
import tempfile
from typing import Any, cast

import carla as _carla

carla = cast(Any, _carla)

DELTA_S = 0.05
EVERY = 50  # ticks between two lines
GET_S = 60.0
SENSORS: dict[str, dict[str, float]] = {
    "sensor.camera.rgb": {"image_size_x": 320, "image_size_y": 180},
    "sensor.lidar.ray_cast": {"channels": 32, "points_per_second": 200_000, "range": 60, "noise_stddev": 0.02},
}
_DRIVE = "--drive-on"


def populate(client: Any, world: Any, options: argparse.Namespace) -> tuple[Any, list[Any], Any]:
    """The Traffic Manager, the walkers' controllers, and the vehicle that is to carry sensors."""
    chance = random.Random(options.seed)
    library = world.get_blueprint_library()
    manager = client.get_trafficmanager(options.drive_on + 8)
    manager.set_synchronous_mode(True)
    manager.set_random_device_seed(options.seed)
    points = world.get_map().get_spawn_points()
    chance.shuffle(points)
    models = sorted(library.filter("vehicle.*"), key=lambda model: str(model.id))
    models = [model for model in models if int(model.get_attribute("number_of_wheels")) == 4]
    # a Traffic Manager takes out of the world whom it has blocked for long, but no hero
    hero = library.find("vehicle.tesla.model3")
    hero.set_attribute("role_name", "hero")
    kinds = [hero, *(chance.choice(models) for _ in range(options.vehicles - 1))]
    cars = [world.spawn_actor(kind, point) for kind, point in zip(kinds, points, strict=False)]
    world.tick()
    for car in cars:
        car.set_autopilot(True, manager.get_port())
    world.set_pedestrians_seed(options.seed)
    world.set_pedestrians_cross_factor(0.2)
    people = sorted(library.filter("walker.*"), key=lambda model: str(model.id))
    controllers: list[Any] = []
    while len(controllers) < options.walkers:
        place = world.get_random_location_from_navigation()
        place.z += 1.0
        walker = world.try_spawn_actor(chance.choice(people), carla.Transform(place))
        if walker is not None:
            leader = library.find("controller.ai.walker")
            controllers.append(world.spawn_actor(leader, carla.Transform(), attach_to=walker))
    world.tick()
    for controller in controllers:
        controller.start()
        controller.go_to_location(world.get_random_location_from_navigation())
        controller.set_max_speed(1.0 + chance.random())
    return manager, controllers, cars[0]


def equip(world: Any, car: Any) -> list[tuple[Any, queue.Queue[Any]]]:
    """Sensors on a vehicle that are listened to."""
    found: list[tuple[Any, queue.Queue[Any]]] = []
    for name, attributes in SENSORS.items():
        blueprint = world.get_blueprint_library().find(name)
        for attribute, value in attributes.items():
            blueprint.set_attribute(attribute, str(value))
        sensor = world.spawn_actor(blueprint, carla.Transform(carla.Location(x=1.0, z=2.2)), attach_to=car)
        inbox: queue.Queue[Any] = queue.Queue()
        sensor.listen(inbox.put)
        found.append((sensor, inbox))
    return found


def drive(options: argparse.Namespace) -> None:
    """Drive once and print a running hash of all snapshots and measurements."""
    client = carla.Client("127.0.0.1", options.drive_on)
    client.set_timeout(60.0)
    with tempfile.TemporaryDirectory() as folder:
        client.set_files_base_folder(folder)
        world = client.get_world()
        world.apply_settings(carla.WorldSettings(synchronous_mode=True, fixed_delta_seconds=DELTA_S))
        world = client.reload_world(False)
        manager, controllers, car = populate(client, world, options)
        sensors = equip(world, car)
        hashed = hashlib.sha256()
        for tick in range(1, options.ticks + 1):
            frame = world.tick()
            for actor in world.get_snapshot():
                t, v, w = actor.get_transform(), actor.get_velocity(), actor.get_angular_velocity()
                a, p, r = actor.get_acceleration(), t.location, t.rotation
                state = (p.x, p.y, p.z, r.pitch, r.yaw, r.roll, v.x, v.y, v.z, w.x, w.y, w.z, a.x, a.y, a.z)
                hashed.update(repr((actor.id, state)).encode())
            for _, inbox in sensors:
                measurement = inbox.get(timeout=GET_S)
                assert measurement.frame == frame
                hashed.update(measurement.raw_data)
            if tick % EVERY == 0 or tick == options.ticks:
                print(tick, hashed.hexdigest(), flush=True)
        for sensor, _ in sensors:
            sensor.stop()
        for controller in controllers:
            controller.stop()
        manager.set_synchronous_mode(False)
        manager.shut_down()


def one_run(options: argparse.Namespace, number: int) -> list[str]:
    """A drive in fresh processes: its lines."""
    port = options.port + 10 * number
    common = [str(part) for part in ("--seed", options.seed, "--map", options.map)]
    # what it says about Traffic Managers that were signalled again is worth knowing when runs part
    command = [sys.executable, "-m", "zmqcarla.sim", "--port", str(port), "--map", options.map, "--log-level", "info"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        if not server.stdout.readline():
            raise SystemExit(f"the simulator did not start (exit code {server.wait(timeout=10)})")
        sizes = [f"--{name}={getattr(options, name)}" for name in ("ticks", "vehicles", "walkers")]
        done = subprocess.run(
            [sys.executable, __file__, _DRIVE, str(port), *common, *sizes],
            stdout=subprocess.PIPE,
            text=True,
            timeout=options.timeout_s,
            check=False,
        )
        if done.returncode != 0:
            raise SystemExit(f"the client of run {number} ended with {done.returncode} after:\n{done.stdout[-500:]}")
        return done.stdout.splitlines()
    finally:
        server.terminate()
        server.communicate(timeout=15)


def compare(options: argparse.Namespace) -> int:
    """Run several times; 0 when all runs are alike, else 1, with the tick by which they part."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(options.busy)]
    try:
        runs = [one_run(options, number) for number in range(options.runs)]
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()
    for lines in zip(*runs, strict=True):
        if len(set(lines)) > 1:
            print(f"the runs part by tick {lines[0].split()[0]}")
            return 1
    print(f"{options.runs} runs of {options.ticks} ticks are alike: {runs[0][-1].split()[1]}")
    return 0


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--map", default="default", help="as for zmqcarla sim")
    parser.add_argument("--ticks", type=int, default=2000)
    parser.add_argument("--vehicles", type=int, default=50)
    parser.add_argument("--walkers", type=int, default=15)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--busy", type=int, default=0, help="processes that keep the machine busy meanwhile")
    parser.add_argument("--port", type=int, default=2000, help="ten ports a run from here on")
    parser.add_argument("--timeout-s", type=float, default=1800.0, help="of a run")
    parser.add_argument(_DRIVE, type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.drive_on:
        drive(options)
        return 0
    return compare(options)


if __name__ == "__main__":
    sys.exit(main())
