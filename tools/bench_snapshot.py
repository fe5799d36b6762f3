"""What snapshots cost on the embedded simulator: a restore in traffic, the size, a fork over a pool.

    python tools/bench_snapshot.py [--map Town10HD.xodr] [--repeats 20] [--workers 8] [--out snapshot.json]

"in place" goes back while the episode of the snapshot still runs, "after a reset" builds ego, sensors and traffic anew.
The traffic of these two belongs to the Traffic Manager and to AI walkers; each restore is followed by some ticks, so
that everybody has moved. A fork saves the moment of row 0, sends it to the other rows and restores it in all.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from zmqcarla import make_vec_env
from zmqcarla.workers.carla_env import CarlaEnv

TARGETS = {"restore in place ms": 50.0, "size KiB": 64.0, "fork ms": 300.0}
_AHEAD = np.array([0.0, 0.4, 0.0], np.float32)
_STEPS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--map", help="OpenDRIVE file or name of a town; None for the simulator's default one")
    parser.add_argument("--vehicles", type=int, default=50)
    parser.add_argument("--walkers", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--workers", type=int, default=8, help="rows of the fork; 0 leaves it out")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    options = parser.parse_args()
    figures = in_traffic(options.map, options.vehicles, options.walkers, options.repeats)
    if options.workers:
        figures |= forks(options.map, options.workers, options.repeats)
    for name, value in figures.items():
        shown = f"{value:10.3f}" if isinstance(value, float) else f"{value:>10}"
        target = f"   (target {TARGETS[name]:g})" if name in TARGETS else ""
        print(f"{name:32}{shown}{target}")
    if options.out is not None:
        options.out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def in_traffic(town: str | None, vehicles: int, walkers: int, repeats: int) -> dict[str, Any]:
    """Save and restore among vehicles and walkers."""
    traffic = {"traffic_vehicles": vehicles, "traffic_walkers": walkers}
    env = CarlaEnv(simulator="embedded", map=town, observation="state", terminate_on_collision=False, **traffic)
    try:
        _, info = env.reset(seed=1)
        drive(env, 40)
        saved = env.save_snapshot("bench")
        figures: dict[str, Any] = {f"traffic {name}": count for name, count in info["traffic"].items()}
        figures["save ms"] = median_ms(repeats, lambda: env.save_snapshot("again"), lambda: None)
        reports: list[dict[str, Any]] = []

        def back() -> None:
            reports.append(env.restore_snapshot(saved)[1]["restore"])

        figures["restore in place ms"] = median_ms(repeats, back, lambda: drive(env, _STEPS))
        figures["restore after a reset ms"] = median_ms(max(3, repeats // 5), back, env.reset)
        figures["size KiB"] = env.list_snapshots()[-1]["size_bytes"] / 1024
        for name in ("position_error_max_m", "speed_error_max_mps", "heading_error_max_deg"):
            figures[name] = max(float(report[name]) for report in reports)
        for name in ("ticks_used", "missing", "extra"):
            figures[name] = max(int(report[name]) for report in reports)
        return figures
    finally:
        env.close()


def forks(town: str | None, workers: int, repeats: int) -> dict[str, Any]:
    """Fork row 0 to all rows of a pool, without other traffic."""
    pool_options = {} if town is None else {"map": town}
    settings = {"observation": "state", "terminate_on_collision": False}
    vec = make_vec_env(workers, env_kwargs=settings, simulator="embedded", pool_options=pool_options)
    try:
        vec.reset(seed=1)
        actions = np.tile(_AHEAD, (workers, 1))

        def go_on() -> None:
            for _ in range(_STEPS):
                vec.step(actions)

        go_on()
        fork_ms = median_ms(repeats, lambda: vec.fork(0), go_on)
        go_on()
        seen = vec.step(actions)[0]
        alike = all(np.array_equal(seen[name], np.broadcast_to(seen[name][:1], seen[name].shape)) for name in seen)
        return {"fork rows": workers, "fork ms": fork_ms, "rows alike afterwards": str(alike)}
    finally:
        vec.close()


def drive(env: CarlaEnv, steps: int) -> None:
    """Let the world go on."""
    for _ in range(steps):
        env.step(_AHEAD)


def median_ms(repeats: int, action: Callable[[], Any], between: Callable[[], Any]) -> float:
    """Wall-clock time of an action, with something else before each."""
    times_s: list[float] = []
    for _ in range(repeats):
        between()
        began_s = time.perf_counter()
        action()
        times_s.append(time.perf_counter() - began_s)
    return 1e3 * float(np.median(times_s))


if __name__ == "__main__":
    main()
