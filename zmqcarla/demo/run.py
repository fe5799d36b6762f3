"""The demo from start to end: a private pool of embedded simulators, a driver, a summary and three pictures.

The beginning of the drive is driven twice: first with a camera behind each car, for the contact sheet, then, with the
same seed and so the same way, without it, for the figures. The second picture would cost a good part of the speed.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from zmqcarla.demo.driver import LaneFollowingDriver
from zmqcarla.demo.journey import Journey
from zmqcarla.make import make_vec_env
from zmqcarla.pool import LocalPool
from zmqcarla.vector_env import VectorEnv

_FILM_STEPS = 160
_FILM_PICTURES = 4

Images = NDArray[np.uint8]


class _Step(NamedTuple):
    """One vector step of the driver and what it took."""

    number: int
    observations: dict[str, Any]
    infos: dict[str, Any]
    step_ms: float
    policy_ms: float


def run_demo(*, workers: int, steps: int, map_path: str | None, out: Path, seed: int) -> int:
    """Drive and draw.

    Args:
        workers: how many envs.
        steps: vector steps.
        map_path: OpenDRIVE file, or None for the simulator's own town.
        out: folder for the pictures; made when absent.
        seed: of row 0; row i gets seed + i.

    Returns:
        0 when no env collided or left its lane by more than half a lane, else 1.
    """
    console = Console()
    console.print(f"starting {workers} workers with the embedded simulator (zmqcarla's own, not CarlaUE4)")
    pool = LocalPool(workers, simulator="embedded", map=map_path)
    try:
        with closing(make_vec_env(workers, address=pool.address, env_kwargs={"render_mode": "rgb_array"})) as vec:
            sheet = _film(vec, min(steps, _FILM_STEPS), seed, console)
        with closing(make_vec_env(workers, address=pool.address)) as vec:
            journey, step_ms, policy_ms = _drive(vec, steps, seed, console)
            lanes = vec.call("lane_lines")[0]
            timing = vec.statistics()["timing"]
    finally:
        pool.close()
    _draw(out, journey, lanes, sheet, step_ms, _breakdown(policy_ms, timing))
    _report(console, journey, step_ms, policy_ms, timing)
    console.print(f"pictures in {out}/: cameras.png, paths.png, latency.png")
    if not journey.flawless:
        console.print("[red]an env collided or left its lane[/red]")
    return 0 if journey.flawless else 1


def _film(vec: VectorEnv, steps: int, seed: int, console: Console) -> dict[str, Images]:
    """Drive with a camera behind each car; returns pictures, uint8 (num_envs, 3, height, width), by their titles."""
    pictured = set(np.linspace(steps // 4, steps - 1, _FILM_PICTURES, dtype=int).tolist())
    sheet: dict[str, Images] = {}
    observations, _ = vec.reset(seed=seed)
    for step in _drive_on(vec, observations, steps, console, "filming"):
        if step.number in pictured:
            chase = vec.render()
            assert chase is not None
            sheet[f"step {step.number}, chase"] = np.stack(chase).transpose(0, 3, 1, 2)
            sheet[f"step {step.number}, driver"] = step.observations["rgb"].copy()
    return sheet


def _drive(
    vec: VectorEnv, steps: int, seed: int, console: Console
) -> tuple[Journey, NDArray[np.float64], NDArray[np.float64]]:
    """Drive and measure; returns what the envs did, and the milliseconds of each vector step and of its policy."""
    journey = Journey(vec.num_envs)
    step_ms = np.zeros(steps)
    policy_ms = np.zeros(steps)
    observations, infos = vec.reset(seed=seed)
    journey.begin(observations, infos)
    for step in _drive_on(vec, observations, steps, console, "driving"):
        step_ms[step.number], policy_ms[step.number] = step.step_ms, step.policy_ms
        journey.note(step.observations, step.infos)
    return journey, step_ms, policy_ms


def _drive_on(
    vec: VectorEnv, observations: dict[str, Any], steps: int, console: Console, title: str
) -> Iterator[_Step]:
    """Drive on from the observations of a reset, with a progress bar."""
    driver = LaneFollowingDriver()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    recent_ms: deque[float] = deque(maxlen=50)
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(title, total=steps, rate="")
        for number in range(steps):
            began = time.perf_counter()
            actions = driver(observations)
            decided = time.perf_counter()
            observations, _, _, _, infos = vec.step(actions)
            done = time.perf_counter()
            recent_ms.append((done - decided) * 1e3)
            yield _Step(number, observations, infos, recent_ms[-1], (decided - began) * 1e3)
            rate = vec.num_envs * 1e3 / float(np.mean(recent_ms))
            progress.update(task, advance=1, rate=f"{rate:.0f} env-steps/s")


def _breakdown(policy_ms: NDArray[np.float64], timing: dict[str, Any]) -> dict[str, float]:
    """Mean milliseconds of a vector step by where they went."""
    return {
        "slowest worker": timing["worker_ms"]["mean"],
        "bus and client": timing["bus_ms"]["mean"],
        "policy": float(np.mean(policy_ms)),
    }


def _draw(
    out: Path,
    journey: Journey,
    lanes: list[NDArray[np.float64]],
    sheet: dict[str, NDArray[np.uint8]],
    step_ms: NDArray[np.float64],
    breakdown: dict[str, float],
) -> None:
    from zmqcarla.demo.pictures import contact_sheet, latency_plot, paths_plot  # noqa: PLC0415 - matplotlib is an extra

    out.mkdir(parents=True, exist_ok=True)
    titles = [f"env {row}" for row in range(len(journey.paths()))]
    contact_sheet(out / "cameras.png", list(sheet.values()), titles, list(sheet))
    paths_plot(out / "paths.png", lanes, journey.paths(), journey.goals, titles)
    latency_plot(out / "latency.png", step_ms, breakdown)


def _report(
    console: Console,
    journey: Journey,
    step_ms: NDArray[np.float64],
    policy_ms: NDArray[np.float64],
    timing: dict[str, Any],
) -> None:
    table = Table("env", "driven", "routes completed", "collisions", "steps outside the lane", "worst lane offset")
    for row in range(len(journey.driven_m)):
        table.add_row(
            str(row),
            f"{journey.driven_m[row]:.0f} m",
            str(journey.routes_completed[row]),
            str(journey.collisions[row]),
            str(journey.lane_departures[row]),
            f"{journey.worst_lane_offset_m[row]:.2f} m",
        )
    console.print(table)
    p50, p99 = np.percentile(step_ms, [50, 99])
    rate = len(journey.driven_m) * len(step_ms) / ((step_ms.sum() + policy_ms.sum()) / 1e3)
    parts = ", ".join(f"{name} {value:.2f} ms" for name, value in _breakdown(policy_ms, timing).items())
    console.print(f"{rate:.0f} env-steps/s; vector step p50 {p50:.2f} ms, p99 {p99:.2f} ms; mean: {parts}")
    if journey.lost:
        console.print(f"{journey.lost} workers were lost on the way and came back")
