"""Send actions to some rows, receive whichever k are done first: `VectorEnv.send` and `VectorEnv.recv`.

What is done is delivered oldest first, by the time at which the worker finished (a column of the board) or its answer
arrived (over the bus), so no row starves however quick the others are.

Rows write into two slots of the arena in turn: while a worker fills one, the row's last observation stands whole in
the other, should the worker die half way. Results are gathered into a batch of their own. When step() or reset() take
over again, the newest observations are brought together in one slot, which becomes the ring's newest.

Source of the idea and of the names: EnvPool's asynchronous mode (Weng et al., 2022).
"""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from typing import Any, Final

import gymnasium
import numpy as np
from gymnasium.error import AlreadyPendingCallError, NoAsyncCallError
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space, iterate
from numpy.typing import NDArray

from zmqcarla.actions import checked_actions
from zmqcarla.batch import Batch
from zmqcarla.broker.errors import CommandTimeoutError
from zmqcarla.infos import add_info_for, batch_infos
from zmqcarla.lease import Outcome
from zmqcarla.row_ends import RowEnds
from zmqcarla.row_states import RowStates
from zmqcarla.rows import Rows
from zmqcarla.shm.ring import SlotRing

_SLICE_S: Final = 0.5
"""How long a wait lasts before the broker is asked for deaths."""
_MIXED_SLICE_S: Final = 0.002
"""How long a wait on the bell lasts when an answer may come over the bus as well (a row that is being rebuilt)."""

Received = tuple[Any, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]


