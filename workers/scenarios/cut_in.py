"""A car that stands beside the ego's lane drives into it, right before the ego."""

from __future__ import annotations

from typing import Any, Final

import carla
import numpy as np

from zmqcarla.workers.criteria.base import Tick
from zmqcarla.workers.scenarios.base import Scenario, near
from zmqcarla.workers.scenarios.motion import drive, merging, set_off
from zmqcarla.workers.scenarios.stage import CannotTakePlaceError, beside, lane_beside, lane_line

_CHANGE_M: Final = 12.0
_AFTER_JUNCTION_M: Final = 10.0
_MERGE_M: Final = 10.0
_NEXT_LANE_M: Final = 6.0
_LONGEST_RAMP_M: Final = 300.0
_FASTEST_MPS: Final = 25.0
_BEFORE_EGO_M: Final = 15.0
_MISSED_M: Final = 60.0
_CUT_IN_S: Final = 5.3


class CutIn(Scenario):
    """What both share: when it begins, and that it ends a way or 30 s later.

    Attributes:
        reaction_s: time that the ego has left when it begins.
        trigger_m: distance of the ego at which it begins in any case.
        speed_mps: of the car that cuts in.
        way_m: how far it drives until it is gone.
    """

    reaction_s: float
    trigger_m: float
    speed_mps: float
    way_m: float
    own_state = ("_set_off_s",)
    _lane: Any
    _at_s_m: float

    def step(self, tick: Tick) -> bool:
        """Wait for the ego, cut in, be gone."""
        if self._set_off_s is None:
            if near(tick, self._lane.transform.location, self.reaction_s, self.trigger_m):
                self._set_off_s = tick.time_s
            return False
        line = self.stage.line(self._at_s_m, self._at_s_m + self.way_m + 10.0)
        start = self._from.location
        left_m = self.move(merging((start.x, start.y), line, _CHANGE_M))
        return left_m < 10.0 or tick.time_s - self._set_off_s > 30.0

    _set_off_s: float | None
    _from: carla.Transform

    def move(self, line: Any) -> float:
        """Drive the car for a tick; return what is left of the line."""
        return set_off(self.actor("cut in"), line, self.speed_mps, self.stage.delta_s)


class ParkingCutIn(CutIn):
    """It was parked, behind another one that hides it."""

    reaction_s = 2.35
    trigger_m = 10.0
    speed_mps = 20.0 / 3.6
    way_m = 30.0

    def plan(self, rng: np.random.Generator) -> None:
        """28 m and 35 m after the trigger, beside the lane."""
        self._set_off_s = None
        sign = 1.0 if self.side() == "right" else -1.0
        self._at_s_m = self.trigger_s_m + 35.0
        self._lane = self.stage.lane_at(self._at_s_m)
        hiding = self.stage.lane_at(self.trigger_s_m + 28.0)
        side = lane_beside(self._lane, self.side())
        if side is None or side.lane_type == carla.LaneType.Sidewalk:
            raise CannotTakePlaceError("expected a lane to park on beside the route, found none")
        self.stage.lane_at(self._at_s_m + self.way_m)
        away_m = max(side.lane_width, 2.0) / 2.0 + self._lane.lane_width / 2.0 + 0.3
        self._from = beside(self._lane, right_m=sign * away_m)
        self._hiding_at = beside(hiding, right_m=sign * away_m)
        self._car, self._hiding = self.stage.car(rng), self.stage.car(rng)

    def build(self, tick: Tick) -> None:
        """Park both."""
        del tick
        if "hiding" not in self.actors:
            self.actors["hiding"] = self.stage.park(self._hiding, self._hiding_at)
        self.actors["cut in"] = self.stage.park(self._car, self._from)


