"""Steps on the wire: what is written is read, damaged frames are refused, and everything else has a header."""

from __future__ import annotations

import random
import struct
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from zmqcarla.broker import protocol as p
from zmqcarla.broker import step_frames
from zmqcarla.broker.errors import ProtocolError
from zmqcarla.packed_steps import ANSWER, StepPacker, read_plain, unpack_answer
from zmqcarla.shm.action_bytes import ActionBytes
from zmqcarla.shm.layout import make_flatten

LEASE = bytes(range(16))
STEP = step_frames.STEP.pack(step_frames.MARK, 2) + b"action"
DONE = step_frames.pack_done(1.5, True, False, 0.25)
MESSAGES: list[tuple[p.Message, list[bytes]]] = [
    (p.Command(LEASE, 7, (0, 3), ("step", "step")), [STEP, STEP + b"x"]),
    (p.RowCommand(LEASE, 3, 7, "step"), [STEP]),
    (p.RowReply(LEASE, 3, 7, "ok"), [DONE]),
    (p.CommandReply(LEASE, (1 << 63) - 1, (3, 0), ("ok", "ok")), [DONE, DONE + p.pack([{"a": 1}, {}])]),
]
GENERAL: list[tuple[p.Message, list[bytes]]] = [
    (p.Command(LEASE, 7, (0, 3), ("step", "reset")), [STEP, STEP]),
    (p.Command(LEASE, 7, (0, 3), ("step", "step")), [STEP, p.pack([2, 0.5])]),
    (p.Command(LEASE, 7, (0, 3), ("step", "step")), [STEP]),
    (p.RowCommand(LEASE, 3, 7, "call"), [STEP]),
    (p.RowCommand(LEASE, 3, 7, "step"), [b""]),
    (p.RowCommand(b"short", 3, 7, "step"), [STEP]),
    (p.RowReply(LEASE, 3, 7, "error"), [DONE]),
    (p.RowReply(LEASE, 3, 7, "ok"), [DONE + bytes(p.MAX_HEADER_BYTES)]),
    (p.CommandReply(LEASE, 7, (3, 0), ("ok", "lost")), [DONE, DONE]),
    (p.CommandReply(LEASE, 7, (3, 0), ("ok", "ok")), [DONE + bytes(p.MAX_HEADER_BYTES // 2)] * 2),
    (p.Release(LEASE), []),
]


@pytest.mark.parametrize(("message", "payloads"), MESSAGES, ids=lambda value: getattr(value, "kind", ""))
def test_a_message_about_steps_is_one_frame_and_comes_back(message: p.Message, payloads: list[bytes]) -> None:
    frames = p.to_frames(message, payloads)
    assert len(frames) == 1
    assert p.from_frames(frames) == (message, payloads)


@pytest.mark.parametrize(("message", "payloads"), GENERAL, ids=lambda value: getattr(value, "kind", ""))
def test_everything_else_has_a_header_and_comes_back(message: p.Message, payloads: list[bytes]) -> None:
    frames = p.to_frames(message, payloads)
    assert frames == [p.encode(message), *payloads]
    assert p.from_frames(frames) == (message, payloads)


@pytest.mark.parametrize(("message", "payloads"), MESSAGES, ids=lambda value: getattr(value, "kind", ""))
def test_a_frame_that_is_cut_is_refused(message: p.Message, payloads: list[bytes]) -> None:
    (frame,) = p.to_frames(message, payloads)
    single = isinstance(message, (p.RowCommand, p.RowReply))
    for end in range(1, 31 if single else len(frame)):  # of one row's payload only its owner knows the length
        with pytest.raises(ProtocolError):
            p.from_frames([frame[:end]])
    with pytest.raises(ProtocolError):
        p.from_frames([frame, b""])


def test_an_unknown_kind_is_refused() -> None:
    for kind in (0, *range(5, 256)):
        with pytest.raises(ProtocolError, match="with a kind from"):
            p.from_frames([bytes([step_frames.MARK, kind]) + bytes(40)])


@pytest.mark.parametrize("rows", [1, p.MAX_ROWS + 1, (1 << 32) - 1])
def test_more_rows_than_there_are_are_refused(rows: int) -> None:
    head = struct.pack("<BB16sIq", step_frames.MARK, step_frames.COMMAND, LEASE, rows, 1)
    with pytest.raises(ProtocolError, match="rows and all of them"):
        p.from_frames([head])
    with pytest.raises(ProtocolError):
        p.from_frames([head + bytes(8)])


def test_a_size_beyond_the_frame_is_refused() -> None:
    head = struct.pack("<BB16sIqII", step_frames.MARK, step_frames.COMMAND, LEASE, 1, 1, 0, (1 << 32) - 1)
    with pytest.raises(ProtocolError, match="bytes with 1 steps"):
        p.from_frames([head + STEP])


def test_a_frame_that_is_too_large_is_refused() -> None:
    (frame,) = p.to_frames(p.RowReply(LEASE, 0, 1, "ok"), [DONE])
    with pytest.raises(ProtocolError):
        p.from_frames([frame + bytes(p.MAX_HEADER_BYTES)])


def test_damaged_frames_are_messages_or_refused() -> None:
    rng = random.Random(0)
    frames = [p.to_frames(message, payloads)[0] for message, payloads in MESSAGES]
    for _ in range(3000):
        damaged = bytearray(rng.choice(frames))
        for _ in range(rng.choice([1, 2, 8])):
            damaged[rng.randrange(1, len(damaged))] = rng.randrange(256)
        try:
            message, payloads = p.from_frames([bytes(damaged)])
        except ProtocolError:
            continue
        assert isinstance(message, (p.Command, p.RowCommand, p.RowReply, p.CommandReply))
        assert all(payload[:1] == b"\xc1" for payload in payloads)


SPACES: list[spaces.Space[Any]] = [
    spaces.Box(-1, 1, (3,), np.float32),
    spaces.Box(-1, 1, (), np.float64),
    spaces.Discrete(5),
    spaces.MultiBinary((2, 3)),
    spaces.MultiDiscrete([3, 200]),
    spaces.Dict({"a": spaces.Discrete(3), "b": spaces.Tuple([spaces.Box(0, 9, (2, 2), np.int16), spaces.Discrete(2)])}),
]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_an_action_arrives_as_it_was_sent(space: spaces.Space[Any]) -> None:
    space.seed(3)
    packer = StepPacker(space, 3)
    reader = ActionBytes(space, 1, step_frames.STEP.size)
    flatten = make_flatten(space)
    actions = [space.sample() for _ in range(3)]
    for row, action in enumerate(actions):
        packer.write(row, action, row)
    for row, action in enumerate(actions):
        payload = packer.payload(row)
        assert step_frames.STEP.unpack_from(payload) == (step_frames.MARK, row)
        reader.memory[:] = payload
        found = reader.read()
        for ours, theirs in zip(flatten(found), flatten(action), strict=True):
            assert np.asarray(ours).dtype == np.asarray(theirs).dtype
            np.testing.assert_array_equal(ours, theirs)


def test_answers_that_are_only_numbers_are_read_at_once() -> None:
    found = read_plain([step_frames.pack_done(float(row), row == 1, row == 2, 0.5) for row in range(3)])
    assert found is not None
    assert found["reward"].tolist() == [0.0, 1.0, 2.0]
    assert found["terminated"].tolist() == [0, 1, 0]
    assert found["truncated"].tolist() == [0, 0, 1]
    assert found["busy_s"].tolist() == [0.5] * 3
    assert ANSWER.itemsize == step_frames.DONE.size


@pytest.mark.parametrize("other", [DONE + p.pack([{"a": 1}, {}]), DONE[:-1], b"\x00" + DONE[1:], b""])
def test_answers_with_more_or_less_are_read_one_by_one(other: bytes) -> None:
    assert read_plain([DONE, other]) is None


def test_an_answer_reads_as_the_general_form_does() -> None:
    assert unpack_answer(DONE) == [1.5, True, False, {}, {}, 0.25]
    assert unpack_answer(DONE + p.pack([{"a": 1}, {0: 2}])) == [1.5, True, False, {"a": 1}, {0: 2}, 0.25]
    value = [1.5, True, False, {"a": 1}, {}, 0.25]
    assert unpack_answer(p.pack(value)) == value
    with pytest.raises(ProtocolError, match="packed step"):
        unpack_answer(DONE[:-1])
