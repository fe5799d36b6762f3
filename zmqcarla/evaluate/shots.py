"""Some moments of a route whose length is not known beforehand, evenly spread over it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_MOST: Final = 32


class Shots:
    """Keeps up to 32 moments: when there are more, every second one is dropped and only every second is taken.

    Attributes:
        taken: the number of the step, and the camera's picture, uint8 (height, width, 3), or None without a camera.
    """

    def __init__(self) -> None:
        self.taken: list[tuple[int, NDArray[np.uint8] | None]] = []
        self._stride = 1

    def offer(self, step: int, observation: Mapping[str, Any]) -> None:
        """Take the moment after step number `step`, or leave it."""
        if step % self._stride:
            return
        self.taken.append((step, camera_picture(observation)))
        if len(self.taken) > _MOST:
            self.taken = self.taken[::2]
            self._stride *= 2

    def spread(self, count: int) -> list[tuple[int, NDArray[np.uint8] | None]]:
        """Return up to `count` of them, from the first to the last."""
        places = np.unique(np.linspace(0, len(self.taken) - 1, min(count, len(self.taken))).astype(int))
        return [self.taken[place] for place in places]


def camera_picture(observation: Mapping[str, Any]) -> NDArray[np.uint8] | None:
    """Return a copy of the first RGB camera's picture, uint8 (height, width, 3); None where nothing is one."""
    for name, part in observation.items():
        if name == "bev" or not isinstance(part, np.ndarray) or part.dtype != np.uint8 or part.ndim != 3:
            continue
        if part.shape[0] == 3:
            return np.array(part.transpose(1, 2, 0))
        if part.shape[2] == 3:
            return np.array(part)
        if part.shape[2] == 4:  # BGRA
            return np.array(part[:, :, 2::-1])
    return None
