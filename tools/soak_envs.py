"""`soak_envs:Soak-v0`: a step costs nothing, and its observation tells which row, process, episode, step and action."""

from __future__ import annotations

import os
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

ROW, PID, EPISODE, STEP, ECHO = range(5)


class SoakEnv(gymnasium.Env[NDArray[np.float64], NDArray[np.float64]]):
    """Args: row: number of the row; length: steps of an episode."""

    def __init__(self, row: int, length: int) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (5,), np.float64)
        self.action_space = spaces.Box(-1, 1, (1,), np.float64)
        self._length = length
        self._told = np.array([row, os.getpid(), 0, 0, 0], np.float64)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float64], dict[str, Any]]:
        super().reset(seed=seed)
        self._told[EPISODE] += 1
        self._told[STEP] = self._told[ECHO] = 0
        return self._told, {}

    def step(self, action: NDArray[np.float64]) -> tuple[NDArray[np.float64], float, bool, bool, dict[str, Any]]:
        self._told[STEP] += 1
        self._told[ECHO] = action[0]
        step = int(self._told[STEP])
        infos = {"steps": step, "echo": float(action[0])} if step % 3 == 0 else {}
        return self._told, step + float(action[0]), step >= self._length, False, infos


gymnasium.register(id="Soak-v0", entry_point="soak_envs:SoakEnv", disable_env_checker=True)
