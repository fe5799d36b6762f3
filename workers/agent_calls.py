"""What an env tells a driver that is an agent of the Leaderboard, in the Leaderboard's terms: its plan."""

from __future__ import annotations

import math
from typing import Any, Final

import carla
import numpy as np

from zmqcarla.workers.navigation import Route

_SPACING_M: Final = 1.0


def plan_of(route: Route, road_map: Any, start_z_m: float) -> dict[str, Any]:
    """Return a route as the Leaderboard gives it to an agent before thinning it: points a metre apart.

    Args:
        route: the line to drive.
        road_map: the `carla.Map`, which knows heights and geographical places.
        start_z_m: height of the first point, by which the right one of two roads above each other is found.

    Returns:
        "gps": a list of [latitude deg, longitude deg, altitude m]; "world": of [x, y, z in metres, pitch, yaw, roll in
        degrees]; "options": of the numbers of `RoadOption`. Pitch and roll are 0.
    """
    wanted_m = np.append(np.arange(0.0, route.length_m, _SPACING_M), route.length_m)
    picked = np.unique(np.searchsorted(route.s_m, wanted_m).clip(max=len(route.s_m) - 1))
    xy_m = route.xy_m[picked]
    along_m = np.gradient(xy_m, axis=0) if len(xy_m) > 1 else np.array([[1.0, 0.0]])
    gps, world, z_m = [], [], start_z_m
    for (x_m, y_m), (dx_m, dy_m) in zip(xy_m.tolist(), along_m.tolist(), strict=True):
        z_m = float(road_map.get_waypoint(carla.Location(x_m, y_m, z_m)).transform.location.z)
        place = road_map.transform_to_geolocation(carla.Location(x_m, y_m, z_m))
        gps.append([float(place.latitude), float(place.longitude), float(place.altitude)])
        world.append([x_m, y_m, z_m, 0.0, math.degrees(math.atan2(dy_m, dx_m)), 0.0])
    return {"gps": gps, "world": world, "options": route.command[picked].tolist()}
