"""Rays from a sensor into the world, for lidar and radar: what each meets first.

The rays are looked up in views like those of cameras, one for each quarter turn that has rays in it: the pixel says
which face a ray meets, the face's plane says exactly where. So rays and cameras see one and the same world.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from zmqcarla.sim.geometry import compose

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from zmqcarla.sim.geometry import Pose
    from zmqcarla.sim.studio import Studio
    from zmqcarla.sim.world import World

    Floats = NDArray[np.float64]
    Integers = NDArray[np.intp]

_FOCAL_PX = 220.0
_STEEP = 2.5


@dataclass(frozen=True, slots=True)
class Hits:
    """What rays met.

    Attributes:
        ray: intp (n,), the rays that met something within reach, in rising order.
        distance_m: float64 (n,).
        cosine: float64 (n,), of the angle of incidence.
        label: uint8 (n,), semantic tag.
        actor: uint32 (n,), id of the actor, 0 for what belongs to the map.
    """

    ray: Integers
    distance_m: Floats
    cosine: Floats
    label: NDArray[np.uint8]
    actor: NDArray[np.uint32]


# pitch and yaw of a view, and its axes forward, right, up as (axis of the sensor, sign)
_SIDES = (
    ((0.0, 0.0), ((0, 1), (1, 1), (2, 1))),
    ((0.0, 90.0), ((1, 1), (0, -1), (2, 1))),
    ((0.0, 180.0), ((0, -1), (1, -1), (2, 1))),
    ((0.0, -90.0), ((1, -1), (0, 1), (2, 1))),
    ((90.0, 0.0), ((2, 1), (1, 1), (0, -1))),
    ((-90.0, 0.0), ((2, -1), (1, 1), (0, 1))),
)


def cast_rays(world: World, studio: Studio, pose: Pose, rays: Floats, range_m: float) -> Hits:
    """Follow rays to what they meet first.

    Args:
        world: where.
        studio: sees it.
        pose: of the sensor.
        rays: float64 (3, n), unit vectors in the sensor's frame.
        range_m: how far.
    """
    x, y, z = rays
    flat = np.maximum(np.abs(x), np.abs(y))
    side = np.where(np.abs(x) >= np.abs(y), np.where(x >= 0.0, 0, 2), np.where(y >= 0.0, 1, 3))
    side = np.where(np.abs(z) > _STEEP * flat, np.where(z >= 0.0, 4, 5), side)
    distance = np.full(len(x), np.inf)
    cosine, label = np.zeros(len(x)), np.zeros(len(x), np.uint8)
    actor = np.zeros(len(x), np.uint32)
    for number, ((pitch, yaw), axes) in enumerate(_SIDES):
        picked = np.flatnonzero(side == number)
        if not len(picked):
            continue
        forward, right, up = (sign * rays[axis].take(picked) for axis, sign in axes)
        across, upward = right / forward, up / forward
        half = (float(np.abs(across).max()) + 0.02, float(np.abs(upward).max()) + 0.02)
        width, height = (2 * math.ceil(part * _FOCAL_PX) for part in half)
        fov_deg = 2.0 * math.degrees(math.atan(width / 2.0 / _FOCAL_PX))
        view = studio.view(world, compose(pose, (0.0, 0.0, 0.0, pitch, yaw, 0.0)), fov_deg, width, height)
        depth, cosine[picked], label[picked], actor[picked] = view.met(across, upward)
        distance[picked] = depth / forward
    ray = np.flatnonzero(distance < range_m)
    return Hits(ray, distance[ray], cosine[ray], label[ray], actor[ray])
