"""The ground as one picture: asphalt, pavements, grass and every painted line, seen from straight above.

`GroundRaster` paints the lanes' polygons once per map. Cameras then see it through a homography, at the mip level that
suits the distance, so far lines blur instead of flickering. Four channels, because OpenCV warps those faster than three
and the camera's buffer has four.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

import cv2
import numpy as np

from zmqcarla.sim.blueprints import Label
from zmqcarla.sim.bridges import over
from zmqcarla.sim.opendrive import DRIVABLE, RoadObject

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from zmqcarla.sim.ground import LaneStrip
    from zmqcarla.sim.roads import RoadMap

    Floats = NDArray[np.float64]
    Image = NDArray[np.uint8]

Colour = tuple[int, int, int, int]

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

_ASPHALT: Colour = (88, 87, 86, 255)
_GUTTER: Colour = (126, 133, 138, 255)
_SIDEWALK: Colour = (148, 159, 166, 255)
_KERB: Colour = (172, 180, 186, 255)
_MEDIAN: Colour = (62, 118, 92, 255)
_WHITE: Colour = (222, 222, 222, 255)
_YELLOW: Colour = (30, 170, 215, 255)
GRASS: Colour = (58, 112, 84, 255)

_LABELS = {
    _ASPHALT: int(Label.ROADS),
    _GUTTER: int(Label.ROADS),
    _SIDEWALK: int(Label.SIDEWALKS),
    _KERB: int(Label.SIDEWALKS),
    _MEDIAN: int(Label.TERRAIN),
    _WHITE: int(Label.ROAD_LINES),
    _YELLOW: int(Label.ROAD_LINES),
}

_DASH_M = 3.0
_DASH_GAP_M = 4.5
_DOUBLE_M = 0.2
_LINE_M = 0.22
_STOP_LINE_M = 0.45
_STRIPE_M = 0.55
_LARGEST_GAP_M2 = 60.0
_SHIFT = 4


def _surface_colour(strip: LaneStrip) -> tuple[int, Colour] | None:
    """(painting order, colour) of a lane's surface: roadways last, so junctions stay clear; None is left as grass."""
    kind = strip.lane.kind
    if kind in DRIVABLE:
        return 3, _ASPHALT
    if kind in ("sidewalk", "median"):
        return 0, _SIDEWALK if kind == "sidewalk" else _MEDIAN
    if kind in ("shoulder", "border", "stop", "biking", "restricted"):
        wide = float(np.linalg.norm(strip.outer_m[:, :2] - strip.inner_m[:, :2], axis=1).max()) > 1.0
        return (2, _ASPHALT) if wide else (1, _GUTTER)
    return None


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


def _offset(points: Floats, aside_m: float) -> Floats:
    """The line moved sideways: float64 (n, 2)."""
    along = np.gradient(points, axis=0)
    along /= np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-9)
    shifted: Floats = points + aside_m * np.stack([-along[:, 1], along[:, 0]], axis=-1)
    return shifted


def _dashes(points: Floats) -> list[Floats]:
    """The line cut into dashes, each float64 (2, 2)."""
    run = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    starts = np.arange(0.5, run[-1] - 0.5, _DASH_M + _DASH_GAP_M)
    ends = np.minimum(starts + _DASH_M, run[-1])
    x, y = (np.interp(np.stack([starts, ends], axis=-1), run, axis) for axis in points.T)
    return list(np.stack([x, y], axis=-1))


_PATTERNS: dict[str, tuple[tuple[float, bool], ...]] = {
    "solid": ((0.0, False),),
    "broken": ((0.0, True),),
    "solid solid": ((-_DOUBLE_M, False), (_DOUBLE_M, False)),
    "solid broken": ((-_DOUBLE_M, False), (_DOUBLE_M, True)),
    "broken solid": ((-_DOUBLE_M, True), (_DOUBLE_M, False)),
    "broken broken": ((-_DOUBLE_M, True), (_DOUBLE_M, True)),
    "botts dots": ((0.0, True),),
}
"""By road-mark type: the lines it consists of as (metres aside, dashed)."""


