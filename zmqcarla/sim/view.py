"""What one camera sees: worked out once, then painted in colours, or in numbers from which depth and labels follow.

Far to near, every face is one OpenCV call. Colours and numbers are painted from the same outlines in the same order,
so all pictures of a view agree pixel by pixel; the depth of a pixel is that of its face's plane, exactly.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import cv2
import numpy as np

from zmqcarla.sim.blueprints import Label
from zmqcarla.sim.camera import SHIFT
from zmqcarla.sim.sky import paint_sky, pack_bgra

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from zmqcarla.sim.camera import Camera
    from zmqcarla.sim.faces import Faces
    from zmqcarla.sim.sky import Light
    from zmqcarla.sim.standing import Panes
    from zmqcarla.sim.terrain import GroundSeen

    Floats = NDArray[np.float64]
    Image = NDArray[np.uint8]

_LIT_WINDOW = np.array([70.0, 150.0, 190.0])

FARTHEST_M = 1000.0
"""Depth of the sky."""


class View:
    """What a camera sees.

    Args:
        camera: whose view it is.
        light: of the weather.
        ground: before the camera.
        faces: all that stands on it.
        panes: windows, which have colours but are the same thing as their walls.
    """

    def __init__(
        self, camera: Camera, light: Light, ground: GroundSeen, faces: Faces, panes: Sequence[Panes] = ()
    ) -> None:
        self.camera = camera
        self._light = light
        self._ground = ground
        self._faces = faces
        self._panes = panes
        self._outlines = faces.outlines(camera)
        # stable, so that the faces of an owner keep their order; windows come after their walls
        self._walls = [pane.wall for pane in panes]
        reach = np.concatenate([faces.reach, faces.reach[self._walls]]) if panes else faces.reach
        self._order: list[int] = np.argsort(-reach, kind="stable").tolist()

    def paint(self, out: Image) -> None:
        """Paint the picture: uint8 (height, width, 4) BGRA, C-contiguous, overwritten whole."""
        paint_sky(out[: self._ground.sky_rows], self.camera, self._light)
        self._ground.paint(out, self._light)
        words = self._colours()
        canvas = out.view(np.int32)[:, :, 0]
        outlines, panes, count = self._outlines, self._panes, len(self._outlines)
        for index in self._order:
            if index >= count:
                cv2.fillPoly(canvas, cast("Any", panes[index - count].outlines), words[index], cv2.LINE_8, SHIFT)
            elif (outline := outlines[index]) is not None:
                cv2.fillConvexPoly(canvas, outline, words[index], cv2.LINE_8, SHIFT)

    def _colours(self) -> list[int]:
        """BGRA words of all faces, then of all panes, in light and haze."""
        faces, light = self._faces, self._light
        fog = light.fog_at(faces.reach)
        haze = fog[:, None] * light.horizon
        bgr = faces.bgr * (faces.bright * (1.0 - fog))[:, None] + haze
        if self._panes:
            walls = self._walls
            glass = (
                np.full((len(walls), 3), _LIT_WINDOW) if light.night > 0.5 else 0.52 * bgr[walls] + 0.48 * haze[walls]
            )
            bgr = np.concatenate([bgr, glass])
        colours: list[int] = pack_bgra(bgr).view(np.int32).tolist()
        return colours

    @cached_property
    def _numbers(self) -> NDArray[np.int32]:
        """What is seen at each pixel: 0 sky, then the parts of the ground, then the faces; int32 (height, width)."""
        numbers = np.zeros((self.camera.height, self.camera.width), np.int32)
        self._ground.number(numbers)
        first, solid = self._ground_parts + 1, (self._faces.label != Label.NONE).tolist()
        outlines, count = self._outlines, len(self._outlines)
        for index in self._order:
            if index < count and solid[index] and (outline := outlines[index]) is not None:
                cv2.fillConvexPoly(numbers, outline, first + index, cv2.LINE_8, SHIFT)
        return numbers

    @cached_property
    def _planes(self) -> Floats:
        """(a, b, c) by number, see `Faces.planes`: float64 (numbers, 3)."""
        sky = np.array([[1.0 / FARTHEST_M, 0.0, 0.0]])
        return np.concatenate([sky, self._ground.planes(), self._faces.planes()])

    @cached_property
    def _ground_parts(self) -> int:
        return len(self._ground.planes())

    @cached_property
    def depths_m(self) -> NDArray[np.float32]:
        """Forward distance at each pixel, at most FARTHEST_M: float32 (height, width)."""
        camera, numbers = self.camera, self._numbers
        planes = self._planes.astype(np.float32)
        across = ((np.arange(camera.width) - camera.width / 2.0 + 0.5) / camera.focal).astype(np.float32)
        upward = ((camera.height / 2.0 - 0.5 - np.arange(camera.height)) / camera.focal).astype(np.float32)
        inverse = np.take(planes[:, 1], numbers)
        inverse *= across
        part = np.take(planes[:, 2], numbers)
        part *= upward[:, None]
        inverse += part
        np.take(planes[:, 0], numbers, out=part, mode="clip")
        inverse += part
        # at the rim of a face seen edge-on, half a pixel outside of it, its plane may lie anywhere
        np.maximum(inverse, np.float32(1.0 / FARTHEST_M), out=inverse)
        return np.reciprocal(inverse, out=inverse)

    @cached_property
    def labels(self) -> Image:
        """Semantic tag at each pixel: uint8 (height, width)."""
        parts = self._ground_parts
        by_number = np.concatenate([[Label.SKY], np.zeros(parts), self._faces.label]).astype(np.uint8)
        labels = np.take(by_number, self._numbers)
        np.copyto(labels, self._ground.labels(), where=(self._numbers > 0) & (self._numbers <= parts))
        return labels

    @cached_property
    def instances(self) -> NDArray[np.uint32]:
        """Actor id, or number of a standing thing, at each pixel; 0 for ground and sky: uint32 (height, width)."""
        nobody = np.zeros(1 + self._ground_parts, np.uint32)
        return np.take(np.concatenate([nobody, self._faces.instance]), self._numbers)
