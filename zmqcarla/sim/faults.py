"""Faults that a simulator commits when it is told to, so that what stands around it can be tried: `--fault`.

Ticks are those that clients ask for in synchronous mode, counted from the start of the process and not from the
episode, so a fault comes at the same point of every run. The carla client asks for one or two of them by itself when a
script changes the settings, until it sees the new step.
"""

import logging
import os
import resource
import signal
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

log = logging.getLogger("zmqcarla.sim")

_HANG_NAP_S = 3600.0


class Fault(NamedTuple):
    """One fault.

    Attributes:
        kind: hang, crash, slow, torn-frame or crash-at-start.
        tick: at which tick, 0 for each.
        delay_s: how much longer that tick takes.
    """

    kind: str
    tick: int = 0
    delay_s: float = 0.0


FORMS = "hang-at-tick=N, crash-at-tick=N, torn-frame-at=N, slow-tick=MS, slow-tick-at=N:MS, crash-at-start"
"""What the command line takes; MS are milliseconds."""


def parse_fault(text: str) -> Fault:
    """A fault as the command line says it.

    Raises:
        ValueError: it is none.
    """
    name, _, value = text.partition("=")
    number, _, delay = value.partition(":")
    try:
        match name:
            case "hang-at-tick" | "crash-at-tick" | "torn-frame-at":
                return Fault(name.removesuffix("-tick").removesuffix("-at"), _tick(value))
            case "slow-tick":
                return Fault("slow", 0, _seconds(value))
            case "slow-tick-at":
                return Fault("slow", _tick(number), _seconds(delay))
            case "crash-at-start" if not value:
                return Fault(name)
            case _:
                pass
    except ValueError as error:
        raise ValueError(f"{text!r}: {error}; expected one of {FORMS}") from None
    raise ValueError(f"no such fault: {text!r}; expected one of {FORMS}")


def _tick(text: str) -> int:
    if not text.isdecimal() or not text.isascii() or not 0 < int(text) < 2**63:
        raise ValueError(f"expected the number of a tick from 1 on, found {text!r}")
    return int(text)


def _seconds(text: str) -> float:
    milliseconds = float(text) if text else -1.0
    if not 0.0 <= milliseconds <= 3_600_000.0:
        raise ValueError(f"expected milliseconds from 0 to 3600000, found {text!r}")
    return milliseconds / 1000.0


class Faults:
    """The faults of a process.

    Args:
        faults: which.
        tear: called before each tick with whether the stream messages that follow are to be torn.
    """

    def __init__(self, faults: Sequence[Fault], tear: Callable[[bool], None]) -> None:
        self._faults = faults
        self._tear = tear
        self._tick = 0

    def before_tick(self) -> None:
        """A client has asked for a tick: commit what is due."""
        if not self._faults:
            return
        self._tick += 1
        self._tear(Fault("torn-frame", self._tick) in self._faults)
        for fault in self._faults:
            if fault.tick not in (0, self._tick):
                continue
            match fault.kind:
                case "hang":
                    hang(self._tick)
                case "crash":
                    crash(f"at tick {self._tick}")
                case "slow":
                    time.sleep(fault.delay_s)
                case _:
                    pass


def hang(tick: int) -> None:
    """Answer nobody any more, as a simulator whose game thread is stuck; a signal still ends the process."""
    log.warning("fault: hangs at tick %d", tick)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    while True:
        time.sleep(_HANG_NAP_S)


def crash(when: str) -> None:
    """End as a process does that touches memory which is not its own, without a core file."""
    log.warning("fault: crashes %s", when)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.kill(os.getpid(), signal.SIGSEGV)
