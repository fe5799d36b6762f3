"""One episode of a route scenario that the user's checkout of the Leaderboard builds, ticks and judges.

The order of a tick is that of the Leaderboard's scenario manager: the world ticks, its data provider reads the world,
the agent is asked, its control is applied, and then the scenario's behaviour tree runs once. An env ends its step where
the agent would be asked. So what the tree finds wrong with a tick is told with the next step.

The world is loaded anew for each episode, as the Leaderboard does it.
"""

from __future__ import annotations

import contextlib
import gc
import inspect
import random
import time
import traceback
from dataclasses import replace
from typing import Any, Final

import carla
import numpy as np
from numpy.typing import NDArray

from zmqcarla.broker.errors import SimulatorError, SimulatorTimeoutError
from zmqcarla.workers.config import CarlaEnvConfig
from zmqcarla.workers.criteria.base import Kind, Tick
from zmqcarla.workers.ego import EgoState, read_ego
from zmqcarla.workers.episode import FILE_WEATHER, Episode, Moment, Scene, sensor_rig
from zmqcarla.workers.events import StepEvents, lane_invaded
from zmqcarla.workers.leaderboard.checkout import Checkout
from zmqcarla.workers.leaderboard.hosted_agent import AgentCode, HostedAgent
from zmqcarla.workers.leaderboard.lockstep import Lockstep, LockstepWorld
from zmqcarla.workers.leaderboard.official_score import OfficialScore
from zmqcarla.workers.navigation import Route, RouteTracker
from zmqcarla.workers.routes import RouteSpec
from zmqcarla.workers.scenarios.programme import Programme
from zmqcarla.workers.scenarios.stage import Stage
from zmqcarla.workers.session import Session
from zmqcarla.workers.traffic import Traffic, TrafficCounts

_SENSOR_TICKS: Final = 10
"""How often the Leaderboard ticks between starting the agent's sensors and the first step."""
_BENCH2DRIVE_TICKS: Final = 4000
"""After so many, Bench2Drive's evaluator ends a route with the word below; `max_steps` does so here."""
_BENCH2DRIVE_WORD: Final = "TickRuntime"
_BROKEN_WORD: Final = "Simulation crashed"
"""What the evaluators say of a route on which the scenarios' own code raised."""
_BUILD_TICKS: Final = 20
"""How many ticks pass between two buildings of the scenarios near the ego: a second, which the Leaderboard sleeps."""


