"""The broker's state as plain values, for `zmqcarla status` and `top`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from zmqcarla.broker.protocol import ENV_PARTS, STEP_TIMES
from zmqcarla.broker.records import Lease, Request, Seen, Worker


def pool_values(
    workers: Iterable[Worker], leases: Iterable[Lease], queue: Iterable[Request], now: float
) -> dict[str, Any]:
    """Workers, leases and queue; ages in seconds."""
    by_id = {worker.offer.worker_id: worker for worker in workers}
    return {
        "workers": [_worker_values(worker, now) for worker in by_id.values()],
        "leases": [
            {
                "lease": lease.lease_id.hex(),
                "env_id": lease.terms.env_id,
                "num_envs": len(lease.rows),
                "age_s": now - lease.granted_at,
                "silent_s": now - lease.renewed_at,
                "commands": lease.commands,
                **_step_times(lease),
                **_slowest_parts([by_id[each] for each in lease.workers if each in by_id]),
            }
            for lease in leases
        ],
        "queue": [
            {
                "env_id": request.message.env_id,
                "num_envs": request.message.num_envs,
                "waiting_s": now - request.asked_at,
            }
            for request in queue
        ],
    }


def _step_times(lease: Lease) -> dict[str, float | None]:
    told = lease.step_times_ms if len(lease.step_times_ms) == len(STEP_TIMES) else (None,) * len(STEP_TIMES)
    return dict(zip(STEP_TIMES, told, strict=True))


def _slowest_parts(workers: Iterable[Worker]) -> dict[str, float | None]:
    """The parts of the time that the slowest env takes, for which all others of the lease wait."""
    parts = [_env_parts(worker.seen) for worker in workers if worker.seen is not None]
    return max(parts, key=lambda one: sum(value or 0.0 for value in one.values()), default=_env_parts(None))


def _env_parts(seen: Seen | None) -> dict[str, float | None]:
    """Null for an env that does not tell them."""
    told = seen is not None and any(getattr(seen, name) for name in ENV_PARTS)
    return {name: getattr(seen, name) if told else None for name in ENV_PARTS}


def _worker_values(worker: Worker, now: float) -> dict[str, Any]:
    return {
        "worker_id": worker.offer.worker_id,
        "host": worker.offer.host,
        "state": worker.state,
        "retiring": worker.retiring,
        "simulator": worker.offer.simulator,
        "gpu": worker.offer.gpu,
        "port": worker.offer.port,
        "pid": worker.pid,
        "supervisor_pid": worker.offer.supervisor_pid,
        "incarnation": worker.incarnation,
        "restarts": worker.restarts,
        "env_patterns": list(worker.offer.env_patterns),
        "lease": worker.lease_id.hex(),
        "row": worker.row,
        "silent_s": now - worker.heard_at,
        **_seen_values(worker.seen, now),
    }


def _seen_values(seen: Seen | None, now: float) -> dict[str, Any]:
    names = ("phase", "steps", "env_rss_bytes", "server_rss_bytes", "server_vram_bytes", "growth_bytes_per_h", "leaks")
    return {
        "seen_s": None if seen is None else now - seen.at,
        **{name: None if seen is None else getattr(seen, name) for name in names},
        **_env_parts(seen),
    }
