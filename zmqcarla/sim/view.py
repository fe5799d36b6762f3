"""What one camera sees: worked out once, then painted in colours, or in numbers from which depth and labels follow.

Far to near, every face is one OpenCV call. Colours and numbers are painted from the same outlines in the same order,
so all pictures of a view agree pixel by pixel; the depth of a pixel is that of its face's plane, exactly.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar, cast

import cv2
import numpy as np

from zmqcarla.sim.beams import paint_beams
from zmqcarla.sim.blueprints import Label
from zmqcarla.sim.camera import NEAR_M, SHIFT
from zmqcarla.sim.faces import FIRST_INSTANCE
from zmqcarla.sim.sky import pack_bgra, paint_rain, paint_sky

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from zmqcarla.sim.camera import Camera
    from zmqcarla.sim.faces import Faces
    from zmqcarla.sim.scene import Scene
    from zmqcarla.sim.sky import Light
    from zmqcarla.sim.standing import Panes
    from zmqcarla.sim.terrain import GroundSeen

    Floats = NDArray[np.float64]
    Single = NDArray[np.float32]
    Image = NDArray[np.uint8]

T = TypeVar("T", np.uint8, np.uint32)

_LIT_WINDOW = np.array([70.0, 150.0, 190.0])

_BEAMS_FROM = 0.3

FARTHEST_M = 1000.0
"""Depth of the sky."""


class View:
    """What a camera sees.

    Args:
        camera: whose view it is.
        light: of the weather.
        scene: what is to be seen.
        ground: before the camera.
        faces: all that stands on it.
        panes: windows, which have colours but are the same thing as their walls.
    """

    def __init__(
        self, camera: Camera, light: Light, scene: Scene, ground: GroundSeen, faces: Faces, panes: Sequence[Panes]
    ) -> None:
        self.camera = camera
        self._light = light
        self._scene = scene
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
        if self._light.night > _BEAMS_FROM:
            paint_beams(out, self._scene.boxes, self.camera)
        words = self._colours()
        canvas = out.view(np.int32)[:, :, 0]
        outlines, panes, count = self._outlines, self._panes, len(self._outlines)
        for index in self._order:
            if index >= count:
                cv2.fillPoly(canvas, cast("Any", panes[index - count].outlines), words[index], cv2.LINE_8, SHIFT)
            elif (outline := outlines[index]) is not None:
                cv2.fillConvexPoly(canvas, outline, words[index], cv2.LINE_8, SHIFT)

        if self._scene.weather.precipitation > 5.0:
            paint_rain(out, self._scene.weather, self._scene.moment)

    def _colours(self) -> list[int]:
        """BGRA words of all faces, then of all panes, in light and haze."""
        faces, light = self._faces, self._light
        fog = light.fog_at(faces.reach)
        haze = fog[:, None] * light.horizon
        bgr = faces.bgr * (faces.bright * (1.0 - fog))[:, None] + haze
        if self._panes:
            walls = self._walls
            glass = 0.52 * bgr[walls] + 0.48 * haze[walls]
            if light.night > 0.5:
                glass[[pane.lit for pane in self._panes]] = _LIT_WINDOW
            bgr = np.concatenate([bgr, glass])
        colours: list[int] = pack_bgra(bgr).view(np.int32).tolist()
        return colours

    @cached_property
    def numbers(self) -> NDArray[np.int32]:
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
        """By number: (a, b, c) of its plane, see `Faces.planes`; least and greatest 1 / x on it: float64 (n, 5)."""
        sky = np.array([[1.0 / FARTHEST_M, 0.0, 0.0]])
        planes = np.concatenate([sky, self._ground.planes(), self._faces.planes()])
        # at the rim of a face seen edge-on, half a pixel outside of it, its plane may lie anywhere
        bounds = np.empty((len(planes), 2))
        bounds[:] = 1.0 / FARTHEST_M, 1.0 / NEAR_M
        depth = np.clip(self._faces.corners[0], NEAR_M, FARTHEST_M)
        first = 1 + self._ground_parts
        bounds[first:, 0], bounds[first:, 1] = 1.0 / depth.max(axis=0), 1.0 / depth.min(axis=0)
        return np.concatenate([planes, bounds], axis=1)

    @property
    def planes(self) -> Floats:
        """By number: (a, b, c) of its plane, see `Faces.planes`: float64 (n, 3)."""
        return self._planes[:, :3]

    @property
    def owners(self) -> NDArray[np.uint32]:
        """By number: the actor that it belongs to; 0 for ground and sky, FIRST_INSTANCE and up for the map's things."""
        return self._by_number(self._faces.instance)

    @property
    def boxes(self) -> NDArray[np.void]:
        """The actors of the scene (BOX_DTYPE)."""
        return self._scene.boxes

    @property
    def normal_colours(self) -> Image:
        """By number: the normal that looks at the camera, world frame, -1..1 as 0..255, BGRA: uint8 (n, 4)."""
        away = self.planes @ self.camera.axes
        away /= np.linalg.norm(away, axis=1, keepdims=True)
        colours = np.full((len(away), 4), 255, np.uint8)
        colours[:, 2::-1] = np.round((1.0 - away) * 127.5)
        colours[0, :3] = 0
        return colours

    @cached_property
    def _ground_parts(self) -> int:
        return len(self._ground.planes())

    @cached_property
    def depths_m(self) -> NDArray[np.float32]:
        """Forward distance at each pixel, at most FARTHEST_M: float32 (height, width)."""
        camera, numbers = self.camera, self.numbers
        planes = self._planes_by_part
        across = ((np.arange(camera.width) - camera.width / 2.0 + 0.5) / camera.focal).astype(np.float32)
        upward = ((camera.height / 2.0 - 0.5 - np.arange(camera.height)) / camera.focal).astype(np.float32)
        inverse = np.take(planes[1], numbers)
        inverse *= across
        part = np.take(planes[2], numbers)
        part *= upward[:, None]
        inverse += part
        inverse += np.take(planes[0], numbers, out=part, mode="clip")
        np.maximum(inverse, np.take(planes[3], numbers, out=part, mode="clip"), out=inverse)
        np.minimum(inverse, np.take(planes[4], numbers, out=part, mode="clip"), out=inverse)
        depths: NDArray[np.float32] = np.reciprocal(inverse, out=inverse)
        return depths

    def numbers_at(self, across: Single, upward: Single) -> NDArray[np.int32]:
        """Number of what the pixels show that rays (1, across, upward), each (n,) in camera axes, go through."""
        camera = self.camera
        focal = np.float32(camera.focal)
        column = (across * focal + np.float32(camera.width / 2.0)).astype(np.int32)
        row = (np.float32(camera.height / 2.0) - upward * focal).astype(np.int32)
        row *= camera.width
        row += column
        numbers: NDArray[np.int32] = self.numbers.ravel().take(row, mode="clip")
        return numbers

    def depths_at(self, across: Single, upward: Single, number: NDArray[np.int32]) -> Single:
        """Forward distance at which rays (n,) meet the planes of numbers (n,); infinite for sky."""
        planes = self._planes_by_part
        inverse: Single = planes[1].take(number)
        inverse *= across
        inverse += planes[2].take(number) * upward
        inverse += planes[0].take(number)
        np.maximum(inverse, planes[3].take(number), out=inverse)
        np.minimum(inverse, planes[4].take(number), out=inverse)
        np.reciprocal(inverse, out=inverse)
        inverse[number == 0] = np.inf
        return inverse

    def tags(
        self, across: Single, upward: Single, depth: Single, number: NDArray[np.int32]
    ) -> tuple[Single, Image, NDArray[np.uint32]]:
        """More of what rays (n,) met: cosine of the angle of incidence, semantic tag, actor id or 0; each (n,)."""
        camera, parts = self.camera, self._ground_parts
        a, b, c = (plane.take(number) for plane in self._planes_by_part[:3])
        slope = np.sqrt((a * a + b * b + c * c) * (1.0 + across * across + upward * upward))
        cosine = np.minimum(1.0 / (depth * slope), np.float32(1.0))
        label = self._by_number(self._faces.label).take(number)
        actor = self._by_number(self._faces.instance).take(number)
        actor[actor >= FIRST_INSTANCE] = 0
        ground = np.flatnonzero((number > 0) & (number <= parts))
        rays = np.stack([np.ones(len(ground)), across[ground], upward[ground]]) * depth[ground]
        label[ground] = self._ground.labels_at((rays.T @ camera.axes)[:, :2] + camera.position[:2])
        return cosine, label, actor

    def _by_number(self, of_faces: NDArray[T]) -> NDArray[T]:
        """A column of the faces as one by number: 0 for sky and ground."""
        return np.concatenate([np.zeros(1 + self._ground_parts, of_faces.dtype), of_faces])

    @cached_property
    def _planes_by_part(self) -> Single:
        return np.ascontiguousarray(self._planes.T, np.float32)

    @cached_property
    def labels(self) -> Image:
        """Semantic tag at each pixel: uint8 (height, width)."""
        parts = self._ground_parts
        by_number = self._by_number(self._faces.label)
        by_number[0] = Label.SKY
        labels = np.take(by_number, self.numbers)
        np.copyto(labels, self._ground.labels(), where=(self.numbers > 0) & (self.numbers <= parts))
        return labels

    @cached_property
    def instances(self) -> NDArray[np.uint32]:
        """Actor id at each pixel: uint32 (height, width).

        FIRST_INSTANCE and up for what stands for good, 0 for ground and sky.
        """
        return np.take(self._by_number(self._faces.instance), self.numbers)
