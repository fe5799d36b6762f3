"""A training client of `tools/soak.py`: steps a vector env until told to stop, and checks every row of every step.

    python tools/soak_client.py counting|carla ADDRESS ROWS OUT

It says each second how far it is (a JSON line on standard output) and writes its report to OUT. Closing its standard
input ends it.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import psutil

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from soak_vector import Checker, named_segments  # noqa: E402

from zmqcarla.make import make_vec_env  # noqa: E402

LEASE_TIMEOUT_S = 240.0
COMMAND_TIMEOUT_S = 240.0


class CarlaChecker:
    """Frames of each CARLA row: one more a step, the first one after a reset; the last observation after a loss."""

    def __init__(self, observations: dict[str, Any], infos: dict[str, Any]) -> None:
        self.violations: list[str] = []
        self.losses = self.episodes = 0
        self._first = int(infos["frame"][0])
        self._frames = [int(frame) for frame in infos["frame"]]
        self._due = ["step"] * len(self._frames)
        self._last = {name: np.array(values) for name, values in observations.items()}

    def check(self, number: int, actions: Any, result: Any) -> None:
        """Compare one step's result, row by row."""
        observations, rewards, terminated, truncated, infos = result
        lost = infos.get("_worker_lost", np.zeros(len(self._due), np.bool_))
        for row, due in enumerate(self._due):
            if lost[row]:
                self._check_lost(number, row, observations, (rewards[row], terminated[row], truncated[row]))
                continue
            frame = int(infos["frame"][row])
            expected = self._frames[row] + 1 if due == "step" else self._first
            if frame != expected:
                self._report(number, row, due, f"expected frame {expected}, found {frame}")
            if not all(np.isfinite(values[row]).all() for values in observations.values()):
                self._report(number, row, due, "expected finite observations")
            if due == "step" and terminated[row] | truncated[row]:
                self.episodes += 1
                self._due[row] = "reset"
            else:
                self._due[row] = "step"
            self._frames[row] = frame
        self._last = {name: np.array(values) for name, values in observations.items()}

    def _check_lost(self, number: int, row: int, observations: dict[str, Any], flags: tuple[Any, ...]) -> None:
        self.losses += 1
        if self._due[row] == "rebuild":
            self._report(number, row, "rebuild", "lost a second time")
        if flags != (0.0, False, True):
            self._report(number, row, self._due[row], f"expected a truncated row without reward, found {flags}")
        changed = [
            name for name, values in observations.items() if not np.array_equal(values[row], self._last[name][row])
        ]
        if changed:
            self._report(number, row, self._due[row], f"expected the last observation again, found other {changed}")
        self._due[row] = "rebuild"

    def _report(self, number: int, row: int, due: str, text: str) -> None:
        self.violations.append(f"step {number}, row {row}, due to {due}: {text}")


def counting(address: str, rows: int) -> tuple[Any, Any]:
    """A vector env whose observations name row, process, episode, step and action."""
    lengths = [40 + 7 * row for row in range(rows)]
    kwargs = [{"row": row, "length": length} for row, length in enumerate(lengths)]
    vec = make_vec_env(
        rows, "soak_envs:Soak-v0", kwargs, address, lease_timeout_s=LEASE_TIMEOUT_S, timeout_s=COMMAND_TIMEOUT_S
    )
    return vec, Checker(lengths, vec.reset(seed=0)[0])


def carla(address: str, rows: int) -> tuple[Any, Any]:
    """Cars in embedded simulators, without cameras, for the machine is to be busy with faults."""
    kwargs = {"observation": "state", "max_steps": 200, "timeout": 5.0}
    vec = make_vec_env(
        rows, "zmqcarla/Carla-v0", kwargs, address, lease_timeout_s=LEASE_TIMEOUT_S, timeout_s=COMMAND_TIMEOUT_S
    )
    return vec, CarlaChecker(*vec.reset(seed=0))


def main() -> int:
    """Step until standard input closes."""
    kind, address, rows, out = sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4])
    report: dict[str, Any] = {"kind": kind, "rows": rows, "steps": 0, "losses": [], "violations": [], "slowest_s": 0.0}
    draw = np.random.default_rng(len(kind))
    vec = checker = None
    try:
        vec, checker = {"counting": counting, "carla": carla}[kind](address, rows)
        report["segments"] = sorted(named_segments())
        report["statistics_keys"] = sorted(vec.statistics())
        told_at = 0.0
        while not select.select([sys.stdin], [], [], 0)[0]:
            low, high = vec.action_space.low, vec.action_space.high
            actions = draw.uniform(low, high).astype(vec.action_space.dtype)
            began = time.monotonic()
            result = vec.step(actions)
            report["slowest_s"] = max(report["slowest_s"], time.monotonic() - began)
            checker.check(report["steps"], actions, result)
            report["steps"] += 1
            report["losses"] += _losses(result[4])
            if time.monotonic() - told_at > 1:
                told_at = time.monotonic()
                _tell(report["steps"], checker)
    except Exception:
        report["violations"].append(f"step {report['steps']} raised:\n{traceback.format_exc()}")
    finally:
        with contextlib.suppress(Exception):
            vec.close()  # type: ignore[union-attr]
    if checker is not None:
        report["violations"] += checker.violations
        report["episodes"] = checker.episodes
    out.write_text(json.dumps(report))
    return int(bool(report["violations"]))


def _losses(infos: dict[str, Any]) -> list[dict[str, Any]]:
    if "worker_lost" not in infos:
        return []
    told = infos["worker_lost"]
    return [
        {
            "at": time.time(),
            "row": int(row),
            "worker_id": str(told["worker_id"][row]),
            "reason": str(told["reason"][row]),
        }
        for row in np.flatnonzero(infos["_worker_lost"])
    ]


def _tell(steps: int, checker: Any) -> None:
    me = psutil.Process()
    print(
        json.dumps(
            {
                "steps": steps,
                "losses": checker.losses,
                "violations": len(checker.violations),
                "mib": me.memory_info().rss / 2**20,
                "fds": me.num_fds(),
            }
        ),
        flush=True,
    )


if __name__ == "__main__":
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    sys.exit(main())
