"""A second thread of the same program, kept in step with the ticks of the world.

The Leaderboard builds the scenarios that the ego comes near in a thread of its own, every second of the wall clock, and
that thread waits for ticks which the main thread makes. So what a run does depends on how fast the machine is. Here
such a piece of work runs only while the thread that ticks waits for it, and waits for ticks by number: two runs of one
seed are alike.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from zmqcarla.broker.errors import SimulatorTimeoutError


class _Cancelled(BaseException):
    """The world is going away; not an Exception, so that nobody who wants to go on catches it."""


class Lockstep:
    """Runs pieces of work beside the ticks.

    Args:
        timeout_s: longest time that a piece may take between two ticks.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._thread: threading.Thread | None = None
        self._may_run = threading.Semaphore(0)
        self._stands = threading.Semaphore(0)
        self._cancelled = False
        self._error: BaseException | None = None

    @property
    def busy(self) -> bool:
        """Whether a piece of work waits for a tick."""
        return self._thread is not None

    def begin(self, work: Callable[[], None]) -> None:
        """Start a piece of work and return when it waits for a tick or is done.

        Raises:
            SimulatorTimeoutError: it did neither in time.
            Exception: what it raised.
        """
        assert not self.busy, "expected the piece before to be done"
        self._thread = threading.Thread(target=self._run, args=(work,), name="zmqcarla-lockstep", daemon=True)
        self._thread.start()
        self._let_run()

    def after_tick(self) -> None:
        """Let a piece that waits for a tick go on until it waits again or is done; errors as for `begin`."""
        if self.busy:
            self._let_run()

    def wait_for_tick(self) -> bool:
        """Called by a piece of work: wait for the next tick. False in any other thread, which then waits itself."""
        if threading.current_thread() is not self._thread:
            return False
        self._stands.release()
        self._may_run.acquire()
        if self._cancelled:
            raise _Cancelled
        return True

    def cancel(self) -> None:
        """End the piece of work that waits for a tick, if there is one."""
        thread, self._cancelled = self._thread, True
        if thread is not None:
            self._may_run.release()
            thread.join(self._timeout_s)
            self._thread = None

    def _let_run(self) -> None:
        self._may_run.release()
        if not self._stands.acquire(timeout=self._timeout_s):
            raise SimulatorTimeoutError(
                f"expected the scenarios near the vehicle to be built within {self._timeout_s:g} s, found them still "
                "at it; the server hangs, or raise `timeout`",
                self._timeout_s,
            )
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _run(self, work: Callable[[], None]) -> None:
        self._may_run.acquire()
        try:
            if not self._cancelled:
                work()
        except _Cancelled:
            pass
        except BaseException as error:  # belongs to the thread that ticks
            self._error = error
        finally:
            self._thread = None
            self._stands.release()


class LockstepWorld:
    """A `carla.World` whose `wait_for_tick` keeps step, to be given to code that runs as a piece of work.

    Args:
        world: all else is its own.
        lockstep: whose pieces wait.
    """

    def __init__(self, world: Any, lockstep: Lockstep) -> None:
        self._world = world
        self._lockstep = lockstep

    def wait_for_tick(self, seconds: float = 10.0) -> Any:
        """Wait for the next tick and return its snapshot."""
        if self._lockstep.wait_for_tick():
            return self._world.get_snapshot()
        return self._world.wait_for_tick(seconds)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._world, name)
