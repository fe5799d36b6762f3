"""A small page on which an env process says what it is doing, for its supervisor and `zmqcarla top` to read.

The heartbeat cannot live in the env process: the carla client holds the GIL for whole calls. The page can be read
without its help, also while it is written: what stands there is believed when two copies are the same and the phase,
which is written last, is one. (`Struct.pack_into` clears the bytes first, and a writer may be put to sleep in between:
a process that is read as "starting", since the machine was booted, would be killed for it.)
"""

from __future__ import annotations

import enum
import mmap
import os
import struct
import time
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

EPISODE_BYTES: Final = 160
"""Room for the name of an episode, in UTF-8."""
_PAGE: Final = np.dtype(
    [
        ("steps", np.uint64),
        ("since_ns", np.uint64),
        ("row", np.int64),
        ("seq", np.uint64),
        ("phase", np.uint32),
        ("incarnation", np.uint32),
        ("lease_id", np.uint8, 16),
        ("board", "S64"),
        ("episode", f"S{EPISODE_BYTES}"),
        ("resets", np.uint64),
        ("server", "S64"),
        ("server_serial", np.uint32),
        ("recycle", np.uint32),
        ("parts", np.uint64, 4),
    ]
)
_STEPS: Final = struct.Struct("=Q")
_STATE: Final = struct.Struct("=QqQI")
"""since_ns, row, seq, phase; follows the steps."""
_STATE_PLACE: Final = slice(_STEPS.size, _STEPS.size + _STATE.size)
PROGRESS: Final = struct.Struct("=QQqQI")
"""steps, since_ns, row, seq, phase: written at once, for an env process does it twice a step."""
PROGRESS_PLACE: Final = slice(0, PROGRESS.size)
_PARTS: Final = struct.Struct("=QQQQ")
_PARTS_PLACE: Final = slice(_PAGE.itemsize - _PARTS.size, _PAGE.itemsize)
_SERVER_POLL_S: Final = 0.02
_LOOKS: Final = 64
"""How often is looked for something whole: a process that does nothing but write spoils every second look, and one who
sleeps while he writes is met again at the next."""


class Phase(enum.IntEnum):
    """What an env process is doing."""

    UNTOLD = 0
    """Nothing has been written yet, or it is being written."""
    STARTING = 1
    IDLE = 2
    OPENING = 3
    RESETTING = 4
    STEPPING = 5
    CALLING = 6
    CLOSING = 7
    RECYCLING = 8
    """It waits, between two episodes, for a fresh server."""


class Look(NamedTuple):
    """What an env process does.

    Attributes:
        phase: since `age_s` seconds.
        age_s: see there.
        row: of its lease; -1 for none.
        seq: of the command.
        steps: done by all processes that had the page.
    """

    phase: Phase
    age_s: float
    row: int
    seq: int
    steps: int


class PartSums(NamedTuple):
    """Where the time of steps went, summed over them; see `zmqcarla.workers.step_parts`.

    Attributes:
        steps: so many.
        tick_ns: control and ticks of the world.
        render_ns: waiting for the sensors.
        observe_ns: observation, reward and criteria.
    """

    steps: int
    tick_ns: int
    render_ns: int
    observe_ns: int


class StatusPage:
    """The page of one worker; the supervisor creates it, the env process attaches and writes.

    It has no name: both hold the memfd, so nothing is left behind when they die, however they die.

    Attributes:
        fd: of the page, to be inherited by the env process; -1 in a process that attached.
        fields: structured scalar array {phase, incarnation, since_ns (CLOCK_MONOTONIC), row, seq, steps, lease_id,
            board (its name), episode (its name), resets (begun since the page was made), parts (a PartSums)}; the
            supervisor writes {server (HOST:PORT), server_serial (one more for each server that came up), recycle (1:
            leave the server before the next reset, it is to be replaced)}.
        steps: done so far, as the process that does them counts.
        memory: of the page; what PROGRESS packs goes to PROGRESS_PLACE, for one who does nothing else all day.
    """

    def __init__(self, fd: int, owned_fd: int) -> None:
        self.fd = owned_fd
        self.memory = mmap.mmap(fd, _PAGE.itemsize)
        self.fields: NDArray[Any] = np.ndarray((), _PAGE, self.memory)
        self.steps = int(self.fields["steps"])
        self._seen = Look(Phase.UNTOLD, 0.0, -1, 0, 0)

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
        self.memory[_STATE_PLACE] = _STATE.pack(time.monotonic_ns(), row, seq, phase)

    def count_step(self) -> None:
        """One step more."""
        self.steps += 1
        self.memory[: _STEPS.size] = _STEPS.pack(self.steps)

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

    def wait_for_server(self, serial: int, timeout_s: float) -> bool:
        """As an env process, wait until a server has come up after that of this number; whether one has, in time."""
        deadline = time.monotonic() + timeout_s
        while self.fields["server_serial"].item() == serial:
            if time.monotonic() >= deadline:
                return False
            time.sleep(_SERVER_POLL_S)
        return True

    def look(self) -> Look:
        """What was written last, as far as it is whole."""
        for _ in range(_LOOKS):
            copy = self.memory[PROGRESS_PLACE]
            if copy != self.memory[PROGRESS_PLACE]:
                continue
            steps, since_ns, row, seq, phase = PROGRESS.unpack(copy)
            if phase:
                age_s = (time.monotonic_ns() - since_ns) / 1e9
                self._seen = Look(Phase(phase), age_s, row, seq, steps)
                break
        return self._seen

    def tell_parts(self, steps: int, tick_ns: int, render_ns: int, observe_ns: int) -> None:
        """Say where the time of the steps went that the page has seen, see `PartSums`."""
        self.memory[_PARTS_PLACE] = _PARTS.pack(steps, tick_ns, render_ns, observe_ns)

    def parts(self) -> PartSums:
        """What was told last, as far as it is whole; a step more or less does no harm in a sum."""
        copy = self.memory[_PARTS_PLACE]
        for _ in range(_LOOKS):
            before, copy = copy, self.memory[_PARTS_PLACE]
            if copy == before:
                break
        return PartSums(*_PARTS.unpack(copy))

    def close(self) -> None:
        """Let go."""
        self.fields = np.zeros((), _PAGE)
        self.memory.close()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
