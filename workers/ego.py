"""The ego vehicle's own state, read from the last tick's message."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import carla

Vector = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class EgoState:
    """One moment of the ego vehicle.

    Attributes:
        position_m: x, y, z of the vehicle's origin, world frame.
        rotation_deg: roll, pitch, yaw, world frame.
        velocity_mps: forward, right, up: the vehicle's own frame.
        acceleration_mps2: forward, right, up: the vehicle's own frame.
        angular_velocity_dps: about the world's x, y, z axes, degrees per second.
        speed_mps: length of the velocity.
        speed_limit_mps: of the road, 0 when the simulator gives none.
        light_id: id of the traffic light whose box the vehicle stands in, None when there is none.
        light_is_red: whether that light is red.
    """

    position_m: Vector
    rotation_deg: Vector
    velocity_mps: Vector
    acceleration_mps2: Vector
    angular_velocity_dps: Vector
    speed_mps: float
    speed_limit_mps: float
    light_id: int | None
    light_is_red: bool


def read_ego(vehicle: carla.Vehicle) -> EgoState:
    """Read the state of `vehicle` as of the last tick; costs no round trip."""
    transform = vehicle.get_transform()
    location, rotation = transform.location, transform.rotation
    axes = (transform.get_forward_vector(), transform.get_right_vector(), transform.get_up_vector())
    light = vehicle.get_traffic_light() if vehicle.is_at_traffic_light() else None
    velocity, angular = vehicle.get_velocity(), vehicle.get_angular_velocity()
    return EgoState(
        position_m=(location.x, location.y, location.z),
        rotation_deg=(rotation.roll, rotation.pitch, rotation.yaw),
        velocity_mps=_in_frame(velocity, axes),
        acceleration_mps2=_in_frame(vehicle.get_acceleration(), axes),
        angular_velocity_dps=(angular.x, angular.y, angular.z),
        speed_mps=math.sqrt(velocity.x**2 + velocity.y**2 + velocity.z**2),
        speed_limit_mps=vehicle.get_speed_limit() / 3.6,
        light_id=None if light is None else int(light.id),
        light_is_red=light is not None and vehicle.get_traffic_light_state() == carla.TrafficLightState.Red,
    )


def _in_frame(vector: Any, axes: tuple[Any, Any, Any]) -> Vector:
    forward, right, up = (vector.x * axis.x + vector.y * axis.y + vector.z * axis.z for axis in axes)
    return forward, right, up
