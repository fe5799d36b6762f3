"""What stands beside the road for good (houses, trees, poles, lights, signs) as faces in the world.

Everything that can be worked out once a map is: corners, normals, base colours. `Standing.around` picks what can be
seen from a cell of the map and keeps it, so that a frame only has to choose among a few hundred faces.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from zmqcarla.sim.blueprints import Label
from zmqcarla.sim.bridges import decks
from zmqcarla.sim.camera import Camera, rotations
from zmqcarla.sim.faces import CORNERS, FIRST_INSTANCE, Faces
from zmqcarla.sim.looks import FACE_LABELS, FINE_PX, LAMPS_BGR, PALETTE, lit
from zmqcarla.sim.meshes import GLOWING, TABLE, Kind, Role
from zmqcarla.sim.scenery import furniture, grow

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from zmqcarla.sim.roads import RoadMap
    from zmqcarla.sim.sky import Light
    from zmqcarla.sim.terrain import GroundSeen

    Floats = NDArray[np.float64]
    Integers = NDArray[np.intp]
    Flags = NDArray[np.bool_]

_CELL_M = 24.0
_KEPT_CELLS = 24
_FAR_M = np.full(len(Kind), 130.0)
_FAR_M[[Kind.POLE, Kind.LIGHT_HEAD, Kind.STOP_SIGN, Kind.YIELD_SIGN]] = 90.0
_BELOW_M = np.zeros(len(Kind))
_BELOW_M[[Kind.DECK, Kind.DECK_LINE]] = 6.0, 2.0
"""Bridges are painted as if they were this much farther away, so that what stands on them comes after."""
_TREES_FAR_M = 110.0
_PANES_FAR_M = 26.0
_WINDOWS_FAR_M = 70.0
_TRUNK_BGR = np.array([40.0, 62.0, 82.0])
_TRUNK_M = 0.14
_FORK = 0.55
_CROWN = np.array([(0.62, 0.28, 0.95, 0.78), (0.72, -0.3, 0.85, 0.98), (0.84, 0.05, 0.8, 1.18)])
"""Discs of a tree's crown: height as a share of the tree's, sideways and size as shares of its radius, brightness."""
_MIDDLES = np.array([_FORK / 2, *_CROWN[:, 0]])
_TURNS = 2 * math.pi * (np.arange(CORNERS) + 0.5) / CORNERS


@dataclass(slots=True)
class Nearby:
    """What may be seen from one cell of the map. m objects with n faces, t trees.

    Attributes:
        centre, radius, far, tall, below: (m, ...) spheres around the objects, farthest view, half height, and what they
            count as farther away than they are.
        owner: intp (n,), object of each face.
        corners: float64 (3, CORNERS, n), world.
        normals, offsets: a camera at c sees a face when normal . c > offset.
        fine: bool (n,), left out on what is a few pixels tall.
        bgr: float64 (n, 3), base colours.
        lamp_faces, lamp_signals, lamp_rows: faces that are lamps of traffic lights, whose, and which of three.
        panes: for each of p walls (`pane_walls`, among the faces) its windows, float64 (3, 4, k), world; near walls are
            there twice, `pane_single` says for which each window is a pane of its own.
        trees: TREE_DTYPE (t,); `tree_shape` float64 (2, CORNERS, t, 4): their outlines around the middles of trunk and
            crown, to the right and up.
    """

    centre: Floats
    radius: Floats
    far: Floats
    tall: Floats
    below: Floats
    owner: Integers
    corners: Floats
    normals: Floats
    offsets: Floats
    fine: Flags
    glowing: Flags
    bgr: Floats
    label: NDArray[np.uint8]
    instance: NDArray[np.uint32]
    lamp_faces: Integers
    lamp_signals: Integers
    lamp_rows: Integers
    panes: list[Floats]
    pane_walls: Integers
    pane_single: Flags
    trees: NDArray[np.void]
    tree_shape: Floats
    tree_bgr: Floats
    tree_instance: NDArray[np.uint32]
    light: Light | None = None
    bright: Floats = field(default_factory=lambda: np.zeros(0))

    def shade(self, light: Light) -> Floats:
        """Brightness of each face: float64 (n,)."""
        if self.light is not light:
            self.light, self.bright = light, lit(light, self.normals, self.glowing)
        return self.bright


class Standing:
    """All standing things of one map."""

    def __init__(self, road_map: RoadMap) -> None:
        houses, self._trees = grow(road_map)
        furnished = furniture(road_map)
        rows = np.concatenate([houses, furnished, decks(road_map)])
        self._rows = rows
        self._kind = rows["kind"].astype(np.intp)
        self._axes = rotations(rows["rotation"])
        self._radius = rows["radius"]
        self._owner, self._form = np.nonzero(TABLE.counts[self._kind] > 0)
        self._cells: OrderedDict[tuple[int, int], Nearby] = OrderedDict()
        self._hidden: set[int] = set()
        self._shown = np.ones(len(rows) + len(self._trees), np.bool_)
        self._level_rows = len(houses) + len(furnished)

    @property
    def boxes(self) -> NDArray[np.void]:
        """The solid things that are not hidden (BOX_DTYPE)."""
        return self._rows[self._shown[: len(self._rows)]] if self._hidden else self._rows

    def hide(self, numbers: set[int]) -> None:
        """Hide these and show all others, by their place among a map's level objects (see level.py)."""
        if numbers == self._hidden:
            return
        self._hidden = set(numbers)
        self._shown[:] = True
        for number in numbers:
            # bridges stand between the level's boxes and its trees; they are the road's
            tree = number - self._level_rows
            self._shown[number if tree < 0 else len(self._rows) + tree] = False
        self._cells.clear()

    def around(self, x_m: float, y_m: float) -> Nearby:
        """What can be seen from a place on the map."""
        key = (math.floor(x_m / _CELL_M), math.floor(y_m / _CELL_M))
        nearby = self._cells.get(key)
        if nearby is None:
            nearby = self._cells[key] = self._gather((np.array(key) + 0.5) * _CELL_M)
            if len(self._cells) > _KEPT_CELLS:
                self._cells.popitem(last=False)
        return nearby

    def _gather(self, middle: Floats) -> Nearby:
        rows, half_cell = self._rows, _CELL_M * 0.71
        far = _FAR_M[self._kind]
        kept = np.linalg.norm(rows["centre"][:, :2] - middle, axis=1) < far + self._radius + half_cell
        kept &= self._shown[: len(rows)]
        number = np.cumsum(kept) - 1
        faces = np.flatnonzero(kept[self._owner])
        owner, form = self._owner[faces], self._form[faces]
        kind, half, axes = self._kind[owner], rows["half"][owner], self._axes[owner]
        local = TABLE.corners[kind, form] * half[:, None, :]
        corners = np.matmul(local, axes.transpose(0, 2, 1)) + rows["centre"][owner][:, None, :]
        normals = np.einsum("nij,nj->ni", axes, TABLE.normals[kind, form] / half)
        normals /= np.linalg.norm(normals, axis=1, keepdims=True)
        role = TABLE.roles[kind, form]
        bgr = PALETTE[role]
        body = (role == Role.BODY) | (role == Role.FRAME)
        bgr[body] = rows["bgr"][owner][body]
        lamps = np.flatnonzero((role >= Role.RED_LAMP) & (role <= Role.GREEN_LAMP))
        panes, walls, single = self._panes(owner, form, middle)
        trees = np.linalg.norm(self._trees["foot"][:, :2] - middle, axis=1) < _TREES_FAR_M + half_cell
        trees &= self._shown[len(rows) :]
        return Nearby(
            centre=rows["centre"][kept],
            radius=self._radius[kept],
            far=far[kept],
            tall=rows["half"][kept, 2],
            below=_BELOW_M[self._kind[kept]],
            owner=number[owner],
            corners=np.ascontiguousarray(corners.transpose(2, 1, 0)),
            normals=normals,
            offsets=np.einsum("ij,ij->i", normals, corners[:, 0]),
            fine=TABLE.fine[kind, form],
            glowing=GLOWING[role],
            bgr=bgr,
            label=FACE_LABELS[kind],
            instance=(owner + FIRST_INSTANCE).astype(np.uint32),
            lamp_faces=lamps,
            lamp_signals=rows["signal"][owner[lamps]].astype(np.intp),
            lamp_rows=role[lamps] - Role.RED_LAMP,
            panes=panes,
            pane_walls=walls,
            pane_single=single,
            trees=self._trees[trees],
            tree_bgr=_tree_colours(self._trees[trees]),
            tree_shape=_tree_shapes(self._trees[trees]),
            tree_instance=(np.flatnonzero(trees) + FIRST_INSTANCE + len(rows)).astype(np.uint32),
        )

    def _panes(self, owner: Integers, form: Integers, middle: Floats) -> tuple[list[Floats], Integers, Flags]:
        """Windows of the houses near a place: corners by wall, their walls as numbers in `owner`, whether single."""
        parts: list[Floats] = []
        walls: list[int] = []
        single: list[bool] = []
        for face in np.flatnonzero((self._kind[owner] == Kind.HOUSE) & (form < len(_WALLS))).tolist():
            house, (axis, sign) = int(owner[face]), _WALLS[int(form[face])]
            row = self._rows[house]
            away = float(np.linalg.norm(row["centre"][:2] - middle)) - _CELL_M * 0.71
            if away > _WINDOWS_FAR_M + self._radius[house]:
                continue
            half = row["half"]
            floors, columns = max(1, int(half[2] / 1.6)), max(2, int(half[1 - axis] / 1.5))
            for count in (1, columns) if away < _PANES_FAR_M + self._radius[house] else (1,):
                local = _window_corners(axis, sign, floors, count) * half[:, None]
                corners = self._axes[house] @ local + row["centre"][:, None]
                parts.append(np.ascontiguousarray(corners.reshape(3, -1, 4).transpose(0, 2, 1)))
                walls.append(face)
                single.append(count > 1)
        return parts, np.array(walls, np.intp), np.array(single, np.bool_)


