"""A pinhole camera in CARLA's frame: world to camera to pixels, and the homography by which it sees the ground.

Camera axes are X forward, Y right, Z up (left-handed like the world). A point at camera coordinates (X, Y, Z) is
seen at column = width / 2 + f Y / X, row = height / 2 - f Z / X, with f = width / (2 tan(fov / 2)).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from zmqcarla.sim.geometry import rotation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Point = Sequence[float]

NEAR_M = 0.15
SHIFT = 4
"""Fixed-point bits of pixel coordinates handed to OpenCV."""

FARTHEST_PIXEL = 30_000.0
"""Pixel coordinates are held within this, so that they fit OpenCV's fixed-point arithmetic."""


def rotations(pitch_yaw_roll_deg: Floats) -> Floats:
    """Rotation matrices of CARLA rotations: float64 (n, 3, 3) from (n, 3); columns are forward, right and up."""
    angles = np.radians(pitch_yaw_roll_deg)
    (sp, sy, sr), (cp, cy, cr) = np.sin(angles).T, np.cos(angles).T
    matrices = np.empty((len(angles), 3, 3))
    matrices[:, 0, 0] = cp * cy
    matrices[:, 1, 0] = cp * sy
    matrices[:, 2, 0] = sp
    matrices[:, 0, 1] = cy * sp * sr - sy * cr
    matrices[:, 1, 1] = sy * sp * sr + cy * cr
    matrices[:, 2, 1] = -cp * sr
    matrices[:, 0, 2] = -cy * sp * cr - sy * sr
    matrices[:, 1, 2] = -sy * sp * cr + cy * sr
    matrices[:, 2, 2] = cp * cr
    return matrices


@dataclass(frozen=True, slots=True)
class Plane:
    """The ground near the camera: z = height + slope_x * (x - x0) + slope_y * (y - y0), (x0, y0) below the camera."""

    height: float
    slope_x: float = 0.0
    slope_y: float = 0.0


