"""The broker's end of the protocol, driven by hand, and a real supervisor on the other end."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import zmq

from zmqcarla.broker import protocol as p
from zmqcarla.broker.codec import pack, unpack
from zmqcarla.workers.worker_config import SupervisorConfig, WorkerConfig

DEADLINE_S = 30.0
LEASE = b"L" * 16

AnyMessage = TypeVar("AnyMessage", bound=p.Message)


def is_alive(pid: int) -> bool:
    """Whether the process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


class Router:
    """A ROUTER socket that plays the broker; remembers who said what."""

    def __init__(self, directory: Path) -> None:
        self.address = f"ipc://{directory}/b.sock"
        self._context: zmq.Context[Any] = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.linger = 0
        self._socket.bind(self.address)
        self.supervisor = b""
        self.env_process = b""
        self.welcome = True
        self._known: set[str] = set()

    def close(self) -> None:
        self._socket.close()
        self._context.term()

    def receive(self, kind: type[AnyMessage], deadline_s: float = DEADLINE_S) -> tuple[AnyMessage, list[bytes]]:
        """The next message of this kind; others are answered as a broker would, or passed over."""
        end = time.monotonic() + deadline_s
        while self._socket.poll(int(max(0.0, end - time.monotonic()) * 1000)):
            peer, header, *payloads = self._socket.recv_multipart()
            message = p.decode(header)
            if isinstance(message, p.Ready):
                self.env_process = peer
            elif isinstance(message, p.Register):
                self.supervisor = peer
                if self.welcome:
                    self._known.add(message.worker_id)
                    self.send(peer, p.Welcome(message.worker_id, b"boot"))
            elif isinstance(message, p.Heartbeat):
                for worker_id in set(message.worker_ids) - self._known:
                    self.send(peer, p.UnknownWorker(worker_id))
            if isinstance(message, kind):
                return message, payloads
        raise AssertionError(f"expected a {kind.kind!r} within {deadline_s:g} s")

    def send(self, peer: bytes, message: p.Message, *payloads: bytes) -> None:
        self._socket.send_multipart([peer, p.encode(message), *payloads])

    def ready(self, incarnation: int = 1) -> p.Ready:
        """The first announcement of this incarnation."""
        while True:
            message, _ = self.receive(p.Ready)
            if message.incarnation == incarnation:
                return message

    def command(self, op: str, payload: Any, seq: int, row: int = 0, lease_id: bytes = LEASE) -> tuple[str, Any]:
        """Do one command and return outcome and decoded payload."""
        self.post(op, payload, seq, row, lease_id)
        return self.reply(seq)

    def post(self, op: str, payload: Any, seq: int, row: int = 0, lease_id: bytes = LEASE) -> None:
        self.send(self.env_process, p.RowCommand(lease_id, row, seq, op), pack(payload))

    def reply(self, seq: int) -> tuple[str, Any]:
        message, payloads = self.receive(p.RowReply)
        assert message.seq == seq
        assert len(payloads) == 1
        return message.outcome, unpack(payloads[0])


class Pool:
    """A supervisor process.

    Args:
        directory: takes its logs.
        router: the broker to talk to.
        worker_ids: one worker each, with the same settings.
        lifeline_fd: for SupervisorConfig.
        arguments: instead of the config's JSON.
        worker: further fields of WorkerConfig.
    """

    def __init__(
        self,
        directory: Path,
        router: Router,
        worker_ids: Sequence[str] = ("w0",),
        lifeline_fd: int | None = None,
        arguments: Sequence[str] = (),
        **worker: Any,
    ) -> None:
        fields: dict[str, Any] = {
            "simulator": "none",
            "env_patterns": ("worker_envs:*", "CartPole-v1"),
            "stable_start_s": 0.0,
            **worker,
        }
        self.log = directory / "supervisor.log"
        self.env_log = directory / "logs" / f"{worker_ids[0]}.log"
        self.server_log = directory / "logs" / f"{worker_ids[0]}.server.log"
        config = SupervisorConfig(
            broker=router.address,
            workers=tuple([WorkerConfig(worker_id=name, **fields) for name in worker_ids]),
            log_directory=str(directory / "logs"),
            lifeline_fd=lifeline_fd,
        )
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "zmqcarla.workers", *(arguments or [config.to_json()])],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=() if lifeline_fd is None else (lifeline_fd,),
            )

    def wait(self, deadline_s: float = DEADLINE_S) -> int:
        return self.process.wait(deadline_s)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(DEADLINE_S)

    def segments(self) -> set[Path]:
        """The named segments that the supervisor maps."""
        maps = Path(f"/proc/{self.process.pid}/maps").read_text()
        return {Path(path) for path in re.findall(r"/dev/shm/zmqcarla-\S+", maps)}

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.wait()
            except subprocess.TimeoutExpired:
                self.kill()


@contextlib.contextmanager
def running_pool(directory: Path, router: Router, **settings: Any) -> Generator[Pool]:
    """A supervisor, see `Pool`; it ends with the block, and so does the router."""
    pool = Pool(directory, router, **settings)
    try:
        yield pool
    except BaseException:
        print(pool.log.read_text())
        raise
    finally:
        pool.close()
        router.close()