_WALLS = ((0, -1), (0, 1), (1, -1), (1, 1))
"""Axis and side of the first faces of a box mesh."""


@lru_cache(maxsize=256)
def _window_corners(axis: int, sign: int, floors: int, columns: int) -> Floats:
    """Corners of all windows of one side of a house in its cube, float64 (3, windows * 4); one column is a ribbon."""
    edges = np.array([0.24, 0.76]) if columns > 1 else np.array([0.05, 0.95])
    across = 2.0 * (np.arange(columns)[:, None] + edges) / columns - 1.0
    upward = 2.0 * (np.arange(floors)[:, None] + np.array([0.28, 0.76])) / floors - 1.0
    corners = np.empty((3, floors, columns, 4))
    corners[axis] = sign * 1.0001
    corners[1 - axis] = across[None, :, [0, 1, 1, 0]]
    corners[2] = upward[:, None, [0, 0, 1, 1]]
    return corners.reshape(3, -1)


@dataclass(frozen=True, slots=True)
class Panes:
    """Windows of one wall, painted after it.

    Attributes:
        outlines: int32 (4, 2) each, pixels.
        wall: Number of the wall among the faces.
        lit: Whether somebody is at home at night.
    """

    outlines: list[NDArray[np.int32]]
    wall: int
    lit: bool


