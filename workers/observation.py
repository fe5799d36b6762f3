"""The observation: a dict of what the sensors measured and of three vectors whose components have names.

What the sensors' parts look like stands in `zmqcarla.workers.sensor_specs`.

`VEHICLE_STATE`, `NAVIGATION` and `MEASUREMENTS` list the components in order, so that
`obs["navigation"][..., NAVIGATION.index("lane_offset_m")]` works on one observation and on a batch. All values are
finite and clipped to the bounds of the space.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from zmqcarla.workers.config import CarlaEnvConfig
from zmqcarla.workers.ego import EgoState
from zmqcarla.workers.episode import Moment
from zmqcarla.workers.events import StepEvents
from zmqcarla.workers.navigation import NUM_WAYPOINTS, WAYPOINT_SPACING_M, RouteState
from zmqcarla.workers.readings import write_reading
from zmqcarla.workers.sensor_specs import SPEEDOMETER, ImageLayout, age_key, sensor_space

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
    "Observation",
    "Observer",
    "write_vectors",
]

Observation = dict[str, Any]
"""Arrays by their names; a part with parts of its own is a dict of arrays."""

_VEHICLE_LIMIT = np.array(list(_VEHICLE_STATE_BOUND.values()), dtype=np.float32)
_NAVIGATION_LIMITS = np.array(list(_NAVIGATION_RANGE.values()), dtype=np.float32).T
_MEASUREMENTS_LIMITS = np.array(list(_MEASUREMENTS_RANGE.values()), dtype=np.float32).T


_VECTOR_LIMITS = {
    "vehicle_state": (-_VEHICLE_LIMIT, _VEHICLE_LIMIT),
    "navigation": (_NAVIGATION_LIMITS[0], _NAVIGATION_LIMITS[1]),
    "measurements": (_MEASUREMENTS_LIMITS[0], _MEASUREMENTS_LIMITS[1]),
}


class Observer:
    """Writes the moments of an env into arrays.

    Attributes:
        space: of the observation.
    """

    def __init__(self, config: CarlaEnvConfig) -> None:
        self._specs = config.sensor_specs
        self._vectors = config.vector_names
        self._layout: ImageLayout = config.image_layout
        self._delta_s = config.delta_s
        members: dict[str, gymnasium.Space[Any]] = {}
        for spec in self._specs:
            members[spec.id] = sensor_space(spec, self._layout)
            if spec.ticks > 1:
                members[age_key(spec)] = spaces.Box(0.0, 2.0 * spec.ticks * self._delta_s, (1,), np.float32)
        if config.bev_config is not None:
            members["bev"] = spaces.Box(0, 255, config.bev_config.shape, np.uint8)
        for name in self._vectors:
            members[name] = spaces.Box(*_VECTOR_LIMITS[name], dtype=np.float32)
        self.space = spaces.Dict(members)

    def new(self) -> Observation:
        """Arrays for one observation, not yet filled."""
        observation: Observation = _empty(self.space)
        return observation

    def write(self, moment: Moment, out: Observation) -> Observation:
        """Write one moment into the arrays of an observation, all but "bev", and return it."""
        for spec in self._specs:
            if spec.type == SPEEDOMETER:
                write_reading(spec, moment.ego.velocity_mps[0], self._layout, out[spec.id])
                continue
            measured, age_ticks = moment.readings[spec.id]
            write_reading(spec, measured, self._layout, out[spec.id])
            if spec.ticks > 1:
                out[age_key(spec)][0] = age_ticks * self._delta_s
        if self._vectors:
            write_vectors(out, moment.ego, moment.route, moment.events)
        return out


def _empty(space: gymnasium.Space[Any]) -> Any:
    if isinstance(space, spaces.Dict):
        return {name: _empty(part) for name, part in space.spaces.items()}
    return np.empty(space.shape or (), space.dtype)


def write_vectors(out: Observation, ego: EgoState, route: RouteState, events: StepEvents) -> None:
    """Write those of the three vectors that `out` has."""
    for name, components in _COMPONENTS.items():
        if name in out:
            _write_bounded(out[name], components(ego, route, events), *_VECTOR_LIMITS[name])


def _vehicle_state(ego: EgoState, route: RouteState, events: StepEvents) -> list[Any]:
    return [
        *ego.position_m,
        *ego.rotation_deg,
        *ego.velocity_mps,
        *ego.acceleration_mps2,
        *ego.angular_velocity_dps,
        ego.speed_mps,
    ]


def _navigation(ego: EgoState, route: RouteState, events: StepEvents) -> list[Any]:
    return [
        route.command,
        route.distance_to_goal_m,
        route.completion_percent,
        route.lane_offset_m,
        route.heading_error_deg,
        route.lane_width_m,
        *route.waypoints_ego_m.ravel(),
    ]


def _measurements(ego: EgoState, route: RouteState, events: StepEvents) -> list[Any]:
    return [
        ego.speed_mps,
        ego.speed_limit_mps,
        events.collision,
        events.lane_invasion,
        ego.light_is_red,
        route.at_junction,
    ]


_COMPONENTS: dict[str, Callable[[EgoState, RouteState, StepEvents], list[Any]]] = {
    "vehicle_state": _vehicle_state,
    "navigation": _navigation,
    "measurements": _measurements,
}


def _write_bounded(out: NDArray[Any], values: list[Any], low: NDArray[np.float32], high: NDArray[np.float32]) -> None:
    """Write `values` within the bounds; what is not a number becomes 0."""
    out[...] = values
    np.maximum(out, low, out=out)  # a third of the time of np.clip
    np.minimum(out, high, out=out)
    out[np.isnan(out)] = 0.0
