"""Vehicles, walkers and props as faces before a camera."""

from __future__ import annotations

from enum import IntFlag
from typing import TYPE_CHECKING

import numpy as np

from zmqcarla.sim.blueprints import Label
from zmqcarla.sim.camera import Camera, rotations
from zmqcarla.sim.faces import Faces
from zmqcarla.sim.looks import BLINK_BGR, FINE_PX, HEAD_BGR, PALETTE, TAIL_BGR
from zmqcarla.sim.meshes import GLOWING, TABLE, Kind, Role

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from zmqcarla.sim.sky import Light
    from zmqcarla.sim.terrain import GroundSeen

    Floats = NDArray[np.float64]

OWN_ROOF_M = 0.6
"""A box that holds the camera, up to this far above its roof, is the car that carries it and is left out."""

_FAR_M = 130.0


class Lamp(IntFlag):
    """Which lamps of a vehicle shine."""

    BRAKE = 1
    TAIL = 2
    HEAD = 4
    LEFT = 8
    RIGHT = 16


def _lamp_colours() -> Floats:
    """Colours of tail lamps, head lamps, left and right blinkers by lamp bits: float64 (32, 4, 3)."""
    colours = np.empty((32, 4, 3))
    for bits in range(32):
        colours[bits, 0] = TAIL_BGR[2 if bits & Lamp.BRAKE else int(bool(bits & Lamp.TAIL))]
        colours[bits, 1] = HEAD_BGR[int(bool(bits & Lamp.HEAD))]
        colours[bits, 2] = BLINK_BGR[int(bool(bits & Lamp.LEFT))]
        colours[bits, 3] = BLINK_BGR[int(bool(bits & Lamp.RIGHT))]
    return colours


_LAMP_COLOURS = _lamp_colours()
_CORNERS = TABLE.corners.reshape(-1, *TABLE.corners.shape[2:]).transpose(0, 2, 1).copy()
_NORMALS, _ROLES = TABLE.normals.reshape(-1, 3), TABLE.roles.ravel()
_OFFSETS = np.stack([TABLE.offsets, np.where(TABLE.fine, np.inf, TABLE.offsets)])
"""Offsets of the faces without and with details left out: float64 (2, kinds, F)."""
_RIDERS = ((np.arange(len(Kind))[:, None] == Kind.BIKE) & np.isin(TABLE.roles, (Role.SKIN, Role.CLOTH))).ravel()


def moving_faces(boxes: NDArray[np.void], camera: Camera, light: Light, ground: GroundSeen) -> Faces | None:
    """The visible faces of boxes (BOX_DTYPE) that a camera may see."""
    seen = (boxes["centre"] - camera.position) @ camera.axes.T
    shown = camera.may_see(seen, boxes["radius"], _FAR_M)
    kept = np.flatnonzero(ground.may_show(shown, boxes["centre"], boxes["half"][:, 2]))
    if not len(kept):
        return None
    boxes, seen = boxes[kept], seen[kept]
    half, kind = boxes["half"], boxes["kind"].astype(np.intp)
    axes = rotations(boxes["rotation"])
    turned = camera.axes @ axes
    eye = -np.matmul(seen[:, None, :], turned)[:, 0] / half
    plain = camera.focal * half[:, 2] < FINE_PX * np.maximum(seen[:, 0], 1.0)
    visible = np.matmul(TABLE.normals[kind], eye[:, :, None])[:, :, 0] > _OFFSETS[plain.astype(np.intp), kind]
    for number in np.flatnonzero(np.abs(eye).max(axis=1) < 4.0).tolist():
        x, y, z = eye[number].tolist()
        if abs(x) < 1.04 and abs(y) < 1.04 and -1.0 < z < 1.0 + OWN_ROOF_M / float(half[number, 2]):
            visible[number] = False
    owner, face = np.nonzero(visible)
    form = kind[owner] * TABLE.roles.shape[1] + face
    corners = np.matmul((turned * half[:, None, :])[owner], _CORNERS.take(form, axis=0)) + seen[owner][:, :, None]
    role = _ROLES.take(form)
    reach = np.sqrt(np.einsum("ij,ij->i", seen, seen))
    glance = np.einsum("ij,ij->i", _NORMALS.take(form, axis=0), (np.array(light.sun) @ axes)[owner])
    bright = light.ambient + light.diffuse * np.maximum(glance, 0.0)
    bright[role == int(Role.SHADOW)] = light.ground
    bright[GLOWING[role]] = 1.0
    label = boxes["label"][owner]
    label[_RIDERS.take(form)] = int(Label.RIDER)
    label[role == int(Role.SHADOW)] = int(Label.NONE)
    return Faces(
        np.ascontiguousarray(corners.transpose(1, 2, 0)),
        reach[owner],
        _palette(boxes)[owner, role],
        bright,
        label,
        boxes["actor"][owner],
    )


def _palette(boxes: NDArray[np.void]) -> Floats:
    """Colours by box and role: float64 (n, roles, 3)."""
    palette = np.repeat(PALETTE[None], len(boxes), axis=0)
    palette[:, Role.BODY] = boxes["bgr"]
    palette[:, Role.FRAME] = palette[:, Role.BODY] * 0.88
    palette[:, Role.TAIL_LAMP : Role.RIGHT_BLINKER + 1] = _LAMP_COLOURS[boxes["lamps"]]
    return palette
