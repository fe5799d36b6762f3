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
        length_m: along its keypoints, which is less than along the road.
        scenario: type of the first scenario, "" for none.
        losses: why the attempts before this one ended, one text each.
    """

    index: int
    route_id: str
    town: str
    length_m: float = 0.0
    scenario: str = ""
    losses: tuple[str, ...] = ()


class WorkQueue:
    """The jobs that are left; safe to use from several threads.

    Every job that was taken ends with `finish`, `lose` or `put_back`. While one is in somebody's hands it may come
    back, so others who find nothing to do wait for that.

    Args:
        jobs: in the file's order.
        retries: how often a job may be tried again after its worker was lost.
    """

    def __init__(self, jobs: Iterable[Job], retries: int) -> None:
        self._jobs = list(jobs)
        self._retries = retries
        self._working: Counter[str] = Counter()
        self._in_hands = 0
        self._closed = False
        self._changed = threading.Condition()

    @property
    def left(self) -> int:
        """How many jobs nobody drives."""
        with self._changed:
            return len(self._jobs)

    def take(self, town: str | None) -> Job | None:
        """Return the next job of a worker that is in `town`, None when nothing is left and nothing can come back.

        It gets a job of its town; else of the town with the most jobs for each worker there.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or not self._in_hands or self._closed)
            if self._closed or not self._jobs:
                return None
            left = Counter(job.town for job in self._jobs)
            chosen = town if town in left else max(left, key=lambda each: left[each] / (1 + self._working[each]))
            job = next(job for job in self._jobs if job.town == chosen)
            self._jobs.remove(job)
            self._in_hands += 1
            if town != chosen:
                self._working.subtract([] if town is None else [town])
                self._working[job.town] += 1
            return job

    def finish(self) -> None:
        """A job that was taken is done."""
        with self._changed:
            self._in_hands -= 1
            self._changed.notify_all()

    def lose(self, job: Job, reason: str) -> Job | None:
        """The worker of a job was lost: it is tried again after the others.

        Returns:
            None, or the job with all its losses when its retries are used up; then it is still to be finished.
        """
        lost = replace(job, losses=(*job.losses, reason))
        if len(lost.losses) > self._retries:
            return lost
        self._return(lost, len(self._jobs))
        return None

    def put_back(self, job: Job) -> None:
        """A job could not be begun, which is not its fault."""
        self._return(job, 0)

    def close(self) -> None:
        """Nobody gets a job any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _return(self, job: Job, place: int) -> None:
        with self._changed:
            self._jobs.insert(place, job)
            self._in_hands -= 1
            self._changed.notify_all()
