"""What drives the routes of an evaluation, by how `--agent` names it.

`module:Class` is a policy class, asked in this process. A path that ends in .py is an agent of the CARLA Leaderboard,
which drives in the env process of `zmqcarla/Leaderboard-v0`, or in a process of its own.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zmqcarla.evaluate.agent import AgentDriver, load_agent
from zmqcarla.evaluate.drive import Driver
from zmqcarla.evaluate.process_driver import ProcessAgents
from zmqcarla.evaluate.settings import LEADERBOARD
from zmqcarla.vector_env import VectorEnv


@dataclass(frozen=True, slots=True)
class Chosen:
    """What drives, and what the env has to know of it.

    Attributes:
        new_driver: makes what drives one route.
        env_id: the env that it needs, "" for any.
        settings: keywords of that env.
    """

    new_driver: Callable[[], Driver]
    env_id: str = ""
    settings: dict[str, Any] = field(default_factory=dict)


class HostedDriver:
    """Stands for an agent that drives inside the env: what it returns is ignored there."""

    def reset(self, env: VectorEnv, observation: dict[str, Any], info: dict[str, Any]) -> None:
        """Nothing to take: the agent was set up with the episode."""

    def act(self, observation: dict[str, Any]) -> NDArray[np.float32]:
        """Return zeros, float32 (3,)."""
        del observation
        return np.zeros(3, np.float32)

    def close(self) -> None:
        """Nothing to let go of: the env destroys the agent."""


@dataclass(frozen=True, slots=True)
class OwnProcess:
    """How an agent gets a process of its own.

    Attributes:
        python: its interpreter, None for this one.
        logs: folder for what it prints.
    """

    python: str | None
    logs: Path


def choose_driver(agent: str, agent_config: str, timeout_s: float, own: OwnProcess | None = None) -> Chosen:
    """Return what `--agent` names. Workers of a private pool find a hosted agent by the variables set here.

    Args:
        agent: `module:Class` or the path of a Python file.
        agent_config: what a Leaderboard agent is set up with.
        timeout_s: longest time for its set-up and for a step of it.
        own: for a process of its own, None to drive inside the env process.

    Raises:
        ValueError: there is no such class, file or interpreter, or a class is given what only a file takes.
    """
    if not agent.endswith(".py"):
        if agent_config:
            raise ValueError(f"agent-config: expected none with {agent}, for only a Leaderboard agent's file takes one")
        if own is not None:
            raise ValueError(f"agent-process: expected a Leaderboard agent's file, found {agent}; leave it out")
        new_agent = load_agent(agent)
        return Chosen(lambda: AgentDriver(new_agent))
    path = Path(agent).resolve()
    if not path.is_file():
        raise ValueError(f"agent: expected the Python file of a Leaderboard agent, found none at {path}")
    # A worker has another working folder. What is no path stays as it is.
    config = str(Path(agent_config).resolve()) if agent_config and Path(agent_config).exists() else agent_config
    if own is not None:
        if own.python is not None and shutil.which(own.python) is None:
            raise ValueError(f"agent-python: expected an interpreter, found none that can be run as {own.python!r}")
        agents = ProcessAgents(path, config, own.python, checkout_folders(), own.logs, timeout_s)
        return Chosen(agents, settings=agents.settings)
    os.environ["ZMQCARLA_AGENT"], os.environ["ZMQCARLA_AGENT_CONFIG"] = str(path), config
    return Chosen(HostedDriver, LEADERBOARD, {"driver": "agent", "agent_timeout_s": timeout_s})


def checkout_folders() -> tuple[str, ...]:
    """Where the variables say that packages lie which an agent imports: leaderboard, srunner and CARLA's agents."""
    inside = {"BENCH2DRIVE_ROOT": ("leaderboard", "scenario_runner"), "CARLA_ROOT": ("PythonAPI/carla",)}
    named = {"LEADERBOARD_ROOT": ("",), "SCENARIO_RUNNER_ROOT": ("",), **inside}
    folders = [Path(os.environ[name]) / part for name, parts in named.items() if os.environ.get(name) for part in parts]
    return tuple(str(folder.expanduser().resolve()) for folder in folders)
