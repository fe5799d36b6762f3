"""Soak of a whole pool: `zmqcarla up` with 8 embedded workers, two training clients, and trouble all the while.

    python tools/soak.py [--minutes 5] [--workers 8] [--seed 0] [--fault-s 6] [--out runs/soak]

Env processes, simulators, supervisor and broker are killed (SIGKILL), stopped and continued (SIGSTOP, SIGCONT) at
random, and workers are restarted by order. One client steps envs whose observations name row, process, episode, step
and action; the other drives cars. Checked, exit code 1 when anything was violated:

* no step of any row is lost, doubled or stale, a lost row repeats its last observation once (tools/soak_client.py);
* every kill, and every loss that a client was told of, stands in the ledger (`zmqcarla events`);
* processes, file descriptors, memory and shared-memory names do not grow;
* SIGTERM ends the pool, and of all processes, segments and sockets nothing is left.

Writes soak.json and soak.png into --out.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil
from rich.console import Console

from zmqcarla.broker.errors import ZmqCarlaError
from zmqcarla.lease import ask_status
from zmqcarla.orders import give_order

HERE = Path(__file__).parent
CONSOLE = Console()
FAULTS: Final = {
    "kill env process": 6,
    "stop env process": 4,
    "kill simulator": 4,
    "stop simulator": 3,
    "kill supervisor": 1,
    "stop supervisor": 1,
    "kill broker": 1,
    "stop broker": 1,
    "restart worker": 2,
}
"""How often each is chosen, relative to the others."""
SETTINGS: Final = """
[pool]
workers = {workers}
base_port = {base_port}
start_interval_s = 0.5
[worker]
simulator = "embedded"
env_patterns = ["zmqcarla/*", "soak_envs:*"]
step_timeout_s = 15.0
max_restarts = 1000000
stable_start_s = 0.0
"""
SAMPLE_S: Final = 2.0
STOP_WITHIN_S: Final = 15.0
LEDGER_LAG_S: Final = 120.0
GROWTH: Final = {"clients_mib": 24.0, "pool_mib": 24.0, "fds": 8.0, "segments": 0.0}
"""How much more the last third may show than the first."""


class Pool:
    """`zmqcarla up` in a runtime directory of its own; knows its processes by what they run."""

    def __init__(self, directory: Path, workers: int, base_port: int) -> None:
        settings = directory / "pool.toml"
        settings.write_text(SETTINGS.format(workers=workers, base_port=base_port))
        self.address = f"ipc://{directory}/broker.sock"
        self.log = directory / "up.log"
        self.ledger = directory / "zmqcarla" / "events.jsonl"
        command = [sys.executable, "-m", "zmqcarla.cli", "up", "--config", str(settings), "--address", self.address]
        with self.log.open("wb") as log:
            self.up = psutil.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        self.seen: dict[int, float] = {}
        self.segments: set[str] = set()
        self._worker_at: dict[str, str] = {}

    def wait_ready(self, workers: int, timeout_s: float) -> None:
        """Until all are ready."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and self.up.poll() is None:
            with contextlib.suppress(ZmqCarlaError):
                status = ask_status(self.address)["workers"]
                states = [worker["state"] for worker in status]
                if states.count("ready") == workers:
                    self._worker_at = {str(one["port"]): one["worker_id"] for one in status}
                    return
            time.sleep(0.5)
        raise SystemExit(f"the pool did not come up:\n{self.log.read_text()}")

    def processes(self) -> dict[str, list[psutil.Process]]:
        """Those that live now, by kind; all are remembered."""
        kinds: dict[str, list[psutil.Process]] = collections.defaultdict(list)
        with contextlib.suppress(psutil.Error):
            for process in self.up.children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    self.seen[process.pid] = process.create_time()
                    words = process.cmdline()
                    if process.status() == psutil.STATUS_ZOMBIE or not words:
                        continue
                    kinds[_kind(words)].append(process)
        return kinds

    def worker_of(self, process: psutil.Process) -> str:
        """The worker of an env process or simulator; empty for others."""
        words = process.cmdline()
        match _kind(words):
            case "env process":
                return str(json.loads(words[-1])["worker_id"])
            case "simulator":
                return self._worker_at[words[words.index("--port") + 1]]
            case _:
                return ""

    def left(self) -> list[int]:
        """Processes of this pool that live though it has ended."""
        return [
            pid
            for pid, created in self.seen.items()
            if psutil.pid_exists(pid)
            and psutil.Process(pid).create_time() == created
            and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        ]

    def events(self) -> list[dict[str, Any]]:
        """The ledger."""
        paths = [self.ledger.with_name("events.jsonl.1"), self.ledger]
        lines = [line for path in paths if path.exists() for line in path.read_text().splitlines()]
        return [
            {**json.loads(line), "at": datetime.fromisoformat(json.loads(line)["time"]).timestamp()} for line in lines
        ]


