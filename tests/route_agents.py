"""Agents that an evaluation in the tests drives with: `route_agents:Stander`."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray


class Stander:
    """Stands still and counts what it was told."""

    told: list[str]

    def __init__(self) -> None:
        self.told = []

    def reset(self, observation: dict[str, Any], info: dict[str, Any]) -> None:
        """Remember the route."""
        assert "rgb" in observation
        self.told.append(info["route_id"])

    def __call__(self, observation: dict[str, Any]) -> NDArray[np.float32]:
        """Brake."""
        return np.array([0.0, 0.0, 1.0], dtype=np.float32)


class Crasher:
    """Raises after some steps."""

    def __init__(self) -> None:
        self._steps = 0

    def __call__(self, observation: dict[str, Any]) -> NDArray[np.float32]:
        """Drive, then raise."""
        self._steps += 1
        if self._steps > 3:
            raise RuntimeError("the network is on fire")
        return np.zeros(3, dtype=np.float32)


class Saboteur(Stander):
    """Stands, and on the first route that it ever drives it kills the env process that drives it."""

    killed = False

    def __call__(self, observation: dict[str, Any]) -> NDArray[np.float32]:
        """Brake, or kill once."""
        if not Saboteur.killed:
            Saboteur.killed = True
            children = psutil.Process().children(recursive=True)
            next(each for each in children if "zmqcarla.workers.env_process" in each.cmdline()).kill()
        return super().__call__(observation)


class Killer(Stander):
    """Stands; on route 4 it kills a process of the pool, each time or once.

    Class attributes are set by the test.
    """

    victim = "zmqcarla.workers.env_process"
    kills = 0
    allowed = 99

    def reset(self, observation: dict[str, Any], info: dict[str, Any]) -> None:
        """Remember the route."""
        self._deadly = info["route_id"] == "4"

    def __call__(self, observation: dict[str, Any]) -> NDArray[np.float32]:
        """Brake, or kill."""
        if self._deadly and Killer.kills < Killer.allowed:
            Killer.kills += 1
            self._deadly = False
            children = [(each, each.cmdline()) for each in psutil.Process().children(recursive=True)]
            # A guard is started with the command of what it guards.
            next(each for each, how in children if Killer.victim in how and "--lifeline-fd" not in how[:6]).kill()
        return np.array([0.0, 0.0, 1.0], dtype=np.float32)


class Dreamer(Stander):
    """Never answers on route 4, until it is woken."""

    wake = threading.Event()

    def reset(self, observation: dict[str, Any], info: dict[str, Any]) -> None:
        """Dream, or not."""
        if info["route_id"] == "4":
            Dreamer.wake.wait(60.0)
