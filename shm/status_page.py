"""A small page on which an env process says what it is doing, for its supervisor and `zmqcarla top` to read.

The heartbeat cannot live in the env process: the carla client holds the GIL for whole calls. The page can be read
without its help. A torn read shows at worst a phase with the time of its neighbour; readers treat it as a hint and
look again.
"""

from __future__ import annotations

import enum
import time
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from zmqcarla.shm.segment import Segment

_PAGE: Final = np.dtype(
    [
        ("phase", np.uint32),
        ("incarnation", np.uint32),
        ("since_ns", np.uint64),
        ("row", np.int64),
        ("seq", np.uint64),
        ("steps", np.uint64),
        ("lease_id", np.uint8, 16),
        ("board", "S64"),
    ]
)


class Phase(enum.IntEnum):
    """What an env process is doing."""

    STARTING = 0
    IDLE = 1
    OPENING = 2
    RESETTING = 3
    STEPPING = 4
    CALLING = 5
    CLOSING = 6


class StatusPage:
    """The page of one worker; the supervisor creates it, the env process attaches and writes.

    Attributes:
        fields: structured scalar array {phase, incarnation, since_ns (CLOCK_MONOTONIC), row, seq, steps, lease_id,
        board (its name)}.
    """

    def __init__(self, segment: Segment | None) -> None:
        self.name = "" if segment is None else segment.name
        self._segment = segment
        self.fields: NDArray[Any] = np.zeros((), _PAGE) if segment is None else np.ndarray((), _PAGE, segment.memory)

    @classmethod
    def private(cls) -> StatusPage:
        """A page that nobody else reads: for an env process without a supervisor."""
        return cls(None)

    @classmethod
    def create(cls) -> StatusPage:
        """Make a page; the caller owns it."""
        return cls(Segment.create("status", _PAGE.itemsize))

    @classmethod
    def attach(cls, name: str) -> StatusPage:
        """Map the page of another process."""
        return cls(Segment.attach(name, _PAGE.itemsize))

    def enter(self, phase: Phase, row: int = -1, seq: int = 0) -> None:
        """Say what begins now."""
        fields = self.fields
        fields["row"] = row
        fields["seq"] = seq
        fields["since_ns"] = time.monotonic_ns()
        fields["phase"] = phase

    @property
    def phase(self) -> Phase:
        """The current phase."""
        return Phase(int(self.fields["phase"]))

    def phase_age_s(self) -> float:
        """Seconds since the phase began."""
        return (time.monotonic_ns() - int(self.fields["since_ns"])) / 1e9

    def close(self) -> None:
        """Let go; the creator also unlinks."""
        del self.fields
        if self._segment is not None:
            self._segment.close()
