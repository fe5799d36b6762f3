"""The ground on which scenarios take place: the lanes along the route, and actors brought and dismissed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Final, Literal

import carla
import numpy as np
from numpy.typing import NDArray

from zmqcarla.workers.navigation import Route
from zmqcarla.workers.session import Session

Side = Literal["left", "right"]

SCENARIO_ROLE: Final = "scenario"
_OFF_ROUTE_M: Final = 15.0
_HEADING_WEIGHT_M: Final = 30.0
_DROP_M: Final = 0.3


class CannotTakePlaceError(Exception):
    """A scenario lacks something: a lane, a parameter, room. The text says what."""


class Stage:
    """What the scenarios of one episode share.

    Attributes:
        session: the server.
        map: its road network.
        route: the line to drive.
        delta_s: simulated seconds per tick.
        still: ids of actors that no force moves; the API does not tell.
        brought: type and place (x, y in metres) of every actor that came.
    """

    def __init__(self, session: Session, route: Route, delta_s: float) -> None:
        self.session = session
        self.map: Any = session.map
        self.route = route
        self.delta_s = delta_s
        self.still: set[int] = set()
        self.brought: list[tuple[str, float, float]] = []
        self._known: dict[int, Any] = {}
        step = np.diff(route.xy_m, axis=0)
        heading = np.arctan2(step[:, 1], step[:, 0])
        self._heading: NDArray[np.float64] = np.append(heading, heading[-1])

    def route_s_m(self, place_m: tuple[float, float, float], yaw_deg: float) -> float:
        """Return the place on the route that is nearest to a pose; a route that crosses itself passes in its direction.

        Raises:
            CannotTakePlaceError: the route does not pass there.
        """
        distance_m = np.linalg.norm(self.route.xy_m - place_m[:2], axis=1)
        against = 1.0 - np.cos(self._heading - math.radians(yaw_deg))
        best = int(np.argmin(distance_m + _HEADING_WEIGHT_M * against))
        if distance_m[best] > _OFF_ROUTE_M:
            raise CannotTakePlaceError(f"expected its trigger on the route, found it {distance_m[best]:.0f} m off")
        return float(self.route.s_m[best])

    def nearest(self, x_m: float, y_m: float) -> tuple[float, float]:
        """Return the place on the route that is nearest to one of the world, and how far it is from there."""
        distance_m = np.linalg.norm(self.route.xy_m - (x_m, y_m), axis=1)
        k = int(distance_m.argmin())
        return float(self.route.s_m[k]), float(distance_m[k])

    def lane_at(self, s_m: float) -> Any:
        """Return the waypoint of the lane under a place of the route.

        Raises:
            CannotTakePlaceError: the route ends before it.
        """
        if not 0.0 <= s_m <= self.route.length_m:
            raise CannotTakePlaceError(f"expected {s_m:.0f} m of route, found {self.route.length_m:.0f} m")
        k = min(int(np.searchsorted(self.route.s_m, s_m)), len(self.route.s_m) - 1)
        x, y = self.route.xy_m[k]
        return self.map.get_waypoint(carla.Location(float(x), float(y), 0.0))

    def lane_before_junction(self, s_m: float, on_m: float) -> tuple[Any, float]:
        """Return the lane of the route `on_m` further than `s_m`, but before a junction or the end, and its place."""
        here = self.lane_at(s_m)
        reached_m = s_m
        while reached_m < min(s_m + on_m, self.route.length_m):
            following = self.lane_at(min(reached_m + 1.0, self.route.length_m))
            if following.is_junction and not here.is_junction:
                break
            here, reached_m = following, min(reached_m + 1.0, self.route.length_m)
        return here, reached_m

    def junction_after(self, s_m: float) -> tuple[float, float]:
        """Return where on the route the next junction begins and where it ends.

        Raises:
            CannotTakePlaceError: none follows.
        """
        first = int(np.searchsorted(self.route.s_m, s_m))
        inside = np.flatnonzero(self.route.junction[first:])
        if not len(inside):
            raise CannotTakePlaceError(f"expected a junction after {s_m:.0f} m of the route, found none")
        entry = first + int(inside[0])
        outside = np.flatnonzero(~self.route.junction[entry:])
        leave = entry + int(outside[0]) if len(outside) else len(self.route.s_m) - 1
        return float(self.route.s_m[entry]), float(self.route.s_m[leave])

    def line(self, from_s_m: float, to_s_m: float) -> NDArray[np.float64]:
        """Return a part of the route's line: float64 (k, 2), metres, world frame."""
        first, last = np.searchsorted(self.route.s_m, [from_s_m, to_s_m])
        return self.route.xy_m[int(first) : max(int(last), int(first) + 2)]

    def cars(self, good: Callable[[Any], bool] | None = None, base_type: str = "car") -> list[Any]:
        """Return the vehicles of a type in the order of their names.

        Args:
            good: which of them; None for all.
            base_type: as CARLA names it.

        Raises:
            CannotTakePlaceError: the server has none.
        """
        library = self.session.world.get_blueprint_library().filter("vehicle.*")
        found = [each for each in library if attribute(each, "base_type") == base_type]
        found = sorted((each for each in found if good is None or good(each)), key=lambda each: each.id)
        if not found:
            raise CannotTakePlaceError(f"expected a vehicle of the type {base_type!r} on the server, found none")
        return found

    def car(self, rng: np.random.Generator) -> str:
        """Choose an ordinary car."""
        cars = self.cars(lambda each: not attribute(each, "special_type"))
        return str(cars[int(rng.integers(len(cars)))].id)

    def emergency_car(self, rng: np.random.Generator) -> str:
        """Choose an emergency car."""
        cars = self.cars(lambda each: attribute(each, "special_type") == "emergency")
        return str(cars[int(rng.integers(len(cars)))].id)

    def walker(self, rng: np.random.Generator) -> str:
        """Choose a grown-up pedestrian."""
        people = [
            each
            for each in self.session.world.get_blueprint_library().filter("walker.pedestrian.*")
            if attribute(each, "age") != "child"
        ]
        people.sort(key=lambda each: each.id)
        if not people:
            raise CannotTakePlaceError("expected pedestrians on the server, found none")
        return str(people[int(rng.integers(len(people)))].id)

    def spawn(self, blueprint_id: str, place: carla.Transform, *, moves: bool = True) -> int:
        """Bring an actor.

        Args:
            blueprint_id: what it is.
            place: where.
            moves: whether forces move it; props stay.

        Returns:
            The actor's id.

        Raises:
            CannotTakePlaceError: the server does not have it, or something stands there.
            SimulatorTimeoutError: the server does not answer.
        """
        world = self.session.world
        try:
            blueprint = world.get_blueprint_library().find(blueprint_id)
        except IndexError:
            raise CannotTakePlaceError(f"expected the blueprint {blueprint_id!r} on the server, found none") from None
        if blueprint.has_attribute("is_invincible"):
            blueprint.set_attribute("is_invincible", "false")
        blueprint.set_attribute("role_name", SCENARIO_ROLE)
        if blueprint.has_attribute("color") and not attribute(blueprint, "special_type"):
            colours = blueprint.get_attribute("color").recommended_values
            blueprint.set_attribute("color", colours[len(self.brought) % len(colours)])
        with self.session.answers("spawn_actor"):
            actor = world.try_spawn_actor(blueprint, place)
        if actor is None:
            at = place.location
            raise CannotTakePlaceError(f"expected room for {blueprint_id} at ({at.x:.1f}, {at.y:.1f}), found none")
        self._known[int(actor.id)] = actor
        self.brought.append((blueprint_id, place.location.x, place.location.y))
        if not moves:
            self.hold(int(actor.id))
        return int(actor.id)

    def hold(self, actor_id: int) -> None:
        """Let no force move an actor."""
        self.still.add(actor_id)
        with self.session.answers("set_actor_simulate_physics"):
            self.actor(actor_id).set_simulate_physics(False)

    def park(self, blueprint_id: str, place: carla.Transform, lights: int = 0) -> int:
        """Bring a vehicle that stands with its handbrake on, and with lights of `carla.VehicleLightState`."""
        actor_id = self.spawn(blueprint_id, place)
        vehicle = self.actor(actor_id)
        vehicle.apply_control(carla.VehicleControl(hand_brake=True))
        if lights:
            vehicle.set_light_state(carla.VehicleLightState(lights))
        return actor_id

    def actor(self, actor_id: int) -> Any:
        """Return an actor as the `carla` client knows it.

        Raises:
            CannotTakePlaceError: it is gone.
        """
        if actor_id not in self._known:
            with self.session.answers("get_actors"):
                found = self.session.world.get_actor(actor_id)
            if found is None:
                raise CannotTakePlaceError(f"expected the scenario's actor {actor_id} in the world, found it gone")
            self._known[actor_id] = found
        return self._known[actor_id]

    def dismiss(self, actor_ids: Iterable[int]) -> None:
        """Destroy actors in one batch."""
        gone = list(actor_ids)
        for actor_id in gone:
            self._known.pop(actor_id, None)
            self.still.discard(actor_id)
        if gone:
            self.session.destroy(gone)


