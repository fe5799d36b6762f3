"""Fuzz the bus: random and mutated messages at two brokers and at a worker, while vector envs step and are checked.

    python tools/fuzz_bus.py [--frames 100000] [--seed 0] [--out fuzz.json]

Three targets, each a process of its own with real workers:

    ipc broker     an ordinary peer; it knows no id of the lease that is watched
    tcp broker     with keys; the peer has an allowed key of its own and knows the ids of lease and workers; raw bytes
                   come to the port as well
    worker         this program plays the broker for a supervisor and its env process

Nothing may crash or restart, no step of the watched vector env may be lost or wrong, and memory must not grow. Exit
code 1 when anything was violated.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import json
import os
import random
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import zmq
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from fuzz_messages import Fuzzer  # noqa: E402
from soak_envs import ECHO, STEP  # noqa: E402

from zmqcarla.broker import protocol as p  # noqa: E402
from zmqcarla.broker.errors import BrokerUnavailableError  # noqa: E402
from zmqcarla.broker.keys import KeyFolder  # noqa: E402
from zmqcarla.lease import Lease, ask_status  # noqa: E402
from zmqcarla.vector_env import VectorEnv  # noqa: E402
from zmqcarla.workers.worker_config import SupervisorConfig, WorkerConfig  # noqa: E402

ENV = "soak_envs:Soak-v0"
LENGTH = 50
ROUND = 250
"""Messages between two looks at everything."""
GROWTH_MIB = 24.0
WARM_UP = 0.2
"""Share of the messages after which memory is measured first: tables that are bounded fill until then."""
DEADLINE_S = 60.0
CONSOLE = Console()


def wait_for(condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + DEADLINE_S
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise SystemExit(f"waited {DEADLINE_S:g} s for {what}")
        time.sleep(0.02)
    return found


@dataclasses.dataclass
class Report:
    """What one target did."""

    target: str
    messages: int = 0
    frames: int = 0
    raw_connections: int = 0
    seconds: float = 0.0
    answers: dict[str, int] = dataclasses.field(default_factory=dict)
    steps_checked: int = 0
    slowest_step_ms: float = 0.0
    rss_mib: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    violations: list[str] = dataclasses.field(default_factory=list)


class Watched:
    """Processes that have to stay what they are."""

    def __init__(self, processes: dict[str, psutil.Process], report: Report) -> None:
        self._processes = processes
        self._report = report

    def look(self) -> None:
        for name, process in self._processes.items():
            if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
                self._report.violations.append(f"{name} ended")
                raise SystemExit(f"{self._report.target}: {name} ended; {self._report}")

    def weigh(self) -> None:
        for name, process in self._processes.items():
            self._report.rss_mib.setdefault(name, []).append(round(process.memory_info().rss / 2**20, 1))

    def judge(self) -> None:
        for name, weights in self._report.rss_mib.items():
            if weights[-1] - weights[0] > GROWTH_MIB:
                self._report.violations.append(f"{name} grew from {weights[0]} to {weights[-1]} MiB")


class Driver:
    """A vector env whose every step is checked."""

    def __init__(self, address: str, n: int, report: Report) -> None:
        self.lease = Lease.acquire(address, n, ENV, timeout_s=DEADLINE_S)
        kwargs = [{"row": row, "length": LENGTH} for row in range(n)]
        self.vec = VectorEnv(self.lease, ENV, kwargs, transport="zmq", timeout_s=DEADLINE_S)
        self.vec.reset()
        self._report = report
        self._step = 0

    def step(self) -> None:
        action = np.full((self.vec.num_envs, 1), np.sin(self._report.steps_checked))
        began_s = time.perf_counter()
        observations, rewards, terminated, truncated, infos = self.vec.step(action)
        self._report.slowest_step_ms = max(self._report.slowest_step_ms, 1000 * (time.perf_counter() - began_s))
        self._step = 0 if self._step == LENGTH else self._step + 1
        echo = action[:, 0] if self._step else 0 * action[:, 0]
        good = (
            (observations[:, STEP] == self._step).all()
            and (observations[:, ECHO] == echo).all()
            and (rewards == (self._step + echo if self._step else 0)).all()
            and (terminated == (self._step == LENGTH)).all()
            and not truncated.any()
        )
        self._report.steps_checked += 1
        if not good:
            found = [array.tolist() for array in (observations, rewards, terminated, truncated)]
            self._report.violations.append(f"step {self._step}: found {found}, {infos}")


class Pool:
    """A broker and one supervisor."""

    def __init__(self, directory: Path, address: str, workers: int, keys: Path | None) -> None:
        self.address = address
        self._directory = directory
        self._environment = {**os.environ, **({} if keys is None else {p.KEYS_VARIABLE: str(keys)})}
        self.broker = self._start("broker", "zmqcarla.broker", "--address", address)
        self.supervisor = start_supervisor(directory, address, workers, self._environment)

    def _start(self, name: str, *arguments: str) -> psutil.Popen:
        with (self._directory / f"{name}.log").open("wb") as log:
            return psutil.Popen([sys.executable, "-m", *arguments], stderr=log, env=self._environment)

    def ready(self, workers: int) -> dict[str, Any] | None:
        try:
            status = ask_status(self.address)
        except BrokerUnavailableError:
            return None
        return status if [one["state"] for one in status["workers"]].count("ready") == workers else None

    def close(self) -> None:
        for process in (self.supervisor, self.broker):
            process.terminate()
            process.wait(20)


def start_supervisor(directory: Path, address: str, workers: int, environment: dict[str, str]) -> psutil.Popen:
    configs = [
        WorkerConfig(worker_id=f"w{index}", simulator="none", env_patterns=("soak_envs:*",)) for index in range(workers)
    ]
    config = SupervisorConfig(broker=address, workers=tuple(configs), log_directory=str(directory / "logs"))
    with (directory / "supervisor.log").open("wb") as log:
        return psutil.Popen([sys.executable, "-m", "zmqcarla.workers", config.to_json()], stderr=log, env=environment)


def knock(port: int, rng: random.Random) -> None:
    """Raw bytes at the door, sometimes after the first bytes of a ZMTP greeting."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as raw:
        greeting = b"\xff" + bytes(8) + b"\x7f\x03\x00CURVE".ljust(22, b"\0") + bytes(32)
        raw.sendall(greeting[: rng.choice([0, 10, 12, 64])] + rng.randbytes(rng.choice([1, 64, 5000])))


