"""Agents of CARLA's Leaderboard that the tests put into an env; their configuration says what goes wrong, and where.

"drive" drives slowly ahead, "suite" does so with all kinds of sensors, "look" looks at the world meanwhile, "reverse"
drives backwards with the hand brake off, "crash" raises in its third step and "hang" never ends it, "setup" raises when
it is set up, and "sensors" asks for a sensor that is not allowed.
"""
# pyright: reportMissingImports=false, reportUntypedBaseClass=false

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import carla
from leaderboard.autoagents.autonomous_agent import AutonomousAgent, Track
from srunner.scenariomanager.carla_data_provider import CarlaDataProvider
from srunner.scenariomanager.timer import GameTime

SEEN: list[dict[str, Any]] = []
"""Of each step of the newest agent in this process: what its sensors gave."""
DESTROYED: list[str] = []


def get_entry_point() -> str:
    return "TestAgent"


class TestAgent(AutonomousAgent):  # type: ignore[misc]
    def setup(self, path_to_conf_file: str) -> None:
        self.track = Track.MAP
        self.mode = path_to_conf_file.partition("+")[0]
        self.step = 0
        SEEN.clear()
        assert self._global_plan is not None  # told before the set-up, as the Leaderboard does
        if self.mode == "setup":
            raise RuntimeError("no weights")

    def sensors(self) -> list[dict[str, Any]]:
        if self.mode == "sensors":
            return [{"type": "sensor.other.obstacle", "id": "OBSTACLE"}]
        speed = {"type": "sensor.speedometer", "reading_frequency": 20, "id": "SPEED"}
        if self.mode != "suite":
            return [speed]
        width, height = (int(each) for each in os.environ.get("SUITE_SIZE", "64x36").split("x"))
        place = {"x": 0.0, "y": 0.0, "z": 2.0, "roll": 0.0, "pitch": 0.0}
        camera = {"type": "sensor.camera.rgb", **place, "width": width, "height": height, "fov": 70}
        radar = {"type": "sensor.other.radar", **place, "yaw": 0.0, "horizontal_fov": 30, "vertical_fov": 10}
        return [
            *({**camera, "yaw": 60.0 * k, "id": f"CAMERA{k}"} for k in range(6)),
            {"type": "sensor.lidar.ray_cast", **place, "yaw": 0.0, "id": "LIDAR"},
            {**radar, "id": "RADAR"},
            {"type": "sensor.other.imu", **place, "yaw": 0.0, "id": "IMU"},
            {"type": "sensor.other.gnss", **place, "yaw": 0.0, "id": "GPS"},
            {"type": "sensor.opendrive_map", "reading_frequency": 100, "id": "MAP"},
            speed,
        ]

    def run_step(self, input_data: dict[str, Any], timestamp: float) -> carla.VehicleControl:
        SEEN.append({**input_data, "time": timestamp})
        self.step += 1
        if self.mode == "crash" and self.step == 3:
            raise ValueError("a division by zero in the policy")
        if self.mode == "hang" and self.step == 3:
            time.sleep(600.0)
        if self.mode == "look":
            self.look(input_data["SPEED"][0], timestamp)
        return carla.VehicleControl(throttle=0.5, steer=0.125, reverse=self.mode == "reverse")

    def look(self, frame: int, timestamp: float) -> None:
        """Note what the world and the clock say in each tick, in the file that NOTES names."""
        world = CarlaDataProvider.get_world()
        heroes = [each for each in world.get_actors() if each.attributes.get("role_name") == "hero"]
        seen = [frame, world.get_snapshot().frame, timestamp, GameTime.get_time(), len(heroes)]
        with Path(os.environ["NOTES"]).open("a", encoding="ascii") as notes:
            notes.write(json.dumps([*seen, heroes[0].get_transform().location.x, len(self._global_plan)]) + "\n")

    def destroy(self) -> None:
        DESTROYED.append(self.mode)
