"""The ego at each tick of a route, in the form in which Bench2Drive's agents write it down (`metric_info.json`).

Bench2Drive's tool that judges how comfortable a drive was reads these files, and so does `zmqcarla.evaluate.comfort`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

# Places in `vehicle_state`. The client never imports the worker's modules, so they stand here again; a test compares.
POSITION: Final = slice(0, 3)
ROTATION: Final = slice(3, 6)
ACCELERATION: Final = slice(9, 12)
ANGULAR_VELOCITY: Final = slice(12, 15)
SPEED: Final = 15
FILE_NAME: Final = "metric_info.json"


def metric_info(states: Sequence[NDArray[np.floating[Any]]]) -> dict[str, dict[str, list[float]]]:
    """Return the content of the file.

    Args:
        states: `vehicle_state` of each step, (16,) each.

    Returns:
        By the number of the step, each (3,): "acceleration" (m/s2, world frame), "angular_velocity" (degrees a second,
        about the world's axes), "forward_vector" and "right_vector" (of the ego, world frame), "location" (m), and
        "rotation" (roll, pitch, yaw in degrees).
    """
    table = np.asarray(states, dtype=np.float64).reshape(len(states), -1)
    if not len(table):
        return {}
    axes = _axes(table[:, ROTATION])
    acceleration = np.einsum("ka,kax->kx", table[:, ACCELERATION], axes)
    columns = {
        "acceleration": acceleration,
        "angular_velocity": table[:, ANGULAR_VELOCITY],
        "forward_vector": axes[:, 0],
        "right_vector": axes[:, 1],
        "location": table[:, POSITION],
        "rotation": table[:, ROTATION],
    }
    lists = {name: np.round(values, 6).tolist() for name, values in columns.items()}
    return {str(step): {name: values[step] for name, values in lists.items()} for step in range(len(table))}


def _axes(rotation_deg: NDArray[np.float64]) -> NDArray[np.float64]:
    """The vehicle's forward, right and up in the world frame, (k, 3, 3), as CARLA turns them.

    Args:
        rotation_deg: (k, 3), roll, pitch, yaw.
    """
    (sr, sp, sy), (cr, cp, cy) = np.sin(np.radians(rotation_deg)).T, np.cos(np.radians(rotation_deg)).T
    forward = [cp * cy, cp * sy, sp]
    right = [cy * sp * sr - sy * cr, sy * sp * sr + cy * cr, -cp * sr]
    up = [-cy * sp * cr - sy * sr, -sy * sp * cr + cy * sr, cp * cr]
    return np.moveaxis(np.array([forward, right, up]), 2, 0)
