"""The board: commands and results in shared memory, bells that only wake."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from gymnasium import spaces

from zmqcarla.client_board import ClientBoard
from zmqcarla.shm.bell import Bell
from zmqcarla.shm.board import ANY_DONE, Board, Op, Result, declare_lost, done_bell, go_bell
from zmqcarla.shm.board_row import BoardRow
from zmqcarla.shm.segment import SegmentGoneError, sweep

ACTIONS = spaces.Dict({"steer": spaces.Box(-10, 10, (2,), np.float32), "gear": spaces.Discrete(5)})


@pytest.fixture
def board() -> Iterator[Board]:
    board = Board.create(ACTIONS, 3)
    bells = [board.create_bell(name(row)) for row in range(3) for name in (go_bell, done_bell)]
    bells.append(board.create_bell(ANY_DONE))
    yield board
    for bell in bells:
        bell.close()
    board.close()


def _names(board: Board) -> list[str]:
    return [path.name for path in Path("/dev/shm").iterdir() if board.name[1:] in path.name]


def test_a_command_and_its_result_cross_the_board(board: Board) -> None:
    row = BoardRow(board.name, ACTIONS, 3, 1)
    board.write_actions({"steer": np.arange(6, dtype=np.float32).reshape(3, 2), "gear": np.array([0, 3, 4])})
    board.rows["op"][1], board.rows["slot"][1], board.rows["go_seq"][1] = Op.STEP, 2, 9
    board.attach_bell(go_bell(1)).ring()
    assert row.wait(1)
    assert row.command() == (9, Op.STEP, 2, 0)
    action = row.action()
    assert action["steer"].tolist() == [2, 3]
    assert action["gear"] == 3
    assert action in ACTIONS
    row.put_note(b"packed infos")
    row.put_answer(7, 1.5, 0.25, 12, Result.NOTE, True, False, 0, 9)
    row.rings[0]()
    assert board.attach_bell(done_bell(1)).wait(1)
    found = board.rows[1]
    assert (found["done_seq"], found["reward"], found["terminated"], found["truncated"]) == (9, 1.5, True, False)
    assert board.read_note(1) == b"packed infos"
    assert board.rows["done_seq"].tolist() == [0, 9, 0]
    row.close()


def test_an_action_is_a_private_copy(board: Board) -> None:
    row = BoardRow(board.name, ACTIONS, 3, 0)
    board.write_action(0, {"steer": np.array([1, 2], np.float32), "gear": 1})
    action = row.action()
    board.write_action(0, {"steer": np.array([7, 7], np.float32), "gear": 4})
    assert action["steer"].tolist() == [1, 2]
    row.close()


def test_a_bell_that_nobody_rings_times_out(board: Board) -> None:
    assert not board.attach_bell(go_bell(0)).wait(0.01)


def test_the_row_that_rings_the_common_bell_wakes_whoever_waits_for_the_first(board: Board) -> None:
    row = BoardRow(board.name, ACTIONS, 3, 2)
    board.rows["bell"][2] = 1
    *_, bell = row.command()
    row.answer(1, bell, Result.ERROR, b"what went wrong")
    assert board.attach_bell(ANY_DONE).wait(1)
    assert not board.attach_bell(done_bell(2)).wait(0.01)
    row.close()


def test_a_supervisor_declares_a_row_lost(board: Board) -> None:
    board.rows["go_seq"][2] = 5
    declare_lost(board.name, 2, b"its last words")
    assert board.rows["result"].tolist() == [Result.PLAIN, Result.PLAIN, Result.LOST]
    assert board.rows["done_seq"][2] == 5
    assert board.read_note(2) == b"its last words"
    assert board.attach_bell(done_bell(2)).wait(1)
    assert board.attach_bell(ANY_DONE).wait(1)


def test_another_action_space_or_number_of_rows_is_refused(board: Board) -> None:
    with pytest.raises(SegmentGoneError):
        Board.attach(board.name, ACTIONS, 4)
    with pytest.raises(SegmentGoneError):
        BoardRow("/zmqcarla-0-board-nowhere", ACTIONS, 3, 0)


def test_only_spaces_of_fixed_size_fit() -> None:
    assert Board.can_hold(ACTIONS)
    assert not Board.can_hold(spaces.Tuple([ACTIONS, spaces.Text(3)]))


def test_closing_removes_segment_and_bells() -> None:
    board = Board.create(ACTIONS, 1)
    bell = board.create_bell(go_bell(0))
    assert len(_names(board)) == 2
    bell.close()
    board.close()
    assert not _names(board)


def test_what_a_killed_owner_leaves_is_swept_with_its_bells() -> None:
    script = (
        "import os, signal; from gymnasium import spaces; from zmqcarla.shm.board import Board, go_bell;"
        "board = Board.create(spaces.Discrete(2), 1); bell = board.create_bell(go_bell(0));"
        "print(board.name, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    dead = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False)
    name = dead.stdout.strip()
    assert name.startswith("/zmqcarla-")
    sweep()
    assert not [path for path in Path("/dev/shm").iterdir() if name[1:] in path.name]


def test_nobody_waits_for_a_row_that_is_done() -> None:
    """Its ring may have gone with those of the step before."""
    board = ClientBoard(ACTIONS, 2, bytes)
    rows = [BoardRow(board.name, ACTIONS, 2, row) for row in range(2)]
    theirs = Bell.attach(board.name, done_bell(1))
    actions = {"steer": np.zeros((2, 2), np.float32), "gear": np.zeros(2, np.int64)}
    for seq in (1, 2, 3):
        rows[1].put_answer(0, 0.0, 0.0, 0, Result.PLAIN, False, False, 0, seq)
        rows[1].rings[0]()
        board.step_all(actions, 0, seq)  # takes the ring
        assert not theirs.wait(0)
        with patch.object(board, "_take_each", []):
            assert not board.wait_all(seq, 60)
        rows[0].put_answer(0, 0.5, 0.0, 0, Result.PLAIN, False, False, 0, seq)
        assert board.wait_all(seq, 60)
        batch = board.read_all(seq)
        assert batch is not None
        assert batch.quiet
        assert batch.rewards.tolist() == [0.5, 0.0]
    for row in rows:
        row.close()
    theirs.close()
    board.close()


def test_rings_do_not_pile_up() -> None:
    board = ClientBoard(ACTIONS, 1, bytes)
    row = BoardRow(board.name, ACTIONS, 1, 0)
    actions = {"steer": np.zeros((1, 2), np.float32), "gear": np.zeros(1, np.int64)}
    for seq in range(1, 6):
        board.step_all(actions, 0, seq)
        row.put_answer(0, 0.0, 0.0, 0, Result.PLAIN, False, False, 0, seq)
        row.rings[0]()
        assert board.wait_all(seq, 60)
    bell = Bell.attach(board.name, done_bell(0))
    assert bell.wait(0)
    assert not bell.wait(0)
    bell.close()
    row.close()
    board.close()
