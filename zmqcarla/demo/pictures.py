"""The pictures of the demo, drawn with matplotlib; a bare `Figure` needs no display and no global state."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray

_DPI = 120
_WIDTH_IN = 9.0
_MARGIN_M = 15.0
_ENV_COLOURS = matplotlib.colormaps["tab10"].colors  # type: ignore[attr-defined]  # a listed colour map


def contact_sheet(
    path: Path,
    images: NDArray[np.uint8] | Sequence[NDArray[np.uint8]],
    titles: Sequence[str] | None = None,
    moments: Sequence[str] | None = None,
) -> None:
    """Save camera pictures side by side.

    Args:
        path: file to write, by its suffix.
        images: uint8 (n, 3, height, width), one picture an env; or a sequence of t such batches, drawn as t rows.
        titles: n names, over the columns.
        moments: t names, left of the rows.
    """
    rows: list[NDArray[np.uint8]] = (
        [images] if isinstance(images, np.ndarray) and images.ndim == 4 else [np.asarray(batch) for batch in images]
    )
    count, _, height, width = rows[0].shape
    # A single moment of many envs is wrapped into a square-ish sheet.
    columns = count if len(rows) > 1 or count <= 4 else math.ceil(math.sqrt(count))
    cells = [image for batch in rows for image in batch]
    lines = math.ceil(len(cells) / columns)
    figure = Figure(figsize=(3.2 * columns, 3.2 * lines * height / width + 0.4), dpi=_DPI, layout="constrained")
    axes: Any = figure.subplots(lines, columns, squeeze=False)
    for k, axis in enumerate(axes.ravel()):
        axis.set_xticks([])
        axis.set_yticks([])
        axis.set_frame_on(False)
        if k >= len(cells):
            continue
        axis.imshow(cells[k].transpose(1, 2, 0))
        if titles is not None and k < count:
            axis.set_title(titles[k], fontsize=8)
        if moments is not None and k % columns == 0:
            axis.set_ylabel(moments[k // columns], fontsize=8)
    figure.savefig(path)


def paths_plot(
    path: Path,
    lanes: Sequence[NDArray[np.floating[Any]]],
    driven: Sequence[NDArray[np.floating[Any]]],
    goals: Sequence[Sequence[tuple[float, float]]],
    titles: Sequence[str],
) -> None:
    """Save the paths that were driven, seen from above, with their goals and the lanes around them.

    Args:
        path: file to write.
        lanes: centre lines, (k, 2) each, metres, world frame (y points down in the picture, as in CARLA).
        driven: one path an env, (k, 2) each; a row of NaN interrupts the line, as between two episodes.
        goals: one list a path: the places of its goals, world frame.
        titles: one name a path.
    """
    # Only the part of the town that was used: a path of some hundred metres is lost in a picture of all of it.
    shown = np.concatenate([*driven, *(np.reshape(places, (-1, 2)) for places in goals)])
    low, high = np.nanmin(shown, axis=0), np.nanmax(shown, axis=0)
    middle, half = (low + high) / 2.0, np.maximum((high - low) / 2.0, 0.2 * float((high - low).max())) + _MARGIN_M
    height_in = min(max(_WIDTH_IN * float(half[1] / half[0]), 4.0), 1.3 * _WIDTH_IN)
    figure = Figure(figsize=(_WIDTH_IN, height_in + 0.4), dpi=_DPI, layout="constrained")
    axis: Any = figure.subplots()
    axis.add_collection(LineCollection([np.asarray(line) for line in lanes], colors="0.8", linewidths=0.8, zorder=1))
    for k, line in enumerate(driven):
        colour = _ENV_COLOURS[k % len(_ENV_COLOURS)]
        # Later paths are thinner, so that one is seen on top of another.
        width = max(1.2, 4.2 - 0.8 * k)
        axis.plot(line[:, 0], line[:, 1], color=colour, linewidth=width, label=titles[k], zorder=2)
        gaps = np.isnan(line[:, 0])
        starts = line[~gaps & np.concatenate([[True], gaps[:-1]])]
        axis.plot(starts[:, 0], starts[:, 1], "o", color=colour, markeredgecolor="black", markersize=6, zorder=3)
        axis.plot(*np.reshape(goals[k], (-1, 2)).T, "*", color=colour, markeredgecolor="black", markersize=13, zorder=3)
    axis.set_xlim(middle[0] - half[0], middle[0] + half[0])
    axis.set_ylim(middle[1] + half[1], middle[1] - half[1])
    axis.set_aspect("equal")
    axis.set_xlabel("x (m)")
    axis.set_ylabel("y (m)")
    axis.plot([], [], "o", color="white", markeredgecolor="black", markersize=6, label="start")
    axis.plot([], [], "*", color="white", markeredgecolor="black", markersize=13, label="goal")
    figure.legend(loc="outside upper center", ncols=3, fontsize=8)
    figure.savefig(path)


def latency_plot(path: Path, step_ms: NDArray[np.floating[Any]], breakdown: Mapping[str, float] | None = None) -> None:
    """Save how long the vector steps took.

    Args:
        path: file to write.
        step_ms: (k,), milliseconds of each vector step in order.
        breakdown: mean milliseconds a step by part, such as {"tick": 1.2, "render wait": 0.8}.
    """
    figure = Figure(figsize=(10.0, 3.6), dpi=_DPI, layout="constrained")
    width_ratios = [2.0, 1.0, 0.5] if breakdown else [2.0, 1.0]
    axes: Any = figure.subplots(1, len(width_ratios), width_ratios=width_ratios)
    p50_ms, p99_ms = np.percentile(step_ms, [50.0, 99.0])
    axes[0].plot(step_ms, linewidth=0.6, color="tab:blue")
    axes[0].set_xlabel("vector step")
    axes[0].set_ylabel("ms")
    axes[0].set_ylim(0.0, 1.5 * p99_ms)
    axes[1].hist(np.minimum(step_ms, 1.5 * p99_ms), bins=60, color="tab:blue")
    for value_ms, name, style in ((p50_ms, "p50", "-"), (p99_ms, "p99", "--")):
        axes[1].axvline(value_ms, color="black", linestyle=style, linewidth=1.0, label=f"{name} {value_ms:.2f} ms")
    axes[1].set_xlabel("ms")
    axes[1].set_ylabel("steps")
    axes[1].legend(fontsize=8)
    if breakdown:
        bottom_ms = 0.0
        for name, part_ms in breakdown.items():
            axes[2].bar([0], [part_ms], bottom=bottom_ms, label=f"{name} {part_ms:.2f} ms")
            bottom_ms += part_ms
        axes[2].set_xticks([])
        axes[2].set_ylabel("mean ms a step")
        axes[2].legend(fontsize=7, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    figure.savefig(path)
