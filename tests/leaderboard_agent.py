"""An agent of CARLA's Leaderboard that drives along its route and writes down what happens, tick by tick.

It is loaded by the Leaderboard's own evaluator, in a process that knows nothing of this package. Its configuration is
the path of the JSON file to write. It sees neither traffic nor lights.
"""
# pyright: reportMissingImports=false, reportUntypedBaseClass=false

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import carla
from leaderboard.autoagents.autonomous_agent import AutonomousAgent, Track
from srunner.scenariomanager.carla_data_provider import CarlaDataProvider

SPEED_MPS = 7.0


def get_entry_point() -> str:
    return "RecordingAgent"


class RecordingAgent(AutonomousAgent):  # type: ignore[misc]
    def setup(self, path_to_conf_file: str) -> None:
        self.track = Track.MAP
        self._path = Path(path_to_conf_file)
        self._ticks: list[dict[str, Any]] = []
        self._hits: list[tuple[int, int, str]] = []
        self._next = 0
        self._sensor: Any = None
        self._lights: list[Any] = []

    def sensors(self) -> list[dict[str, Any]]:
        return [{"type": "sensor.speedometer", "reading_frequency": 20, "id": "SPEED"}]

    def set_global_plan(self, global_plan_gps: Any, global_plan_world_coord: Any) -> None:
        super().set_global_plan(global_plan_gps, global_plan_world_coord)
        self._plan = [(place.location.x, place.location.y) for place, _ in global_plan_world_coord]

    def run_step(self, input_data: Any, timestamp: float) -> carla.VehicleControl:
        ego = CarlaDataProvider.get_hero_actor()
        if self._sensor is None:
            self._watch(ego)
        self._write_down(ego, timestamp)
        return self._drive(ego)

    def destroy(self) -> None:
        if self._sensor is not None:
            self._sensor.stop()
            self._sensor.destroy()
            self._sensor = None
            self._path.write_text(json.dumps(self._ticks))

    def _watch(self, ego: Any) -> None:
        world = CarlaDataProvider.get_world()
        blueprint = world.get_blueprint_library().find("sensor.other.collision")
        self._sensor = world.spawn_actor(blueprint, carla.Transform(), attach_to=ego)
        self._sensor.listen(self._hit)
        self._lights = list(world.get_actors().filter("traffic.traffic_light"))

    def _hit(self, event: Any) -> None:
        self._hits.append((event.frame, event.other_actor.id, event.other_actor.type_id))

    def _write_down(self, ego: Any, timestamp: float) -> None:
        world = CarlaDataProvider.get_world()
        place, velocity = ego.get_transform(), ego.get_velocity()
        forward = place.get_forward_vector()
        cars = [each for each in world.get_actors().filter("vehicle.*") if each.attributes["role_name"] == "background"]
        speeds = [each.get_velocity().length() for each in cars]
        red = carla.TrafficLightState.Red
        self._ticks.append(
            {
                "frame": world.get_snapshot().frame,
                "time_s": timestamp,
                "position_m": [place.location.x, place.location.y, place.location.z],
                "yaw_deg": place.rotation.yaw,
                "speed_mps": velocity.length(),
                "forward_mps": forward.x * velocity.x + forward.y * velocity.y + forward.z * velocity.z,
                "speed_limit_mps": ego.get_speed_limit() / 3.6,
                "red_lights": [light.id for light in self._lights if light.state == red],
                "traffic_mps": sum(speeds) / len(speeds) if speeds else None,
                "hits": self._hits,
            }
        )
        self._hits = []

    def _drive(self, ego: Any) -> carla.VehicleControl:
        place = ego.get_transform()
        x, y, yaw = place.location.x, place.location.y, math.radians(place.rotation.yaw)
        while self._next < len(self._plan) - 1 and math.dist(self._plan[self._next], (x, y)) < 5.0:
            self._next += 1
        dx, dy = self._plan[self._next][0] - x, self._plan[self._next][1] - y
        right_m = dy * math.cos(yaw) - dx * math.sin(yaw)
        steer = math.degrees(math.atan(2.0 * 2.9 * right_m / max(1.0, dx * dx + dy * dy))) / 45.0
        pedal = 0.6 * (SPEED_MPS - ego.get_velocity().length())
        return carla.VehicleControl(
            throttle=min(max(pedal, 0.0), 0.8),
            steer=min(max(steer, -1.0), 1.0),
            brake=min(max(-0.5 * pedal - 0.1, 0.0), 1.0),
        )
