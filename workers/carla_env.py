"""`zmqcarla/Carla-v0`: drive one vehicle along a route in a CARLA world, as an ordinary Gymnasium environment.

    env = gymnasium.make("zmqcarla/Carla-v0", map="Town01.xodr")

It works alone, with a server that it starts itself, and inside a pool worker, with the worker's server (`connect`).
The parts: `session` (the server), `episode` (actors and route), `observation`, `reward`, `termination`.
"""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from zmqcarla.broker.errors import EmbeddedSimulatorWarning, SimulatorError
from zmqcarla.broker.protocol import runtime_directory
from zmqcarla.workers import ports
from zmqcarla.workers.actions import action_space, checked_table, make_control
from zmqcarla.workers.bev import BevPainter
from zmqcarla.workers.config import CarlaEnvConfig
from zmqcarla.workers.episode import CHASE, Episode, Moment
from zmqcarla.workers.observation import Observation, Observer
from zmqcarla.workers.readings import write_rgb
from zmqcarla.workers.reward import StepFacts, make_reward
from zmqcarla.workers.routes import RouteSpec, read_routes, same_town
from zmqcarla.workers.servers import Server, ServerSpec, SimulatorName, carla_script, launch
from zmqcarla.workers.session import Session, is_opendrive_path, read_opendrive, town_name
from zmqcarla.workers.termination import Ending, ending_of


