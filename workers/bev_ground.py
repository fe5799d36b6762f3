"""The part of a bird's-eye view that stands still: lanes, their markings and stop lines, as one raster of the world.

The raster is north up, of the same resolution as the view, and covers a square around the ego that is painted anew
when the ego comes near its edge; its pixels are those of a grid fixed to the world, so that what is seen does not
depend on where the square lies. Each pixel is a byte of flags; a view is one lookup a pixel, whatever it shows.

Areas are painted by points: a lattice over each quadrangle, fine enough (0.7 pixels) that no pixel inside is missed.
"""

from __future__ import annotations

import math
from typing import Any, Final

import carla
import numpy as np
from numpy.typing import NDArray

ROAD: Final = 1
BROKEN: Final = 2
SOLID: Final = 4
STOP_LINE: Final = 8

LATTICE_PX: Final = 0.7
_SPACING_M: Final = 2.0
_SQUARE_PX: Final = 2048
_STOP_SIGN: Final = "206"  # as OpenDRIVE numbers it in CARLA's maps

Segments = NDArray[np.float64]
"""float64 (n, 2, 2): from, to; x, y; metres, world frame."""


class RoadLines:
    """The lanes of a map as plain lines.

    Attributes:
        left_m: left edges of the lanes in pieces of about two metres.
        right_m: the right edges, piece by piece.
        marked_m: markings.
        mark: uint8 (n,), BROKEN or SOLID of each piece of marking.
        stops_m: lines across the lanes at stop signs.
    """

    def __init__(self, town: carla.Map) -> None:
        """Walk all driving lanes of a map; some hundredths of a second."""
        lefts: list[Segments] = []
        rights: list[Segments] = []
        marked: list[Segments] = []
        marks: list[int] = []
        for start, _ in town.get_topology():
            waypoints = [start, *start.next_until_lane_end(_SPACING_M)]
            if waypoints[-1].next(0.5):
                waypoints.append(waypoints[-1].next(0.5)[0])
            left, right = _edges(waypoints)
            lefts.append(np.stack([left[:-1], left[1:]], axis=1))
            rights.append(np.stack([right[:-1], right[1:]], axis=1))
            for k, waypoint in enumerate(waypoints[:-1]):
                sides = ((waypoint.left_lane_marking, lefts[-1][k]), (waypoint.right_lane_marking, rights[-1][k]))
                for marking, segment in sides:
                    kind = _MARK.get(str(marking.type), 0)
                    if kind:
                        marked.append(segment)
                        marks.append(kind)
        self.left_m: Segments = np.concatenate(lefts)
        self.right_m: Segments = np.concatenate(rights)
        self.marked_m: Segments = np.array(marked).reshape(-1, 2, 2)
        self.mark = np.array(marks, dtype=np.uint8)
        signs = [town.get_waypoint(sign.transform.location) for sign in town.get_all_landmarks_of_type(_STOP_SIGN)]
        self.stops_m: Segments = np.array([across(waypoint) for waypoint in signs if waypoint]).reshape(-1, 2, 2)


class Ground:
    """The raster around the ego.

    Attributes:
        flags: uint8 (rows, columns), the flags of each pixel; rows go along world y, columns along world x.
        corner_px: column and row of the world's grid at flags[0, 0].
    """

    def __init__(self, lines: RoadLines, light_lines_m: Segments, pixels_per_metre: float, reach_px: float) -> None:
        """Plan the raster; it is painted when it is first looked at.

        Args:
            lines: of the map.
            light_lines_m: where to stop for lights.
            pixels_per_metre: resolution.
            reach_px: how far a view reaches from the ego.
        """
        self._lines = lines
        self._stops_m = np.concatenate([lines.stops_m, light_lines_m])
        self._ppm = pixels_per_metre
        self._reach_px = math.ceil(reach_px) + 2
        self._side_px = max(_SQUARE_PX, 4 * self._reach_px)
        self.flags: NDArray[np.uint8] = np.zeros((0, 0), np.uint8)
        self.corner_px = (0, 0)

    def cover(self, x_m: float, y_m: float) -> None:
        """Paint the raster anew unless it reaches far enough around a place."""
        column, row = x_m * self._ppm - self.corner_px[0], y_m * self._ppm - self.corner_px[1]
        least, most = self._reach_px, len(self.flags) - self._reach_px
        if least <= column <= most and least <= row <= most:
            return
        half = self._side_px // 2
        self.corner_px = (math.floor(x_m * self._ppm) - half, math.floor(y_m * self._ppm) - half)
        self.flags = np.zeros((self._side_px, self._side_px), np.uint8)
        lines = self._lines
        self._fill(lines.left_m, lines.right_m, ROAD)
        for kind in (BROKEN, SOLID):
            some = lines.marked_m[lines.mark == kind]
            self._fill(some, some, kind)
        self._fill(self._stops_m, self._stops_m, STOP_LINE)

    def _fill(self, left_m: Segments, right_m: Segments, flag: int) -> None:
        """Paint the quadrangles between two rows of segments; the two may be the same."""
        corner = np.array(self.corner_px)
        left, right = left_m * self._ppm - corner, right_m * self._ppm - corner
        middle = (left + right).mean(axis=1) / 2.0
        near = ((middle > -100.0) & (middle < self._side_px + 100.0)).all(axis=1)
        left, right = left[near], right[near]
        if not len(left):
            return
        length = np.linalg.norm(left[:, 1] - left[:, 0], axis=1).max()
        length = max(length, np.linalg.norm(right[:, 1] - right[:, 0], axis=1).max())
        width = np.linalg.norm(right - left, axis=2).max()
        u = np.linspace(0.0, 1.0, math.ceil(length / LATTICE_PX) + 1)[:, None, None]
        for v in np.linspace(0.0, 1.0, math.ceil(width / LATTICE_PX) + 1):
            line = left + (right - left) * v
            points = np.floor(line[:, 0] + (line[:, 1] - line[:, 0]) * u).astype(np.int32).reshape(-1, 2)
            inside = (points.view(np.uint32) < self._side_px).all(axis=1)
            points = points[inside]
            self.flags[points[:, 1], points[:, 0]] |= np.uint8(flag)


def across(waypoint: Any) -> NDArray[np.float64]:
    """A line across a lane: float64 (2, 2), metres, world frame."""
    left, right = _edges([waypoint])
    return np.concatenate([left, right])


def _edges(waypoints: list[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Left and right edge at each waypoint, float64 (n, 2) each."""
    poses = [(waypoint.transform, waypoint.lane_width) for waypoint in waypoints]
    centre = np.array([(pose.location.x, pose.location.y) for pose, _ in poses])
    yaw = np.radians([pose.rotation.yaw for pose, _ in poses])
    half = np.array([width / 2.0 for _, width in poses])
    to_right = np.stack([-np.sin(yaw), np.cos(yaw)], axis=1) * half[:, None]
    return centre - to_right, centre + to_right


_MARK: Final = {
    "Broken": BROKEN,
    "BrokenBroken": BROKEN,
    "BrokenSolid": BROKEN,
    "SolidBroken": BROKEN,
    "Solid": SOLID,
    "SolidSolid": SOLID,
}
"""By the name of CARLA's `LaneMarkingType`; other types are no lines on the road."""
