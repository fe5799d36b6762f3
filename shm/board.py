"""Commands and results of one lease in shared memory, so that a step on one host needs no socket.

    page 0      magic, num_envs
    rows        ROW [num_envs]: what is asked (written by the client), what came of it (written by the worker)
    infos       [num_envs][INFO_BYTES]: the numbers of the infos, see `zmqcarla.shm.scalar_infos`
    schemas     [num_envs][SCHEMA_BYTES]: what these numbers are
    notes       [num_envs][NOTE_BYTES]: the rest of the infos packed, errors and last words, when there are any
    actions     one array a leaf of the action space, [num_envs, *shape]

Bells wake, columns tell the truth: row i is done with command seq when done_seq == seq, or lost when its supervisor
wrote `Result.LOST` after the death of the env process. A ring that comes late or twice changes nothing. The worker's
end of a row is `zmqcarla.shm.board_row`.
"""

from __future__ import annotations

import enum
import errno
import struct
import sys
import time
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from zmqcarla.shm.bell import Bell
from zmqcarla.shm.layout import Layout, make_flatten, make_reader
from zmqcarla.shm.scalar_infos import INFO_BYTES, SCHEMA_BYTES, Schema
from zmqcarla.shm.segment import Segment, SegmentGoneError

NOTE_BYTES: Final = 256 << 10
_MAGIC: Final = b"zmqcarla board 2"
_HEADER_BYTES: Final = 4096
_PAGE_BYTES: Final = 4096
_LINE_BYTES: Final = 64
"""Client and worker write to different cache lines of a row."""

ROW: Final = np.dtype(
    {
        "names": [
            "go_seq", "op", "slot", "bell",
            "done_ns", "reward", "busy_s", "note_bytes", "result", "terminated", "truncated", "schema", "done_seq",
        ],
        "formats": ["u8", "u4", "u4", "u4", "u8", "f8", "f8", "u4", "u1", "?", "?", "u8", "u8"],
        "offsets": [0, 8, 12, 16, *(_LINE_BYTES + offset for offset in (0, 8, 16, 24, 28, 29, 30, 32, 40))],
        "itemsize": 2 * _LINE_BYTES,
    }
)  # fmt: skip


ROW_OP_SLOT_BYTES: Final = 8
"""Where op and slot stand in a ROW, to be written as one number, see `order`."""
ROW_ENDS_BYTES: Final = _LINE_BYTES + 28
"""Where result, terminated, truncated and a byte that is 0 stand: one number, 0 after an ordinary step."""
COMMAND: Final = struct.Struct("=QIII")
"""go_seq, op, slot, bell."""
ANSWER: Final = struct.Struct("=QddIB??xQQ")
"""done_ns, reward, busy_s, note_bytes, result, terminated, truncated, schema, done_seq: written in this order."""
ANSWER_OFFSET_BYTES: Final = _LINE_BYTES
DONE_SEQ: Final = struct.Struct("=Q")
DONE_SEQ_OFFSET_BYTES: Final = _LINE_BYTES + 40


class NoteTooLongError(ValueError):
    """A step's infos do not fit the board."""


class Op(enum.IntEnum):
    """What a row is asked to do."""

    STEP = 0
    RESET = 1
    LOOK = 2
    """A command comes over the worker's socket."""


class Result(enum.IntEnum):
    """What came of a command, beside its numbers."""

    PLAIN = 0
    NOTE = 1
    """The note is the info."""
    ERROR = 2
    """The env raised; the note is {type, text, traceback}."""
    LOST = 3
    """The env process is dead; the note is {worker_id, reason, exit_code, restarts}."""