class Camera:
    """One view.

    Attributes:
        position: float64 (3,), world.
        axes: float64 (3, 3), rows are forward, right and up in the world: world offset to camera coordinates.
        focal: Focal length in pixels.
        width, height: Image size in pixels.
    """

    def __init__(self, pose: Floats, fov_deg: float, width: int, height: int) -> None:
        self.position = np.asarray(pose[:3], np.float64)
        self.axes: Floats = np.array(rotation(float(pose[3]), float(pose[4]), float(pose[5]))).T
        self.width, self.height = width, height
        self.focal = width / (2.0 * math.tan(math.radians(fov_deg) / 2.0))

    def to_camera(self, points: Floats) -> Floats:
        """World points (..., 3) in camera coordinates."""
        seen: Floats = (points - self.position) @ self.axes.T
        return seen

    def turned(self, corners: Floats) -> Floats:
        """World points (3, ...) in camera coordinates, same shape."""
        flat = self.axes @ corners.reshape(3, -1)
        flat -= (self.axes @ self.position)[:, None]
        return flat.reshape(corners.shape)

    def may_see(self, seen: Floats, radius: Floats | float, far: Floats | float) -> NDArray[np.bool_]:
        """Which spheres around camera coordinates (n, 3) may be in the picture: bool (n,)."""
        spread = self.width / 2.0 / self.focal
        depth, aside = seen[:, 0], np.abs(seen[:, 1]) - radius * math.sqrt(1.0 + spread * spread)
        shown: NDArray[np.bool_] = (depth > -radius) & (depth < far) & (aside < depth * spread)
        return shown

    def to_pixels(self, seen: Floats) -> NDArray[np.int32]:
        """Fixed-point (column, row) of camera coordinates (3,) or (n, 3) with X >= NEAR_M: int32 (2,) or (n, 2)."""
        return self.project(np.moveaxis(seen, -1, 0))

    def project(self, seen: Floats) -> NDArray[np.int32]:
        """The same of (3, ...), axes turned round: int32 (reversed(...), 2), C-contiguous."""
        unit = float(1 << SHIFT)
        pixels = seen[1:] * (self.focal * unit / np.maximum(seen[0], NEAR_M))
        pixels[1] *= -1.0
        pixels[0] += (self.width / 2.0 - 0.5) * unit
        pixels[1] += (self.height / 2.0 - 0.5) * unit
        np.minimum(pixels, FARTHEST_PIXEL * unit, out=pixels)
        np.maximum(pixels, -FARTHEST_PIXEL * unit, out=pixels)
        return np.asarray(pixels.T, np.int32, order="C")

    def normal_of(self, plane: Plane) -> tuple[float, float, float]:
        """A normal of a plane in camera coordinates."""
        forward, right, up = self.axes.tolist()
        x, y = plane.slope_x, plane.slope_y
        return (
            forward[2] - forward[0] * x - forward[1] * y,
            right[2] - right[0] * x - right[1] * y,
            up[2] - up[0] * x - up[1] * y,
        )

    def horizon_rows(self, plane: Plane) -> tuple[float, float]:
        """Rows of the plane's horizon at the left and right image border; the ground lies below (larger rows)."""
        forward, right, up = self.normal_of(plane)
        if up < 1e-3:  # the camera lies on its side or looks straight down: all ground, or no horizon worth drawing
            return (-1.0, -1.0) if forward < 0.0 else (self.height + 1.0, self.height + 1.0)
        middle = self.height / 2.0 - 0.5 + self.focal * forward / up
        lean = self.width / 2.0 * right / up
        return middle - lean, middle + lean

    def depths(self, plane: Plane, rows: Floats) -> Floats:
        """Forward distance (n,) at which the middle of each row (n,) meets the plane; below the horizon only."""
        forward, _, up = self.normal_of(plane)
        fall = rows * (up / self.focal)
        fall += up * (0.5 - self.height / 2.0) / self.focal - forward
        depths: Floats = (float(self.position[2]) - plane.height) / np.maximum(fall, 1e-6)
        return depths

    def ground_homography(self, plane: Plane, origin_m: tuple[float, float], pixel_m: float) -> Floats:
        """3x3 matrix from image pixels to pixels of a raster of the ground."""
        # the ray of pixel (column, row) is (1, across, upward) in camera axes; it meets the plane at distance
        # drop / (normal . ray), where drop is the plane's height over the camera
        (fx, fy, _), (rx, ry, _), (ux, uy, _) = self.axes.tolist()
        forward, right, up = self.normal_of(plane)
        x0, y0, z0 = self.position.tolist()
        drop = plane.height - z0
        across, upward = (self.width / 2.0 - 0.5) / self.focal, (self.height / 2.0 - 0.5) / self.focal
        rows: list[list[float]] = []
        # ray = (1, column / f - across, upward - row / f): coefficients of column, row and one
        for f, r, u in ((fx, rx, ux), (fy, ry, uy), (forward, right, up)):
            rows.append([r / self.focal, -u / self.focal, f - across * r + upward * u])
        east, north, depth = rows
        left, top = (x0 - origin_m[0]) / pixel_m - 0.5, (y0 - origin_m[1]) / pixel_m - 0.5
        scale = drop / pixel_m
        return np.array(
            [
                [scale * e + left * d for e, d in zip(east, depth, strict=True)],
                [scale * n + top * d for n, d in zip(north, depth, strict=True)],
                depth,
            ]
        )


def clip_near(polygon: Sequence[Point]) -> list[Point]:
    """The part of a polygon in camera coordinates with X >= NEAR_M, by Sutherland and Hodgman."""
    kept: list[Point] = []
    start = polygon[-1]
    for end in polygon:
        inside = end[0] >= NEAR_M
        if inside != (start[0] >= NEAR_M):
            share = (NEAR_M - start[0]) / (end[0] - start[0])
            kept.append((NEAR_M, start[1] + (end[1] - start[1]) * share, start[2] + (end[2] - start[2]) * share))
        if inside:
            kept.append(end)
        start = end
    return kept
