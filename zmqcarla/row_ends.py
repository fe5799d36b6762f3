"""Infos of rows whose worker died or whose episode was reset in the same step: what a training loop finds there."""

from __future__ import annotations

from collections.abc import Iterable

from gymnasium.vector import AutoresetMode

from zmqcarla.batch import Batch
from zmqcarla.rows import Rows


class RowEnds:
    """Completes results of rows that ended.

    Args:
        rows: of the vector env.
        mode: with SAME_STEP such rows have final_obs and final_info, for loops look there wherever an episode ended.
    """

    def __init__(self, rows: Rows, mode: AutoresetMode) -> None:
        self._rows = rows
        self._same_step = mode is AutoresetMode.SAME_STEP

    def add_loss(self, batch: Batch, row: int, slot: int) -> None:
        """Make a row whose worker died a truncated one; `slot` holds its last observation."""
        news = batch.losses[row]
        batch.truncated[row] = True
        batch.infos[row] = {"worker_lost": news}
        if self._same_step:
            final_obs = self._rows.observation(slot, row)
            batch.infos[row] |= {"final_obs": final_obs, "final_info": {"worker_lost": news}}

    def add_final_observations(self, batch: Batch, rows: Iterable[int]) -> None:
        """Put the last observation of an episode that was reset in the same step into the row's info."""
        if not self._same_step or not batch.infos:
            return
        for row in rows:
            info = batch.infos[row]
            if "final_obs" in info and row not in batch.losses:
                info["final_obs"] = self._rows.final_observation(row, info["final_obs"])
