"""What the benchmark's turns amount to: medians, ratios, tables, and which targets are met."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from bench_envs import MEAN_SLEEP_S
from rich.table import Table

REFERENCE = "gym"
LABELS = {
    "gym": "gymnasium AsyncVectorEnv",
    "gym-nocopy": "gymnasium AsyncVectorEnv, copy=False",
    "sync": "gymnasium SyncVectorEnv",
    "sb3": "stable-baselines3 SubprocVecEnv",
    "rest": "REST, base64 images",
    "floor-py": "floor in Python",
    "floor-c": "floor in C",
    "drop-in": "zmqcarla.AsyncVectorEnv",
    "shm": "zmqcarla shm",
    "shm-bound": "zmqcarla shm, env with bind_out",
    "zmq": "zmqcarla zmq",
}
TITLES = {
    "image": "image: uint8 (3, 224, 400) and float32 (16,) a row",
    "rollout": "rollout: image, and the batch is copied into a rollout buffer",
    "vector": "vector: float32 (16,) a row",
    "infos": "infos: vector, with 8 scalar infos a row",
    "jitter": "jitter: a step of an env sleeps, lognormal, 20 ms in the mean",
}
_DETAIL_NUM_ENVS = 16
_TARGET_COLUMNS = ("promised", "measured", "the floor in C", "")

Row = dict[str, Any]


def label(contender: str) -> str:
    """The contender's name for people; the ways of stepping one are suffixes."""
    key, space, way = contender.partition(" ")
    return LABELS[key] + space + way


def detailed_num_envs(rows: list[Row]) -> int:
    """The n whose details are shown: 16, or what is nearest."""
    numbers: set[int] = {row["num_envs"] for row in rows}
    return min(numbers, key=lambda n: abs(n - _DETAIL_NUM_ENVS))


def summarise(results: list[Row]) -> list[Row]:
    """One row of figures for each workload, n and contender.

    `p50_us` is the median of the rounds' medians; `ratio` the median of the rounds' ratios to the reference (of times,
    or of env-steps a second for jitter; above 1 is better), with the lowest and highest of the rounds.
    """
    references = {
        (result["workload"], result["num_envs"]): result["turns"]
        for result in results
        if result["contender"] == REFERENCE and "turns" in result
    }
    return [
        _summary(result, references.get((result["workload"], result["num_envs"]))) if "turns" in result else result
        for result in results
    ]


def _summary(result: Row, reference: list[Row] | None) -> Row:
    turns = result["turns"]
    p50_us = np.array([np.median(turn["step_us"]) for turn in turns])
    rates = np.array([turn["env_steps_per_s"] for turn in turns])
    every_us = np.concatenate([turn["step_us"] for turn in turns])
    row = {
        **{name: result[name] for name in ("workload", "num_envs", "contender")},
        "steps": len(every_us),
        "p50_us": round(float(np.median(p50_us)), 1),
        "p99_us": round(float(np.percentile(every_us, 99)), 1),
        "round_p50_us": p50_us.round(1).tolist(),
        "cpu_us": round(float(np.median([turn["cpu_us"] for turn in turns])), 2),
        "env_steps_per_s": round(float(np.median(rates)), 1),
        "ratio": None,
    }
    if reference is not None:
        if result["workload"] == "jitter":
            ratios = rates / [turn["env_steps_per_s"] for turn in reference]
        else:
            ratios = np.array([np.median(turn["step_us"]) for turn in reference]) / p50_us
        row["ratio"] = round(float(np.median(ratios)), 3)
        row["ratio_range"] = [round(float(ratios.min()), 3), round(float(ratios.max()), 3)]
    return row


# --- targets ---


@dataclasses.dataclass(frozen=True, slots=True)
class Target:
    """A figure that was promised, and what was measured; None where it was not."""

    what: str
    at_least: bool
    limit: float
    unit: str
    measured: float | None
    floor: float | None = None
    """What the floor in C reaches in the same run: no vector env can be much better on this machine."""

    @property
    def verdict(self) -> str:
        """ "met", "NOT met" or "not measured"."""
        if self.measured is None:
            return "not measured"
        met = self.measured >= self.limit if self.at_least else self.measured <= self.limit
        return "met" if met else "NOT met"

    def cells(self) -> tuple[str, str, str, str, str]:
        """What, the limit, the measured figure, the floor's, the verdict."""

        def figure(value: float | None) -> str:
            return "-" if value is None else f"{value:.3g} {self.unit}".rstrip()

        promised = f"{'>=' if self.at_least else '<='} {figure(self.limit)}"
        return self.what, promised, figure(self.measured), figure(self.floor), self.verdict


