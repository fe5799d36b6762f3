"""Pools of ordinary envs for tests."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

import psutil
from conftest import wait_until

import zmqcarla
from zmqcarla.broker.protocol import is_served
from zmqcarla.lease import Lease, ask_status
from zmqcarla.pool import LocalPool
from zmqcarla.workers.worker_config import SupervisorConfig, WorkerConfig

_START_S = 40.0
"""How long processes may take to start on a busy machine."""


@contextlib.contextmanager
def ready_pool(workers: int, *env_patterns: str, **options: Any) -> Generator[LocalPool]:
    """A pool whose workers are all ready; it ends with the block."""
    pool = LocalPool(workers, simulator="none", env_patterns=env_patterns, **options)
    try:
        wait_until(
            lambda: [one["state"] for one in workers_of(pool)] == ["ready"] * workers, f"{workers} workers", _START_S
        )
        yield pool
    finally:
        pool.close()


def workers_of(pool: LocalPool) -> list[dict[str, Any]]:
    """What the broker says of each worker."""
    workers: list[dict[str, Any]] = ask_status(pool.address)["workers"]
    return workers


def process_of_private_pool(module: str) -> psutil.Process:
    """The process of this test's `LocalPool` that runs a module: "zmqcarla.broker", "zmqcarla.workers"."""
    (pool,) = [child for child in psutil.Process().children() if "zmqcarla.pool" in child.cmdline()]
    return next(child for child in pool.children() if module in child.cmdline())


class Hosts:
    """A broker and some supervisors, each a process of its own, as on a cluster.

    Args:
        directory: takes socket and logs.
        hosts: how many supervisors.
        workers: how many workers each has.
        ttl_s: time to live of supervisors and of the leases of `new_vec_env`.
        fields: further fields of WorkerConfig.
    """

    def __init__(self, directory: Path, hosts: int = 1, workers: int = 1, ttl_s: float = 2.0, **fields: Any) -> None:
        self.address = f"ipc://{directory}/broker.sock"
        self.logs = directory / "logs"
        self._ttl_s = ttl_s
        self.start_broker()
        self.supervisors: list[psutil.Popen] = []
        self._supervisor_arguments: list[str] = []
        self._vec_envs: list[zmqcarla.VectorEnv] = []
        for host in range(hosts):
            configs = tuple([WorkerConfig(worker_id=f"host{host}-{one}", **_WORKER | fields) for one in range(workers)])
            config = SupervisorConfig(broker=self.address, workers=configs, log_directory=str(self.logs), ttl_s=ttl_s)
            self._supervisor_arguments.append(config.to_json())
            self.start_supervisor()
        try:
            self.wait_ready(hosts * workers)
        except BaseException:
            self.close()
            raise

    def start_broker(self) -> None:
        """Start the broker, or its successor."""
        self.broker = self._start("zmqcarla.broker", "--address", self.address)

    def start_supervisor(self) -> None:
        """Start the next supervisor that does not run."""
        self.supervisors = [one for one in self.supervisors if one.poll() is None]
        arguments = self._supervisor_arguments[len(self.supervisors)]
        self.supervisors.append(self._start("zmqcarla.workers", arguments))

    def wait_ready(self, workers: int) -> None:
        """Until so many workers are ready."""
        wait_until(lambda: is_served(self.address), "the broker", _START_S)
        wait_until(
            lambda: [one["state"] for one in ask_status(self.address)["workers"]] == ["ready"] * workers,
            f"{workers} workers",
            _START_S,
        )

    def _start(self, *arguments: str) -> psutil.Popen:
        return psutil.Popen([sys.executable, "-m", *arguments], stderr=subprocess.DEVNULL)

    def new_vec_env(self, n: int, env_id: str, transport: Any) -> zmqcarla.VectorEnv:
        """A vector env whose lease lives as long as the supervisors."""
        lease = Lease.acquire(self.address, n, env_id, timeout_s=40.0, ttl_s=self._ttl_s)
        self._vec_envs.append(zmqcarla.VectorEnv(lease, env_id, transport=transport))
        return self._vec_envs[-1]

    def close(self) -> None:
        """End what still runs."""
        for vec in self._vec_envs:
            vec.close()
        for process in (*self.supervisors, self.broker):
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.terminate()
                process.wait(20)


@contextlib.contextmanager
def mortal_workers(workers: int, *env_patterns: str) -> Generator[Hosts]:
    """One host whose workers may die as often as they like."""
    limits: dict[str, Any] = {"max_restarts": 1000, "stable_start_s": 0.0, "step_timeout_s": 10.0}
    with tempfile.TemporaryDirectory(prefix="zq-") as directory:
        hosts = Hosts(Path(directory), workers=workers, ttl_s=30.0, env_patterns=env_patterns, **limits)
        try:
            yield hosts
        finally:
            hosts.close()


_WORKER: dict[str, Any] = {
    "simulator": "none",
    "env_patterns": ("client_envs:*", "fault_envs:*"),
    "quarantine_deaths": 0,  # tests of one pool use the same seeds, and many of them kill
}
