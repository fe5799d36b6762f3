"""Arenas: layout, rows of two processes, and slots that are lent until the last view dies."""

from __future__ import annotations

import gc
import itertools
import subprocess
import sys
from collections.abc import Callable, Generator
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from zmqcarla.shm.arena import Arena
from zmqcarla.shm.layout import ALIGNMENT_BYTES, Layout, make_flatten, unflatten
from zmqcarla.shm.ring import SlotRing
from zmqcarla.shm.segment import SegmentGoneError

NUM_ENVS = 3
SLOTS = 3
SPACE = spaces.Dict(
    {
        "camera": spaces.Box(0, 255, (3, 5, 7), np.uint8),
        "light": spaces.Discrete(4),
        "pair": spaces.Tuple([spaces.MultiDiscrete([2, 3]), spaces.Dict({"on": spaces.MultiBinary(2)})]),
        "speed": spaces.Box(-np.inf, np.inf, (), np.float32),
        "text": spaces.Text(20),
    }
)


def observe(value: int) -> dict[str, Any]:
    return {
        "camera": np.full((3, 5, 7), value, np.uint8),
        "light": np.int64(value % 4),
        "pair": (np.array([value % 2, value % 3]), {"on": np.array([1, 0], np.int8)}),
        "speed": np.float32(value / 2),
        "text": f"t{value}",
    }


@pytest.fixture
def arena() -> Generator[Arena]:
    made = Arena.create(SPACE, NUM_ENVS, SLOTS + 1)
    yield made
    made.close()


def fill(arena: Arena, slot: int, value: int, seq: int) -> None:
    """Write all rows as workers and client do together."""
    for row in range(NUM_ENVS):
        inline = arena.row(row).write(slot, observe(value + row), seq)
        arena.write_leaves(slot, row, inline, seq)


# --- layout ---


def test_every_part_starts_on_a_page_and_none_overlap() -> None:
    layout = Layout.of(SPACE, NUM_ENVS, SLOTS)
    assert [leaf.path for leaf in layout.leaves] == [
        ("camera",),
        ("light",),
        ("pair", 0),
        ("pair", 1, "on"),
        ("speed",),
        ("text",),
    ]
    assert [leaf.shape for leaf in layout.leaves] == [(3, 5, 7), (), (2,), (2,), (), ()]
    assert [leaf.inline for leaf in layout.leaves] == [False] * 5 + [True]
    end_bytes = layout.row_seq_offset_bytes + SLOTS * NUM_ENVS * 8
    for leaf in layout.leaves[:-1]:
        assert leaf.offset_bytes % ALIGNMENT_BYTES == 0
        assert leaf.offset_bytes >= end_bytes
        assert leaf.slot_bytes == NUM_ENVS * int(np.prod(leaf.shape)) * leaf.dtype.itemsize
        end_bytes = leaf.offset_bytes + SLOTS * leaf.slot_bytes
    assert layout.size_bytes >= end_bytes


def test_the_digest_tells_plans_apart() -> None:
    box = spaces.Box(0, 1, (4,), np.float32)
    plans = [
        Layout.of(box, 2, 3),
        Layout.of(box, 3, 2),
        Layout.of(spaces.Box(0, 1, (2, 2), np.float32), 2, 3),
        Layout.of(spaces.Box(0, 1, (4,), np.int32), 2, 3),
        Layout.of(spaces.Dict({"x": box}), 2, 3),
    ]
    assert len({plan.digest for plan in plans}) == len(plans)
    assert Layout.of(spaces.Box(-1, 1, (4,), np.float32), 2, 3).digest == plans[0].digest  # bounds move nothing


@pytest.mark.parametrize("space", [SPACE, SPACE["pair"], SPACE["speed"], spaces.Tuple([])], ids=repr)
def test_flatten_and_unflatten_are_inverse(space: spaces.Space[Any]) -> None:
    observation = space.sample()
    leaves = make_flatten(space)(observation)
    assert len(leaves) == len(Layout.of(space, 1, 2).leaves)
    again = unflatten(space, iter(leaves))
    assert repr(again) == repr(observation if not isinstance(observation, dict) else dict(observation))


def test_an_observation_without_the_spaces_tree_is_an_error(arena: Arena) -> None:
    with pytest.raises(KeyError):
        arena.row(0).write(0, {"camera": 0}, 1)
    with pytest.raises(ValueError, match="broadcast"):
        arena.row(0).write(0, {**observe(1), "camera": np.zeros((3, 5, 8), np.uint8)}, 1)
    assert arena.row_seq[0, 0] == 0  # what failed is not stamped


# --- rows ---


WORKER = """
import sys
from test_shm_arena import NUM_ENVS, SLOTS, SPACE, Arena, observe
theirs = Arena.attach(sys.argv[1], SPACE, NUM_ENVS, SLOTS + 1)
assert theirs.row(1).write(1, observe(9), 8) == {5: "t9"}
theirs.close()
"""


def test_a_worker_writes_only_its_row(arena: Arena) -> None:
    subprocess.run([sys.executable, "-c", WORKER, arena.name], check=True, timeout=30.0)
    arena.write_leaves(1, 1, {5: "t9"}, 8)
    assert arena.row_seq.tolist() == [[0, 0, 0], [0, 8, 0], [0, 0, 0], [0, 0, 0]]
    batch = arena.hand_out(1, SlotRing(SLOTS))
    assert batch["camera"].shape == (NUM_ENVS, 3, 5, 7)
    assert [int(image.max()) for image in batch["camera"]] == [0, 9, 0]
    assert batch["pair"][1]["on"].tolist() == [[0, 0], [1, 0], [0, 0]]
    assert batch["speed"].tolist() == [0.0, 4.5, 0.0]
    assert batch["text"] == (None, "t9", None)