def check_targets(rows: list[Row]) -> list[Target]:
    """Each promise of the design that concerns the vector env. Ratios are to AsyncVectorEnv unless said."""
    found = {(row["workload"], row["num_envs"], row["contender"]): row for row in rows}

    def figure(name: str, workload: str, n: int, contender: str) -> float | None:
        value = found.get((workload, n, contender), {}).get(name)
        return None if value is None else float(value)

    def faster(workload: str, n: int, contender: str) -> float | None:
        return figure("ratio", workload, n, contender)

    def pair(workload: str, n: int, contender: str, name: str = "ratio") -> tuple[float | None, float | None]:
        return figure(name, workload, n, contender), figure(name, workload, n, "floor-c")

    def quotient(above: float | None, below: float | None) -> float | None:
        return None if above is None or below is None else above / below

    def p50(workload: str, contender: str) -> float | None:
        return figure("p50_us", workload, 16, contender)

    def share(n: int) -> float | None:
        return quotient(figure("env_steps_per_s", "jitter", n, "shm recv(1)"), n / MEAN_SLEEP_S)

    lost = [row for row in rows if row["workload"] == "loss"]
    slowest_ms = max((ms for row in lost for ms in row["noticed_ms"]), default=None)
    over_floor = quotient(p50("image", "shm-bound"), p50("image", "floor-c"))
    infos_cost = quotient(p50("infos", "shm"), p50("vector", "shm"))
    return [
        Target("image, env with bind_out, n=16", True, 10, "x", *pair("image", 16, "shm-bound")),
        Target("image, env with bind_out, n=16, against the floor in C", False, 2.8, "x its time", over_floor),
        Target("image, unmodified env, n=16", True, 5, "x", *pair("image", 16, "shm")),
        Target("image and copy, env with bind_out, n=16", True, 4.5, "x", faster("rollout", 16, "shm-bound")),
        Target("image and copy, unmodified env, n=16", True, 2.8, "x", faster("rollout", 16, "shm")),
        Target("vector, n=1", True, 4, "x", *pair("vector", 1, "shm")),
        Target("vector, n=16", True, 8, "x", *pair("vector", 16, "shm")),
        Target("vector, n=64", True, 13, "x", *pair("vector", 64, "shm")),
        Target("vector with 8 infos a row, n=16, against without", False, 1.25, "x the time", infos_cost),
        Target("zmq transport, image, n=16", True, 2, "x", *pair("image", 16, "zmq")),
        Target("zmq transport, vector, n=16", True, 1.8, "x", *pair("vector", 16, "zmq")),
        Target("jitter, recv(n/4), n=16", True, 2.1, "x", faster("jitter", 16, "shm recv(n/4)")),
        Target("jitter, recv(n/4), n=64", True, 3.0, "x", faster("jitter", 64, "shm recv(n/4)")),
        Target("jitter, recv(1), n=16", True, 0.95, "of n / 20 ms", share(16)),
        Target("jitter, recv(1), n=64", True, 0.95, "of n / 20 ms", share(64)),
        Target("CPU, image, env with bind_out, n=16", False, 40, "us", *pair("image", 16, "shm-bound", "cpu_us")),
        Target("CPU, image, unmodified env, n=16", False, 55, "us", *pair("image", 16, "shm", "cpu_us")),
        Target("CPU, vector, n=16", False, 18, "us", *pair("vector", 16, "shm", "cpu_us")),
        Target("kill -9 of a worker, noticed after (slowest)", False, 100, "ms", slowest_ms),
        Target(
            "the same, names left in /dev/shm", False, 0, "", sum(len(row["left"]) for row in lost) if lost else None
        ),
    ]


# --- tables ---


