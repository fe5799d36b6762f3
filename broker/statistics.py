"""The broker's state as plain values, for `zmqcarla status` and `top`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from zmqcarla.broker.protocol import STEP_TIMES
from zmqcarla.broker.records import Lease, Request, Seen, Worker


def pool_values(
    workers: Iterable[Worker], leases: Iterable[Lease], queue: Iterable[Request], now: float
) -> dict[str, Any]:
    """Workers, leases and queue; ages in seconds."""
    return {
        "workers": [_worker_values(worker, now) for worker in workers],
        "leases": [
            {
                "lease": lease.lease_id.hex(),
                "env_id": lease.terms.env_id,
                "num_envs": len(lease.rows),
                "age_s": now - lease.granted_at,
                "silent_s": now - lease.renewed_at,
                "commands": lease.commands,
                **_step_times(lease),
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
    }
