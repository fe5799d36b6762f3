"""An agent for the unmodified Leaderboard evaluator that asks a policy in another process.

    python leaderboard_evaluator.py --agent .../zmqcarla/agents/bus_agent.py --agent-config ipc:///... ...

`--agent-config` is the address of a `zmqcarla.agents.PolicyServer`. This file runs in the evaluator's Python, which
needs pyzmq, msgpack and numpy, and not zmqcarla; the evaluator puts the file's folder on the path.
"""

from __future__ import annotations

import contextlib
from typing import Any

import carla
import zmq
from leaderboard.autoagents.autonomous_agent import AutonomousAgent, Track  # pyright: ignore[reportMissingImports]
from policy_frames import VERSION, pack_message, pack_step, unpack_head  # pyright: ignore[reportMissingImports]

_ANSWER_TIMEOUT_S = 600
"""A training process may be busy with an update; the evaluator's own --timeout is shorter as a rule."""


def get_entry_point() -> str:
    """The name of the agent's class, by which the evaluator finds it."""
    return "BusAgent"


class BusAgent(AutonomousAgent):  # type: ignore[misc]
    """One route's agent; every question goes to the policy server, and its errors are the agent's."""

    def set_global_plan(self, global_plan_gps: Any, global_plan_world_coord: Any) -> None:
        """Keep the whole plan; the policy's side decides how dense it wants it."""
        super().set_global_plan(global_plan_gps, global_plan_world_coord)
        self._gps = [[place["lat"], place["lon"], place["z"], int(option)] for place, option in global_plan_gps]
        self._world = [[*_pose(place), int(option)] for place, option in global_plan_world_coord]

    def setup(self, path_to_conf_file: str) -> None:
        """Connect, and learn from the server which track and sensors its policy has."""
        address = path_to_conf_file.partition("+")[0]  # Bench2Drive appends a name
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.REQ)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.RCVTIMEO, _ANSWER_TIMEOUT_S * 1000)
        self._socket.setsockopt(zmq.SNDTIMEO, _ANSWER_TIMEOUT_S * 1000)
        self._socket.connect(address)
        answer = self._ask(pack_message({"kind": "route", "version": VERSION, "gps": self._gps, "world": self._world}))
        self.track = Track(answer["track"])
        self._sensors = answer["sensors"]

    def sensors(self) -> list[dict[str, Any]]:
        """What the policy asked for."""
        return [dict(sensor) for sensor in self._sensors]

    def run_step(self, input_data: dict[str, Any], timestamp: float) -> carla.VehicleControl:
        """Send what was measured; drive as the policy says."""
        steer, throttle, brake = self._ask(pack_step(timestamp, input_data))["control"]
        return carla.VehicleControl(steer=steer, throttle=abs(throttle), brake=brake, reverse=throttle < 0.0)

    def destroy(self) -> None:
        """Tell the server that the route is over; the evaluator calls this however it ended."""
        socket = getattr(self, "_socket", None)
        if socket is not None and not socket.closed:
            # Where a question is open, or the server is gone, there is nobody to tell.
            with contextlib.suppress(RuntimeError, zmq.ZMQError):
                self._ask(pack_message({"kind": "end"}))
            socket.close()

    def _ask(self, frames: list[Any]) -> dict[str, Any]:
        self._socket.send_multipart(frames, copy=False)
        try:
            answer: dict[str, Any] = unpack_head(self._socket.recv_multipart())
        except zmq.Again:
            raise RuntimeError(
                f"expected an answer of the policy server within {_ANSWER_TIMEOUT_S} s, found none; does it live?"
            ) from None
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer


def _pose(place: carla.Transform) -> list[float]:
    where, turn = place.location, place.rotation
    return [where.x, where.y, where.z, turn.roll, turn.pitch, turn.yaw]
