"""Somebody crosses the road in front of the ego: from behind something, at a junction, after a turn."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, ClassVar, Final

import carla
import numpy as np

from zmqcarla.workers.criteria.base import Tick
from zmqcarla.workers.scenarios.base import Scenario, near
from zmqcarla.workers.scenarios.motion import drive, walk
from zmqcarla.workers.scenarios.stage import CannotTakePlaceError, Side, beside, edge_of_road

_END_M: Final = 40.0
_WALKER_UP_M: Final = 1.2
_BICYCLE: Final = "vehicle.diamondback.century"
_BLOCKER_HALF_M: Final = {"vehicle": 2.4, "static": 0.6}


class Crossing(Scenario):
    """One that sets off when the ego is near, crosses the whole road straight on, and is gone.

    Attributes:
        speed_mps: of who crosses.
        reaction_s: time that the ego has left when it begins.
        trigger_m: distance of the ego at which it begins in any case.
    """

    speed_mps: ClassVar[float] = 2.0
    reaction_s: float
    trigger_m: ClassVar[float] = 6.0
    own_state = ("_set_off_s", "_arrived_s_m")

    def plan(self, rng: np.random.Generator) -> None:
        """Choose who crosses and where."""
        self._set_off_s: float | None = None
        self._arrived_s_m: float | None = None
        self._who = self.choose(rng)
        self._meeting = self.meet()
        self._way_m = 2.0 * math.hypot(self._from.location.x - self._meeting.x, self._from.location.y - self._meeting.y)

    def choose(self, rng: np.random.Generator) -> str:
        """Return the blueprint of who crosses."""
        return self.stage.walker(rng)

    @abstractmethod
    def meet(self) -> carla.Location:
        """Set `_from`, where they stand and look to, and return where the ego's way is crossed."""

    _from: carla.Transform

    def build(self, tick: Tick) -> None:
        """Bring who crosses."""
        del tick
        self.actors["crossing"] = self.stage.spawn(self._who, self._from)

    def step(self, tick: Tick) -> bool:
        """Wait for the ego, cross, be gone; then the ego has 40 m to drive on."""
        if self._arrived_s_m is not None:
            return tick.s_m > self._arrived_s_m + _END_M
        if self._set_off_s is None:
            if near(tick, self._meeting, self.reaction_s, self.trigger_m):
                self._set_off_s = tick.time_s
            return False
        self.go(self.actor("crossing"))
        if (tick.time_s - self._set_off_s) * self.speed_mps > self._way_m:
            self.dismiss()
            self._arrived_s_m = tick.s_m
        return False

    def go(self, actor: Any) -> None:
        """Let them go on for a tick."""
        walk(actor, self._from.rotation.yaw, self.speed_mps)

    def inwards(self, lane: Any, side: Side, angle_deg: float, behind_m: float) -> carla.Transform:
        """Return a pose on the edge of a lane's road that looks across it, turned against the traffic by an angle."""
        edge, pavement = edge_of_road(lane, side)
        # Beyond the middle of the road the edge is to the right of a lane that comes towards the ego.
        turned = edge.lane_id * lane.lane_id < 0
        right_m = 0.0 if pavement else 1.2
        look = beside(edge, right_m=right_m, ahead_m=-behind_m if turned else behind_m, up_m=_WALKER_UP_M)
        inwards_deg = -90.0 - angle_deg if side == "right" else 90.0 + angle_deg
        look.rotation.yaw = lane.transform.rotation.yaw + inwards_deg
        return look


class DynamicObjectCrossing(Crossing):
    """A walker steps out from behind something that stands on the pavement."""

    blocker: ClassVar[str] = "static.prop.vendingmachine"
    base_reaction_s: ClassVar[float] = 2.1

    def meet(self) -> carla.Location:
        """Put the walker just behind the blocker."""
        angle_deg, side = self.number("crossing_angle", 0.0), self.side()
        if abs(angle_deg) > 90.0:
            raise CannotTakePlaceError(f"expected a crossing angle between -90 and 90 degrees, found {angle_deg:g}")
        self.reaction_s = self.base_reaction_s + 0.1 * math.floor(angle_deg / 5.0)
        lane = self.stage.lane_at(self.trigger_s_m + self.number("distance", 12.0))
        self._blocker = self.text("blocker_model", self.blocker)
        self._blocker_at = self.blocker_place(lane, side)
        half_m = _BLOCKER_HALF_M.get(self._blocker.partition(".")[0], 1.0)
        self._from = self.inwards(lane, side, angle_deg, half_m + 0.5)
        return lane.transform.location

    def blocker_place(self, lane: Any, side: Side) -> carla.Transform:
        """Return the pose of what hides the walker."""
        look = self.inwards(lane, side, 0.0, 0.0)
        look.location.z -= _WALKER_UP_M
        look.rotation.yaw = lane.transform.rotation.yaw + (0.0 if self._blocker.startswith("vehicle") else 90.0)
        return look

    def build(self, tick: Tick) -> None:
        """Bring the blocker and the walker."""
        if "blocker" not in self.actors:
            self.actors["blocker"] = self.stage.spawn(self._blocker, self._blocker_at, moves=False)
        super().build(tick)


