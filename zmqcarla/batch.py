"""What came of a step of all rows."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclasses.dataclass(slots=True)
class Batch:
    """Results of a step; every array has one entry a row of the vector env.

    Attributes:
        rewards: float64.
        terminated: bool.
        truncated: bool.
        infos: one dict a row; empty when no row has any.
        columns: infos of all rows that are one batch already.
        info_keys: in which order `columns` and `infos` stand together.
        losses: what the supervisor or broker says of rows whose worker died.
        slowest_s: the longest time that one worker spent on its step.
        quiet: no episode ended and no worker died, for sure.
    """

    rewards: NDArray[np.float64]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    infos: list[dict[str, Any]]
    losses: dict[int, dict[str, Any]]
    columns: dict[str, Any] = dataclasses.field(default_factory=dict)
    info_keys: tuple[str, ...] = ()
    slowest_s: float = 0.0
    quiet: bool = False

    def clear_row(self, row: int) -> None:
        """Forget what happened to a row."""
        self.rewards[row], self.terminated[row], self.truncated[row] = 0.0, False, False
        self.infos[row] = {}
        self.losses.pop(row, None)

    @classmethod
    def empty(cls, num_envs: int) -> Batch:
        """A batch in which nothing happened."""
        return cls(
            rewards=np.zeros(num_envs, np.float64),
            terminated=np.zeros(num_envs, np.bool_),
            truncated=np.zeros(num_envs, np.bool_),
            infos=[{} for _ in range(num_envs)],
            losses={},
        )