def beside(
    lane: Any, *, right_m: float = 0.0, ahead_m: float = 0.0, up_m: float = _DROP_M, turn_deg: float = 0.0
) -> carla.Transform:
    """Return a pose relative to a waypoint: metres to its right, ahead and up, and turned clockwise."""
    pose = lane.transform
    forward, right = pose.get_forward_vector(), pose.get_right_vector()
    place = carla.Location(
        pose.location.x + ahead_m * forward.x + right_m * right.x,
        pose.location.y + ahead_m * forward.y + right_m * right.y,
        pose.location.z + ahead_m * forward.z + right_m * right.z + up_m,
    )
    return carla.Transform(place, carla.Rotation(yaw=pose.rotation.yaw + turn_deg))


def lane_beside(lane: Any, side: Side) -> Any | None:
    """Return the next lane on a side, as the ego sees it; None at the edge."""
    return lane.get_right_lane() if side == "right" else lane.get_left_lane()


def oncoming_lane(lane: Any) -> Any | None:
    """Return the driving lane of the other direction that is nearest to the left, None on a one-way road."""
    here = lane
    while True:
        there = here.get_left_lane()
        if there is None:
            return None
        if there.lane_id * lane.lane_id < 0:
            return there if there.lane_type == carla.LaneType.Driving else None
        here = there


