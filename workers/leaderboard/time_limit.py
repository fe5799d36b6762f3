"""A limit for code of others that runs in this process, as the Leaderboard's own watchdog sets one for agents.

Like theirs it interrupts Python and not a call into a library that never returns.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Generator
from typing import Any, Final

_AGAIN_S: Final = 1.0
"""Whoever catches the exception and goes on is interrupted again after so long."""


class TookTooLongError(RuntimeError):
    """The code was interrupted."""


@contextlib.contextmanager
def time_limit(limit_s: float, what: str) -> Generator[None]:
    """Raise `TookTooLongError` in what runs inside for longer.

    Signals reach a program's main thread only: in any other thread nothing is limited.

    Args:
        limit_s: more than 0.
        what: is said in the error.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    runs = True

    def interrupt(number: int, frame: Any) -> None:
        if runs:
            raise TookTooLongError(f"{what} took longer than {limit_s:g} s")

    began_s = time.monotonic()
    before = signal.signal(signal.SIGALRM, interrupt)
    left_s, every_s = signal.setitimer(signal.ITIMER_REAL, limit_s, _AGAIN_S)
    try:
        yield
    finally:
        runs = False  # first: a signal that comes while this tidies up must not leave the timer running
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
        if left_s:  # somebody else's timer goes on
            signal.setitimer(signal.ITIMER_REAL, max(left_s - (time.monotonic() - began_s), 1e-3), every_s)