def fuzz_broker(directory: Path, messages: int, seed: int, keys: tuple[Path, Path] | None, advance: Any) -> Report:
    """Send messages to a broker, ours or (with keys) a stranger's, while two rows step."""
    report = Report("ipc broker" if keys is None else "tcp broker with keys")
    port = free_port()
    address = f"ipc://{directory}/fuzz.sock" if keys is None else f"tcp://127.0.0.1:{port}"
    context: zmq.Context[Any] = zmq.Context()
    peer = context.socket(zmq.DEALER)
    peer.linger = 0
    peer.sndtimeo = int(DEADLINE_S * 1000)
    if keys is not None:
        os.environ[p.KEYS_VARIABLE] = str(keys[0])
        KeyFolder(keys[1]).secure_client(peer)
    pool = Pool(directory, address, 3, None if keys is None else keys[0])
    try:
        status = wait_for(lambda: pool.ready(3), "the workers")
        driver = Driver(address, 2, report)
        known = [driver.lease._lease_id] if keys is not None else []  # pyright: ignore
        names = [worker["worker_id"] for worker in status["workers"]] if keys is not None else []
        fuzzer = Fuzzer(seed, known, names)
        processes = {f"env process {one['worker_id']}": psutil.Process(one["pid"]) for one in status["workers"]}
        watched = Watched({"broker": pool.broker, "supervisor": pool.supervisor, **processes}, report)
        peer.connect(address)
        answers: collections.Counter[str] = collections.Counter()
        began_s = time.perf_counter()
        while report.messages < messages:
            for _ in range(ROUND):
                frames = fuzzer.message()
                peer.send_multipart(frames)
                report.messages += 1
                report.frames += len(frames)
                take(peer, answers, fuzzer)
            if keys is not None:
                knock(port, fuzzer.rng)
                report.raw_connections += 1
            driver.step()
            ask_status(address, DEADLINE_S)  # also waits until the broker has read what was sent
            watched.look()
            if report.messages >= WARM_UP * messages:
                watched.weigh()
            advance(ROUND)
        report.seconds, report.answers = round(time.perf_counter() - began_s, 1), dict(answers)
        check_end(driver, report, status, ask_status(address, DEADLINE_S))
        watched.judge()
        driver.vec.close()
    finally:
        peer.close()
        pool.close()
        context.term()
        os.environ.pop(p.KEYS_VARIABLE, None)
    return report


def take(peer: zmq.Socket[bytes], answers: collections.Counter[str], fuzzer: Fuzzer) -> None:
    while peer.poll(0):
        message, _ = p.from_frames(peer.recv_multipart())
        answers[message.kind] += 1
        if isinstance(message, p.Leased):
            fuzzer.learn(message.lease_id)


def check_end(driver: Driver, report: Report, before: dict[str, Any], after: dict[str, Any]) -> None:
    for _ in range(2 * LENGTH):
        driver.step()
    now = {worker["worker_id"]: worker for worker in after["workers"]}
    for worker in before["workers"]:
        found = now.get(worker["worker_id"], {})
        if any(found.get(name) != worker[name] for name in ("pid", "incarnation", "supervisor_pid", "restarts")):
            report.violations.append(f"expected {worker}, found {found}")


