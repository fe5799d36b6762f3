"""Small envs that workers of a test pool run: `client_envs:Counter-v0`."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.classic_control import CartPoleEnv

DIE, RAISE, HANG = 7.0, 8.0, 9.0


class CounterEnv(gymnasium.Env[dict[str, Any], np.ndarray[Any, Any]]):
    """Observations tell the episode, the step, and the action: a stale, doubled or foreign row is seen at once.

    action[1] can ask for a death (DIE), an exception (RAISE) or a hang (HANG).
    """

    def __init__(self, length: int = 1000, text: bool = False, fail: str = "") -> None:
        if fail:
            raise ValueError(f"asked to fail: {fail}")
        parts: dict[str, spaces.Space[Any]] = {
            "image": spaces.Box(0, 255, (3, 4, 5), np.uint8),
            "vector": spaces.Box(-np.inf, np.inf, (4,), np.float32),
            "nested": spaces.Tuple([spaces.Discrete(10_000), spaces.MultiBinary(3)]),
        }
        if text:
            parts["text"] = spaces.Text(20)
        self.observation_space = spaces.Dict(parts)
        self.action_space = spaces.Box(-10, 10, (2,), np.float32)
        self.render_mode = None
        self.length = length
        self.episode = self.steps = 0
        self.marker = 0.0

    def _observe(self, echo: float) -> dict[str, Any]:
        observation: dict[str, Any] = {
            "image": np.full((3, 4, 5), self.steps % 256, np.uint8),
            "vector": np.array([self.episode, self.steps, echo, self.marker], np.float32),
            "nested": (self.steps, np.array([1, 0, self.steps % 2], np.int8)),
        }
        if "text" in self.observation_space.spaces:  # type: ignore[attr-defined]
            observation["text"] = f"step {self.steps}"
        return observation

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """A new episode; the marker is the seed's first random number."""
        super().reset(seed=seed)
        self.episode += 1
        self.steps = 0
        self.marker = float(self.np_random.integers(1000))
        return self._observe(0.0), {"options": str(options)}

    def step(self, action: np.ndarray[Any, Any]) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Count."""
        if action[1] == DIE:
            os.kill(os.getpid(), signal.SIGKILL)
        if action[1] == RAISE:
            raise ValueError("asked to raise")
        if action[1] == HANG:
            threading.Event().wait(600)
        self.steps += 1
        ended = self.steps >= self.length
        return self._observe(float(action[0])), float(action[0]), ended, False, {"steps": self.steps}

    def pid(self) -> int:
        """Of the env process."""
        return os.getpid()


gymnasium.register(id="Counter-v0", entry_point="client_envs:CounterEnv", disable_env_checker=True)


class PoleEnv(CartPoleEnv):
    """CartPole that tells its process."""

    def pid(self) -> int:
        return os.getpid()


gymnasium.register(id="Pole-v0", entry_point="client_envs:PoleEnv", max_episode_steps=500)
