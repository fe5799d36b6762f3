"""The solid things in the picture as small meshes: cars, trucks, bikes, walkers, houses, poles, lamps and signs.

Every mesh lives in the cube [-1, 1]^3 (x forward, y right, z up) and is stretched to its owner's half sizes. Which
faces the camera sees is decided there too: stretching keeps the side of a plane on which a point lies. Faces are
listed in painting order, so a car's lamps come after its body.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

from zmqcarla.sim.faces import CORNERS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Point = tuple[float, float, float]


class Kind(IntEnum):
    """What a box of the scene looks like; the first six are for actors, the rest for the world's own things."""

    CAR = 0
    TRUCK = 1
    BIKE = 2
    WALKER = 3
    PROP = 4
    BOX = 5
    HOUSE = 6
    POLE = 7
    LIGHT_HEAD = 8
    STOP_SIGN = 9
    YIELD_SIGN = 10
    DECK = 11
    DECK_LINE = 12
    DOOR = 13


class Role(IntEnum):
    """What a face is made of; the painter's palette has a colour for each."""

    BODY = 0
    GLASS = 1
    DARK = 2
    SHADOW = 3
    PLATE = 4
    SKIN = 5
    CLOTH = 6
    STEEL = 7
    SIGN_RED = 8
    SIGN_WHITE = 9
    TAIL_LAMP = 10
    HEAD_LAMP = 11
    LEFT_BLINKER = 12
    RIGHT_BLINKER = 13
    RED_LAMP = 14
    YELLOW_LAMP = 15
    GREEN_LAMP = 16
    FRAME = 17


GLOWING = np.array([Role.TAIL_LAMP <= role <= Role.GREEN_LAMP for role in Role])
"""By role: whether it shines by itself."""


@dataclass(slots=True)
class Mesh:
    """Faces in painting order.

    Attributes:
        faces: Corners of each convex face.
        normals: Outward unit normal of each face.
        roles: Material of each face.
    """

    faces: list[tuple[Point, ...]] = field(default_factory=list)
    normals: list[Point] = field(default_factory=list)
    roles: list[Role] = field(default_factory=list)

    def face(self, corners: Sequence[Point], role: Role, inside: Point) -> None:
        """Add a face that looks away from the point `inside`."""
        first, second, third = (np.array(corner) for corner in corners[:3])
        normal = np.cross(second - first, third - first)
        normal /= np.linalg.norm(normal)
        if normal @ (first - inside) < 0:
            normal = -normal
        self.faces.append(tuple(corners))
        self.normals.append((float(normal[0]), float(normal[1]), float(normal[2])))
        self.roles.append(role)

    def prism(self, profile: Sequence[tuple[float, float]], half_y: float, roles: Sequence[Role]) -> None:
        """A convex x-z profile drawn out along y: one face per profile edge with its role, then both ends."""
        x, z = (sum(axis) / len(profile) for axis in zip(*profile, strict=True))
        middle = (x, 0.0, z)
        for (x0, z0), (x1, z1), role in zip(profile, [*profile[1:], profile[0]], roles, strict=False):
            self.face([(x0, -half_y, z0), (x0, half_y, z0), (x1, half_y, z1), (x1, -half_y, z1)], role, middle)
        for y in (-half_y, half_y):
            self.face([(x, y, z) for x, z in profile], roles[-1], middle)

    def box(self, x: tuple[float, float], y: tuple[float, float], z: tuple[float, float], role: Role) -> None:
        """Four sides and a lid; nobody looks from below."""
        middle = (sum(x) / 2, sum(y) / 2, sum(z) / 2)
        for side in x:
            self.face([(side, y[0], z[0]), (side, y[1], z[0]), (side, y[1], z[1]), (side, y[0], z[1])], role, middle)
        for side in y:
            self.face([(x[0], side, z[0]), (x[1], side, z[0]), (x[1], side, z[1]), (x[0], side, z[1])], role, middle)
        self.face([(x[0], y[0], z[1]), (x[1], y[0], z[1]), (x[1], y[1], z[1]), (x[0], y[1], z[1])], role, middle)

    def patch(self, x: float, y: tuple[float, float], z: tuple[float, float], role: Role) -> None:
        """A rectangle across x that looks away from the middle."""
        self.face([(x, y[0], z[0]), (x, y[1], z[0]), (x, y[1], z[1]), (x, y[0], z[1])], role, (0.0, 0.0, 0.0))

    def disc(self, x: float, y: float, z: float, radii: tuple[float, float], role: Role, corners: int = 8) -> None:
        """A polygon in the x-z plane at y that looks away from the middle."""
        turns = [2 * math.pi * (i + 0.5) / corners for i in range(corners)]
        points = [(x + radii[0] * math.cos(turn), y, z + radii[1] * math.sin(turn)) for turn in turns]
        self.face(points, role, (0.0, 0.0, z))

    def shadow(self) -> None:
        """The dark ground below."""
        corners = [(x, y, -0.995) for x, y in ((-1.05, -1.2), (1.05, -1.2), (1.05, 1.2), (-1.05, 1.2))]
        self.face(corners, Role.SHADOW, (0.0, 0.0, -3.0))


