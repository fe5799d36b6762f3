"""How long until a training loop hears that a worker was killed with SIGKILL in the middle of its step."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
from bench_contenders import make_pool_env, step_actions

from zmqcarla.rows import Transport

_INTO_THE_STEP_S = 0.2
_REBUILDS = 5


def _mapped() -> set[str]:
    """Names of the segments in /dev/shm that this process maps; others may have pools as well."""
    return set(re.findall(r"/dev/shm/(\S+)", Path("/proc/self/maps").read_text()))


def _left(segments: set[str]) -> list[str]:
    """Names of these segments, and of their semaphores, that are still there."""
    return sorted(path.name for path in Path("/dev/shm").iterdir() if any(name in path.name for name in segments))


def measure(num_envs: int, transport: Transport, kills: int) -> dict[str, Any]:
    """Kill one worker after the other.

    Returns:
        "noticed_ms", from each kill to the return of `step_wait` with all other rows delivered; "told_again", how often
        a later step reported a loss that no kill explains; "left", names of the vector env that are still in /dev/shm
        after it was closed.
    """
    vec = make_pool_env(num_envs, "bench_envs:BenchHang-v0", transport)
    try:
        vec.reset(seed=0)
        kills_done = [_kill_one(vec, kill % num_envs, kill) for kill in range(kills)]
        segments = _mapped()
    finally:
        vec.close()
    noticed_ms, told_again = [list(column) for column in zip(*kills_done, strict=True)]
    return {"noticed_ms": noticed_ms, "told_again": sum(told_again), "left": _left(segments)}


def _kill_one(vec: Any, row: int, step: int) -> tuple[float, int]:
    pid = vec.call("process_id")[row]
    actions = step_actions(vec.num_envs, step)
    actions[row, 2] = 1  # hangs
    vec.step_async(actions)
    time.sleep(_INTO_THE_STEP_S)
    began = time.perf_counter()
    os.kill(pid, signal.SIGKILL)
    observations, _, _, truncated, infos = vec.step_wait(timeout=30)
    noticed_ms = (time.perf_counter() - began) * 1e3
    others = np.arange(vec.num_envs) != row
    if (
        truncated.tolist() != (~others).tolist()
        or infos["_worker_lost"].tolist() != truncated.tolist()
        or not (observations[others, 1] == actions[others, 0]).all()
    ):
        raise SystemExit(f"expected row {row} alone to be lost, found truncated={truncated}, infos={infos}")
    for again in range(_REBUILDS):  # waits for the new process and resets the row
        if "worker_lost" not in vec.step(step_actions(vec.num_envs, step))[4]:
            return noticed_ms, again
    raise SystemExit(f"row {row} was still reported as lost {_REBUILDS} steps after its worker was killed")
