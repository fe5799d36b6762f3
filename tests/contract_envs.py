"""Envs for comparing vector envs: they tell what they were given, and return awkward infos."""

from __future__ import annotations

import os
import threading
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

RAISE, SLEEP, HANG = 3, 4, 9
SLEEP_S = 0.5


class OddError(Exception):
    """Known to the worker alone."""


class EchoEnv(gymnasium.Env[dict[str, Any], Any]):
    """Observations come from buffers that are reused, so that what is kept without a copy is seen to change."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012

    def __init__(self, length: int = 3, render_mode: str | None = None, offset: int = 0) -> None:
        self.observation_space = spaces.Dict(
            {"counts": spaces.Box(-1e6, 1e6, (4,), np.float32), "pick": spaces.Discrete(100_000)}
        )
        self.action_space = spaces.Discrete(5)
        self.render_mode = render_mode
        self.length = length
        self.offset = offset
        self.value = 0
        self.episode = self.steps = 0
        self._buffer = np.zeros(4, np.float32)

    def _observe(self, action: int) -> dict[str, Any]:
        self._buffer[:] = (self.episode, self.steps, action, self._draw)
        return {"counts": self._buffer, "pick": np.int64(self.steps)}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        super().reset(seed=seed)
        self.episode += 1
        self.steps = 0
        self._draw = float(self.np_random.integers(1000))
        return self._observe(-1), {"options": str(options), "draw": self._draw}

    def step(self, action: int) -> tuple[dict[str, Any], Any, bool, bool, dict[str, Any]]:
        if action == RAISE:
            raise KeyError("asked to raise")
        if action == SLEEP:
            threading.Event().wait(SLEEP_S)
        self.steps += 1
        terminated = self.steps >= self.length and action != 2
        truncated = self.steps >= self.length and action == 2
        return self._observe(int(action)), np.float32(self.steps / 2), terminated, truncated, self._infos(action)

    def _infos(self, action: int) -> dict[str, Any]:
        infos: dict[str, Any] = {
            "action_type": type(action).__name__,
            "steps": self.steps,
            "speed": 1.5 * self.steps,
            "hit": self.steps % 2 == 0,
            "small": np.float32(0.25),
            "where": np.arange(3, dtype=np.int16) + self.steps,
            "nested": {"lane": self.steps, "deeper": {"name": "a"}},
            "pair": (1, "b"),
            "nothing": None,
        }
        if action == 1:
            infos |= {"rare": np.uint8(7), "nested": {"lane": 0, "only": [1, 2]}}
        return infos

    def render(self) -> Any:
        return np.full((8, 8, 3), self.steps, np.uint8)

    def add(self, first: int, *, second: int = 0) -> int:
        return first + second + self.steps

    def nap(self, seconds: float) -> str:
        threading.Event().wait(seconds)
        return "rested"

    def be_odd(self) -> None:
        raise OddError("odd")


class SlowEnv(gymnasium.Env[Any, Any]):
    """Each step takes a random time; observations tell row, episode, step and action."""

    def __init__(self, name: int = 0, mean_s: float = 0.004, length: int = 1000, text: bool = False) -> None:
        box = spaces.Box(-1e6, 1e6, (4,), np.float32)
        self.observation_space = spaces.Dict({"v": box, "text": spaces.Text(20)}) if text else box
        self.action_space = spaces.Box(-10, 10, (1,), np.float32)
        self.name, self.mean_s, self.length, self.text = name, mean_s, length, text
        self.episode = self.steps = 0

    def _observe(self, action: float) -> Any:
        values = np.array([self.name, self.episode, self.steps, action], np.float32)
        return {"v": values, "text": f"{self.name}:{self.steps}"} if self.text else values

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.episode += 1
        self.steps = 0
        return self._observe(0), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if action[0] == RAISE:
            raise ValueError("asked to raise")
        threading.Event().wait(600 if action[0] == HANG else self.np_random.exponential(self.mean_s))
        self.steps += 1
        infos = {"steps": self.steps} if self.name % 2 else {"steps": self.steps, "even": True}
        return self._observe(float(action[0])), float(self.name), self.steps >= self.length, False, infos

    def pid(self) -> int:
        return os.getpid()


gymnasium.register(id="Slow-v0", entry_point="contract_envs:SlowEnv", disable_env_checker=True)
gymnasium.register(id="Echo-v0", entry_point="contract_envs:EchoEnv", disable_env_checker=True)
