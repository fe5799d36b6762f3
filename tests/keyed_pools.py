"""Brokers on tcp with keys, and the hosts and peers that come to them, for tests."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import zmq
from conftest import wait_until

from zmqcarla.broker import protocol as p
from zmqcarla.broker.errors import BrokerUnavailableError
from zmqcarla.broker.keys import KeyFolder
from zmqcarla.lease import ask_status
from zmqcarla.workers.worker_config import SupervisorConfig, WorkerConfig

_WORKER: dict[str, Any] = {"simulator": "none", "env_patterns": ("client_envs:*", "fault_envs:*")}
DEADLINE_S = 20.0


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


class KeyedPool:
    """A broker on tcp with keys in `directory`/keys, and supervisors that use them.

    Args:
        directory: takes keys and logs.
        hosts: how many supervisors.
        workers: how many workers each has.
        ttl_s: time to live of supervisors.
        address: where the broker serves.
        fields: further fields of WorkerConfig.
    """

    def __init__(
        self,
        directory: Path,
        hosts: int = 1,
        workers: int = 1,
        ttl_s: float = 30.0,
        address: str = "tcp://127.0.0.1",
        **fields: Any,
    ) -> None:
        self.keys = KeyFolder(directory / "keys")
        self.keys.make(None)
        self.port = free_port()
        self.address = f"{address}:{self.port}"
        self.log = directory / "broker.log"
        self.processes = [self._start(self.keys, "zmqcarla.broker", "--address", self.address)]
        for host in range(hosts):
            self.start_host(directory, self.keys, f"host{host}", workers, ttl_s, **fields)
        self.wait_ready(hosts * workers)

    def start_host(
        self,
        directory: Path,
        keys: KeyFolder,
        name: str,
        workers: int = 1,
        ttl_s: float = 30.0,
        prefix: Sequence[str] = (),
        **fields: Any,
    ) -> psutil.Popen:
        """A supervisor with these keys; `prefix` is a command that runs it somewhere else."""
        configs = tuple([WorkerConfig(worker_id=f"{name}-{one}", **_WORKER | fields) for one in range(workers)])
        logs = str(directory / "logs")
        config = SupervisorConfig(broker=self.address, workers=configs, log_directory=logs, ttl_s=ttl_s)
        self.processes.append(self._start(keys, "zmqcarla.workers", config.to_json(), prefix=prefix))
        return self.processes[-1]

    def _start(self, keys: KeyFolder, *arguments: str, prefix: Sequence[str] = ()) -> psutil.Popen:
        environment = {**os.environ, p.KEYS_VARIABLE: str(keys.path)}
        with self.log.open("ab") as log:
            return psutil.Popen([*prefix, sys.executable, "-m", *arguments], stderr=log, env=environment)

    def states(self) -> dict[str, str]:
        """The state of each worker."""
        return {one["worker_id"]: one["state"] for one in ask_status(self.address)["workers"]}

    def wait_ready(self, workers: int) -> None:
        """Until so many workers are ready."""

        def ready() -> bool:
            try:
                return list(self.states().values()) == ["ready"] * workers
            except BrokerUnavailableError:
                return False

        wait_until(ready, f"{workers} workers")

    def new_keys(self, path: Path, name: str) -> KeyFolder:
        """The keys of another user, allowed here."""
        keys = KeyFolder(path)
        keys.make(self.keys.broker_key)
        self.keys.authorize(keys.client_key, name)
        return keys

    def close(self) -> None:
        """End what still runs."""
        for process in reversed(self.processes):
            if process.poll() is None:
                process.terminate()
                process.wait(DEADLINE_S)


class Peer:
    """A DEALER with a key, which says what it likes."""

    def __init__(self, address: str, keys: KeyFolder | None) -> None:
        self._context: zmq.Context[Any] = zmq.Context()
        self.socket = self._context.socket(zmq.DEALER)
        self.socket.linger = 0
        if keys is not None:
            keys.secure_client(self.socket)
        self.monitor = self.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self.socket.connect(address)

    def tell(self, message: p.Message | bytes, *payloads: bytes) -> None:
        """Send a message."""
        self.socket.send_multipart([message if isinstance(message, bytes) else p.encode(message), *payloads])

    def ask(self, message: p.Message | bytes, *payloads: bytes) -> p.Message:
        """Send a message and wait for the next one that comes."""
        self.tell(message, *payloads)
        return self.heard()

    def heard(self) -> p.Message:
        """The next message that comes."""
        assert self.socket.poll(int(1000 * DEADLINE_S)), "nothing came"
        return p.from_frames(self.socket.recv_multipart())[0]

    def wait_disconnected(self) -> None:
        """Until the other end has closed the connection."""
        assert self.monitor.poll(int(1000 * DEADLINE_S)), "the connection was not closed"

    def speaks_in_vain(self, message: p.Message) -> bool:
        """Send a message; whether the other end has closed the connection. An answer is a failure."""
        self.tell(message)
        assert not self.socket.poll(0)
        return bool(self.monitor.poll(50))

    def close(self) -> None:
        """Hang up."""
        self.socket.disable_monitor()
        self.monitor.close(linger=0)
        self.socket.close()
        self._context.term()


def run_cli(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`zmqcarla ...`, with further environment variables."""
    command = [sys.executable, "-m", "zmqcarla.cli", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=30, check=False, env={**os.environ, **environment}
    )
