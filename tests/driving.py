"""What tests that drive the CARLA env have in common; its fixtures `server`, `settings` and `make` are in conftest."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from zmqcarla.workers.carla_env import CarlaEnv
from zmqcarla.workers.observation import MEASUREMENTS, NAVIGATION, VEHICLE_STATE

FORWARD = np.array([0.0, 0.6, 0.0], dtype=np.float32)
STAND = np.array([0.0, 0.0, 1.0], dtype=np.float32)

Arrays = dict[str, NDArray[Any]]


def value(observation: Arrays, name: str) -> float:
    for key, names in (("vehicle_state", VEHICLE_STATE), ("navigation", NAVIGATION), ("measurements", MEASUREMENTS)):
        if name in names:
            return float(observation[key][names.index(name)])
    raise KeyError(name)


def run(env: CarlaEnv, action: NDArray[np.float32], limit: int = 1500) -> tuple[int, bool, bool, dict[str, Any]]:
    """Step with one action until the episode ends."""
    for k in range(1, limit + 1):
        _, _, terminated, truncated, info = env.step(action)
        if terminated or truncated:
            return k, terminated, truncated, info
    raise AssertionError(f"the episode did not end within {limit} steps")
