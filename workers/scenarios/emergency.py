"""An emergency vehicle comes from behind and wants to pass."""

from __future__ import annotations

from typing import Final

import carla
import numpy as np

from zmqcarla.workers.criteria.base import Tick, Vector
from zmqcarla.workers.scenarios.base import Scenario, distance_m
from zmqcarla.workers.scenarios.flow import joined
from zmqcarla.workers.scenarios.motion import drive, halt, stands_in_the_way
from zmqcarla.workers.scenarios.stage import CannotTakePlaceError, lane_line

_FASTER_MPS: Final = 25.0 / 3.6
_NEAR_M: Final = 50.0
_PATIENCE_S: Final = 10.0
_PAST_M: Final = 50.0
_AHEAD_M: Final = 400.0
_LEAST_BEHIND_M: Final = 20.0


class YieldToEmergencyVehicle(Scenario):
    """It is 25 km/h faster than the ego and brakes behind it.

    Over 10 s after it came within 50 m, or 50 m after it passed. Who is then still before it did not yield.
    """

    build_ahead_m = 0.0
    own_state = ("_near_since_s", "_passed_m")

    def plan(self, rng: np.random.Generator) -> None:
        """It comes on the lane of the trigger."""
        lane = self.stage.lane_at(self.trigger_s_m)
        behind = lane_line(lane, self.number("distance", 140.0), backward=True, through=True)
        if len(behind) * 2.0 < _LEAST_BEHIND_M:
            raise CannotTakePlaceError(f"expected a lane behind the trigger, found {2 * len(behind)} m of it")
        self._line = joined(behind, lane_line(lane, _AHEAD_M, through=True))
        self._car = self.stage.emergency_car(rng)
        self._near_since_s: float | None = None
        self._passed_m: list[float] | None = None

    def build(self, tick: Tick) -> None:
        """Bring it, with its lights on."""
        del tick
        (x, y), (x2, y2) = self._line[0], self._line[1]
        lane = self.stage.map.get_waypoint(carla.Location(float(x), float(y), 0.0))
        place = carla.Location(float(x), float(y), lane.transform.location.z + 0.3)
        yaw_deg = float(np.degrees(np.arctan2(y2 - y, x2 - x)))
        lights = carla.VehicleLightState.Special1 | carla.VehicleLightState.Special2
        self.actors["emergency"] = self.stage.park(
            self._car, carla.Transform(place, carla.Rotation(yaw=yaw_deg)), int(lights)
        )

    @property
    def emergency(self) -> tuple[Vector, float] | None:
        """Where it is."""
        if not self.running or "emergency" not in self.actors:
            return None
        pose = self.actor("emergency").get_transform()
        return (pose.location.x, pose.location.y, pose.location.z), pose.rotation.yaw

    def step(self, tick: Tick) -> bool:
        """Come on, brake behind the ego, pass."""
        vehicle = self.actor("emergency")
        now_mps = vehicle.get_velocity().length()
        if stands_in_the_way(vehicle, tick, now_mps):
            halt(vehicle)
            left_m = _AHEAD_M
        else:
            left_m = drive(vehicle, self._line, tick.speed_mps + _FASTER_MPS)
        here = vehicle.get_location()
        if self._near_since_s is None and distance_m(tick, here) < _NEAR_M:
            self._near_since_s = tick.time_s
        waited = self._near_since_s is not None and tick.time_s - self._near_since_s > _PATIENCE_S
        if self._passed_m is None and self._is_ahead(tick):
            self._passed_m = [here.x, here.y]
        gone = self._passed_m is not None and np.hypot(here.x - self._passed_m[0], here.y - self._passed_m[1]) > _PAST_M
        return waited or bool(gone) or left_m < 5.0

    def _is_ahead(self, tick: Tick) -> bool:
        here = self.actor("emergency").get_location()
        fx, fy = tick.forward
        return bool(fx * (here.x - tick.position_m[0]) + fy * (here.y - tick.position_m[1]) > 0.0)
