"""Time of a vector step: ours against its peers and against the least that is possible, on equal work in one run.

    python tools/bench_latency.py                          everything; about a quarter of an hour on two cores
    python tools/bench_latency.py --quick                  does it run at all
    python tools/bench_latency.py --workloads vector,infos --num-envs 16 --contenders gym,shm,floor-c

Workloads: *image* (Dict of uint8 (3, 224, 400) and float32 (16,)), *rollout* (the same, and the batch is copied into a
rollout buffer within the time), *vector* (float32 (16,)), *infos* (the same with 8 scalar infos a row), *jitter*
(bench_jitter.py), *loss* (bench_loss.py). The envs cost nothing else (bench_envs.py), so what is measured is the vector
env.

For each kind of envs and each n all contenders live at the same time and take turns, round by round, so that a noisy
machine is noisy for all; every timed step is checked (row, counter, echo of the action) after the clock has
stopped. Ratios are medians of the rounds' ratios. CPU time is that of all processes of a contender within its turns.

Writes to --out: latency.json (every step's time), summary.json, latency.md, latency.png.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import json
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import gymnasium
import numpy as np
import psutil
from rich.console import Console
from rich.progress import track

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import bench_contenders as vec_envs  # noqa: E402
from bench_contenders import Contender, NotInstalledError, Turn, Work  # noqa: E402
from bench_floor import CFloor, PythonFloor  # noqa: E402
from bench_jitter import Jitter  # noqa: E402
from bench_loss import measure  # noqa: E402
from bench_plot import plot  # noqa: E402
from bench_report import as_markdown, as_table, check_targets, label, summarise, targets_table  # noqa: E402
from bench_rest import RestVectorEnv  # noqa: E402

from zmqcarla.rows import Transport  # noqa: E402

WORKS = {
    work.name: work
    for work in (
        Work("image", "image"),
        Work("rollout", "image", rollout=True),
        Work("vector", "vector"),
        Work("infos", "vector", infos=True),
        Work("jitter", "jitter"),
        Work("loss", "loss"),
    )
}
ENV_IDS = {
    "image": "bench_envs:BenchImage-v0",
    "vector": "bench_envs:BenchVector-v0",
    "jitter": "bench_envs:BenchJitter-v0",
}
MAX_TURN_S = 3.0
MIN_STEPS = 10
JITTER_SHARE = 4
"""A round of the jitter workload has a quarter of the steps: each takes tens of milliseconds."""
SPARE_BYTES = 2 << 30
LOSS_NUM_ENVS = 4
PROGRESS = Console(stderr=True)

Maker = Callable[[], Contender]


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """A contender of the lockstep workloads.

    Attributes:
        process_mb: memory of one of its processes that it does not share with the others, about.
        make: from (key, num_envs, a key of ENV_IDS).
        works: that it takes part in.
    """

    process_mb: int
    make: Callable[[str, int, str], Contender]
    works: tuple[str, ...] = ("image", "rollout", "vector", "infos")


# Those that fork come first, before this process has threads.
ENTRIES = {
    "gym": Entry(12, lambda key, n, envs: vec_envs.gymnasium_async(key, n, ENV_IDS[envs], copy=True)),
    "gym-nocopy": Entry(12, lambda key, n, envs: vec_envs.gymnasium_async(key, n, ENV_IDS[envs], copy=False)),
    "floor-py": Entry(2, PythonFloor, ("image", "vector")),
    "floor-c": Entry(1, CFloor, ("image", "vector")),
    "sync": Entry(1, lambda key, n, envs: vec_envs.gymnasium_sync(key, n, ENV_IDS[envs])),
    "rest": Entry(
        25, lambda key, n, envs: vec_envs.VectorEnvContender(key, n, lambda: RestVectorEnv(n, ENV_IDS[envs]))
    ),
    "drop-in": Entry(32, lambda key, n, envs: vec_envs.drop_in(key, n, ENV_IDS[envs])),
    "shm": Entry(32, lambda key, n, envs: vec_envs.pool(key, n, ENV_IDS[envs], "shm")),
    "shm-bound": Entry(
        32, lambda key, n, envs: vec_envs.pool(key, n, "bench_envs:BenchImageBound-v0", "shm"), ("image", "rollout")
    ),
    "zmq": Entry(32, lambda key, n, envs: vec_envs.pool(key, n, ENV_IDS[envs], "zmq")),
    "sb3": Entry(85, lambda key, n, envs: vec_envs.StableBaselines3(key, n, ENV_IDS[envs])),
}


def main() -> None:
    options = _options()
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    works = [WORKS[name] for name in options.workloads]
    results: list[dict[str, Any]] = []
    try:
        for envs in (*ENV_IDS, "loss"):
            group = [work for work in works if work.envs == envs]
            if group and envs == "loss":
                results += _lose_workers(options)
            elif group:
                for n in options.num_envs:
                    results += _compare(group, n, options)
    finally:  # what was measured is kept, whatever failed
        if results:
            _write(results, options)


def _lose_workers(options: argparse.Namespace) -> list[dict[str, Any]]:
    transports: list[Transport] = ["shm", "zmq"]
    return [
        {
            "workload": "loss",
            "num_envs": LOSS_NUM_ENVS,
            "contender": transport,
            **measure(LOSS_NUM_ENVS, transport, options.rounds),
        }
        for transport in transports
        if transport in options.contenders
    ]


def _options() -> argparse.Namespace:
    def names(known: Any) -> Callable[[str], list[str]]:
        def parse(text: str) -> list[str]:
            found = text.split(",")
            if set(found) - set(known):
                raise argparse.ArgumentTypeError(f"expected names of {', '.join(known)}, found {text}")
            return [name for name in known if name in found]

        return parse

    def numbers(text: str) -> list[int]:
        return [int(part) for part in text.split(",")]

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", type=names(WORKS), default=list(WORKS), help=f"of {','.join(WORKS)}")
    parser.add_argument("--contenders", type=names(ENTRIES), default=list(ENTRIES), help=f"of {','.join(ENTRIES)}")
    parser.add_argument("--num-envs", type=numbers, default=[1, 4, 16, 64], help="comma-separated")
    parser.add_argument("--steps", type=int, default=200, help="timed steps a turn; fewer for those that take long")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contender")
    parser.add_argument("--out", type=Path, default=Path("runs/bench_latency"))
    parser.add_argument("--quick", action="store_true", help="n=1,4, 20 steps, 2 rounds: only to see that all runs")
    parser.add_argument("--markdown", action="store_true", help="print latency.md instead of tables for a terminal")
    options = parser.parse_args()
    if options.quick:
        options.num_envs, options.steps, options.rounds = [1, 4], 20, 2
    return options


def _makers(envs: str, n: int, stack: contextlib.ExitStack, chosen: list[str]) -> dict[str, tuple[int, Maker]]:
    """How each contender of a kind of envs is started, with the memory it needs in MB."""
    if envs == "jitter":
        return _jitter_makers(n, stack, chosen)

    def maker(key: str, entry: Entry) -> Maker:
        return lambda: entry.make(key, n, envs)

    return {
        key: (n * entry.process_mb, maker(key, entry))
        for key, entry in ENTRIES.items()
        if key in chosen and any(WORKS[name].envs == envs for name in entry.works)
    }


def _jitter_makers(n: int, stack: contextlib.ExitStack, chosen: list[str]) -> dict[str, tuple[int, Maker]]:
    """`step` of gymnasium's and ours, and `recv(k)` of ours; the ways of one vector env share it."""
    owners: dict[str, vec_envs.VectorEnvContender] = {}

    def owner(key: str) -> vec_envs.VectorEnvContender:
        if key not in owners:
            make = ENTRIES[key].make
            owners[key] = cast(vec_envs.VectorEnvContender, make(key, n, "jitter"))
            stack.callback(owners[key].close)
        return owners[key]

    def maker(name: str, key: str, k: int | None) -> Maker:
        return lambda: Jitter(name, owner(key), k)

    ways: dict[str, int | None] = {"": None, **({" recv(n/4)": n // 4} if n >= 8 else {}), " recv(1)": 1}
    return {
        f"{key}{way}": (0 if way else n * ENTRIES[key].process_mb, maker(f"{key}{way}", key, k))
        for key in ("gym", "shm", "zmq")
        if key in chosen
        for way, k in ways.items()
        if key != "gym" or k is None
    }


def _compare(works: list[Work], n: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Let all contenders of some works, on the same envs, take turns."""
    envs = works[0].envs
    skipped: dict[str, str] = {}
    turns: dict[tuple[str, str], list[Turn]] = {}
    with contextlib.ExitStack() as stack:
        makers = _makers(envs, n, stack, options.contenders)
        contenders = _start(makers, stack, skipped)
        pairs = [(work, contender) for work in works for contender in contenders if _takes_part(work, contender.name)]
        steps = {
            (work.name, contender.name): _warm_up(work, contender, options.steps)
            for work, contender in track(pairs, description=f"{envs}, n={n}, warm-up", console=PROGRESS)
        }
        order = [pair for _ in range(options.rounds) for pair in pairs]
        for work, contender in track(order, description=f"{envs}, n={n}, turns", console=PROGRESS):
            key = work.name, contender.name
            turns.setdefault(key, []).append(contender.take_turn(work, steps[key]))
    return [
        {"workload": work.name, "num_envs": n, "contender": name}
        | ({"skipped": skipped[name]} if name in skipped else {"turns": list(map(_plain, turns[work.name, name]))})
        for work in works
        for name in makers
        if _takes_part(work, name)
    ]


def _takes_part(work: Work, name: str) -> bool:
    return work.envs == "jitter" or work.name in ENTRIES[name].works


def _start(
    makers: dict[str, tuple[int, Maker]], stack: contextlib.ExitStack, skipped: dict[str, str]
) -> list[Contender]:
    contenders: list[Contender] = []
    for name, (need_mb, make) in makers.items():
        free_mb = (psutil.virtual_memory().available - SPARE_BYTES) >> 20
        if need_mb > free_mb:
            skipped[name] = f"needs about {need_mb} MB of memory, {max(free_mb, 0)} MB can be spared"
        else:
            try:
                contenders.append(make())
                stack.callback(contenders[-1].close)
            except NotInstalledError as error:
                skipped[name] = str(error)
        if name in skipped:
            PROGRESS.print(f"skipped: {label(name)}: {skipped[name]}")
    return contenders


def _warm_up(work: Work, contender: Contender, steps: int) -> int:
    """How many steps a turn has: as asked, or what fits into MAX_TURN_S."""
    if work.envs == "jitter":
        steps = max(steps // JITTER_SHARE, MIN_STEPS)
        contender.take_turn(work, MIN_STEPS)
        return steps
    contender.take_turn(work, MIN_STEPS)
    step_s = float(np.median(contender.take_turn(work, MIN_STEPS).step_us)) / 1e6
    steps = max(min(steps, int(MAX_TURN_S / step_s)), MIN_STEPS)
    contender.take_turn(work, max(steps // 4, MIN_STEPS))
    return steps


def _plain(turn: Turn) -> dict[str, Any]:
    return {
        "step_us": [round(value, 1) for value in turn.step_us.tolist()],
        "cpu_us": turn.cpu_us,
        "env_steps_per_s": turn.env_steps_per_s,
    }


def _machine() -> dict[str, Any]:
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "cpus": os.cpu_count(),
        "cpu": models[0].partition(":")[2].strip() if models else platform.machine(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "gymnasium": gymnasium.__version__,
        "numpy": np.__version__,
    }


def _write(results: list[dict[str, Any]], options: argparse.Namespace) -> None:
    run = {
        "date": datetime.date.today().isoformat(),
        "machine": _machine(),
        "steps_a_turn": options.steps,
        "rounds": options.rounds,
    }
    rows = summarise(results)
    targets = check_targets(rows)
    markdown = as_markdown(run, rows, targets)
    out = options.out
    out.mkdir(parents=True, exist_ok=True)
    (out / "latency.json").write_text(json.dumps({**run, "results": results}))
    summary = {**run, "rows": rows, "targets": [dataclasses.asdict(target) for target in targets]}
    (out / "summary.json").write_text(json.dumps(summary, indent=1))
    (out / "latency.md").write_text(markdown)
    plot(rows, out / "latency.png")
    if options.markdown:
        print(markdown)
    else:
        Console().print(as_table(rows), targets_table(targets))
    PROGRESS.print(
        f"every timed step was checked; latency.json, summary.json, latency.md and latency.png are in {out}/"
    )


if __name__ == "__main__":
    main()
