"""Where every array of an arena lies: computed alike, from the same space, in each process that maps it.

    page 0            magic, digest of the layout
    columns           row_seq uint64 [slots][num_envs]
    leaf 0            [slots][num_envs, *shape]          each part starts at a multiple of 4 KiB
    leaf 1            ...

An observation space is a tree of Dict and Tuple; its leaves of fixed size (Box, Discrete, MultiDiscrete, MultiBinary)
lie in the arena, the others (Text, Sequence, Graph) travel inline in the replies.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

ALIGNMENT_BYTES: Final = 4096
_FIXED: Final = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)

Path = tuple[str | int, ...]
Tree = Any
"""An observation: an array or scalar, or a dict or tuple of such trees."""


@dataclasses.dataclass(frozen=True, slots=True)
class Leaf:
    """One array of the observation.

    Attributes:
        path: keys and indices from the root to the leaf; () when the space is one leaf.
        space: the leaf's own space.
        shape: of one env's value.
        dtype: of the value.
        offset_bytes: of slot 0, row 0 in the segment; -1 for a leaf that travels inline.
        slot_bytes: from one slot to the next.
    """

    path: Path
    space: spaces.Space[Any]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset_bytes: int
    slot_bytes: int

    @property
    def inline(self) -> bool:
        """Whether the leaf has no place in the arena."""
        return self.offset_bytes < 0


@dataclasses.dataclass(frozen=True, slots=True)
class Layout:
    """The plan of one arena.

    Attributes:
        num_envs: rows.
        slots: batches in the ring, the reserved one included.
        leaves: in the order of `flatten`.
        row_seq_offset_bytes: of the row_seq column.
        size_bytes: of the whole segment.
        digest: 16 bytes that differ when anything above differs.
    """

    num_envs: int
    slots: int
    leaves: tuple[Leaf, ...]
    row_seq_offset_bytes: int
    size_bytes: int
    digest: bytes

    @classmethod
    def of(cls, space: spaces.Space[Any], num_envs: int, slots: int) -> Layout:
        """Plan the arena of `num_envs` envs with this observation space."""
        row_seq_offset_bytes = ALIGNMENT_BYTES
        end_bytes = _aligned(row_seq_offset_bytes + slots * num_envs * 8)
        leaves: list[Leaf] = []
        for path, leaf_space in _walk(space, ()):
            if not isinstance(leaf_space, _FIXED):
                leaves.append(Leaf(path, leaf_space, (), np.dtype(object), -1, 0))
                continue
            shape = tuple(int(side) for side in leaf_space.shape or ())
            dtype = np.dtype(leaf_space.dtype)
            slot_bytes = num_envs * int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
            leaves.append(Leaf(path, leaf_space, shape, dtype, end_bytes, slot_bytes))
            end_bytes = _aligned(end_bytes + slots * slot_bytes)
        # Only what decides where things lie: the text of a bound differs between releases of numpy.
        plan = [(leaf.path, leaf.shape, leaf.dtype.str, leaf.offset_bytes) for leaf in leaves]
        digest = hashlib.blake2b(repr((num_envs, slots, end_bytes, plan)).encode(), digest_size=16).digest()
        return cls(num_envs, slots, tuple(leaves), row_seq_offset_bytes, end_bytes, digest)


def _aligned(offset_bytes: int) -> int:
    return -(-offset_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def _walk(space: spaces.Space[Any], path: Path) -> Iterator[tuple[Path, spaces.Space[Any]]]:
    if isinstance(space, spaces.Dict):
        for key, sub in space.spaces.items():
            yield from _walk(sub, (*path, key))
    elif isinstance(space, spaces.Tuple):
        for index, sub in enumerate(space.spaces):
            yield from _walk(sub, (*path, index))
    else:
        yield path, space


def make_flatten(space: spaces.Space[Any]) -> Callable[[Tree], Sequence[Any]]:
    """A function from an observation of `space` to its leaves, in the order of `Layout.leaves`.

    The function raises KeyError, IndexError or TypeError for a value that has not the tree of the space.
    """
    if isinstance(space, spaces.Dict):
        parts = [(key, make_flatten(sub)) for key, sub in space.spaces.items()]
        if all(not isinstance(sub, (spaces.Dict, spaces.Tuple)) for sub in space.spaces.values()):
            keys = list(space.spaces)
            return lambda value: [value[key] for key in keys]
        return lambda value: [leaf for key, flatten in parts for leaf in flatten(value[key])]
    if isinstance(space, spaces.Tuple):
        subs = [make_flatten(sub) for sub in space.spaces]
        return lambda value: [leaf for flatten, part in zip(subs, value, strict=True) for leaf in flatten(part)]
    return lambda value: (value,)


def make_reader(space: spaces.Space[Any], places: Sequence[NDArray[Any]]) -> Callable[[], Tree]:
    """A function that returns a private copy of what stands in `places` now, as the tree of `space`.

    Args:
        space: all of its leaves of fixed size.
        places: one array a leaf, in the order of `Layout.leaves`, each (1, *shape).
    """
    if len(places) == 1 and not isinstance(space, (spaces.Dict, spaces.Tuple)):
        place = places[0]
        if place.ndim == 1:
            return lambda: place[0]  # a numpy scalar is a copy
        inner: NDArray[Any] = place[0]
        return inner.copy
    readers = [make_reader(spaces.Discrete(1), [place]) for place in places]
    return lambda: unflatten(space, iter([read() for read in readers]))


def make_unflatten(space: spaces.Space[Any]) -> Callable[[list[Any]], Tree]:
    """A function from leaves in the order of `Layout.leaves` to the tree of `space` around them."""
    if isinstance(space, spaces.Dict) and not any(
        isinstance(sub, (spaces.Dict, spaces.Tuple)) for sub in space.spaces.values()
    ):
        keys = list(space.spaces)
        return lambda leaves: dict(zip(keys, leaves, strict=True))
    if isinstance(space, (spaces.Dict, spaces.Tuple)):
        return lambda leaves: unflatten(space, iter(leaves))
    return lambda leaves: leaves[0]


def unflatten(space: spaces.Space[Any], leaves: Iterator[Any]) -> Tree:
    """The tree of `space` (dicts and tuples) around leaves that come in the order of `Layout.leaves`."""
    if isinstance(space, spaces.Dict):
        tree: Mapping[str, Tree] = {key: unflatten(sub, leaves) for key, sub in space.spaces.items()}
        return tree
    if isinstance(space, spaces.Tuple):
        return tuple([unflatten(sub, leaves) for sub in space.spaces])
    return next(leaves)
