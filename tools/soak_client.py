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
from soak_checkers import CarlaChecker, Checker, named_segments  # noqa: E402

from zmqcarla.make import make_vec_env  # noqa: E402

LEASE_TIMEOUT_S = 240.0
COMMAND_TIMEOUT_S = 240.0


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
    report: dict[str, Any] = {"kind": kind, "rows": rows, "steps": 0, "slowest_s": 0.0}
    report |= {"workers": [], "losses": [], "violations": []}
    draw = np.random.default_rng(len(kind))
    vec = checker = None
    waiting: list[dict[str, Any]] = []
    try:
        vec, checker = {"counting": counting, "carla": carla}[kind](address, rows)
        report["segments"] = sorted(named_segments())
        report["workers"] = vec.statistics()["workers"]
        told_at = 0.0
        while not select.select([sys.stdin], [], [], 0)[0]:
            low, high = vec.action_space.low, vec.action_space.high
            actions = draw.uniform(low, high).astype(vec.action_space.dtype)
            began = time.time()
            result = vec.step(actions)
            report["slowest_s"] = max(report["slowest_s"], time.time() - began)
            checker.check(report["steps"], actions, result)
            report["steps"] += 1
            for loss in waiting:
                loss |= {"asked_at": began, "back_at": time.time()}
            waiting = _losses(result[4])
            report["losses"] += waiting
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
            "restarts": int(told["restarts"][row]),
            "asked_at": None,
            "back_at": None,
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
