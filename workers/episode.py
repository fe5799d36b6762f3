"""One episode: an ego vehicle with its sensors on one route, from spawning to destruction.

What is random (spawn point, goal, weather) is drawn from the generator that is passed in, always in the same order.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import carla
import numpy as np
from numpy.typing import NDArray

from zmqcarla.broker.errors import SimulatorError, SimulatorTimeoutError
from zmqcarla.workers.config import CarlaEnvConfig
from zmqcarla.workers.criteria.base import NOTHING_STAGED, Hit, Kind, Tick
from zmqcarla.workers.criteria.collisions import Collisions
from zmqcarla.workers.criteria.lanes import OutsideLanes
from zmqcarla.workers.criteria.progress import MinimumSpeed, RouteDeviation, RouteTimeout, VehicleBlocked
from zmqcarla.workers.criteria.signs import RedLights, StopSigns
from zmqcarla.workers.criteria.staged import ScenarioTimeouts, YieldToEmergency
from zmqcarla.workers.ego import EgoState, read_ego
from zmqcarla.workers.events import StepEvents, lane_invaded
from zmqcarla.workers.navigation import Route, RouteState, RouteTracker, plan_route, random_route, route_through
from zmqcarla.workers.presets import chase_view
from zmqcarla.workers.routes import RouteSpec
from zmqcarla.workers.scenarios.base import Control
from zmqcarla.workers.scenarios.programme import Programme
from zmqcarla.workers.scenarios.stage import Stage
from zmqcarla.workers.score import Score
from zmqcarla.workers.sensor_specs import parse_sensors
from zmqcarla.workers.sensors import Readings, SensorRig
from zmqcarla.workers.session import Session
from zmqcarla.workers.traffic import Traffic, TrafficCounts

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

OPTIONS = frozenset({"spawn_point", "goal", "route_length_m", "route", "difficulty"})

# A car is spawned a little above the road and needs some ticks to stand on it.
_SETTLE_TICKS = 8
_SPAWN_HEIGHT_M = 0.5
FILE_WEATHER = "route file"
"""`Scene.weather` of a route from a file, whose weather may change on the way."""


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
    """What was chosen for an episode.

    Attributes:
        spawn_point: index of the map's spawn point, -1 for a route from a file.
        weather: name of a preset, or `FILE_WEATHER`.
        route: the line to drive.
        spec: the route of the file, None for a random one.
    """

    spawn_point: int
    weather: str
    route: Route
    spec: RouteSpec | None = None


class Episode:
    """Owns the actors of one episode.

    Attributes:
        scene: spawn point, weather and route.
        ticks: simulator ticks since the first moment.
        vehicle: the ego as the `carla` client knows it.
        sensors: of the ego; None after the end.
        traffic: the other road users.
        told: of an episode that was taken up again in another world: the ids that actors had when it began, by those
            that they have now. Reports go on with the old ones.
        programme: the scenarios of the route file; None before the first moment, and where somebody else stages them.
        score: what is counted against the driver.
        failed: whether what drives has given up, where that is not the caller.
        broken: the traceback of an error in scenarios of others, which cuts the episode; "" for none.
        save_name: of the route, which Bench2Drive's agents are told; None where it is none of theirs.
        ticked_ns: when the last tick before the newest moment was done, of the monotonic clock.
        read_ns: when its sensors had been read.
    """

    programme: Programme | None = None
    save_name: str | None = None
    failed = False
    broken = ""
    ticked_ns = read_ns = 0

    def __init__(
        self,
        session: Session,
        config: CarlaEnvConfig,
        rng: np.random.Generator,
        options: Mapping[str, Any],
        spec: RouteSpec | None = None,
        resumed: tuple[Scene, carla.Transform] | None = None,
    ) -> None:
        """Choose the scene and spawn the ego.

        Args:
            session: the server.
            config: settings of the env.
            rng: draws spawn point, weather and goal.
            options: "spawn_point" (index), "goal" (index of a spawn point, or x, y, z in metres) and "route_length_m"
                replace the random choice; "difficulty" the config's; "route" is the caller's.
            spec: a route from a file, in the session's town; None makes a random one.
            resumed: scene of an earlier episode, and a free place for the ego; nothing is drawn, there is no traffic
                yet, and `set_state` is to follow in place of `begin`.

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
        self.told: dict[int, int] = {}
        self._told_frames = 0
        self._weather_percent = 0
        difficulty = float(options.get("difficulty", config.difficulty))
        if not 0.0 <= difficulty <= 1.0:
            raise ValueError(f"options['difficulty']: expected a number between 0 and 1, found {difficulty:g}")
        self.traffic = Traffic(session, config, TrafficCounts.of(config, difficulty))
        try:
            if resumed is not None:
                self.scene, place = resumed
                self._spawn([place])
            else:
                self.scene = self._choose_scene(rng, options) if spec is None else self._scene_of(spec)
                self.traffic.spawn(rng, self._start)
            self._scenario_seed = int(rng.integers(2**31)) if spec is not None and spec.scenarios else 0
            self._start_sensors()
        except BaseException:
            self.end()
            raise

    def begin(self) -> Moment:
        """Let the vehicle settle on the road and return the first moment."""
        self.vehicle.apply_control(carla.VehicleControl(brake=1.0))
        frame = 0
        for k in range(_SETTLE_TICKS):
            frame = self._session.tick()
            if k == 0:
                self.traffic.begin()
        self._ego = self._read_ego()
        x_m, y_m, _ = self._ego.position_m
        self._tracker = RouteTracker(self.scene.route, x_m, y_m)
        self.programme = self._new_programme(self._scenario_seed)
        self.score = self._new_score()
        moment = self._look(frame, [])
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
        assert self.programme is not None
        wanted = float(action[0]), float(action[1]), float(action[2])
        applied = None
        frame = int(self._session.world.get_snapshot().frame)
        ticks: list[Tick] = []
        for _ in range(self._config.frame_skip):
            # Before the tick: what is sent after it cannot be read from the world, and a snapshot would lack it.
            staged = self.programme.step(self._read_tick(frame)) if self.programme.going else NOTHING_STAGED
            control = self.programme.disturb(wanted)
            if control != applied:
                applied = control
                self._apply(control)
            frame = self._session.tick()
            self.ticks += 1
            self._ego = self._read_ego()
            ticks.append(replace(self._read_tick(frame), staged=staged))
        self.score.skipped = self.programme.skipped
        moment = self._look(frame, ticks)
        self._change_weather(moment.route.completion_percent)
        return moment

    def sensors_read(self, frame: int) -> None:
        """Take in what the sensors measured at a frame that is no step's, and forget it."""
        assert self.sensors is not None
        self.sensors.read(frame, self._config.timeout)

    def end(self) -> None:
        """Stop the sensors and destroy the actors; a second call does nothing."""
        actor_ids: list[int] = []
        if self.sensors is not None:
            actor_ids += self.sensors.actor_ids
            self.sensors.stop()
        actor_ids += self.traffic.stop()
        if self.programme is not None:
            actor_ids += self.programme.stop()
        if self.vehicle is not None:
            actor_ids.append(int(self.vehicle.id))
        self.sensors = self.vehicle = None
        if actor_ids:
            with contextlib.suppress(SimulatorTimeoutError):
                self._session.destroy(actor_ids)

    def get_state(self, moment: Moment) -> dict[str, Any]:
        """Return what it knows at its newest moment, for `set_state`; ids and frames are those that it tells of."""
        told = self.told
        traffic = self.traffic.get_state()
        for name in ("vehicles", "parked", "walkers"):
            traffic[name] = [told.get(each, each) for each in traffic[name]]
        traffic["walks"] = [[told.get(each, each), *rest] for each, *rest in traffic["walks"]]
        assert self.programme is not None
        programme = self.programme.get_state()
        for scenario in programme["scenarios"]:
            scenario["actors"] = {part: told.get(each, each) for part, each in scenario["actors"].items()}
        return {
            "ego_id": told.get(int(self.vehicle.id), int(self.vehicle.id)),
            "frame": int(self._session.world.get_snapshot().frame) + self._told_frames,
            "ticks": self.ticks,
            "weather_percent": self._weather_percent,
            "tracker": self._tracker.get_state(),
            "score": self.score.get_state(),
            "traffic": traffic,
            "programme": programme,
            "ego": moment.ego,
            "route": moment.route,
            "events": moment.events,
            "collided_with": moment.collided_with,
        }

    def set_state(self, state: Mapping[str, Any], told: dict[int, int], frame: int) -> Moment:
        """Go on from a state of an episode with the same scene, whose actors stand where they should.

        Args:
            state: from `get_state`.
            told: see the attribute.
            frame: of this world, which shows that state.

        Returns:
            The moment, without readings.
        """
        assert self.sensors is not None
        self.told = told
        self._told_frames = int(state["frame"]) - frame
        self.ticks = int(state["ticks"])
        self._weather_percent = int(state["weather_percent"])
        self._ego = state["ego"]
        self._tracker = RouteTracker(self.scene.route, *self._ego.position_m[:2])
        self._tracker.set_state(state["tracker"])
        self.programme = self._new_programme(int(state["programme"]["seed"]))
        self.programme.set_state(state["programme"], {was: now for now, was in told.items()})
        self.score = self._new_score()
        self.score.set_state(state["score"])
        self.sensors.resume()
        return Moment({}, state["ego"], state["route"], state["events"], str(state["collided_with"]))

    def _apply(self, control: Control) -> None:
        steer, throttle, brake = control
        self.vehicle.apply_control(
            carla.VehicleControl(throttle=abs(throttle), steer=steer, brake=brake, reverse=throttle < 0.0)
        )

    def _read_ego(self) -> EgoState:
        # The client answers for a vehicle that is gone with zeros, and calls it alive.
        if not self._session.world.get_snapshot().has_actor(self.vehicle.id):
            raise SimulatorError(
                "expected the ego vehicle in the world, found it destroyed by another client or a change of the map; "
                "let one client own the server, and call reset()"
            )
        return read_ego(self.vehicle)

    def _read_tick(self, frame: int) -> Tick:
        ego = self._ego
        s_m, offset_m = self._tracker.follow(*ego.position_m[:2])
        return Tick(
            frame=frame + self._told_frames,
            time_s=self.ticks * self._config.delta_s,
            position_m=ego.position_m,
            yaw_deg=ego.rotation_deg[2],
            speed_mps=ego.speed_mps,
            forward_mps=ego.velocity_mps[0],
            speed_limit_mps=ego.speed_limit_mps,
            s_m=s_m,
            offset_m=offset_m,
            red_lights=self._told_ids(self._session.surroundings.red_lights(ego.position_m)),
            traffic_mps=self.traffic.mean_speed_mps(),
        )

    def _told_ids(self, ids: frozenset[int]) -> frozenset[int]:
        return frozenset(self.told.get(each, each) for each in ids) if self.told else ids

    def _new_programme(self, seed: int) -> Programme:
        specs = () if self.scene.spec is None else self.scene.spec.scenarios
        return Programme(Stage(self._session, self.scene.route, self._config.delta_s), specs, seed)

    def _new_score(self) -> Score:
        carla_map, surroundings = self._session.map, self._session.surroundings
        lights = [replace(each, light_id=self.told.get(each.light_id, each.light_id)) for each in surroundings.lights]
        signs = [replace(each, sign_id=self.told.get(each.sign_id, each.sign_id)) for each in surroundings.signs]
        start_s_m, length_m = self._tracker.start_s_m, self.scene.route.length_m
        criteria = [
            Collisions(),
            RedLights(carla_map, lights, self._half_length_m),
            StopSigns(carla_map, signs),
            OutsideLanes(carla_map, start_s_m),
            MinimumSpeed(length_m),
            RouteDeviation(self._config.off_route_m, length_m),
            VehicleBlocked(self._config.blocked_s),
            RouteTimeout(start_s_m),
            ScenarioTimeouts(),
            YieldToEmergency(),
        ]
        assert self.programme is not None
        return Score(criteria, self.programme.skipped)

    def _change_weather(self, completion_percent: float) -> None:
        spec = self.scene.spec
        percent = int(completion_percent)
        if spec is None or len(spec.weathers) < 2 or percent == self._weather_percent:
            return
        self._weather_percent = percent
        self._session.world.set_weather(carla.WeatherParameters(**spec.weather_at(percent)))

    def _look(self, frame: int, ticks: Sequence[Tick]) -> Moment:
        assert self.sensors is not None
        self.ticked_ns = time.monotonic_ns()
        x_m, y_m, _ = self._ego.position_m
        # While the server still renders.
        route = self._tracker.update(x_m, y_m, self._ego.rotation_deg[2])
        self.score.watch(ticks)
        readings, felt = self.sensors.read(frame, self._config.timeout)
        self.read_ns = time.monotonic_ns()
        hits = [
            Hit(hit.frame + self._told_frames, self.told.get(hit.actor_id, hit.actor_id), hit.actor_type)
            for hit in felt
        ]
        self.score.update(_with_hits(ticks, hits), route.completion_percent)
        events = StepEvents(
            collision=bool(hits),
            lane_invasion=lane_invaded(route, self._half_width_m),
            ran_red_light=Kind.RED_LIGHT in self.score.fresh,
        )
        return Moment(readings, self._ego, route, events, hits[0].actor_type if hits else "")

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
        spawn_point = order[self._spawn([places[k] for k in order])]
        return Scene(spawn_point, weather, self._route(places, spawn_point, rng, options))

    def _route(
        self, places: Sequence[Any], spawn_point: int, rng: np.random.Generator, options: Mapping[str, Any]
    ) -> Route:
        graph = self._session.graph
        start = graph.locate(*_xyz(places[spawn_point].location))
        goal = options.get("goal")
        if goal is None:
            min_length_m = float(options.get("route_length_m", self._config.route_length_m))
            return random_route(graph, start, self._session.spawn_lanes, min_length_m, rng)
        if isinstance(goal, (int, np.integer)):
            goal = places[_index("goal", goal, len(places))].location
        return plan_route(graph, start, graph.locate(*_xyz(goal)))

    def _scene_of(self, spec: RouteSpec) -> Scene:
        graph = self._session.graph
        route = route_through(graph, spec.keypoints_m)
        start = graph.locate(*spec.keypoints_m[0])
        x_m, y_m, z_m = graph.xyz_m[start]
        place = carla.Location(float(x_m), float(y_m), float(z_m) + _SPAWN_HEIGHT_M)
        self._session.world.set_weather(carla.WeatherParameters(**spec.weather_at(0.0)))
        self._spawn([carla.Transform(place, carla.Rotation(yaw=float(graph.yaw_deg[start])))])
        return Scene(-1, FILE_WEATHER, route, spec)

    def _spawn(self, places: Sequence[Any]) -> int:
        """Spawn the ego at the first of the places that is free and return its index."""
        world = self._session.world
        blueprint = self._session.blueprints.find(EGO_BLUEPRINT)
        blueprint.set_attribute("role_name", "hero")
        for index, place in enumerate(places):
            with self._session.answers("spawn_actor"):
                self.vehicle = world.try_spawn_actor(blueprint, place)
            if self.vehicle is not None:
                extent = self.vehicle.bounding_box.extent
                self._half_length_m, self._half_width_m = float(extent.x), float(extent.y)
                self._start = place.location
                return index
        raise SimulatorError(
            f"expected a free spawn point among {len(places)}, found all of them occupied; "
            "remove other vehicles or choose another spawn_point"
        )

    def _start_sensors(self) -> None:
        with self._session.answers("spawn_actor"):
            self.sensors = sensor_rig(self._session, self._config, self.vehicle)


def sensor_rig(session: Session, config: CarlaEnvConfig, vehicle: Any) -> SensorRig:
    """Spawn and start the sensors of the observation and, with a render mode, the view from behind."""
    specs = config.sensor_specs
    if config.render_mode is not None:
        (chase,) = parse_sensors([chase_view(*config.image_size)], config.delta_s, ())
        specs += (replace(chase, id=CHASE),)
    return SensorRig(session.world, session.blueprints, vehicle, specs)


def _with_hits(ticks: Sequence[Tick], hits: Sequence[Hit]) -> list[Tick]:
    """Give each tick the messages of its frame; what came between two steps counts with the first tick."""
    if not hits or not ticks:
        return list(ticks)
    frames = [tick.frame for tick in ticks]
    by_frame: dict[int, list[Hit]] = {}
    for hit in hits:
        by_frame.setdefault(hit.frame if hit.frame in frames else frames[0], []).append(hit)
    return [replace(tick, hits=tuple(by_frame.get(tick.frame, ()))) for tick in ticks]


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