def _kind(words: list[str]) -> str:
    """What a command line runs; a simulator's guard, whose words end with the simulator's, counts as one."""
    modules = {
        "zmqcarla.broker": "broker",
        "zmqcarla.workers": "supervisor",
        "zmqcarla.workers.env_process": "env process",
        "zmqcarla.sim": "simulator",
    }
    return next((modules[word] for word in words if word in modules), "other")


class Trouble(threading.Thread):
    """Kills, stops, continues and restarts, at random times, until told to end."""

    def __init__(self, pool: Pool, seed: int, mean_s: float) -> None:
        super().__init__(name="trouble", daemon=True)
        self.done: list[dict[str, Any]] = []
        self._pool, self._mean_s = pool, mean_s
        self._draw = random.Random(seed)
        self._end = threading.Event()
        self._stopped: list[tuple[float, psutil.Process]] = []

    def run(self) -> None:
        """Trouble, until the end."""
        next_at = time.monotonic() + self._mean_s
        while not self._end.wait(0.02):
            now = time.monotonic()
            self._continue(now)
            if now >= next_at:
                next_at = now + self._draw.expovariate(1 / self._mean_s)
                with contextlib.suppress(psutil.Error, ZmqCarlaError, ValueError, OSError):
                    self._do(self._draw.choices(list(FAULTS), list(FAULTS.values()))[0], now)
        self._continue(float("inf"))

    def end(self) -> None:
        """Continue what is stopped, and end."""
        self._end.set()
        self.join()

    def _do(self, fault: str, now: float) -> None:
        deed, _, kind = fault.partition(" ")
        if deed == "restart":
            workers = ask_status(self._pool.address)["workers"]
            if not workers:  # broker and supervisor have both just begun
                return
            worker_id = self._draw.choice(workers)["worker_id"]
            give_order(self._pool.address, "restart", [worker_id])
            self.done.append({"at": time.time(), "fault": fault, "worker": worker_id})
            return
        victims = self._pool.processes()[kind]
        if not victims:
            return
        victim = self._draw.choice(victims)
        worker = self._pool.worker_of(victim)
        if deed == "kill":
            victim.kill()
        else:
            victim.suspend()
            self._stopped.append((now + self._draw.expovariate(0.5), victim))
        self.done.append({"at": time.time(), "fault": fault, "worker": worker, "pid": victim.pid})

    def _continue(self, now: float) -> None:
        for due_at, process in self._stopped:
            if due_at <= now:
                with contextlib.suppress(psutil.Error):
                    process.resume()
        self._stopped = [(due_at, process) for due_at, process in self._stopped if due_at > now]


class Client:
    """A process of `soak_client.py`, and what it said last."""

    def __init__(self, kind: str, address: str, rows: int, directory: Path) -> None:
        self.kind = kind
        self.out = directory / f"{kind}.json"
        self.last: dict[str, Any] = {}
        self._log = (directory / f"{kind}.log").open("wb")
        command = [sys.executable, str(HERE / "soak_client.py"), kind, address, str(rows), str(self.out)]
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
            return {"kind": self.kind, "steps": 0, "losses": [], "violations": [f"it did not end in {timeout_s:g} s"]}
        finally:
            self._reader.join(10)
            self._log.close()
        report: dict[str, Any] = json.loads(self.out.read_text())
        return report


def sample(pool: Pool, clients: list[Client]) -> dict[str, float]:
    """What pool and clients use now."""
    kinds = pool.processes()
    lasting = [pool.up, *kinds["broker"], *kinds["supervisor"]]
    found: dict[str, float] = {"processes": sum(map(len, kinds.values())), "pool_mib": 0.0, "fds": 0.0}
    for process in lasting:
        with contextlib.suppress(psutil.Error):
            found["pool_mib"] += process.memory_info().rss / 2**20
            found["fds"] += process.num_fds()
    for client in clients:
        with contextlib.suppress(OSError):
            maps = Path(f"/proc/{client.process.pid}/maps").read_text().split()
            pool.segments |= {Path(word).name for word in maps if word.startswith("/dev/shm/zmqcarla-")}
    found["segments"] = sum(any(name in path.name for name in pool.segments) for path in Path("/dev/shm").iterdir())
    found["clients_mib"] = sum(client.last.get("mib", 0.0) for client in clients)
    for client in clients:
        found[f"{client.kind}_steps"] = client.last.get("steps", 0)
        found[f"{client.kind}_losses"] = client.last.get("losses", 0)
    return found


