"""Named POSIX semaphores that wake a process. They are alarm clocks only: what is true stands in the arena's columns.

A bell belongs to an arena and carries its name, so that whoever removes the arena removes its bells.
Source: sem_overview(7); posix_ipc waits on the real-time clock, so a wait is short and its caller looks at the time
itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import posix_ipc

_DIRECTORY: Final = Path("/dev/shm")
NOT_RUNG: Final = (posix_ipc.BusyError, posix_ipc.SignalError)
"""What `Bell.take_ring` raises: nobody rang in time, or a signal ended the wait."""


class Bell:
    """A semaphore that one side rings and the other waits for.

    Attributes:
        ring: wakes who waits, or the next who will.
        take_ring: waits at most so many seconds and consumes one ring; raises one of NOT_RUNG when there was none.
    """

    def __init__(self, semaphore: Any) -> None:
        self._semaphore = semaphore
        self.ring: Callable[[], None] = semaphore.release
        self.take_ring: Callable[[float], None] = semaphore.acquire

    @classmethod
    def create(cls, arena_name: str, purpose: str) -> Bell:
        """Make the bell `purpose` of an arena, mode 0600."""
        return cls(posix_ipc.Semaphore(f"{arena_name}.{purpose}", posix_ipc.O_CREX, mode=0o600, initial_value=0))

    @classmethod
    def attach(cls, arena_name: str, purpose: str) -> Bell:
        """Open a bell that the arena's creator made.

        Raises:
            FileNotFoundError: it is gone.
        """
        try:
            return cls(posix_ipc.Semaphore(f"{arena_name}.{purpose}"))
        except posix_ipc.ExistentialError:
            raise FileNotFoundError(f"no bell {arena_name}.{purpose} here: its arena is gone") from None

    def wait(self, timeout_s: float) -> bool:
        """Whether the bell was rung within `timeout_s`; consumes one ring. A signal may end the wait early."""
        try:
            self.take_ring(timeout_s)
        except NOT_RUNG:
            return False
        return True

    def close(self) -> None:
        """Let go; the name stays."""
        self._semaphore.close()


def unlink_bells(arena_name: str) -> None:
    """Remove the names of all bells of an arena."""
    for path in _DIRECTORY.glob(f"sem.{arena_name.lstrip('/')}.*"):
        with contextlib.suppress(posix_ipc.ExistentialError):
            posix_ipc.unlink_semaphore("/" + path.name.removeprefix("sem."))
