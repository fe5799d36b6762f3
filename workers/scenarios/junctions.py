"""What happens at the next junction: others who take the right of way, a stream of cars to cross, a blocked exit."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Final

import carla
import numpy as np
from numpy.typing import NDArray

from zmqcarla.workers.criteria.base import Tick
from zmqcarla.workers.scenarios.base import LEADERBOARD_TIMEOUT_S, Scenario, distance_m, near
from zmqcarla.workers.scenarios.flow import WithFlow, joined
from zmqcarla.workers.scenarios.motion import drive
from zmqcarla.workers.scenarios.stage import CannotTakePlaceError, Stage, beside, between_deg, lane_line

_TURNED_DEG: Final = {"left": 90.0, "right": -90.0, "opposite": 180.0}
_MOST_SKEW_DEG: Final = 50.0
_MEET_M: Final = 3.0
_PAST_M: Final = 10.0
_GREEN_AFTER_S: Final = 5.0


class Junction:
    """The next junction of the route.

    Attributes:
        entry_s_m, leave_s_m: where the route enters and leaves it.
        entry: waypoint of the ego's lane before it.
    """

    def __init__(self, stage: Stage, s_m: float) -> None:
        self._stage = stage
        self.entry_s_m, self.leave_s_m = stage.junction_after(s_m)
        self.entry = stage.lane_at(max(self.entry_s_m - 2.0, 0.0))
        inside = stage.lane_at(min(self.entry_s_m + 1.0, self.leave_s_m))
        if not inside.is_junction:
            inside = stage.lane_at((self.entry_s_m + self.leave_s_m) / 2.0)
        if not inside.is_junction:
            raise CannotTakePlaceError("expected the junction under the route, found none")
        self._inside = inside.get_junction()

    def entry_from(self, direction: str) -> Any:
        """Return the first waypoint within the junction of a lane that enters it from the left, right or opposite.

        Raises:
            CannotTakePlaceError: nobody comes from there.
        """
        ego_deg = self.entry.transform.rotation.yaw
        found: list[tuple[float, int, int, Any]] = []
        for begin, end in self._inside.get_waypoints(carla.LaneType.Driving):
            skew_deg = abs(between_deg(begin.transform.rotation.yaw, ego_deg + _TURNED_DEG[direction]))
            bend_deg = abs(between_deg(begin.transform.rotation.yaw, end.transform.rotation.yaw))
            if skew_deg < _MOST_SKEW_DEG and bend_deg < _MOST_SKEW_DEG:
                found.append((round(skew_deg + bend_deg), begin.road_id, begin.lane_id, begin))
        if not found:
            raise CannotTakePlaceError(f"expected a lane straight through the junction from {direction}, found none")
        return min(found, key=lambda each: each[:3])[3]

    def line_from(self, begin: Any, before_m: float, after_m: float) -> NDArray[np.float64]:
        """Return the way of a lane through the junction: float64 (k, 2), so far before and after its beginning."""
        before = begin.previous(1.0)
        if not before:
            raise CannotTakePlaceError("expected a road before the junction, found none")
        return joined(lane_line(before[0], before_m, backward=True), lane_line(begin, after_m, through=True))

    def meeting(self, line: NDArray[np.float64]) -> carla.Location:
        """Return where the route and a line through the junction meet.

        Raises:
            CannotTakePlaceError: they do not.
        """
        route = self._stage.line(self.entry_s_m, self.leave_s_m)
        apart_m = np.linalg.norm(route[:, None, :] - line[None, :, :], axis=2)
        k = int(apart_m.min(axis=1).argmin())
        if apart_m[k].min() > _MEET_M:
            raise CannotTakePlaceError("expected the others' way to cross the route, found it apart")
        return carla.Location(float(route[k, 0]), float(route[k, 1]), self.entry.transform.location.z)

    def lights(self, green: list[Any], red: bool) -> dict[int, str]:
        """Return what the junction's lights should show: green for the lanes that enter at waypoints.

        Args:
            green: waypoints before the junction.
            red: whether the other lights of the junction are to be red.
        """
        keys = {(lane.road_id, lane.lane_id) for lane in green}
        wanted: dict[int, str] = {}
        if red:
            world = self._stage.session.world
            wanted = {int(light.id): "Red" for light in world.get_traffic_lights_in_junction(self._inside.id)}
        for light in self._stage.session.surroundings.lights:
            if any(line.lane in keys for line in light.stop_lines):
                wanted[light.light_id] = "Green"
        return wanted

    def is_past(self, tick: Tick, further_m: float) -> bool:
        """Whether the ego left the junction so far behind."""
        return tick.s_m > min(self.leave_s_m + further_m, self._stage.route.length_m - 1.0)


def show(stage: Stage, wanted: dict[int, str]) -> None:
    """Let lights show what is wanted."""
    for light_id, name in wanted.items():
        light = stage.actor(light_id)
        state = getattr(carla.TrafficLightState, name)
        if light.state != state:
            light.set_state(state)


class OppositeVehicleTakingPriority(Scenario):
    """An emergency car crosses the junction at 60 km/h without yielding."""

    sync_s: ClassVar[float] = 2.2
    trigger_m: ClassVar[float] = 12.0
    speed_mps: ClassVar[float] = 60.0 / 3.6
    own_state = ("_set_off_s", "_gone")

    def plan(self, rng: np.random.Generator) -> None:
        """From the file's direction, 30 m before the junction."""
        self._junction = Junction(self.stage, self.trigger_s_m)
        direction = self.text("direction", "right")
        if direction not in _TURNED_DEG:
            raise CannotTakePlaceError(f"expected a direction among {', '.join(_TURNED_DEG)}, found {direction!r}")
        begin = self._junction.entry_from(direction)
        self._begin = begin.previous(2.0)[0] if begin.previous(2.0) else begin
        self._line = self._junction.line_from(begin, 30.0, 60.0)
        self._meeting = self._junction.meeting(self._line)
        self._car = self.stage.emergency_car(rng)
        self._set_off_s: float | None = None
        self._gone = False

    def build(self, tick: Tick) -> None:
        """It waits."""
        del tick
        (x, y), (x2, y2) = self._line[0], self._line[1]
        lane = self.stage.map.get_waypoint(carla.Location(float(x), float(y), 0.0))
        place = carla.Location(float(x), float(y), lane.transform.location.z + 0.3)
        yaw_deg = math.degrees(math.atan2(y2 - y, x2 - x))
        lights = int(carla.VehicleLightState.Special1 | carla.VehicleLightState.Special2)
        self.actors["crossing"] = self.stage.park(
            self._car, carla.Transform(place, carla.Rotation(yaw=yaw_deg)), lights
        )

    def step(self, tick: Tick) -> bool:
        """Cross when the ego is near; over when the ego left the junction."""
        if self._set_off_s is None and near(tick, self._meeting, self.sync_s, self.trigger_m):
            self._set_off_s = tick.time_s
        if self._set_off_s is not None and not self._gone:
            left_m = drive(self.actor("crossing"), self._line, self.speed_mps)
            if left_m < 8.0 or tick.time_s - self._set_off_s > 12.0:
                self._gone = True
                self.dismiss()
        return self._gone and self._junction.is_past(tick, 1.0)


