"""Open doors of vehicles, as boxes that cameras show beside their bodies. They are seen and not hit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from zmqcarla.sim.geometry import compose
from zmqcarla.sim.meshes import Kind
from zmqcarla.sim.scenery import BOX_DTYPE, with_radius

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from zmqcarla.sim.actors import ActorTable, Vehicle
    from zmqcarla.sim.geometry import Pose

_OPEN_DEG = 65.0
_THICK_M = 0.04


@dataclass(frozen=True, slots=True)
class _Door:
    """A panel on its hinge; lengths are shares of the vehicle's half sizes.

    Attributes:
        hinge: where it hangs: along, across, up.
        half: half its length and half its height.
        turn_deg: pitch and yaw of the direction from the hinge to its edge when it is open.
    """

    hinge: tuple[float, float, float]
    half: tuple[float, float]
    turn_deg: tuple[float, float]


DOORS = {
    0: _Door((0.36, -0.97, -0.05), (0.22, 0.55), (0.0, 180.0 + _OPEN_DEG)),
    1: _Door((0.36, 0.97, -0.05), (0.22, 0.55), (0.0, 180.0 - _OPEN_DEG)),
    2: _Door((-0.1, -0.97, -0.05), (0.2, 0.55), (0.0, 180.0 + _OPEN_DEG)),
    3: _Door((-0.1, 0.97, -0.05), (0.2, 0.55), (0.0, 180.0 - _OPEN_DEG)),
    4: _Door((0.45, 0.0, 0.14), (0.22, 0.85), (50.0, 0.0)),
    5: _Door((-0.62, 0.0, 0.3), (0.15, 0.85), (50.0, 180.0)),
}
"""By carla.VehicleDoor: front left and right, rear left and right, hood, trunk."""
ALL_DOORS = 6


def door_boxes(vehicles: Iterable[Vehicle], bodies: NDArray[np.void], table: ActorTable) -> NDArray[np.void]:
    """The open doors (BOX_DTYPE) of vehicles, whose bodies (BOX_DTYPE) lend them colour and label."""
    rows: list[tuple[object, ...]] = []
    for vehicle, body in zip(vehicles, bodies, strict=False):
        pose = table.pose(vehicle.row)
        rows.extend(_box(DOORS[number], vehicle, pose, body) for number in sorted(vehicle.doors))
    return with_radius(np.array(rows, BOX_DTYPE))


def _box(door: _Door, vehicle: Vehicle, pose: Pose, body: np.void) -> tuple[object, ...]:
    long, wide, high = vehicle.shape.extent_m
    sizes = zip(vehicle.shape.centre_m, door.hinge, (long, wide, high), strict=True)
    x, y, z = (middle + share * half for middle, share, half in sizes)
    pitch, yaw = door.turn_deg
    reach = door.half[0] * long
    half = (reach, _THICK_M, door.half[1] * high) if pitch == 0.0 else (reach, door.half[1] * wide, _THICK_M)
    hinge = compose(pose, (x, y, z, pitch, yaw, 0.0))
    middle = compose(hinge, (reach, 0.0, 0.0, 0.0, 0.0, 0.0))
    colour, label, actor = body["bgr"], body["label"], body["actor"]
    return middle[:3], half, middle[3:], colour, int(Kind.DOOR), 0, -1, label, actor, 0.0
