"""A policy that drives by the route alone: enough to see that a pool of environments really drives.

Steering is pure pursuit (Coulter 1992): aim the rear axle at the point of the route a speed-dependent distance ahead,
on the circle through both. Speed keeps the sideways acceleration in the bends ahead bounded, slowing down early enough.
The driver sees no lights and no traffic: it stops for neither.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

# Where the observation's vectors hold what is used here. The client never imports the worker's modules (they load
# `carla`), so the places are repeated; a test holds them against the worker's tables.
FORWARD_SPEED = 6
FIRST_WAYPOINT = 6
NUM_WAYPOINTS = 16


@dataclass(frozen=True, slots=True)
class LaneFollowingDriver:
    """Maps observations of `zmqcarla/Carla-v0`, single or batched, to actions. It keeps no state.

    Attributes:
        cruise_mps: speed on a straight road.
        lateral_mps2: sideways acceleration that bends may cost.
        braking_mps2: deceleration to plan with before a bend.
        wheelbase_m: distance between the axles of the ego.
        max_steer_deg: angle of the front wheels at full steer.
    """

    cruise_mps: float = 8.0
    lateral_mps2: float = 2.0
    braking_mps2: float = 2.0
    wheelbase_m: float = 2.9
    max_steer_deg: float = 45.0

    def __call__(self, observation: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Return the action for each observation.

        Args:
            observation: uses `navigation` and `vehicle_state`, float32 (..., n) each.

        Returns:
            float32 (..., 3): steer, throttle, brake.
        """
        navigation = np.asarray(observation["navigation"], dtype=np.float64)
        speed_mps = np.asarray(observation["vehicle_state"], dtype=np.float64)[..., FORWARD_SPEED]
        ahead_m = navigation[..., FIRST_WAYPOINT:].reshape(*navigation.shape[:-1], NUM_WAYPOINTS, 2)
        pursuit = self._pursuit_curvature(ahead_m, speed_mps)
        steer = np.clip(np.degrees(np.arctan(self.wheelbase_m * pursuit)) / self.max_steer_deg, -1.0, 1.0)
        pedal = 0.6 * (self._wanted_speed(ahead_m, pursuit) - speed_mps)
        action = np.stack([steer, np.clip(pedal, 0.0, 0.8), np.clip(-0.5 * pedal - 0.1, 0.0, 1.0)], axis=-1)
        return action.astype(np.float32)

    def _pursuit_curvature(self, ahead_m: FloatArray, speed_mps: FloatArray) -> FloatArray:
        """Curvature in 1/m, positive to the right, of the circle through the rear axle and the point aimed at."""
        from_rear_m = ahead_m + np.array([self.wheelbase_m / 2.0, 0.0])
        distance_m = np.linalg.norm(from_rear_m, axis=-1)
        wanted_m = np.clip(3.0 + 0.4 * np.abs(speed_mps), 4.0, 12.0)
        # Past the goal the waypoints repeat it; the last one is then as good as any.
        far_enough = distance_m >= wanted_m[..., None]
        index = np.where(far_enough.any(axis=-1), far_enough.argmax(axis=-1), NUM_WAYPOINTS - 1)
        target_m = np.take_along_axis(from_rear_m, index[..., None, None], axis=-2)[..., 0, :]
        curvature: FloatArray = 2.0 * target_m[..., 1] / np.maximum((target_m**2).sum(axis=-1), 1.0)
        return curvature

    def _wanted_speed(self, ahead_m: FloatArray, pursuit: FloatArray) -> FloatArray:
        """The speed that suits the bend here, and from which every bend ahead can still be entered slowly enough."""
        step_m = np.diff(ahead_m, axis=-2)
        length_m = np.linalg.norm(step_m, axis=-1)
        heading = np.arctan2(step_m[..., 1], step_m[..., 0])
        turn = np.abs((np.diff(heading, axis=-1) + np.pi) % (2.0 * np.pi) - np.pi)
        curvature = np.where(length_m[..., 1:] > 0.5, turn / np.maximum(length_m[..., 1:], 0.5), 0.0)
        # Over three waypoints, because the sampled line is a polygon.
        smooth = np.stack([curvature[..., :-2], curvature[..., 1:-1], curvature[..., 2:]]).mean(axis=0)
        bend = self.lateral_mps2 / np.maximum(smooth, 1e-3)
        distance_m = np.cumsum(length_m, axis=-1)[..., : smooth.shape[-1]]
        reachable = (bend + 2.0 * self.braking_mps2 * np.maximum(distance_m - 2.0, 0.0)).min(axis=-1)
        here = self.lateral_mps2 / np.maximum(np.abs(pursuit), 1e-3)
        speed_mps: FloatArray = np.minimum(np.sqrt(np.minimum(reachable, here)), self.cruise_mps)
        return speed_mps
