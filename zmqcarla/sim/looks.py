"""How materials look: colours of roles and lamps, and what light does to a face."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from zmqcarla.sim.blueprints import Label
from zmqcarla.sim.meshes import Kind, Role

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from zmqcarla.sim.sky import Light

    Floats = NDArray[np.float64]

FINE_PX = 9.0
"""Details are left out on things of less than this half height in the picture."""

PALETTE = np.zeros((len(Role), 3))
PALETTE[Role.GLASS] = (78, 60, 46)
PALETTE[Role.DARK] = (26, 25, 24)
PALETTE[Role.SHADOW] = (50, 50, 50)
PALETTE[Role.PLATE] = (150, 190, 200)
PALETTE[Role.SKIN] = (120, 158, 206)
PALETTE[Role.CLOTH] = (74, 50, 38)
PALETTE[Role.STEEL] = (128, 112, 92)
PALETTE[Role.SIGN_RED] = (40, 32, 200)
PALETTE[Role.SIGN_WHITE] = (232, 232, 236)

TAIL_BGR = np.array([[30.0, 22.0, 150.0], [44.0, 36.0, 205.0], [70.0, 60.0, 255.0]])
"""Tail lamps that are off, on, and braking."""
HEAD_BGR = np.array([[214.0, 226.0, 232.0], [220.0, 250.0, 255.0]])
BLINK_BGR = np.array([[24.0, 70.0, 120.0], [30.0, 165.0, 255.0]])

LAMPS_BGR = np.array(
    [
        [[50.0, 50.0, 255.0], [20.0, 48.0, 54.0], [24.0, 50.0, 20.0]],
        [[24.0, 24.0, 60.0], [40.0, 210.0, 255.0], [24.0, 50.0, 20.0]],
        [[24.0, 24.0, 60.0], [20.0, 48.0, 54.0], [120.0, 255.0, 70.0]],
        [[24.0, 24.0, 60.0], [20.0, 48.0, 54.0], [24.0, 50.0, 20.0]],
    ]
)
"""By state Red, Yellow, Green, Off (and Unknown): colours of the three lamps."""

FACE_LABELS = np.zeros(len(Kind), np.uint8)
FACE_LABELS[Kind.HOUSE] = Label.BUILDING
FACE_LABELS[Kind.POLE] = Label.POLE
FACE_LABELS[Kind.LIGHT_HEAD] = Label.TRAFFIC_LIGHT
FACE_LABELS[[Kind.STOP_SIGN, Kind.YIELD_SIGN]] = Label.TRAFFIC_SIGN
FACE_LABELS[Kind.DECK] = Label.ROADS
FACE_LABELS[Kind.DECK_LINE] = Label.ROAD_LINES
"""Semantic tag of the map's own things; actors carry theirs in their blueprints."""


def lit(light: Light, normals: Floats, glowing: NDArray[np.bool_]) -> Floats:
    """Brightness (n,) of faces with world normals (n, 3); 1 is full. What glows needs no light."""
    bright: Floats = light.ambient + light.diffuse * np.maximum(normals @ np.array(light.sun), 0.0)
    bright[glowing] = 1.0
    return bright
