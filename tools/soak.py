"""Soak of a whole pool: `zmqcarla up` with 8 embedded workers, two training clients, and trouble all the while.

    python tools/soak.py [--minutes 5] [--workers 8] [--spares 0] [--seed 0] [--fault-s 6] [--out runs/soak]

Env processes, simulators, their guards, supervisor and broker are killed (SIGKILL), stopped and continued (SIGSTOP,
SIGCONT) at random, and workers are restarted by order. One client steps envs whose observations name row, process,
episode, step and action; the other drives cars. Checked, exit code 1 when anything was violated:

* no step of any row is lost, doubled or stale, a lost row repeats its last observation once (tools/soak_checkers.py);
* every fault that had to cause something stands in the ledger (`zmqcarla events`), every line there has its fault, and
  every loss that a client was told of stood there before; nobody was told of one loss twice (tools/soak_ledger.py);
* processes, file descriptors, memory and shared-memory names are at the end what they were at the start, within limits
  (tools/soak_report.py);
* SIGTERM ends the pool, and of all processes, segments and sockets nothing is left.

Writes soak.json and soak.png into --out, and the logs of the pool when anything was violated.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import psutil
from rich.console import Console

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from soak_ledger import MUST_TELL_S, Books  # noqa: E402
from soak_pool import Client, Pool, sample  # noqa: E402
from soak_report import client_table, fault_table, growth, growth_table, growth_violations, plot  # noqa: E402
from soak_trouble import Trouble  # noqa: E402

CONSOLE = Console()
FAULTS: Final = {
    "kill env process": 6,
    "stop env process": 4,
    "kill simulator": 4,
    "stop simulator": 3,
    "kill guard": 1,
    "stop guard": 1,
    "kill supervisor": 1,
    "stop supervisor": 1,
    "kill broker": 1,
    "stop broker": 1,
    "restart worker": 2,
}
"""How often each is chosen, relative to the others."""
LONG_STOPS: Final = 0.25
"""Share of stops of env processes and simulators that are too long to pass unnoticed."""
LONGEST_SHORT_STOP_S: Final = 8.0
QUIET_S: Final = 12.0
"""How long pool and clients are measured before and after the trouble."""
SAMPLE_S: Final = 2.0
START_WITHIN_S: Final = 240.0
SETTLE_WITHIN_S: Final = 120.0
STOP_WITHIN_S: Final = 10.0
CALM_STEPS: Final = 50


def stop_s(kind: str, draw: random.Random) -> float:
    """For how long a process is stopped. Broker and supervisor are believed dead after 30 s, so never for long."""
    if kind in ("env process", "simulator") and draw.random() < LONG_STOPS:
        return MUST_TELL_S + 2 + draw.expovariate(1.0)
    return min(draw.expovariate(0.5), LONGEST_SHORT_STOP_S)


class Run:
    """One soak: pool, clients, trouble, and what was seen of them."""

    def __init__(self, options: argparse.Namespace, directory: Path) -> None:
        self.options, self.directory = options, directory
        self.pool = Pool(directory, options.workers, options.base_port)
        self.samples: list[dict[str, float]] = []
        self.violations: list[str] = []
        self.reports: list[dict[str, Any]] = []
        self.trouble = Trouble(
            self.pool, FAULTS, options.seed, options.fault_s, stop_s, {"restart worker": self.pool.restart}
        )
        self._clients: list[Client] = []

    def go(self) -> dict[str, Any]:
        """Start, trouble, settle, stop; returns the report."""
        began_at = time.time()
        quiet: list[list[dict[str, float]]] = [[], []]
        try:
            if not self.pool.wait_ready(START_WITHIN_S):
                raise SystemExit(f"the pool did not come up:\n{self.pool.log.read_text()}")
            rows = (self.options.workers - self.options.spares) // 2
            self._clients = [Client(kind, self.pool.address, rows, self.directory) for kind in ("counting", "carla")]
            self._calm(START_WITHIN_S)
            quiet[0] = self._watch(QUIET_S)
            self.trouble.start()
            self._watch(60 * self.options.minutes)
            if not self.trouble.is_alive():
                self.violations.append("the trouble has died; see the output")
            self.trouble.end()
            self._calm(SETTLE_WITHIN_S)
            quiet[1] = self._watch(QUIET_S)
            self.reports = [client.end(SETTLE_WITHIN_S) for client in self._clients]
        finally:
            took_s = self._stop()
        self._look_behind(took_s)
        return self._report(began_at, growth(*quiet), took_s)

    def _calm(self, within_s: float) -> None:
        """Wait until all workers are ready and all rows step."""
        deadline = time.monotonic() + within_s
        good = self.pool.wait_ready(within_s)
        before = [client.last.get("steps", 0) for client in self._clients]
        while good and any(
            client.last.get("steps", 0) < steps + CALM_STEPS
            for client, steps in zip(self._clients, before, strict=True)
        ):
            good = time.monotonic() < deadline and all(client.process.poll() is None for client in self._clients)
            time.sleep(0.2)
        if not good:
            self.violations.append(f"expected all workers ready and both clients stepping within {within_s:g} s")

    def _watch(self, seconds: float) -> list[dict[str, float]]:
        """Sample for a while; ends early when a client does."""
        first = len(self.samples)
        end = time.monotonic() + seconds
        next_line = time.monotonic() + 30
        while time.monotonic() < end and all(client.process.poll() is None for client in self._clients):
            self.samples.append(sample(self.pool, self._clients))
            if time.monotonic() >= next_line:
                next_line += 30
                self._say()
            time.sleep(SAMPLE_S)
        return self.samples[first:]

    def _say(self) -> None:
        now = self.samples[-1]
        told = [
            f"{one.kind} {one.last.get('steps', 0)} steps, {one.last.get('losses', 0)} lost" for one in self._clients
        ]
        minutes = (now["at"] - self.samples[0]["at"]) / 60
        CONSOLE.print(f"{minutes:5.1f} min: {len(self.trouble.done)} faults; {'; '.join(told)}", soft_wrap=True)

    def _stop(self) -> float:
        """End the pool by SIGTERM, and everything else; seconds that the pool took."""
        began = time.monotonic()
        self.pool.processes()
        with contextlib.suppress(psutil.Error):
            self.pool.up.send_signal(signal.SIGTERM)
        with contextlib.suppress(psutil.TimeoutExpired):
            self.pool.up.wait(60)
        took_s = time.monotonic() - began
        for client in self._clients:
            if client.process.poll() is None:
                client.process.kill()
        return took_s

    def _look_behind(self, took_s: float) -> None:
        if took_s > STOP_WITHIN_S or self.pool.up.poll() is None:
            text = f"expected the pool to end within {STOP_WITHIN_S:g} s of SIGTERM, found {took_s:.1f} s"
            self.violations.append(text)
        deadline = time.monotonic() + 10
        while self.pool.left() and time.monotonic() < deadline:
            time.sleep(0.1)
        segments = [
            one.name for one in Path("/dev/shm").iterdir() if any(name in one.name for name in self.pool.segments)
        ]
        sockets = [path.name for path in self.directory.rglob("*.sock*")]
        if self.pool.left() or segments or sockets:
            text = f"left behind: processes {self.pool.left()}, segments {segments}, sockets {sockets}"
            self.violations.append(text)

    def _report(self, began_at: float, grown: dict[str, Any], took_s: float) -> dict[str, Any]:
        faults, events = self.trouble.done, self.pool.events()
        losses = [loss for report in self.reports for loss in report["losses"]]
        idle = {worker for report in self.reports if report["kind"] == "counting" for worker in report["workers"]}
        everyone = {fault["worker"] for fault in faults if fault["worker"]}
        account = Books(faults, events, losses, everyone - idle).settle()
        told = [f"{report['kind']}: {text}" for report in self.reports for text in report["violations"]]
        return {
            "minutes": (self.samples[-1]["at"] - self.samples[0]["at"]) / 60,
            "workers": self.options.workers,
            "seed": self.options.seed,
            "faults": dict(collections.Counter(fault["fault"] for fault in faults)),
            "fault_list": [{**fault, "at": fault["at"] - began_at} for fault in faults],
            "ledger": {"found": account.found, "hidden": account.hidden, "harmless": account.harmless},
            "clients": [{**one, "losses": None, "lost": len(one["losses"])} for one in self.reports],
            "losses": losses,
            "rows_lost": len(losses),
            "events": dict(collections.Counter(event["what"] for event in events)),
            "growth": grown,
            "stop_s": took_s,
            "samples": [{**one, "at": one["at"] - began_at} for one in self.samples],
            "violations": [*self.violations, *told, *account.violations, *growth_violations(grown)],
        }


def main() -> int:
    """Run, write, say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0, help="of trouble")
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
        report = Run(options, Path(name)).go()
        if report["violations"]:
            logs = options.out / "logs"
            logs.mkdir(exist_ok=True)
            for path in [*Path(name).rglob("*.log"), *Path(name).rglob("events.jsonl*")]:
                (logs / path.name).write_bytes(path.read_bytes())
    (options.out / "soak.json").write_text(json.dumps(report, indent=1))
    plot(report, options.out / "soak.png")
    for table in (fault_table(report), client_table(report), growth_table(report)):
        CONSOLE.print(table)
    for violation in report["violations"][:30]:
        CONSOLE.print(violation, style="red", markup=False, soft_wrap=True)
    CONSOLE.print(f"{len(report['violations'])} violations; raw data in {options.out}")
    return int(bool(report["violations"]))


if __name__ == "__main__":
    sys.exit(main())
