"""Paints solid things and trees into one camera picture, far to near.

All arithmetic of a frame is done at once in numpy (transform, cull, shade, project); what remains per face is one OpenCV
call. Shading is flat: ambient light, plus sun on faces that look at it, then haze by distance.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

import cv2
import numpy as np

from zmqcarla.sim.camera import NEAR_M, SHIFT, Camera, clip_near
from zmqcarla.sim.meshes import GLOWING, Kind, MeshTable, Role

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from zmqcarla.sim.sky import Light

    Floats = NDArray[np.float64]
    Integers = NDArray[np.intp]
    Image = NDArray[np.uint8]

OWN_ROOF_M = 0.6
"""A box that holds the camera, up to this far above its roof, is the car that carries it and is left out."""

_WINDOWS_FAR_M = 50.0
_FINE_PX = 9.0
_TABLE = MeshTable()
_GLOWS = np.array(GLOWING)

_PALETTE = np.zeros((len(Role), 3))
_PALETTE[Role.GLASS] = (78, 60, 46)
_PALETTE[Role.DARK] = (26, 25, 24)
_PALETTE[Role.SHADOW] = (50, 50, 50)
_PALETTE[Role.PLATE] = (150, 190, 200)
_PALETTE[Role.SKIN] = (120, 158, 206)
_PALETTE[Role.CLOTH] = (74, 50, 38)
_PALETTE[Role.STEEL] = (128, 112, 92)
_PALETTE[Role.SIGN_RED] = (40, 32, 200)
_PALETTE[Role.SIGN_WHITE] = (232, 232, 236)
_TAIL_BGR = np.array([[30.0, 22.0, 150.0], [70.0, 60.0, 255.0]])
_HEAD_BGR = np.array([[214.0, 226.0, 232.0], [220.0, 250.0, 255.0]])
_LAMPS_BGR = np.array(
    [
        [[50.0, 50.0, 255.0], [20.0, 48.0, 54.0], [24.0, 50.0, 20.0]],
        [[24.0, 24.0, 60.0], [40.0, 210.0, 255.0], [24.0, 50.0, 20.0]],
        [[24.0, 24.0, 60.0], [20.0, 48.0, 54.0], [120.0, 255.0, 70.0]],
        [[24.0, 24.0, 60.0], [20.0, 48.0, 54.0], [24.0, 50.0, 20.0]],
    ]
)
"""By state Red, Yellow, Green, Off (and Unknown): colours of the three lamps."""

_LIT_WINDOW = (70, 150, 190, 255)
_TRUNK = (40.0, 62.0, 82.0)
_CROWN = ((0.62, 0.28, 0.95), (0.72, -0.3, 0.85), (0.84, 0.05, 0.8))
"""Discs of a tree's crown: height as a share of the tree's, sideways and size as shares of its radius."""


@dataclass(frozen=True, slots=True)
class Solids:
    """Oriented boxes, one row each, ready for painting.

    Attributes:
        centre: float64 (n, 3), world.
        half: float64 (n, 3), half sizes.
        axes: float64 (n, 3, 3), columns are the box's forward, right and up in the world.
        radius: float64 (n,), of the sphere around the box.
        kind: intp (n,), a `Kind`.
        bgr: float64 (n, 3), body colour.
        braking: intp (n,), 0 or 1.
        signal: intp (n,), index of a light head's signal.
    """

    centre: Floats
    half: Floats
    axes: Floats
    radius: Floats
    kind: Integers
    bgr: Floats
    braking: Integers
    signal: Integers


class Painter:
    """One frame's painting. `seen` below are the centres (n, 3) of the solids in camera coordinates."""

    def __init__(self, out: Image, camera: Camera, light: Light) -> None:
        self._out = out
        self._camera = camera
        self._light = light

    def prepare(self, solids: Solids, seen: Floats, states: NDArray[np.uint8]) -> None:
        """Work out every visible face: its pixels and its colour. `states` holds a light state per signal."""
        camera, half, kind = self._camera, solids.half, solids.kind
        turned = camera.axes @ solids.axes
        eye = -np.matmul(seen[:, None, :], turned)[:, 0] / half
        self._stretched = turned * half[:, None, :]
        visible = np.matmul(_TABLE.normals[kind], eye[:, :, None])[:, :, 0] > _TABLE.offsets[kind]
        tall_px = camera.focal * half[:, 2] / np.maximum(seen[:, 0], 1.0)
        visible &= ~(_TABLE.fine[kind] & (tall_px < _FINE_PX)[:, None])
        around = (np.abs(eye[:, :2]) < 1.04).all(axis=1) & (eye[:, 2] > -1.0)
        visible[around & (eye[:, 2] < 1.0 + OWN_ROOF_M / half[:, 2])] = False
        owner, face = np.nonzero(visible)
        form = kind[owner], face
        corners = np.matmul(_TABLE.corners[form], self._stretched[owner].transpose(0, 2, 1)) + seen[owner, None, :]
        self._polygons = self._outlines(corners, _TABLE.counts[form])
        self._colours = self._shaded(solids, seen, states, owner, form)
        self._first = np.searchsorted(owner, np.arange(len(kind) + 1)).tolist()
        self._solids, self._seen, self._eye = solids, seen, eye
        self._windowed = ((kind == Kind.HOUSE) & (seen[:, 0] < _WINDOWS_FAR_M)).tolist()

    def _outlines(self, corners: Floats, counts: Integers) -> list[NDArray[np.int32] | None]:
        """Pixels of each face's outline, None when nothing of it can be seen."""
        camera = self._camera
        pixels = camera.to_pixels(corners)
        low, high = pixels.min(axis=1), pixels.max(axis=1)
        nearest, farthest = corners[:, :, 0].min(axis=1), corners[:, :, 0].max(axis=1)
        crosses = nearest < NEAR_M
        edge = np.array([camera.width, camera.height]) << SHIFT
        dropped = ((high < 0) | (low >= edge)).any(axis=1) & ~crosses | (farthest < NEAR_M)
        outlines: list[NDArray[np.int32] | None] = [
            line if many else line[:4] for line, many in zip(list(pixels), (counts > 4).tolist(), strict=True)
        ]
        for number in np.flatnonzero(crosses | dropped).tolist():
            outlines[number] = None
            if not dropped[number]:
                polygon = clip_near(corners[number, : counts[number]])
                outlines[number] = camera.to_pixels(polygon) if len(polygon) >= 3 else None
        return outlines

    def _shaded(
        self, solids: Solids, seen: Floats, states: NDArray[np.uint8], owner: Integers, form: tuple[Integers, Integers]
    ) -> list[list[int]]:
        """BGRA of each visible face."""
        light = self._light
        palette = np.repeat(_PALETTE[None], len(solids.kind), axis=0)
        palette[:, Role.BODY] = solids.bgr
        palette[:, Role.FRAME] = solids.bgr * 0.88
        palette[:, Role.TAIL_LAMP] = _TAIL_BGR[solids.braking]
        palette[:, Role.HEAD_LAMP] = _HEAD_BGR[int(light.night > 0.5)]
        if len(states):
            lamps = _LAMPS_BGR[np.minimum(states[np.clip(solids.signal, 0, len(states) - 1)], 3)]
            palette[:, Role.RED_LAMP : Role.GREEN_LAMP + 1] = lamps
        role = _TABLE.roles[form]
        facing = _TABLE.normals[form] / solids.half[owner]
        sun = np.matmul(np.array(light.sun), solids.axes)[owner]
        glance = (facing * sun).sum(axis=1) / np.sqrt((facing * facing).sum(axis=1))
        bright = light.ambient + light.diffuse * np.maximum(glance, 0.0)
        bright[role == Role.SHADOW] = light.ground
        bright[_GLOWS[role]] = 1.0
        fog = light.fog_at(np.sqrt((seen * seen).sum(axis=1)))[owner]
        colour = np.full((len(owner), 4), 255.0)
        colour[:, :3] = palette[owner, role] * (bright * (1.0 - fog))[:, None] + np.array(light.horizon) * fog[:, None]
        return cast("list[list[int]]", np.minimum(colour, 255.0).astype(np.intp).tolist())

    def solid(self, index: int) -> None:
        """Paint one of the prepared solids."""
        out, colours, polygons = self._out, self._colours, self._polygons
        start, end = self._first[index], self._first[index + 1]
        for number in range(start, end):
            polygon = polygons[number]
            if polygon is not None:
                cv2.fillConvexPoly(out, polygon, colours[number], 8, SHIFT)
        if self._windowed[index] and end > start:
            self._windows(index, colours[start])

    def _windows(self, index: int, wall: list[int]) -> None:
        """Rows of windows on the sides of a house that face the camera."""
        half = self._solids.half[index]
        floors = max(1, int(half[2] * 2 / 3.2))
        corners = _CORNERS @ self._stretched[index].T + self._seen[index]
        pane = _LIT_WINDOW if self._light.night > 0.5 else (*(int(part * 0.52) for part in wall[:3]), 255)
        local = self._eye[index]
        for axis, sign, side in _SIDES:
            quad = corners[list(side)]
            if local[axis] * sign > 1.0 and float(quad[:, 0].min()) > 1.0:
                width_m = float(half[1 - axis]) * 2.0
                pixels = self._camera.to_pixels(_window_shares(floors, max(2, int(width_m / 3.0))) @ quad)
                cv2.fillPoly(self._out, cast("Any", list(pixels.reshape(-1, 4, 2))), pane, cv2.LINE_8, SHIFT)

    def tree(self, foot: Floats, tall_m: float, radius_m: float, leaves: tuple[float, float, float]) -> None:
        """Paint a trunk and a crown of three discs; `foot` in camera coordinates, `leaves` BGR."""
        camera, light = self._camera, self._light
        scale = camera.focal / float(foot[0])
        shares = [0.0, 0.55, *(part[0] for part in _CROWN)]
        points = foot + np.outer(np.array(shares) * tall_m, camera.axes[:, 2])
        (x0, y0), (x1, y1), *crown = camera.to_pixels(points).tolist()
        fog = 1.0 if foot[0] <= 0.0 else float(light.fog_at(foot[:1])[0])
        shine = (light.ambient + 0.7 * light.diffuse) * (1.0 - fog)
        haze = (light.horizon[0] * fog, light.horizon[1] * fog, light.horizon[2] * fog)
        thick = max(1, int(0.28 * scale))
        cv2.line(self._out, (x0, y0), (x1, y1), _mix(_TRUNK, shine, haze), thick, cv2.LINE_8, SHIFT)
        size = radius_m * scale * (1 << SHIFT)
        for number, ((x, y), (_, aside, part)) in enumerate(zip(crown, _CROWN, strict=True)):
            colour = _mix(leaves, (0.78 + 0.2 * number) * shine, haze)
            cv2.circle(self._out, (x + int(aside * size), y), int(part * size), colour, -1, cv2.LINE_8, SHIFT)


