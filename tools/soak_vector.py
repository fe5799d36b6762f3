"""Soak: many vector steps while processes of the pool are killed, stopped and continued at random.

    python tools/soak_vector.py [--steps 100000] [--envs 4] [--transport both] [--seed 0] [--minutes 60] [--fault-s 2]

Every row of every step is checked against what it must be: row number, process, episode, step counter, echo of the
action, reward, infos. A row is lost, doubled or stale when one of these is wrong. A lost worker has to repeat the last
observation once and to begin anew in another process. Memory, file descriptors, shared-memory names and processes are
looked at all the while and must not grow, and nothing may be left at the end. Exit code 1 when anything was violated.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from soak_checkers import Checker, named_segments  # noqa: E402
from soak_trouble import Trouble  # noqa: E402

from zmqcarla.broker.protocol import is_served  # noqa: E402
from zmqcarla.make import make_vec_env  # noqa: E402
from zmqcarla.vector_env import VectorEnv  # noqa: E402
from zmqcarla.workers.worker_config import SupervisorConfig, WorkerConfig  # noqa: E402

STEP_TIMEOUT_S = 5.0
CLIENT_GROWTH_MIB = 16.0
SAMPLE_S = 2.0
FAULTS = {
    "kill env process": 6,
    "stop env process": 4,
    "kill supervisor": 1,
    "stop supervisor": 1,
    "kill broker": 1,
    "stop broker": 1,
}
"""How often each is chosen, relative to the others."""
CONSOLE = Console()


class Pool:
    """A broker and a supervisor without a limit on restarts; `tend` starts again what died."""

    def __init__(self, envs: int, directory: Path) -> None:
        self.address = f"ipc://{directory}/broker.sock"
        workers = tuple(
            [
                WorkerConfig(
                    worker_id=f"soak-{row}",
                    simulator="none",
                    env_patterns=("soak_envs:*",),
                    step_timeout_s=STEP_TIMEOUT_S,
                    max_restarts=10**6,
                    stable_start_s=0.0,
                )
                for row in range(envs)
            ]
        )
        config = SupervisorConfig(broker=self.address, workers=workers, log_directory=str(directory / "logs"))
        self._commands = {
            "broker": ["zmqcarla.broker", "--address", self.address],
            "supervisor": ["zmqcarla.workers", config.to_json()],
        }
        self._processes: dict[str, psutil.Popen] = {}
        self.tend()

    def tend(self) -> None:
        """Start what does not run."""
        for name, command in self._commands.items():
            if name not in self._processes or self._processes[name].poll() is not None:
                started = psutil.Popen(
                    [sys.executable, "-m", *command], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
                )
                self._processes[name] = started

    def victims(self, kind: str) -> list[psutil.Process]:
        """The broker, the supervisor, or the env processes."""
        return [self._processes[kind]] if kind in self._processes else self._processes["supervisor"].children()

    def describe(self, kind: str, victim: psutil.Process) -> dict[str, Any]:
        """Nothing: nobody looks for it in a ledger."""
        return {}

    def close(self) -> None:
        """End both."""
        for process in reversed(self._processes.values()):
            with contextlib.suppress(psutil.Error):
                process.send_signal(signal.SIGCONT)
                process.terminate()
            process.wait(20)


class Resources:
    """What this process and the pool use, sampled while the soak runs."""

    def __init__(self, envs: int) -> None:
        self.samples: list[dict[str, float]] = []
        self._envs = envs
        self._me = psutil.Process()
        self._next_at = 0.0
        self.segments = named_segments()

    def sample(self, *, now: bool = False) -> None:
        """Take a sample when one is due."""
        if time.monotonic() < self._next_at and not now:
            return
        self._next_at = time.monotonic() + SAMPLE_S
        names = [path.name for path in Path("/dev/shm").iterdir()]
        self.samples.append(
            {
                "client_mib": self._me.memory_info().rss / 2**20,
                "client_fds": self._me.num_fds(),
                "processes": len(self._me.children(recursive=True)),
                "shm_names": sum(any(segment in name for segment in self.segments) for name in names),
            }
        )

    def spread(self, key: str) -> tuple[float, float]:
        """Medians of the first third and the last third, after a warm-up."""
        values = [sample[key] for sample in self.samples[len(self.samples) // 10 :]]
        third = max(len(values) // 3, 1)
        return float(np.median(values[:third])), float(np.median(values[-third:]))

    def violations(self) -> list[str]:
        """What grew."""
        allowed = {"client_mib": CLIENT_GROWTH_MIB, "client_fds": 0.0, "processes": 0.0, "shm_names": 0.0}
        found: list[str] = []
        for key, growth in allowed.items():
            first, last = self.spread(key)
            if last > first + growth:
                found.append(f"{key} grew from {first:.1f} to {last:.1f}")
        most = max(sample["processes"] for sample in self.samples)
        if most > 2 * (self._envs + 2):  # the dying and their successors
            found.append(f"expected at most {2 * (self._envs + 2)} processes, found {most:.0f}")
        return found


def soak(transport: Any, options: argparse.Namespace) -> dict[str, Any]:
    """One run over one transport; returns its report."""
    with tempfile.TemporaryDirectory(prefix="soak-") as directory:
        pool = Pool(options.envs, Path(directory))
        try:
            while not is_served(pool.address):
                time.sleep(0.05)
            lengths = [40 + 7 * row for row in range(options.envs)]
            kwargs = [{"row": row, "length": length} for row, length in enumerate(lengths)]
            vec = make_vec_env(options.envs, "soak_envs:Soak-v0", kwargs, pool.address, transport=transport)
            report = _run(vec, pool, lengths, transport, options)
        finally:
            pool.close()
    left = [path.name for path in Path("/dev/shm").iterdir() if any(name in path.name for name in report["segments"])]
    alive = [process for process in psutil.Process().children(recursive=True) if process.status() != "zombie"]
    if left or alive:
        report["violations"].append(f"left behind: /dev/shm {left}, processes {alive}")
    return report


def _run(vec: VectorEnv, pool: Pool, lengths: list[int], transport: str, options: argparse.Namespace) -> dict[str, Any]:
    draw = np.random.default_rng(options.seed)
    checker = Checker(lengths, vec.reset(seed=options.seed)[0])
    resources = Resources(options.envs)
    trouble = Trouble(pool, FAULTS, options.seed, options.fault_s, lambda _, draw: draw.expovariate(2.0))
    trouble.start()
    began = time.monotonic()
    done = 0
    step_s: list[tuple[float, float]] = []
    try:
        with _progress() as progress:
            task = progress.add_task(transport, total=options.steps, found=0, lost=0)
            while done < options.steps and time.monotonic() - began < 60 * options.minutes:
                actions = draw.uniform(-1, 1, (options.envs, 1))
                sent_at = time.time()
                result = vec.step(actions)
                step_s.append((time.time() - sent_at, sent_at))
                checker.check(done, actions, result)
                done += 1
                resources.sample()
                progress.update(task, completed=done, found=len(checker.violations), lost=checker.losses)
    except Exception:
        checker.violations.append(f"step {done} raised:\n{traceback.format_exc()}")
    finally:
        trouble.end()
        resources.sample(now=True)
        with contextlib.suppress(Exception):
            vec.close()
    resource = {key: resources.spread(key) for key in resources.samples[0]}
    return {
        "transport": transport,
        "envs": options.envs,
        "seed": options.seed,
        "steps": done,
        "seconds": time.monotonic() - began,
        "row_steps_checked": done * options.envs,
        "episodes": checker.episodes,
        "rows_lost": checker.losses,
        "faults": dict(collections.Counter(fault["fault"] for fault in trouble.done)),
        "slowest_steps": _slowest(step_s, trouble.done),
        "step_ms": {
            name: 1e3 * float(np.percentile([took_s for took_s, _ in step_s] or [0.0], q))
            for name, q in (("p50", 50), ("p99", 99), ("max", 100))
        },
        "resources_first_and_last_third": resource,
        "segments": sorted(resources.segments),
        "violations": checker.violations + resources.violations(),
    }


def _slowest(step_s: list[tuple[float, float]], faults: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The five longest steps, and what struck from a while before each until its end."""
    return [
        {
            "step": step_s.index((took_s, sent_at)),
            "seconds": took_s,
            "faults": [
                f"{one['at'] - sent_at:+.1f} s {one['fault']}" for one in faults if -3 < one["at"] - sent_at < took_s
            ],
        }
        for took_s, sent_at in sorted(step_s, reverse=True)[:5]
    ]


