"""Ground that is not flat, before a camera: rings of quads around it, painted far to near.

The rings grow with distance, so hills, dips and crests are as fine as they are near. Which quad a pixel shows gives its
depth, hence its place on the map, where one `cv2.remap` over all mip levels at once finds its colour.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import TYPE_CHECKING

import cv2
import numpy as np

from zmqcarla.sim.bridges import DEEP_M
from zmqcarla.sim.camera import NEAR_M, SHIFT, Camera, clip_near
from zmqcarla.sim.raster import FINEST_M

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from zmqcarla.sim.raster import GroundRaster
    from zmqcarla.sim.roads import RoadMap
    from zmqcarla.sim.sky import Light

    Floats = NDArray[np.float64]
    Pixels = NDArray[np.float32]
    Image = NDArray[np.uint8]

_RINGS_M = np.concatenate([[0.0], 0.8 * 1.19 ** np.arange(36.0)])
_SECTOR_DEG = 4.5
_SHARPNESS = 0.15
_HAZE_STEPS, _HAZE_STEP_M = 300, 2.0
_STEEP = 0.8
_PATCH_AHEAD_M = 10.0
_CLIFF_BGR = (98, 122, 118, 255)


class Hills:
    """Hilly ground before a camera; see `GroundSeen`.

    Attributes:
        sky_rows: Rows from the top that show sky, or may.
    """

    def __init__(self, road_map: RoadMap, raster: GroundRaster, camera: Camera) -> None:
        self._raster, self._camera = raster, camera
        self._grid = _grid(road_map, camera)
        self._corners = camera.turned(self._grid)
        self.sky_rows = camera.height

    def may_show(self, shown: NDArray[np.bool_], places: Floats, tall_m: Floats) -> NDArray[np.bool_]:
        """See `GroundSeen`. What shows its top is seen whole, though the hill hides its foot."""
        picked = np.flatnonzero(shown)
        away = places[picked] - self._camera.position
        distance = np.hypot(away[:, 0], away[:, 1])
        ring = np.searchsorted(_RINGS_M, distance) - 2
        start, step = self._angles
        turn = np.mod(np.arctan2(away[:, 1], away[:, 0]) - start, 2.0 * math.pi) / step
        sector = np.minimum(turn + 0.5, self._grid.shape[2] - 1).astype(np.intp)
        top = (away[:, 2] + np.broadcast_to(tall_m, shown.shape)[picked]) / np.maximum(distance, 1.0)
        hidden = (ring > 0) & (top < self._horizons[np.maximum(ring, 0), sector])
        clear: NDArray[np.bool_] = np.array(shown)
        clear[picked[hidden]] = False
        return clear

    @cached_property
    def _angles(self) -> tuple[float, float]:
        """Azimuth of the first sector, and from one to the next, rad."""
        x, y = self._grid[0, -1] - self._camera.position[0], self._grid[1, -1] - self._camera.position[1]
        angles = np.arctan2(y, x)
        return float(angles[0]), float(np.mod(angles[1] - angles[0], 2.0 * math.pi))

    @cached_property
    def _horizons(self) -> Floats:
        """Steepest slope from the camera to the ground up to each ring: float64 (rings, sectors)."""
        rise = (self._grid[2] - self._camera.position[2]) / np.maximum(_RINGS_M, 1.0)[:, None]
        return np.asarray(np.maximum.accumulate(rise, axis=0), np.float64)

    @cached_property
    def _visible(self) -> tuple[Floats, Floats]:
        """Corners (3, 4, n) and normals (3, n) of the quads that face the camera, far to near; float64."""
        camera, grid = self._camera, self._corners
        quads = np.stack([grid[:, 1:, :-1], grid[:, 1:, 1:], grid[:, :-1, 1:], grid[:, :-1, :-1]], axis=1)
        quads = quads[:, :, ::-1].reshape(3, 4, -1)
        x, y, z = quads
        aside, high = camera.width / 2.0 / camera.focal, camera.height / 2.0 / camera.focal
        out = x.max(axis=0) < NEAR_M
        for part, limit in ((y, aside), (z, high)):
            out |= (part - limit * x).min(axis=0) > 0.0
            out |= (part + limit * x).max(axis=0) < 0.0
        kept = quads[:, :, ~out]
        normals = _normals(kept)
        facing = np.einsum("in,in->n", normals, kept.mean(axis=1)) < 0.0
        return kept[:, :, facing], normals[:, facing]

    def planes(self) -> Floats:
        """See `GroundSeen`."""
        return self._planes

    @cached_property
    def _planes(self) -> Floats:
        quads, normals = self._visible
        reach = np.einsum("in,in->n", normals, quads.mean(axis=1))
        planes: Floats = (normals / np.minimum(reach, -1e-9)).T
        return planes

    def number(self, numbers: NDArray[np.int32]) -> None:
        """See `GroundSeen`."""
        np.copyto(numbers, self._numbers)

    @cached_property
    def _numbers(self) -> NDArray[np.int32]:
        camera, (quads, _) = self._camera, self._visible
        numbers = np.zeros((camera.height, camera.width), np.int32)
        outlines = list(camera.project(quads))
        near = quads[0].min(axis=0) < NEAR_M
        for number, (outline, crosses) in enumerate(zip(outlines, near.tolist(), strict=True)):
            shape = outline
            if crosses:
                kept = clip_near(quads[:, :, number].T.tolist())
                if not kept:
                    continue
                shape = camera.to_pixels(np.array(kept))
            cv2.fillConvexPoly(numbers, shape, number + 1, cv2.LINE_8, SHIFT)
        return numbers

    @cached_property
    def _first(self) -> int:
        """The first row that shows ground."""
        rows = np.flatnonzero(self._numbers.any(axis=1))
        return int(rows[0]) if len(rows) else self._camera.height

    @cached_property
    def _where(self) -> tuple[Pixels, Pixels, Pixels]:
        """Depth, and place in pixels of the finest raster, of rows from `_first` on: float32 (rows, width) each."""
        camera, first, raster = self._camera, self._first, self._raster
        numbers = self._numbers[first:]
        planes = np.concatenate([np.ones((1, 3)), self._planes]).astype(np.float32)
        across = ((np.arange(camera.width) - camera.width / 2.0 + 0.5) / camera.focal).astype(np.float32)
        upward = ((camera.height / 2.0 - 0.5 - np.arange(first, camera.height)) / camera.focal).astype(np.float32)
        inverse = np.take(planes[:, 1], numbers) * across
        inverse += np.take(planes[:, 2], numbers) * upward[:, None]
        inverse += np.take(planes[:, 0], numbers)
        depth = np.reciprocal(np.maximum(inverse, np.float32(1e-3), out=inverse), out=inverse)
        forward, right, up = (camera.axes / raster.pixel_m).astype(np.float32)
        start = (camera.position[:2] - raster.origin_m) / raster.pixel_m - 0.5
        rows, columns = raster.levels[0].shape[:2]
        places: list[Pixels] = []
        for axis, limit in ((0, columns - 1), (1, rows - 1)):
            place = np.add(right[axis] * across, (forward[axis] + up[axis] * upward)[:, None])
            place *= depth
            place += np.float32(start[axis])
            places.append(np.clip(place, 0, limit, out=place))
        return depth, places[0], places[1]

    def paint(self, out: Image, light: Light) -> None:
        """See `GroundSeen`."""
        first, raster, camera = self._first, self._raster, self._camera
        if first >= camera.height:
            return
        depth, column, row = self._where
        # a pixel covers (depth / focal)^2 / cosine of the ground
        quads, normals = self._visible[0].mean(axis=1), self._visible[1]
        cosine = -np.einsum("in,in->n", normals, quads)
        cosine /= np.linalg.norm(normals, axis=0) * np.linalg.norm(quads, axis=0) + 1e-9
        print_m = quads[0] / camera.focal / np.sqrt(np.maximum(cosine, 1e-3))
        levels = np.log2(np.maximum(print_m / raster.pixel_m, 1e-3)) + _SHARPNESS
        levels = np.concatenate([[0], np.clip(levels, 0, len(raster.levels) - 1)]).astype(np.intp)
        scale = (0.5**levels).astype(np.float32)
        corners = np.array(raster.corners, np.float32)[levels] + (0.5 * scale - 0.5)[:, None]
        numbers = self._numbers[first:]
        share = np.take(scale, numbers)
        column = column * share + np.take(corners[:, 0], numbers)
        row = row * share + np.take(corners[:, 1], numbers)
        ground = np.asarray(cv2.remap(raster.atlas, column, row, cv2.INTER_LINEAR), np.uint8)
        self._sharpen(ground, print_m)
        steep = self._steep(normals)
        if steep.any():
            cliffs = np.take(np.concatenate([[False], steep]), numbers)
            ground[cliffs] = _CLIFF_BGR
        _tone(ground, light, depth)
        np.copyto(out.view(np.uint32)[first:, :, 0], ground.view(np.uint32)[:, :, 0], where=numbers > 0)

    def _sharpen(self, ground: Image, print_m: Floats) -> None:
        """Where the raster is too coarse (pixels of `print_m` by quad), paint from a finer patch over `ground`."""
        camera, raster, first = self._camera, self._raster, self._first
        ahead = camera.position[:2] + _PATCH_AHEAD_M * camera.axes[0, :2]
        patch = raster.patch(float(ahead[0]), float(ahead[1])) if raster.pixel_m > 2.0 * print_m.min() else None
        if patch is None:
            return
        fine = np.take(np.concatenate([[False], print_m < raster.pixel_m / 2.0]), self._numbers[first:])
        top = int(np.argmax(fine.any(axis=1)))
        _, column, row = self._where
        scale, side = np.float32(raster.pixel_m / FINEST_M), len(patch.image)
        spots: list[Pixels] = []
        for place, origin, corner in zip((column, row), raster.origin_m, patch.origin_m, strict=True):
            spots.append(place[top:] * scale + np.float32((origin - corner) / FINEST_M + 0.5 * float(scale) - 0.5))
        inside = (
            fine[top:] & (np.abs(spots[0] - side / 2) < side / 2 - 1) & (np.abs(spots[1] - side / 2) < side / 2 - 1)
        )
        close = np.asarray(cv2.remap(patch.image, spots[0], spots[1], cv2.INTER_LINEAR), np.uint8)
        np.copyto(ground.view(np.uint32)[top:, :, 0], close.view(np.uint32)[:, :, 0], where=inside)

    def _steep(self, normals: Floats) -> NDArray[np.bool_]:
        """Which quads are banks and retaining walls, on which the raster would be drawn out: bool (n,)."""
        up = self._camera.axes[:, 2] @ normals
        return np.asarray(np.abs(up) < _STEEP * np.linalg.norm(normals, axis=0), np.bool_)

    def labels(self) -> Image:
        """See `GroundSeen`."""
        camera, first = self._camera, self._first
        labels = np.empty((camera.height, camera.width), np.uint8)
        if first < camera.height:
            _, column, row = self._where
            labels[first:] = cv2.remap(self._raster.labels, column, row, cv2.INTER_NEAREST)
        return labels

    def labels_at(self, xy_m: Floats) -> Image:
        """See `GroundSeen`."""
        return self._raster.labels_at(xy_m)


def _grid(road_map: RoadMap, camera: Camera) -> Floats:
    """World corners of the rings around a camera, as far as it looks: float64 (3, rings, sectors)."""
    forward = camera.axes[0]
    half_deg = math.degrees(math.atan(camera.width / 2.0 / camera.focal))
    tilt_deg = math.degrees(max(abs(math.asin(max(-1.0, min(1.0, forward[2])))), abs(math.asin(camera.axes[1, 2]))))
    # a camera that looks down or leans sees more of the circle
    span_deg = min(180.0, half_deg + 2.0 * tilt_deg + _SECTOR_DEG) if tilt_deg < 35.0 else 180.0
    sectors = max(2, math.ceil(2.0 * span_deg / _SECTOR_DEG))
    angles = math.atan2(forward[1], forward[0]) + np.radians(np.linspace(-span_deg, span_deg, sectors + 1))
    grid = np.empty((3, len(_RINGS_M), sectors + 1))
    grid[0] = camera.position[0] + _RINGS_M[:, None] * np.cos(angles)
    grid[1] = camera.position[1] + _RINGS_M[:, None] * np.sin(angles)
    points = np.stack([grid[0].ravel(), grid[1].ravel()], axis=-1)
    # what lies lowest: bridges are things, see bridges.py
    grid[2] = road_map.heights_m(points, np.full(len(points), DEEP_M)).reshape(grid.shape[1:])
    return grid


def _normals(quads: Floats) -> Floats:
    """Normals, up, of quads (3, 4, n): float64 (3, n)."""
    (x0, y0, z0), (x1, y1, z1) = quads[:, 2] - quads[:, 0], quads[:, 3] - quads[:, 1]
    return np.stack([y0 * z1 - z0 * y1, z0 * x1 - x0 * z1, x0 * y1 - y0 * x1])


def _tone(ground: Image, light: Light, depth: Pixels) -> None:
    """Ground colours (rows, width, 4) times `light.ground`, then haze by depth (rows, width), in place."""
    haze = light.ground_haze_at(np.arange(float(_HAZE_STEPS)) * _HAZE_STEP_M)
    # sixteen bits a channel, all four of a pixel in one word
    shares, adds = np.zeros((_HAZE_STEPS, 4), np.uint16), np.zeros((_HAZE_STEPS, 4), np.uint16)
    shares[:] = ((1.0 - haze) * (256.0 * light.ground))[:, None]
    adds[:, :3] = haze[:, None] * 255.99 * np.array(light.horizon)
    adds[:, 3] = 65535 - 255 * shares[:, 3].astype(np.int64)
    steps = np.minimum(depth * np.float32(1.0 / _HAZE_STEP_M), np.float32(_HAZE_STEPS - 1)).astype(np.intp)
    part = ground.astype(np.uint16)
    part *= np.take(shares.view(np.uint64)[:, 0], steps).view(np.uint16).reshape(part.shape)
    words = part.view(np.uint64)[:, :, 0]
    words += np.take(adds.view(np.uint64)[:, 0], steps)
    part >>= np.uint16(8)
    np.copyto(ground, part, casting="unsafe")