def fuzz_worker(directory: Path, messages: int, seed: int, advance: Any) -> Report:
    """Play the broker for a supervisor and an env process, badly; at the end they still do what they are told."""
    report = Report("worker")
    context: zmq.Context[Any] = zmq.Context()
    router = context.socket(zmq.ROUTER)
    router.linger, router.router_mandatory, router.sndtimeo = 0, True, int(DEADLINE_S * 1000)
    router.bind(f"ipc://{directory}/fuzz.sock")
    supervisor = start_supervisor(directory, f"ipc://{directory}/fuzz.sock", 1, dict(os.environ))
    answers: collections.Counter[str] = collections.Counter()
    try:
        routes, ready = meet(router)
        fuzzer = Fuzzer(seed, [bytes(16)], ["w0"])
        watched = Watched({"supervisor": supervisor, "env process": psutil.Process(ready.pid)}, report)
        began_s = time.perf_counter()
        while report.messages < messages:
            for _ in range(ROUND):
                frames = fuzzer.message()
                router.send_multipart([routes[fuzzer.rng.random() < 0.8], *frames])
                report.messages += 1
                report.frames += len(frames)
                while router.poll(0):
                    answers[p.from_frames(router.recv_multipart()[1:])[0].kind] += 1
            command(router, routes[True], report, answers)
            watched.look()
            if report.messages >= WARM_UP * messages:
                watched.weigh()
            advance(ROUND)
        report.seconds, report.answers = round(time.perf_counter() - began_s, 1), dict(answers)
        watched.judge()
    finally:
        supervisor.terminate()
        supervisor.wait(20)
        router.close()
        context.term()
    return report


def meet(router: zmq.Socket[bytes]) -> tuple[dict[bool, bytes], p.Ready]:
    """The routes of the supervisor (False) and of the env process (True), and its announcement."""
    routes: dict[bool, bytes] = {}
    ready: p.Ready | None = None
    deadline = time.monotonic() + DEADLINE_S
    while ready is None or len(routes) < 2:
        if not router.poll(1000) and time.monotonic() > deadline:
            raise SystemExit(f"waited {DEADLINE_S:g} s for supervisor and env process")
        peer, *frames = router.recv_multipart()
        message, _ = p.from_frames(frames)
        routes[isinstance(message, p.Ready)] = peer
        ready = message if isinstance(message, p.Ready) else ready
        if isinstance(message, p.Register):
            router.send_multipart([peer, p.encode(p.Welcome(message.worker_id, b"boot"))])
    return routes, ready


def command(router: zmq.Socket[bytes], route: bytes, report: Report, answers: collections.Counter[str]) -> None:
    """A lease of one step, done as if nothing had happened."""
    lease_id = os.urandom(16)
    opened = {"env_id": ENV, "kwargs": {"row": 0, "length": LENGTH}, "autoreset": "Disabled"}
    reset = {"slot": 0, "seed": 1, "options": None}
    found: Any = None
    for seq, (op, payload) in enumerate((("open", opened), ("reset", reset), ("step", [0, np.array([0.5])])), start=1):
        router.send_multipart([route, p.encode(p.RowCommand(lease_id, 0, seq, op)), p.pack(payload)])
        found = answer_to(router, lease_id, seq, answers)
    report.steps_checked += 1
    if found is None or found[0] != "ok" or found[1][:3] != [1.5, False, False]:
        report.violations.append(f"step: found {found}")


def answer_to(
    router: zmq.Socket[bytes], lease_id: bytes, seq: int, answers: collections.Counter[str]
) -> tuple[str, Any] | None:
    """Outcome and value of a command; None when it is not answered."""
    deadline = time.monotonic() + DEADLINE_S
    while router.poll(max(0, int((deadline - time.monotonic()) * 1000))):
        message, payloads = p.from_frames(router.recv_multipart()[1:])
        answers[message.kind] += 1
        if isinstance(message, p.RowReply) and (message.lease_id, message.seq) == (lease_id, seq):
            return message.outcome, p.unpack(payloads[0])
    return None


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=100_000, help="messages in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON of the report")
    options = parser.parse_args()
    share = {"ipc": 0.4, "tcp": 0.4, "worker": 0.2}
    reports: list[Report] = []
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with tempfile.TemporaryDirectory(prefix="zf-") as text, Progress(*columns, console=CONSOLE) as progress:
        os.environ["XDG_RUNTIME_DIR"] = text
        ours, theirs = Path(text, "ours"), Path(text, "theirs")
        KeyFolder(ours).make(None)
        KeyFolder(theirs).make(KeyFolder(ours).broker_key)
        KeyFolder(ours).authorize(KeyFolder(theirs).client_key, "eve")
        task = progress.add_task("messages", total=options.frames)
        for index, (target, part) in enumerate(share.items()):
            directory = Path(text, target)
            directory.mkdir()
            seed, messages = options.seed + index, int(options.frames * part)

            def advance(number: int) -> None:
                progress.advance(task, number)

            if target == "worker":
                reports.append(fuzz_worker(directory, messages, seed, advance))
            else:
                keys = (ours, theirs) if target == "tcp" else None
                reports.append(fuzz_broker(directory, messages, seed, keys, advance))
    for report in reports:
        weights = {name: (weights[0], weights[-1]) for name, weights in report.rss_mib.items()}
        CONSOLE.print({**dataclasses.asdict(report), "rss_mib": weights})
    if options.out is not None:
        options.out.write_text(json.dumps([dataclasses.asdict(report) for report in reports], indent=2))
    return int(any(report.violations for report in reports))


if __name__ == "__main__":
    sys.exit(main())
