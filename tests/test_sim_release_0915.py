"""The older release 0.9.15: its own client drives the simulator; today's client and env refuse it, and live on."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from typing import Any

import pytest
from msgpack import unpackb
from sim_process import running_sim

from zmqcarla.broker.errors import SimulatorVersionError
from zmqcarla.sim import wire
from zmqcarla.sim.blueprints import LIBRARY
from zmqcarla.sim.roads import RoadMap
from zmqcarla.sim.sensors.gnss import GnssSensor, by_mercator
from zmqcarla.sim.studio import Studio
from zmqcarla.sim.town import generate_town
from zmqcarla.sim.world import World
from zmqcarla.workers.carla_env import CarlaEnv

PYTHON = "ZMQCARLA_PYTHON_0915"
"""Names the Python of an environment with carla==0.9.15, for which there are wheels up to Python 3.10."""

CLIENT = """
import queue, sys
import carla

port = int(sys.argv[1])
client = carla.Client("127.0.0.1", port, worker_threads=1)
client.set_timeout(20.0)
assert client.get_client_version() == client.get_server_version() == "0.9.15"
world = client.get_world()
settings = world.get_settings()
settings.synchronous_mode, settings.fixed_delta_seconds = True, 0.05
world.apply_settings(settings)
library, places = world.get_blueprint_library(), world.get_map().get_spawn_points()
car = world.spawn_actor(library.find("vehicle.tesla.model3"), places[0])
assert car.attributes["role_name"] == "autopilot" and car.attributes["number_of_wheels"] == "4"
streams = []
for kind in ("camera.rgb", "camera.semantic_segmentation", "lidar.ray_cast", "other.imu", "other.gnss"):
    blueprint = library.find("sensor." + kind)
    if kind.startswith("camera"):
        blueprint.set_attribute("image_size_x", "32")
        blueprint.set_attribute("image_size_y", "16")
    sensor = world.spawn_actor(blueprint, carla.Transform(carla.Location(z=2.0)), attach_to=car)
    streams.append((sensor, queue.Queue()))
    sensor.listen(streams[-1][1].put)
traffic = client.get_trafficmanager(port + 2)
traffic.set_synchronous_mode(True)
command = carla.command
autopilot = command.SetAutopilot(command.FutureActor, True, traffic.get_port())
blueprint = library.find("vehicle.audi.tt")
spawns = [command.SpawnActor(blueprint, place).then(autopilot) for place in places[1:5]]
answers = client.apply_batch_sync(spawns, False)
others = world.get_actors([answer.actor_id for answer in answers])
assert not [answer.error for answer in answers if answer.error]
for _ in range(40):
    car.apply_control(carla.VehicleControl(throttle=0.6))
    frame = world.tick()
    assert {measured.get(timeout=20).frame for _, measured in streams} == {frame}
assert world.get_snapshot().frame == frame
print("driven", car.get_velocity().length() > 1, max(one.get_velocity().length() for one in others) > 1)
gnss = streams[-1][0]
car.set_simulate_physics(False)
car.set_location(places[0].location + carla.Location(z=1.0))
world.tick()
world.tick()
place = world.get_map().transform_to_geolocation(gnss.get_location())
while (measured := streams[-1][1].get(timeout=20)).frame < world.get_snapshot().frame:
    pass
assert abs(place.latitude) > 1e-5, "a place where the sign shows"
assert abs(measured.latitude - place.latitude) < 1e-9 and abs(measured.longitude - place.longitude) < 1e-9
origin = world.get_map().transform_to_geolocation(carla.Location())
assert (place.latitude < origin.latitude) == (gnss.get_location().y > 0)
for sensor, _ in streams:
    sensor.stop()
traffic.shut_down()
client.apply_batch_sync([command.DestroyActor(one) for one in others], False)
world.tick()
"""


# By transform_to_geolocation of that release's client, for maps with their (0, 0) at a latitude and longitude (deg).
PLACES_0915 = (
    ((0.0, 0.0), (0.0, 100.0, 0.0), (-0.0008983152840897901, 0.0, 0.0)),
    ((0.0, 0.0), (5000.0, -7000.0, 3.0), (0.06288205726474416, 0.044915764205976066, 3.0)),
    ((49.0, 8.4), (100.0, 0.0, 1.0), (49.0, 8.401369259844655, 1.0)),
    ((49.0, 8.4), (-300.0, -200.0, 5.0), (49.001796598164105, 8.395892220466038, 5.0)),
    ((49.0, 8.4), (5000.0, -7000.0, 3.0), (49.06284237878651, 8.46846299223271, 3.0)),
)


def _python_of_0915() -> str:
    if importlib.metadata.version("carla") == "0.9.15":
        return sys.executable
    python = os.environ.get(PYTHON)
    if not python:
        pytest.skip(f"{PYTHON} names no Python with carla==0.9.15")
    return python


def test_the_client_of_0915_drives() -> None:
    python = _python_of_0915()
    with running_sim("--protocol", "0.9.15") as port:
        # Its environment has only that client: ours must not be found on the way.
        environment = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(
            [python, "-c", CLIENT, str(port)],
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
            env=environment,
        )
    assert done.stdout == "driven True True\n", done.stderr


@pytest.mark.parametrize(("origin_deg", "place_m", "expected"), PLACES_0915)
def test_gnss_projects_as_that_client_does(origin_deg: Any, place_m: Any, expected: tuple[float, ...]) -> None:
    assert by_mercator(origin_deg, place_m) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("release", wire.RELEASES.values(), ids=list(wire.RELEASES))
def test_gnss_latitude_falls_to_the_south_in_0915_and_rises_in_0916(release: wire.Release) -> None:
    world = World(RoadMap.load("Town", generate_town()), north_is_up=release.north_is_up)
    sensor = world.spawn("sensor.other.gnss", [], (0.0, 0.0, 0.0, 0.0, 0.0, 0.0), sensor=GnssSensor)
    assert isinstance(sensor, GnssSensor)

    def latitude_at(south_m: float) -> float:
        world.table.set_pose(sensor.row, (0.0, south_m, 0.0, 0.0, 0.0, 0.0))
        ((body,),) = sensor.measure(world, Studio())
        latitude: float = unpackb(bytes(body))[0]
        return latitude

    assert (latitude_at(100.0) < latitude_at(0.0)) is release.north_is_up
    assert release.north_is_up is (release.version == "0.9.15")


@pytest.mark.skipif(importlib.metadata.version("carla") == "0.9.15", reason="this is the client of 0.9.15")
def test_a_server_of_another_release_is_refused_and_nothing_crashes() -> None:
    with running_sim("--protocol", "0.9.15") as port:
        env = CarlaEnv(connect=f"127.0.0.1:{port}", simulator="carla", observation="state")
        expected = (
            r"expected a CARLA server of release 0\.9\.16 at .*, found 0\.9\.15; install the `carla` wheel of 0\.9\.15"
        )
        with pytest.raises(SimulatorVersionError, match=expected):
            env.reset(seed=0)
        env.close()


def test_the_releases_differ_in_few_numbers() -> None:
    assert wire.LATEST.version == "0.9.16"
    assert [(each.version, each.world_stream) for each in wire.RELEASES.values()] == [("0.9.16", 17), ("0.9.15", 16)]
    (here, there) = (LIBRARY.wire(each.first_attribute_type) for each in wire.RELEASES.values())
    for newer, older in zip(here, there, strict=True):
        assert newer[:3] == older[:3]
        assert [attribute[1] - 1 for attribute in newer[3]] == [attribute[1] for attribute in older[3]]
