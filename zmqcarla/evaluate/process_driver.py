"""Drives with an agent of the Leaderboard that lives in a process of its own, a fresh one for each route.

Which sensors such an agent wants is known only when it is set up, and that needs a plan and a world. So the first env
of each crew has no sensors: the first agent is asked there and ended, and the route begins anew in an env that has what
it asked for.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from zmqcarla.agents.agent_process import NOT_SET_UP, SENSORS_INVALID, AgentError, AgentProcess
from zmqcarla.agents.agent_sensors import InputData, env_sensors
from zmqcarla.evaluate.drive import DriverError
from zmqcarla.vector_env import VectorEnv

_TICK_S: Final = 0.05
"""An evaluation drives with one tick a step."""


class OtherSensorsError(DriverError):
    """The agent wants other sensors than the env has.

    Attributes:
        wanted: the env's setting `sensors` that gives it what it wants.
    """

    def __init__(self, wanted: Sequence[Any]) -> None:
        super().__init__("expected the same sensors on each route, found others again", SENSORS_INVALID)
        self.wanted = wanted


def _no_sensors() -> dict[str, Any]:
    return {"sensors": [], "image_layout": "BGRA"}


@dataclass(frozen=True, slots=True)
class ProcessAgents:
    """Makes the drivers of an evaluation.

    Attributes:
        file: of the agent.
        config: what its `setup` gets.
        python: its interpreter, None for this one.
        folders: put on its path.
        logs: folder for what the agents print.
        timeout_s: longest time for a set-up and for a step.
        settings: keywords of the first env of each crew; the sensors are asked for in it.
    """

    file: Path
    config: str
    python: str | None
    folders: tuple[str, ...]
    logs: Path
    timeout_s: float
    settings: dict[str, Any] = field(default_factory=_no_sensors)

    def __call__(self) -> ProcessDriver:
        """Make the driver of one route."""
        return ProcessDriver(self)


class ProcessDriver:
    """A driver (`zmqcarla.evaluate.drive.Driver`) that asks an agent's process."""

    def __init__(self, agents: ProcessAgents) -> None:
        self._agents = agents
        self._process: AgentProcess | None = None
        self._steps = 0

    def reset(self, env: VectorEnv, observation: dict[str, Any], info: dict[str, Any]) -> None:
        """Start the process and set the agent up for the route.

        Raises:
            DriverError: that failed.
            OtherSensorsError: the env lacks what the agent wants.
        """
        del observation
        agents = self._agents
        briefing = env.call("agent_briefing")[0]
        config = agents.config if briefing["save_name"] is None else f"{agents.config}+{briefing['save_name']}"
        try:
            self._process = AgentProcess(
                agents.file,
                config,
                python=agents.python,
                folders=agents.folders,
                log=self._log(info["route_id"]),
                timeout_s=agents.timeout_s,
            )
            here = briefing["machine"] == platform.node()
            manner = self._process.set_up({**briefing, **({} if here else {"host": "", "port": 0})})
            wanted = env_sensors(manner)
        except AgentError as error:
            raise DriverError(str(error), error.status) from error
        if wanted != briefing["sensors"]:
            raise OtherSensorsError(wanted)
        self._frame = int(briefing["frame"])
        self._input_data = InputData(manner, lambda: str(env.call("open_drive")[0]))

    def act(self, observation: dict[str, Any]) -> NDArray[np.float32]:
        """Ask for the action; once a tick."""
        if self._process is None:
            raise DriverError("expected a living agent, found none", NOT_SET_UP)
        self._steps += 1
        timestamp_s = self._steps * _TICK_S
        try:
            measured = self._input_data.of(observation, timestamp_s)
            return self._process.step(timestamp_s, self._frame + self._steps - 1, measured)
        except AgentError as error:
            raise DriverError(str(error), error.status) from error

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            process.close()

    def _log(self, route_id: str) -> Path:
        self._agents.logs.mkdir(parents=True, exist_ok=True)
        plain = "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in route_id)
        return self._agents.logs / f"{plain}.log"