def standing_faces(
    near: Nearby, camera: Camera, light: Light, states: NDArray[np.uint8], ground: GroundSeen
) -> tuple[Faces, list[Panes]]:
    """The standing things that a camera may see."""
    offset = near.centre - camera.position
    seen = offset @ camera.axes.T
    shown = ground.may_show(camera.may_see(seen, near.radius, near.far), near.centre, near.tall)
    plain = camera.focal * near.tall < FINE_PX * np.maximum(seen[:, 0], 1.0)
    facing = near.normals @ camera.position > near.offsets
    picked = np.flatnonzero(facing & shown[near.owner] & ~(near.fine & plain[near.owner]))
    owner = near.owner[picked]
    reach = np.sqrt(np.einsum("ij,ij->i", offset, offset))
    if len(states) and len(near.lamp_faces):
        near.bgr[near.lamp_faces] = LAMPS_BGR[np.minimum(states[near.lamp_signals], 3), near.lamp_rows]
    faces = Faces(
        camera.turned(near.corners[:, :, picked]),
        (reach + near.below)[owner],
        near.bgr[picked],
        near.shade(light)[picked],
        near.label[picked],
        near.instance[picked],
    )
    return faces, _panes_seen(near, camera, seen[:, 0], picked, light.night > 0.5)