def _wheels(mesh: Mesh, places: tuple[float, ...], radii: tuple[float, float]) -> None:
    for side in (-1.0, 1.0):
        for x in places:
            mesh.disc(x, side * 1.005, -1.0 + radii[1], radii, Role.DARK)


def _blinkers(mesh: Mesh, z: tuple[float, float]) -> None:
    for y, role in (((-0.98, -0.62), Role.LEFT_BLINKER), ((0.62, 0.98), Role.RIGHT_BLINKER)):
        mesh.patch(-1.003, y, z, role)
        mesh.patch(1.003, y, (z[0] - 0.14, z[1] - 0.14), role)


def _car() -> Mesh:
    mesh = Mesh()
    mesh.shadow()
    mesh.box((-0.93, 0.93), (-0.88, 0.88), (-0.97, -0.5), Role.DARK)
    hull = [(-1.0, -0.6), (-0.97, 0.12), (0.42, 0.14), (0.94, -0.06), (1.0, -0.6)]
    mesh.prism(hull, 1.0, [Role.BODY] * 4 + [Role.BODY])
    _wheels(mesh, (-0.6, 0.6), (0.145, 0.42))
    mesh.patch(-1.0, (-0.22, 0.22), (-0.38, -0.2), Role.PLATE)
    for y in ((-0.96, -0.52), (0.52, 0.96)):
        mesh.patch(-1.0, y, (-0.16, 0.06), Role.TAIL_LAMP)
        mesh.patch(1.0, y, (-0.3, -0.12), Role.HEAD_LAMP)
    mesh.patch(1.0, (-0.45, 0.45), (-0.45, -0.22), Role.DARK)
    _blinkers(mesh, (-0.28, -0.18))
    _cabin(mesh)
    return mesh


def _cabin(mesh: Mesh) -> None:
    """Roof and posts in the car's colour, and panes set into them."""
    inside = (-0.2, 0.0, 0.5)
    base = {(x, y): (x_m, 0.92 * y, 0.12) for x, x_m in ((-1, -0.8), (1, 0.46)) for y in (-1, 1)}
    roof = {(x, y): (x_m, 0.74 * y, 1.0) for x, x_m in ((-1, -0.56), (1, 0.08)) for y in (-1, 1)}
    for x in (-1, 1):
        end = [base[x, -1], base[x, 1], roof[x, 1], roof[x, -1]]
        mesh.face(end, Role.FRAME, inside)
        mesh.face(_inset(end, 0.1, 0.14), Role.GLASS, inside)
    for y in (-1, 1):
        side = [base[-1, y], base[1, y], roof[1, y], roof[-1, y]]
        mesh.face(side, Role.FRAME, inside)
        for part in (0, 1):
            mesh.face(_inset(side, 0.07, 0.14, part), Role.GLASS, inside)
    mesh.face([roof[-1, -1], roof[1, -1], roof[1, 1], roof[-1, 1]], Role.BODY, inside)


