"""Paints solid things and trees into one camera picture, far to near.

All arithmetic of a frame is done at once in numpy (transform, cull, shade, project); what remains per face is one
OpenCV call. Shading is flat: ambient light, plus sun on faces that look at it, then haze by distance.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

import cv2
import numpy as np

from zmqcarla.sim.camera import NEAR_M, SHIFT, Camera, clip_near, rotations
from zmqcarla.sim.meshes import GLOWING, Kind, MeshTable, Role

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from zmqcarla.sim.sky import Light

    Floats = NDArray[np.float64]
    Integers = NDArray[np.intp]
    Image = NDArray[np.uint8]

OWN_ROOF_M = 0.6
"""A box that holds the camera, up to this far above its roof, is the car that carries it and is left out."""

_WINDOWS_FAR_M = 70.0
_PANES_FAR_M = 26.0
_FINE_PX = 9.0
_FAR_M = np.full(len(Kind), 130.0)
_FAR_M[[Kind.POLE, Kind.LIGHT_HEAD, Kind.STOP_SIGN, Kind.YIELD_SIGN]] = 90.0
_TABLE = MeshTable()
_FACE_CORNERS = np.ascontiguousarray(_TABLE.corners.reshape(-1, *_TABLE.corners.shape[2:]).transpose(2, 1, 0))
_FACE_COUNTS, _FACE_ROLES = _TABLE.counts.ravel(), _TABLE.roles.ravel()
_FACE_NORMALS = _TABLE.normals.reshape(-1, 3)
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
    """Oriented boxes as columns, ready for painting.

    Attributes:
        centre: float64 (n, 3), world.
        half: float64 (n, 3), half sizes.
        axes: float64 (n, 3, 3), columns are the box's forward, right and up in the world.
        radius: float64 (n,), of the sphere around the box.
        far: float64 (n,), farther than this it is not painted.
        ground_z: float64 (n,), height of the map's ground below the box.
        kind: intp (n,), a `Kind`.
        bgr: float64 (n, 3), body colour.
        braking: intp (n,), 0 or 1.
        signal: intp (n,), index of a light head's signal.
    """

    centre: Floats
    half: Floats
    axes: Floats
    radius: Floats
    far: Floats
    ground_z: Floats
    kind: Integers
    bgr: Floats
    braking: Integers
    signal: Integers

    @classmethod
    def room_for(cls, count: int) -> Solids:
        """Uninitialised columns for `count` boxes."""
        return cls(
            centre=np.empty((count, 3)),
            half=np.empty((count, 3)),
            axes=np.empty((count, 3, 3)),
            radius=np.empty(count),
            far=np.empty(count),
            ground_z=np.empty(count),
            kind=np.empty(count, np.intp),
            bgr=np.empty((count, 3)),
            braking=np.empty(count, np.intp),
            signal=np.empty(count, np.intp),
        )

    def rows(self, picked: Integers | slice) -> Solids:
        """The picked boxes: copies for an index array, views for a slice."""
        return Solids(*(getattr(self, name)[picked] for name in Solids.__slots__))

    def write(self, first: int, rows: NDArray[np.void], ground_z: Floats | float) -> None:
        """Fill from `first` on with rows of BOX_DTYPE."""
        part = slice(first, first + len(rows))
        half = rows["half"]
        self.centre[part], self.half[part], self.axes[part] = rows["centre"], half, rotations(rows["rotation"])
        self.radius[part] = np.sqrt(np.einsum("ij,ij->i", half, half))
        self.kind[part], self.bgr[part] = rows["kind"], rows["bgr"]
        self.braking[part], self.signal[part] = rows["braking"], rows["signal"]
        self.far[part], self.ground_z[part] = _FAR_M[self.kind[part]], ground_z


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
        around = (np.abs(eye[:, 0]) < 1.04) & (np.abs(eye[:, 1]) < 1.04) & (eye[:, 2] > -1.0)
        visible[around & (eye[:, 2] < 1.0 + OWN_ROOF_M / half[:, 2])] = False
        owner, face = np.nonzero(visible)
        form = kind[owner] * _TABLE.roles.shape[1] + face
        self._half, self._eye = half, eye
        self._polygons = self._outlines(seen, owner, form)
        self._colours = self._shaded(solids, seen, states, owner, form)
        self._first = np.searchsorted(owner, np.arange(len(kind) + 1)).tolist()
        self._panes = self._windows(kind, seen)

    def _placed(self, local: Floats, seen: Floats, owner: Integers) -> tuple[Floats, Floats, Floats]:
        """Camera coordinates x, y, z of points (3, ..., n) in the cubes of their owners (n,), each (..., n)."""
        turn = np.ascontiguousarray(self._stretched.transpose(1, 2, 0))[:, :, owner]
        place = np.ascontiguousarray(seen.T)[:, owner]
        x, y, z = (turn[i, 0] * local[0] + turn[i, 1] * local[1] + turn[i, 2] * local[2] + place[i] for i in range(3))
        return x, y, z

    def _outlines(self, seen: Floats, owner: Integers, form: Integers) -> list[NDArray[np.int32] | None]:
        """Pixels of each face's outline, None when nothing of it can be seen."""
        camera = self._camera
        x, y, z = self._placed(_FACE_CORNERS[:, :, form], seen, owner)
        crosses = x.min(axis=0) < NEAR_M
        pixels = camera.project(x, y, z)
        high, low = pixels.max(axis=0), pixels.min(axis=0)
        edge = np.array([camera.width, camera.height]) << SHIFT
        outside = (high[:, 0] < 0) | (low[:, 0] > edge[0]) | (high[:, 1] < 0) | (low[:, 1] > edge[1])
        pixels = np.ascontiguousarray(pixels.transpose(1, 0, 2))
        counts = _FACE_COUNTS[form]
        outlines: list[NDArray[np.int32] | None] = [
            line if many else line[:4] for line, many in zip(list(pixels), (counts > 4).tolist(), strict=True)
        ]
        for number in np.flatnonzero(outside | crosses).tolist():
            outlines[number] = None
            if crosses[number]:
                corners = np.stack([x[:, number], y[:, number], z[:, number]], axis=-1)[: counts[number]]
                polygon = clip_near(corners)
                outlines[number] = camera.to_pixels(polygon) if len(polygon) >= 3 else None
        return outlines

    def _shaded(
        self, solids: Solids, seen: Floats, states: NDArray[np.uint8], owner: Integers, form: Integers
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
        role = _FACE_ROLES[form]
        sun = np.array(light.sun) @ solids.axes
        glance = np.einsum("ij,ij->i", _FACE_NORMALS[form], sun[owner])
        bright = light.ambient + light.diffuse * np.maximum(glance, 0.0)
        bright[role == Role.SHADOW] = light.ground
        bright[_GLOWS[role]] = 1.0
        fog = light.fog_at(np.sqrt(np.einsum("ij,ij->i", seen, seen)))
        self._fog = fog.tolist()
        colour = np.full((len(owner), 4), 255.0)
        colour[:, :3] = palette[owner, role] * (bright * (1.0 - fog)[owner])[:, None]
        colour[:, :3] += (fog[:, None] * np.array(light.horizon))[owner]
        return cast("list[list[int]]", np.minimum(colour, 255.0).astype(np.intp).tolist())

    def solid(self, index: int) -> None:
        """Paint one of the prepared solids."""
        out, colours, polygons = self._out, self._colours, self._polygons
        start, end = self._first[index], self._first[index + 1]
        for number in range(start, end):
            polygon = polygons[number]
            if polygon is not None:
                cv2.fillConvexPoly(out, polygon, colours[number], 8, SHIFT)
        if index in self._panes and end > start:
            haze = [0.48 * self._fog[index] * part for part in self._light.horizon]
            colour = _LIT_WINDOW if self._light.night > 0.5 else _mix(colours[start][:3], 0.52, haze)
            cv2.fillPoly(out, cast("Any", self._panes[index]), colour, cv2.LINE_8, SHIFT)

    def _windows(self, kind: Integers, seen: Floats) -> dict[int, list[NDArray[np.int32]]]:
        """Outlines of the windows on those sides of near houses that face the camera, by house."""
        owners: list[int] = []
        parts: list[Floats] = []
        for index in np.flatnonzero((kind == Kind.HOUSE) & (seen[:, 0] < _WINDOWS_FAR_M)).tolist():
            half, eye = self._half[index].tolist(), self._eye[index].tolist()
            for axis, sign in ((0, 1), (0, -1), (1, 1), (1, -1)):
                if eye[axis] * sign > 1.0:
                    columns = max(2, int(half[1 - axis] / 1.5)) if seen[index, 0] < _PANES_FAR_M else 1
                    parts.append(_window_corners(axis, sign, max(1, int(half[2] / 1.6)), columns))
                    owners.append(index)
        if not parts:
            return {}
        counts = [part.shape[1] for part in parts]
        x, y, z = self._placed(np.concatenate(parts, axis=1), seen, np.repeat(owners, counts))
        pixels = self._camera.project(x, y, z).reshape(-1, 4, 2)
        hidden = x.reshape(-1, 4).min(axis=1) < 1.0
        panes: dict[int, list[NDArray[np.int32]]] = {}
        end = 0
        for owner, count in zip(owners, counts, strict=True):
            start, end = end, end + count // 4
            if not hidden[start:end].any():
                panes.setdefault(owner, []).extend(pixels[start:end])
        return panes

    def plant(self, feet: Floats, tall_m: Floats, radius_m: Floats, leaves: list[list[float]]) -> None:
        """Work out trees: feet (n, 3) in camera coordinates, heights (n,), crown radii (n,), BGR colours."""
        camera, light = self._camera, self._light
        shares = np.array([0.0, 0.55, *(part[0] for part in _CROWN)])
        points = feet[:, None, :] + (tall_m[:, None] * shares)[:, :, None] * camera.axes[:, 2]
        self._tree_points = camera.to_pixels(points).tolist()
        self._tree_scale = (camera.focal / feet[:, 0]).tolist()
        self._tree_radius = (radius_m * camera.focal / feet[:, 0] * (1 << SHIFT)).tolist()
        self._tree_fog = light.fog_at(feet[:, 0]).tolist()
        self._leaves = leaves

    def tree(self, index: int) -> None:
        """Paint one of the planted trees: a trunk and a crown of three discs."""
        light, fog = self._light, self._tree_fog[index]
        trunk, fork, *crown = self._tree_points[index]
        shine = (light.ambient + 0.7 * light.diffuse) * (1.0 - fog)
        haze = (light.horizon[0] * fog, light.horizon[1] * fog, light.horizon[2] * fog)
        thick = max(1, int(0.28 * self._tree_scale[index]))
        cv2.line(self._out, trunk, fork, _mix(_TRUNK, shine, haze), thick, cv2.LINE_8, SHIFT)
        size = self._tree_radius[index]
        for number, ((x, y), (_, aside, part)) in enumerate(zip(crown, _CROWN, strict=True)):
            colour = _mix(self._leaves[index], (0.78 + 0.2 * number) * shine, haze)
            cv2.circle(self._out, (x + int(aside * size), y), int(part * size), colour, -1, cv2.LINE_8, SHIFT)


@lru_cache(maxsize=256)
def _window_corners(axis: int, sign: int, floors: int, columns: int) -> Floats:
    """Corners of all windows of one side of a house in its cube, float64 (3, windows * 4); one column is a ribbon."""
    edges = np.array([0.24, 0.76]) if columns > 1 else np.array([0.05, 0.95])
    across = 2.0 * (np.arange(columns)[:, None] + edges) / columns - 1.0
    upward = 2.0 * (np.arange(floors)[:, None] + np.array([0.28, 0.76])) / floors - 1.0
    corners = np.empty((3, floors, columns, 4))
    corners[axis] = sign
    corners[1 - axis] = across[None, :, [0, 1, 1, 0]]
    corners[2] = upward[:, None, [0, 0, 1, 1]]
    return corners.reshape(3, -1)


def _mix(bgr: Sequence[float], share: float, add: Sequence[float]) -> tuple[int, int, int, int]:
    blue, green, red = (min(255, int(part * share + more)) for part, more in zip(bgr, add, strict=True))
    return blue, green, red, 255
