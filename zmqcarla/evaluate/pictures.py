"""One picture a route: the way to drive, the way driven, and where what happened."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray

_MARGIN_M: Final = 20.0
_WIDTH_IN: Final = 9.0
MARKS: Final = {
    "collisions_layout": ("X", "black", "collision with layout"),
    "collisions_pedestrian": ("X", "magenta", "collision with pedestrian"),
    "collisions_vehicle": ("X", "red", "collision with vehicle"),
    "red_light": ("o", "red", "red light"),
    "stop_infraction": ("8", "darkorange", "stop sign"),
    "outside_route_lanes": ("v", "saddlebrown", "outside lanes (last place)"),
    "min_speed_infractions": ("s", "grey", "too slow"),
    "yield_emergency_vehicle_infractions": ("P", "blue", "did not yield"),
    "scenario_timeouts": ("D", "grey", "scenario timeout"),
    "route_dev": ("d", "purple", "left the route"),
    "vehicle_blocked": ("p", "purple", "blocked"),
    "route_timeout": ("h", "purple", "timeout"),
}

_ACTORS: Final = {
    "vehicle": ("s", "royalblue", "scenario's vehicle"),
    "walker": ("h", "deeppink", "scenario's walker"),
    "static": ("^", "darkorange", "scenario's prop"),
}


def route_picture(
    path: Path,
    title: str,
    lanes: Sequence[NDArray[np.floating[Any]]],
    route: NDArray[np.floating[Any]],
    driven: NDArray[np.floating[Any]],
    record: dict[str, Any],
) -> None:
    """Save the picture.

    Args:
        path: file to write.
        title: over it.
        lanes: centre lines of the map, (k, 2) each, metres, world frame (y points down, as in CARLA).
        route: (k, 2), the line to drive.
        driven: (k, 3): x and y of each step, and the speed in m/s.
        record: of the route: its "events", "scenarios" and "scenario_actors" are drawn.
    """
    shown = np.concatenate([route, driven[:, :2]])
    low, high = shown.min(axis=0) - _MARGIN_M, shown.max(axis=0) + _MARGIN_M
    width_m, height_m = high - low
    height_in = float(np.clip(0.8 * _WIDTH_IN * height_m / width_m, 4.0, 12.0))
    figure = Figure(figsize=(_WIDTH_IN, height_in + 1.0), dpi=120, layout="constrained")
    axis: Any = figure.subplots()
    axis.add_collection(LineCollection([np.asarray(line) for line in lanes], colors="0.85", linewidths=0.8, zorder=1))
    axis.plot(route[:, 0], route[:, 1], color="0.45", linewidth=4.0, alpha=0.5, label="route", zorder=2)
    pieces = np.stack([driven[:-1, :2], driven[1:, :2]], axis=1)
    line = LineCollection(list(pieces), cmap="viridis", array=driven[1:, 2], linewidths=2.0, zorder=3)
    axis.add_collection(line)
    figure.colorbar(line, ax=axis, label="speed (m/s)", shrink=0.7)
    axis.plot(*route[0], "o", color="white", markeredgecolor="black", markersize=8, label="start", zorder=4)
    axis.plot(*route[-1], "*", color="white", markeredgecolor="black", markersize=15, label="goal", zorder=4)
    _draw_scenarios(axis, record)
    for kind, (marker, colour, name) in MARKS.items():
        places = _places([each for each in record["events"] if each["kind"] == kind])
        if len(places):
            label = f"{name} ({len(places)})"
            axis.scatter(*places.T, marker=marker, s=110, color=colour, edgecolor="white", label=label, zorder=5)
    axis.set_xlim(low[0], high[0])
    axis.set_ylim(high[1], low[1])
    axis.set_aspect("equal")
    axis.set_xlabel("x (m)")
    axis.set_ylabel("y (m)")
    axis.set_title(title, fontsize=10)
    figure.legend(loc="outside lower center", ncols=4, fontsize=8)
    figure.savefig(path, bbox_inches="tight")


def _draw_scenarios(axis: Any, record: dict[str, Any]) -> None:
    """Draw where scenarios were triggered, with their names, and where their actors came."""
    for family, (marker, colour, name) in _ACTORS.items():
        actors = [each for each in record["scenario_actors"] if each["type"].startswith(family)]
        if actors:
            label = f"{name} ({len(actors)})"
            axis.scatter(
                *_places(actors).T, marker=marker, s=26, color=colour, edgecolor="black", label=label, zorder=4
            )
    # Several may begin at one place.
    texts: dict[tuple[float, float], list[str]] = {}
    for each in record["scenarios"]:
        texts.setdefault((each["x_m"], each["y_m"]), []).append(f"{each['name'].partition(' ')[0]}: {each['status']}")
    for place, names in texts.items():
        axis.plot(*place, "|", color="black", markersize=14, zorder=4)
        axis.annotate("\n".join(names), place, xytext=(6, 8), textcoords="offset points", fontsize=6, zorder=6)


def _places(things: Sequence[dict[str, Any]]) -> NDArray[np.float64]:
    return np.array([(each["x_m"], each["y_m"]) for each in things], dtype=np.float64).reshape(-1, 2)
