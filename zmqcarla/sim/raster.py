"""The ground as one picture: asphalt, pavements, grass and every painted line, seen from straight above.

`GroundRaster` paints the lanes' polygons once per map. Cameras then see it through a homography, at the mip level that
suits the distance, so far lines blur instead of flickering. Four channels, because OpenCV warps those faster than three
and the camera's buffer has four.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import replace
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

from zmqcarla.sim.bridges import over
from zmqcarla.sim.ground_paint import BEYOND, GroundPainter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from zmqcarla.sim.ground import LaneStrip
    from zmqcarla.sim.roads import RoadMap

    Floats = NDArray[np.float64]
    Image = NDArray[np.uint8]

ROAD_BGR_LOW = (72, 72, 72)
ROAD_BGR_HIGH = (118, 118, 118)
ROAD_MAX_CHROMA = 10
"""By clear daylight a pixel is road when its channels lie in this range and differ by no more than ROAD_MAX_CHROMA;
nothing else that the renderer paints is that neutral."""

MARGIN_M = 40.0
FINEST_M = 0.1
_MOST_PIXELS = 9_000_000
_LEVELS = 6
_COARSEST = 1 << (_LEVELS - 1)
_PATCH_M, _PATCH_STEP_M = 72.0, 24.0
_KEPT_PATCHES = 12


class Patch(NamedTuple):
    """Ground at FINEST_M a pixel: uint8 (n, n, 4) BGRA, and the place of its corner, as in GroundRaster."""

    image: Image
    origin_m: tuple[float, float]


def _on_the_ground(road_map: RoadMap, strip: LaneStrip) -> Iterator[LaneStrip]:
    """The parts of a lane that are no bridge."""
    bridge = over(road_map, strip)
    if bridge is None:
        yield strip
        return
    cuts = [0, *(np.flatnonzero(bridge[1:] != bridge[:-1]) + 1).tolist(), len(bridge)]
    for start, end in pairwise(cuts):
        if not bridge[start] and end - start > 1:
            part = slice(start, end)
            lines = {name: getattr(strip, name)[part] for name in ("s_m", "inner_m", "outer_m")}
            yield replace(strip, **lines)


class GroundRaster:
    """A map's ground from above.

    Attributes:
        atlas: uint8 (rows, columns * 3 / 2, 4) BGRA: all levels in one image, the first at its left.
        levels: uint8 (rows, columns, 4) images, each half the size of the one before; parts of the atlas.
        corners: Place (column, row) of each level in the atlas.
        labels: uint8, the semantic tags of levels[0], made when first asked for.
        pixel_m: Edge of a pixel of levels[0].
        origin_m: CARLA-frame (x, y) of the outer corner of pixel (0, 0); columns run along +x, rows along +y.
    """

    def __init__(self, road_map: RoadMap) -> None:
        min_x, min_y, max_x, max_y = road_map.bounds_m
        width, height = max_x - min_x + 2 * MARGIN_M, max_y - min_y + 2 * MARGIN_M
        self.pixel_m = max(FINEST_M, math.sqrt(width * height / _MOST_PIXELS))
        self.origin_m = (min_x - MARGIN_M, min_y - MARGIN_M)
        # whole multiples of the coarsest pixel, so that every level covers exactly the same ground
        rows, columns = (math.ceil(side / self.pixel_m / _COARSEST) * _COARSEST for side in (height, width))
        self._strips = [part for strip in road_map.strips for part in _on_the_ground(road_map, strip)]
        self._low, self._high = (
            np.array([pick([strip.inner_m.T, strip.outer_m.T], axis=(0, 2))[:2] for strip in self._strips])
            for pick in (np.min, np.max)
        )
        self._objects = [item for road in road_map.document.roads.values() for item in road.objects]
        self.atlas = np.zeros((rows, columns * 3 // 2, 4), np.uint8)
        finest = self.atlas[:, :columns]
        GroundPainter(finest, self.origin_m, self.pixel_m).paint(self._strips, self._objects)
        self._patches: OrderedDict[tuple[int, int], Patch] = OrderedDict()
        self.levels, self.corners = [finest], [(0, 0)]
        top = 0
        for _ in range(_LEVELS - 1):
            above = self.levels[-1]
            height, width = above.shape[0] // 2, above.shape[1] // 2
            part = self.atlas[top : top + height, columns : columns + width]
            cv2.resize(above, (width, height), dst=part, interpolation=cv2.INTER_AREA)
            self.levels.append(part)
            self.corners.append((columns, top))
            top += height

    @cached_property
    def labels(self) -> Image:
        """See the class."""
        labels = np.empty(self.levels[0].shape[:2], np.uint8)
        GroundPainter(labels, self.origin_m, self.pixel_m).paint(self._strips, self._objects)
        return labels

    def patch(self, x_m: float, y_m: float) -> Patch | None:
        """A finer picture of the ground around a place; None where the whole is as fine."""
        if self.pixel_m < 2.0 * FINEST_M:
            return None
        key = (round(x_m / _PATCH_STEP_M), round(y_m / _PATCH_STEP_M))
        patch = self._patches.get(key)
        if patch is None:
            patch = self._patches[key] = self._patch(key[0] * _PATCH_STEP_M, key[1] * _PATCH_STEP_M)
            if len(self._patches) > _KEPT_PATCHES:
                self._patches.popitem(last=False)
        return patch

    def _patch(self, x_m: float, y_m: float) -> Patch:
        half = _PATCH_M / 2
        origin_m = (x_m - half, y_m - half)
        near = (self._high >= origin_m).all(axis=1) & (self._low <= (x_m + half, y_m + half)).all(axis=1)
        image = np.empty((round(_PATCH_M / FINEST_M), round(_PATCH_M / FINEST_M), 4), np.uint8)
        strips = [self._strips[index] for index in np.flatnonzero(near).tolist()]
        objects = [
            item
            for item in self._objects
            if len(item.outline) and np.abs(item.outline[:, :2] - (x_m, y_m)).max(axis=1).min() < _PATCH_M
        ]
        GroundPainter(image, origin_m, FINEST_M).paint(strips, objects)
        return Patch(image, origin_m)

    def labels_at(self, xy_m: Floats) -> NDArray[np.uint8]:
        """Semantic tag at world places (n, 2): uint8 (n,)."""
        place = ((xy_m - self.origin_m) / self.pixel_m).astype(np.intp)
        rows, columns = self.labels.shape
        inside = ((place >= 0) & (place < (columns, rows))).all(axis=1)
        at = np.where(inside, place[:, 1] * columns + place[:, 0], 0)
        return np.where(inside, self.labels.ravel()[at], BEYOND).astype(np.uint8)
