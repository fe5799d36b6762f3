"""Something stands in the ego's lane, and the ego has to change lanes, or to pass on the oncoming one ("TwoWays").

Each lasts until the ego is 50 m past it, or for 240 s: then it is charged as timed out and cleared away.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Final

import carla
import numpy as np

from zmqcarla.workers.criteria.base import Tick
from zmqcarla.workers.scenarios.base import LEADERBOARD_TIMEOUT_S, distance_m
from zmqcarla.workers.scenarios.flow import WithFlow, joined
from zmqcarla.workers.scenarios.motion import drive, halt
from zmqcarla.workers.scenarios.stage import (
    CannotTakePlaceError,
    Side,
    beside,
    edge_of_road,
    lane_line,
    oncoming_lane,
)

_PAST_M: Final = 50.0
_FLOW_AFTER_S: Final = 5.0
# The oncoming cars come from so far that they need the time that a driver looks ahead for: 1.5 s for each km/h of the
# speed limit in metres, and 30 m.
_FLOW_M_PER_KMH: Final = 1.5
_FLOW_BASE_M: Final = 30.0
_USUAL_LIMIT_KMH: Final = 30.0

_POLICE: Final = "vehicle.dodge.charger_police_2020"
_BICYCLES: Final = ("vehicle.bh.crossbike", "vehicle.diamondback.century", "vehicle.gazelle.omafiets")


class Obstacle(WithFlow):
    """What all of them share.

    Attributes:
        two_ways: whether the ego has to pass on the oncoming lane; then cars come on it, some time after the ego is
        there. notice_m: distance of the ego from the obstacle from which that time counts. usual_distance_m: of the
        obstacle from the trigger, where the file does not say it.
    """

    timeout_s = LEADERBOARD_TIMEOUT_S
    two_ways: ClassVar[bool] = False
    notice_m: ClassVar[float] = 50.0
    usual_distance_m: ClassVar[float] = 120.0
    own_state: ClassVar[tuple[str, ...]] = ("_made", "_noticed_s", "_end_s_m")

    def plan(self, rng: np.random.Generator) -> None:
        """Find the obstacle's place."""
        self._side: Side = self.side()
        self._sign = 1.0 if self._side == "right" else -1.0
        self._noticed_s: float | None = None
        self._made = 0
        self._start = self.stage.lane_at(self.trigger_s_m)
        distance = self.number("distance", self.usual_distance_m)
        self._lane, self._at_s_m = self.stage.lane_before_junction(self.trigger_s_m, distance)
        self._last = self.plan_obstacle(rng)
        _, self._end_s_m = self.stage.lane_before_junction(self._last, _PAST_M)
        if self.two_ways:
            self._plan_oncoming(rng)

    @abstractmethod
    def plan_obstacle(self, rng: np.random.Generator) -> float:
        """Choose what stands there; return the place on the route where it ends."""

    @property
    def oncoming_allowed(self) -> bool:
        """As soon as the oncoming cars come."""
        return self.running and self.two_ways and self._noticed_s is not None

    def step(self, tick: Tick) -> bool:
        """Let the oncoming cars come; over when the ego is past."""
        if self._noticed_s is None and distance_m(tick, self._lane.transform.location) < self.notice_m:
            self._noticed_s = tick.time_s
        if self.two_ways and self._noticed_s is not None and tick.time_s - self._noticed_s > _FLOW_AFTER_S:
            self.flow(tick)
        return tick.s_m > self._end_s_m

    def put_sign(self, blueprint_id: str) -> None:
        """Put a warning sign on the roadside at the trigger."""
        edge, _ = edge_of_road(self._start, self._side)
        self.put("sign", blueprint_id, beside(edge, turn_deg=90.0))

    def put(self, part: str, blueprint_id: str, place: carla.Transform) -> None:
        """Bring a prop, unless it is there."""
        if part not in self.actors:
            self.actors[part] = self.stage.spawn(blueprint_id, place, moves=False)

    def put_car(self, part: str, blueprint_id: str, lane: Any, shift: float, lights: int = 0) -> None:
        """Bring a car that stands on a lane, unless it is there; `shift` is to its side, in half lanes."""
        if part not in self.actors:
            place = beside(lane, right_m=self._sign * shift * lane.lane_width / 2.0)
            self.actors[part] = self.stage.park(blueprint_id, place, lights)

    def _plan_oncoming(self, rng: np.random.Generator) -> None:
        there = oncoming_lane(self._lane)
        if there is None:
            raise CannotTakePlaceError("expected an oncoming lane beside the obstacle, found none")
        reach_m = _FLOW_M_PER_KMH * _USUAL_LIMIT_KMH + _FLOW_BASE_M
        line = joined(lane_line(there, reach_m, backward=True), lane_line(there, reach_m))
        self.plan_flow(rng, line, _USUAL_LIMIT_KMH / 3.6, self.interval("frequency", (20.0, 100.0)))


