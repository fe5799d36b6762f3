"""One row of a lease's board, as its env process sees it: wait for the bell, read the command, write the result."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from gymnasium import spaces

from zmqcarla.shm.board import ANY_DONE, Board, Op, Result, done_bell, go_bell


class BoardAnswer(NamedTuple):
    """What came of a command."""

    result: Result = Result.PLAIN
    note: bytes = b""
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False
    busy_s: float = 0.0


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

    def wake(self) -> None:
        """Ring the row's own bell: something else than the board wants attention."""
        self._go.ring()

    def command(self) -> tuple[int, Op, int]:
        """The command that stands on the board: seq, op, slot. It may be an old one."""
        row = self._row
        return int(self._go_seq[row]), Op(int(self._op[row])), int(self._slot[row])

    def action(self) -> Any:
        """A private copy of the row's action."""
        return self._board.read_action(self._row)

    def answer(self, seq: int, answer: BoardAnswer) -> None:
        """Write the result, its number last, and ring."""
        row = self._row
        if answer.note:
            self._board.write_note(row, answer.note)
        self._reward[row] = answer.reward
        self._terminated[row] = answer.terminated
        self._truncated[row] = answer.truncated
        self._busy_s[row] = answer.busy_s
        self._result[row] = answer.result
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
