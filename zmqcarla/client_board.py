"""The client's end of a lease's board: ask rows, wait for them, read what came of it.

Each row has a bell of its own, and one is common to all (for whoever waits for the first of many). A wait looks at the
row's number, consumes a ring and looks again: rings that come late or twice cost a look and change nothing.

Between two steps of the client run those of all the workers, so that it finds the processor's caches cold: here too a
step costs what it touches. Where all rows did an ordinary step, and they nearly always did, a few operations over whole
columns see that and take the results.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from zmqcarla.batch import Batch
from zmqcarla.shm.bell import NOT_RUNG, Bell
from zmqcarla.shm.board import (
    ANY_DONE,
    DONE_SEQ,
    DONE_SEQ_OFFSET_BYTES,
    ROW_ENDS_BYTES,
    ROW_OP_SLOT_BYTES,
    Board,
    Op,
    Result,
    done_bell,
    go_bell,
    order,
)
from zmqcarla.shm.scalar_infos import Schema

OWN_BELL, ANY_BELL = 0, 1
_SLICE_S: Final = 0.5
"""How long a wait on a bell lasts before the caller looks whether anybody is still there to ring it."""
_SCHEMAS: Final = 1024


class ClientBoard:
    """A board with its bells.

    Args:
        action_space: of one env.
        num_envs: rows.
        unpack: what the workers' notes are packed with.

    Raises:
        SegmentSpaceError: /dev/shm has too little room.
    """

    def __init__(self, action_space: spaces.Space[Any], num_envs: int, unpack: Callable[[bytes], Any]) -> None:
        self._num_envs = num_envs
        self._unpack = unpack
        self._board = board = Board.create(action_space, num_envs)
        self.name = board.name
        self._go: list[Bell] = [board.create_bell(go_bell(row)) for row in range(num_envs)]
        self._done: list[Bell] = [board.create_bell(done_bell(row)) for row in range(num_envs)]
        self._any = board.create_bell(ANY_DONE)
        self._ring_each = [bell.ring for bell in self._go]
        self._take_each = [bell.take_ring for bell in self._done]
        self._done_offsets_bytes = [board.row_offset_bytes(row) + DONE_SEQ_OFFSET_BYTES for row in range(num_envs)]
        self._schemas: dict[int, Schema] = {}
        self._batchers: dict[int, Callable[[], dict[str, Any]]] = {}
        rows = board.rows
        self._go_seq, self._op, self._slot, self._bell = rows["go_seq"], rows["op"], rows["slot"], rows["bell"]
        self._order: NDArray[np.uint64] = rows.getfield(np.uint64, ROW_OP_SLOT_BYTES)
        self._all_ring_own = True
        self.done_seq: NDArray[np.uint64] = rows["done_seq"]
        self._done_ns, self._result, self._schema = rows["done_ns"], rows["result"], rows["schema"]
        self._reward, self._busy_s = rows["reward"], rows["busy_s"]
        self._terminated, self._truncated = rows["terminated"], rows["truncated"]
        self._ends: NDArray[np.uint32] = rows.getfield(np.uint32, ROW_ENDS_BYTES)
        self._no_ends, self._no_schemas = bytes(self._ends.nbytes), bytes(self._schema.nbytes)

    # --- ask ---

    def step_all(self, actions: Any, slot: int, seq: int) -> None:
        """Ask every row for one step; `actions` is the tree of the batched action space."""
        self._board.write_actions(actions)
        self._order[:] = order(Op.STEP, slot)
        if not self._all_ring_own:
            self._bell[:] = OWN_BELL
            self._all_ring_own = True
        self._go_seq[:] = seq
        for ring in self._ring_each:
            ring()
        # While the workers work: rings of the last step, so that they do not pile up. One of this step that goes with
        # them belongs to a row that is done, and a wait looks first.
        for take_ring in self._take_each:
            try:
                take_ring(0)
            except NOT_RUNG:
                continue

    def write_actions(self, actions: Any) -> None:
        """Put down the actions of all rows; `ask` tells a row to take its own."""
        self._board.write_actions(actions)

    def write_action(self, row: int, action: Any) -> None:
        """Put down the action of one row."""
        self._board.write_action(row, action)

    def ask(self, row: int, op: Op, slot: int, seq: int, bell: int) -> None:
        """Ask one row."""
        self._op[row], self._slot[row], self._bell[row] = op, slot, bell
        self._all_ring_own = self._all_ring_own and bell == OWN_BELL
        self._go_seq[row] = seq
        self._go[row].ring()

    def look(self, row: int) -> None:
        """Tell a row that something comes over its socket."""
        self._op[row] = Op.LOOK
        self._go[row].ring()

    # --- wait ---

    def wait_all(self, seq: int, timeout_s: float) -> bool:
        """Whether all rows are done with command `seq` when the last one rings, or nobody has for a while."""
        done_seq, expected = self.done_seq, DONE_SEQ.pack(seq) * self._num_envs
        found = done_seq.tobytes()
        if found == expected:
            return True
        if found[-DONE_SEQ.size :] != expected[-DONE_SEQ.size :]:  # else its ring may be gone already
            with contextlib.suppress(*NOT_RUNG):
                self._take_each[-1](min(timeout_s, _SLICE_S))
        return done_seq.tobytes() == expected

    def wait_rows(self, rows: Sequence[int], seq: int, deadline_s: float, silent: Callable[[int], bool]) -> int | None:
        """Wait for rows to be done with command `seq`.

        The last comes first: rows mostly finish in the order in which they were asked, so that one wake-up of this
        process serves for many of them.

        Args:
            rows: each asked to ring its own bell.
            seq: of the command.
            deadline_s: of the monotonic clock.
            silent: called with a row that has not rung for a while; True ends the wait for it.

        Returns:
            The row that was not done at the deadline, None when all were.
        """
        memory, unpack_from = self._board.memory, DONE_SEQ.unpack_from
        for row in reversed(rows):
            wait, offset_bytes = self._done[row].wait, self._done_offsets_bytes[row]
            while unpack_from(memory, offset_bytes)[0] != seq:
                remaining_s = deadline_s - time.monotonic()
                rang = wait(max(min(remaining_s, _SLICE_S), 0.0))
                if unpack_from(memory, offset_bytes)[0] == seq:
                    break
                if remaining_s <= 0:
                    return row
                if not rang and silent(row):
                    break
        return None

    def wait_any(self, timeout_s: float) -> bool:
        """Whether a row that was asked to ring the common bell rang in time."""
        return self._any.wait(timeout_s)

    # --- read ---

    def read_all(self, seq: int) -> Batch | None:
        """What came of a step of all rows; None when some row failed or did not do command `seq`."""
        if self.done_seq.tobytes() != DONE_SEQ.pack(seq) * self._num_envs:
            return None
        quiet = self._ends.tobytes() == self._no_ends
        if not quiet and int(self._result.max()) > Result.NOTE:
            return None
        infos: list[dict[str, Any]] = []
        columns: dict[str, Any] = {}
        keys: tuple[str, ...] = ()
        if not quiet or self._schema.tobytes() != self._no_schemas:
            infos, columns, keys = self._infos(self._schema.tolist(), self._result.tolist())
        return Batch(
            self._reward.copy(),
            self._terminated.copy(),
            self._truncated.copy(),
            infos,
            {},
            columns,
            keys,
            max(self._busy_s.tolist()),
            quiet,
        )

    def _infos(
        self, schemas: list[int], results: list[int]
    ) -> tuple[list[dict[str, Any]], dict[str, Any], tuple[str, ...]]:
        if not any(schemas) and not any(results):
            return [], {}, ()
        if not schemas[0] or schemas.count(schemas[0]) != len(schemas):
            return [self._info(row) for row in range(self._num_envs)], {}, ()
        schema = self._known_schema(0, schemas[0])
        if schemas[0] not in self._batchers:
            self._batchers[schemas[0]] = schema.batcher(self._board.infos)
        infos: list[dict[str, Any]] = []
        if any(results):
            infos = [self.read_note(row) if result == Result.NOTE else {} for row, result in enumerate(results)]
        return infos, self._batchers[schemas[0]](), schema.keys

    def result(self, row: int) -> Result:
        """What came of a row's command."""
        return Result(int(self._result[row]))

    def read_row(self, row: int) -> tuple[float, bool, bool, dict[str, Any], float]:
        """Reward, terminated, truncated, info, and the time (s) that the env took, of a row that did not fail."""
        info = self._info(row)
        numbers = (self._reward[row], self._terminated[row], self._truncated[row], self._busy_s[row])
        reward, terminated, truncated, busy_s = numbers
        return float(reward), bool(terminated), bool(truncated), info, float(busy_s)

    def read_note(self, row: int) -> Any:
        """What a row left beside its numbers."""
        return self._unpack(self._board.read_note(row))

    def done_ns(self, row: int) -> int:
        """When a row was done, of the monotonic clock."""
        return int(self._done_ns[row])

    def _info(self, row: int) -> dict[str, Any]:
        rest = self.read_note(row) if self._result[row] == Result.NOTE else {}
        digest = int(self._schema[row])
        if not digest:
            return dict(rest)
        return self._known_schema(row, digest).info(self._board.infos[row].tobytes(), rest)

    def _known_schema(self, row: int, digest: int) -> Schema:
        known = self._schemas.get(digest)
        if known is None:
            known = self._board.read_schema(row)
            if len(self._schemas) >= _SCHEMAS:  # an env that invents keys for ever
                self._schemas.clear()
                self._batchers.clear()
            self._schemas[digest] = known
        return known

    def close(self) -> None:
        """Remove board and bells."""
        self._batchers.clear()
        for bell in (*self._go, *self._done, self._any):
            bell.close()
        self._board.close()