class OppositeVehicleRunningRedLight(OppositeVehicleTakingPriority):
    """The same at lights, which are green for the ego and red for everybody else."""

    def step(self, tick: Tick) -> bool:
        """Also hold the lights."""
        show(self.stage, self._junction.lights([self._junction.entry], red=True))
        return super().step(tick)


class BlockedIntersection(Scenario):
    """A car stands right behind the junction, and drives off 10 s after the ego came near."""

    timeout_s = LEADERBOARD_TIMEOUT_S
    own_state = ("_near_since_s",)

    def plan(self, rng: np.random.Generator) -> None:
        """5 m behind the junction."""
        junction = Junction(self.stage, self.trigger_s_m)
        self._lane = self.stage.lane_at(min(junction.leave_s_m + 5.0, self.stage.route.length_m))
        self._car = self.stage.car(rng)
        self._near_since_s: float | None = None

    def build(self, tick: Tick) -> None:
        """Bring it."""
        del tick
        brake = int(carla.VehicleLightState.Brake)
        self.actors["blocker"] = self.stage.park(self._car, beside(self._lane), brake)

    def step(self, tick: Tick) -> bool:
        """Wait for the ego, and then for 10 s."""
        if self._near_since_s is None and distance_m(tick, self._lane.transform.location) < 13.0:
            self._near_since_s = tick.time_s
        return self._near_since_s is not None and tick.time_s - self._near_since_s > 10.0


