"""How an episode came to be where it is: its beginning and every control since, for `level="replay"`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zmqcarla.workers.snapshots.plain import to_plain


class Recording:
    """One episode from its reset on.

    Args:
        seed: of the reset.
        options: of the reset, with the difficulty of the env.
        rng: state of the env's generator before the reset drew from it.

    Attributes:
        seed: as given.
        options: as given.
        rng: as given.
        controls: of all steps, float32 (3,) each: steer, throttle, brake.
    """

    def __init__(self, seed: int | None, options: Mapping[str, Any], rng: Mapping[str, Any]) -> None:
        self.seed = seed
        self.options = dict(options)
        self.rng = rng
        self.controls: list[NDArray[np.float32]] = []

    def get_state(self) -> dict[str, Any]:
        """Return all of it, for `from_state`.

        Raises:
            SnapshotError: an option cannot be kept.
        """
        to_plain(self.options)
        controls = np.array(self.controls, np.float32).reshape(-1, 3)
        return {"seed": self.seed, "options": self.options, "rng": self.rng, "controls": controls}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Recording:
        """Return the recording of a state."""
        recording = cls(state["seed"], state["options"], state["rng"])
        recording.controls = list(state["controls"])
        return recording
