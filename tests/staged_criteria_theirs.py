"""scenario_runner's own criteria for staged scenarios on a server, and what they saw, tick by tick, as JSON.

Run by test_staged_criteria.py in a process of its own: PORT, and the file to write. It knows nothing of this package.
"""
# pyright: reportMissingImports=false

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import carla
import py_trees
from srunner.scenariomanager.carla_data_provider import CarlaDataProvider
from srunner.scenariomanager.scenarioatomics.atomic_behaviors import ScenarioTimeout
from srunner.scenariomanager.scenarioatomics.atomic_criteria import ScenarioTimeoutTest, YieldToEmergencyVehicleTest
from srunner.scenariomanager.timer import GameTime

TICKS = 24
WAYS: dict[str, tuple[Callable[[int], float], Callable[[int], float], Callable[[int], float]]] = {
    "left behind": (lambda k: 10.0 + k, lambda k: 0.5 * k, lambda k: 0.0),
    "let past": (lambda k: 10.0, lambda k: 1.5 * k, lambda k: 0.0),
    "let past and overtaken again": (lambda k: 10.0 + max(0, k - 14) * 3.0, lambda k: 1.5 * min(k, 14), lambda k: 0.0),
    "turned round behind": (lambda k: 10.0, lambda k: 0.2 * k, lambda k: 180.0 if k > 12 else 0.0),
    "turned round in front": (lambda k: 0.0, lambda k: 8.0, lambda k: 10.0 * k),
}
"""Metres along the lane of the ego and of the emergency vehicle, and how far (deg) that one is turned, by tick."""
DURATIONS_S = {"times out": 0.5, "on the very tick": 1.0, "has time": 30.0}


def main(port: int, out: Path) -> None:
    client: Any = carla.Client("127.0.0.1", port)
    client.set_timeout(20.0)
    world = client.get_world()
    settings = world.get_settings()
    settings.synchronous_mode, settings.fixed_delta_seconds = True, 0.05
    world.apply_settings(settings)
    CarlaDataProvider.set_client(client)
    CarlaDataProvider.set_world(world)
    library, start = world.get_blueprint_library(), world.get_map().get_spawn_points()[0]
    forward, aside = start.get_forward_vector(), start.get_right_vector()

    def at(along_m: float, aside_m: float, turned_deg: float = 0.0) -> Any:
        place = start.location + forward * along_m + aside * aside_m
        return carla.Transform(place, carla.Rotation(yaw=start.rotation.yaw + turned_deg))

    ego = world.spawn_actor(library.find("vehicle.lincoln.mkz_2017"), at(10.0, 0.0))
    other = world.spawn_actor(library.find("vehicle.ford.ambulance"), at(0.0, 3.5))
    for vehicle in (ego, other):
        vehicle.set_simulate_physics(False)
        CarlaDataProvider.register_actor(vehicle, vehicle.get_transform())

    def tick() -> dict[str, Any]:
        world.tick()
        CarlaDataProvider.on_carla_tick()
        GameTime.on_carla_tick(world.get_snapshot().timestamp)
        seen = {"frame": GameTime.get_frame(), "time_s": GameTime.get_time()}
        for name, vehicle in (("ego", ego), ("other", other)):
            pose = CarlaDataProvider.get_transform(vehicle)
            seen[name] = [[pose.location.x, pose.location.y, pose.location.z], pose.rotation.yaw]
        return seen

    told: dict[str, Any] = {}
    for name, (ego_m, other_m, turned_deg) in WAYS.items():
        criterion, ticks = YieldToEmergencyVehicleTest(ego, other), []
        for k in range(TICKS):
            ego.set_transform(at(ego_m(k), 0.0))
            other.set_transform(at(other_m(k), 3.5, turned_deg(k)))
            ticks.append(tick())
            criterion.tick_once()
        criterion.stop(py_trees.common.Status.INVALID)
        told[name] = {"ticks": ticks, "events": events_of(criterion)}
    for name, duration_s in DURATIONS_S.items():
        both = py_trees.composites.Parallel(policy=py_trees.common.ParallelPolicy.SUCCESS_ON_ONE)
        criterion, ticks = ScenarioTimeoutTest(ego, name), []
        both.add_children([ScenarioTimeout(duration_s, name), criterion])
        for _ in range(TICKS):
            ticks.append(tick())
            if both.status != py_trees.common.Status.SUCCESS:
                both.tick_once()
        both.stop(py_trees.common.Status.INVALID)
        told[name] = {"ticks": ticks, "events": events_of(criterion), "duration_s": duration_s}
    client.apply_batch_sync([carla.command.DestroyActor(each) for each in (ego, other)], False)
    out.write_text(json.dumps(told))


def events_of(criterion: Any) -> list[list[Any]]:
    return [[event.get_frame(), event.get_message()] for event in criterion.events]


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
