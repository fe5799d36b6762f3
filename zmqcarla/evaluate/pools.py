"""Where an evaluation drives: a pool that somebody else runs, or a private one that is started again when it dies."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final, Protocol

from zmqcarla.broker.errors import SimulatorStartError
from zmqcarla.pool import LocalPool

WORKER: Final = {"max_restarts": 100, "quarantine_deaths": 0}
"""Settings of the workers of a private pool: the evaluation itself counts how often a route kills its worker."""
_MAX_STARTS: Final = 6
_STEP_S: Final = 60.0
_RESET_S: Final = 180.0


def hosting(agent_timeout_s: float) -> dict[str, float]:
    """Return settings of workers that leave an agent inside the env process its own time.

    A step or reset that takes longer is cut by the pool, and then its simulator is thought to hang.
    """
    return {"step_timeout_s": _STEP_S + agent_timeout_s, "reset_timeout_s": _RESET_S + agent_timeout_s}


class Pool(Protocol):
    """A pool that can be asked for workers."""

    def address(self) -> str:
        """Return where its broker serves now."""
        ...

    def has_died(self, address: str) -> bool:
        """Whether the pool that served there is known to have died."""
        ...


class RunningPool:
    """A pool of somebody else's, who keeps it running."""

    def __init__(self, address: str) -> None:
        self._address = address

    def address(self) -> str:
        """Return where its broker serves."""
        return self._address

    def has_died(self, address: str) -> bool:
        """Return False: who runs it knows."""
        del address
        return False


class PrivatePool:
    """A pool of this process; one that died is replaced when it is asked for next.

    Args:
        start: starts one.
    """

    def __init__(self, start: Callable[[], LocalPool]) -> None:
        self._start = start
        self._lock = threading.Lock()
        self._starts = 0
        self._pool: LocalPool | None = None

    def address(self) -> str:
        """Return where the broker of the live pool serves, starting one if there is none.

        Raises:
            SimulatorStartError: it does not start, or died too often.
        """
        with self._lock:
            if self._pool is None or not self._pool.runs:
                self._close()
                self._starts += 1
                if self._starts > _MAX_STARTS:
                    raise SimulatorStartError(
                        f"expected the private pool to stay up, found it dead {_MAX_STARTS} times; see its logs"
                    )
                self._pool = self._start()
            return self._pool.address

    def has_died(self, address: str) -> bool:
        """Return whether the pool that served there is another one, or has ended."""
        pool = self._pool
        return pool is None or pool.address != address or not pool.runs

    def close(self) -> None:
        """End the pool."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()