class OfficialEpisode(Episode):
    """Owns a route scenario of the user's checkout; an `Episode` in what it offers, and not in how it is made.

    Attributes:
        scene: weather and route.
        ticks: of the simulator since the first moment.
        vehicle: the ego as the `carla` client knows it.
        sensors: of the ego; None after the end.
        traffic: none of ours; the scenarios bring theirs.
        score: of the checkout's own statistics.
        agent: what drives, None where the caller does.
        control: float32 (3,), the last one applied in the form of an action; zeros before the first.
    """

    def __init__(
        self,
        session: Session,
        config: CarlaEnvConfig,
        checkout: Checkout,
        spec: RouteSpec,
        traffic_manager_seed: int,
        rng: np.random.Generator,
        agent: AgentCode | None = None,
    ) -> None:
        """Load the world and build the route scenario.

        Args:
            session: the server.
            config: settings of the env.
            checkout: whose scenarios run.
            spec: the route as our own reader has it.
            traffic_manager_seed: as the Leaderboard's option of this name.
            rng: seeds the generators of the modules `random` and `numpy.random`, from which the scenarios draw.
            agent: what drives in the caller's place.

        Raises:
            SimulatorError: the server does not answer, or lacks the town.
            Exception: what the checkout's code raises.
        """
        assert config.routes is not None
        self._session = session
        self._config = config
        self._checkout = checkout
        self.traffic = Traffic(session, config, TrafficCounts(0, 0, 0))
        self.ticks = 0
        self.told = {}
        self.vehicle: Any = None
        self.sensors: Any = None
        self._world: LockstepWorld | None = None
        self._scenario: Any = None
        self._lockstep = Lockstep(config.timeout)
        self._ended = False
        self._judged_ticks = 0
        self.agent: HostedAgent | None = None
        self.control = np.zeros(3, np.float32)
        try:
            names = _names(spec)
            self.score: OfficialScore = OfficialScore(checkout, names)
            # Bench2Drive's evaluator appends it to the agent's configuration; the Leaderboard's appends nothing.
            self.save_name = names["save_name"] if self._is_bench2drive else None
            random.seed(int(rng.integers(2**32)))
            np.random.seed(int(rng.integers(2**32)))
            self._prepare_world(spec.town, traffic_manager_seed)
            (route_config,) = checkout.parse_routes_file(config.routes, spec.route_id)
            route_config.index = 0
            with session.answers("the building of the route scenario"):
                self._scenario = checkout.route_scenario(world=self._world, config=route_config, debug_mode=0)
            self.score.judge(self._scenario)
            self.vehicle = self._scenario.ego_vehicles[0]
            extent = self.vehicle.bounding_box.extent
            self._half_width_m = float(extent.y)
            self.scene = Scene(-1, FILE_WEATHER, self._read_route(), spec)
            self.programme = Programme(Stage(session, self.scene.route, config.delta_s), (), 0)  # theirs is another
            if agent is not None:
                self.agent = HostedAgent(agent, session, self._scenario, self.save_name)
            checkout.game_time.restart()
            with session.answers("spawn_actor"):
                self.sensors = sensor_rig(session, config, self.vehicle)
        except BaseException:
            self.end()
            raise

    def _prepare_world(self, town: str, seed: int) -> None:
        session, provider = self._session, self._checkout.data_provider
        session.load_anew(town)
        session.restart_lights()
        manager = session.traffic_manager(self._config.traffic_manager_port)
        manager.set_hybrid_physics_mode(True)
        self._world = LockstepWorld(session.world, self._lockstep)
        provider.set_client(session.client)
        provider.set_traffic_manager_port(manager.get_port())
        provider.set_world(self._world)
        manager.set_random_device_seed(seed)
        vars(self._checkout.blackboard()).clear()  # one for the whole process, and it has no other way
        session.tick()

    def begin(self) -> Moment:
        """Tick as often as the Leaderboard does before it asks its agent, and return the first moment."""
        if self.agent is None or not self.agent.start_sensors(self.vehicle):
            for _ in range(_SENSOR_TICKS):
                self._session.tick()
        self._lockstep.begin(self._build)
        frame = self._tick()
        self._tracker = RouteTracker(self.scene.route, *self._ego.position_m[:2])
        self.ticks = 0
        self.score.ask(self._now(frame))
        return replace(self._moment(frame), events=StepEvents(), collided_with="")

    def step(self, action: NDArray[np.float32]) -> Moment:
        """Drive one step of up to `frame_skip` ticks; the scenario may end before.

        Args:
            action: float32 (3,), steer, throttle, brake within their bounds; negative throttle drives in reverse. Where
                an agent drives, what it did is written there.

        Raises:
            SimulatorTimeoutError: the server does not answer.
        """
        for _ in range(self._config.frame_skip):
            control = _control_of(action) if self.agent is None else self._ask(self.agent, action)
            if control is None:
                self._ended = self.failed = True
                break
            try:
                ended = not self._act(control)
            except SimulatorError:
                raise
            except Exception:  # the route is lost, and nothing else
                self.broken = traceback.format_exc()
                self.score.fail(_BROKEN_WORD)
                break
            if ended:
                self._ended = True
                break
        self.control[:] = action
        if self._is_bench2drive and self._judged_ticks >= _BENCH2DRIVE_TICKS and not (self.failed or self.broken):
            self.score.fail(_BENCH2DRIVE_WORD)
        self.score.ask(self._now(self._frame))
        return self._moment(self._frame)

    def _act(self, control: Any) -> bool:
        """Apply a control, let the behaviour tree run, and tick; false, and no tick, when the tree has ended."""
        self.vehicle.apply_control(control)
        self._checkout.blackboard().set("AV_control", control, overwrite=True)
        with self._session.answers("the scenario's behaviour tree"):
            self._scenario.scenario_tree.tick_once()
        self._judged_ticks += 1
        if self._scenario.scenario_tree.status != self._checkout.running:
            return False
        self._tick()
        return True

    def _ask(self, agent: HostedAgent, action: NDArray[np.float32]) -> Any:
        """Ask the agent once a tick, as the Leaderboard does; None when it fails, which the record then says."""
        control = agent.control()
        if control is None:
            self.score.fail(agent.failure)
        else:
            action[:] = control.steer, -control.throttle if control.reverse else control.throttle, control.brake
        return control

    def global_plan(self) -> dict[str, Any]:
        """See `LeaderboardEnv.global_plan`."""
        gps = [[place["lat"], place["lon"], place["z"]] for place, _ in self._scenario.gps_route]
        world = [
            [at.location.x, at.location.y, at.location.z, at.rotation.pitch, at.rotation.yaw, at.rotation.roll]
            for at, _ in self._scenario.route
        ]
        return {"gps": gps, "world": world, "options": [int(option) for _, option in self._scenario.route]}

    @property
    def _is_bench2drive(self) -> bool:
        """Whether the checkout notes what only Bench2Drive's copy does."""
        create = self._checkout.statistics_manager.create_route_data
        return "save_name" in inspect.signature(create).parameters

    def get_state(self, moment: Moment) -> dict[str, Any]:
        """Return what a replay of this episode is compared with; there is no `set_state`, see `LeaderboardEnv`."""
        del moment
        return {"ego_id": int(self.vehicle.id), "score": self.score.get_state()}

    def end(self) -> None:
        """Stop the sensors and let the checkout's code remove its actors; a second call does nothing."""
        self._lockstep.cancel()
        if self.agent is not None:
            self.agent.stop_sensors()
            self.agent.destroy()
        if self.sensors is not None:
            self.sensors.stop()
            with contextlib.suppress(SimulatorTimeoutError):
                self._session.destroy(self.sensors.actor_ids)
        if self._world is not None:
            with contextlib.suppress(SimulatorTimeoutError), self._session.answers("apply_batch_sync"):
                self._clear()
        self._world = None
        self.sensors = self.vehicle = self._scenario = None
        gc.collect()  # their objects hold each other, and actors with them

    def _clear(self) -> None:
        """Let the checkout forget the world, and with it the client.

        A client that stays hears the next server on its port. With a new episode it then asks the server that is gone
        for street lamps, in a thread where the time-out ends the process.
        """
        provider = self._checkout.data_provider
        if self._session.lost:
            provider.set_client(None)  # or the clean-up would wait for an answer
        elif self._scenario is not None:
            self.score.stop()
            self._scenario.remove_all_actors()
        provider.cleanup()

    def _tick(self) -> int:
        self._frame = frame = self._session.tick()
        self.ticks += 1
        timestamp = self._session.world.get_snapshot().timestamp
        self._checkout.game_time.on_carla_tick(timestamp)
        self._checkout.data_provider.on_carla_tick()
        self._ego: EgoState = read_ego(self.vehicle)
        self._lockstep.after_tick()
        return frame

    def _build(self) -> None:
        """Build the scenarios and parked cars that the ego comes near, again and again.

        An error ends that and nothing else, as in the Leaderboard, where a thread of its own does it.
        """
        try:
            while True:
                self._scenario.build_scenarios(self.vehicle, debug=False)
                self._scenario.spawn_parked_vehicles(self.vehicle)
                for _ in range(_BUILD_TICKS):
                    self._lockstep.wait_for_tick()
        except Exception:
            traceback.print_exc()

    def _now(self, frame: int) -> Tick:
        ego = self._ego
        s_m, offset_m = self._tracker.follow(*ego.position_m[:2])
        return Tick(
            frame=frame,
            time_s=self._judged_ticks * self._config.delta_s,
            position_m=ego.position_m,
            yaw_deg=ego.rotation_deg[2],
            speed_mps=ego.speed_mps,
            forward_mps=ego.velocity_mps[0],
            speed_limit_mps=ego.speed_limit_mps,
            s_m=s_m,
            offset_m=offset_m,
        )

    def _moment(self, frame: int) -> Moment:
        self.ticked_ns = time.monotonic_ns()
        x_m, y_m, _ = self._ego.position_m
        place = self._tracker.update(x_m, y_m, self._ego.rotation_deg[2])
        readings, hits = self.sensors.read(frame, self._config.timeout)
        self.read_ns = time.monotonic_ns()
        completed = self.score.completion_percent
        arrived = self._ended and completed >= 100.0
        place = replace(place, completion_percent=completed, arrived=arrived)
        events = StepEvents(
            collision=bool(hits),
            lane_invasion=lane_invaded(place, self._half_width_m),
            ran_red_light=Kind.RED_LIGHT in self.score.fresh,
        )
        return Moment(readings, self._ego, place, events, hits[0].actor_type if hits else "")

    def _read_route(self) -> Route:
        """The line of the scenario's route; its points lie about a metre apart."""
        points = self._scenario.route
        xy_m = np.array([(place.location.x, place.location.y) for place, _ in points], np.float64)
        moved = np.concatenate([[True], np.linalg.norm(np.diff(xy_m, axis=0), axis=1) > 1e-3])
        xy_m = xy_m[moved]
        s_m = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(xy_m, axis=0), axis=1))])
        lanes = [self._session.map.get_waypoint(place.location) for place, _ in points]
        return Route(
            s_m=s_m,
            xy_m=xy_m,
            lane_width_m=np.array([lane.lane_width for lane in lanes], np.float64)[moved],
            command=np.array([int(option) for _, option in points], np.int64)[moved],
            junction=np.array([lane.is_junction for lane in lanes], np.bool_)[moved],
        )


def _control_of(action: NDArray[np.float32]) -> Any:
    steer, throttle, brake = (float(value) for value in action)
    return carla.VehicleControl(throttle=abs(throttle), steer=steer, brake=brake, reverse=throttle < 0.0)


def _names(spec: RouteSpec) -> dict[str, str]:
    scenario = spec.scenarios[0].name if spec.scenarios else ""
    route_id = f"RouteScenario_{spec.route_id}_rep0"
    return {
        "route_id": route_id,
        "town": spec.town,
        "scenario": scenario,
        "save_name": f"{route_id}_{spec.town}_{scenario}",
    }