class JunctionFlow(WithFlow):
    """A stream of cars crosses the ego's way through the junction.

    Attributes:
        comes_from: seen from the ego.
        lit: whether the junction has lights, which then are green for both: for the ego 5 s later.
        source_s, sink_s: how long they drive before and after it.
    """

    timeout_s = LEADERBOARD_TIMEOUT_S
    comes_from: ClassVar[str]
    lit: ClassVar[bool] = False
    source_s: ClassVar[float] = 4.0
    sink_s: ClassVar[float] = 2.5

    def plan(self, rng: np.random.Generator) -> None:
        """The faster they are, the further away they come from."""
        self._junction = Junction(self.stage, self.trigger_s_m)
        begin = self._junction.entry_from(self.comes_from)
        speed_mps = self.number("flow_speed", 20.0)
        line = self._junction.line_from(begin, self.source_s * speed_mps, 30.0 + self.sink_s * speed_mps)
        before = begin.previous(2.0)
        self._their_lane = before[0] if before else begin
        if self.lit and not self._junction.lights([self._junction.entry], red=False):
            raise CannotTakePlaceError("expected a light for the ego at the junction, found none")
        self.plan_flow(rng, line, speed_mps, self.interval("source_dist_interval", (25.0, 50.0)))

    def build(self, tick: Tick) -> None:
        """The cars come later."""

    def step(self, tick: Tick) -> bool:
        """Let them come."""
        self.flow(tick)
        if self.lit:
            green = [self._their_lane]
            if self.elapsed_s(tick) > _GREEN_AFTER_S:
                green.append(self._junction.entry)
            show(self.stage, self._junction.lights(green, red=True))
        return self._junction.is_past(tick, _PAST_M)


class SignalizedJunctionLeftTurn(JunctionFlow):
    """The ego turns left before oncoming cars."""

    comes_from = "opposite"
    lit = True


class NonSignalizedJunctionLeftTurn(JunctionFlow):
    """The same without lights."""

    comes_from = "opposite"


class SignalizedJunctionRightTurn(JunctionFlow):
    """The ego turns right before cars from the left."""

    comes_from = "left"
    lit = True
    source_s, sink_s = 5.0, 3.0


class NonSignalizedJunctionRightTurn(JunctionFlow):
    """The same without lights."""

    comes_from = "left"
    source_s, sink_s = 5.0, 3.0


class PriorityAtJunction(Scenario):
    """The ego's light is green, and the others red, until the ego left the junction."""

    def plan(self, rng: np.random.Generator) -> None:
        """Find the light."""
        del rng
        self._junction = Junction(self.stage, self.trigger_s_m)
        self._wanted = self._junction.lights([self._junction.entry], red=True)
        if "Green" not in self._wanted.values():
            raise CannotTakePlaceError("expected a light for the ego at the junction, found none")

    def build(self, tick: Tick) -> None:
        """Nobody comes."""

    def step(self, tick: Tick) -> bool:
        """Hold the light."""
        show(self.stage, self._wanted)
        return self._junction.is_past(tick, 0.0)
