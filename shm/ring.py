"""Which slot of the arena holds which batch, so that a batch that somebody still reads is never written again.

A slot is free, or lent to the arrays of one batch. It returns when the last array over that batch dies: every array
of a hand-out keeps one owner object alive, and the end of the owner appends the slot to the free list (a deque: append
is atomic, so that may happen on any thread without a lock).

The newest slot is never taken next, even when free: it is the last observation, from which rows that were not stepped
are copied.
"""

from __future__ import annotations

import collections
import weakref
from collections.abc import Callable
from typing import Any


class SlotRing:
    """Lends slots 0 to `slots` - 1; slot number `slots` is the reserve for when all are held.

    Attributes:
        newest: the slot of the last batch; -1 before the first.
        reserve_used: how often the reserve had to serve, each time at the cost of one copy of the batch.
    """

    def __init__(self, slots: int) -> None:
        if slots < 2:
            raise ValueError(f"expected at least 2 slots (one to read, one to write), found {slots}")
        self.reserve = slots
        self.newest = -1
        self.reserve_used = 0
        self._free: collections.deque[int] = collections.deque(range(slots))
        # References with a callback, as weakref.finalize keeps them, at a third of its time.
        self._returns = [_returner(self._free, slot) for slot in range(slots)]
        self._lent: list[weakref.ref[Any] | None] = [None] * slots

    def take(self) -> int:
        """A slot to write the next batch into: a free one that is not the newest, else the reserve.

        What was freed last comes first: its memory is the likeliest to be in the processor's caches.
        """
        free = self._free  # only this pops
        if free:
            slot = free.pop()
            if slot != self.newest:
                return slot
            other = free.pop() if free else self.reserve
            free.append(slot)
            if other != self.reserve:
                return other
        self.reserve_used += 1
        return self.reserve

    def give_back(self, slot: int) -> None:
        """Return a slot that was taken but never lent (the batch failed)."""
        if slot != self.reserve:
            self._free.append(slot)

    def lend(self, slot: int, owner: Any) -> None:
        """The batch in `slot` is handed out: the slot is free again when `owner` dies."""
        self.newest = slot
        self._lent[slot] = weakref.ref(owner, self._returns[slot])


def _returner(free: collections.deque[int], slot: int) -> Callable[[Any], None]:
    def give_back(_: Any) -> None:
        free.append(slot)

    return give_back
