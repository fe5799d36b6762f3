"""Pools of ordinary envs for tests."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from typing import Any

import psutil
from conftest import wait_until

from zmqcarla.lease import ask_status
from zmqcarla.pool import LocalPool


@contextlib.contextmanager
def ready_pool(workers: int, *env_patterns: str, **options: Any) -> Generator[LocalPool]:
    """A pool whose workers are all ready; it ends with the block."""
    pool = LocalPool(workers, simulator="none", env_patterns=env_patterns, **options)
    try:
        wait_until(lambda: [one["state"] for one in workers_of(pool)] == ["ready"] * workers, f"{workers} workers")
        yield pool
    finally:
        pool.close()


def workers_of(pool: LocalPool) -> list[dict[str, Any]]:
    """What the broker says of each worker."""
    workers: list[dict[str, Any]] = ask_status(pool.address)["workers"]
    return workers


def process_of_pool(module: str) -> psutil.Process:
    """The one process of this test's pool that runs a module: "zmqcarla.broker", "zmqcarla.workers"."""
    return next(child for child in psutil.Process().children(recursive=True) if module in child.cmdline())