_CORNERS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], np.float64)
_SIDES = ((0, 1, (4, 6, 7, 5)), (0, -1, (2, 0, 1, 3)), (1, 1, (6, 2, 3, 7)), (1, -1, (0, 4, 5, 1)))
"""Sides of a box: axis, sign, and numbers of its corners bottom left, bottom right, top right, top left."""


@lru_cache(maxsize=64)
def _window_shares(floors: int, columns: int) -> Floats:
    """Bilinear weights (floors * columns * 4, 4) of window corners over a facade's four corners."""
    across = (np.arange(columns)[:, None] + np.array([0.24, 0.76])) / columns
    upward = (np.arange(floors)[:, None] + np.array([0.28, 0.76])) / floors
    s = np.broadcast_to(across[None, :, [0, 1, 1, 0]], (floors, columns, 4)).ravel()
    t = np.broadcast_to(upward[:, None, [0, 0, 1, 1]], (floors, columns, 4)).ravel()
    return np.stack([(1 - s) * (1 - t), s * (1 - t), s * t, (1 - s) * t], axis=-1)


def _mix(bgr: tuple[float, float, float], share: float, add: tuple[float, float, float]) -> tuple[int, int, int, int]:
    blue, green, red = (min(255, int(part * share + more)) for part, more in zip(bgr, add, strict=True))
    return blue, green, red, 255