def _inset(quad: Sequence[Point], across: float, up: float, half: int | None = None) -> list[Point]:
    """A quad (bottom pair, then top pair) shrunk by shares of its size; or that of its first or second half."""
    left, right = across, 1.0 - across
    if half is not None:
        left, right = (across, 0.5 - across / 3) if half == 0 else (0.5 + across / 3, 1.0 - across)
    corners = np.array(quad)
    points: list[Point] = []
    for s, t in ((left, up), (right, up), (right, 1.0 - up), (left, 1.0 - up)):
        x, y, z = ((1 - s) * (1 - t) * corners[0] + s * (1 - t) * corners[1] + s * t * corners[2]
                   + (1 - s) * t * corners[3]).tolist()  # fmt: skip
        points.append((x, y, z))
    return points


def _truck() -> Mesh:
    mesh = Mesh()
    mesh.shadow()
    mesh.box((-0.95, 0.95), (-0.93, 0.93), (-0.97, -0.6), Role.DARK)
    mesh.box((-1.0, 1.0), (-1.0, 1.0), (-0.68, 1.0), Role.BODY)
    _wheels(mesh, (-0.62, 0.66), (0.11, 0.26))
    mesh.patch(1.002, (-0.88, 0.88), (0.1, 0.78), Role.GLASS)
    mesh.patch(-1.002, (-0.7, 0.7), (0.3, 0.75), Role.GLASS)
    mesh.patch(-1.002, (-0.2, 0.2), (-0.5, -0.38), Role.PLATE)
    for lamp in ((-0.97, -0.7), (0.7, 0.97)):
        mesh.patch(-1.002, lamp, (-0.5, -0.25), Role.TAIL_LAMP)
        mesh.patch(1.002, lamp, (-0.5, -0.32), Role.HEAD_LAMP)
    _blinkers(mesh, (-0.6, -0.52))
    for y in (-1.003, 1.003):
        window = [(-0.8, y, 0.2), (0.88, y, 0.2), (0.88, y, 0.72), (-0.8, y, 0.72)]
        mesh.face(window, Role.GLASS, (0.0, 0.0, 0.0))
    return mesh


def _bike() -> Mesh:
    mesh = Mesh()
    mesh.shadow()
    for x in (-0.62, 0.62):
        mesh.box((x - 0.05, x + 0.05), (-0.12, 0.12), (-1.0, -0.2), Role.DARK)
        for y in (-0.12, 0.12):
            mesh.disc(x, y, -0.58, (0.36, 0.42), Role.DARK)
    mesh.box((-0.55, 0.5), (-0.28, 0.28), (-0.45, -0.08), Role.BODY)
    mesh.patch(-0.63, (-0.2, 0.2), (-0.3, -0.14), Role.TAIL_LAMP)
    mesh.box((-0.3, 0.1), (-0.75, 0.75), (-0.1, 0.58), Role.CLOTH)
    mesh.box((-0.2, 0.08), (-0.32, 0.32), (0.6, 1.0), Role.SKIN)
    return mesh


def _walker() -> Mesh:
    mesh = Mesh()
    mesh.shadow()
    mesh.box((-0.45, 0.45), (-0.6, 0.6), (-1.0, -0.05), Role.CLOTH)
    mesh.box((-0.6, 0.6), (-1.0, 1.0), (-0.1, 0.6), Role.BODY)
    mesh.box((-0.5, 0.5), (-0.5, 0.5), (0.64, 1.0), Role.SKIN)
    return mesh


def _box(role: Role, shadow: bool) -> Mesh:
    mesh = Mesh()
    if shadow:
        mesh.shadow()
    mesh.box((-1.0, 1.0), (-1.0, 1.0), (-1.0, 1.0), role)
    return mesh


def _closed_box(role: Role) -> Mesh:
    """A box with a bottom, for what is seen from below."""
    mesh = _box(role, shadow=False)
    mesh.face([(x, y, -1.0) for x, y in ((-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0))], role, (0.0, 0.0, 0.0))
    return mesh