class Accident(Obstacle):
    """A police car with its lights on, and two cars that ran into each other, on the outer side of the lane."""

    def plan_obstacle(self, rng: np.random.Generator) -> float:
        """10 m behind the police car the first of the two, 6 m further the second."""
        first, first_m = self.stage.lane_before_junction(self._at_s_m, 10.0)
        second, second_m = self.stage.lane_before_junction(first_m, 6.0)
        if second_m - self._at_s_m < 15.0:
            raise CannotTakePlaceError("expected 16 m of lane for the accident before the junction, found less")
        self._wrecks = [(first, self.stage.car(rng)), (second, self.stage.car(rng))]
        return second_m

    def build(self, tick: Tick) -> None:
        """Bring them."""
        del tick
        self.put_sign("static.prop.warningaccident")
        state = carla.VehicleLightState
        self.put_car("police", _POLICE, self._lane, 0.6, int(state.Special1 | state.Special2 | state.Position))
        for k, (lane, car) in enumerate(self._wrecks):
            self.put_car(f"wreck {k}", car, lane, 0.6)


class ParkedObstacle(Obstacle):
    """A car is parked on the outer side of the lane, its hazard lights on."""

    def plan_obstacle(self, rng: np.random.Generator) -> float:
        """One car."""
        self._car = self.stage.car(rng)
        return self._at_s_m

    def build(self, tick: Tick) -> None:
        """Bring it."""
        del tick
        self.put_sign("static.prop.warningaccident")
        state = carla.VehicleLightState
        self.put_car("parked", self._car, self._lane, 0.7, int(state.RightBlinker | state.LeftBlinker | state.Position))


class ConstructionObstacle(Obstacle):
    """A closed piece of the lane: a warning sign, debris, and two rows of cones."""

    notice_m = 30.0
    usual_distance_m = 100.0

    def plan_obstacle(self, rng: np.random.Generator) -> float:
        """Eight metres of lane."""
        del rng
        return self._at_s_m

    def build(self, tick: Tick) -> None:
        """Bring everything."""
        del tick
        self.put_sign("static.prop.warningconstruction")
        lane = self._lane
        self.put("warning", "static.prop.trafficwarning", beside(lane, ahead_m=-5.0, up_m=0.0, turn_deg=270.0))
        self.put("debris", "static.prop.dirtdebris02", beside(lane, ahead_m=2.0, up_m=0.0))
        inner_m = -self._sign * 0.85 * lane.lane_width / 2.0
        along = [(2.0 * k, inner_m) for k in range(1, 5)]
        across = [(8.0, inner_m + self._sign * k) for k in range(1, 4)]
        for k, (ahead_m, right_m) in enumerate(along + across):
            place = beside(lane, ahead_m=ahead_m, right_m=right_m, up_m=0.1)
            self.put(f"cone {k}", "static.prop.constructioncone", place)


