"""Actions of fixed size as they lie in memory: what a step over the bus carries instead of a packed value.

[head][leaf][leaf]...       a row; the leaves of the action space in the order of `zmqcarla.shm.layout`, unaligned
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from zmqcarla.shm.layout import Layout, make_flatten, make_reader


class ActionBytes:
    """Room for the actions of some rows, each with a head of the caller's before it.

    Args:
        space: of one action; every leaf of a fixed size.
        num_rows: how many.
        head_bytes: before each row.

    Attributes:
        memory: of all rows, one after the other.
        row_bytes: of a row, its head included.
        read: returns a private copy of row 0's action.
    """

    def __init__(self, space: spaces.Space[Any], num_rows: int, head_bytes: int) -> None:
        leaves = Layout.of(space, 1, 1).leaves
        sizes_bytes = [math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves]
        self.row_bytes = head_bytes + sum(sizes_bytes)
        self.memory = bytearray(num_rows * self.row_bytes)
        self._flatten = make_flatten(space)
        self._places: list[NDArray[Any]] = []
        offset_bytes = head_bytes
        for leaf, size_bytes in zip(leaves, sizes_bytes, strict=True):
            inner = np.empty(leaf.shape, leaf.dtype).strides
            shape = (num_rows, *leaf.shape)
            self._places.append(np.ndarray(shape, leaf.dtype, self.memory, offset_bytes, (self.row_bytes, *inner)))
            offset_bytes += size_bytes
        self.read: Callable[[], Any] = make_reader(space, [place[:1] for place in self._places])

    def write_all(self, actions: Any) -> None:
        """Copy a batch of actions, the tree of the batched action space."""
        for place, leaf in zip(self._places, self._flatten(actions), strict=True):
            place[:] = leaf

    def write(self, row: int, action: Any) -> None:
        """Copy one row's action, an element of the action space."""
        for place, leaf in zip(self._places, self._flatten(action), strict=True):
            place[row] = leaf

    def row(self, row: int) -> bytes:
        """A row with its head."""
        begin = row * self.row_bytes
        return bytes(self.memory[begin : begin + self.row_bytes])