def as_table(rows: list[Row]) -> Table:
    """Everything, for a terminal."""
    table = Table("workload", "n", "contender", "p50", "p99", "CPU an env-step", "env-steps/s", f"times {REFERENCE}")
    for index, row in enumerate(rows):
        where = (row["workload"], str(row["num_envs"]), row["contender"])
        if index and (row["workload"], row["num_envs"]) != (rows[index - 1]["workload"], rows[index - 1]["num_envs"]):
            table.add_section()
        if "skipped" in row:
            table.add_row(*where, f"skipped: {row['skipped']}")
        elif "noticed_ms" in row:
            table.add_row(*where, _noticed(row))
        else:
            table.add_row(
                *where,
                f"{row['p50_us']:.0f} us",
                f"{row['p99_us']:.0f} us",
                f"{row['cpu_us']:.1f} us",
                f"{row['env_steps_per_s']:.0f}",
                _times(row["ratio"]),
            )
    return table


def targets_table(targets: list[Target]) -> Table:
    """The targets, for a terminal."""
    table = Table("target (x: times faster than gymnasium's AsyncVectorEnv)", *_TARGET_COLUMNS)
    for target in targets:
        table.add_row(*target.cells())
    return table


def as_markdown(run: dict[str, Any], rows: list[Row], targets: list[Target]) -> str:
    """Tables for a page: a table a workload, then the targets."""
    machine = ", ".join(f"{name} {value}" for name, value in run["machine"].items())
    lines = [f"{run['date']}; {machine}; {run['rounds']} rounds of up to {run['steps_a_turn']} steps.", ""]
    for workload, title in TITLES.items():
        lines += _workload_lines(title, [row for row in rows if row["workload"] == workload])
    lines += [f"kill -9 of a worker, {label(row['contender'])}: {_noticed(row)}" for row in rows if "noticed_ms" in row]
    lines += ["", *_markdown_table(("target", *_TARGET_COLUMNS), [target.cells() for target in targets])]
    return "\n".join(lines) + "\n"


def _workload_lines(title: str, rows: list[Row]) -> list[str]:
    if not rows:
        return []
    numbers = sorted({row["num_envs"] for row in rows})
    detailed = detailed_num_envs(rows)
    found = {(row["contender"], row["num_envs"]): row for row in rows}
    header = ("vector env", *[f"n={n}" for n in numbers], f"p99, n={detailed}", f"CPU an env-step, n={detailed}")
    body = [
        (
            label(contender),
            *[_cell(found.get((contender, n))) for n in numbers],
            *_details(found.get((contender, detailed))),
        )
        for contender in dict.fromkeys(row["contender"] for row in sorted(rows, key=lambda row: -row["num_envs"]))
    ]
    reasons = {f"{label(row['contender'])}: {row['skipped']}." for row in rows if "skipped" in row}
    return [f"### {title}", "", *_markdown_table(header, body), "", *sorted(reasons), *([""] if reasons else [])]


def _cell(row: Row | None) -> str:
    if row is None or "skipped" in row:
        return "-"
    figure = f"{row['env_steps_per_s']:.0f}/s" if row["workload"] == "jitter" else f"{row['p50_us']:.0f} us"
    return figure if row["ratio"] is None else f"{figure} ({_times(row['ratio'])})"


def _details(row: Row | None) -> tuple[str, str]:
    if row is None or "skipped" in row:
        return "-", "-"
    return f"{row['p99_us']:.0f} us", f"{row['cpu_us']:.1f} us"


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.3g}x"


def _noticed(row: Row) -> str:
    found = row["noticed_ms"]
    left = f"left in /dev/shm: {', '.join(row['left'])}" if row["left"] else "nothing left in /dev/shm"
    again = f", {row['told_again']} losses told twice" if row["told_again"] else ""
    return f"noticed after {np.median(found):.1f} ms (slowest of {len(found)}: {max(found):.1f} ms), {left}{again}"


def _markdown_table(header: Iterable[str], body: Iterable[Iterable[str]]) -> list[str]:
    header = list(header)
    line: Callable[[Iterable[str]], str] = lambda cells: f"| {' | '.join(cells)} |"  # noqa: E731
    return [line(header), line(["---"] * len(header)), *[line(cells) for cells in body]]
