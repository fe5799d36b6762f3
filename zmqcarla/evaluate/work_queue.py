"""Which route a worker drives next: loading a town is slow and leaks, so a worker stays in its town while it can."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Job:
    """One route to drive.

    Attributes:
        index: place in the file, from 0.
        route_id: as in the file.
        town: where it is.
        attempt: how often it was tried before.
    """

    index: int
    route_id: str
    town: str
    attempt: int = 0


class WorkQueue:
    """The jobs that are left; safe to use from several threads.

    Args:
        jobs: in the file's order.
        retries: how often a job may be tried again after its worker was lost.
    """

    def __init__(self, jobs: Iterable[Job], retries: int) -> None:
        self._jobs = list(jobs)
        self._retries = retries
        self._working: Counter[str] = Counter()
        self._lock = threading.Lock()

    def take(self, town: str | None) -> Job | None:
        """Return the next job of a worker that is in `town`, None when nothing is left.

        It gets a job of its town; else of the town with the most jobs for each worker there.
        """
        with self._lock:
            left = Counter(job.town for job in self._jobs)
            if not left:
                return None
            chosen = town if town in left else max(left, key=lambda each: left[each] / (1 + self._working[each]))
            job = next(job for job in self._jobs if job.town == chosen)
            self._jobs.remove(job)
            if town != chosen:
                self._working.subtract([] if town is None else [town])
                self._working[job.town] += 1
            return job

    def give_back(self, job: Job) -> bool:
        """Put a job back whose worker was lost; False when its retries are used up."""
        if job.attempt >= self._retries:
            return False
        with self._lock:
            self._jobs.insert(0, replace(job, attempt=job.attempt + 1))
        return True
