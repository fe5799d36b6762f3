"""Envs whose step costs next to nothing, so that a benchmark sees the vector env alone.

    bench_envs:BenchImage-v0        Dict of image uint8 (3, 224, 400) and vector float32 (16,)
    bench_envs:BenchImageBound-v0   the same; writes into the arrays that a worker offers (`bind_out`)
    bench_envs:BenchVector-v0       vector alone
    bench_envs:BenchJitter-v0       vector; a step sleeps for a lognormal time, as a simulator's step varies
    bench_envs:BenchHang-v0         vector; a step hangs when its action says so, to be killed in the middle of it

vector[0] counts the steps, vector[1] echoes action[0], and the image is filled with `image_value` of the two: whoever
knows the actions can check every row of every step.
"""

from __future__ import annotations

import math
import os
import time
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

IMAGE_SHAPE = (3, 224, 400)
VECTOR_LENGTH = 16
MEAN_SLEEP_S = 0.02
SIGMA = 0.5
ECHO_STEPS = 1024
"""Echoed actions are multiples of 1/1024, which float32 holds exactly."""
INFO_KEYS = ("speed", "progress", "reward_speed", "reward_lane", "distance", "frame", "collisions", "on_road")


def image_value(count: Any, echo: Any) -> Any:
    """What the image is filled with: different in rows of one step, and in steps of one row."""
    return (count + echo * ECHO_STEPS) % 256


def scalar_infos(count: int) -> dict[str, Any]:
    """Eight scalars, as a driving env reports them: five floats, two integers, one bool."""
    floats = [count + 0.5 * index for index in range(5)]
    return dict(zip(INFO_KEYS, [*floats, count, -count, count % 2 == 0], strict=True))


class BenchEnv(gymnasium.Env[Any, NDArray[np.float32]]):
    """Fills buffers of its own and returns them, as most envs do."""

    def __init__(self, image: bool) -> None:
        vector = spaces.Box(-np.inf, np.inf, (VECTOR_LENGTH,), np.float32)
        self.observation_space: spaces.Space[Any] = (
            spaces.Dict({"image": spaces.Box(0, 255, IMAGE_SHAPE, np.uint8), "vector": vector}) if image else vector
        )
        self.action_space: spaces.Space[Any] = spaces.Box(-1, 1, (3,), np.float32)
        self._count = 0
        self._echo = 0.0
        self._shows_infos = False
        self._vector = np.zeros(VECTOR_LENGTH, np.float32)
        self._out: Any = {"image": np.zeros(IMAGE_SHAPE, np.uint8), "vector": self._vector} if image else self._vector

    def show_infos(self, shown: bool) -> None:
        """Whether steps return `scalar_infos` from now on."""
        self._shows_infos = shown

    def process_id(self) -> int:
        """Of the process that the env lives in."""
        return os.getpid()

    def _observe(self) -> Any:
        self._vector[:2] = self._count, self._echo
        if isinstance(self._out, dict):
            self._out["image"].fill(int(image_value(self._count, self._echo)))
        return self._out

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._count, self._echo = 0, 0.0
        return self._observe(), {}

    def step(self, action: NDArray[np.float32]) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._count += 1
        self._echo = float(action[0])
        return self._observe(), 1.0, False, False, scalar_infos(self._count) if self._shows_infos else {}


class BoundEnv(BenchEnv):
    """Writes where it is told to, so that nobody has to copy."""

    def bind_out(self, views: Any) -> None:
        """Take the arrays of the next observation, structured like the space; valid until the next call."""
        self._out = views
        self._vector = views["vector"]
        self._vector.fill(0)


class JitterEnv(BenchEnv):
    """Sleeps in each step: lognormal with a mean of 20 ms; the sleeps of a row follow from its seed."""

    def step(self, action: NDArray[np.float32]) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        time.sleep(self.np_random.lognormal(math.log(MEAN_SLEEP_S) - SIGMA**2 / 2, SIGMA))
        return super().step(action)


class HangEnv(BenchEnv):
    """Hangs for a minute in a step whose action[2] is 1."""

    def step(self, action: NDArray[np.float32]) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if action[2] == 1:
            time.sleep(60)
        return super().step(action)


for _name, _class, _image in (
    ("BenchImage-v0", "BenchEnv", True),
    ("BenchImageBound-v0", "BoundEnv", True),
    ("BenchVector-v0", "BenchEnv", False),
    ("BenchJitter-v0", "JitterEnv", False),
    ("BenchHang-v0", "HangEnv", False),
):
    gymnasium.register(_name, f"bench_envs:{_class}", kwargs={"image": _image}, disable_env_checker=True)
