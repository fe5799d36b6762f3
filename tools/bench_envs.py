"""Envs whose step costs nothing, so that a benchmark sees the vector env alone.

`bench_envs:BenchImage-v0` fills an image and a vector, `bench_envs:BenchVector-v0` a vector. Each observation carries
the env's step counter and echoes the action, so that the benchmark can check every row of every step.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

IMAGE_SHAPE = (3, 224, 400)
VECTOR_LENGTH = 16


class BenchEnv(gymnasium.Env[Any, NDArray[np.float32]]):
    """vector[0] counts the steps, vector[1] echoes action[0]; the image repeats the counter modulo 256."""

    def __init__(self, image: bool) -> None:
        vector = spaces.Box(-np.inf, np.inf, (VECTOR_LENGTH,), np.float32)
        self.observation_space: spaces.Space[Any] = (
            spaces.Dict({"image": spaces.Box(0, 255, IMAGE_SHAPE, np.uint8), "vector": vector}) if image else vector
        )
        self.action_space: spaces.Space[Any] = spaces.Box(-1, 1, (3,), np.float32)
        self._image = np.zeros(IMAGE_SHAPE, np.uint8) if image else None
        self._vector = np.zeros(VECTOR_LENGTH, np.float32)

    def _observe(self) -> Any:
        if self._image is None:
            return self._vector
        self._image.fill(int(self._vector[0]) % 256)
        return {"image": self._image, "vector": self._vector}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._vector[:2] = 0
        return self._observe(), {}

    def step(self, action: NDArray[np.float32]) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._vector[0] += 1
        self._vector[1] = action[0]
        return self._observe(), 1.0, False, False, {}


for _name, _image in (("BenchImage-v0", True), ("BenchVector-v0", False)):
    gymnasium.register(id=_name, entry_point="bench_envs:BenchEnv", kwargs={"image": _image}, disable_env_checker=True)
