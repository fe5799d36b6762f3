"""The steps that stand on the board, one after the other: where an env process spends its life.

With more env processes than cores each step begins with cold caches: what a step costs is what it touches, so every
function on the way, every attribute that is looked up and every reading of the clock counts twice. All that does not
change from step to step is therefore a local variable of one long loop. What is no plain step ends it.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any, Final

import gymnasium
from gymnasium import wrappers

from zmqcarla.shm.arena import ArenaRow
from zmqcarla.shm.bell import NOT_RUNG
from zmqcarla.shm.board import Op, Result
from zmqcarla.shm.board_row import BoardRow
from zmqcarla.shm.status_page import PROGRESS, PROGRESS_PLACE, Phase, StatusPage

_STEP: Final = int(Op.STEP)
_PLAIN: Final = int(Result.PLAIN)
_NOTE: Final = int(Result.NOTE)
_ERROR: Final = int(Result.ERROR)
_STEPPING: Final = int(Phase.STEPPING)
_IDLE: Final = int(Phase.IDLE)

StartOver = Callable[[int, Any, dict[str, Any], int, int], tuple[Any, dict[str, Any]]]


@dataclasses.dataclass(frozen=True, slots=True)
class StepLoop:
    """What the steps of one env need.

    Args:
        page: says what goes on.
        env: was reset.
        arena_row: takes the observations.
        bind_out: tells the env where its next observation goes, by the slot.
        start_over: resets in the step that ended an episode; None leaves that to the client.
    """

    page: StatusPage
    env: gymnasium.Env[Any, Any]
    arena_row: ArenaRow
    bind_out: Callable[[int], None] | None
    start_over: StartOver | None

    def run(
        self,
        board: BoardRow,
        row: int,
        seq: int,
        idle_s: float,
        pack_info: Callable[[Any], bytes],
        pack_error: Callable[[Exception], bytes],
    ) -> tuple[int, bool]:
        """Do steps until the bell rings for something else, or `idle_s` are over.

        Args:
            board: with the commands and for the answers.
            row: ours.
            seq: of the last command that was done.
            idle_s: how long; a step that has begun is done.
            pack_info: for infos that are no numbers.
            pack_error: for what the env raises, which is an answer too.

        Returns:
            The number of the last command that was done, and whether the bell rang for something else.
        """
        page, bind_out, start_over = self.page, self.bind_out, self.start_over
        step, write = _bare_step(self.env), self.arena_row.write
        take_ring, command, read_action = board.take_ring, board.command, board.action
        put_answer, rings = board.put_answer, board.rings
        page_memory, place, packed, steps = page.memory, PROGRESS_PLACE, PROGRESS.pack, page.steps
        now_ns = time.monotonic_ns
        until_ns = now_ns() + int(idle_s * 1e9)
        while True:
            try:
                take_ring(idle_s)
            except NOT_RUNG:
                return seq, False
            asked, op, slot, bell = command()
            if op != _STEP or asked <= seq:
                return seq, True
            began_ns = now_ns()
            page_memory[place] = packed(steps, began_ns, row, asked, _STEPPING)
            try:
                if bind_out is not None:
                    bind_out(slot)
                observation, reward, terminated, truncated, info = step(read_action())
                if start_over is not None and (terminated or truncated):
                    observation, info = start_over(slot, observation, info, row, asked)
                write(slot, observation, asked)
                schema, note = board.put_info(info, pack_info) if info else (0, b"")
                if note:
                    board.put_note(note)
                page.steps = steps = steps + 1
                ended_ns = now_ns()
                page_memory[place] = packed(steps, ended_ns, row, asked, _IDLE)
                busy_s = (ended_ns - began_ns) * 1e-9
                result = _NOTE if note else _PLAIN
                put_answer(ended_ns, reward, busy_s, len(note), result, terminated, truncated, schema, asked)
            except Exception as error:  # whatever an env may raise is the client's to see
                note = pack_error(error)
                page.enter(Phase.IDLE, row, asked)
                board.answer(asked, bell, _ERROR, note)
            else:
                rings[bell]()
            seq = asked
            if began_ns > until_ns:
                return seq, False


def _bare_step(env: gymnasium.Env[Any, Any]) -> Callable[[Any], tuple[Any, Any, Any, Any, dict[str, Any]]]:
    """The env's step, without the wrapper that asks each time whether there was a reset: here was one."""
    while type(env) is wrappers.OrderEnforcing and env.has_reset:
        env = env.env
    return env.step
