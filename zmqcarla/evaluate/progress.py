"""What the terminal shows while an evaluation goes on: a live table, or plain lines where there is no terminal."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any, Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from zmqcarla.evaluate.drive import Drive
from zmqcarla.evaluate.estimate import Leg, remaining
from zmqcarla.evaluate.work_queue import Job

_PLAIN_EVERY_S: Final = 60.0
_REDRAWS_HZ: Final = 2.0


class Progress:
    """Counts routes; safe to use from several threads.

    Args:
        console: where to show it.
        jobs: all routes of the evaluation.
        measured: seconds of those that were done before, by index.
        crews: how many drive at the same time.
    """

    def __init__(self, console: Console, jobs: Sequence[Job], measured: dict[int, float], crews: int) -> None:
        self._console = console
        self._jobs = {job.index: job for job in jobs}
        self._seconds = dict(measured)
        self._running: dict[int, tuple[float, Drive]] = {}
        self._crews = crews
        self._losses = 0
        self._lock = threading.Lock()
        self._said_at = time.monotonic()
        self._live: Live | None = None
        if console.is_terminal:
            self._live = Live(get_renderable=self._table, console=console, refresh_per_second=_REDRAWS_HZ)

    def __enter__(self) -> Progress:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def begin(self, job: Job, drive: Drive) -> None:
        """A route is being driven; `drive` tells how far it is."""
        with self._lock:
            self._running[job.index] = (time.monotonic(), drive)

    def end(self, job: Job) -> None:
        """It is not driven any more: stopped, or to be tried again."""
        with self._lock:
            self._running.pop(job.index, None)

    def lose(self, job: Job, reason: str) -> None:
        """Its worker was lost."""
        with self._lock:
            self._losses += 1
        self.say(f"route {job.route_id}: {reason}", "yellow")

    def finish(self, job: Job, record: dict[str, Any]) -> None:
        """It has a record."""
        with self._lock:
            self._seconds[job.index] = float(record["meta"]["duration_system"])
        score = record["scores"]["score_composed"]
        self.say(f"route {job.route_id} in {job.town}: {record['status']}, {score:.1f}")
        if self._live is None:
            self._say_how_far()

    def say(self, text: str, style: str | None = None) -> None:
        """Print a line, above the live table where there is one."""
        self._console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)

    def beat(self) -> None:
        """Called now and then: without a terminal, a line is said once a minute."""
        if self._live is None and time.monotonic() - self._said_at >= _PLAIN_EVERY_S:
            self._say_how_far()

    def _say_how_far(self) -> None:
        self._said_at = time.monotonic()
        with self._lock:
            running = ", ".join(
                f"{self._jobs[index].route_id} at {drive.completion_percent:.0f} %"
                for index, (_, drive) in self._running.items()
            )
        self.say(f"{self._counts()}; {self._rest()}" + (f"; now {running}" if running else ""))

    def _counts(self) -> str:
        lost = f", {self._losses} lost workers" if self._losses else ""
        return f"{len(self._seconds)} of {len(self._jobs)} routes{lost}"

    def _rest(self) -> str:
        """The remaining time in words."""
        now = time.monotonic()
        with self._lock:
            legs = {
                index: Leg(job.town, job.length_m, self._seconds.get(index, 0.0)) for index, job in self._jobs.items()
            }
            since = {index: now - started for index, (started, _) in self._running.items()}
            done = set(self._seconds)
        measured = [leg for index, leg in legs.items() if index in done]
        running = [Leg(legs[index].town, legs[index].length_m, so_far) for index, so_far in since.items()]
        waiting = [leg for index, leg in legs.items() if index not in done and index not in since]
        rest = remaining(measured, running, waiting, self._crews)
        if rest is None:
            return "remaining time: unknown yet"
        return f"remaining time: about {clock(rest.expected_s)} ({clock(rest.low_s)} to {clock(rest.high_s)})"

    def _table(self) -> RenderableType:
        bar = ProgressBar(total=max(len(self._jobs), 1), completed=len(self._seconds), width=40)
        table = Table.grid(padding=(0, 2))
        with self._lock:
            running = [(self._jobs[index], started, drive) for index, (started, drive) in self._running.items()]
        for job, started, drive in running:
            tries = f"attempt {len(job.losses) + 1}" if job.losses else ""
            seconds = clock(time.monotonic() - started)
            percent = f"{drive.completion_percent:.0f} %"
            table.add_row(f"  route {job.route_id}", job.town, job.scenario, percent, seconds, tries)
        return Group(bar, Text(f"{self._counts()}; {self._rest()}"), table)


def clock(seconds: float) -> str:
    """Seconds as a person says them: 40 s, 12 min, 3 h 05 min."""
    if seconds < 90.0:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60.0)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
