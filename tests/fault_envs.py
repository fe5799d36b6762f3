"""Counters whose process dies or stops at a chosen place of a step: `fault_envs:Faulty-v0`, for workers of a pool.

The places are reached by wrapping, in the env's own process, the functions that write and post the results.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import gymnasium
import numpy as np
from client_envs import CounterEnv

from zmqcarla.shm.arena import ArenaRow
from zmqcarla.shm.bell import Bell

STOP, DIE_AFTER_WRITING, DIE_BEFORE_POSTING = 4.0, 5.0, 6.0
_armed: list[float] = []


def _die_at(place: float) -> None:
    if place in _armed:
        os.kill(os.getpid(), signal.SIGKILL)


def _die_after(place: float, owner: Any, name: str) -> None:
    function = getattr(owner, name)

    def wrapped(*arguments: Any) -> Any:
        result = function(*arguments)
        _die_at(place)
        return result

    setattr(owner, name, wrapped)


def _die_before(place: float, owner: Any, name: str) -> None:
    function = getattr(owner, name)

    def wrapped(*arguments: Any) -> Any:
        _die_at(place)
        return function(*arguments)

    setattr(owner, name, wrapped)


class _TrappedBell(Bell):
    def __init__(self, semaphore: Any) -> None:
        super().__init__(semaphore)
        _die_before(DIE_BEFORE_POSTING, self, "ring")


class FaultyEnv(CounterEnv):
    """action[1] can ask for a stop in the step, or for a death after the step, before it is told."""

    def __init__(self, length: int = 1000) -> None:
        super().__init__(length)
        _die_after(DIE_AFTER_WRITING, ArenaRow, "write")
        Bell.attach = _TrappedBell.attach  # type: ignore[method-assign]
        _die_before(DIE_BEFORE_POSTING, sys.modules["__main__"].EnvProcess, "_send")

    def step(self, action: np.ndarray[Any, Any]) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Count, and arm what was asked for."""
        _armed[:] = [float(action[1])]
        if action[1] == STOP:
            os.kill(os.getpid(), signal.SIGSTOP)
        return super().step(action)


gymnasium.register(id="Faulty-v0", entry_point="fault_envs:FaultyEnv", disable_env_checker=True)


class DeadlyEnv(CounterEnv):
    """Its process dies in the first step after a reset with seed 13."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self._deadly = seed == 13
        return super().reset(seed=seed, options=options)

    def step(self, action: Any) -> Any:
        if self._deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step(action)


gymnasium.register(id="Deadly-v0", entry_point="fault_envs:DeadlyEnv", disable_env_checker=True)