def growth_violations(samples: list[dict[str, float]], workers: int) -> list[str]:
    """What grew from the first third to the last, after a warm-up."""
    found: list[str] = []
    later = samples[len(samples) // 10 :]
    third = max(len(later) // 3, 1)
    for key, allowed in GROWTH.items():
        first, last = (float(np.median([one[key] for one in part])) for part in (later[:third], later[-third:]))
        if last > first + allowed:
            found.append(f"{key} grew from {first:.1f} to {last:.1f}")
    most = max(one["processes"] for one in samples)
    if most > 2 * (3 * workers + 2):
        found.append(f"expected at most {2 * (3 * workers + 2)} processes, found {most:.0f}")
    return found


def ledger_violations(
    faults: list[dict[str, Any]], losses: list[dict[str, Any]], events: list[dict[str, Any]]
) -> list[str]:
    """Kills and losses of which the ledger says nothing."""
    found: list[str] = []

    def noted(at: float, *whats: str, worker: str = "") -> bool:
        return any(
            event["what"] in whats and at - 1 <= event["at"] <= at + LEDGER_LAG_S and worker in ("", event["worker_id"])
            for event in events
        )

    for fault in faults:
        match fault["fault"]:
            case "kill supervisor":
                good = noted(fault["at"], "supervisor_restarted")
            case "kill broker":
                good = noted(fault["at"], "broker_restarted", "supervisor_restarted")
            case "kill env process" | "kill simulator" | "restart worker":
                good = noted(fault["at"], "lost", "server_failed", worker=fault["worker"])
                good = good or noted(fault["at"], "supervisor_restarted")
            case _:
                good = True
        if not good:
            found.append(f"the ledger says nothing of {fault}")
    for loss in losses:
        at = loss["at"] - LEDGER_LAG_S
        if not (noted(at, "lost", worker=loss["worker_id"]) or noted(at, "supervisor_restarted")):
            found.append(f"the ledger says nothing of {loss}")
    return found


def soak(options: argparse.Namespace, directory: Path) -> dict[str, Any]:
    """One run; returns its report."""
    pool = Pool(directory, options.workers, options.base_port)
    samples: list[dict[str, float]] = []
    try:
        pool.wait_ready(options.workers, 240)
        rows = (options.workers - options.spares) // 2
        clients = [Client(kind, pool.address, rows, directory) for kind in ("counting", "carla")]
        trouble = Trouble(pool, options.seed, options.fault_s)
        began, began_at = time.monotonic(), time.time()
        while not all(client.last for client in clients):
            if any(client.process.poll() is not None for client in clients) or time.monotonic() - began > 240:
                break
            time.sleep(0.2)
        trouble.start()
        end_at = time.monotonic() + 60 * options.minutes
        next_line = 0.0
        while time.monotonic() < end_at and trouble.is_alive() and all(one.process.poll() is None for one in clients):
            samples.append({"at": time.time() - began_at, **sample(pool, clients)})
            if time.monotonic() >= next_line:
                next_line = time.monotonic() + 30
                CONSOLE.print({name: round(value, 1) for name, value in samples[-1].items()}, soft_wrap=True)
            time.sleep(SAMPLE_S)
        ended_early = time.monotonic() < end_at
        trouble.end()
        reports = [client.end(300) for client in clients]
        samples.append({"at": time.time() - began_at, **sample(pool, clients)})
        events = pool.events()
    finally:
        stop_began = time.monotonic()
        pool.processes()
        with contextlib.suppress(psutil.Error):
            pool.up.send_signal(signal.SIGTERM)
        with contextlib.suppress(psutil.TimeoutExpired):
            pool.up.wait(60)
        stop_s = time.monotonic() - stop_began
    violations = [f"{report['kind']}: {text}" for report in reports for text in report["violations"]]
    losses = [loss for report in reports for loss in report["losses"]]
    violations += growth_violations(samples, options.workers) + ledger_violations(trouble.done, losses, events)
    violations += _left_behind(pool, directory, stop_s)
    if ended_early:
        violations.append("it ended early: the trouble or a client has died; see the output")
    return {
        "minutes": (time.time() - began_at) / 60,
        "workers": options.workers,
        "seed": options.seed,
        "faults": dict(collections.Counter(fault["fault"] for fault in trouble.done)),
        "fault_list": [{**fault, "at": fault["at"] - began_at} for fault in trouble.done],
        "clients": [{key: value for key, value in report.items() if key != "losses"} for report in reports],
        "rows_lost": len(losses),
        "events": dict(collections.Counter(event["what"] for event in events)),
        "stop_s": stop_s,
        "samples": samples,
        "violations": violations,
    }


def _left_behind(pool: Pool, directory: Path, stop_s: float) -> list[str]:
    found: list[str] = []
    if stop_s > STOP_WITHIN_S or pool.up.poll() is None:
        found.append(f"expected the pool to end within {STOP_WITHIN_S:g} s of SIGTERM, found {stop_s:.1f} s")
    deadline = time.monotonic() + 10
    while pool.left() and time.monotonic() < deadline:
        time.sleep(0.1)
    segments = [path.name for path in Path("/dev/shm").iterdir() if any(name in path.name for name in pool.segments)]
    sockets = [path.name for path in directory.rglob("*.sock*")]
    if pool.left() or segments or sockets:
        found.append(f"left behind: processes {pool.left()}, segments {segments}, sockets {sockets}")
    return found


def plot(report: dict[str, Any], path: Path) -> None:
    """Steps per second, memory and processes over time, with the faults."""
    import matplotlib  # noqa: PLC0415 - an extra

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt  # noqa: PLC0415

    at = np.array([one["at"] for one in report["samples"]]) / 60
    figure, axes = plt.subplots(3, 1, figsize=(12, 9), sharex=True, constrained_layout=True)
    for kind, colour in (("counting", "tab:blue"), ("carla", "tab:orange")):
        steps = np.array([one[f"{kind}_steps"] for one in report["samples"]])
        seconds = np.maximum(np.diff(at) * 60, 1e-6)
        axes[0].step(at[1:], np.maximum(np.diff(steps), 0) / seconds + 0.1, where="pre", color=colour, label=kind, lw=1)
    axes[0].set(ylabel="vector steps/s", yscale="log", title=_headline(report))
    for key, label in (("clients_mib", "clients"), ("pool_mib", "up, broker, supervisor")):
        axes[1].plot(at, [one[key] for one in report["samples"]], label=label, lw=1)
    axes[1].set(ylabel="resident MiB", ylim=(0, None))
    for key, label in (
        ("processes", "processes"),
        ("fds", "file descriptors of the pool"),
        ("segments", "/dev/shm names"),
    ):
        axes[2].plot(at, [one[key] for one in report["samples"]], label=label, lw=1)
    axes[2].set(ylabel="count", xlabel="minutes", ylim=(0, None))
    colours = dict(zip(("kill", "stop", "restart"), ("tab:red", "tab:gray", "tab:green"), strict=True))
    for fault in report["fault_list"]:
        deed, _, kind = fault["fault"].partition(" ")
        for axis in axes:
            thick = 1.4 if kind in ("supervisor", "broker") else 0.5
            axis.axvline(fault["at"] / 60, color=colours[deed], alpha=0.35, lw=thick, zorder=0)
    for axis in axes:
        axis.legend(loc="upper right", fontsize=8)
        axis.grid(alpha=0.2)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _headline(report: dict[str, Any]) -> str:
    return (
        f"{report['workers']} workers, {report['minutes']:.1f} minutes, {sum(report['faults'].values())} faults "
        f"(red killed, gray stopped, green restarted; thick: broker, supervisor), {report['rows_lost']} rows lost, "
        f"{len(report['violations'])} violations"
    )


def main() -> int:
    """Run, write, say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--spares", type=int, default=0, help="workers that no client leases")
    parser.add_argument("--seed", type=int, default=0, help="of the faults; when they strike is the machine's")
    parser.add_argument("--fault-s", type=float, default=6.0, help="mean time between two faults")
    parser.add_argument("--base-port", type=int, default=26200)
    parser.add_argument("--out", type=Path, default=Path("runs/soak"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="soak-", ignore_cleanup_errors=True) as name:
        os.environ["XDG_RUNTIME_DIR"] = name
        os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
        report = soak(options, Path(name))
        if report["violations"]:
            logs = options.out / "logs"
            logs.mkdir(exist_ok=True)
            for path in [*Path(name).rglob("*.log"), *Path(name).rglob("events.jsonl*")]:
                (logs / path.name).write_bytes(path.read_bytes())
    (options.out / "soak.json").write_text(json.dumps(report, indent=1))
    plot(report, options.out / "soak.png")
    CONSOLE.print({key: report[key] for key in ("minutes", "faults", "events", "rows_lost", "stop_s")})
    for client in report["clients"]:
        CONSOLE.print({key: value for key, value in client.items() if key not in ("violations", "segments")})
    for violation in report["violations"][:30]:
        CONSOLE.print(violation, style="red", markup=False, soft_wrap=True)
    CONSOLE.print(f"{len(report['violations'])} violations; raw data in {options.out}")
    return int(bool(report["violations"]))


if __name__ == "__main__":
    sys.exit(main())
