"""The bones of a pedestrian: where they are at rest, how they swing in walking, and what a script makes of them.

Bone names are those of CARLA's pedestrians. Poses are relative to the parent bone in the pedestrian's own axes (x
forward, y right, z up), so a leg that swings is a pitch. The root is at the feet.
"""

import math
from typing import NamedTuple

from zmqcarla.sim.geometry import Pose, Vector, compose, wrap_deg

_STRIDE_M = 1.5


class Bone(NamedTuple):
    """A bone.

    Attributes:
        name: CARLA's name of it.
        parent: index of its parent, -1 for none.
        offset: from the parent, in body heights.
        swing: pitch (deg) at full stride, in walking.
    """

    name: str
    parent: int
    offset: Vector
    swing: float


class BonePose(NamedTuple):
    """Where a bone is: in the world, in the pedestrian's frame (from its feet), and relative to its parent."""

    name: str
    world: Pose
    component: Pose
    relative: Pose


def _sides(name: str, offset: Vector, swing: float, parents: dict[str, str]) -> list[tuple[str, str, Vector, float]]:
    """A limb on the left, then its mirror image on the right, which swings the other way."""
    x, y, z = offset
    return [(f"{name}__{side}", parents[side], (x, sign * y, z), -sign * swing) for side, sign in (("L", -1), ("R", 1))]


def _both(parent: str) -> dict[str, str]:
    return {side: f"{parent}__{side}" for side in "LR"}


def _build() -> tuple[Bone, ...]:
    hips, chest, head = "crl_hips__C", "crl_spine01__C", "crl_Head__C"
    rows: list[tuple[str, str, Vector, float]] = [
        ("crl_root", "", (0.0, 0.0, 0.0), 0.0),
        (hips, "crl_root", (0.0, 0.0, 0.53), 0.0),
        ("crl_spine__C", hips, (0.0, 0.0, 0.08), 0.0),
        (chest, "crl_spine__C", (0.0, 0.0, 0.10), 0.0),
        ("crl_neck__C", chest, (0.0, 0.0, 0.13), 0.0),
        (head, "crl_neck__C", (0.0, 0.0, 0.06), 0.0),
        *_sides("crl_eye", (0.05, 0.018, 0.04), 0.0, dict.fromkeys("LR", head)),
        *_sides("crl_shoulder", (0.0, 0.03, 0.10), 0.0, dict.fromkeys("LR", chest)),
        *_sides("crl_arm", (0.0, 0.08, 0.0), 25.0, _both("crl_shoulder")),
        *_sides("crl_foreArm", (0.0, 0.0, -0.17), 8.0, _both("crl_arm")),
        *_sides("crl_hand", (0.0, 0.0, -0.15), 0.0, _both("crl_foreArm")),
        *_sides("crl_thigh", (0.0, 0.055, 0.0), -28.0, dict.fromkeys("LR", hips)),
        *_sides("crl_leg", (0.0, 0.0, -0.26), 15.0, _both("crl_thigh")),
        *_sides("crl_foot", (0.0, 0.0, -0.23), 0.0, _both("crl_leg")),
        *_sides("crl_toe", (0.08, 0.0, -0.03), 0.0, _both("crl_foot")),
    ]
    index = {row[0]: number for number, row in enumerate(rows)}
    return tuple(Bone(name, index.get(parent, -1), offset, swing) for name, parent, offset, swing in rows)


BONES = _build()
"""Parents before their children."""
_NUMBER = {bone.name: number for number, bone in enumerate(BONES)}


def walking(height_m: float, elapsed_s: float, speed_mps: float) -> list[Pose]:
    """Relative poses of all bones of a pedestrian who walks; one who stands still is at rest."""
    swing = math.sin(2 * math.pi * elapsed_s * speed_mps / _STRIDE_M) if speed_mps else 0.0
    poses: list[Pose] = []
    for bone in BONES:
        x, y, z = bone.offset
        poses.append((height_m * x, height_m * y, height_m * z, bone.swing * swing, 0.0, 0.0))
    return poses


class Posture:
    """What a script has made of a pedestrian's bones.

    Attributes:
        weight: 0 shows the animation, 1 the script's pose, and between them a mixture.
        relative: relative poses that the script has set, by bone number.
    """

    __slots__ = ("relative", "weight")

    def __init__(self) -> None:
        self.weight = 0.0
        self.relative: dict[int, Pose] = {}

    def put(self, name: str, relative: Pose) -> bool:
        """Set a bone's relative pose; False when there is no such bone."""
        number = _NUMBER.get(name)
        if number is None:
            return False
        self.relative[number] = relative
        return True

    def bones(self, feet: Pose, animation: list[Pose]) -> list[BonePose]:
        """All bones of a pedestrian whose feet are at a world pose."""
        bones: list[BonePose] = []
        for number, (bone, own) in enumerate(zip(BONES, animation, strict=True)):
            relative = _mix(own, self.relative.get(number, own), self.weight)
            component = compose(bones[bone.parent].component, relative) if bone.parent >= 0 else relative
            bones.append(BonePose(bone.name, compose(feet, component), component, relative))
        return bones


def _mix(one: Pose, other: Pose, weight: float) -> Pose:
    if weight == 0.0 or one is other:
        return one
    x, y, z = (a + weight * (b - a) for a, b in zip(one[:3], other[:3], strict=True))
    pitch, yaw, roll = (wrap_deg(a + weight * wrap_deg(b - a)) for a, b in zip(one[3:], other[3:], strict=True))
    return (x, y, z, pitch, yaw, roll)