class Board:
    """The board of one lease; made by `create` (client), `attach` (worker) or `attach_rows` (supervisor).

    Attributes:
        name: of the segment.
        rows: ROW (num_envs,), live.
        memory: of the segment.
        infos: uint8 (num_envs, INFO_BYTES), live.
    """

    def __init__(self, segment: Segment, num_envs: int, action_space: spaces.Space[Any] | None) -> None:
        self.name = segment.name
        self.memory = segment.memory
        self.rows: NDArray[Any] = np.ndarray((num_envs,), ROW, segment.memory, _HEADER_BYTES)
        self.infos: NDArray[np.uint8] = np.ndarray(
            (num_envs, INFO_BYTES), np.uint8, segment.memory, _infos_offset_bytes(num_envs)
        )
        self._segment = segment
        self._num_envs = num_envs
        self._action_space = action_space
        self._actions: list[NDArray[Any]] = []
        if action_space is not None:
            self._flatten = make_flatten(action_space)
            offset_bytes = _notes_offset_bytes(num_envs) + num_envs * NOTE_BYTES
            self._actions = [
                np.ndarray((num_envs, *leaf.shape), leaf.dtype, segment.memory, offset_bytes + leaf.offset_bytes)
                for leaf in Layout.of(action_space, num_envs, 1).leaves
            ]

    @staticmethod
    def can_hold(action_space: spaces.Space[Any]) -> bool:
        """Whether every leaf of the action space has a fixed size."""
        return not any(leaf.inline for leaf in Layout.of(action_space, 1, 1).leaves)

    @classmethod
    def create(cls, action_space: spaces.Space[Any], num_envs: int) -> Board:
        """Make the board of a lease.

        Raises:
            SegmentSpaceError: /dev/shm has too little room.
        """
        segment = Segment.create("board", board_size_bytes(action_space, num_envs))
        segment.memory[: len(_MAGIC) + 8] = _MAGIC + num_envs.to_bytes(8, "little")
        return cls(segment, num_envs, action_space)

    @classmethod
    def attach(cls, name: str, action_space: spaces.Space[Any], num_envs: int) -> Board:
        """Map the board that a client made for the same action space.

        Raises:
            SegmentGoneError: not visible here, or made for another space.
        """
        segment = Segment.attach(name, board_size_bytes(action_space, num_envs))
        _check_header(segment, num_envs)
        return cls(segment, num_envs, action_space)

    @classmethod
    def attach_rows(cls, name: str) -> Board:
        """Map rows and notes of a board without knowing its action space.

        Raises:
            SegmentGoneError: not visible here.
        """
        segment = Segment.attach(name, None)
        num_envs = int.from_bytes(segment.memory[len(_MAGIC) : len(_MAGIC) + 8], "little")
        _check_header(segment, num_envs)
        return cls(segment, num_envs, None)

    def write_actions(self, actions: Any) -> None:
        """Copy a batch of actions, the tree of the batched action space, into the board."""
        for column, leaf in zip(self._actions, self._flatten(actions), strict=True):
            column[:] = leaf

    def write_action(self, row: int, action: Any) -> None:
        """Copy one row's action, an element of the action space."""
        for column, leaf in zip(self._actions, self._flatten(action), strict=True):
            column[row] = leaf

    def action_reader(self, row: int) -> Callable[[], Any]:
        """A function that returns a private copy of one row's action, an element of the action space."""
        assert self._action_space is not None
        return make_reader(self._action_space, [column[row : row + 1] for column in self._actions])

    def row_offset_bytes(self, row: int) -> int:
        """Where a row's ROW begins in `memory`."""
        return _HEADER_BYTES + row * ROW.itemsize

    def info_offset_bytes(self, row: int) -> int:
        """Where the numbers of a row's infos begin in `memory`."""
        return _infos_offset_bytes(self._num_envs) + row * INFO_BYTES

    def write_schema(self, row: int, schema: Schema) -> None:
        """Say what the numbers of a row's infos are."""
        text = schema.text().ljust(SCHEMA_BYTES, b" ")
        begin = _schemas_offset_bytes(self._num_envs) + row * SCHEMA_BYTES
        self.memory[begin : begin + SCHEMA_BYTES] = text

    def read_schema(self, row: int) -> Schema:
        """What the numbers of a row's infos are.

        Raises:
            ValueError: no worker wrote that.
        """
        begin = _schemas_offset_bytes(self._num_envs) + row * SCHEMA_BYTES
        return Schema.parse(self.memory[begin : begin + SCHEMA_BYTES])

    def write_note(self, row: int, note: bytes) -> None:
        """Leave a packed note of at most NOTE_BYTES; its length belongs into the row."""
        begin = _notes_offset_bytes(self._num_envs) + row * NOTE_BYTES
        self.memory[begin : begin + len(note)] = note

    def read_note(self, row: int) -> bytes:
        """The packed note of a row."""
        begin = _notes_offset_bytes(self._num_envs) + row * NOTE_BYTES
        return self.memory[begin : begin + min(int(self.rows["note_bytes"][row]), NOTE_BYTES)]

    def waits(self, row: int) -> bool:
        """Whether the client has asked a row for something that is not done."""
        return bool(self.rows["go_seq"][row] != self.rows["done_seq"][row])

    def declare_lost(self, row: int, note: bytes) -> None:
        """Write the end of a row whose env process is dead (after waitpid, by who started it), and wake the client.

        Raises:
            OSError: the bells are gone: nobody waits for the row any more.
        """
        self.write_note(row, note)
        self.rows["note_bytes"][row] = len(note)
        self.rows["result"][row] = Result.LOST
        self.rows["done_ns"][row] = time.monotonic_ns()
        self.rows["done_seq"][row] = self.rows["go_seq"][row]
        for purpose in (done_bell(row), ANY_DONE):
            bell = self.attach_bell(purpose)
            bell.ring()
            bell.close()

    def create_bell(self, purpose: str) -> Bell:
        """Make a bell of this board (creator)."""
        return Bell.create(self.name, purpose)

    def attach_bell(self, purpose: str) -> Bell:
        """Open a bell of this board."""
        return Bell.attach(self.name, purpose)

    def close(self) -> None:
        """Let go; the creator's end removes the names of segment and bells."""
        self._actions.clear()
        self.rows = np.empty(0, ROW)
        self.infos = np.empty((0, INFO_BYTES), np.uint8)
        del self.memory
        self._segment.close()