def edge_of_road(lane: Any, side: Side) -> tuple[Any, bool]:
    """Return the pavement on a side and True; without one the outermost lane and False."""
    here, turned = lane, False
    while here.lane_type != carla.LaneType.Sidewalk:
        # Past the middle of the road the lanes look the other way, and outwards is their right.
        outwards: Side = "right" if turned or side == "right" else "left"
        there = lane_beside(here, outwards)
        if there is None:
            return here, False
        turned = turned or there.lane_id * here.lane_id < 0
        here = there
    return here, True


def lane_line(lane: Any, length_m: float, *, backward: bool = False, through: bool = False) -> NDArray[np.float64]:
    """Return the line of a lane from a waypoint on, straight on where it forks: float64 (k, 2), 2 m apart.

    Args:
        lane: where it begins, or ends with `backward`.
        length_m: at most so long.
        backward: against the lane's direction; the line is still in driving order.
        through: go on through junctions.
    """
    here, places = lane, [lane.transform.location]
    while 2.0 * (len(places) - 1) < length_m:
        others = here.previous(2.0) if backward else here.next(2.0)
        if not others:
            break
        yaw_deg = here.transform.rotation.yaw
        there = min(others, key=lambda each: abs(between_deg(each.transform.rotation.yaw, yaw_deg)))
        if there.is_junction and not (through or here.is_junction):
            break
        here = there
        places.append(here.transform.location)
    line = np.array([(place.x, place.y) for place in places], dtype=np.float64)
    return line[::-1].copy() if backward else line


def attribute(blueprint: Any, name: str) -> str:
    """Return an attribute of a blueprint as it is written, "" without it."""
    return str(blueprint.get_attribute(name).as_str()) if blueprint.has_attribute(name) else ""


def between_deg(a_deg: float, b_deg: float) -> float:
    """Return a - b as an angle between -180 and 180."""
    return (a_deg - b_deg + 180.0) % 360.0 - 180.0
