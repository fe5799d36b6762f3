"""Rays from a sensor into the world, for lidar and radar: what each meets first.

The rays are looked up in views like those of cameras, one for each quarter turn that has rays in it: the pixel says
which face a ray meets, the face's plane says exactly where. So rays and cameras see one and the same world.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from zmqcarla.sim.camera import NEAR_M, rotations
from zmqcarla.sim.faces import FIRST_INSTANCE
from zmqcarla.sim.geometry import compose

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from zmqcarla.sim.geometry import Pose
    from zmqcarla.sim.studio import Studio
    from zmqcarla.sim.view import View
    from zmqcarla.sim.world import World

    Floats = NDArray[np.float64]
    Single = NDArray[np.float32]
    Integers = NDArray[np.intp]

_FOCAL_PX = 220.0
_STEEP = 2.5
# Meshes bulge a little out of their boxes.
_BULGE = 1.01
_RIM_M = 0.04
_RIM_PX = 1.6


@dataclass(frozen=True, slots=True)
class Hits:
    """What rays met.

    Attributes:
        ray: intp (n,), the rays that met something within reach, in rising order.
        distance_m: float32 (n,).
        cosine: float32 (n,), of the angle of incidence.
        label: uint8 (n,), semantic tag.
        actor: uint32 (n,), id of the actor, 0 for what belongs to the map.
    """

    ray: Integers
    distance_m: Single
    cosine: Single
    label: NDArray[np.uint8]
    actor: NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class _Side:
    """The rays of a fan that one view answers: their numbers, and directions (1, across, upward) * forward."""

    turn_deg: tuple[float, float]
    ray: Integers
    across: Single
    upward: Single
    stretch: Single
    size_px: tuple[int, int]
    fov_deg: float


# pitch and yaw of a view, and its axes forward, right, up as (axis of the sensor, sign)
_SIDES = (
    ((0.0, 0.0), ((0, 1), (1, 1), (2, 1))),
    ((0.0, 90.0), ((1, 1), (0, -1), (2, 1))),
    ((0.0, 180.0), ((0, -1), (1, -1), (2, 1))),
    ((0.0, -90.0), ((1, -1), (0, 1), (2, 1))),
    ((90.0, 0.0), ((2, 1), (1, 1), (0, -1))),
    ((-90.0, 0.0), ((2, -1), (1, 1), (0, 1))),
)


class Fan:
    """Rays from one point, sorted by the views that answer them.

    Args:
        directions: float64 (3, n), unit vectors in the sensor's frame.
    """

    def __init__(self, directions: Floats) -> None:
        self.directions = directions.astype(np.float32)
        x, y, z = directions
        flat = np.maximum(np.abs(x), np.abs(y))
        side = np.where(np.abs(x) >= np.abs(y), np.where(x >= 0.0, 0, 2), np.where(y >= 0.0, 1, 3))
        side = np.where(np.abs(z) > _STEEP * flat, np.where(z >= 0.0, 4, 5), side)
        self.sides = [_side(directions, np.flatnonzero(side == number), number) for number in np.unique(side).tolist()]


def _side(directions: Floats, ray: Integers, number: int) -> _Side:
    turn_deg, axes = _SIDES[number]
    forward, right, up = (sign * directions[axis].take(ray) for axis, sign in axes)
    across, upward = right / forward, up / forward
    # two pixels more than the outermost rays need
    half = (float(np.abs(part).max()) * _FOCAL_PX + 2.0 for part in (across, upward))
    width, height = (2 * math.ceil(part) for part in half)
    fov_deg = 2.0 * math.degrees(math.atan(width / 2.0 / _FOCAL_PX))
    across, upward, stretch = (part.astype(np.float32) for part in (across, upward, 1.0 / forward))
    return _Side(turn_deg, ray, across, upward, stretch, (width, height), fov_deg)


def cast_rays(
    world: World, studio: Studio, pose: Pose, fan: Fan, range_m: float, shot: NDArray[np.bool_] | None = None
) -> Hits:
    """Follow rays to what they meet first.

    Args:
        world: where.
        studio: sees it.
        pose: of the sensor.
        fan: the rays.
        range_m: how far.
        shot: bool (n,), which of the rays; None for all.
    """
    count = fan.directions.shape[1]
    distance, cosine = np.full(count, np.inf, np.float32), np.zeros(count, np.float32)
    label, actor = np.zeros(count, np.uint8), np.zeros(count, np.uint32)
    for side in fan.sides:
        ray, across, upward, stretch = side.ray, side.across, side.upward, side.stretch
        if shot is not None:
            kept = shot[ray]
            ray, across, upward, stretch = ray[kept], across[kept], upward[kept], stretch[kept]
        pitch, yaw = side.turn_deg
        view = studio.view(world, compose(pose, (0.0, 0.0, 0.0, pitch, yaw, 0.0)), side.fov_deg, *side.size_px)
        number = view.numbers_at(across, upward)
        depth = view.depths_at(across, upward, number)
        _pass_by(view, across, upward, depth, number)
        distance[ray] = depth * stretch
        if shot is None:
            cosine[ray], label[ray], actor[ray] = view.tags(across, upward, depth, number)
    met = np.flatnonzero(distance < range_m)
    return Hits(met, distance[met], cosine[met], label[met], actor[met])


def _pass_by(view: View, across: Single, upward: Single, depth: Single, number: NDArray[np.int32]) -> None:
    """Let rays that pass beside an actor, though their pixel shows its rim, meet what the pixel further out shows.

    Args:
        view: what is seen.
        across: rays are (1, across, upward) in camera axes; (n,).
        upward: (n,).
        depth: forward distance, (n,), changed in place; infinite where nothing is met after all.
        number: of what was met, (n,), changed in place.
    """
    camera, boxes, owners = view.camera, view.boxes, view.owners
    owner = owners.take(number)
    ray = np.flatnonzero((owner > 0) & (owner < FIRST_INSTANCE))
    if not len(ray):
        return
    # of an actor with open doors the last box is one of them: its rays stay as they are
    ids, row = np.unique(boxes["actor"], return_index=True)
    single = np.bincount(np.searchsorted(ids, boxes["actor"]))[np.searchsorted(ids, owner[ray])] == 1
    ray = ray[single]
    row = row[np.searchsorted(ids, owner[ray])]
    seen = np.stack([np.ones(len(ray), np.float32), across[ray], upward[ray]], axis=-1) * depth[ray, None]
    away = seen @ camera.axes + camera.position - boxes["centre"][row]
    local = np.matmul(away[:, None, :], rotations(boxes["rotation"])[row])[:, 0]
    beside = np.flatnonzero((np.abs(local) > boxes["half"][row] * _BULGE + _RIM_M).any(axis=1))
    if not len(beside):
        return
    ray, row = ray[beside], row[beside]
    middle = camera.to_camera(boxes["centre"][row])
    outward = np.stack([across[ray], upward[ray]]) - (middle[:, 1:] / np.maximum(middle[:, :1], NEAR_M)).T
    outward *= _RIM_PX / camera.focal / np.maximum(np.linalg.norm(outward, axis=0), 1e-9)
    right, up = outward.astype(np.float32)
    behind = view.numbers_at(right + across[ray], up + upward[ray])
    behind[owners.take(behind) == owner[ray]] = 0
    number[ray] = behind
    depth[ray] = view.depths_at(across[ray], upward[ray], behind)
