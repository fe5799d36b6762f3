"""What an env itself counts during an episode, beside what the episode counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zmqcarla.workers.observation import Observation
from zmqcarla.workers.snapshots.recording import Recording


@dataclass(slots=True, eq=False)
class Kept:
    """What was seen at a moment that was restored: no sensor measures it again.

    Attributes:
        observation: its arrays.
        picture: of `render`, uint8 (height, width, 3); None without a render mode.
    """

    observation: Observation
    picture: NDArray[np.uint8] | None


@dataclass(slots=True, eq=False)
class Progress:
    """An episode as its env counts it.

    Attributes:
        recording: how it came to be.
        steps: so far.
        steer: of the last step.
        ending: value of `Ending` after the last step.
        terms: of the last reward.
        over: whether the episode is terminated or truncated.
        kept: until the first step after a restore, what was seen then.
    """

    recording: Recording
    steps: int = 0
    steer: float = 0.0
    ending: str = ""
    terms: dict[str, float] = field(default_factory=dict[str, float])
    over: bool = False
    kept: Kept | None = None

    def get_state(self) -> dict[str, Any]:
        """Return it, for `from_state`, without `kept`."""
        return {
            "recording": self.recording.get_state(),
            "steps": self.steps,
            "steer": self.steer,
            "ending": self.ending,
            "terms": self.terms,
            "over": self.over,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any], kept: Kept) -> Progress:
        """Return the progress of a state."""
        recording = Recording.from_state(state["recording"])
        numbers = {name: state[name] for name in ("steps", "steer", "ending", "terms", "over")}
        return cls(recording, **numbers, kept=kept)


def copy_into(source: Any, target: Any) -> None:
    """Copy the arrays of an observation into those of another one."""
    for name, part in source.items():
        if isinstance(part, dict):
            copy_into(part, target[name])
        else:
            target[name][...] = part
