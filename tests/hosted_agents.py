"""Agents of CARLA's Leaderboard that the tests put into an env; their configuration says what goes wrong, and where.

"drive" drives slowly ahead, "suite" does so with all kinds of sensors, "reverse" drives backwards with the hand brake
off, "crash" raises in its third step, "setup" when it is set up, and "sensors" asks for a sensor that is not allowed.
"""
# pyright: reportMissingImports=false, reportUntypedBaseClass=false

from __future__ import annotations

import os
from typing import Any

import carla
from leaderboard.autoagents.autonomous_agent import AutonomousAgent, Track

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
        return carla.VehicleControl(throttle=0.5, steer=0.125, reverse=self.mode == "reverse")

    def destroy(self) -> None:
        DESTROYED.append(self.mode)