def order(op: int, slot: int) -> int:
    """Op and slot of a ROW as one number."""
    return int.from_bytes(struct.pack("=II", op, slot), sys.byteorder)


def go_bell(row: int) -> str:
    """Purpose of the bell that wakes the worker of a row."""
    return f"go{row}"


def done_bell(row: int) -> str:
    """Purpose of the bell that a row rings when it is done."""
    return f"done{row}"


ANY_DONE: Final = "any"
"""Purpose of the bell that every row rings when the client waits for whichever comes first."""


def declare_lost(board_name: str, row: int, note: bytes) -> None:
    """`Board.declare_lost` for one who does not hold the board.

    Raises:
        OSError: the board is gone: nobody waits for the row any more.
    """
    board = Board.attach_rows(board_name)
    try:
        board.declare_lost(row, note)
    finally:
        board.close()


def _infos_offset_bytes(num_envs: int) -> int:
    return _HEADER_BYTES + -(-num_envs * ROW.itemsize // _PAGE_BYTES) * _PAGE_BYTES


def _schemas_offset_bytes(num_envs: int) -> int:
    return _infos_offset_bytes(num_envs) + -(-num_envs * INFO_BYTES // _PAGE_BYTES) * _PAGE_BYTES


def _notes_offset_bytes(num_envs: int) -> int:
    return _schemas_offset_bytes(num_envs) + num_envs * SCHEMA_BYTES


def board_size_bytes(action_space: spaces.Space[Any], num_envs: int) -> int:
    """Size of the segment."""
    actions_bytes = Layout.of(action_space, num_envs, 1).size_bytes
    return _notes_offset_bytes(num_envs) + num_envs * NOTE_BYTES + actions_bytes


def _check_header(segment: Segment, num_envs: int) -> None:
    if segment.memory[: len(_MAGIC) + 8] != _MAGIC + num_envs.to_bytes(8, "little"):
        segment.close()
        raise SegmentGoneError(errno.EINVAL, f"{segment.name} is no board of {num_envs} rows, or of another release")
