"""One row of a lease's board, as its env process sees it: wait for the bell, read the command, write the result.

This runs once a step in every worker, and with more workers than cores each step begins with cold caches: a few struct
calls on the memory itself take a fraction of the time of as many assignments to numpy columns. Whoever steps without
end (`zmqcarla.workers.step_loop`) therefore takes the calls themselves, `command`, `put_answer` and `rings`.
"""

from __future__ import annotations

import functools
import struct
import time
from collections.abc import Callable, Mapping
from typing import Any

from gymnasium import spaces

from zmqcarla.shm.board import (
    ANSWER,
    ANSWER_OFFSET_BYTES,
    ANY_DONE,
    COMMAND,
    Board,
    done_bell,
    go_bell,
)
from zmqcarla.shm.scalar_infos import InfoSplitter


class BoardRow:
    """The worker's end of the shm transport.

    Args:
        name: of the board's segment.
        action_space: of one env.
        num_envs: rows of the board.
        row: ours.

    Attributes:
        name: the same.
        action: returns a private copy of the row's action.
        wait: waits for the row's bell, see `Bell.wait`.
        take_ring: the same as `Bell.take_ring`.
        command: returns the command that stands on the board: seq, `Op`, slot, and which of `rings` is to be rung. It
            may be an old one. The client writes seq last and this reads it first, so a new seq comes with its own op.
        put_answer: writes the numbers of `ANSWER`, done_seq last.
        rings: the row's own bell, and the common one.

    Raises:
        SegmentGoneError: the board is not visible here.
        FileNotFoundError: its bells are gone.
    """

    def __init__(self, name: str, action_space: spaces.Space[Any], num_envs: int, row: int) -> None:
        self.name = name
        self._row = row
        self._board = board = Board.attach(name, action_space, num_envs)
        self._go = board.attach_bell(go_bell(row))
        self._done = (board.attach_bell(done_bell(row)), board.attach_bell(ANY_DONE))
        self._memory = board.memory
        self._info_offset_bytes = board.info_offset_bytes(row)
        self._splitter = InfoSplitter()
        self._schema = 0  # whose text stands on the board
        self._keys: tuple[str, ...] | None = None  # of the last info, when it was numbers of these types and no more
        self._types: tuple[type, ...] = ()
        self._pack_numbers: Callable[..., None] = functools.partial(struct.pack_into, "", self._memory, 0)
        offset_bytes = board.row_offset_bytes(row)
        self.action: Callable[[], Any] = board.action_reader(row)
        self.wait: Callable[[float], bool] = self._go.wait
        self.take_ring: Callable[[float], None] = self._go.take_ring
        self.command: Callable[[], tuple[int, int, int, int]] = functools.partial(
            COMMAND.unpack_from, self._memory, offset_bytes
        )
        self.put_answer: Callable[..., None] = functools.partial(
            ANSWER.pack_into, self._memory, offset_bytes + ANSWER_OFFSET_BYTES
        )
        self.rings = tuple(bell.ring for bell in self._done)

    def wake(self) -> None:
        """Ring the row's own bell: something else than the board wants attention."""
        self._go.ring()

    def put_info(self, info: Mapping[str, Any], pack: Callable[[Any], bytes]) -> tuple[int, bytes]:
        """Write the numbers of an info into their columns.

        Returns:
            The digest of their schema, 0 when there are none, and the packed rest, empty when there is none.
        """
        values = info.values()
        if tuple(info) == self._keys and tuple(map(type, values)) == self._types:
            try:
                self._pack_numbers(*values)
            except struct.error:  # an int beyond 64 bits
                return 0, pack(info)
            return self._schema, b""
        return self._put_other_info(info, pack)

    def _put_other_info(self, info: Mapping[str, Any], pack: Callable[[Any], bytes]) -> tuple[int, bytes]:
        """What `put_info` does with an info that is not like the last one, or does not only hold numbers."""
        schema, values, rest = self._splitter.split(info)
        self._keys = None
        if schema is None:
            return 0, pack(rest)
        self._pack_numbers = functools.partial(schema.layout.pack_into, self._memory, self._info_offset_bytes)
        try:
            self._pack_numbers(*values)
        except struct.error:
            return 0, pack(info)
        if schema.digest != self._schema:
            self._board.write_schema(self._row, schema)
            self._schema = schema.digest
        types = tuple(map(type, info.values()))
        if not rest and dict not in types:
            self._keys, self._types = tuple(info), types
        return schema.digest, (pack(rest) if rest else b"")

    def put_note(self, note: bytes) -> None:
        """Leave what is no number beside the answer that follows."""
        self._board.write_note(self._row, note)

    def answer(self, seq: int, bell: int, result: int, note: bytes, schema: int = 0, busy_s: float = 0.0) -> None:
        """Write the result of a command that was no step, or failed, and ring."""
        self.put_note(note)
        self.put_answer(time.monotonic_ns(), 0.0, busy_s, len(note), result, False, False, schema, seq)
        self.rings[bell]()

    def close(self) -> None:
        """Let go of board and bells."""
        del (
            self.action,
            self.wait,
            self.take_ring,
            self.command,
            self.put_answer,
            self.rings,
            self._pack_numbers,
            self._memory,
        )
        for bell in (self._go, *self._done):
            bell.close()
        self._board.close()