class HazardAtSideLane(Obstacle):
    """Two bicycles ride slowly on the right of the lane for 50 m, and then stand."""

    usual_distance_m = 100.0

    def plan_obstacle(self, rng: np.random.Generator) -> float:
        """9 m apart."""
        self._ride_mps = self.number("bicycle_speed", 10.0) / 3.6
        self._ride_m = self.number("bicycle_drive_distance", 50.0)
        self._starts_m = (self._at_s_m, self.stage.lane_before_junction(self._at_s_m, 9.0)[1])
        if self._starts_m[1] - self._at_s_m < 5.0:
            raise CannotTakePlaceError("expected 9 m of lane for two bicycles before the junction, found less")
        self._bicycles = [_BICYCLES[int(k)] for k in rng.integers(len(_BICYCLES), size=2)]
        return min(self._starts_m[1] + self._ride_m, self.stage.route.length_m)

    def build(self, tick: Tick) -> None:
        """Bring them."""
        del tick
        for k, start_m in enumerate(self._starts_m):
            self.put_car(f"bicycle {k}", self._bicycles[k], self.stage.lane_at(start_m), 0.55)

    def step(self, tick: Tick) -> bool:
        """Ride."""
        for k, start_m in enumerate(self._starts_m):
            bicycle = self.actor(f"bicycle {k}")
            line = self.stage.line(start_m, start_m + self._ride_m)
            along = np.gradient(line, axis=0)
            right = np.stack([-along[:, 1], along[:, 0]], axis=1) / np.linalg.norm(along, axis=1)[:, None]
            if drive(bicycle, line + 0.55 * self._lane.lane_width / 2.0 * right, self._ride_mps) < 2.0:
                halt(bicycle)
        return super().step(tick)


class VehicleOpensDoorTwoWays(Obstacle):
    """A parked car opens its door towards the lane when the ego is near.

    On the embedded simulator an open door is not seen and cannot be hit.
    """

    two_ways = True
    usual_distance_m = 50.0
    own_state = ("_made", "_noticed_s", "_end_s_m", "_open")

    def plan_obstacle(self, rng: np.random.Generator) -> float:
        """On the lane beside, at its inner edge."""
        beside_it = self._lane.get_right_lane() if self._side == "right" else self._lane.get_left_lane()
        if beside_it is None or beside_it.lane_type == carla.LaneType.Sidewalk:
            raise CannotTakePlaceError("expected a lane to park on beside the route, found none")
        self._parking = beside_it
        doors = self.stage.cars(lambda each: bool(each.get_attribute("has_dynamic_doors")))
        self._car = str(doors[int(rng.integers(len(doors)))].id)
        self._open = False
        return self._at_s_m

    def build(self, tick: Tick) -> None:
        """Park it beside the ego's lane, as near as it may stand."""
        del tick
        if "parked" not in self.actors:
            away_m = self._sign * (self._lane.lane_width / 2.0 + 1.0)
            self.actors["parked"] = self.stage.park(self._car, beside(self._lane, right_m=away_m))

    def step(self, tick: Tick) -> bool:
        """Open the door in time."""
        away_m = distance_m(tick, self._lane.transform.location)
        if not self._open and (away_m < 10.0 or away_m < 3.0 * tick.speed_mps):
            self._open = True
            self._noticed_s = tick.time_s
            door = carla.VehicleDoor.FR if self._side == "left" else carla.VehicleDoor.FL
            self.actor("parked").open_door(door)
        over = tick.s_m > self._end_s_m
        return over if self._noticed_s is None else super().step(tick)


class AccidentTwoWays(Accident):
    """With oncoming cars."""

    two_ways = True


class ParkedObstacleTwoWays(ParkedObstacle):
    """With oncoming cars."""

    two_ways = True


class ConstructionObstacleTwoWays(ConstructionObstacle):
    """With oncoming cars."""

    two_ways = True


class HazardAtSideLaneTwoWays(HazardAtSideLane):
    """With oncoming cars."""

    two_ways = True