class CarlaEnv(gymnasium.Env[Observation, Any]):
    """One vehicle, one route, one CARLA server.

    Observation: see `zmqcarla.workers.observation`. Action: see `zmqcarla.workers.actions`; by default float32 (3,) =
    steer -1 (left) to 1, throttle -1 to 1 (negative drives in reverse), brake 0 to 1.

    `info` after reset and step: "frame" (ticks since the reset), "simulator" ("embedded" or "carla"),
    "route_completion" (percent), "route_length_m", "distance_to_goal_m", "lane_offset_m", "lane_width_m", "speed_mps",
    "collided_with", "ran_red_light", "lane_invasion", "terminated_by" (see `Ending`), "reward_terms" (empty after
    reset), "driving_score" ("partial_score" where scenarios were skipped), "infraction_penalty", "infractions" (so
    far). After reset also "map", "weather", "spawn_point", "goal_x_m", "goal_y_m", "route_id", "skipped_scenarios",
    "traffic". With the last step also "episode_summary" (see `Score.summary`).

    Attributes:
        config: the settings.
        session: the connection to the server, None before the first reset and after close.
        episode: the running episode, None likewise.
        server: the server that the env started itself, None with `connect`.
        moment: what the last reset or step led to; not there before the first reset.

    The server is started, or connected to, by the first reset. The loaded world is used again by every later one. On
    the embedded simulator two runs of one seed are identical bit for bit.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012 - gymnasium's own form

    def __init__(self, **settings: Any) -> None:
        """Check the settings; no process is started yet.

        Args:
            **settings: the fields of `CarlaEnvConfig`.

        Raises:
            TypeError: a setting is unknown.
            ValueError: a setting is out of range.
            SimulatorStartError: real CARLA is asked for and cannot be started here.
        """
        known = [field.name for field in dataclasses.fields(CarlaEnvConfig)]
        unknown = sorted(set(settings) - set(known))
        if unknown:
            raise TypeError(f"expected settings among {', '.join(known)}; found {', '.join(unknown)}")
        self.config = CarlaEnvConfig(**settings)
        self.render_mode = self.config.render_mode
        self.metadata = {**self.metadata, "render_fps": round(1.0 / (self.config.delta_s * self.config.frame_skip))}
        self._observer = Observer(self.config)
        self.observation_space: spaces.Space[Any] = self._observer.space
        table = checked_table(self.config.action_table)
        self.action_space: spaces.Space[Any] = action_space(self.config.action_type, table)
        self._control = make_control(self.config.action_type, table)
        self._reward = make_reward(self.config.reward_type, self.config.reward_weights)
        self._simulator: SimulatorName = self.config.simulator_name
        self._claim: ports.PortClaim | None = None
        self.server: Server | None = None
        self.session: Session | None = None
        self.episode: Episode | None = None
        self.moment: Moment
        self._out: Observation | None = None
        self._bev: BevPainter | None = None
        self._difficulty = self.config.difficulty
        self._routes = () if self.config.routes is None else read_routes(self.config.routes)
        if self.config.connect is None and self._simulator == "carla":
            carla_script(self.config.root)
        if self.config.connect is None and self.config.simulator is None and self._simulator == "embedded":
            _warn_embedded_once()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode.

        Args:
            seed: fixes spawn point, goal and weather of this and the following episodes.
            options: "spawn_point": index; "goal": index of a spawn point or (x, y, z) in metres; "route_length_m":
                least length of a random route; "route": id in the route file; "difficulty": for this episode. What
                is missing is drawn.

        Raises:
            SimulatorError: the server cannot be started or reached, or does not answer.
            ValueError: an option cannot be met.
        """
        super().reset(seed=seed)
        self._end_episode()
        session = self._open()
        chosen_options = {"difficulty": self.difficulty, **(options or {})}
        spec = self._choose_route(session, chosen_options)
        if seed is not None:
            # A Traffic Manager carries over more from earlier episodes than its seed sets anew.
            session.end_traffic()
        session.restart_lights()
        self.episode = Episode(session, self.config, self.np_random, chosen_options, spec)
        self._steps = 0
        self._steer = 0.0
        self.moment = self.episode.begin()
        scene = self.episode.scene
        bev = self.config.bev_config
        if bev is not None:
            ego_id = int(self.episode.vehicle.id)
            self._bev = BevPainter(session.world, session.road_lines, scene.route, ego_id, bev)
        goal_x_m, goal_y_m = scene.route.goal_xy_m
        chosen = {
            "map": town_name(session.map.name),
            "weather": scene.weather,
            "spawn_point": scene.spawn_point,
            "goal_x_m": goal_x_m,
            "goal_y_m": goal_y_m,
            "route_id": "" if spec is None else spec.route_id,
            "skipped_scenarios": list(self.episode.score.skipped),
            "traffic": dataclasses.asdict(self.episode.traffic.counts),
        }
        return self._observation(), {**self._info(Ending.NONE, {}), **chosen}

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Drive for `frame_skip` ticks.

        Raises:
            InvalidActionError: the action has another shape, or holds NaN or infinity.
            SimulatorTimeoutError: the server does not answer; the next reset connects anew.
            gymnasium.error.ResetNeeded: no episode is running.
        """
        if self.episode is None:
            raise gymnasium.error.ResetNeeded("expected reset() before step(), found no running episode; call reset()")
        control = self._control(action)
        before_percent = self.moment.route.completion_percent
        self.moment = moment = self.episode.step(control)
        self._steps += 1
        score = self.episode.score
        collided = moment.events.collision and self.config.terminate_on_collision
        ending = ending_of(collided=collided, arrived=moment.route.arrived, fresh=score.fresh)
        steering_change, self._steer = abs(float(control[0]) - self._steer), float(control[0])
        completed_percent = moment.route.completion_percent - before_percent
        terms = self._reward(
            StepFacts(moment.ego, moment.route, moment.events, ending, steering_change, completed_percent)
        )
        terminated = ending is not Ending.NONE
        truncated = self._steps >= self.config.max_steps
        if terminated or truncated:
            score.finish()
        info = self._info(ending, terms)
        if terminated or truncated:
            info["episode_summary"] = self._summary()
        return self._observation(), float(sum(terms.values())), terminated, truncated, info

    def bind_out(self, views: Observation) -> None:
        """Take the arrays for the next observation, which reset or step then writes into and returns.

        A pool worker calls this before each reset and step with the places of the shared-memory ring, so that no
        observation is copied. Without it every observation consists of new arrays.
        """
        self._out = views

    def render(self) -> NDArray[np.uint8] | None:
        """Return the view from behind the vehicle, uint8 (height, width, 3), RGB, a new array.

        It is of the same frame as the last observation. Without a render mode there is none, and None is returned.
        """
        if self.render_mode is None:
            return None
        if self.episode is None:
            raise gymnasium.error.ResetNeeded("expected reset() before render(), found no running episode")
        width, height = self.config.image_size
        picture = np.empty((height, width, 3), np.uint8)
        write_rgb(self.moment.readings[CHASE][0], picture.transpose(2, 0, 1))
        return picture

    def close(self) -> None:
        """Destroy the actors, give the clock back, end an own server; a second call does nothing."""
        self._end_episode()
        self._disconnect()

    @property
    def difficulty(self) -> float:
        """Share of the configured traffic that the following episodes get, 0 to 1."""
        return self._difficulty

    @difficulty.setter
    def difficulty(self, value: float) -> None:
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"difficulty: expected a number between 0 and 1, found {value!r}")
        self._difficulty = float(value)

    def route_line(self) -> NDArray[np.float64]:
        """Return the line of the running episode's route, for drawing: float64 (k, 2), metres, world frame."""
        if self.episode is None:
            raise gymnasium.error.ResetNeeded("expected reset() before route_line(), found no running episode")
        return self.episode.scene.route.xy_m

    def lane_lines(self) -> list[NDArray[np.float64]]:
        """Return the centre line of every lane of the map, for drawing: float64 (k, 2) each, metres, world frame."""
        return self._open().graph.lines()

    def _observation(self) -> Observation:
        out, self._out = self._out, None
        if out is None:
            out = self._observer.new()
        if self._bev is not None:
            self._bev.paint(self.moment.ego, self.moment.route.s_m, out["bev"])
        return self._observer.write(self.moment, out)

    def _info(self, ending: Ending, terms: dict[str, float]) -> dict[str, Any]:
        assert self.episode is not None
        moment = self.moment
        return {
            "frame": self.episode.ticks,
            "simulator": self._simulator,
            "route_completion": moment.route.completion_percent,
            "route_length_m": self.episode.scene.route.length_m,
            "distance_to_goal_m": moment.route.distance_to_goal_m,
            "lane_offset_m": moment.route.lane_offset_m,
            "lane_width_m": moment.route.lane_width_m,
            "speed_mps": moment.ego.speed_mps,
            "collided_with": moment.collided_with,
            "ran_red_light": moment.events.ran_red_light,
            "lane_invasion": moment.events.lane_invasion,
            "terminated_by": ending.value,
            self.episode.score.value_name: self.episode.score.value,
            "infraction_penalty": self.episode.score.penalty,
            "infractions": [each.as_info() for each in self.episode.score.infractions],
            "reward_terms": terms,
        }

    def _summary(self) -> dict[str, Any]:
        assert self.episode is not None
        scene, session = self.episode.scene, self.session
        route_id = "" if scene.spec is None else scene.spec.route_id
        town = "" if session is None else session.town
        assert self.episode.programme is not None
        summary = {**self.episode.score.summary(scene.route.length_m), **self.episode.programme.report()}
        return {"route_id": route_id, "town": town, **summary}

    def _choose_route(self, session: Session, options: dict[str, Any]) -> RouteSpec | None:
        """Return the route of the file that the options name, or a random one of the town; load its town."""
        wanted = options.get("route")
        if not self._routes:
            if wanted is not None:
                raise ValueError(f"options['route']: expected a route file in the setting `routes`, found {wanted!r}")
            return None
        if wanted is None:
            here = [spec for spec in self._routes if same_town(spec.town, session.town)] or list(self._routes)
            spec = here[int(self.np_random.integers(len(here)))]
        else:
            found = [spec for spec in self._routes if spec.route_id == str(wanted)]
            if not found:
                ids = ", ".join(spec.route_id for spec in self._routes)
                raise ValueError(f"options['route']: expected one of {ids}, found {wanted!r}")
            spec = found[0]
        session.enter(spec.town)
        return spec

    def _open(self) -> Session:
        """Return the session, starting the server and connecting to it when there is none that works."""
        if self.session is not None and not self.session.lost:
            return self.session
        self._disconnect()
        host, port = self.config.address() if self.config.connect is not None else ("127.0.0.1", self._start_server())
        try:
            self.session = Session(host, port, self.config.timeout, self.config.delta_s, self.config.map)
        except SimulatorError as error:
            if self.server is not None and self.server.poll() is not None:
                raise self.server.ended_error() from error
            raise
        return self.session

    def _start_server(self) -> int:
        """Start an own server on a free port block and return its port."""
        town_file = self.config.map if self.config.map is not None and is_opendrive_path(self.config.map) else None
        if town_file is not None:
            read_opendrive(town_file)
        self._claim = ports.claim_free()
        port = self._claim.block.rpc
        spec = ServerSpec(self._simulator, port, self.config.gpu, town_file, self.config.root)
        self.server = launch(spec, _fresh_log(port))
        self.server.wait_ready(self.config.start_timeout_s)
        return port

    def _end_episode(self) -> None:
        if self.episode is not None:
            episode, self.episode = self.episode, None
            episode.end()

    def _disconnect(self) -> None:
        session, self.session = self.session, None
        server, self.server = self.server, None
        claim, self._claim = self._claim, None
        if session is not None and server is None:
            session.close()
        if server is not None:
            ended_by_itself = server.poll() is not None
            server.close()
            if not ended_by_itself:
                server.log_path.unlink(missing_ok=True)
        if claim is not None:
            claim.release()


def _fresh_log(port: int) -> Path:
    """Return an empty file for the output of the server on a claimed port.

    It lies in `logs/env` of this user's runtime directory. There is at most one a port: the file of a server that died
    is kept until the next one takes that port.
    """
    folder = runtime_directory() / "logs" / "env"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / f"server-{port}.log"
    path.write_bytes(b"")
    return path


_embedded_warned = False


def _warn_embedded_once() -> None:
    global _embedded_warned
    if not _embedded_warned:
        _embedded_warned = True
        warnings.warn(
            "no CARLA was named (connect, carla_root, CARLA_ROOT), so zmqcarla's embedded simulator drives; it is not "
            "CarlaUE4. Pass simulator='embedded' to choose it on purpose",
            EmbeddedSimulatorWarning,
            stacklevel=3,
        )
