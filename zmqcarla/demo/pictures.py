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
    goals: Sequence[tuple[float, float]] = (),
    titles: Sequence[str] | None = None,
) -> None:
    """Save the lanes of the map from above, the paths that were driven, and their goals.

    Args:
        path: file to write.
        lanes: centre lines, (k, 2) each, metres, world frame (y points down in the picture, as in CARLA).
        driven: one path an env, (k, 2) each; a row of NaN interrupts the line, as between two episodes.
        goals: places of the goals, world frame; one a path, or any number of common ones.
        titles: one name a path.
    """
    figure = Figure(figsize=(8.0, 8.0), dpi=_DPI, layout="constrained")
    axis: Any = figure.subplots()
    axis.add_collection(LineCollection([np.asarray(line) for line in lanes], colors="0.8", linewidths=0.8, zorder=1))
    for k, line in enumerate(driven):
        colour = _ENV_COLOURS[k % len(_ENV_COLOURS)]
        label = None if titles is None else titles[k]
        axis.plot(line[:, 0], line[:, 1], color=colour, linewidth=1.8, label=label, zorder=2)
        axis.plot(line[0, 0], line[0, 1], "o", color=colour, markersize=5, zorder=3)
    for k, (x_m, y_m) in enumerate(goals):
        # As many goals as paths are the paths' own.
        colour = _ENV_COLOURS[k % len(_ENV_COLOURS)] if len(goals) == len(driven) else "black"
        axis.plot(x_m, y_m, "*", color=colour, markeredgecolor="black", markersize=10, linestyle="none", zorder=3)
    axis.autoscale_view()
    axis.set_aspect("equal")
    axis.invert_yaxis()
    axis.set_xlabel("x (m)")
    axis.set_ylabel("y (m)")
    if titles is not None:
        axis.legend(loc="best", fontsize=8)
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
        axes[2].legend(fontsize=7)
    figure.savefig(path)
