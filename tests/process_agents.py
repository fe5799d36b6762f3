"""Agents in the manner of the Leaderboard, without its base class; their configuration says what goes wrong, and where.

They import nothing of zmqcarla: they run in processes of their own.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import carla

PLACE = {"x": 0.8, "y": 0.0, "z": 1.6, "roll": 0.0, "pitch": 0.0}


def get_entry_point() -> str:
    return "SlowAhead"


class SlowAhead:
    """Drives slowly ahead. The configuration is JSON: "mode", and "notes", a file for what it saw."""

    def __init__(self, carla_host: str, carla_port: int, debug: bool = False) -> None:
        self.track = "MAP"
        self.seen: list[Any] = []

    def set_global_plan(self, global_plan_gps: Any, global_plan_world_coord: Any) -> None:
        self.plan = global_plan_gps, global_plan_world_coord

    def setup(self, path_to_conf_file: str) -> None:
        told = json.loads(path_to_conf_file)
        self.mode, self.notes = told["mode"], Path(told["notes"])
        print(f"the mode is {self.mode}", flush=True)
        if self.mode == "setup":
            raise RuntimeError("no weights")
        if self.mode in ("hang", "die"):  # with a process of its own
            self.child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
            self.notes.write_text(json.dumps([os.getpid(), self.child.pid]))

    def sensors(self) -> list[dict[str, Any]]:
        if self.mode == "sensors":
            return [{"type": "sensor.other.obstacle", "id": "OBSTACLE"}]
        speed = {"type": "sensor.speedometer", "reading_frequency": 20, "id": "SPEED"}
        if self.mode != "suite":
            return [speed]
        radar = {"type": "sensor.other.radar", **PLACE, "yaw": 0.0, "horizontal_fov": 30, "vertical_fov": 10}
        camera = {"type": "sensor.camera.rgb", **PLACE, "width": 64, "height": 36, "fov": 70}
        return [
            *({**camera, "yaw": 60.0 * k, "id": f"CAMERA {k}"} for k in range(2)),
            {"type": "sensor.lidar.ray_cast", **PLACE, "yaw": 0.0, "id": "LIDAR"},
            {**radar, "id": "RADAR"},
            {"type": "sensor.other.imu", **PLACE, "yaw": 0.0, "id": "IMU"},
            {"type": "sensor.other.gnss", **PLACE, "yaw": 0.0, "id": "GPS"},
            {"type": "sensor.opendrive_map", "reading_frequency": 1, "id": "MAP"},
            speed,
        ]

    def run_step(self, input_data: dict[str, Any], timestamp: float) -> carla.VehicleControl:
        self.seen.append([timestamp, {name: [frame, _shape(value)] for name, (frame, value) in input_data.items()}])
        if len(self.seen) == 3:
            self.go_wrong()
        if "CAMERA 0" in input_data:
            input_data["CAMERA 0"][1][:] = 7  # agents may draw into what is theirs
        return carla.VehicleControl(throttle=math.nan if self.mode == "nan" else 0.5, steer=0.125)

    def go_wrong(self) -> None:
        if self.mode == "crash":
            raise ValueError("a division by zero in the policy")
        if self.mode == "hang":
            time.sleep(600)
        if self.mode == "die":
            os.abort()

    def destroy(self) -> None:
        if self.mode == "suite":
            place, _ = self.plan[1][0]
            where = [place.location.x, place.location.y, place.rotation.yaw]
            told = {
                "marked": os.environ.get("MARK"),
                "points": len(self.plan[0]),
                "gps": self.plan[0][0],
                "start": where,
            }
            self.notes.write_text(json.dumps({**told, "seen": self.seen}))


def _shape(value: Any) -> Any:
    return [str(value.dtype), *value.shape] if hasattr(value, "dtype") else value
