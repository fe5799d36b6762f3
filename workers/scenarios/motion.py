"""How the actors of scenarios move: vehicles along a line, walkers straight on.

Nothing is remembered from tick to tick, neither here nor by the server: the place on the line is found anew from
where the actor is. So a scenario goes on the same after its actors were put somewhere else.
"""

from __future__ import annotations

import math
from typing import Any, Final

import carla
import numpy as np
from numpy.typing import NDArray

from zmqcarla.workers.criteria.base import Tick

_LOOK_AHEAD_M: Final = 4.0
_LOOK_AHEAD_S: Final = 0.4
_WHEELBASE_M: Final = 2.9
_FULL_STEER_DEG: Final = 45.0
_REACTION_M: Final = 3.0
# What a braking or a starting vehicle changes its speed by at most.
BRAKING_MPS2: Final = 8.0
STARTING_MPS2: Final = 3.0


def drive(vehicle: Any, line: NDArray[np.float64], speed_mps: float) -> float:
    """Let a vehicle follow a line for the next tick, by pure pursuit, with its speed held.

    Args:
        vehicle: as the `carla` client knows it.
        line: float64 (k, 2), metres, world frame, in driving order.
        speed_mps: how fast.

    Returns:
        Metres that are left of the line.
    """
    pose = vehicle.get_transform()
    here = np.array([pose.location.x, pose.location.y])
    nearest = int(np.argmin(((line - here) ** 2).sum(axis=1)))
    along_m = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(line[nearest:], axis=0), axis=1))])
    wanted_m = _LOOK_AHEAD_M + _LOOK_AHEAD_S * speed_mps
    target = line[nearest + min(int(np.searchsorted(along_m, wanted_m)), len(along_m) - 1)]
    forward = pose.get_forward_vector()
    dx, dy = target - here
    right_m, distance_m = forward.x * dy - forward.y * dx, math.hypot(dx, dy)
    angle_deg = math.degrees(math.atan(2.0 * _WHEELBASE_M * right_m / max(distance_m, 1.0) ** 2))
    steer = float(np.clip(angle_deg / _FULL_STEER_DEG, -1.0, 1.0))
    vehicle.apply_control(carla.VehicleControl(throttle=0.3 if speed_mps > 0.0 else 0.0, steer=steer))
    vehicle.set_target_velocity(carla.Vector3D(forward.x * speed_mps, forward.y * speed_mps, 0.0))
    return float(along_m[-1])


def halt(vehicle: Any) -> None:
    """Let a vehicle brake as hard as it can, and then stand."""
    vehicle.apply_control(carla.VehicleControl(brake=1.0, hand_brake=vehicle.get_velocity().length() < 0.5))


def set_off(vehicle: Any, line: NDArray[np.float64], speed_mps: float, delta_s: float) -> float:
    """As `drive`, but reach the speed from the present one as a car can."""
    now_mps = vehicle.get_velocity().length()
    return drive(vehicle, line, min(speed_mps, now_mps + STARTING_MPS2 * delta_s))


def stands_in_the_way(vehicle: Any, tick: Tick, speed_mps: float) -> bool:
    """Whether the ego is so close ahead of a vehicle that it has to brake."""
    pose = vehicle.get_transform()
    forward = pose.get_forward_vector()
    dx, dy = tick.position_m[0] - pose.location.x, tick.position_m[1] - pose.location.y
    ahead_m, aside_m = forward.x * dx + forward.y * dy, abs(forward.x * dy - forward.y * dx)
    room_m = vehicle.bounding_box.extent.x + 2.5 + _REACTION_M + 0.5 * speed_mps**2 / BRAKING_MPS2
    return bool(0.0 < ahead_m < room_m and aside_m < vehicle.bounding_box.extent.y + 1.2)


def walk(walker: Any, yaw_deg: float, speed_mps: float) -> None:
    """Let a walker go straight on in a direction of the world; 0 m/s lets it stand."""
    yaw = math.radians(yaw_deg)
    walker.apply_control(carla.WalkerControl(carla.Vector3D(math.cos(yaw), math.sin(yaw), 0.0), speed_mps, False))


def merging(start: tuple[float, float], line: NDArray[np.float64], change_m: float) -> NDArray[np.float64]:
    """Return the way from beside a line onto it: float64 (k, 2).

    Args:
        start: where it begins, world frame.
        line: float64 (k, 2), to be joined; its first place is beside `start`.
        change_m: metres of the line until it is joined.
    """
    along_m = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
    share = np.clip(along_m / change_m, 0.0, 1.0)
    left = 1.0 - share**2 * (3.0 - 2.0 * share)
    joined: NDArray[np.float64] = line + left[:, None] * (np.asarray(start) - line[0])
    return joined
