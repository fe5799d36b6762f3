"""Paints ground, seen from straight above: grass, lanes, lines, crossings; in colours, or in semantic tags."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, cast

import cv2
import numpy as np

from zmqcarla.sim.blueprints import Label
from zmqcarla.sim.opendrive import DRIVABLE, RoadObject

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from zmqcarla.sim.ground import LaneStrip

    Floats = NDArray[np.float64]
    Image = NDArray[np.uint8]

Colour = tuple[int, int, int, int]

_ASPHALT: Colour = (88, 87, 86, 255)
_GUTTER: Colour = (126, 133, 138, 255)
_SIDEWALK: Colour = (148, 159, 166, 255)
_KERB: Colour = (172, 180, 186, 255)
_MEDIAN: Colour = (62, 118, 92, 255)
_WHITE: Colour = (222, 222, 222, 255)
_YELLOW: Colour = (30, 170, 215, 255)
GRASS: Colour = (58, 112, 84, 255)

_LABELS: dict[Colour, int] = {
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


BEYOND = int(Label.TERRAIN)
"""Semantic tag of what has no lane."""


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


class GroundPainter:
    """Paints into one image.

    Args:
        image: uint8 (rows, columns, 4) BGRA for colours, (rows, columns) for semantic tags.
        origin_m: CARLA-frame (x, y) of the outer corner of pixel (0, 0); columns run along +x, rows along +y.
        pixel_m: Edge of a pixel.
    """

    def __init__(self, image: Image, origin_m: tuple[float, float], pixel_m: float) -> None:
        self._image, self._as_labels = image, image.ndim == 2
        self._origin_m, self._pixel_m = origin_m, pixel_m

    def paint(self, strips: Sequence[LaneStrip], objects: Iterable[RoadObject]) -> None:
        """Everything, over what is there."""
        if self._as_labels:
            self._image[:] = BEYOND
        else:
            self._plant_grass()
        self._paint_surfaces(strips)
        self._close_gaps(strips)
        self._paint_marks(strips)
        self._paint_objects(objects)
        if not self._as_labels:
            self._grain()

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
        place = (points[:, :2] - self._origin_m) / self._pixel_m - 0.5
        return np.asarray(np.round(place * (1 << _SHIFT)), np.int32)

    def _fill(self, outlines: Iterable[Floats], colour: Colour) -> None:
        ink, smooth = self._ink(colour)
        for outline in outlines:
            cv2.fillPoly(self._image, [self._pixels(outline)], cast("Any", ink), smooth, _SHIFT)

    def _draw(self, lines: Sequence[Floats], colour: Colour, width_m: float) -> None:
        thick = max(1, round(width_m / self._pixel_m))
        ink, smooth = self._ink(colour)
        pixels = [self._pixels(line) for line in lines]
        cv2.polylines(self._image, pixels, False, cast("Any", ink), thick, smooth, _SHIFT)

    def _paint_surfaces(self, strips: Sequence[LaneStrip]) -> None:
        """All lane surfaces, roadways last."""
        jobs: list[tuple[int, int, Colour]] = []
        for index, strip in enumerate(strips):
            surface = _surface_colour(strip) if strip.lane.lane_id else None
            if surface is not None:
                jobs.append((surface[0], index, surface[1]))
        for order, index, colour in sorted(jobs):
            strip = strips[index]
            self._fill([strip.outline_m], colour)
            if order == 0:
                self._draw([strip.inner_m], _KERB, 0.2)

    def _close_gaps(self, strips: Iterable[LaneStrip]) -> None:
        """Pave the slivers between the connecting roads of a junction, which no lane covers."""
        coarse_m = 4 * self._pixel_m
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
            for mark, start, end in zip(strip.lane.marks, starts, [*starts, math.inf][1:], strict=True):
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
