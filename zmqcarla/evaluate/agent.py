"""What drives: any class that maps an observation to an action."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from zmqcarla.evaluate.drive import DriverError
from zmqcarla.vector_env import VectorEnv


class Agent(Protocol):
    """One object of it drives one route.

    An agent may also have `reset(observation, info)`, called at the start of the route, and `close()`, called at its
    end, however that comes.
    """

    def __call__(self, observation: dict[str, NDArray[Any]]) -> NDArray[np.floating[Any]]:
        """Return the action, (3,): steer, throttle, brake."""
        ...


class AgentDriver:
    """A driver (`zmqcarla.evaluate.drive.Driver`) that asks an agent, and says so when the agent raises.

    Args:
        new_agent: makes the agent of one route.
    """

    def __init__(self, new_agent: Callable[[], Agent]) -> None:
        self._agent: Any = _call(new_agent)

    def reset(self, env: VectorEnv, observation: dict[str, Any], info: dict[str, Any]) -> None:
        """Tell the agent of the new route, when it wants to know."""
        del env
        if hasattr(self._agent, "reset"):
            _call(self._agent.reset, observation, info)

    def act(self, observation: dict[str, Any]) -> NDArray[np.float32]:
        """Ask for the action."""
        return np.asarray(_call(self._agent, observation), dtype=np.float32)

    def close(self) -> None:
        """Let the agent go."""
        if hasattr(self._agent, "close"):
            _call(self._agent.close)


def _call(function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except Exception as error:
        raise DriverError(f"the agent raised {error!r}\n{traceback.format_exc()}") from error


def load_agent(name: str) -> type[Any]:
    """Return the class that `module:Class` names; modules beside the caller are found too.

    Raises:
        ValueError: there is no such module or class.
    """
    module_name, _, class_name = name.partition(":")
    if not module_name or not class_name:
        raise ValueError(f"agent: expected module:Class, found {name!r}")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ValueError(f"agent: expected an importable module {module_name!r}, found {error}") from error
    found = getattr(module, class_name, None)
    if not isinstance(found, type):
        raise ValueError(f"agent: expected a class {class_name!r} in {module.__name__}, found {found!r}")
    return found
