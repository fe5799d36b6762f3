"""A small page on which an env process says what it is doing, for its supervisor and `zmqcarla top` to read.

The heartbeat cannot live in the env process: the carla client holds the GIL for whole calls. The page can be read
without its help. A torn read shows at worst the phase before with the time of the one that begins: time is written
first, and who wants both reads the phase first.
"""

from __future__ import annotations

import enum
import mmap
import os
import struct
import time
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

EPISODE_BYTES: Final = 160
"""Room for the name of an episode, in UTF-8."""
_PAGE: Final = np.dtype(
    [
        ("since_ns", np.uint64),
        ("row", np.int64),
        ("seq", np.uint64),
        ("phase", np.uint32),
        ("incarnation", np.uint32),
        ("steps", np.uint64),
        ("lease_id", np.uint8, 16),
        ("board", "S64"),
        ("episode", f"S{EPISODE_BYTES}"),
        ("resets", np.uint64),
        ("server", "S64"),
        ("server_serial", np.uint32),
        ("recycle", np.uint32),
    ]
)
_STATE: Final = struct.Struct("=QqQI")
"""since_ns, row, seq, phase: written at once, for an env process does it twice a step."""
_STEPS: Final = struct.Struct("=Q")
_STEPS_OFFSET_BYTES: Final = 32


class Phase(enum.IntEnum):
    """What an env process is doing."""

    STARTING = 0
    IDLE = 1
    OPENING = 2
    RESETTING = 3
    STEPPING = 4
    CALLING = 5
    CLOSING = 6
    RECYCLING = 7
    """It waits, between two episodes, for a fresh server."""


class StatusPage:
    """The page of one worker; the supervisor creates it, the env process attaches and writes.

    It has no name: both hold the memfd, so nothing is left behind when they die, however they die.

    Attributes:
        fd: of the page, to be inherited by the env process; -1 in a process that attached.
        fields: structured scalar array {phase, incarnation, since_ns (CLOCK_MONOTONIC), row, seq, steps, lease_id,
            board (its name), episode (its name), resets (begun since the page was made)}; the supervisor writes
            {server (HOST:PORT), server_serial (one more for each server that came up), recycle (1: leave the server
            before the next reset, it is to be replaced)}.
    """

    def __init__(self, fd: int, owned_fd: int) -> None:
        self.fd = owned_fd
        self._memory = mmap.mmap(fd, _PAGE.itemsize)
        self.fields: NDArray[Any] = np.ndarray((), _PAGE, self._memory)
        self._steps = int(self.fields["steps"])

    @classmethod
    def create(cls) -> StatusPage:
        """Make a page; the caller owns it."""
        fd = os.memfd_create("zmqcarla-status")
        os.ftruncate(fd, _PAGE.itemsize)
        return cls(fd, fd)

    @classmethod
    def attach(cls, fd: int) -> StatusPage:
        """Map the page whose memfd this process inherited; the fd is closed."""
        try:
            return cls(fd, -1)
        finally:
            os.close(fd)

    def enter(self, phase: Phase, row: int = -1, seq: int = 0) -> None:
        """Say what begins now."""
        # Not pack_into: it clears the bytes before it writes them, and a reader would find a process that has been
        # "starting" since the machine was booted.
        self._memory[: _STATE.size] = _STATE.pack(time.monotonic_ns(), row, seq, phase)

    def count_step(self) -> None:
        """One step more."""
        self._steps += 1
        self._memory[_STEPS_OFFSET_BYTES : _STEPS_OFFSET_BYTES + _STEPS.size] = _STEPS.pack(self._steps)

    def name_episode(self, name: str) -> None:
        """Say which episode begins; empty for one that cannot be asked for again."""
        self.fields["episode"] = name.encode()

    @property
    def episode(self) -> str:
        """The name of the episode that runs, or ran last."""
        return str(self.fields["episode"].item().decode("utf-8", "replace"))

    def count_reset(self) -> None:
        """One more episode is about to begin."""
        self.fields["resets"] += np.uint64(1)

    def offer_server(self, address: str) -> None:
        """As the supervisor, say where the server listens that has just come up."""
        self.fields["server"] = address.encode()
        self.fields["recycle"] = 0
        # Last, for this is what a waiting env process looks at.
        self.fields["server_serial"] += np.uint32(1)

    @property
    def server(self) -> str:
        """HOST:PORT of the server that came up last."""
        address: bytes = self.fields["server"].item()
        return address.decode()

    @property
    def phase(self) -> Phase:
        """The current phase."""
        return Phase(int(self.fields["phase"]))

    def phase_age_s(self) -> float:
        """Seconds since the phase began."""
        return (time.monotonic_ns() - int(self.fields["since_ns"])) / 1e9

    def close(self) -> None:
        """Let go."""
        self.fields = np.zeros((), _PAGE)
        self._memory.close()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