class ParkingCrossingPedestrian(DynamicObjectCrossing):
    """The same from behind a car that is parked beside the lane."""

    base_reaction_s = 2.15

    def choose(self, rng: np.random.Generator) -> str:
        """Also choose the car."""
        self._car = self.stage.car(rng)
        return super().choose(rng)

    def blocker_place(self, lane: Any, side: Side) -> carla.Transform:
        """Beside the lane."""
        self._blocker = self._car
        return beside(lane, right_m=lane.lane_width if side == "right" else -lane.lane_width)


class VehicleTurningRoute(Crossing):
    """A bicycle crosses behind the junction at which the ego turns."""

    speed_mps = 1.8
    reaction_s = 1.8
    behind_m: ClassVar[float] = 11.0

    def choose(self, rng: np.random.Generator) -> str:
        """A bicycle."""
        del rng
        return _BICYCLE

    def meet(self) -> carla.Location:
        """Behind the next junction of the route."""
        _, leave_m = self.stage.junction_after(self.trigger_s_m)
        lane = self.stage.lane_at(min(leave_m + self.behind_m, self.stage.route.length_m))
        self._from = self.inwards(lane, "right", 0.0, 0.0)
        return lane.transform.location

    def go(self, actor: Any) -> None:
        """Ride straight on."""
        place, yaw = self._from.location, math.radians(self._from.rotation.yaw)
        along_m = np.linspace(0.0, self._way_m + 5.0, 40)
        line = np.stack([place.x + along_m * math.cos(yaw), place.y + along_m * math.sin(yaw)], axis=1)
        drive(actor, line, self.speed_mps)


class VehicleTurningRoutePedestrian(VehicleTurningRoute):
    """A walker crosses right behind the junction at which the ego turns."""

    reaction_s = 2.2
    behind_m = 0.5

    def choose(self, rng: np.random.Generator) -> str:
        """A walker."""
        return self.stage.walker(rng)

    def go(self, actor: Any) -> None:
        """Walk straight on."""
        walk(actor, self._from.rotation.yaw, self.speed_mps)


class PedestrianCrossing(Scenario):
    """Three walkers cross before the next junction, each at a pace and after a pause of their own."""

    own_state = ("_set_off_s", "_set_off_s_m", "_left")

    def plan(self, rng: np.random.Generator) -> None:
        """Choose them."""
        self._set_off_s: float | None = None
        self._set_off_s_m = 0.0
        entry_m, _ = self.stage.junction_after(self.trigger_s_m)
        lane, _ = self.stage.lane_before_junction(self.trigger_s_m, entry_m - self.trigger_s_m + 5.0)
        edge, _ = edge_of_road(lane, "right")
        self._meeting = lane.transform.location
        self._pauses_s = [float(pause_s) for pause_s in rng.uniform(0.0, 1.5, size=3)]
        self._speeds_mps = [float(speed_mps) for speed_mps in rng.uniform(1.3, 2.0, size=3)]
        self._who = [self.stage.walker(rng) for _ in range(3)]
        beside_m = ((0.4, 1.5), (1.0, 2.5), (1.6, 0.5))
        self._from = [beside(edge, ahead_m=x, right_m=y, up_m=_WALKER_UP_M, turn_deg=-90.0) for x, y in beside_m]
        self._ways_m = [2.3 * place.location.distance(self._meeting) for place in self._from]
        self._left = [0, 1, 2]

    def build(self, tick: Tick) -> None:
        """Bring the walkers."""
        del tick
        for k in self._left:
            if f"walker {k}" not in self.actors:
                self.actors[f"walker {k}"] = self.stage.spawn(self._who[k], self._from[k])

    def step(self, tick: Tick) -> bool:
        """Wait for the ego, cross one by one; over when all are across and the ego drove on."""
        if self._set_off_s is None:
            if near(tick, self._meeting, 3.5, 12.0):
                self._set_off_s, self._set_off_s_m = tick.time_s, tick.s_m
            return False
        for k in tuple(self._left):
            walked_s = tick.time_s - self._set_off_s - self._pauses_s[k]
            if walked_s >= 0.0:
                walk(self.actor(f"walker {k}"), self._from[k].rotation.yaw, self._speeds_mps[k])
            if walked_s * self._speeds_mps[k] > self._ways_m[k]:
                self.stage.dismiss([self.actors.pop(f"walker {k}")])
                self._left.remove(k)
        return not self._left and tick.s_m > self._set_off_s_m + _END_M