def _progress() -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("steps, {task.fields[lost]} rows lost, {task.fields[found]} violations"),
        TimeElapsedColumn(),
    )
    return Progress(*columns, console=CONSOLE, refresh_per_second=2)


def _table(reports: list[dict[str, Any]]) -> Table:
    table = Table("", *[report["transport"] for report in reports], title="soak")
    rows: dict[str, Callable[[dict[str, Any]], str]] = {
        "steps": lambda report: f"{report['steps']} in {report['seconds']:.0f} s",
        "rows checked": lambda report: str(report["row_steps_checked"]),
        "step p50 / p99 / max": lambda report: " / ".join(f"{value:.1f} ms" for value in report["step_ms"].values()),
        "episodes": lambda report: str(report["episodes"]),
        "rows lost": lambda report: str(report["rows_lost"]),
    }
    for name, show in rows.items():
        table.add_row(name, *[show(report) for report in reports])
    table.add_section()
    for fault in FAULTS:
        table.add_row(fault, *[str(report["faults"].get(fault, 0)) for report in reports])
    table.add_section()
    for key in reports[0]["resources_first_and_last_third"]:
        spreads = [report["resources_first_and_last_third"][key] for report in reports]
        table.add_row(key, *[f"{first:.1f} -> {last:.1f}" for first, last in spreads])
    table.add_section()
    table.add_row("violations", *[str(len(report["violations"])) for report in reports])
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100_000, help="vector steps a transport")
    parser.add_argument("--envs", type=int, default=4)
    parser.add_argument("--transport", choices=("shm", "zmq", "both"), default="both")
    parser.add_argument("--seed", type=int, default=0, help="of actions and faults; when they strike is the machine's")
    parser.add_argument("--minutes", type=float, default=60.0, help="an end for each transport, steps done or not")
    parser.add_argument("--fault-s", type=float, default=2.0, help="mean time between two faults")
    parser.add_argument("--out", type=Path, default=Path("runs/soak_vector.json"))
    options = parser.parse_args()
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    transports = ("shm", "zmq") if options.transport == "both" else (options.transport,)
    reports = [soak(transport, options) for transport in transports]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(reports, indent=1))
    CONSOLE.print(_table(reports))
    for report in reports:
        for violation in report["violations"][:20]:
            CONSOLE.print(f"{report['transport']}: {violation}", style="red", markup=False)
    CONSOLE.print(f"raw data in {options.out}")
    return int(any(report["violations"] for report in reports))


if __name__ == "__main__":
    sys.exit(main())
