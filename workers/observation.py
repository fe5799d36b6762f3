"""The default observation: one camera picture and three vectors whose components have names.

`VEHICLE_STATE`, `NAVIGATION` and `MEASUREMENTS` list the components in order, so that
`obs["navigation"][..., NAVIGATION.index("lane_offset_m")]` works on one observation and on a batch. All values are
finite and clipped to the bounds of the space.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from zmqcarla.workers.ego import EgoState
from zmqcarla.workers.events import StepEvents
from zmqcarla.workers.navigation import NUM_WAYPOINTS, WAYPOINT_SPACING_M, RouteState

_FAR_M = 100_000.0

_VEHICLE_STATE_BOUND = {
    "x_m": _FAR_M,
    "y_m": _FAR_M,
    "z_m": _FAR_M,
    "roll_deg": 180.0,
    "pitch_deg": 180.0,
    "yaw_deg": 180.0,
    "velocity_forward_mps": 200.0,
    "velocity_right_mps": 200.0,
    "velocity_up_mps": 200.0,
    "acceleration_forward_mps2": 1000.0,
    "acceleration_right_mps2": 1000.0,
    "acceleration_up_mps2": 1000.0,
    "angular_velocity_x_dps": 3600.0,
    "angular_velocity_y_dps": 3600.0,
    "angular_velocity_z_dps": 3600.0,
    "speed_mps": 200.0,
}
_NAVIGATION_RANGE = {
    "command": (-1.0, 6.0),
    "distance_to_goal_m": (0.0, _FAR_M),
    "route_completion_percent": (0.0, 100.0),
    "lane_offset_m": (-1000.0, 1000.0),
    "heading_error_deg": (-180.0, 180.0),
    "lane_width_m": (0.0, 50.0),
    **{f"waypoint_{k}_{axis}_m": (-1000.0, 1000.0) for k in range(NUM_WAYPOINTS) for axis in "xy"},
}
_MEASUREMENTS_RANGE = {
    "speed_mps": (0.0, 200.0),
    "speed_limit_mps": (0.0, 100.0),
    "collision": (0.0, 1.0),
    "lane_invasion": (0.0, 1.0),
    "red_light": (0.0, 1.0),
    "at_junction": (0.0, 1.0),
}

VEHICLE_STATE: tuple[str, ...] = tuple(_VEHICLE_STATE_BOUND)
"""Position and rotation in the world frame; velocity and acceleration in the vehicle's (forward, right, up)."""

NAVIGATION: tuple[str, ...] = tuple(_NAVIGATION_RANGE)
"""`RoadOption` number of the command, place on the route, and the route ahead in the ego frame (x forward, y right),
a waypoint every 2 m. `lane_offset_m` is positive to the right of the lane's centre."""

MEASUREMENTS: tuple[str, ...] = tuple(_MEASUREMENTS_RANGE)
"""Speed, speed limit (0 when unknown), and flags that are 0 or 1: `collision` and `lane_invasion` during the last step,
`red_light` while the ego stands in a red light's box, `at_junction` by the route."""

WAYPOINTS = slice(NAVIGATION.index("waypoint_0_x_m"), len(NAVIGATION))
"""Where `navigation` holds the waypoints; reshape to (..., NUM_WAYPOINTS, 2)."""

__all__ = [
    "MEASUREMENTS",
    "NAVIGATION",
    "NUM_WAYPOINTS",
    "VEHICLE_STATE",
    "WAYPOINTS",
    "WAYPOINT_SPACING_M",
    "new_observation",
    "observation_space",
    "observe",
]

Observation = dict[str, NDArray[Any]]
_VEHICLE_LIMIT = np.array(list(_VEHICLE_STATE_BOUND.values()), dtype=np.float32)
_NAVIGATION_LIMITS = np.array(list(_NAVIGATION_RANGE.values()), dtype=np.float32).T
_MEASUREMENTS_LIMITS = np.array(list(_MEASUREMENTS_RANGE.values()), dtype=np.float32).T


def observation_space(image_size: tuple[int, int]) -> spaces.Dict:
    """Return the space of the default observation.

    Args:
        image_size: width and height of the camera in pixels.
    """
    width, height = image_size
    members: dict[str, gymnasium.Space[Any]] = {
        "rgb": spaces.Box(0, 255, (3, height, width), np.uint8),
        "vehicle_state": spaces.Box(-_VEHICLE_LIMIT, _VEHICLE_LIMIT, dtype=np.float32),
        "navigation": spaces.Box(*_NAVIGATION_LIMITS, dtype=np.float32),
        "measurements": spaces.Box(*_MEASUREMENTS_LIMITS, dtype=np.float32),
    }
    return spaces.Dict(members)


def new_observation(image_size: tuple[int, int]) -> Observation:
    """Return arrays for one observation."""
    space = observation_space(image_size)
    return {name: np.empty(part.shape or (), part.dtype) for name, part in space.spaces.items()}


def observe(out: Observation, ego: EgoState, route: RouteState, events: StepEvents) -> Observation:
    """Write one moment into the arrays of an observation, all but `rgb`, and return it."""
    vehicle_state = [
        *ego.position_m,
        *ego.rotation_deg,
        *ego.velocity_mps,
        *ego.acceleration_mps2,
        *ego.angular_velocity_dps,
        ego.speed_mps,
    ]
    navigation = [
        route.command,
        route.distance_to_goal_m,
        route.completion_percent,
        route.lane_offset_m,
        route.heading_error_deg,
        route.lane_width_m,
        *route.waypoints_ego_m.ravel(),
    ]
    measurements = [
        ego.speed_mps,
        ego.speed_limit_mps,
        events.collision,
        events.lane_invasion,
        ego.light_is_red,
        route.at_junction,
    ]
    _write_bounded(out["vehicle_state"], vehicle_state, -_VEHICLE_LIMIT, _VEHICLE_LIMIT)
    _write_bounded(out["navigation"], navigation, *_NAVIGATION_LIMITS)
    _write_bounded(out["measurements"], measurements, *_MEASUREMENTS_LIMITS)
    return out


def _write_bounded(out: NDArray[Any], values: list[Any], low: NDArray[np.float32], high: NDArray[np.float32]) -> None:
    """Write `values` within the bounds; what is not a number becomes 0."""
    out[...] = np.clip(np.array(values, dtype=np.float64), low, high)
    out[np.isnan(out)] = 0.0
