"""The pool under soak, `zmqcarla up` in a runtime directory of its own, and the processes of its clients."""

from __future__ import annotations

import collections
import contextlib
import json
import random
import subprocess
import sys
import threading
import time
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import psutil

from zmqcarla.broker.errors import ZmqCarlaError
from zmqcarla.lease import ask_status
from zmqcarla.orders import give_order

HERE = Path(__file__).parent
SETTINGS: Final = """
[pool]
workers = {workers}
base_port = {base_port}
start_interval_s = 0.5
[worker]
simulator = "embedded"
env_patterns = ["zmqcarla/*", "soak_envs:*"]
step_timeout_s = {step_timeout_s}
max_restarts = 1000000
stable_start_s = 0.0
"""
STEP_TIMEOUT_S: Final = 15.0
LASTING: Final = ("up", "broker", "supervisor")


class Pool:
    """Knows its processes by what they run."""

    def __init__(self, directory: Path, workers: int, base_port: int) -> None:
        settings = directory / "pool.toml"
        settings.write_text(SETTINGS.format(workers=workers, base_port=base_port, step_timeout_s=STEP_TIMEOUT_S))
        self.address = f"ipc://{directory}/broker.sock"
        self.workers = workers
        self.log = directory / "up.log"
        self.ledger = directory / "zmqcarla" / "events.jsonl"
        command = [sys.executable, "-m", "zmqcarla.cli", "up", "--config", str(settings), "--address", self.address]
        with self.log.open("wb") as log:
            self.up = psutil.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        self.segments: set[str] = set()
        self._seen: dict[int, float] = {}
        self._worker_at: dict[str, str] = {}

    def wait_ready(self, timeout_s: float) -> bool:
        """Wait until all workers are ready; whether they were in time."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and self.up.poll() is None:
            with contextlib.suppress(ZmqCarlaError):
                status = ask_status(self.address)["workers"]
                if [worker["state"] for worker in status].count("ready") == self.workers:
                    self._worker_at = {str(one["port"]): one["worker_id"] for one in status}
                    return True
            time.sleep(0.2)
        return False

    def processes(self) -> dict[str, list[psutil.Process]]:
        """Those that live now, by kind; all are remembered."""
        kinds: dict[str, list[psutil.Process]] = collections.defaultdict(list)
        with contextlib.suppress(psutil.Error):
            kinds["up"].append(self.up)
            for process in self.up.children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    self._seen[process.pid] = process.create_time()
                    words = process.cmdline()
                    if words and process.status() != psutil.STATUS_ZOMBIE:
                        kinds[_kind(words)].append(process)
        return kinds

    def victims(self, kind: str) -> list[psutil.Process]:
        """The processes of a kind that live now."""
        return self.processes()[kind]

    def describe(self, kind: str, victim: psutil.Process) -> dict[str, Any]:
        """By what the ledger names it: its worker, which of the worker's env processes it is, whose child it is."""
        words = victim.cmdline()
        match kind:
            case "env process":
                told = json.loads(words[-1])
                names = {"worker": "worker_id", "incarnation": "incarnation", "supervisor": "supervisor_pid"}
                return {ours: told[theirs] for ours, theirs in names.items()}
            case "simulator" | "guard":
                above = [one.pid for one in victim.parents() if _kind(one.cmdline()) == "supervisor"]
                worker = self._worker_at[words[words.index("--port") + 1]]
                return {"worker": worker, "supervisor": above[0] if above else 0}
            case _:
                return {"worker": "", "created": victim.create_time()}

    def tend(self) -> None:
        """`zmqcarla up` does it."""

    def restart(self, draw: random.Random) -> dict[str, Any] | None:
        """Order the restart of a worker."""
        workers = ask_status(self.address)["workers"]
        if not workers:  # broker and supervisor have both just begun
            return None
        worker_id = draw.choice(workers)["worker_id"]
        give_order(self.address, "restart", [worker_id])
        return {"worker": worker_id}

    def left(self) -> list[int]:
        """Processes of this pool that live though it has ended."""
        return [pid for pid, created in self._seen.items() if _lives(pid, created)]

    def events(self) -> list[dict[str, Any]]:
        """The ledger."""
        paths = [self.ledger.with_name("events.jsonl.1"), self.ledger]
        events = [json.loads(line) for path in paths if path.exists() for line in path.read_text().splitlines()]
        return [{**event, "at": datetime.fromisoformat(event["time"]).timestamp()} for event in events]


def _lives(pid: int, created: float) -> bool:
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        return bool(process.create_time() == created and process.status() != psutil.STATUS_ZOMBIE)
    return False


def _kind(words: list[str]) -> str:
    """What a command line runs; that of a guard ends with its simulator's."""
    if any(word.endswith("/guard.py") for word in words):
        return "guard"
    modules = {
        "zmqcarla.broker": "broker",
        "zmqcarla.workers": "supervisor",
        "zmqcarla.workers.env_process": "env process",
        "zmqcarla.sim": "simulator",
    }
    return next((modules[word] for word in words if word in modules), "other")


class Client:
    """A process of `soak_client.py`, and what it said last."""

    def __init__(self, kind: str, address: str, rows: int, directory: Path) -> None:
        self.kind = kind
        self.last: dict[str, Any] = {}
        self._out = directory / f"{kind}.json"
        self._log = (directory / f"{kind}.log").open("wb")
        command = [sys.executable, str(HERE / "soak_client.py"), kind, address, str(rows), str(self._out)]
        self.process = psutil.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True, start_new_session=True
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self.last = json.loads(line)

    def end(self, timeout_s: float) -> dict[str, Any]:
        """Stop it and return its report."""
        self.process.stdin.close()
        try:
            self.process.wait(timeout_s)
        except psutil.TimeoutExpired:
            self.process.kill()
            text = f"it did not end in {timeout_s:g} s"
            return {"kind": self.kind, "steps": 0, "losses": [], "workers": [], "violations": [text]}
        finally:
            self._reader.join(10)
            self._log.close()
        report: dict[str, Any] = json.loads(self._out.read_text())
        return report


def sample(pool: Pool, clients: list[Client]) -> dict[str, float]:
    """What pool and clients use now: of each kind the number of processes, file descriptors and resident memory."""
    found: dict[str, float] = {"at": time.time()}
    kinds = pool.processes() | {"clients": [client.process for client in clients]}
    for kind, processes in kinds.items():
        used = [size for size in map(_used, processes) if size is not None]
        found |= {
            f"{kind}: processes": len(used),
            f"{kind}: MiB": sum(mib for mib, _ in used),
            f"{kind}: fds": sum(fds for _, fds in used),
        }
    for client in clients:
        with contextlib.suppress(OSError):
            maps = Path(f"/proc/{client.process.pid}/maps").read_text().split()
            pool.segments |= {Path(word).name for word in maps if word.startswith("/dev/shm/zmqcarla-")}
        found[f"{client.kind}_steps"] = client.last.get("steps", 0)
        found[f"{client.kind}_losses"] = client.last.get("losses", 0)
    found["segments"] = sum(any(name in path.name for name in pool.segments) for path in Path("/dev/shm").iterdir())
    return found


def _used(process: psutil.Process) -> tuple[float, int] | None:
    with contextlib.suppress(psutil.Error):
        return process.memory_info().rss / 2**20, process.num_fds()
    return None
