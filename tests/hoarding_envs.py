"""An env whose process grows with each episode, and that can go on in a fresh one; opened as "hoarding_envs:..."."""

from __future__ import annotations

import os
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

EPISODE_STEPS = 2
HOARD = "hoarding_envs:Hoard-v0"
_EPISODE_BYTES = 3 << 20


class HoardingEnv(gymnasium.Env[NDArray[np.float64], Any]):
    """Its observations are drawn at random; info tells of the process.

    Attributes:
        mood: any number, for `set_attr`.
        sure: whether it would hand over.

    Args:
        trap: a file that it leaves when it hands over, and at which it fails when it is made.
    """

    def __init__(self, sure: bool = True, trap: str = "") -> None:
        if trap and os.path.exists(trap):
            os.unlink(trap)
            raise LookupError("no such luck")
        self._trap = trap
        self.observation_space = spaces.Box(0.0, 1.0, (2,), np.float64)
        self.action_space = spaces.Discrete(2)
        self.mood = 0
        self.sure = sure
        self._left = 0
        self._hoard: list[bytes] = []

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float64], dict[str, Any]]:
        super().reset(seed=seed)
        self._left = EPISODE_STEPS
        self._hoard.append(b"x" * _EPISODE_BYTES)
        wanted = -1 if options is None else int(options["wanted"])
        told = {"pid": os.getpid(), "held": len(self._hoard), "mood": self.mood, "wanted": wanted}
        return self.np_random.random(2), told

    def step(self, action: Any) -> tuple[NDArray[np.float64], float, bool, bool, dict[str, Any]]:
        self._left -= 1
        return self.np_random.random(2), 1.0, self._left == 0, False, {}

    def hand_over(self) -> dict[str, Any] | None:
        if self._trap:
            open(self._trap, "x").close()
        return {"rng": repr(self.np_random.bit_generator.state)} if self.sure else None

    def take_over(self, state: dict[str, Any]) -> None:
        self.np_random.bit_generator.state = eval(state["rng"])


gymnasium.register(id="Hoard-v0", entry_point="hoarding_envs:HoardingEnv")
