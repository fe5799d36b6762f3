"""Requests for a lease that wait, and whose turn it is."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Final

from zmqcarla.broker import matching
from zmqcarla.broker import protocol as p
from zmqcarla.broker.records import Request, Send, Worker

_MAX: Final = 256
_MAX_A_USER: Final = 64


class LeaseQueue:
    """First come, first served; but nobody waits for workers that an earlier request cannot use.

    Attributes:
        waiting: in the order in which they came.
    """

    def __init__(self) -> None:
        self.waiting: list[Request] = []

    def flaw(self, user: str) -> str:
        """Why a request of this user is not taken; empty when it is."""
        own = sum(request.user == user for request in self.waiting)
        if len(self.waiting) < _MAX and own < _MAX_A_USER:
            return ""
        return f"expected at most {_MAX_A_USER} waiting requests a user, {_MAX} in all, found so many"

    def add(self, request: Request) -> None:
        """Let it wait behind all others."""
        self.waiting.append(request)

    def take_away(self, user: str) -> list[Request]:
        """Take the requests of a user out, and return them."""
        taken = [request for request in self.waiting if request.user == user]
        self.waiting = [request for request in self.waiting if request.user != user]
        return taken

    def serve(
        self, workers: Collection[Worker], grant: Callable[[Request, list[Worker], float], Send], now: float
    ) -> Iterator[Send]:
        """Grant what can be granted, refuse what waits in vain, tell the others their places once a second.

        Args:
            workers: of the pool.
            grant: makes a lease of a request and its workers.
            now: the time.
        """
        spoken_for: set[str] = set()  # what an earlier request waits for is not given to a later one
        waiting: list[Request] = []
        for request in self.waiting:
            message, terms = request.message, request.terms
            suitable = [worker for worker in workers if worker.stays and matching.fits(worker, terms)]
            free = [worker for worker in suitable if worker.free and worker.offer.worker_id not in spoken_for]
            refusal = matching.refusal(request, workers, len(free), len(suitable), now)
            if len(free) >= message.num_envs:
                yield grant(request, free[: message.num_envs], now)
            elif refusal is not None:
                yield Send(request.client, refusal)
            else:
                spoken_for.update(worker.offer.worker_id for worker in free)
                if now - request.told_at >= p.HEARTBEAT_S:
                    request.told_at = now
                    yield Send(request.client, p.Queued(message.request_id, len(waiting), len(free), len(suitable)))
                waiting.append(request)
        self.waiting = waiting
