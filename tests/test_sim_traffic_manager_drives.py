"""The client's Traffic Manager: from one town to the next, and to a standstill. Each script is a process of its own."""

from __future__ import annotations

import time

from sim_process import run_script, running_sim

from zmqcarla.sim.traffic_managers import RENEWAL_S, Renewal

OPENING = """
import sys, carla
client = carla.Client("127.0.0.1", int(sys.argv[1]))
client.set_timeout(20.0)
world = client.get_world()
world.apply_settings(carla.WorldSettings(synchronous_mode=True, fixed_delta_seconds=0.05))


def new_manager():
    manager = client.get_trafficmanager(int(sys.argv[1]) + 7)
    manager.set_synchronous_mode(True)
    return manager


def drive(manager, world, count):
    manager.set_random_device_seed(3)
    blueprint = world.get_blueprint_library().find("vehicle.audi.tt")
    points = world.get_map().get_spawn_points()
    cars = [world.spawn_actor(blueprint, point) for point in points[:: len(points) // count][:count]]
    for car in cars:
        car.set_autopilot(True, manager.get_port())
        manager.ignore_lights_percentage(car, 100.0)
    return cars
"""

MOVES = """
before = world.get_snapshot().frame
for town in {towns}:
    world = client.load_world(town, reset_settings=False)
    manager = {manager}
    cars = drive(manager, world, 8)
    for _ in range(80):
        world.tick()
    print(town, world.get_map().name, world.get_snapshot().frame - before)
    print(sum(world.get_map().get_waypoint(car.get_location(), False) is None for car in cars))
    for car in cars:
        place = car.get_transform()
        print(place.location.x, place.location.y, place.rotation.yaw, car.get_velocity().length())
manager.shut_down()
"""


def test_a_traffic_manager_goes_along_to_another_town() -> None:
    """As in the evaluators, which make it before they load the town of a route."""
    outputs: list[list[str]] = []
    for opening, manager, towns in (
        ("early = new_manager()\n", "early", ("Town04", "Town02", "Town02")),
        ("", "new_manager()", ("Town02",)),
    ):
        with running_sim() as port:
            done = run_script(port, OPENING + opening + MOVES.format(manager=manager, towns=repr(towns)))
        assert done.returncode == 0, done.stderr
        outputs.append(done.stdout.splitlines())
    early, late = outputs
    parts = [early[start : start + 10] for start in (0, 10, 20)]
    assert [part[0].rsplit(" ", 1)[0] for part in parts] == [
        f"{town} Carla/Maps/{town}" for town in ("Town04", "Town02", "Town02")
    ]
    assert late[0].rsplit(" ", 1)[0] == "Town02 Carla/Maps/Town02"
    frames = [int(part[0].rsplit(" ", 1)[1]) for part in parts]
    assert [frames[0], frames[1] - frames[0], frames[2] - frames[1]] == [81, 81, 81], "the load ticks once"
    assert parts[0][1] == "0"
    assert parts[1][1:] == parts[2][1:] == late[1:]


STOP = """
manager = new_manager()
(car,) = drive(manager, world, 1)
while car.get_velocity().length() < 4.0:
    world.tick()
manager.vehicle_percentage_speed_difference(car, 100.0)
for _ in range(30):
    world.tick()
print(car.get_velocity().length() < 0.05, car.get_control().brake)
manager.shut_down()
"""


def test_a_car_that_the_traffic_manager_is_to_stop_brakes() -> None:
    """At a target speed of 0 the client's controller divides by it and sends a brake that is not a number."""
    with running_sim() as port:
        done = run_script(port, OPENING + STOP)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "True 1.0\n"


def test_the_old_number_is_told_once_and_only_to_a_client_with_a_manager() -> None:
    renewal = Renewal()
    renewal.begin(before=1, managers=0, now_s=0.0)
    assert renewal.tell(2) == 2
    assert renewal.wait_s(0.0) == 0.0
    renewal.begin(before=2, managers=1, now_s=0.0)
    assert [renewal.tell(3), renewal.tell(3)] == [2, 3]


def test_a_tick_waits_until_all_managers_have_the_map_and_not_for_ever() -> None:
    renewal, now_s = Renewal(), time.monotonic()
    renewal.begin(before=1, managers=2, now_s=now_s)
    renewal.fetched()
    assert renewal.wait_s(now_s) == RENEWAL_S
    assert renewal.wait_s(now_s + RENEWAL_S) == 0.0
    renewal.fetched()
    renewal.fetched()  # of a new one
    assert renewal.wait_s(now_s) == 0.0