class FirstK:
    """The rows' outstanding actions, and the results that nobody has received yet.

    Args:
        rows: of the vector env.
        ring: of its slots.
        action_space: of one env.
        states: of the vector env's rows.
        ends: for rows that ended.

    Attributes:
        is_over: whether the rows' last observations stand in one slot, as after a step of all rows.
    """

    def __init__(
        self,
        rows: Rows,
        ring: SlotRing,
        action_space: gymnasium.Space[Any],
        states: RowStates,
        ends: RowEnds,
    ) -> None:
        self._rows = rows
        self._ring = ring
        self._action_space = action_space
        self._batch_space = functools.lru_cache(functools.partial(batch_space, action_space))
        self._states = states
        self._ends = ends
        n = rows.num_envs
        self.is_over = True
        self._slots: tuple[int, int] | None = None
        self._where: NDArray[np.intp] = np.zeros(n, np.intp)  # the slot with each row's last observation
        self._seqs: NDArray[np.uint64] = np.zeros(n, np.uint64)
        self._on_board: NDArray[np.bool_] = np.zeros(n, np.bool_)  # asked over the board and not done
        self._on_bus: dict[int, int] = {}  # seq -> row, asked over the bus and not done
        self._done_ns: dict[int, int] = {}  # row -> when, done and not received
        self._failed: list[Outcome] = []
        self._batch = Batch.empty(n)
        self._probed_at = 0.0

    @property
    def outstanding(self) -> int:
        """How many rows have an action whose result was not received."""
        return int(self._on_board.sum()) + len(self._on_bus) + len(self._done_ns)

    def check_idle(self, name: str) -> None:
        """Raise AlreadyPendingCallError when a result is outstanding."""
        if self._slots is not None and self.outstanding:
            raise AlreadyPendingCallError(
                f"Calling `{name}` while waiting for a pending call to `recv` to complete.", "recv"
            )

    # --- send ---

    def send(self, actions: Any, env_ids: Sequence[int] | NDArray[Any] | None) -> None:
        """Ask some rows for one step, see `VectorEnv.send`."""
        rows = self._checked_ids(env_ids)
        space = self._batch_space(len(rows))
        checked = checked_actions(actions, self._action_space, space, len(rows))
        each = checked if isinstance(checked, np.ndarray) else list(iterate(space, checked))
        self._begin()
        assert self._slots is not None
        for row, action in zip(rows, each, strict=True):
            if self._states.rebuild[row] and self._states.mode is AutoresetMode.DISABLED:
                self._finish_idle(row)
                continue
            op = "rebuild" if self._states.rebuild[row] else "reset" if self._states.reset_next[row] else "step"
            seq, on_board = self._rows.begin_row(row, op, self._target(row), action)
            self._seqs[row] = seq
            if on_board:
                self._on_board[row] = True
            else:
                self._on_bus[seq] = row

    def _checked_ids(self, env_ids: Sequence[int] | NDArray[Any] | None) -> list[int]:
        n = self._rows.num_envs
        found: NDArray[Any] = np.arange(n) if env_ids is None else np.asarray(env_ids)
        if found.ndim != 1 or found.dtype.kind not in "iu" or not len(found):
            raise ValueError(f"expected env_ids as a list of row numbers, found {env_ids!r}")
        rows: list[int] = found.tolist()
        if len(set(rows)) != len(rows) or min(rows) < 0 or max(rows) >= n:
            raise ValueError(f"expected env_ids that differ, from 0 to {n - 1}, found {rows}")
        busy = set(self._on_bus.values()) | self._done_ns.keys()
        again = [row for row in rows if row in busy or self._on_board[row]]
        if again:
            raise AlreadyPendingCallError(
                f"Calling `send` for rows {again} while waiting for a pending call to `recv` to complete.", "recv"
            )
        return rows

    def _begin(self) -> None:
        """Take two slots and bring every row's last observation into the first."""
        if self._slots is not None:
            return
        first, second = self._ring.take(), self._ring.take()
        if first == second:
            raise RuntimeError(
                f"expected two free slots for send(), found all {self._ring.reserve} held: drop observations of "
                "earlier steps (or copy them), or make the vector env with more slots="
            )
        self._slots = (first, second)
        self.is_over = False
        self._where[:] = first
        for row in range(self._rows.num_envs):
            self._rows.repeat(self._ring.newest, first, row, 0)

    def _target(self, row: int) -> int:
        assert self._slots is not None
        first, second = self._slots
        return second if self._where[row] == first else first

    def _finish_idle(self, row: int) -> None:
        self._batch.clear_row(row)
        self._batch.truncated[row] = True
        self._batch.infos[row] = {"row_idle": True}
        self._done_ns[row] = time.monotonic_ns()

    # --- receive ---

    def wait(self, k: int, timeout_s: float) -> list[Outcome]:
        """Wait until k rows are done.

        Returns:
            Outcomes of rows that failed; they are not outstanding any more. Empty when k rows can be delivered.

        Raises:
            NoAsyncCallError: no action is outstanding.
            ValueError: fewer than k actions are outstanding.
            CommandTimeoutError: not k rows were done in time; nothing is lost.
        """
        outstanding = self.outstanding
        if not outstanding:
            raise NoAsyncCallError("Calling `recv` without any prior call to `send`.", "recv")
        if not 1 <= k <= outstanding:
            raise ValueError(f"expected k from 1 to the {outstanding} rows that were sent an action, found {k}")
        deadline = time.monotonic() + timeout_s
        while True:
            self._rows.drain_any_bell()  # before the look, so that a ring after it is not lost
            self._look()
            if self._failed:
                failed, self._failed = self._failed, []
                return failed
            if len(self._done_ns) >= k:
                return []
            remaining_s = deadline - time.monotonic()
            if remaining_s <= 0:
                raise CommandTimeoutError(
                    f"expected {k} rows to be done within {timeout_s:g} s, found {len(self._done_ns)}; look at "
                    "`zmqcarla status` and the workers' logs",
                    timeout_s,
                )
            self._sleep(remaining_s)

    def _sleep(self, remaining_s: float) -> None:
        if not self._on_board.any():
            self._read_bus(min(remaining_s, _SLICE_S))
            return
        rang = self._rows.wait_any_bell(min(remaining_s, _MIXED_SLICE_S if self._on_bus else _SLICE_S))
        if not rang and time.monotonic() - self._probed_at >= _SLICE_S:
            self._rows.probe()
            self._probed_at = time.monotonic()

    def _look(self) -> None:
        for row in np.flatnonzero(self._rows.done_on_board(self._seqs) & self._on_board).tolist():
            self._on_board[row] = False
            slot, seq = self._target(row), int(self._seqs[row])
            self._batch.clear_row(row)
            done_ns, outcome = self._rows.read_row(row, seq, slot, self._batch)
            self._note(row, done_ns, slot, [outcome] if outcome else [])
        while self._on_bus and self._read_bus(0.0):
            pass

    def _read_bus(self, timeout_s: float) -> bool:
        answer = self._rows.wait_any_answer(self._on_bus, timeout_s)
        if answer is None:
            return False
        seq, outcomes = answer
        row = self._on_bus.pop(seq)
        slot = self._target(row)
        self._batch.clear_row(row)
        self._note(row, time.monotonic_ns(), slot, self._rows.read_bus(outcomes, seq, slot, self._batch))
        return True

    def _note(self, row: int, done_ns: int, slot: int, failed: list[Outcome]) -> None:
        if failed:
            self._failed += failed
            return
        self._done_ns[row] = done_ns
        if row not in self._batch.losses:
            self._where[row] = slot
            self._states.note_rebuilt(row)

    def deliver(self, k: int) -> Received:
        """The k rows that were done first, in that order."""
        oldest = sorted(self._done_ns, key=self._done_ns.__getitem__)[:k]
        batch, infos = self._batch, [self._info(row) for row in oldest]
        ids = np.array(oldest, np.intp)
        terminated, truncated = batch.terminated[ids], batch.truncated[ids]
        self._states.note_rows(ids, terminated | truncated)
        observations = self._rows.gather(self._where[ids], ids)
        for row in oldest:
            del self._done_ns[row]
        received = batch_infos(infos, add_info_for(k))
        received["env_id"], received["_env_id"] = ids.astype(np.int64), np.ones(k, np.bool_)
        return observations, batch.rewards[ids], terminated, truncated, received

    def _info(self, row: int) -> dict[str, Any]:
        if row in self._batch.losses:
            self._states.note_loss([row])
            self._ends.add_loss(self._batch, row, int(self._where[row]))
        else:
            self._ends.add_final_observations(self._batch, [row])
        return self._batch.infos[row]

    # --- back to steps of all rows ---

    def end(self) -> None:
        """Nothing is outstanding: make the rows' last observations the newest batch of the ring."""
        if self._slots is None:
            return
        first, second = self._slots
        for row in np.flatnonzero(self._where == second).tolist():
            self._rows.repeat(second, first, row, 0)
        self._ring.newest = first
        self._ring.give_back(first)
        self._ring.give_back(second)
        self._slots = None
        self.is_over = True
