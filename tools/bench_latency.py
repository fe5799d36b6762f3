"""Time of a vector step: ours against AsyncVectorEnv and SyncVectorEnv, on equal work in one interleaved run.

    python tools/bench_latency.py [--steps 200] [--rounds 5] [--num-envs 1,4,16] [--out runs/bench_latency]

The envs cost nothing (tools/bench_envs.py), so what is measured is the vector env. For each workload and n all
contenders live at the same time and take turns, round by round, so that a noisy machine is noisy for all; every timed
step is checked (row, counter, echo of the action). Writes a JSON with every step's time, and a plot.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))


from zmqcarla.make import make_vec_env  # noqa: E402

WORKLOADS = {"image": "BenchImage-v0", "vector": "BenchVector-v0"}
REFERENCE = "AsyncVectorEnv"
CONSOLE = Console()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200, help="timed steps a round")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contender")
    parser.add_argument("--num-envs", default="1,4,16", help="comma-separated")
    parser.add_argument("--out", type=Path, default=Path("runs/bench_latency"))
    options = parser.parse_args()
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    results = [
        _compare(workload, n, options.steps, options.rounds)
        for workload in WORKLOADS
        for n in (int(part) for part in options.num_envs.split(","))
    ]
    options.out.mkdir(parents=True, exist_ok=True)
    report = {
        "machine": {"cpus": os.cpu_count(), "python": platform.python_version(), "gymnasium": gymnasium.__version__},
        "steps_a_round": options.steps,
        "rounds": options.rounds,
        "results": results,
    }
    (options.out / "latency.json").write_text(json.dumps(report))
    _plot(results, options.out / "latency.png")
    CONSOLE.print(_table(results))
    CONSOLE.print(f"every timed step was checked; raw data and plot in {options.out}/")


def _compare(workload: str, n: int, steps: int, rounds: int) -> dict[str, Any]:
    env_id = f"bench_envs:{WORKLOADS[workload]}"
    makers = [lambda: gymnasium.make(env_id)] * n
    pool_options = {"simulator": "none", "env_patterns": ("bench_envs:*",)}
    contenders: dict[str, Any] = {
        "zmqcarla shm": make_vec_env(n, env_id, transport="shm", pool_options=pool_options),
        "zmqcarla zmq": make_vec_env(n, env_id, transport="zmq", pool_options=pool_options),
        REFERENCE: AsyncVectorEnv(makers),
        "SyncVectorEnv": SyncVectorEnv(makers),
    }
    times_us: dict[str, list[float]] = {name: [] for name in contenders}
    counters = dict.fromkeys(contenders, 0)
    try:
        for vec in contenders.values():
            vec.reset(seed=0)
        for name, vec in contenders.items():  # warm-up
            counters[name] = _run(vec, workload, n, steps // 4, counters[name])[1]
        turns = [(name, vec) for _ in range(rounds) for name, vec in contenders.items()]
        for name, vec in track(turns, description=f"{workload}, n={n}", console=CONSOLE):
            taken_us, counters[name] = _run(vec, workload, n, steps, counters[name])
            times_us[name] += taken_us.tolist()
    finally:
        for vec in contenders.values():
            vec.close()
    return {"workload": workload, "num_envs": n, "step_us": times_us}


def _run(vec: Any, workload: str, n: int, steps: int, counter: int) -> tuple[NDArray[np.float64], int]:
    """Time `steps` steps; the counter tells what every row must show."""
    taken_us = np.zeros(steps)
    actions = np.zeros((n, 3), np.float32)
    for step in range(steps):
        actions[:, 0] = (np.arange(n) + step) % 16 / 16
        began = time.perf_counter_ns()
        observations, *_ = vec.step(actions)
        taken_us[step] = (time.perf_counter_ns() - began) / 1e3
        counter += 1
        vector = observations["vector"] if workload == "image" else observations
        good = (vector[:, 0] == counter).all() and (vector[:, 1] == actions[:, 0]).all()
        if workload == "image":
            good = good and (observations["image"][:, ::2, ::223, ::399] == counter % 256).all()
        if not good:
            raise SystemExit(f"{type(vec).__name__} delivered a wrong row at step {counter}: {vector[:, :2]}")
    return taken_us, counter


def _median(result: dict[str, Any], name: str) -> float:
    return float(np.median(result["step_us"][name]))


def _table(results: list[dict[str, Any]]) -> Table:
    table = Table("workload", "n", "vector env", "p50", "p99", f"times {REFERENCE}", title="time of a vector step")
    for result in results:
        for name, step_us in result["step_us"].items():
            p50, p99 = np.percentile(step_us, [50, 99])
            ratio = _median(result, REFERENCE) / p50
            table.add_row(
                result["workload"], str(result["num_envs"]), name, f"{p50:.0f} us", f"{p99:.0f} us", f"{ratio:.2f}x"
            )
        table.add_section()
    return table


def _plot(results: list[dict[str, Any]], path: Path) -> None:
    figure = Figure(figsize=(9, 4), dpi=120, layout="constrained")
    axes: Any = figure.subplots(1, len(WORKLOADS))
    for axis, workload in zip(np.atleast_1d(axes), WORKLOADS, strict=True):
        mine = [result for result in results if result["workload"] == workload]
        for name in mine[0]["step_us"]:
            axis.plot(
                [result["num_envs"] for result in mine], [_median(result, name) for result in mine], "o-", label=name
            )
        axis.set(
            title=f"{workload} workload", xlabel="envs", ylabel="median vector step (us)", xscale="log", yscale="log"
        )
        axis.set_xticks([result["num_envs"] for result in mine], [str(result["num_envs"]) for result in mine])
        axis.legend(fontsize=8)
        axis.grid(alpha=0.3)
    figure.savefig(path)


if __name__ == "__main__":
    main()
