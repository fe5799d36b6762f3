"""Envs that write their observation where `bind_out` says; opened as "bound_envs:<id>" in env processes."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


class BoundEnv(gymnasium.Env[dict[str, Any], Any]):
    """Counts its steps in an image, and how often it was told where to write."""

    def __init__(self, length: int = 4) -> None:
        self.observation_space = spaces.Dict(
            {"image": spaces.Box(0, 255, (2, 5), np.uint8), "told": spaces.Box(0, 1e6, (1,), np.float32)}
        )
        self.action_space = spaces.Discrete(2)
        self.length = length
        self.steps = 0
        self.told = 0
        self._out: dict[str, Any] | None = None

    def bind_out(self, views: dict[str, Any]) -> None:
        self._out = views
        self.told += 1

    def _observe(self) -> dict[str, Any]:
        out, self._out = self._out, None
        if out is None:
            out = {"image": np.empty((2, 5), np.uint8), "told": np.empty(1, np.float32)}
        out["image"][...] = self.steps
        out["told"][...] = self.told
        return out

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, Any], Any]:
        super().reset(seed=seed)
        self.steps = 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return self._observe(), 1.0, self.steps == self.length, False, {}


def stacked() -> gymnasium.Env[Any, Any]:
    """A wrapper that keeps observations: bind_out is not for it."""
    return gymnasium.wrappers.FrameStackObservation(BoundEnv(), 3)


gymnasium.register(id="Bound-v0", entry_point="bound_envs:BoundEnv", max_episode_steps=100)
gymnasium.register(id="BoundStack-v0", entry_point="bound_envs:stacked")
