"""The other road users of an episode: vehicles of the Traffic Manager, pedestrians with AI controllers, parked cars.

They are spawned in a few batches and destroyed in one. All choices come from the generator that is passed in; the
Traffic Manager and the pedestrians get seeds from it. Lists of blueprints and places are sorted first, because the
client promises no order.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import carla
import numpy as np

from zmqcarla.workers.config import CarlaEnvConfig
from zmqcarla.workers.session import Session

BACKGROUND_ROLE: Final = "background"
_FREE_AROUND_EGO_M: Final = 12.0
_PARKING_WIDTH_M: Final = 1.8
_PARKED_SPACING_M: Final = 8.0
_SEED_END: Final = 2**31 - 1
_WALK_MPS: Final = (1.0, 1.8)


@dataclass(frozen=True, slots=True)
class TrafficCounts:
    """How much of each an episode wants."""

    vehicles: int
    walkers: int
    parked: int

    @classmethod
    def of(cls, config: CarlaEnvConfig, difficulty: float) -> TrafficCounts:
        """Return the share `difficulty` of what the settings say; parked vehicles are part of the scene and stay."""
        vehicles, walkers = (round(difficulty * n) for n in (config.traffic_vehicles, config.traffic_walkers))
        return cls(vehicles, walkers, config.parked_vehicles)


class Traffic:
    """Owns the other road users of one episode.

    Attributes:
        counts: how many there really are.
    """

    def __init__(self, session: Session, config: CarlaEnvConfig, wanted: TrafficCounts) -> None:
        self._session = session
        self._config = config
        self._wanted = wanted
        self._vehicles: list[Any] = []
        self._parked: list[int] = []
        self._walkers: list[int] = []
        self._controllers: list[Any] = []
        self._targets_m: list[Any] = []
        self._walk_mps: list[float] = []
        self._manager_seed = 0
        self._unticked: list[Any] = []

    @property
    def counts(self) -> TrafficCounts:
        """How many were spawned."""
        return TrafficCounts(len(self._vehicles), len(self._walkers), len(self._parked))

    def spawn(self, rng: np.random.Generator, ego_m: carla.Location) -> None:
        """Spawn everything; `ego_m` is where room is left for the ego.

        Raises:
            SimulatorStartError: the Traffic Manager's port is taken.
            SimulatorTimeoutError: the server does not answer.
        """
        library = self._session.blueprints
        cars = sorted((each for each in library.filter("vehicle.*") if _has_four_wheels(each)), key=lambda b: b.id)
        if self._wanted.parked:
            self._park(rng, cars, ego_m)
        if self._wanted.vehicles:
            self._drive(rng, cars, ego_m)
        if self._wanted.walkers:
            self._walk(rng, sorted(library.filter("walker.pedestrian.*"), key=lambda b: b.id))

    def begin(self) -> None:
        """Send the pedestrians off; to be called after the first tick of their lives."""
        for controller, target, speed_mps in zip(self._controllers, self._targets_m, self._walk_mps, strict=True):
            controller.start()
            controller.go_to_location(target)
            controller.set_max_speed(speed_mps)

    def mean_speed_mps(self) -> float | None:
        """Return the mean speed of the driving vehicles as of the last tick, None without any."""
        self._unticked = []
        if not self._vehicles:
            return None
        return float(np.mean([vehicle.get_velocity().length() for vehicle in self._vehicles]))

    def get_state(self) -> dict[str, Any]:
        """Return whom it owns, by ids, and what it has told them."""
        walks = [
            [int(controller.parent.id), [target.x, target.y, target.z], speed_mps]
            for controller, target, speed_mps in zip(self._controllers, self._targets_m, self._walk_mps, strict=True)
        ]
        return {
            "vehicles": [int(vehicle.id) for vehicle in self._vehicles],
            "parked": list(self._parked),
            "walkers": list(self._walkers),
            "walks": walks,
            "manager_seed": self._manager_seed,
        }

    def release_walkers(self) -> None:
        """Take the pedestrians' controllers away, so that they can be placed."""
        for controller in self._controllers:
            controller.stop()
        self._session.destroy([int(controller.id) for controller in self._controllers])
        self._controllers = []

    def set_state(self, state: Mapping[str, Any], born: Collection[int]) -> None:
        """Own the actors of a state. Once they are where they are to be, `begin` sends the pedestrians off again.

        Args:
            state: from `get_state`, with the ids of this world.
            born: ids of those that are new to the Traffic Manager.
        """
        self._parked, self._walkers = list(state["parked"]), list(state["walkers"])
        self._vehicles = self._actors(state["vehicles"])
        new = [vehicle for vehicle in self._vehicles if int(vehicle.id) in born]
        if new:
            manager = self._session.traffic_manager(self._config.traffic_manager_port)
            self._manager_seed = int(state["manager_seed"])
            self._set_manager(manager)
            command: Any = carla.command
            self._session.batch([command.SetAutopilot(vehicle, True, manager.get_port()) for vehicle in new])
            for vehicle in new:
                manager.ignore_lights_percentage(vehicle, self._config.traffic_ignores_lights_percent)
            self._unticked = new
        leader = self._session.blueprints.find("controller.ai.walker")
        leaders = self._session.batch(
            [carla.command.SpawnActor(leader, carla.Transform(), actor_id) for actor_id, _, _ in state["walks"]]
        )
        led = [walk for walk, leader_id in zip(state["walks"], leaders, strict=True) if leader_id is not None]
        self._targets_m = [carla.Location(*target) for _, target, _ in led]
        self._walk_mps = [speed_mps for _, _, speed_mps in led]
        self._controllers = self._actors(leaders)

    def stop(self) -> list[int]:
        """Stop the pedestrians' controllers and return the ids of all actors, for the batch that destroys them."""
        if not self._session.lost:
            for controller in self._controllers:
                controller.stop()
            if self._unticked:
                # With its first step a manager touches whom it has not driven yet, also at its end, and one who is
                # gone by then takes the process along.
                port = self._session.traffic_manager(self._config.traffic_manager_port).get_port()
                command: Any = carla.command
                self._session.batch([command.SetAutopilot(vehicle, False, port) for vehicle in self._unticked])
                self._unticked = []
        actor_ids = [int(actor.id) for actor in (*self._controllers, *self._vehicles)] + self._walkers + self._parked
        self._controllers, self._vehicles, self._walkers, self._parked = [], [], [], []
        return actor_ids

    def _drive(self, rng: np.random.Generator, cars: Sequence[Any], ego_m: carla.Location) -> None:
        manager = self._session.traffic_manager(self._config.traffic_manager_port)
        # The manager notices with a tick that the last episode's vehicles are gone; until then new ones avoid them.
        self._session.tick()
        self._manager_seed = int(rng.integers(_SEED_END))
        self._set_manager(manager)
        places = [
            each for each in self._session.map.get_spawn_points() if each.location.distance(ego_m) > _FREE_AROUND_EGO_M
        ]
        chosen = [places[int(k)] for k in rng.permutation(len(places))[: self._wanted.vehicles]]
        spawned = self._session.batch([carla.command.SpawnActor(_dressed(cars, rng), place) for place in chosen])
        self._vehicles = self._actors(spawned)
        # In a batch of its own: for one that is spawned with it, the client asks the server who each of them is.
        autopilot: Any = carla.command.SetAutopilot
        self._session.batch([autopilot(vehicle, True, manager.get_port()) for vehicle in self._vehicles])
        for vehicle in self._vehicles:
            manager.ignore_lights_percentage(vehicle, self._config.traffic_ignores_lights_percent)

    def _set_manager(self, manager: Any) -> None:
        manager.set_random_device_seed(self._manager_seed)
        manager.global_percentage_speed_difference(100.0 - self._config.traffic_speed_percent)
        manager.set_global_distance_to_leading_vehicle(self._config.traffic_gap_m)

    def _park(self, rng: np.random.Generator, cars: Sequence[Any], ego_m: carla.Location) -> None:
        places = [place for place in _parking_places(self._session) if place.location.distance(ego_m) > 6.0]
        chosen = [places[int(k)] for k in rng.permutation(len(places))[: self._wanted.parked]]
        spawned = self._session.batch([carla.command.SpawnActor(_dressed(cars, rng), place) for place in chosen])
        self._parked = [actor_id for actor_id in spawned if actor_id is not None]

    def _walk(self, rng: np.random.Generator, people: Sequence[Any]) -> None:
        world = self._session.world
        world.set_pedestrians_seed(int(rng.integers(_SEED_END)))
        with self._session.answers("get_random_location_from_navigation"):
            places = [world.get_random_location_from_navigation() for _ in range(2 * self._wanted.walkers)]
        starts, targets = places[: self._wanted.walkers], places[self._wanted.walkers :]
        pairs = [(a, b) for a, b in zip(starts, targets, strict=True) if a is not None and b is not None]
        spawned = self._session.batch(
            [carla.command.SpawnActor(_person(people, rng), carla.Transform(start)) for start, _ in pairs]
        )
        walking = [(actor_id, target) for actor_id, (_, target) in zip(spawned, pairs, strict=True) if actor_id]
        leader = self._session.blueprints.find("controller.ai.walker")
        leaders = self._session.batch(
            [carla.command.SpawnActor(leader, carla.Transform(), actor_id) for actor_id, _ in walking]
        )
        self._walkers = [actor_id for actor_id, _ in walking]
        self._controllers = self._actors(leaders)
        self._targets_m = [target for (_, target), led in zip(walking, leaders, strict=True) if led is not None]
        self._walk_mps = [float(rng.uniform(*_WALK_MPS)) for _ in self._controllers]

    def _actors(self, actor_ids: Sequence[int | None]) -> list[Any]:
        """Return the actors of the ids that are there, in their order; one round trip."""
        wanted = [actor_id for actor_id in actor_ids if actor_id is not None]
        with self._session.answers("get_actors"):
            found: Mapping[int, Any] = {int(actor.id): actor for actor in self._session.world.get_actors(wanted)}
        return [found[actor_id] for actor_id in wanted if actor_id in found]


