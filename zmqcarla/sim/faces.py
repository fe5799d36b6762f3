"""Convex faces before a camera: where their corners fall in the picture, and the plane in which each lies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from zmqcarla.sim.camera import NEAR_M, Camera, clip_near

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Outline = NDArray[np.int32]

FIRST_INSTANCE = 2**31 + 2**15
"""Instance numbers of what stands for good count up from here, in all bits and in the lowest sixteen."""

CORNERS = 8
"""Every face has this many corners; one with fewer repeats its last."""


@dataclass(frozen=True, slots=True)
class Faces:
    """Faces in camera coordinates; those of one owner follow each other in painting order.

    Attributes:
        corners: float64 (3, CORNERS, n): x forward, y right, z up, metres.
        reach: float64 (n,), distance of the owner: whose is larger is painted earlier.
        bgr: float64 (n, 3), colours in full light, 0..255.
        bright: float64 (n,), light on each, 1 is full.
        label: uint8 (n,), semantic tag; 0 for what is seen but is not there (shadows).
        instance: uint32 (n,), actor id, or a number of its own for what the map brings along.
    """

    corners: Floats
    reach: Floats
    bgr: Floats
    bright: Floats
    label: NDArray[np.uint8]
    instance: NDArray[np.uint32]

    @classmethod
    def joined(cls, parts: Sequence[Faces]) -> Faces:
        """All faces of several."""
        if len(parts) == 1:
            return parts[0]
        return cls(
            np.concatenate([part.corners for part in parts], axis=2),
            *(
                np.concatenate([getattr(part, name) for part in parts])
                for name in ("reach", "bgr", "bright", "label", "instance")
            ),
        )

    def outlines(self, camera: Camera) -> list[Outline | None]:
        """Fixed-point pixels of each face's border; None when nothing of it lies before the camera."""
        depth = self.corners[0]
        outlines: list[Outline | None] = list(camera.project(self.corners))
        for number in np.flatnonzero(depth.min(axis=0) < NEAR_M).tolist():
            polygon = clip_near(self.corners[:, :, number].T.tolist())
            outlines[number] = camera.to_pixels(np.array(polygon)) if polygon else None
        return outlines

    def planes(self) -> Floats:
        """(a, b, c) with 1 / x = a + b * y / x + c * z / x on the face: float64 (n, 3)."""
        first, second, third = (self.corners[:, corner].T for corner in range(3))
        normals = np.cross(second - first, third - first)
        reach = np.einsum("ij,ij->i", normals, first)
        # seen edge-on a face covers hardly a pixel; its corner's depth will do
        flat = np.abs(reach) < 1e-9 * np.maximum(np.einsum("ij,ij->i", normals, normals), 1e-12)
        planes: Floats = normals / np.where(flat, 1.0, reach)[:, None]
        planes[flat] = 0.0
        planes[flat, 0] = 1.0 / np.maximum(first[flat, 0], NEAR_M)
        return planes
