"""An agent of the Leaderboard whose driver is a policy in another process: `--agent` of the unmodified evaluator.

It is loaded by path in the evaluator's interpreter, which needs pyzmq, msgpack and numpy, and need not have zmqcarla
installed. `--agent-config` is the file that `PolicyServer.write_config` wrote.
"""
# pyright: reportMissingImports=false, reportUntypedBaseClass=false

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import carla
from leaderboard.autoagents.autonomous_agent import AutonomousAgent, Track


def _load_wire() -> Any:
    """The file beside this one, loaded alone: importing it as a part of zmqcarla would need all that zmqcarla needs."""
    spec = importlib.util.spec_from_file_location("zmqcarla_policy_wire", Path(__file__).with_name("policy_wire.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_wire = _load_wire()


def get_entry_point() -> str:
    """The name of the class, for the evaluator."""
    return "BusAgent"


class BusAgent(AutonomousAgent):  # type: ignore[misc]
    """Passes what the sensors say on, and the policy's action back."""

    def set_global_plan(self, global_plan_gps: Any, global_plan_world_coord: Any) -> None:
        """Keep the whole plan, which the evaluator tells before the set-up."""
        super().set_global_plan(global_plan_gps, global_plan_world_coord)
        self._plan = {
            "gps": [[at["lat"], at["lon"], at["z"]] for at, _ in global_plan_gps],
            "world": [
                [at.location.x, at.location.y, at.location.z, at.rotation.pitch, at.rotation.yaw, at.rotation.roll]
                for at, _ in global_plan_world_coord
            ],
            "options": [int(option) for _, option in global_plan_world_coord],
        }

    def setup(self, path_to_conf_file: str) -> None:
        """Find the policy and take its sensors."""
        # Bench2Drive's evaluator appends names to the path.
        named = path_to_conf_file.partition("+")[0] or os.environ.get(_wire.POLICY, "")
        self._questions = _wire.Questions(_wire.PolicyClient(named))
        self._sensors: list[dict[str, Any]]
        self._sensors, track = self._questions.set_up(self._plan)
        self.track = Track(track)

    def sensors(self) -> list[dict[str, Any]]:
        """The policy's."""
        return self._sensors

    def run_step(self, input_data: dict[str, Any], timestamp: float) -> carla.VehicleControl:
        """Ask the policy."""
        steer, throttle, brake = self._questions.step(input_data, timestamp)
        return carla.VehicleControl(throttle=abs(throttle), steer=steer, brake=brake, reverse=throttle < 0.0)

    def destroy(self) -> None:
        """Tell the policy that the route is over."""
        if hasattr(self, "_questions"):
            self._questions.end()
