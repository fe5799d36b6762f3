"""Courses of OpenDRIVE roads that are neither straight nor arcs, as chains of short arcs.

A clothoid's curvature grows linearly along it; polynomials give a point for a parameter. Either is cut into steps of
at most a metre, each an arc that begins at the exact point with the exact heading, so the error is far below a
millimetre on roads that cars can drive.

Source: ASAM OpenDRIVE 1.4 revision H, chapter 5.3.4.1 (spiral, poly3, paramPoly3).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

_STEP_M = 1.0
_SAMPLES_PER_STEP = 32


def _stops(length_m: float) -> Floats:
    """Where the steps begin, and the end of the last."""
    return np.linspace(0.0, length_m, max(math.ceil(length_m / _STEP_M), 1) + 1)


def clothoid(length_m: float, numbers: Mapping[str, float]) -> Floats:
    """Rows (s, x, y, heading, curvature) in the frame of the course's begin.

    Args:
        length_m: of the course.
        numbers: curvStart and curvEnd, 1/m.
    """
    s_m = _stops(length_m)
    growth = (numbers["curvEnd"] - numbers["curvStart"]) / length_m
    heading = numbers["curvStart"] * s_m + growth * s_m**2 / 2
    run, turn = np.diff(s_m), np.diff(heading)
    chord, towards = run * np.sinc(turn / 2 / np.pi), heading[:-1] + turn / 2
    x = np.concatenate([[0.0], np.cumsum(chord * np.cos(towards))])
    y = np.concatenate([[0.0], np.cumsum(chord * np.sin(towards))])
    return np.stack([s_m[:-1], x[:-1], y[:-1], heading[:-1], turn / run], axis=-1)


def cubic(length_m: float, numbers: Mapping[str, float]) -> Floats:
    """The same for poly3: v = a + b u + c u^2 + d u^3; u runs until the course is as long as it says."""
    line = {"aU": 0.0, "bU": 1.0, "cU": 0.0, "dU": 0.0}
    return _polynomial(length_m, {**line, **{f"{key}V": numbers[key] for key in "abcd"}}, length_m)


def parametric(length_m: float, numbers: Mapping[str, float], normalised: bool) -> Floats:
    """The same for paramPoly3: u and v are cubic in p, which runs to 1 or to the length."""
    return _polynomial(length_m, numbers, 1.0 if normalised else length_m)


def _polynomial(length_m: float, numbers: Mapping[str, float], last: float) -> Floats:
    across, up = ([numbers[key + axis] for key in "dcba"] for axis in "UV")
    p = np.linspace(0.0, last, (len(_stops(length_m)) - 1) * _SAMPLES_PER_STEP + 1)
    u, v = np.polyval(across, p), np.polyval(up, p)
    run = np.concatenate([[0.0], np.cumsum(np.hypot(np.diff(u), np.diff(v)))])
    s_m = _stops(min(length_m, float(run[-1])))
    at = np.interp(s_m, run, p)
    heading = np.unwrap(np.arctan2(np.polyval(np.polyder(up), at), np.polyval(np.polyder(across), at)))
    curvature = np.diff(heading) / np.maximum(np.diff(s_m), 1e-9)
    places = np.polyval(across, at), np.polyval(up, at)
    rows = np.stack([s_m[:-1], places[0][:-1], places[1][:-1], heading[:-1], curvature], axis=-1)
    return rows.astype(np.float64)
