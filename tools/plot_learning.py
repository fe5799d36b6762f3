"""Several runs of one of the examples in one picture, and what they came to as a table.

python tools/plot_learning.py runs/ppo1 runs/ppo2 runs/ppo3 --out docs/pictures/learning-ppo.png
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

_BINS = 40
_MEANINGS = {
    "ppo": "return of an episode (percent of the route, less charges)",
    "grpo": "return of a rollout of 3 s (percent of the route, less charges)",
}
_HEADER = (
    "seed",
    "steps",
    "steps/s",
    "share in updates",
    "first tenth",
    "last tenth",
    "ratio",
    "doing nothing",
    "final episodes",
    "of the route",
    "endings",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="folders with a curve.json of the same example")
    parser.add_argument("--out", type=Path, required=True, help="picture to write")
    options = parser.parse_args()
    found: list[dict[str, Any]] = [json.loads((run / "curve.json").read_text()) for run in options.runs]
    (example,) = {one["example"] for one in found}
    figure = Figure(figsize=(8.0, 4.5), dpi=110, layout="constrained")
    axis: Any = figure.subplots()
    for one in found:
        axis.plot(*binned(one["curve"]), label=f"seed {one['settings']['seed']}")
    axis.axhline(0.0, color="0.4", linestyle="--", label="standing still")
    axis.set(xlabel="environment steps", ylabel=_MEANINGS[example], title=f"{example.upper()}, mean return")
    axis.legend(loc="lower right")
    figure.savefig(options.out)
    print("\n".join(table(found)))


def binned(curve: list[dict[str, Any]]) -> tuple[list[float], list[float]]:
    """Middles of equal parts of the run in steps, and the mean return in each."""
    last = curve[-1]["step"]
    parts: list[list[float]] = [[] for _ in range(_BINS)]
    for one in curve:
        parts[min(_BINS * (one["step"] - 1) // last, _BINS - 1)] += one["returns"]
    filled = [k for k in range(_BINS) if parts[k]]
    return [(k + 0.5) * last / _BINS for k in filled], [float(np.mean(parts[k])) for k in filled]


def table(found: list[dict[str, Any]]) -> list[str]:
    """Lines of Markdown."""
    lines = [_line(_HEADER), _line("---" for _ in _HEADER)]
    for one in found:
        means, final = one["mean_return_by_tenth"], one["evaluation"]
        first, last = (float("nan") if mean is None else mean for mean in (means[0], means[-1]))
        cells = (
            one["settings"]["seed"],
            f"{one['steps']:,}",
            f"{one['steps_per_s']:.0f}",
            f"{one['share_of_time_in_updates']:.0%}",
            f"{first:.2f}",
            f"{last:.2f}",
            f"{last / first:.1f}",
            f"{one['zero_action']['mean_return']:.1f}",
            f"{final['mean_return']:.1f}",
            f"{final['mean_route_percent']:.0f} %",
            ", ".join(f"{count} {name}" for name, count in final["endings"].items()),
        )
        lines.append(_line(cells))
    return lines


def _line(cells: Any) -> str:
    return f"| {' | '.join(str(cell) for cell in cells)} |"


if __name__ == "__main__":
    main()