def test_all_leaves_inline_is_the_same_as_writing(arena: Arena) -> None:
    leaves = dict(enumerate(make_flatten(SPACE)(observe(6))))
    for row in range(NUM_ENVS):
        arena.write_leaves(0, row, leaves, 4)
    fill(arena, 1, 6, 4)
    ring = SlotRing(SLOTS)
    sent, written = arena.hand_out(0, ring), arena.hand_out(1, ring)
    assert sent["camera"][0].tolist() == written["camera"][0].tolist()
    assert sent["text"][0] == written["text"][0]
    assert arena.row_seq[0].tolist() == arena.row_seq[1].tolist()


def test_a_row_is_copied_forward(arena: Arena) -> None:
    fill(arena, 0, 10, 1)
    fill(arena, 1, 20, 2)
    arena.copy_row(0, 1, row=2, seq=2)
    batch = arena.hand_out(1, SlotRing(SLOTS))
    assert batch["camera"][:, 0, 0, 0].tolist() == [20, 21, 12]
    assert batch["text"] == ("t20", "t21", "t12")


def test_another_layout_is_not_attached(arena: Arena) -> None:
    with pytest.raises(SegmentGoneError, match="another space"):
        Arena.attach(arena.name, spaces.Dict({**SPACE.spaces, "light": spaces.Box(0, 3, (), np.int32)}), NUM_ENVS, 4)
    with pytest.raises(SegmentGoneError):
        Arena.attach(arena.name, SPACE, NUM_ENVS + 1000, SLOTS + 1)


# --- lending ---


def test_a_view_that_somebody_holds_is_never_overwritten(arena: Arena) -> None:
    ring = SlotRing(SLOTS)
    held: dict[int, Any] = {}
    for step in range(40):
        slot = ring.take()
        fill(arena, slot, step, step)
        batch = arena.hand_out(slot, ring)
        if step % 10 == 3:
            held[step] = batch["camera"][1, :2, ::2]  # a view of a view keeps the whole slot
        del batch
        for then, view in held.items():
            assert (view == then + 1).all()
        if len(held) == SLOTS - 1:
            held.pop(min(held))
    assert ring.reserve_used == 0


def test_when_all_slots_are_held_the_reserve_serves_private_copies(arena: Arena) -> None:
    ring = SlotRing(SLOTS)
    batches: list[Any] = []
    for step in range(6):
        slot = ring.take()
        assert (slot == ring.reserve) == (step >= SLOTS)
        fill(arena, slot, step, step)
        batches.append(arena.hand_out(slot, ring))
        assert ring.newest == slot
    assert ring.reserve_used == 3
    assert [int(batch["camera"][0, 0, 0, 0]) for batch in batches] == list(range(6))
    assert [batch["text"][0] for batch in batches] == [f"t{step}" for step in range(6)]
    batches.clear()
    gc.collect()
    assert ring.take() != ring.reserve


def test_the_newest_slot_is_not_taken_next_even_when_free(arena: Arena) -> None:
    ring = SlotRing(2)
    first = ring.take()
    fill(arena, first, 1, 1)
    arena.hand_out(first, ring)  # dropped at once
    second = ring.take()
    assert second != first
    assert ring.newest == first
    assert ring.take() == ring.reserve
    ring.give_back(second)
    assert ring.take() == second


@pytest.mark.parametrize("held", [False, True])
def test_two_slots_serve_for_a_caller_who_keeps_no_batch(arena: Arena, held: bool) -> None:
    ring = SlotRing(SLOTS)
    taken: list[int] = []
    batch = None
    for step in range(1, 12):
        slot = ring.take()
        fill(arena, slot, step, 1)
        batch = arena.hand_out(slot, ring) if held else arena.hand_out(slot, ring) and None
        taken.append(slot)
    del batch
    assert len(set(taken)) == 2
    assert all(slot != before for before, slot in itertools.pairwise(taken))


def test_a_ring_needs_two_slots() -> None:
    with pytest.raises(ValueError, match="at least 2 slots"):
        SlotRing(1)


def test_every_kind_of_view_keeps_its_slot(arena: Arena) -> None:
    ring = SlotRing(SLOTS)
    makers: list[Callable[[Any], Any]] = [
        lambda batch: batch["camera"].reshape(NUM_ENVS, -1),
        lambda batch: memoryview(batch["camera"]),
        lambda batch: np.from_dlpack(batch["speed"]),
        lambda batch: batch["pair"][1]["on"].T,
    ]
    for make in makers:
        slot = ring.take()
        view = make(arena.hand_out(slot, ring))
        gc.collect()
        assert slot not in {ring.take(), ring.take()} - {ring.reserve}
        for other in set(range(SLOTS)) - {slot}:
            ring.give_back(other)
        del view


def test_views_outlive_the_arena() -> None:
    arena = Arena.create(SPACE, NUM_ENVS, SLOTS + 1)
    ring = SlotRing(SLOTS)
    fill(arena, 0, 5, 1)
    batch = arena.hand_out(0, ring)
    arena.close()
    arena.close()
    del arena
    gc.collect()
    assert batch["camera"][2].max() == 7
    batch["camera"][:] = 1