def _lid(role: Role) -> Mesh:
    """Only the top of a box."""
    mesh = Mesh()
    mesh.face([(x, y, 1.0) for x, y in ((-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0))], role, (0.0, 0.0, 0.0))
    return mesh


def _light_head() -> Mesh:
    mesh = _box(Role.DARK, shadow=False)
    for z, role in ((0.62, Role.RED_LAMP), (0.0, Role.YELLOW_LAMP), (-0.62, Role.GREEN_LAMP)):
        turns = [2 * math.pi * i / 8 for i in range(8)]
        lamp = [(1.05, 0.7 * math.cos(turn), z + 0.26 * math.sin(turn)) for turn in turns]
        mesh.face(lamp, role, (0.0, 0.0, 0.0))
    return mesh


def _sign(corners: int, first_turn: float, inner: Role, outer: Role) -> Mesh:
    """A plate that looks forward, its rim in another colour, steel behind."""
    mesh = Mesh()
    for x, radius, role in ((-0.5, 1.0, Role.STEEL), (0.5, 1.0, outer), (1.0, 0.78, inner)):
        turns = [first_turn + 2 * math.pi * i / corners for i in range(corners)]
        mesh.face([(x, radius * math.cos(t), radius * math.sin(t)) for t in turns], role, (0.0, 0.0, 0.0))
    return mesh


MESHES: dict[Kind, Mesh] = {
    Kind.CAR: _car(),
    Kind.TRUCK: _truck(),
    Kind.BIKE: _bike(),
    Kind.WALKER: _walker(),
    Kind.PROP: _box(Role.BODY, shadow=True),
    Kind.BOX: _box(Role.BODY, shadow=True),
    Kind.HOUSE: _box(Role.BODY, shadow=False),
    Kind.POLE: _box(Role.STEEL, shadow=False),
    Kind.LIGHT_HEAD: _light_head(),
    Kind.STOP_SIGN: _sign(8, math.pi / 8, Role.SIGN_RED, Role.SIGN_WHITE),
    Kind.YIELD_SIGN: _sign(3, -math.pi / 2, Role.SIGN_WHITE, Role.SIGN_RED),
    Kind.DECK: _closed_box(Role.BODY),
    Kind.DECK_LINE: _lid(Role.BODY),
    Kind.DOOR: _closed_box(Role.BODY),
}


class MeshTable:
    """The faces of all meshes padded to one size, so that mixed objects are handled in one numpy operation.

    Attributes:
        corners: float64 (kinds, F, C, 3) with C = CORNERS; the last one repeated after the `counts`-th.
        counts: intp (kinds, F), corners of each face; 0 where a kind has no more faces.
        normals: float64 (kinds, F, 3).
        offsets: float64 (kinds, F); a camera at c (in the cube's frame) sees a face when normal . c > offset.
        roles: intp (kinds, F).
        fine: bool (kinds, F); not worth painting on something that is a few pixels tall.
    """

    def __init__(self) -> None:
        meshes = [MESHES[kind] for kind in Kind]
        most_faces = max(len(mesh.faces) for mesh in meshes)
        shape = (len(meshes), most_faces)
        self.corners = np.zeros((*shape, CORNERS, 3))
        self.counts = np.zeros(shape, np.intp)
        self.normals = np.zeros((*shape, 3))
        self.offsets = np.full(shape, np.inf)
        self.roles = np.zeros(shape, np.intp)
        for number, mesh in enumerate(meshes):
            for place, face in enumerate(mesh.faces):
                self.corners[number, place] = [*face, *[face[-1]] * (CORNERS - len(face))]
                self.counts[number, place] = len(face)
                self.normals[number, place] = mesh.normals[place]
                self.offsets[number, place] = self.normals[number, place] @ face[0]
                self.roles[number, place] = mesh.roles[place]
        self.fine = np.isin(self.roles, _DETAILS)
        self.fine[Kind.LIGHT_HEAD] = False


_DETAILS = (
    Role.DARK, Role.PLATE, Role.HEAD_LAMP, Role.SHADOW, Role.FRAME, Role.LEFT_BLINKER, Role.RIGHT_BLINKER,
)  # fmt: skip
TABLE = MeshTable()
