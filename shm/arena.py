"""The segment of one lease: observations of all rows, slot by slot, with a sequence number a row.

The client creates it, hands out batches, and unlinks it; workers attach and write their row. A worker writes
`row_seq` last; the client delivers a row only when it carries the number of the step, so a stale or torn row is an
error, never data.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from zmqcarla.shm.layout import Layout, make_flatten, make_unflatten, unflatten
from zmqcarla.shm.ring import SlotRing
from zmqcarla.shm.segment import Segment, SegmentGoneError
from zmqcarla.shm.writer_lock import WriterLock, has_writer

_MAGIC: Final = b"zmqcarla arena 1"
_STAMP: Final = struct.Struct("=Q")
DEFAULT_SLOTS: Final = 4


class Arena:
    """The rows of one lease; made by `create` (client) or `attach` (worker).

    Attributes:
        name: of the segment, for `attach` in another process.
        layout: where everything lies.
        space: of one env's observation.
        flatten: from an observation to its leaves.
        memory: of the segment.
        row_seq: uint64 (slots, num_envs); the number of the command whose observation the row holds.
    """

    def __init__(self, segment: Segment, space: spaces.Space[Any], layout: Layout) -> None:
        self.name = segment.name
        self.layout = layout
        self.space = space
        self.flatten = make_flatten(space)
        self.memory = segment.memory
        self._segment = segment
        self.row_seq: NDArray[np.uint64] = np.ndarray(
            (layout.slots, layout.num_envs), np.uint64, segment.memory, layout.row_seq_offset_bytes
        )
        self._whole: list[NDArray[Any] | None] = [
            None
            if leaf.inline
            else np.ndarray((layout.slots, layout.num_envs, *leaf.shape), leaf.dtype, segment.memory, leaf.offset_bytes)
            for leaf in layout.leaves
        ]
        self._tree = make_unflatten(space)
        # Of each leaf the shape and dtype of a batch, and where it lies in each slot; None for one without a place.
        self._batches = [
            (
                (layout.num_envs, *leaf.shape),
                leaf.dtype,
                None if leaf.inline else [leaf.offset_bytes + slot * leaf.slot_bytes for slot in range(layout.slots)],
            )
            for leaf in layout.leaves
        ]
        # Values of leaves without a fixed size live here, by slot: the arena has no place for them.
        self._inline: dict[int, dict[int, list[Any]]] = {}

    @classmethod
    def create(cls, space: spaces.Space[Any], num_envs: int, slots: int) -> Arena:
        """Make the arena of a lease.

        Raises:
            SegmentSpaceError: /dev/shm has too little room.
        """
        layout = Layout.of(space, num_envs, slots)
        segment = Segment.create("arena", layout.size_bytes)
        segment.memory[: len(_MAGIC) + 16] = _MAGIC + layout.digest
        return cls(segment, space, layout)

    @classmethod
    def attach(cls, name: str, space: spaces.Space[Any], num_envs: int, slots: int) -> Arena:
        """Map the arena that a client made for the same space.

        Raises:
            SegmentGoneError: not visible here, or made for another layout.
        """
        layout = Layout.of(space, num_envs, slots)
        segment = Segment.attach(name, layout.size_bytes)
        if segment.memory[: len(_MAGIC) + 16] != _MAGIC + layout.digest:
            segment.close()
            raise SegmentGoneError(errno.EINVAL, f"{name} was made for another space, or by another release")
        return cls(segment, space, layout)

    def row(self, row: int) -> ArenaRow:
        """One row, as its worker writes it.

        Raises:
            RowTakenError: another living process can write into it.
        """
        return ArenaRow(self, row)

    def has_writer(self, row: int) -> bool:
        """Whether a living process can write into a row."""
        return has_writer(self.name, row)

    def write_leaves(self, slot: int, row: int, leaves: Mapping[int, Any], seq: int) -> None:
        """Put leaves that came inline into a row (a worker that does not see the arena sends all of them)."""
        for index, value in leaves.items():
            whole = self._whole[index]
            if whole is None:
                column = self._inline.setdefault(slot, {}).setdefault(index, [None] * self.layout.num_envs)
                column[row] = value
            else:
                whole[slot, row] = value
        self.row_seq[slot, row] = seq

    def copy_row(self, source_slot: int, target_slot: int, row: int, seq: int) -> None:
        """Repeat a row of an earlier batch (a lost or unstepped row keeps its last observation)."""
        for whole in self._whole:
            if whole is not None and source_slot != target_slot:
                whole[target_slot, row] = whole[source_slot, row]
        for index, column in self._inline.get(source_slot, {}).items():
            self.write_leaves(target_slot, row, {index: column[row]}, seq)
        self.row_seq[target_slot, row] = seq

    def copy_out(self, slot: int, row: int, inline: Mapping[int, Any]) -> Any:
        """A private copy of one row as the tree of the space; `inline` holds leaves that came otherwise."""
        leaves = [
            inline[index]
            if index in inline
            else self._inline[slot][index][row]
            if whole is None
            else whole[slot, row].copy()
            for index, whole in enumerate(self._whole)
        ]
        return unflatten(self.space, iter(leaves))

    def gather(self, slots: NDArray[np.intp], rows: NDArray[np.intp]) -> Any:
        """A private batch of some rows, row rows[i] from slot slots[i]: each leaf (len(rows), *shape)."""
        leaves: list[Any] = []
        for index, whole in enumerate(self._whole):
            if whole is not None:
                leaves.append(whole[slots, rows])
                continue
            places = zip(slots.tolist(), rows.tolist(), strict=True)
            leaves.append(tuple(self._inline[slot][index][row] for slot, row in places))
        return unflatten(self.space, iter(leaves))

    def hand_out(self, slot: int, ring: SlotRing) -> Any:
        """The batch in `slot` as the tree of the space, every leaf (num_envs, *shape); zero-copy but for the reserve.

        The views stay valid and unchanged for as long as any of them, or any array made over them, lives.
        """
        # A fresh owner for each hand-out: a finalizer on one long-lived whole-arena array would fire never, or too
        # early.
        owner: NDArray[np.uint8] = np.frombuffer(self.memory, np.uint8)
        memory = owner.data
        leaves: list[Any] = [
            tuple(self._inline.get(slot, {}).get(index, ()))
            if places is None
            else np.ndarray(shape, dtype, memory, places[slot])
            for index, (shape, dtype, places) in enumerate(self._batches)
        ]
        if slot == ring.reserve:
            leaves = [leaf.copy() if isinstance(leaf, np.ndarray) else leaf for leaf in leaves]
            ring.newest = slot
        else:
            ring.lend(slot, owner)
        return self._tree(leaves)

    def row_leaves(self, slot: int, row: int) -> list[NDArray[Any] | None]:
        """The places of one row's leaves, live, each of the leaf's shape; None for a leaf that travels inline."""
        return [None if whole is None else whole[slot, row, ...] for whole in self._whole]

    def stamp_offset_bytes(self, slot: int, row: int) -> int:
        """Where `row_seq[slot, row]` stands in `memory`."""
        return self.layout.row_seq_offset_bytes + 8 * (slot * self.layout.num_envs + row)

    def all_carry(self, slot: int, seq: int) -> bool:
        """Whether each row of a slot was written by command `seq`."""
        begin = self.stamp_offset_bytes(slot, 0)
        num_envs = self.layout.num_envs
        return bool(self.memory[begin : begin + 8 * num_envs] == _STAMP.pack(seq) * num_envs)

    def close(self) -> None:
        """Unlink (creator) and let go, once; views that the caller still holds stay valid."""
        self._whole.clear()
        self.row_seq = np.empty((0, 0), np.uint64)
        self._segment.close()


class ArenaRow:
    """A worker's row: one place a slot for the env's observation. Made by `Arena.row`.

    The places are made once; writing one costs a copy a leaf, and nothing where the env has written there itself.
    """

    def __init__(self, arena: Arena, row: int) -> None:
        self._lock = WriterLock(arena.name, row)
        slots = range(arena.layout.slots)
        self._flatten = arena.flatten
        self._memory = arena.memory
        self._leaves = [arena.row_leaves(slot, row) for slot in slots]
        self._stamps = [arena.stamp_offset_bytes(slot, row) for slot in slots]
        self.views: list[Any] = []
        """For each slot the row as the tree of the space, writable; empty when some leaf travels inline."""
        if not any(leaf.inline for leaf in arena.layout.leaves):
            self.views = [unflatten(arena.space, iter(leaves)) for leaves in self._leaves]

    def write(self, slot: int, observation: Any, seq: int) -> dict[int, Any]:
        """Copy an observation into the row, but for leaves that are the row's own views, then stamp it.

        Returns:
            The leaves that have no place in the arena, by their index; to be sent inline.
        """
        inline: dict[int, Any] = {}
        places = self._leaves[slot]
        for index, value in enumerate(self._flatten(observation)):
            place = places[index]
            if place is None:
                inline[index] = value
            elif value is not place:
                place[...] = value
        _STAMP.pack_into(self._memory, self._stamps[slot], seq)
        return inline

    def close(self) -> None:
        """Let go of the arena's memory; afterwards nothing can be written."""
        self._leaves, self.views = [], []
        del self._memory
        self._lock.close()
