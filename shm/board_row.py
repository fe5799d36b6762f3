"""One row of a lease's board, as its env process sees it: wait for the bell, read the command, write the result.

This runs once a step in every worker, and with more workers than cores each step begins with cold caches: a few struct
calls on the memory itself take a fraction of the time of as many assignments to numpy columns.
"""

from __future__ import annotations

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
    DONE_SEQ,
    DONE_SEQ_OFFSET_BYTES,
    Board,
    Result,
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
        self._bell = 0
        self._memory = board.memory
        self._offset_bytes = board.row_offset_bytes(row)
        self._info_offset_bytes = board.info_offset_bytes(row)
        self._splitter = InfoSplitter()
        self._schema = 0  # whose text stands on the board
        self.action: Callable[[], Any] = board.action_reader(row)
        self.wait: Callable[[float], bool] = self._go.wait

    def wake(self) -> None:
        """Ring the row's own bell: something else than the board wants attention."""
        self._go.ring()

    def command(self) -> tuple[int, int, int]:
        """The command that stands on the board: seq, `Op`, slot. It may be an old one.

        The client writes seq last and this reads it first, so a new seq comes with its own op and slot.
        """
        seq, op, slot, self._bell = COMMAND.unpack_from(self._memory, self._offset_bytes)
        return seq, op, slot

    def put_info(self, info: Mapping[str, Any], pack: Callable[[Any], bytes]) -> tuple[int, bytes]:
        """Write the numbers of an info into their columns.

        Returns:
            The digest of their schema, 0 when there are none, and the packed rest, empty when there is none.
        """
        schema, values, rest = self._splitter.split(info)
        if schema is not None:
            try:
                schema.layout.pack_into(self._memory, self._info_offset_bytes, *values)
            except struct.error:  # an int beyond 64 bits
                return 0, pack(info)
            if schema.digest != self._schema:
                self._board.write_schema(self._row, schema)
                self._schema = schema.digest
        return (0 if schema is None else schema.digest), (pack(rest) if rest else b"")

    def answer(
        self,
        seq: int,
        result: int = Result.PLAIN,
        note: bytes = b"",
        schema: int = 0,
        reward: float = 0.0,
        terminated: bool = False,
        truncated: bool = False,
        busy_s: float = 0.0,
    ) -> None:
        """Write the result, its number last, and ring."""
        memory, offset_bytes = self._memory, self._offset_bytes
        if note:
            self._board.write_note(self._row, note)
        ANSWER.pack_into(
            memory,
            offset_bytes + ANSWER_OFFSET_BYTES,
            time.monotonic_ns(),
            reward,
            busy_s,
            len(note),
            result,
            terminated,
            truncated,
            schema,
        )
        DONE_SEQ.pack_into(memory, offset_bytes + DONE_SEQ_OFFSET_BYTES, seq)
        self._done[self._bell].ring()

    def close(self) -> None:
        """Let go of board and bells."""
        del self.action, self.wait, self._memory
        for bell in (self._go, *self._done):
            bell.close()
        self._board.close()
