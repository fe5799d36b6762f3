"""What drives the routes of an evaluation, by how `--agent` names it.

`module:Class` is a policy class, asked in this process. A path that ends in .py is an agent of the CARLA Leaderboard,
which drives in the env process of `zmqcarla/Leaderboard-v0`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zmqcarla.evaluate.agent import AgentDriver, load_agent
from zmqcarla.evaluate.drive import Driver
from zmqcarla.evaluate.settings import LEADERBOARD


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

    def reset(self, observation: dict[str, Any], info: dict[str, Any]) -> None:
        """Nothing to take: the agent was set up with the episode."""

    def act(self, observation: dict[str, Any]) -> NDArray[np.float32]:
        """Return zeros, float32 (3,)."""
        del observation
        return np.zeros(3, np.float32)

    def close(self) -> None:
        """Nothing to let go of: the env destroys the agent."""


def choose_driver(agent: str, agent_config: str) -> Chosen:
    """Return what `--agent` names. Workers of a private pool find a Leaderboard agent by the variables set here.

    Args:
        agent: `module:Class` or the path of a Python file.
        agent_config: what a Leaderboard agent is set up with.

    Raises:
        ValueError: there is no such class or file, or a class is given a configuration.
    """
    if not agent.endswith(".py"):
        if agent_config:
            raise ValueError(f"agent-config: expected none with {agent}, for only a Leaderboard agent's file takes one")
        new_agent = load_agent(agent)
        return Chosen(lambda: AgentDriver(new_agent))
    path = Path(agent).resolve()
    if not path.is_file():
        raise ValueError(f"agent: expected the Python file of a Leaderboard agent, found none at {path}")
    # A worker has another working folder. What is no path stays as it is.
    config = str(Path(agent_config).resolve()) if agent_config and Path(agent_config).exists() else agent_config
    os.environ["ZMQCARLA_AGENT"], os.environ["ZMQCARLA_AGENT_CONFIG"] = str(path), config
    return Chosen(HostedDriver, LEADERBOARD, {"driver": "agent"})
