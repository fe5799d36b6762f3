"""The ground as a camera sees it: the map's raster through a homography, in bands of rows by mip level.

Every form of ground answers the same questions for one camera: paint yourself, write your numbers, in which planes do
you lie, and what label has each pixel. `Flat` is one plane.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import cv2
import numpy as np

from zmqcarla.sim.camera import Camera, Plane
from zmqcarla.sim.ground_paint import BEYOND, GRASS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from zmqcarla.sim.raster import GroundRaster
    from zmqcarla.sim.sky import Light

    Floats = NDArray[np.float64]
    Image = NDArray[np.uint8]

_SHARPNESS = 0.15
_CLEAR = 0.97


class GroundSeen(Protocol):
    """The ground before one camera."""

    sky_rows: int
    """Rows from the top that show sky, or may."""

    def paint(self, out: Image, light: Light) -> None:
        """Paint over what is there, sky included where the ground hides it."""
        ...

    def number(self, numbers: NDArray[np.int32]) -> None:
        """Write 1 and up, by part of the ground, into int32 (height, width)."""
        ...

    def planes(self) -> Floats:
        """(a, b, c) of each part, see `Faces.planes`: float64 (parts, 3)."""
        ...

    def labels(self) -> Image:
        """Semantic tag of the ground at each pixel: uint8 (height, width); means nothing above the ground."""
        ...

    def labels_at(self, xy_m: Floats) -> Image:
        """Semantic tag of the ground at world places (n, 2): uint8 (n,)."""
        ...

    def may_show(self, shown: NDArray[np.bool_], places: Floats, tall_m: Floats) -> NDArray[np.bool_]:
        """Which of the things `shown` (n,) at world places (n, 3) and up to `tall_m` above are not behind a hill."""
        ...


class Flat:
    """A plane before a camera.

    Attributes:
        sky_rows: See `GroundSeen`.
    """

    def __init__(self, raster: GroundRaster, camera: Camera, plane: Plane) -> None:
        self._raster, self._camera, self._plane = raster, camera, plane
        self._left, self._right = camera.horizon_rows(plane)
        low, high = sorted((self._left, self._right))
        height = camera.height
        self._first = min(height, max(0, int(low) + 1))
        self._lean = min(height, max(0, int(high) + 1)) - self._first
        if camera.position[2] <= plane.height + 0.02:
            self._first, self._lean = height, 0
        self.sky_rows = self._first + self._lean

    def _hidden(self) -> NDArray[np.bool_]:
        """Pixels of the first rows that lie above a slanted horizon: bool (lean, width)."""
        width = self._camera.width
        horizon = self._left + (self._right - self._left) * (np.arange(width) + 0.5) / width
        above: NDArray[np.bool_] = np.arange(self._first, self._first + self._lean)[:, None] < horizon
        return above

    def paint(self, out: Image, light: Light) -> None:
        """See `GroundSeen`."""
        camera, raster, first = self._camera, self._raster, self._first
        if first >= camera.height:
            return
        words = out.view(np.uint32)[:, :, 0]
        sky = words[first : self.sky_rows].copy()
        rows = np.arange(first, camera.height, dtype=np.float64)
        depth = camera.depths(self._plane, rows)
        # footprint of a pixel: from row to row depth^2 / (focal * rise of the camera), across depth / focal
        rise = max(float(camera.position[2]) - self._plane.height, 0.05)
        log_print = 1.5 * np.log2(np.abs(depth)) - np.log2(camera.focal * np.sqrt(rise) * raster.pixel_m)
        levels = np.minimum(np.maximum(log_print + _SHARPNESS, 0.0), len(raster.levels) - 1.0).astype(np.intp)
        matrix = camera.ground_homography(self._plane, raster.origin_m, raster.pixel_m)
        cuts = (np.flatnonzero(levels[1:] != levels[:-1]) + 1).tolist()
        for start, end in zip([0, *cuts], [*cuts, len(levels)], strict=True):
            level = int(levels[start])
            cv2.warpPerspective(
                raster.levels[level],
                _to_level(matrix, level, first + start),
                (camera.width, end - start),
                dst=out[first + start : first + end],
                flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                borderMode=cv2.BORDER_CONSTANT,
                borderValue=_BORDER,
            )
        tone(out[first:], light, depth)
        if self._lean:
            np.copyto(words[first : self.sky_rows], sky, where=self._hidden())

    def number(self, numbers: NDArray[np.int32]) -> None:
        """See `GroundSeen`."""
        numbers[self._first :] = 1
        if self._lean:
            numbers[self._first : self.sky_rows][self._hidden()] = 0

    def planes(self) -> Floats:
        """See `GroundSeen`."""
        plane, camera = self._plane, self._camera
        planes: Floats = np.array([camera.normal_of(plane)]) / (plane.height - camera.position[2] or -1e-6)
        return planes

    def labels(self) -> Image:
        """See `GroundSeen`."""
        camera, raster = self._camera, self._raster
        labels = np.empty((camera.height, camera.width), np.uint8)
        if self._first < camera.height:
            matrix = camera.ground_homography(self._plane, raster.origin_m, raster.pixel_m)
            cv2.warpPerspective(
                raster.labels,
                _to_level(matrix, 0, self._first),
                (camera.width, camera.height - self._first),
                dst=labels[self._first :],
                flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP,
                borderMode=cv2.BORDER_CONSTANT,
                borderValue=BEYOND,
            )
        return labels

    def labels_at(self, xy_m: Floats) -> Image:
        """See `GroundSeen`."""
        return self._raster.labels_at(xy_m)

    def may_show(self, shown: NDArray[np.bool_], places: Floats, tall_m: Floats) -> NDArray[np.bool_]:
        """See `GroundSeen`; a plane hides nothing."""
        del places, tall_m
        return shown


_BORDER = (*GRASS[:3], 255)


def _to_level(matrix: Floats, level: int, first_row: int) -> Floats:
    """From pixels of the image below `first_row` to pixels of a mip level."""
    scale, shift = 0.5**level, 0.5 * 0.5**level - 0.5
    (a, b, c), (d, e, f), (g, h, i) = matrix.tolist()
    i += h * first_row
    return np.array(
        [
            [a * scale + g * shift, b * scale + h * shift, (c + b * first_row) * scale + i * shift],
            [d * scale + g * shift, e * scale + h * shift, (f + e * first_row) * scale + i * shift],
            [g, h, i],
        ]
    )


def tone(ground: Image, light: Light, depth: Floats) -> None:
    """Ground colours (rows, width, 4) times `light.ground`, then haze by each row's depth (rows,), in place."""
    fog = light.ground_haze_at(np.abs(depth))
    keep = light.ground * (1.0 - fog)
    dim = int(np.count_nonzero(keep < _CLEAR)) if light.ground >= _CLEAR else len(keep)
    if not dim:
        return
    # sixteen bits a channel, all four of a pixel in one word; far rows come first
    part = ground[:dim].astype(np.uint16).reshape(dim, -1)
    part *= (keep[:dim, None] * 256.0).astype(np.uint16)
    haze = np.zeros((dim, 4), np.uint16)
    haze[:, :3] = fog[:dim, None] * 255.99 * np.array(light.horizon)
    haze[:, 3] = 65535 - 255 * (keep[:dim] * 256.0).astype(np.int64)
    words = part.view(np.uint64)
    words += haze.view(np.uint64)
    part >>= np.uint16(8)
    np.copyto(ground[:dim].reshape(dim, -1), part, casting="unsafe")
