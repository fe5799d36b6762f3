"""What drives: any class that maps an observation to an action."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class Agent(Protocol):
    """One object of it drives one route.

    An agent may also have `reset(observation, info)`, called at the start of the route, and `close()`, called at its
    end, however that comes.
    """

    def __call__(self, observation: dict[str, NDArray[Any]]) -> NDArray[np.floating[Any]]:
        """Return the action, (3,): steer, throttle, brake."""
        ...


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
