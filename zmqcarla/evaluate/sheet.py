"""The contact sheet of a route: some moments on the way, each with its time and speed, seen from above and forwards."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Polygon
from numpy.typing import NDArray

from zmqcarla.evaluate.pictures import MARKS
from zmqcarla.evaluate.ticks import ROTATION, SPEED

_COLUMNS: Final = 4
_RADIUS_M: Final = 30.0
_TICK_S: Final = 0.05
_LENGTH_M, _WIDTH_M = 4.7, 2.0

Picture = NDArray[np.uint8]


def contact_sheet(
    path: Path,
    title: str,
    lanes: Sequence[NDArray[np.floating[Any]]],
    route: NDArray[np.floating[Any]],
    states: NDArray[np.floating[Any]],
    moments: Sequence[tuple[int, Picture | None]],
    events: Sequence[dict[str, Any]],
) -> None:
    """Save the sheet.

    Args:
        path: file to write.
        title: over it.
        lanes: centre lines of the map, (k, 2) each, metres, world frame (y points down, as in CARLA).
        route: (k, 2), the line to drive.
        states: (k, 16), `vehicle_state` of each step.
        moments: numbers of steps, each with the camera's picture or None.
        events: of the record: what is drawn where it happened, once it has.
    """
    seen = any(picture is not None for _, picture in moments)
    rows = -(-len(moments) // _COLUMNS)
    heights = ([0.62] if seen else []) + [1.0]
    figure = Figure(figsize=(13.0, rows * 3.3 * sum(heights) + 0.5), dpi=90, layout="constrained")
    figure.suptitle(title, fontsize=11)
    axes = figure.subplots(rows * len(heights), _COLUMNS, squeeze=False, gridspec_kw={"height_ratios": heights * rows})
    for axis in axes.flat:
        axis.set_axis_off()
    lines = _near(lanes, states)
    for number, (step, picture) in enumerate(moments):
        row, column = divmod(number, _COLUMNS)
        top = axes[row * len(heights), column]
        top.set_title(f"{(step + 1) * _TICK_S:.1f} s, {states[step, SPEED]:.1f} m/s", fontsize=10)
        if seen:
            top.imshow(np.zeros((9, 16, 3), np.uint8) if picture is None else picture)
        _from_above(axes[row * len(heights) + len(heights) - 1, column], lines, route, states, step, events)
    figure.savefig(path, pil_kwargs={"quality": 85})


def _near(lanes: Sequence[NDArray[np.floating[Any]]], states: NDArray[np.floating[Any]]) -> list[Any]:
    """The lanes that come near the way driven; a town has thousands."""
    low, high = states[:, :2].min(axis=0) - 2 * _RADIUS_M, states[:, :2].max(axis=0) + 2 * _RADIUS_M
    return [line for line in map(np.asarray, lanes) if np.any(np.all((line > low) & (line < high), axis=1))]


def _from_above(
    axis: Any,
    lines: list[Any],
    route: NDArray[np.floating[Any]],
    states: NDArray[np.floating[Any]],
    step: int,
    events: Sequence[dict[str, Any]],
) -> None:
    x_m, y_m = states[step, :2]
    axis.add_collection(LineCollection(lines, colors="0.8", linewidths=1.0, zorder=1))
    axis.plot(route[:, 0], route[:, 1], color="tab:blue", linewidth=7.0, alpha=0.2, zorder=2)
    axis.plot(states[: step + 1, 0], states[: step + 1, 1], color="tab:green", linewidth=1.8, zorder=3)
    axis.add_patch(Polygon(_outline(states[step]), closed=True, facecolor="tab:green", edgecolor="black", zorder=4))
    for event in events:
        marker, colour, _ = MARKS.get(event["kind"], ("", "", ""))
        if marker and event["kind"] != "min_speed_infractions" and event["time_s"] <= (step + 1) * _TICK_S:
            axis.scatter(event["x_m"], event["y_m"], marker=marker, s=70, color=colour, edgecolor="white", zorder=5)
    axis.set_xlim(x_m - _RADIUS_M, x_m + _RADIUS_M)
    axis.set_ylim(y_m + _RADIUS_M, y_m - _RADIUS_M)
    axis.set_aspect("equal")
    axis.set_axis_on()
    axis.set_xticks([])
    axis.set_yticks([])


def _outline(state: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """A car's outline with a pointed front, (5, 2), metres, world frame."""
    half_m, side_m = _LENGTH_M / 2, _WIDTH_M / 2
    corners = np.array(
        [[half_m, 0.0], [half_m - 1.2, side_m], [-half_m, side_m], [-half_m, -side_m], [half_m - 1.2, -side_m]]
    )
    yaw = np.radians(state[ROTATION][2])
    turn = np.array([[np.cos(yaw), np.sin(yaw)], [-np.sin(yaw), np.cos(yaw)]])
    return np.asarray(corners @ turn + state[:2], dtype=np.float64)
