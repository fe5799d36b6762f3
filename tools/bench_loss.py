"""How soon a vector step knows that one of its workers was killed, and that the run goes on.

    python tools/bench_loss.py [--envs 16] [--kills 10]

Each time one env process is stopped, so that its row cannot be done, a step is sent, the process is killed with
SIGKILL, and the clock runs from there to the end of `step_wait`. The other rows of that step are checked, and the row
in the step after it, which waits for the new process. Target: 100 ms. Exit code 1 when a row was wrong or something is
left.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from soak_envs import ECHO, PID, STEP  # noqa: E402
from soak_vector import Pool, named_segments  # noqa: E402

from zmqcarla.broker.protocol import is_served  # noqa: E402
from zmqcarla.make import make_vec_env  # noqa: E402

TARGET_MS = 100.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--envs", type=int, default=16)
    parser.add_argument("--kills", type=int, default=10, help="for each transport")
    options = parser.parse_args()
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    table = Table("transport", "known after p50", "max", "new process after p50", title=f"one of {options.envs} killed")
    for transport in ("shm", "zmq"):
        known_ms, back_s = _measure(transport, options.envs, options.kills)
        table.add_row(
            transport, f"{np.median(known_ms):.1f} ms", f"{max(known_ms):.1f} ms", f"{np.median(back_s):.2f} s"
        )
    Console().print(table)
    print(f"target: known after {TARGET_MS:g} ms; every other row was delivered, and nothing is left in /dev/shm")
    return 0


def _measure(transport: Any, envs: int, kills: int) -> tuple[list[float], list[float]]:
    known_ms: list[float] = []
    back_s: list[float] = []
    with tempfile.TemporaryDirectory(prefix="loss-") as directory:
        pool = Pool(envs, Path(directory))
        while not is_served(pool.address):
            time.sleep(0.05)
        kwargs = [{"row": row, "length": 10**6} for row in range(envs)]
        vec = make_vec_env(envs, "soak_envs:Soak-v0", kwargs, pool.address, transport=transport)
        observations, _ = vec.reset()
        names = named_segments()
        for kill in range(kills):
            victim = kill % envs
            before, actions = np.array(observations), np.linspace(-1, 1, envs)[:, None]
            os.kill(int(before[victim, PID]), signal.SIGSTOP)
            vec.step_async(actions)
            killed_at = time.perf_counter()
            os.kill(int(before[victim, PID]), signal.SIGKILL)
            observations, _, _, truncated, _ = vec.step_wait()
            known_ms.append(1e3 * (time.perf_counter() - killed_at))
            expected = before.copy()
            others = np.arange(envs) != victim
            expected[others, STEP] += 1
            expected[others, ECHO] = actions[others, 0]
            _check(np.array_equal(observations, expected), f"kill {kill}: expected {expected}, found {observations}")
            _check(np.flatnonzero(truncated).tolist() == [victim], f"kill {kill}: found truncated {truncated}")
            observations, _, _, truncated, _ = vec.step(actions)
            back_s.append(time.perf_counter() - killed_at)
            _check(not truncated.any() and observations[victim, STEP] == 0, f"kill {kill}: the row did not come back")
        vec.close()
        pool.close()
    left = [path.name for path in Path("/dev/shm").iterdir() if any(name in path.name for name in names)]
    _check(not left, f"left in /dev/shm: {left}")
    return known_ms, back_s


def _check(good: bool, text: str) -> None:
    if not good:
        raise SystemExit(text)


if __name__ == "__main__":
    sys.exit(main())