def _has_four_wheels(blueprint: Any) -> bool:
    return blueprint.has_attribute("number_of_wheels") and int(blueprint.get_attribute("number_of_wheels")) == 4


def _dressed(cars: Sequence[Any], rng: np.random.Generator) -> Any:
    """Return a vehicle in one of its colours."""
    blueprint = cars[int(rng.integers(len(cars)))]
    if blueprint.has_attribute("color"):
        colours = blueprint.get_attribute("color").recommended_values
        blueprint.set_attribute("color", colours[int(rng.integers(len(colours)))])
    blueprint.set_attribute("role_name", BACKGROUND_ROLE)
    return blueprint


def _person(people: Sequence[Any], rng: np.random.Generator) -> Any:
    """Return a pedestrian who can be hurt."""
    blueprint = people[int(rng.integers(len(people)))]
    if blueprint.has_attribute("is_invincible"):
        blueprint.set_attribute("is_invincible", "false")
    return blueprint


def _parking_places(session: Session) -> list[carla.Transform]:
    """Return places on parking lanes, or on shoulders wide enough for a car, some metres apart."""
    places: list[carla.Transform] = []
    for x, y, z in session.graph.xyz_m[session.graph.junction < 0]:
        waypoint: Any = session.map.get_waypoint(carla.Location(x, y, z))
        while waypoint is not None and waypoint.lane_type == carla.LaneType.Driving:
            waypoint = waypoint.get_right_lane()
        if waypoint is None or waypoint.lane_type not in (carla.LaneType.Parking, carla.LaneType.Shoulder):
            continue
        if waypoint.lane_width < _PARKING_WIDTH_M:
            continue
        place = waypoint.transform
        place.location.z += 0.3
        if all(place.location.distance(other.location) > _PARKED_SPACING_M for other in places):
            places.append(place)
    return places
