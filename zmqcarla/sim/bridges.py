"""Roads that pass over others: which parts of lanes they are, and their decks as boxes that stand in the world.

The ground and its picture know only what lies lowest. So a bridge is a thing, like a house: it is seen from above and
from below, and hides what is behind it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from zmqcarla.sim.meshes import Kind
from zmqcarla.sim.scenery import BOX_DTYPE, with_radius

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from zmqcarla.sim.ground import LaneStrip
    from zmqcarla.sim.roads import RoadMap

    Floats = NDArray[np.float64]
    Flags = NDArray[np.bool_]

DEEP_M = -1e4
"""Whoever asks for the ground from here gets the lowest road."""

_CLEARANCE_M = 2.5
_OVERHANG = 5
_PIECE = 4
_THICK_M = 0.4
_LINE_M = 0.11
_ASPHALT_BGR, _PAVEMENT_BGR = (104, 103, 102), (156, 166, 172)
_WHITE_BGR, _YELLOW_BGR = (222, 222, 222), (30, 170, 215)


def over(road_map: RoadMap, strip: LaneStrip) -> Flags | None:
    """At which of a strip's points it passes over another road: bool (k,); None when nowhere."""
    if not road_map.ground.has_bridges:
        return None
    found = np.zeros(len(strip.s_m), np.bool_)
    for line in (strip.inner_m, strip.outer_m):
        found |= line[:, 2] - road_map.heights_m(line[:, :2], np.full(len(line), DEEP_M)) > _CLEARANCE_M
    return found if found.any() else None


def decks(road_map: RoadMap) -> NDArray[np.void]:
    """Decks of all bridges and the lines on them (BOX_DTYPE)."""
    parts: list[tuple[object, ...]] = []
    for strip in road_map.strips if road_map.ground.has_bridges else ():
        found = over(road_map, strip)
        if found is None or strip.lane.kind == "none":
            continue
        # a little further than the gap, so that the deck rests on both banks
        found = np.convolve(found, np.ones(2 * _OVERHANG + 1), "same") > 0
        for start in range(0, len(found) - 1, _PIECE):
            end = min(start + _PIECE, len(found) - 1)
            if found[start : end + 1].any():
                parts.extend(_piece(strip, start, end))
    return with_radius(np.array(parts, BOX_DTYPE))


def _piece(strip: LaneStrip, start: int, end: int) -> Iterator[tuple[object, ...]]:
    """The deck below one lane (the centre line has none) from point `start` to `end`, and the line at its edge."""
    inner, outer = strip.inner_m[[start, end]], strip.outer_m[[start, end]]
    if strip.lane.lane_id:
        wide = float(np.linalg.norm((outer - inner)[:, :2], axis=1).max()) / 2 + 0.1
        colour = _PAVEMENT_BGR if strip.lane.kind == "sidewalk" else _ASPHALT_BGR
        yield _slab((inner + outer) / 2, wide, _THICK_M, Kind.DECK, colour)
    mark = next(iter(strip.lane.marks), None)
    dashed = mark is not None and "broken" in mark.kind
    if mark is not None and mark.kind != "none" and not (dashed and (start // _PIECE) % 2):
        yield _slab(outer, _LINE_M, 0.02, Kind.DECK_LINE, _YELLOW_BGR if mark.yellow else _WHITE_BGR)


def _slab(
    line: Floats, half_wide: float, half_thick: float, kind: Kind, bgr: tuple[int, int, int]
) -> tuple[object, ...]:
    """A box below a line (2, 3); lines lie on top of their deck."""
    along = line[1] - line[0]
    flat = float(np.hypot(along[0], along[1]))
    yaw, pitch = np.degrees(np.arctan2(along[1], along[0])), np.degrees(np.arctan2(along[2], flat))
    x, y, z = line.mean(axis=0).tolist()
    z += half_thick if kind == Kind.DECK_LINE else -half_thick
    half = (float(np.linalg.norm(along)) / 2 + 0.1, half_wide, half_thick)
    return (x, y, z), half, (float(pitch), float(yaw), 0.0), bgr, int(kind), 0, -1, 0, 0, 0.0
