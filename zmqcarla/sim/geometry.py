"""Poses and rotations in CARLA's convention: left-handed, degrees, rotation = yaw, then pitch, then roll."""

import math
from typing import Any

Vector = tuple[float, float, float]
Matrix = tuple[Vector, Vector, Vector]  # rows; the columns are the axes forward, right, up
Pose = tuple[float, float, float, float, float, float]  # x, y, z in m; pitch, yaw, roll in deg


def wrap_deg(angle_deg: float) -> float:
    """The same angle in (-180, 180]."""
    return -((-angle_deg + 180.0) % 360.0 - 180.0)


def rotation(pitch_deg: float, yaw_deg: float, roll_deg: float) -> Matrix:
    """Rotation matrix from the body's frame to the world's."""
    sp, cp = math.sin(math.radians(pitch_deg)), math.cos(math.radians(pitch_deg))
    sy, cy = math.sin(math.radians(yaw_deg)), math.cos(math.radians(yaw_deg))
    sr, cr = math.sin(math.radians(roll_deg)), math.cos(math.radians(roll_deg))
    return (
        (cp * cy, cy * sp * sr - sy * cr, -cy * sp * cr - sy * sr),
        (cp * sy, sy * sp * sr + cy * cr, -sy * sp * cr + cy * sr),
        (sp, -cp * sr, cp * cr),
    )


def turn(m: Matrix, v: Vector) -> Vector:
    """Body vector to world vector."""
    return (
        m[0][0] * v[0] + m[0][1] * v[1] + m[0][2] * v[2],
        m[1][0] * v[0] + m[1][1] * v[1] + m[1][2] * v[2],
        m[2][0] * v[0] + m[2][1] * v[1] + m[2][2] * v[2],
    )


def turn_back(m: Matrix, v: Vector) -> Vector:
    """World vector to body vector."""
    return (
        m[0][0] * v[0] + m[1][0] * v[1] + m[2][0] * v[2],
        m[0][1] * v[0] + m[1][1] * v[1] + m[2][1] * v[2],
        m[0][2] * v[0] + m[1][2] * v[1] + m[2][2] * v[2],
    )


def compose(parent: Pose, relative: Pose) -> Pose:
    """World pose of what sits at ``relative`` on a parent at ``parent``."""
    m = rotation(*parent[3:])
    x, y, z = turn(m, relative[:3])
    place = (parent[0] + x, parent[1] + y, parent[2] + z)
    if parent[3] == 0.0 and parent[5] == 0.0:
        return (*place, relative[3], wrap_deg(parent[4] + relative[4]), relative[5])
    forward, right, up = (turn(m, column) for column in zip(*rotation(*relative[3:]), strict=True))
    pitch = math.degrees(math.atan2(forward[2], math.hypot(forward[0], forward[1])))
    yaw = math.degrees(math.atan2(forward[1], forward[0]))
    roll = math.degrees(math.atan2(-right[2], up[2]))
    return (*place, pitch, yaw, roll)


def pose_from_wire(transform: list[Any]) -> Pose:
    """A carla.Transform as it comes over the wire."""
    (x, y, z), (pitch, yaw, roll) = transform
    return (float(x), float(y), float(z), float(pitch), wrap_deg(float(yaw)), float(roll))


def pose_to_wire(pose: Pose) -> list[list[float]]:
    """A carla.Transform for the wire."""
    return [list(pose[:3]), list(pose[3:])]
