"""What each row of a vector env is asked next: a step, the reset of an ended episode, or a new env after a death."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from zmqcarla.batch import Batch
from zmqcarla.lease import Outcome


class RowStates:
    """The rows' states between two calls.

    Args:
        num_envs: rows.
        mode: what happens to a row whose episode ended.

    Attributes:
        mode: the same.
        reset_next: bool (num_envs,), rows whose next step is a reset.
        rebuild: bool (num_envs,), rows whose worker died; a subset of `reset_next` but with DISABLED.
        all_step: whether neither is set anywhere.
    """

    def __init__(self, num_envs: int, mode: AutoresetMode) -> None:
        self.mode = mode
        self.reset_next: NDArray[np.bool_] = np.zeros(num_envs, np.bool_)
        self.rebuild: NDArray[np.bool_] = np.zeros(num_envs, np.bool_)
        self.all_step = True

    def ops(self) -> list[str]:
        """What each row is asked: step, reset after an ended episode, rebuild after a death, "" for nothing."""
        if self.mode is AutoresetMode.DISABLED:
            return ["" if rebuild else "step" for rebuild in self.rebuild.tolist()]
        return [
            "rebuild" if rebuild else "reset" if reset else "step"
            for rebuild, reset in zip(self.rebuild.tolist(), self.reset_next.tolist(), strict=True)
        ]

    def note_step(self, batch: Batch, failed: Sequence[Outcome]) -> None:
        """What a step of all rows changes; rows that failed stay as they are."""
        ended = batch.terminated | batch.truncated if self.mode is AutoresetMode.NEXT_STEP else None
        if self.all_step and not failed and not batch.losses and (ended is None or not ended.any()):
            return
        still = [(outcome.row, self.rebuild[outcome.row], self.reset_next[outcome.row]) for outcome in failed]
        if self.mode is not AutoresetMode.DISABLED:
            self.rebuild[:] = False
        self.reset_next[:] = False if ended is None else ended
        for row, rebuild, reset in still:
            self.rebuild[row], self.reset_next[row] = rebuild, reset
        self.note_loss(batch.losses)

    def note_rows(self, rows: NDArray[np.intp], ended: NDArray[np.bool_]) -> None:
        """What results of some rows change; `ended` is bool (len(rows),)."""
        self.reset_next[rows] = ended if self.mode is AutoresetMode.NEXT_STEP else False
        self.reset_next[rows] |= self.rebuild[rows]
        self._settle()

    def note_loss(self, rows: Iterable[int]) -> None:
        """Workers of these rows died."""
        for row in rows:
            self.rebuild[row] = self.reset_next[row] = True
        self._settle()

    def note_reset(self, outcome: Outcome) -> None:
        """A row was reset: it has a new episode, or is back at the end of one (a restored snapshot)."""
        restored = outcome.payload["info"].get("restore")
        ended = isinstance(restored, dict) and bool(restored.get("ended"))
        self.rebuild[outcome.row] = False
        self.reset_next[outcome.row] = ended and self.mode is not AutoresetMode.DISABLED
        self._settle()

    def note_rebuilt(self, row: int) -> None:
        """A row has a worker again."""
        self.rebuild[row] = False
        self._settle()

    def _settle(self) -> None:
        self.all_step = not (self.reset_next.any() or self.rebuild.any())
