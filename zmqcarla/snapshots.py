"""Snapshots over the rows of a vector env, and forks: one row's moment given to others.

A restore is a reset to a saved moment, reset(options={"snapshot": id, "level": level}). So it goes the way of every
reset: wrappers, autoreset state, the place of the observation, processes that have to be started again. The rest are
calls of the envs' own methods, all rows at the same time. An env is forkable when it offers

    save_snapshot(name) -> id    export_snapshot(id) -> bytes    list_snapshots() -> [{"id": ...}, ...]
    delete_snapshot(id)          import_snapshot(data) -> id     reset(options={"snapshot": id, "level": level})

and says info["restore"]["ended"] when the moment is the end of an episode, after which only a reset may follow.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from zmqcarla.broker.errors import WorkerLostError
from zmqcarla.contract import chosen_rows
from zmqcarla.env_calls import EnvCalls

_ATTEMPTS: Final = 3


class SnapshotCalls(EnvCalls):
    """The part of `VectorEnv` that is made of `call` and `reset`.

    A snapshot lives in the env that saved or imported it, under the same id in every row, and ends with the env's
    process. Every method raises AlreadyPendingCallError while the results of a step, reset or call are outstanding,
    ValueError for rows that do not exist, and what the env raises (SnapshotError for an id that it does not know).
    """

    @property
    def lost_rows(self) -> list[int]:
        """Rows whose worker died and that have no env until a reset or restore names them."""
        raise NotImplementedError

    def save_snapshot(self, name: str | None = None, rows: Sequence[int] | None = None) -> str:
        """Save the moment at which each row is.

        Args:
            name: becomes the id, and replaces an older snapshot of that id; None for a new random one.
            rows: whose moments; None for all.

        Returns:
            The id, the same in each of `rows`.

        Raises:
            WorkerLostError: one of `rows` has no env.
        """
        snapshot = name or f"snapshot-{secrets.token_hex(6)}"
        self.call("save_snapshot", snapshot, rows=rows)
        return snapshot

    def restore_snapshot(
        self, snapshot: str, rows: Sequence[int] | None = None, level: str = "state"
    ) -> tuple[Any, dict[str, Any]]:
        """Put rows back to their saved moments; each goes on with the episode of its snapshot.

        A row whose worker died since is given a new env, and the snapshot of a row that still has it. When the moment
        is the end of an episode, the row's next step is a reset (but with DISABLED, where the env asks for one).

        Args:
            snapshot: id, from `save_snapshot` or `import_snapshot`.
            rows: which ones; None for all. The others are not touched and keep their observation.
            level: "state" copies the state; "replay" resets with the episode's seed and repeats its actions.

        Returns:
            Observations of all rows, each leaf (num_envs, *shape), and infos; infos["restore"] is the report
            of the fidelity.

        Raises:
            WorkerLostError: a worker died again and again meanwhile, or will not come back.
        """
        chosen = chosen_rows(rows, self.num_envs)
        attempts_left = _ATTEMPTS
        while True:
            self._give_to_lost(snapshot, self._lost_of(chosen))
            attempts_left -= 1
            try:
                return self.reset(options={"snapshot": snapshot, "level": level, "reset_mask": self._mask(chosen)})
            except Exception:
                # A process that was started again meanwhile does not know the snapshot: that is no fault of the id.
                if not attempts_left or self.closed or not self._lost_of(chosen):
                    raise

    def list_snapshots(self, rows: Sequence[int] | None = None) -> tuple[list[dict[str, Any]], ...]:
        """What each row has: one list for each of `rows`, one dict (id, size_bytes, ...) for each snapshot."""
        return self.call("list_snapshots", rows=rows)

    def delete_snapshot(self, snapshot: str, rows: Sequence[int] | None = None) -> None:
        """Forget a snapshot in each of `rows` (all)."""
        self.call("delete_snapshot", snapshot, rows=rows)

    def export_snapshot(self, snapshot: str, row: int) -> bytes:
        """The snapshot of one row, to be kept or given to other envs."""
        data: bytes = self.call("export_snapshot", snapshot, rows=[row])[0]
        return data

    def import_snapshot(self, data: bytes, rows: Sequence[int] | None = None) -> str:
        """Give each of `rows` (all) a snapshot that was exported; the id that it carries."""
        snapshot: str = self.call("import_snapshot", data, rows=rows)[0]
        return snapshot

    def fork(
        self, source_row: int, target_rows: Sequence[int] | None = None, level: str = "state"
    ) -> tuple[Any, dict[str, Any]]:
        """Put target rows to the moment at which a source row is; all of them, the source too, are restored to it.

        Target rows whose worker died get a new env. The snapshot that serves for this is deleted.

        Args:
            source_row: is at the moment.
            target_rows: without the source; None for all others.
            level: see `restore_snapshot`.

        Returns:
            Observations of all rows and infos, as of `restore_snapshot`.

        Raises:
            ValueError: the source is among the targets.
            WorkerLostError: the source has no env, or a worker died again and again.
        """
        (source,) = chosen_rows([source_row], self.num_envs)
        others = [row for row in range(self.num_envs) if row != source]
        targets = others if target_rows is None else chosen_rows(target_rows, self.num_envs)
        if source in targets:
            raise ValueError(f"expected target rows without the source row {source}, found {targets}")
        snapshot = self.save_snapshot(rows=[source])
        everyone = [source, *targets]
        try:
            lost = self.lost_rows
            if living := [row for row in targets if row not in lost]:
                data = self.export_snapshot(snapshot, source)
                with contextlib.suppress(WorkerLostError):  # the restore gives it to those who died
                    self.import_snapshot(data, living)
            result = self.restore_snapshot(snapshot, everyone, level)
        except Exception:
            with contextlib.suppress(Exception):  # not everybody has it, and the first error is the one to tell
                self._delete_where_living(snapshot, everyone)
            raise
        with contextlib.suppress(WorkerLostError):  # who died after the restore is the next step's news
            self._delete_where_living(snapshot, everyone)
        return result

    def _give_to_lost(self, snapshot: str, lost: list[int]) -> None:
        """Start the envs of lost rows anew, and copy them the snapshot when another row has it."""
        if not lost:
            return
        self.reset(options={"reset_mask": self._mask(lost)})
        without = {*lost, *self.lost_rows}
        others = [row for row in range(self.num_envs) if row not in without]
        lists = self.list_snapshots(others) if others else ()
        holders = [row for row, listed in zip(others, lists, strict=True) if snapshot in [one["id"] for one in listed]]
        if holders:
            self.import_snapshot(self.export_snapshot(snapshot, holders[0]), lost)

    def _delete_where_living(self, snapshot: str, rows: list[int]) -> None:
        lost = self.lost_rows
        if living := [row for row in rows if row not in lost]:
            self.delete_snapshot(snapshot, living)

    def _lost_of(self, rows: list[int]) -> list[int]:
        return [row for row in self.lost_rows if row in rows]

    def _mask(self, rows: list[int]) -> np.ndarray[Any, np.dtype[np.bool_]]:
        mask = np.zeros(self.num_envs, np.bool_)
        mask[rows] = True
        return mask
