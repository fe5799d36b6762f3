"""A pinhole camera in CARLA's frame: world to camera to pixels, and the homography by which it sees the ground.

Camera axes are X forward, Y right, Z up (left-handed like the world). A point at camera coordinates (X, Y, Z) is
seen at column = width / 2 + f Y / X, row = height / 2 - f Z / X, with f = width / (2 tan(fov / 2)).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

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
        self.axes: Floats = rotations(np.asarray(pose[3:6], np.float64)[None])[0].T
        self.width, self.height = width, height
        self.focal = width / (2.0 * math.tan(math.radians(fov_deg) / 2.0))

    def to_camera(self, points: Floats) -> Floats:
        """World points (..., 3) in camera coordinates."""
        seen: Floats = (points - self.position) @ self.axes.T
        return seen

    def to_pixels(self, seen: Floats) -> NDArray[np.int32]:
        """Fixed-point (column, row) of camera coordinates (..., 3) with X >= NEAR_M: int32 (..., 2)."""
        return self.project(seen[..., 0], seen[..., 1], seen[..., 2])

    def project(self, x: Floats, y: Floats, z: Floats) -> NDArray[np.int32]:
        """The same from separate coordinates, each (...): int32 (..., 2)."""
        unit = float(1 << SHIFT)
        scale = self.focal * unit / np.maximum(x, NEAR_M)
        pixels = np.empty((*x.shape, 2), np.int32)
        limit = FARTHEST_PIXEL * unit
        across = scale * y + (self.width / 2.0 - 0.5) * unit
        down = (self.height / 2.0 - 0.5) * unit - scale * z
        pixels[..., 0] = np.minimum(np.maximum(across, -limit), limit)
        pixels[..., 1] = np.minimum(np.maximum(down, -limit), limit)
        return pixels

    def horizon_rows(self, plane: Plane) -> tuple[float, float]:
        """Rows of the plane's horizon at the left and right image border; the ground lies below (larger rows)."""
        forward, right, up = (float(axis @ (-plane.slope_x, -plane.slope_y, 1.0)) for axis in self.axes)
        if up < 1e-3:  # the camera lies on its side or looks straight down: all ground, or no horizon worth drawing
            return (-1.0, -1.0) if forward < 0.0 else (self.height + 1.0, self.height + 1.0)
        middle = self.height / 2.0 - 0.5 + self.focal * forward / up
        lean = self.width / 2.0 * right / up
        return middle - lean, middle + lean

    def depths(self, plane: Plane, rows: Floats) -> Floats:
        """Forward distance (n,) at which the middle of each row (n,) meets the plane; below the horizon only."""
        forward, _, up = (float(axis @ (-plane.slope_x, -plane.slope_y, 1.0)) for axis in self.axes)
        fall = up * (rows - self.height / 2.0 + 0.5) / self.focal - forward
        depths: Floats = (self.position[2] - plane.height) / np.maximum(fall, 1e-6)
        return depths

    def ground_homography(self, plane: Plane, origin_m: tuple[float, float], pixel_m: float) -> Floats:
        """3x3 matrix from image pixels to pixels of a raster of the ground."""
        x0, y0, _ = self.position
        left, top = origin_m[0] + pixel_m / 2.0 - x0, origin_m[1] + pixel_m / 2.0 - y0
        drop = plane.height - float(self.position[2]) + plane.slope_x * left + plane.slope_y * top
        to_world = np.array(
            [
                [pixel_m, 0.0, left],
                [0.0, pixel_m, top],
                [plane.slope_x * pixel_m, plane.slope_y * pixel_m, drop],
            ]
        )
        lens = np.array(
            [
                [self.width / 2.0 - 0.5, self.focal, 0.0],
                [self.height / 2.0 - 0.5, 0.0, -self.focal],
                [1.0, 0.0, 0.0],
            ]
        )
        return np.asarray(np.linalg.inv(lens @ self.axes @ to_world), np.float64)


def clip_near(polygon: Floats) -> Floats:
    """The part of a polygon in camera coordinates (n, 3) with X >= NEAR_M, by Sutherland and Hodgman: (m, 3)."""
    kept: list[Floats] = []
    for start, end in zip(np.roll(polygon, 1, axis=0), polygon, strict=True):
        inside = end[0] >= NEAR_M
        if inside != (start[0] >= NEAR_M):
            kept.append(start + (end - start) * ((NEAR_M - start[0]) / (end[0] - start[0])))
        if inside:
            kept.append(end)
    return np.array(kept).reshape(-1, 3)
