"""One episode: an ego vehicle with its sensors on one route, from spawning to destruction.

What is random (spawn point, goal, weather) is drawn from the generator that is passed in, always in the same order.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import carla
import numpy as np
from numpy.typing import NDArray

from zmqcarla.broker.errors import SimulatorError, SimulatorTimeoutError
from zmqcarla.workers.config import CarlaEnvConfig
from zmqcarla.workers.ego import EgoState, read_ego
from zmqcarla.workers.events import StepEvents, lane_invaded, red_light_run
from zmqcarla.workers.navigation import Route, RouteState, RouteTracker, plan_route, random_route
from zmqcarla.workers.presets import chase_view
from zmqcarla.workers.sensor_specs import parse_sensors
from zmqcarla.workers.sensors import Readings, SensorRig
from zmqcarla.workers.session import Session

EGO_BLUEPRINT = "vehicle.tesla.model3"
WEATHERS = (
    "ClearNoon",
    "CloudyNoon",
    "WetNoon",
    "WetCloudyNoon",
    "SoftRainNoon",
    "ClearSunset",
    "CloudySunset",
    "WetSunset",
)
CHASE = ""
"""Key of the view from behind among the readings; no sensor of the observation can have it."""

OPTIONS = frozenset({"spawn_point", "goal", "route_length_m"})

# A car is spawned a little above the road and needs some ticks to stand on it.
_SETTLE_TICKS = 8


@dataclass(frozen=True, slots=True, eq=False)
class Moment:
    """All that is known after a reset or a step.

    Attributes:
        readings: what the sensors measured, by their ids; `CHASE` is there with a render mode.
        ego: the vehicle.
        route: its place on the route.
        events: infractions since the last moment.
        collided_with: actor type of the first thing hit since the last moment, "" for none.
    """

    readings: Readings
    ego: EgoState
    route: RouteState
    events: StepEvents
    collided_with: str


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """What was chosen for an episode."""

    spawn_point: int
    weather: str
    route: Route


class Episode:
    """Owns the actors of one episode.

    Attributes:
        scene: spawn point, weather and route.
        ticks: simulator ticks since the first moment.
        vehicle: the ego as the `carla` client knows it.
        sensors: of the ego; None after the end.
    """

    def __init__(
        self, session: Session, config: CarlaEnvConfig, rng: np.random.Generator, options: Mapping[str, Any]
    ) -> None:
        """Choose the scene and spawn the ego.

        Args:
            session: the server.
            config: settings of the env.
            rng: draws spawn point, weather and goal.
            options: "spawn_point" (index), "goal" (index of a spawn point, or x, y, z in metres) and "route_length_m"
                replace the random choice.

        Raises:
            ValueError: an option is unknown or cannot be met.
            SimulatorError: the vehicle cannot be spawned.
        """
        unknown = sorted(set(options) - OPTIONS)
        if unknown:
            raise ValueError(f"options: expected only {sorted(OPTIONS)}, found {unknown}")
        self._session = session
        self._config = config
        self.vehicle: Any = None
        self.sensors: SensorRig | None = None
        self.ticks = 0
        try:
            self.scene = self._choose_scene(rng, options)
            self._start_sensors()
        except BaseException:
            self.end()
            raise

    def begin(self) -> Moment:
        """Let the vehicle settle on the road and return the first moment."""
        self.vehicle.apply_control(carla.VehicleControl(brake=1.0))
        frame = 0
        for _ in range(_SETTLE_TICKS):
            frame = self._session.tick()
        self._ego = self._read_ego()
        x_m, y_m, _ = self._ego.position_m
        self._tracker = RouteTracker(self.scene.route, x_m, y_m)
        moment = self._look(frame, ran_red_light=False)
        # Touching the ground for the first time is no collision.
        return replace(moment, events=StepEvents(), collided_with="")

    def step(self, action: NDArray[np.float32]) -> Moment:
        """Drive one step of `frame_skip` ticks.

        Args:
            action: float32 (3,), steer, throttle, brake within their bounds; negative throttle drives in reverse.

        Raises:
            SimulatorError: somebody destroyed the vehicle.
            SimulatorTimeoutError: the server does not answer.
        """
        steer, throttle, brake = (float(value) for value in action)
        self.vehicle.apply_control(
            carla.VehicleControl(throttle=abs(throttle), steer=steer, brake=brake, reverse=throttle < 0.0)
        )
        ran_red_light, frame = False, 0
        for _ in range(self._config.frame_skip):
            frame = self._session.tick()
            self.ticks += 1
            before, self._ego = self._ego, self._read_ego()
            ran_red_light = ran_red_light or red_light_run(before, self._ego)
        return self._look(frame, ran_red_light)

    def end(self) -> None:
        """Stop the sensors and destroy the actors; a second call does nothing."""
        actor_ids: list[int] = []
        if self.sensors is not None:
            actor_ids += self.sensors.actor_ids
            self.sensors.stop()
        if self.vehicle is not None:
            actor_ids.append(int(self.vehicle.id))
        self.sensors = self.vehicle = None
        if actor_ids:
            with contextlib.suppress(SimulatorTimeoutError):
                self._session.destroy(actor_ids)

    def _read_ego(self) -> EgoState:
        # The client answers for a vehicle that is gone with zeros, and calls it alive.
        if not self._session.world.get_snapshot().has_actor(self.vehicle.id):
            raise SimulatorError(
                "expected the ego vehicle in the world, found it destroyed by another client or a change of the map; "
                "let one client own the server, and call reset()"
            )
        return read_ego(self.vehicle)

    def _look(self, frame: int, ran_red_light: bool) -> Moment:
        assert self.sensors is not None
        x_m, y_m, _ = self._ego.position_m
        # While the server still renders.
        route = self._tracker.update(x_m, y_m, self._ego.rotation_deg[2])
        readings, hits = self.sensors.read(frame, self._config.timeout)
        events = StepEvents(
            collision=bool(hits),
            lane_invasion=lane_invaded(route, self._half_width_m),
            ran_red_light=ran_red_light,
        )
        return Moment(readings, self._ego, route, events, hits[0] if hits else "")

    def _choose_scene(self, rng: np.random.Generator, options: Mapping[str, Any]) -> Scene:
        places: Sequence[Any] = self._session.map.get_spawn_points()
        if not places:
            raise SimulatorError("expected a map with spawn points, found none; use another map")
        weather = WEATHERS[int(rng.integers(len(WEATHERS)))]
        order = [int(k) for k in rng.permutation(len(places))]
        wanted = options.get("spawn_point")
        if wanted is not None:
            order = [_index("spawn_point", wanted, len(places))]
        self._session.world.set_weather(getattr(carla.WeatherParameters, weather))
        spawn_point = self._spawn(places, order)
        return Scene(spawn_point, weather, self._route(places, spawn_point, rng, options))

    def _route(
        self, places: Sequence[Any], spawn_point: int, rng: np.random.Generator, options: Mapping[str, Any]
    ) -> Route:
        graph = self._session.graph
        start = graph.locate(*_xyz(places[spawn_point].location))
        goal = options.get("goal")
        if goal is None:
            goals = [graph.locate(*_xyz(place.location)) for place in places]
            min_length_m = float(options.get("route_length_m", self._config.route_length_m))
            return random_route(graph, start, goals, min_length_m, rng)
        if isinstance(goal, (int, np.integer)):
            goal = places[_index("goal", goal, len(places))].location
        return plan_route(graph, start, graph.locate(*_xyz(goal)))

    def _spawn(self, places: Sequence[Any], order: Sequence[int]) -> int:
        """Spawn the ego at the first place of `order` that is free and return its index."""
        world = self._session.world
        blueprint = world.get_blueprint_library().find(EGO_BLUEPRINT)
        blueprint.set_attribute("role_name", "hero")
        for index in order:
            with self._session.answers("spawn_actor"):
                self.vehicle = world.try_spawn_actor(blueprint, places[index])
            if self.vehicle is not None:
                self._half_width_m = float(self.vehicle.bounding_box.extent.y)
                return index
        raise SimulatorError(
            f"expected a free spawn point among {len(order)}, found all of them occupied; "
            "remove other vehicles or choose another spawn_point"
        )

    def _start_sensors(self) -> None:
        with self._session.answers("spawn_actor"):
            specs = self._config.sensor_specs
            if self._config.render_mode is not None:
                (chase,) = parse_sensors([chase_view(*self._config.image_size)], self._config.delta_s, ())
                specs += (replace(chase, id=CHASE),)
            self.sensors = SensorRig(self._session.world, self.vehicle, specs)


def _index(name: str, value: Any, count: int) -> int:
    if not isinstance(value, (int, np.integer)) or not 0 <= value < count:
        raise ValueError(f"options[{name!r}]: expected the index of one of {count} spawn points, found {value!r}")
    return int(value)


def _xyz(place: Any) -> tuple[float, float, float]:
    """Return x, y, z of a `carla.Location` or of a sequence of two or three numbers."""
    if isinstance(place, carla.Location):
        return place.x, place.y, place.z
    try:
        x, y, z = [*(float(value) for value in place), 0.0][:3]
    except (TypeError, ValueError):
        raise ValueError(
            f"options['goal']: expected the index of a spawn point or (x, y, z) in metres, found {place!r}"
        ) from None
    return x, y, z
