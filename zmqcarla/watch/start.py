"""How far a pool has come up: a line that changes on a terminal, a line a change elsewhere."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Any, Final

from rich.console import Console
from rich.status import Status

from zmqcarla.broker.errors import ZmqCarlaError
from zmqcarla.lease import ask_status

_LOOK_S: Final = 0.5
_LOST_S: Final = 2.0


class Progress:
    """Tells how many workers are ready, from a thread, until all are or the block ends.

    Args:
        address: of the broker that is coming up.
        workers: how many are to come.
        console: to write to.
    """

    def __init__(self, address: str, workers: int, console: Console) -> None:
        self._address, self._workers, self._console = address, workers, console
        self._end = threading.Event()
        self._began = time.monotonic()
        self._said = ""
        self._thread = threading.Thread(target=self._watch, name="zmqcarla-start", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        with self._console.status("the broker comes up") as status:
            while not self._end.wait(_LOOK_S):
                try:
                    workers = ask_status(self._address, _LOST_S)["workers"]
                except ZmqCarlaError:
                    continue
                if self._say(describe(workers, self._workers), status) >= self._workers:
                    break
        if not self._end.is_set():
            self._console.print(f"all {self._workers} workers are ready after {time.monotonic() - self._began:.1f} s")

    def _say(self, told: tuple[int, str], status: Status) -> int:
        ready, text = told
        if text != self._said:
            self._said = text
            if self._console.is_terminal:
                status.update(text)
            else:
                self._console.print(text, soft_wrap=True)
        return ready


def describe(workers: list[dict[str, Any]], wanted: int) -> tuple[int, str]:
    """How many are ready, and in words what the others do.

    Args:
        workers: as `zmqcarla.lease.ask_status` returns them.
        wanted: how many are to come.
    """
    ready = sum(worker["state"] == "ready" for worker in workers)
    others = [f"{worker['worker_id']} {worker['state']}" for worker in workers if worker["state"] in ("lost", "gone")]
    text = f"{ready} of {wanted} workers ready"
    return ready, f"{text}; {', '.join(others)}" if others else text