def _panes_seen(near: Nearby, camera: Camera, depth: Floats, picked: Integers, night: bool) -> list[Panes]:
    """The windows of the walls among the `picked` faces, by the depths of their houses."""
    place = np.full(len(near.owner), -1)
    place[picked] = np.arange(len(picked))
    depth = depth[near.owner[near.pane_walls]]
    chosen = (place[near.pane_walls] >= 0) & (depth < _WINDOWS_FAR_M) & (near.pane_single == (depth < _PANES_FAR_M))
    chosen = np.flatnonzero(chosen)
    if not len(chosen):
        return []
    parts = [near.panes[number] for number in chosen.tolist()]
    corners = camera.turned(np.concatenate(parts, axis=2))
    depths, outlines = corners[0].min(axis=0), list(camera.project(corners))
    walls = near.pane_walls[chosen]
    houses = near.instance[walls].tolist()
    panes: list[Panes] = []
    end = 0
    for wall, house, part in zip(place[walls].tolist(), houses, parts, strict=True):
        start, end = end, end + part.shape[2]
        if depths[start:end].min() < 1.0:
            continue
        shown = outlines[start:end]
        panes.append(Panes(shown, wall, lit=False))
        if night:
            at_home = [pane for number, pane in enumerate(shown) if (number * 5 + house) % 7 < 3]
            panes.append(Panes(at_home, wall, lit=True))
    return panes


def tree_faces(near: Nearby, camera: Camera, light: Light, ground: GroundSeen) -> Faces | None:
    """The trees that a camera may see: a trunk and a crown of three discs each, turned to the camera."""
    trees = near.trees
    feet = (trees["foot"] - camera.position) @ camera.axes.T
    shown = camera.may_see(feet, 4.0, _TREES_FAR_M) & (feet[:, 0] > 1.0)
    kept = np.flatnonzero(ground.may_show(shown, trees["foot"], trees["height"]))
    if not len(kept):
        return None
    feet, tall, radius = feet[kept], trees["height"][kept], trees["radius"][kept]
    middle = feet[:, None, :] + (tall[:, None] * _MIDDLES)[:, :, None] * camera.axes[:, 2]
    middle[:, 1:, 1] += radius[:, None] * _CROWN[:, 1]
    corners = np.empty((3, CORNERS, len(kept), 4))
    corners[:] = middle.transpose(2, 0, 1)[:, None]
    corners[1:] += near.tree_shape[:, :, kept]
    count = 4 * len(kept)
    return Faces(
        corners.reshape(3, CORNERS, count),
        np.repeat(np.sqrt(np.einsum("ij,ij->i", feet, feet)), 4),
        near.tree_bgr[kept].reshape(count, 3),
        np.full(count, light.ambient + 0.7 * light.diffuse),
        np.full(count, int(Label.VEGETATION), np.uint8),
        np.repeat(near.tree_instance[kept], 4),
    )


def _tree_shapes(trees: NDArray[np.void]) -> Floats:
    """See `Nearby.tree_shape`. Crowns are a little lopsided, each otherwise, so that leaves do not look like coins."""
    tall, radius = trees["height"], trees["radius"]
    shapes = np.empty((2, CORNERS, len(trees), 4))
    shapes[0, :, :, 0] = _TRUNK_M * np.array([-1.0, 1.0, 1.0, -1.0, -1.0, -1.0, -1.0, -1.0])[:, None]
    shapes[1, :, :, 0] = 0.5 * _FORK * tall * np.array([-1.0, -1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0])[:, None]
    wobble = 1.0 + 0.12 * np.sin(3.0 * _TURNS[:, None, None] + tall[:, None] * 7.0 + np.arange(3.0) * 2.0)
    spread = radius[:, None] * _CROWN[:, 2] * wobble
    shapes[0, :, :, 1:] = spread * np.cos(_TURNS)[:, None, None]
    shapes[1, :, :, 1:] = spread * np.sin(_TURNS)[:, None, None]
    return shapes


def _tree_colours(trees: NDArray[np.void]) -> Floats:
    """Base colours of trunk and crown: float64 (t, 4, 3)."""
    bgr = np.empty((len(trees), 4, 3))
    bgr[:, 0] = _TRUNK_BGR
    bgr[:, 1:] = trees["bgr"][:, None, :] * _CROWN[:, 3, None]
    return bgr