class StaticCutIn(CutIn):
    """It stood in a queue on the next lane: two behind it, three before it."""

    reaction_s = 2.7
    trigger_m = 15.0
    speed_mps = 60.0 / 3.6
    way_m = 70.0

    def plan(self, rng: np.random.Generator) -> None:
        """The queue begins at the file's distance from the trigger, 11 m a car."""
        self._set_off_s = None
        first_m = self.trigger_s_m + self.number("distance", 100.0)
        self._queue: list[tuple[str, carla.Transform]] = []
        for k in range(6):
            lane = self.stage.lane_at(first_m + 11.0 * k)
            there = lane_beside(lane, self.side())
            if there is None or there.lane_type != carla.LaneType.Driving or there.lane_id * lane.lane_id < 0:
                raise CannotTakePlaceError("expected a second lane of the same direction for the queue, found none")
            self._queue.append((self.stage.car(rng), beside(there)))
        self._at_s_m = first_m + 22.0
        self._lane = self.stage.lane_at(self._at_s_m)
        self.stage.lane_at(self._at_s_m + self.way_m)
        self._from = self._queue[2][1]

    def build(self, tick: Tick) -> None:
        """Bring the queue."""
        del tick
        for k, (car, place) in enumerate(self._queue):
            part = "cut in" if k == 2 else f"queue {k}"
            if part not in self.actors:
                self.actors[part] = self.stage.park(car, place)

    def move(self, line: Any) -> float:
        """Change lanes at a walking pace at first, then drive on."""
        car = self.actor("cut in")
        fast = car.get_velocity().length() > 0.9 * self.speed_mps
        return drive(car, line, self.speed_mps) if fast else super().move(line)


class HighwayCutIn(Scenario):
    """A car comes from a ramp, arrives at the end of the junction right before the ego, and changes to its lane.

    Approximated: its speed is chosen anew in every tick so that it arrives right before the ego; at first it stands.
    """

    own_state = ("_merged_s", "_joins_s_m")

    def plan(self, rng: np.random.Generator) -> None:
        """From the file's place on along its lane, and 10 m behind the junction onto the ego's."""
        _, leave_m = self.stage.junction_after(self.trigger_s_m)
        x_m, y_m, z_m = self.place("other_actor_location")
        self._start = self.stage.map.get_waypoint(carla.Location(x_m, y_m, z_m))
        self._meet_s_m = leave_m + _AFTER_JUNCTION_M
        meeting = self.stage.lane_at(self._meet_s_m + _MERGE_M).transform.location
        ramp = lane_line(self._start, _LONGEST_RAMP_M, through=True)
        apart_m = np.linalg.norm(ramp - (meeting.x, meeting.y), axis=1)
        if apart_m.min() > _NEXT_LANE_M:
            raise CannotTakePlaceError(f"expected its lane to end beside the route, found it {apart_m.min():.0f} m off")
        self._ramp = ramp[: max(int(apart_m.argmin()) - round(_MERGE_M / 2.0), 2)]
        self._car = self.stage.car(rng)
        self._merged_s: float | None = None
        self._joins_s_m = 0.0

    def build(self, tick: Tick) -> None:
        """Bring it."""
        del tick
        self.actors["cut in"] = self.stage.park(self._car, beside(self._start))

    def step(self, tick: Tick) -> bool:
        """Come on, cut in, be gone."""
        car = self.actor("cut in")
        if self._merged_s is None:
            here = car.get_location()
            left_m = float(np.linalg.norm(self._ramp[-1] - (here.x, here.y)))
            ego_s = max(self._meet_s_m - _BEFORE_EGO_M - tick.s_m, 0.1) / max(tick.speed_mps, 1.0)
            speed_mps = min(left_m / ego_s, _FASTEST_MPS)
            if set_off(car, self._ramp, speed_mps, self.stage.delta_s) > 2.0:
                return self._meet_s_m + _MISSED_M < tick.s_m
            self._merged_s, self._joins_s_m = tick.time_s, self._meet_s_m
        line = self.stage.line(self._joins_s_m, self._joins_s_m + 100.0)
        onto = merging((float(self._ramp[-1, 0]), float(self._ramp[-1, 1])), line, _CHANGE_M)
        left_m = drive(car, onto, max(0.8 * tick.speed_mps, 3.0))
        return left_m < 5.0 or tick.time_s - self._merged_s > _CUT_IN_S
