"""Which worker fits whom, and what a request that finds too few is told."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable

from zmqcarla.broker import protocol as p
from zmqcarla.broker.records import Request, Terms, Worker


def fits(worker: Worker, terms: Terms) -> bool:
    """Whether a lease on these terms may have the worker."""
    offer = worker.offer
    return (
        terms.simulator in (None, offer.simulator)
        and terms.gpu in (None, offer.gpu)
        and any(fnmatch.fnmatchcase(terms.env_id, pattern) for pattern in offer.env_patterns)
    )


def spare_for(lost: Worker, terms: Terms, workers: Iterable[Worker], now: float) -> Worker | None:
    """A free worker that can take over the row of a lost one; None when there is none.

    It has the same simulator, also where the lease took any: rows of one batch should not drive different worlds. One
    whose supervisor is late is passed over, for it may have vanished together with the lost one. Of the others the
    one heard last is the likeliest to live.
    """
    spares = [
        worker
        for worker in workers
        if worker.free
        and worker.offer.simulator == lost.offer.simulator
        and fits(worker, terms)
        and now - worker.heard_at < worker.offer.ttl_s / 2
    ]
    return max(spares, key=lambda worker: worker.heard_at, default=None)


def refusal(request: Request, workers: Iterable[Worker], free: int, suitable: int, now: float) -> p.Refused | None:
    """Why a request ends without a lease; None while it may still be served.

    Args:
        request: that found too few.
        workers: of the pool.
        free: how many suitable workers it could have had.
        suitable: how many may ever serve it.
        now: the time.
    """
    message = request.message
    living = [worker for worker in workers if worker.state != "gone"]
    staying = [worker for worker in living if worker.stays]
    ended = [worker for worker in workers if worker.state == "gone" and fits(worker, request.terms)]
    wanted = _wanted(message)
    if ended and not suitable:
        last = ended[-1]
        text = (
            f"expected workers for {wanted}, found that all {len(ended)} of them have ended and will not come "
            f"back; worker {last.offer.worker_id}: {last.end}"
        )
        return p.Refused(message.request_id, "impossible", text)
    if living and not staying:
        text = f"expected workers for {wanted}, found a pool that is being drained: start another one"
        return p.Refused(message.request_id, "impossible", text)
    if staying and not suitable:
        patterns = sorted({pattern for worker in staying for pattern in worker.offer.env_patterns})
        simulators = ", ".join(sorted({worker.offer.simulator for worker in staying}))
        text = (
            f"expected workers for {wanted}, found {len(staying)} workers that allow {', '.join(patterns[:20])} on "
            f"{simulators}: check env id, simulator and gpu, "
            "or start workers that allow them (--env, --simulator, --gpu)"
        )
        return p.Refused(message.request_id, "impossible", text)
    if now - request.asked_at >= message.timeout_s:
        text = (
            f"expected {wanted} within {message.timeout_s:g} s, found {suitable} suitable workers of which {free} "
            f"are free: start more (`zmqcarla worker`, `zmqcarla up --workers N`), ask for fewer, or wait longer"
        )
        return p.Refused(message.request_id, "timeout", text)
    return None


def _wanted(message: p.LeaseRequest) -> str:
    wanted = f"{message.num_envs} x {message.env_id!r}"
    if message.simulator is not None:
        wanted += f" on simulator {message.simulator!r}"
    if message.gpu is not None:
        wanted += f" on GPU {message.gpu}"
    return wanted
