"""What scripts draw into the world with `world.debug`: points, lines, arrows and boxes that cameras show for a while.

As in CARLA, they are light without substance: colour cameras see them, nothing else does. Texts and the shapes of the
head-up display are for the simulator's window, and there is none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise, product
from typing import TYPE_CHECKING, Any

import numpy as np

from zmqcarla.sim.faces import CORNERS, Faces
from zmqcarla.sim.geometry import Vector, rotation, turn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from zmqcarla.sim.camera import Camera

    Floats = NDArray[np.float64]

STROKE_DTYPE = np.dtype(
    [
        ("start", np.float64, 3),
        ("end", np.float64, 3),
        ("wide_m", np.float64),
        ("wide_px", np.float64),
        ("bgr", "u1", 3),
    ]
)
"""A straight piece, world frame. Lines are as wide as `wide_m`, points `wide_px`; the other is 0."""

_PIECE_M = 2.0
_MOST_PIECES = 500
_POINT_PX_PER_M = 100.0
_FAR_M = 300.0
_TIDY_FROM = 64

Stroke = tuple[Vector, Vector, float, float]


def _line(shape: list[Any]) -> Iterator[Stroke]:
    """Begin, end, thickness: in pieces, each of which is painted at its own distance."""
    start, end = np.array(shape[0], np.float64), np.array(shape[1], np.float64)
    pieces = min(max(1, math.ceil(float(np.linalg.norm(end - start)) / _PIECE_M)), _MOST_PIECES)
    places = [_vector(place) for place in np.linspace(start, end, pieces + 1).tolist()]
    for first, second in pairwise(places):
        yield first, second, float(shape[2]), 0.0


def _point(shape: list[Any]) -> Iterator[Stroke]:
    """Place, size: a square of the same size in the picture at any distance."""
    place = _vector(shape[0])
    yield place, place, 0.0, float(shape[1]) * _POINT_PX_PER_M


def _arrow(shape: list[Any]) -> Iterator[Stroke]:
    """A line with a head of four strokes, and the size of the head."""
    (start, end, thickness), size = shape
    yield from _line(shape[0])
    run = np.subtract(end, start)
    length = float(np.linalg.norm(run))
    if length > 0.0:
        yaw, pitch = math.atan2(run[1], run[0]), math.asin(run[2] / length)
        axes = rotation(math.degrees(pitch), math.degrees(yaw), 0.0)
        for right, up in product((-size, size), repeat=2):
            back = np.add(start, turn(axes, (length - size, right, up)))
            yield from _line([back, end, thickness])


def _box(shape: list[Any]) -> Iterator[Stroke]:
    """BoundingBox, rotation, thickness: the twelve edges."""
    (centre, half, *_), angles, thickness = shape
    axes = rotation(*(float(angle) for angle in angles))
    signs = list(product((-1.0, 1.0), repeat=3))
    corners = [np.add(centre, turn(axes, _vector(np.multiply(half, sign).tolist()))) for sign in signs]
    for first, second in ((i, i | bit) for i in range(8) for bit in (1, 2, 4) if not i & bit):
        yield from _line([corners[first], corners[second], thickness])


def _vector(numbers: list[Any]) -> Vector:
    x, y, z = numbers
    return float(x), float(y), float(z)


SHAPES: dict[int, Callable[[list[Any]], Iterator[Stroke]]] = {0: _point, 1: _line, 2: _arrow, 3: _box}
"""By the number of the shape on the wire; the others are for a window."""


@dataclass(frozen=True, slots=True)
class _Drawing:
    """The strokes of one shape, until when they show, and the frame that shows them however short that is."""

    strokes: NDArray[np.void]
    until_s: float
    first_frame: int

    def shows(self, frame: int, now_s: float) -> bool:
        return frame <= self.first_frame or now_s <= self.until_s


class Drawings:
    """The shapes of an episode."""

    def __init__(self) -> None:
        self._drawings: list[_Drawing] = []
        self._tidy_at = _TIDY_FROM

    def add(self, shape: list[Any], life_s: float, frame: int, now_s: float) -> None:
        """Draw a shape.

        Args:
            shape: [number, shape, [red, green, blue, alpha]] as on the wire, all of it finite.
            life_s: for how long; 0 for ever, less than 0 for one frame.
            frame: number of the last tick.
            now_s: time of the episode.
        """
        number, body, (red, green, blue, *_) = shape
        make = SHAPES.get(number)
        if make is None:
            return
        strokes = [(*stroke, (blue, green, red)) for stroke in make(body)]
        until_s = math.inf if life_s == 0.0 else now_s + life_s
        self._drawings.append(_Drawing(np.array(strokes, STROKE_DTYPE), until_s, frame + 1))
        if len(self._drawings) >= self._tidy_at:
            self._tidy(frame, now_s)
            self._tidy_at = max(_TIDY_FROM, 2 * len(self._drawings))

    def clear(self) -> None:
        """Take all shapes away."""
        self._drawings.clear()

    def strokes(self, frame: int, now_s: float) -> NDArray[np.void]:
        """What shows now: STROKE_DTYPE (n,)."""
        self._tidy(frame, now_s)
        if not self._drawings:
            return np.empty(0, STROKE_DTYPE)
        return np.concatenate([drawing.strokes for drawing in self._drawings])

    def _tidy(self, frame: int, now_s: float) -> None:
        if self._drawings:
            self._drawings = [drawing for drawing in self._drawings if drawing.shows(frame, now_s)]


def stroke_faces(strokes: NDArray[np.void], camera: Camera) -> Faces | None:
    """Strokes (STROKE_DTYPE) as shining faces that are turned to the camera."""
    start, end = camera.to_camera(strokes["start"]), camera.to_camera(strokes["end"])
    middle = (start + end) / 2
    radius = np.linalg.norm(end - start, axis=1) / 2
    kept = np.flatnonzero(camera.may_see(middle, radius + 1.0, _FAR_M))
    if not len(kept):
        return None
    strokes, start, end, middle = strokes[kept], start[kept], end[kept], middle[kept]
    pixel_m = np.maximum(middle[:, 0], 0.1) / camera.focal
    half = np.maximum(np.maximum(strokes["wide_m"], strokes["wide_px"] * pixel_m), pixel_m) / 2
    along = end - start
    dot = strokes["wide_px"] > 0.0
    along[dot] = (0.0, 1.0, 0.0)
    across = np.cross(middle, along)
    size = np.linalg.norm(across, axis=1)
    # a stroke that runs along the line of sight is a dot as well
    across[size < 1e-9], size[size < 1e-9] = (0.0, 0.0, 1.0), 1.0
    across *= (half / size)[:, None]
    lead = np.where(dot, half, 0.0)[:, None] * along
    corners = np.empty((CORNERS, len(kept), 3))
    corners[0], corners[1] = start - lead - across, end + lead - across
    corners[2], corners[3:] = end + lead + across, start - lead + across
    count = len(kept)
    return Faces(
        np.ascontiguousarray(corners.transpose(2, 0, 1)),
        np.linalg.norm(middle, axis=1),
        strokes["bgr"].astype(np.float64),
        np.ones(count),
        np.zeros(count, np.uint8),
        np.zeros(count, np.uint32),
    )
