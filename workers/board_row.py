"""One row of a lease's board, as its env process sees it: wait for the bell, read the command, write the result."""

from __future__ import annotations

import time
from typing import Any

from gymnasium import spaces

from zmqcarla.shm.board import ANY_DONE, Board, Op, Result, done_bell, go_bell


class BoardRow:
    """The worker's end of the shm transport.

    Args:
        name: of the board's segment.
        action_space: of one env.
        num_envs: rows of the board.
        row: ours.

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
        rows = board.rows
        self._go_seq, self._op, self._slot, self._bell = rows["go_seq"], rows["op"], rows["slot"], rows["bell"]
        self._done_seq, self._done_ns, self._result = rows["done_seq"], rows["done_ns"], rows["result"]
        self._reward, self._busy_s = rows["reward"], rows["busy_s"]
        self._terminated, self._truncated = rows["terminated"], rows["truncated"]

    def wait(self, timeout_s: float) -> bool:
        """Whether the bell was rung in time."""
        return self._go.wait(timeout_s)

    def command(self) -> tuple[int, Op, int]:
        """The command that stands on the board: seq, op, slot. It may be an old one."""
        row = self._row
        return int(self._go_seq[row]), Op(int(self._op[row])), int(self._slot[row])

    def action(self) -> Any:
        """A private copy of the row's action."""
        return self._board.read_action(self._row)

    def answer(
        self, seq: int, *, reward: float, terminated: bool, truncated: bool, busy_s: float, result: Result, note: bytes
    ) -> None:
        """Write the result, its number last, and ring."""
        row = self._row
        if note:
            self._board.write_note(row, note)
        self._reward[row] = reward
        self._terminated[row] = terminated
        self._truncated[row] = truncated
        self._busy_s[row] = busy_s
        self._result[row] = result
        self._done_ns[row] = time.monotonic_ns()
        self._done_seq[row] = seq
        self._done[self._bell[row]].ring()

    def close(self) -> None:
        """Let go of board and bells."""
        del self._go_seq, self._op, self._slot, self._bell, self._done_seq, self._done_ns, self._result
        del self._reward, self._busy_s, self._terminated, self._truncated
        for bell in (self._go, *self._done):
            bell.close()
        self._board.close()


def declare_lost(board_name: str, row: int, note: bytes) -> None:
    """Write the end of a row whose env process is dead (after waitpid, by the supervisor), and wake the client.

    Raises:
        OSError: the board is gone: nobody waits for the row any more.
    """
    board = Board.attach_rows(board_name)
    try:
        board.write_note(row, note)
        board.rows["result"][row] = Result.LOST
        board.rows["done_ns"][row] = time.monotonic_ns()
        board.rows["done_seq"][row] = board.rows["go_seq"][row]
        for purpose in (done_bell(row), ANY_DONE):
            bell = board.attach_bell(purpose)
            bell.ring()
            bell.close()
    finally:
        board.close()