class GroundRaster:
    """A map's ground from above.

    Attributes:
        atlas: uint8 (rows, columns * 3 / 2, 4) BGRA: all levels in one image, the first at its left.
        levels: uint8 (rows, columns, 4) images, each half the size of the one before; parts of the atlas.
        corners: Place (column, row) of each level in the atlas.
        labels: uint8, the semantic tags of levels[0], made when first asked for.
        beyond: Semantic tag of what lies outside.
        pixel_m: Edge of a pixel of levels[0].
        origin_m: CARLA-frame (x, y) of the outer corner of pixel (0, 0); columns run along +x, rows along +y.
    """

    beyond = int(Label.TERRAIN)

    def __init__(self, road_map: RoadMap) -> None:
        min_x, min_y, max_x, max_y = road_map.bounds_m
        width, height = max_x - min_x + 2 * MARGIN_M, max_y - min_y + 2 * MARGIN_M
        self.pixel_m = max(FINEST_M, math.sqrt(width * height / _MOST_PIXELS))
        self.origin_m = (min_x - MARGIN_M, min_y - MARGIN_M)
        # whole multiples of the coarsest pixel, so that every level covers exactly the same ground
        rows, columns = (math.ceil(side / self.pixel_m / _COARSEST) * _COARSEST for side in (height, width))
        self._map = road_map
        self._strips = [part for strip in road_map.strips for part in _on_the_ground(road_map, strip)]
        self.atlas = np.zeros((rows, columns * 3 // 2, 4), np.uint8)
        self._image = self.atlas[:, :columns]
        self._as_labels = False
        self._plant_grass()
        self._paint_all()
        self._grain()
        self.levels, self.corners = [self._image], [(0, 0)]
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
        seen = self._image
        self._image, self._as_labels = np.full(seen.shape[:2], self.beyond, np.uint8), True
        self._paint_all()
        labels, self._image, self._as_labels = self._image, seen, False
        return labels

    def labels_at(self, xy_m: Floats) -> NDArray[np.uint8]:
        """Semantic tag at world places (n, 2): uint8 (n,)."""
        place = ((xy_m - self.origin_m) / self.pixel_m).astype(np.intp)
        rows, columns = self.labels.shape
        inside = ((place >= 0) & (place < (columns, rows))).all(axis=1)
        at = np.where(inside, place[:, 1] * columns + place[:, 0], 0)
        return np.where(inside, self.labels.ravel()[at], self.beyond).astype(np.uint8)

    def _paint_all(self) -> None:
        self._paint_surfaces()
        self._close_gaps(self._strips)
        self._paint_marks(self._strips)
        self._paint_objects(item for road in self._map.document.roads.values() for item in road.objects)

    def _ink(self, colour: Colour) -> tuple[Colour | int, int]:
        """What to paint a colour with, and the kind of line: the colour itself, smooth; or its label."""
        return (_LABELS[colour], cv2.LINE_8) if self._as_labels else (colour, cv2.LINE_AA)

    def _plant_grass(self) -> None:
        """A field of grass with soft patches."""
        rows, columns = self._image.shape[:2]
        tile = _noise(512, coarse=32, fine=4)
        patches = np.clip(np.array(GRASS[:3]) + tile[:, :, None] * np.array([8, 13, 9]), 0, 255)
        tile_bgra = np.dstack([patches, np.full((512, 512), 255)]).astype(np.uint8)
        for top in range(0, rows, 512):
            for left in range(0, columns, 512):
                part = self._image[top : top + 512, left : left + 512]
                part[:] = tile_bgra[: part.shape[0], : part.shape[1]]

    def _grain(self) -> None:
        """Fine grain over everything: it lets the eye see motion on plain asphalt."""
        grain = (np.clip(_noise(256, coarse=8, fine=1) * 4.0 + 7.0, 0, 14)).astype(np.uint8)
        rows, columns = self._image.shape[:2]
        plain = cv2.cvtColor(np.tile(grain, (1, columns // 256 + 1)), cv2.COLOR_GRAY2BGRA)[:, :columns]
        for top in range(0, rows, 256):
            part = self._image[top : top + 256]
            cv2.add(part, plain[: part.shape[0]], dst=part)

    def _pixels(self, points: Floats) -> NDArray[np.int32]:
        """Fixed-point pixel positions of float64 (n, 2 or more): int32 (n, 2), for OpenCV's `shift`."""
        place = (points[:, :2] - self.origin_m) / self.pixel_m - 0.5
        return np.asarray(np.round(place * (1 << _SHIFT)), np.int32)

    def _fill(self, outlines: Iterable[Floats], colour: Colour) -> None:
        ink, smooth = self._ink(colour)
        for outline in outlines:
            cv2.fillPoly(self._image, [self._pixels(outline)], cast("Any", ink), smooth, _SHIFT)

    def _draw(self, lines: Sequence[Floats], colour: Colour, width_m: float) -> None:
        thick = max(1, round(width_m / self.pixel_m))
        ink, smooth = self._ink(colour)
        pixels = [self._pixels(line) for line in lines]
        cv2.polylines(self._image, pixels, False, cast("Any", ink), thick, smooth, _SHIFT)

    def _paint_surfaces(self) -> None:
        """All lane surfaces but those of bridges."""
        jobs: list[tuple[int, int, Colour]] = []
        for index, strip in enumerate(self._strips):
            surface = _surface_colour(strip) if strip.lane.lane_id else None
            if surface is not None:
                jobs.append((surface[0], index, surface[1]))
        for order, index, colour in sorted(jobs):
            strip = self._strips[index]
            self._fill([strip.outline_m], colour)
            if order == 0:
                self._draw([strip.inner_m], _KERB, 0.2)

    def _close_gaps(self, strips: Iterable[LaneStrip]) -> None:
        """Pave the slivers between the connecting roads of a junction, which no lane covers."""
        coarse_m = 4 * self.pixel_m
        rows, columns = self._image.shape[:2]
        paved = np.zeros((rows // 4 + 1, columns // 4 + 1), np.uint8)
        for strip in strips:
            if strip.lane.lane_id and _surface_colour(strip) is not None:
                cv2.fillPoly(paved, [self._pixels(strip.outline_m) // 4], 255, cv2.LINE_8, _SHIFT)
        ink = cast("Any", self._ink(_ASPHALT)[0])
        contours, tree = cv2.findContours(paved, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        for contour, links in zip(contours, np.asarray(tree).reshape(-1, 4), strict=True):
            if links[3] >= 0 and cv2.contourArea(contour) * coarse_m**2 < _LARGEST_GAP_M2:
                outline = np.asarray(contour, np.int32) * 4 + 2
                cv2.fillPoly(self._image, [outline], ink)
                cv2.polylines(self._image, [outline], True, ink, 4)

    def _paint_marks(self, strips: Iterable[LaneStrip]) -> None:
        by_colour: dict[Colour, list[Floats]] = {_WHITE: [], _YELLOW: []}
        for strip in strips:
            starts = [strip.section.start_m + mark.s_offset_m for mark in strip.lane.marks]
            for mark, start, end in zip(strip.lane.marks, starts, [*starts[1:], math.inf], strict=True):
                part = strip.outer_m[(strip.s_m >= start - 0.5) & (strip.s_m <= end + 0.5), :2]
                if len(part) < 2:
                    continue
                for aside_m, dashed in _PATTERNS.get(mark.kind, ()):
                    line = _offset(part, aside_m) if aside_m else part
                    by_colour[_YELLOW if mark.yellow else _WHITE].extend(_dashes(line) if dashed else [line])
        for colour, lines in by_colour.items():
            self._draw(lines, colour, _LINE_M)

    def _paint_objects(self, objects: Iterable[RoadObject]) -> None:
        for item in objects:
            if len(item.outline) < 2:
                continue
            if item.kind == "crosswalk":
                self._fill([item.outline], _ASPHALT)
                self._fill(_stripes(item.outline[:, :2]), _WHITE)
            elif item.name == "StopLine":
                self._draw([item.outline], _WHITE, _STOP_LINE_M)


def _stripes(outline: Floats) -> list[Floats]:
    """The bars of a zebra crossing: across the short side of the outline, spread along its long side."""
    box = np.asarray(cv2.boxPoints(cv2.minAreaRect(outline.astype(np.float32))), np.float64)
    first, second = box[1] - box[0], box[3] - box[0]
    long, short = (first, second) if np.linalg.norm(first) > np.linalg.norm(second) else (second, first)
    count = max(1, int(np.linalg.norm(long) / (2 * _STRIPE_M)))
    starts = (np.arange(count) + 0.25) / count
    return [
        np.stack([box[0] + a * long, box[0] + b * long, box[0] + b * long + short, box[0] + a * long + short])
        for a, b in zip(starts, starts + 0.5 / count, strict=True)
    ]


def _noise(size: int, coarse: int, fine: int) -> Floats:
    """Seamless noise of two grain sizes, float64 (size, size), roughly in [-2, 2]."""
    chance = np.random.default_rng(1)
    total = np.zeros((size, size))
    for grain in (coarse, fine):
        cells = chance.normal(size=(size // grain, size // grain))
        wrapped = np.pad(cells, 2, mode="wrap")
        scaled = cv2.resize(wrapped, None, fx=grain, fy=grain, interpolation=cv2.INTER_LINEAR)
        total += scaled[2 * grain : 2 * grain + size, 2 * grain : 2 * grain + size]
    return total / math.sqrt(2.0)
