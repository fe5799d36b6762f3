"""The main program of an agent's own process: it loads the agent's file, and does what `AgentProcess` asks.

    PYTHON agent_runner.py CHANNEL_FD MEMORY_FD

PYTHON is the agent's. It needs numpy and carla, and whatever the agent imports, but not zmqcarla; this file runs on
Python 3.7. Both descriptors are inherited: a connected socket, and memory without a name. The order of the calls is
that of the Leaderboard: the object is made, told the plan, set up, asked for its sensors, and then for one control a
tick; in the end it is destroyed.

Where ScenarioRunner can be imported and the simulator is on this machine, its CarlaDataProvider gets a client and the
world, for agents that look their own vehicle up in it, as those of Bench2Drive do when they are made.
"""

from __future__ import annotations

import importlib
import mmap
import os
import socket
import sys
import time
import traceback
from enum import IntEnum
from typing import Any

_HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:] = [folder for folder in sys.path if os.path.abspath(folder or ".") != _HERE]
sys.path.insert(0, _HERE)
import agent_wire  # noqa: E402  # pyright: ignore[reportMissingImports]

sys.path.remove(_HERE)  # the names in there are not for the agent to find

_WORLD_TIMEOUT_S = 20.0
_FRAME_TIMEOUT_S = 20.0


class _RoadOption(IntEnum):
    """CARLA's numbers, for an interpreter that lacks its package `agents`."""

    VOID = -1
    LEFT = 1
    RIGHT = 2
    STRAIGHT = 3
    LANEFOLLOW = 4
    CHANGELANELEFT = 5
    CHANGELANERIGHT = 6


class Runner:
    """One agent on one route."""

    def __init__(self, memory_fd: int) -> None:
        self._agent: Any = None
        self._world: Any = None
        self._game_time: Any = None
        self._memory_fd = memory_fd
        self._memory: Any = None
        self._memory_bytes = 0

    def set_up(self, told: dict[str, Any]) -> dict[str, Any]:
        """Make the agent; return its track and sensors."""
        sys.path[:0] = [folder for folder in told["folders"] if folder not in sys.path]
        made = _import_file(told["file"])
        if getattr(made, "get_ros_version", lambda: -1)() != -1:
            raise RuntimeError(f"expected an agent without ROS, found {told['file']}: no bridge is started here")
        if told["host"]:
            self._meet_world(told["host"], told["port"], told["frame"])
        self._agent = agent = made(told["host"], told["port"], False)
        agent.set_global_plan(*_plan(told))
        agent.setup(told["config"])
        track = agent.track
        return {"track": str(getattr(track, "value", track)), "sensors": list(agent.sensors())}

    def step(self, told: dict[str, Any]) -> dict[str, Any]:
        """Ask for the control of one tick."""
        frame = told["frame"]
        if told["memory_bytes"] != self._memory_bytes:
            self._memory_bytes = told["memory_bytes"]
            self._memory = mmap.mmap(self._memory_fd, self._memory_bytes, prot=mmap.PROT_READ)
        measured = agent_wire.read_parts(told["input"], self._memory)
        if self._world is not None:
            self._catch_up(frame)
        control = self._agent.run_step({name: (frame, value) for name, value in measured.items()}, told["timestamp_s"])
        return {"control": [float(control.steer), float(control.throttle), float(control.brake), bool(control.reverse)]}

    def end(self, told: dict[str, Any]) -> dict[str, Any]:
        """Let the agent clean up; what it raises is only printed, as the Leaderboard does."""
        agent, self._agent = self._agent, None
        if agent is not None:
            try:
                agent.destroy()
            except Exception:
                traceback.print_exc()
        return {}

    def _meet_world(self, host: str, port: int, frame: int) -> None:
        try:
            carla = importlib.import_module("carla")
            provider = importlib.import_module("srunner.scenariomanager.carla_data_provider").CarlaDataProvider
            game_time = importlib.import_module("srunner.scenariomanager.timer").GameTime
        except ImportError as error:
            print(f"CarlaDataProvider is not given the world: {error}", flush=True)
            return
        client = carla.Client(host, port)
        client.set_timeout(_WORLD_TIMEOUT_S)
        if client.get_client_version() != client.get_server_version():
            # A client of another release can crash over the rest.
            print(f"CarlaDataProvider is not given the world: client {client.get_client_version()}, "
                  f"server {client.get_server_version()}", flush=True)  # fmt: skip
            return
        self._world = client.get_world()
        provider.set_client(client)
        provider.set_world(self._world)
        self._catch_up(frame)
        game_time.restart()
        self._game_time = game_time

    def _catch_up(self, frame: int) -> None:
        """Wait until this client has seen a tick."""
        deadline = time.monotonic() + _FRAME_TIMEOUT_S
        while self._world.get_snapshot().frame < frame:
            if time.monotonic() > deadline:
                raise RuntimeError(f"expected to see frame {frame} of the world, found an older one; does it hang?")
            time.sleep(0.0005)
        if self._game_time is not None:
            self._game_time.on_carla_tick(self._world.get_snapshot().timestamp)


def _import_file(path: str) -> Any:
    """Import an agent's file by its name, from its folder, which stays on the path; its class."""
    folder, name = os.path.split(path)
    sys.path.insert(0, folder)
    module = importlib.import_module(name.split(".")[0])
    if os.path.realpath(str(module.__file__)) != os.path.realpath(path):
        raise ImportError(f"expected {path}, found another module of this name, {module.__file__}: rename the file")
    return getattr(module, module.get_entry_point())


def _plan(told: dict[str, Any]) -> tuple[list[Any], list[Any]]:
    carla = importlib.import_module("carla")
    try:
        option = importlib.import_module("agents.navigation.local_planner").RoadOption
    except ImportError:
        option = _RoadOption
    options = [option(number) for number in told["options"]]
    places = [{"lat": lat, "lon": lon, "z": z} for lat, lon, z in told["gps"]]
    poses = [
        carla.Transform(carla.Location(x, y, z), carla.Rotation(pitch, yaw, roll))
        for x, y, z, pitch, yaw, roll in told["world"]
    ]
    return list(zip(places, options)), list(zip(poses, options))  # noqa: B905 - Python 3.7 has no strict


def main(channel_fd: int, memory_fd: int) -> None:
    """Answer until told to end, or until whoever asks is gone."""
    # What the agent starts gets neither.
    os.set_inheritable(channel_fd, False)
    os.set_inheritable(memory_fd, False)
    channel = socket.socket(fileno=channel_fd)
    runner = Runner(memory_fd)
    answers = {"set_up": runner.set_up, "step": runner.step, "end": runner.end}
    kind = ""
    while kind != "end":
        try:
            told = agent_wire.receive(channel, agent_wire.MAX_MESSAGE_BYTES)
        except EOFError:
            return
        kind = told["kind"]
        try:
            answer = answers[kind](told)
        except Exception:  # whatever an agent raises is told
            traceback.print_exc()
            answer = {"error": traceback.format_exc()[-agent_wire.MAX_ANSWER_BYTES // 2 :]}
        agent_wire.send(channel, answer)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # the agent is destroyed; what its libraries do at an exit may take long or crash
