"""The benchmark as one picture: how many times faster than gymnasium's AsyncVectorEnv, by workload and n."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench_envs import MEAN_SLEEP_S
from bench_report import REFERENCE, detailed_num_envs, label
from matplotlib.figure import Figure
from PIL import Image

_STYLES: dict[str, tuple[str, str]] = {
    "shm-bound": ("#08519c", "o-"),
    "shm": ("#3182bd", "o-"),
    "drop-in": ("#31a354", "o-"),
    "zmq": ("#756bb1", "o-"),
    "gym": ("#000000", "-"),
    "gym-nocopy": ("#969696", "s-"),
    "sync": ("#d95f0e", "^-"),
    "sb3": ("#c51b8a", "v-"),
    "rest": ("#a50f15", "x-"),
    "floor-c": ("#636363", ":"),
    "floor-py": ("#bdbdbd", ":"),
}
_PANELS = {
    "image": "image: 3 x 224 x 400 bytes a row",
    "rollout": "image, copied into a rollout buffer",
    "vector": "vector: 16 floats a row",
    "infos": "vector, with 8 infos a row",
}

Row = dict[str, Any]


def plot(rows: list[Row], path: Path) -> None:
    """A panel of ratios a workload, one of env-steps a second under jitter, one of CPU time; of those that were run."""
    rows = [row for row in rows if "p50_us" in row]
    lines: dict[str, Any] = {}

    def ratios(workload: str) -> Callable[[Any], None]:
        mine = [row for row in rows if row["workload"] == workload and row["ratio"] is not None]
        return lambda axis: _plot_ratios(axis, mine, _PANELS[workload], lines)

    ran = {row["workload"] for row in rows}
    panels = [ratios(workload) for workload in _PANELS if (workload, REFERENCE) in _pairs(rows)]
    panels += [lambda axis: _plot_jitter(axis, rows)] if "jitter" in ran else []
    panels += [lambda axis: _plot_cpu(axis, rows)] if ran & {"image", "vector"} else []
    if not panels:
        return
    columns = max(2, -(-len(panels) // 2))
    lines_of_panels = -(-len(panels) // columns)
    figure = Figure(figsize=(5 * columns, 1 + 4 * lines_of_panels), dpi=90, layout="constrained")
    axes: Any = figure.subplots(lines_of_panels, columns, squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    for axis, draw in zip(axes.flat, panels, strict=False):
        draw(axis)
    figure.suptitle("A vector step of n envs that cost nothing, against gymnasium's AsyncVectorEnv", size=14)
    figure.legend(lines.values(), [label(name) for name in lines], loc="outside lower center", ncols=4)
    figure.savefig(path)
    with Image.open(path) as drawn:
        drawn.convert("RGB").quantize(64).save(path, optimize=True)  # a quarter of the size


def _pairs(rows: list[Row]) -> set[tuple[str, str]]:
    return {(row["workload"], row["contender"]) for row in rows}


def _plot_ratios(axis: Any, rows: list[Row], title: str, lines: dict[str, Any]) -> None:
    for contender, (color, style) in _STYLES.items():
        mine = [row for row in rows if row["contender"] == contender]
        if mine:
            (line,) = axis.plot(
                [row["num_envs"] for row in mine],
                [row["ratio"] for row in mine],
                style,
                color=color,
                label=contender,
                linewidth=2.5 if contender in ("shm", "shm-bound", REFERENCE) else 1.5,
            )
            lines.setdefault(contender, line)
    axis.set(title=title, ylabel="times faster (higher is better)", yscale="log")
    ticks = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100]
    low, high = axis.get_ylim()
    axis.set_yticks(ticks, [f"{tick:g}x" for tick in ticks])
    axis.set_yticks([], minor=True)
    axis.set_ylim(low, high)
    _finish(axis, rows)


def _plot_jitter(axis: Any, rows: list[Row]) -> None:
    """Which share of the time the envs work: env-steps a second over n / 20 ms."""
    rows = [row for row in rows if row["workload"] == "jitter"]
    ways = {"shm recv(1)": ("#08519c", "o-"), "shm recv(n/4)": ("#3182bd", "o-"), "zmq recv(n/4)": ("#756bb1", "o--")}
    ways |= {"shm": ("#9ecae1", "o-"), REFERENCE: ("#000000", "-")}
    for contender, (color, style) in ways.items():
        mine = [row for row in rows if row["contender"] == contender]
        shares = [100 * MEAN_SLEEP_S * row["env_steps_per_s"] / row["num_envs"] for row in mine]
        name = label(contender) + (" step()" if " " not in contender else "")
        axis.plot([row["num_envs"] for row in mine], shares, style, color=color, label=name)
    axis.set(title="env steps of 20 ms on average, lognormal", ylabel="time in which an env works (%)", ylim=(0, 105))
    axis.legend(fontsize=9, loc="lower left")
    _finish(axis, rows)


def _plot_cpu(axis: Any, rows: list[Row]) -> None:
    rows = [row for row in rows if row["workload"] in ("image", "vector")]
    n = detailed_num_envs(rows)
    found = {(row["workload"], row["contender"]): row["cpu_us"] for row in rows if row["num_envs"] == n}
    shown = [name for name in reversed(_STYLES) if any(contender == name for _, contender in found)]
    for offset, (workload, alpha) in zip((0.2, -0.2), (("image", 1.0), ("vector", 0.45)), strict=True):
        bars = [found.get((workload, name), 0.0) for name in shown]
        drawn = axis.barh(
            [place + offset for place in range(len(shown))],
            bars,
            0.38,
            color=[_STYLES[name][0] for name in shown],
            alpha=alpha,
            label=workload,
        )
        axis.bar_label(drawn, [f"{bar:.0f}" if bar else "" for bar in bars], padding=3, fontsize=8)
    axis.set_yticks(range(len(shown)), [label(name).replace("gymnasium ", "") for name in shown], fontsize=9)
    axis.set(title=f"CPU an env-step (us), n={n}", xscale="log", xlabel="strong: image, pale: vector")
    axis.grid(alpha=0.3, axis="x")


def _finish(axis: Any, rows: list[Row]) -> None:
    numbers = sorted({row["num_envs"] for row in rows})
    axis.set_xscale("log")
    axis.set_xticks(numbers, [str(n) for n in numbers])
    axis.set_xticks([], minor=True)
    axis.set_xlabel("envs")
    axis.grid(alpha=0.3)
