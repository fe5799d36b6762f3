"""How smooth a drive was, by the bounds of Bench2Drive (which are nuPlan's).

A drive is cut into pieces of 20 ticks, and a piece is comfortable when six quantities, each smoothed, keep within their
bounds. The smoothness of a route is the share of its comfortable pieces.

What Bench2Drive's tool does is done here too, so that the numbers can be compared: it takes 0.1 s between two ticks for
the jerk although the Leaderboard ticks every 0.05 s; it holds the yaw rate, not its derivative, against the bound of
the yaw acceleration as well; it takes the angular velocity as the client gives it, in degrees a second, against bounds
in radians; and a piece at the end that is shorter is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_PIECE: Final = 20
_WINDOW: Final = 7
_DEGREE: Final = 2
_TICK_S: Final = 0.1
_LON_ACCELERATION: Final = (-4.05, 2.40)
_LAT_ACCELERATION: Final = (-4.89, 4.89)
_JERK: Final = (-8.37, 8.37)
_LON_JERK: Final = (-4.13, 4.13)
_YAW_ACCELERATION: Final = (-1.93, 1.93)
_YAW_RATE: Final = (-0.95, 0.95)

Array = NDArray[np.float64]


def smoothness(info: Mapping[str, Mapping[str, Any]]) -> float | None:
    """Return the share of comfortable pieces, 0 to 1; None for a drive that is too short to judge.

    Args:
        info: a `metric_info.json`.
    """
    ticks = list(info.values())
    if len(ticks) <= _DEGREE:
        return None
    columns = {
        name: np.array([tick[name] for tick in ticks], dtype=np.float64)
        for name in ("acceleration", "angular_velocity", "forward_vector", "right_vector")
    }
    whole = len(ticks) // _PIECE * _PIECE
    starts = range(0, whole, _PIECE) if len(ticks) > _PIECE else (0,)
    pieces = [{name: column[start : start + _PIECE] for name, column in columns.items()} for start in starts]
    return float(np.mean([_is_comfortable(**piece) for piece in pieces]))


def _is_comfortable(acceleration: Array, angular_velocity: Array, forward_vector: Array, right_vector: Array) -> bool:
    window = min(_WINDOW, len(acceleration))
    flat = acceleration[:, :2]
    lon = smoothed((flat * forward_vector[:, :2]).sum(axis=1), window)
    lat = smoothed((flat * right_vector[:, :2]).sum(axis=1), window)
    size = smoothed(np.hypot(*flat.T), window)
    yaw_rate = smoothed(np.unwrap(angular_velocity[:, 2]), window)
    return (
        _within(lon, _LON_ACCELERATION)
        and _within(lat, _LAT_ACCELERATION)
        and _within(slope(size, window) / _TICK_S, _JERK)
        and _within(slope(lon, window) / _TICK_S, _LON_JERK)
        and _within(yaw_rate, _YAW_ACCELERATION)
        and _within(yaw_rate, _YAW_RATE)
    )


def _within(values: Array, bounds: tuple[float, float]) -> bool:
    low, high = bounds
    return bool(np.all((values > low) & (values < high)))


def smoothed(values: Array, window: int) -> Array:
    """Return the Savitzky-Golay filter of the values: a parabola is fitted to a window around each."""
    return _fitted(values, window, 0)


def slope(values: Array, window: int) -> Array:
    """Return the same filter's derivative, a step."""
    return _fitted(values, window, 1)


def _fitted(values: Array, window: int, derivative: int) -> Array:
    """Fit a parabola to the window around each value (near the ends, the last whole one); its height or slope there."""
    places = np.arange(window, dtype=np.float64)
    fit = np.linalg.pinv(np.vander(places, _DEGREE + 1, increasing=True))  # values of a window -> coefficients
    windows = np.lib.stride_tricks.sliding_window_view(values, window) @ fit.T
    at = np.arange(len(values))
    start = np.clip(at - window // 2, 0, len(values) - window)
    x = (at - start).astype(np.float64)
    c0, c1, c2 = windows[start].T
    found: Array = c1 + 2.0 * c2 * x if derivative else c0 + c1 * x + c2 * x**2
    return found
