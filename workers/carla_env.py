"""`zmqcarla/Carla-v0`: drive one vehicle along a route in a CARLA world, as an ordinary Gymnasium environment.

    env = gymnasium.make("zmqcarla/Carla-v0", map="Town01.xodr")

It works alone, with a server that it starts itself, and inside a pool worker, with the worker's server (`connect`).
The parts: `session` (the server), `episode` (actors and route), `observation`, `reward`, `termination`.
"""

from __future__ import annotations

import dataclasses
import platform
import time
import warnings
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from zmqcarla.broker.errors import EmbeddedSimulatorWarning, SimulatorError
from zmqcarla.workers.actions import action_space, checked_table, make_control
from zmqcarla.workers.agent_calls import plan_of
from zmqcarla.workers.bev import BevPainter
from zmqcarla.workers.config import CarlaEnvConfig
from zmqcarla.workers.episode import CHASE, Episode, Moment
from zmqcarla.workers.observation import Observation, Observer
from zmqcarla.workers.own_server import OwnServer
from zmqcarla.workers.readings import write_rgb
from zmqcarla.workers.reward import StepFacts, make_reward
from zmqcarla.workers.routes import RouteSpec, read_routes, same_town
from zmqcarla.workers.servers import Server, SimulatorName, carla_script
from zmqcarla.workers.session import Session, town_name
from zmqcarla.workers.simulator_calls import SimulatorCalls
from zmqcarla.workers.snapshots.env_methods import SnapshotMethods
from zmqcarla.workers.snapshots.plain import from_plain, to_plain
from zmqcarla.workers.snapshots.progress import Progress, copy_into
from zmqcarla.workers.snapshots.recording import Recording
from zmqcarla.workers.snapshots.store import SnapshotStore
from zmqcarla.workers.step_parts import StepParts
from zmqcarla.workers.termination import Ending, ending_of


class CarlaEnv(SnapshotMethods):
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
        own_server: what starts, watches and replaces a server of the env's own; idle with `connect`.
        step_parts: where the time of its steps goes.
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
        self.own_server = OwnServer(self.config)
        self.step_parts = StepParts()
        self.session: Session | None = None
        self.episode: Episode | None = None
        self.moment: Moment
        self._out: Observation | None = None
        self._bev: BevPainter | None = None
        self._snapshots = SnapshotStore(self.config.snapshot_bytes, self._snapshot_folder)
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
                is missing is drawn. Or, without a seed, "snapshot": id of one, and "level": "state" or "replay", to go
                back to that moment (docs/snapshots.md); `info["restore"]` then says how well that went.

        Raises:
            SimulatorError: the server cannot be started or reached, or does not answer.
            ValueError: an option cannot be met.
            SnapshotError: there is no such snapshot, or it is of another map or kind of env.
        """
        if options is not None and "snapshot" in options:
            return self._go_back(options, seed)
        super().reset(seed=seed)
        return self._begin(seed, {"difficulty": self.difficulty, **(options or {})})

    def _snapshot_folder(self) -> Path | None:
        """Where snapshots are written; the server's port, which may be part of it, is known by the first reset."""
        named = self.config.snapshot_folder
        if named is None:
            return None
        if "{port}" not in named:
            return Path(named)
        if self.config.connect is None and self.server is None:
            return None
        port = self.config.address()[1] if self.server is None else self.server.spec.port
        return Path(named.replace("{port}", str(port)))

    def _begin(self, seed: int | None, options: dict[str, Any]) -> tuple[Observation, dict[str, Any]]:
        """Start the episode that the generator and the options make."""
        self._end_episode()
        if self.own_server.worn():
            self._disconnect()
        session = self._open()
        self.own_server.count_episode()
        recording = Recording(seed, options, dict(self.np_random.bit_generator.state))
        spec = self._choose_route(session, options)
        session.restart_lights()
        self.episode = self._new_episode(session, options, spec)
        self._progress = Progress(recording)
        self.moment = self.episode.begin()
        self._new_painter(session, self.episode)
        return self._observation(), {**self._info(), **self._scene_info()}

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Drive for `frame_skip` ticks.

        Raises:
            InvalidActionError: the action has another shape, or holds NaN or infinity.
            SimulatorTimeoutError: the server does not answer; the next reset connects anew.
            gymnasium.error.ResetNeeded: no episode is running.
        """
        if self.episode is None or (self._progress.over and self._progress.kept is not None):
            raise gymnasium.error.ResetNeeded("expected reset() before step(), found no running episode; call reset()")
        began_ns, episode = time.monotonic_ns(), self.episode
        result = self._advance(episode, self._control(action))
        self.step_parts.add(began_ns, episode.ticked_ns, episode.read_ns, time.monotonic_ns())
        return result

    def _advance(
        self, episode: Episode, control: NDArray[np.float32]
    ) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        progress = self._progress
        before_percent = self.moment.route.completion_percent
        self.moment = moment = episode.step(control)
        progress.kept = None
        progress.recording.controls.append(control)
        progress.steps += 1
        score = episode.score
        collided = moment.events.collision and self.config.terminate_on_collision
        arrived, failed = moment.route.arrived, episode.failed
        ending = ending_of(collided=collided, arrived=arrived, fresh=score.fresh, failed=failed)
        steering_change, progress.steer = abs(float(control[0]) - progress.steer), float(control[0])
        completed_percent = moment.route.completion_percent - before_percent
        terms = self._reward(
            StepFacts(moment.ego, moment.route, moment.events, ending, steering_change, completed_percent)
        )
        terminated = ending is not Ending.NONE
        truncated = progress.steps >= self.config.max_steps or bool(episode.broken)
        progress.ending, progress.terms, progress.over = ending.value, terms, terminated or truncated
        if progress.over:
            score.finish()
        info = self._info()
        if progress.over:
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
        return self._picture()

    def _picture(self) -> NDArray[np.uint8]:
        kept = self._progress.kept
        if kept is not None and kept.picture is not None:
            return np.array(kept.picture)
        width, height = self.config.image_size
        picture = np.empty((height, width, 3), np.uint8)
        write_rgb(self.moment.readings[CHASE][0], picture.transpose(2, 0, 1))
        return picture

    def close(self) -> None:
        """Destroy the actors, give the clock back, end an own server; a second call does nothing."""
        self._end_episode()
        self._disconnect()

    def connect_to(self, address: str) -> None:
        """Use another server from the next reset on.

        A pool worker calls this when its supervisor has replaced the server, after `close` and between two episodes.

        Args:
            address: HOST:PORT of the server, which listens already.
        """
        self.close()
        self.config = dataclasses.replace(self.config, connect=address)

    def hand_over(self) -> dict[str, Any] | None:
        """Return what a new env with the same settings needs to go on in this one's place between two episodes.

        A pool worker asks before it begins anew in a fresh process. None: more than this would be lost.
        """
        if self.agent is not None or self._snapshots.in_memory:
            return None
        return {"rng": to_plain(dict(self.np_random.bit_generator.state)), "seed": to_plain(self.np_random_seed)}

    def take_over(self, state: dict[str, Any]) -> None:
        """Go on in the place of the env that handed this over."""
        self.np_random.bit_generator.state = from_plain(state["rng"])
        self._np_random_seed = from_plain(state["seed"])

    @property
    def server(self) -> Server | None:
        """The server that the env started itself, None with `connect`."""
        return self.own_server.server

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

    def route_junctions(self) -> NDArray[np.bool_]:
        """Return which points of `route_line()` lie in a junction: bool (k,)."""
        if self.episode is None:
            raise gymnasium.error.ResetNeeded("expected reset() before route_junctions(), found no running episode")
        return self.episode.scene.route.junction

    def lane_lines(self) -> list[NDArray[np.float64]]:
        """Return the centre line of every lane of the map, for drawing: float64 (k, 2) each, metres, world frame."""
        return self._open().graph.lines()

    def global_plan(self) -> dict[str, Any]:
        """Return the plan of the running episode's route, as the Leaderboard gives it to an agent before thinning it.

        Returns:
            "gps": a list of [latitude deg, longitude deg, altitude m]; "world": of [x, y, z in metres, pitch, yaw, roll
            in degrees]; "options": of the numbers of their `RoadOption`. All are as long as the route has points.

        Raises:
            gymnasium.error.ResetNeeded: no episode is running.
        """
        if self.episode is None:
            raise gymnasium.error.ResetNeeded("expected reset() before global_plan(), found no running episode")
        return plan_of(self.episode.scene.route, self._open().map, self.moment.ego.position_m[2])

    def agent_briefing(self) -> dict[str, Any]:
        """Return what an agent in a process of its own is told at the start of the running episode.

        Returns:
            What `global_plan` returns; "save_name": of the route, None where its agents are not told one; "sensors":
            the setting of this name; "frame": the world's at this moment; "machine", "host", "port": of the simulator,
            as this process reaches it.
        """
        session = self._open()
        host, port = session.address
        return {
            **self.global_plan(),
            "save_name": None if self.episode is None else self.episode.save_name,
            "sensors": None if self.config.sensors is None else [dict(sensor) for sensor in self.config.sensors],
            "frame": int(session.world.get_snapshot().frame),
            **{"machine": platform.node(), "host": host, "port": port},
        }

    def open_drive(self) -> str:
        """Return the map of the server as OpenDRIVE text."""
        return str(self._open().map.to_opendrive())

    def _observation(self) -> Observation:
        out, self._out = self._out, None
        if out is None:
            out = self._observer.new()
        if self._progress.kept is not None:
            copy_into(self._progress.kept.observation, out)
            return out
        if self._bev is not None:
            self._bev.paint(self.moment.ego, self.moment.route.s_m, out["bev"])
        return self._observer.write(self.moment, out)

    def _observation_again(self) -> Observation:
        if self._progress.kept is not None:
            return self._progress.kept.observation
        out = self._observer.new()
        if self._bev is not None:
            self._bev.repaint(self.moment.ego, self.moment.route.s_m, out["bev"])
        return self._observer.write(self.moment, out)

    def _new_painter(self, session: Session, episode: Episode) -> None:
        bev = self.config.bev_config
        if bev is not None:
            route, ego_id = episode.scene.route, int(episode.vehicle.id)
            self._bev = BevPainter(session.world, session.road_lines, route, ego_id, bev)

    def _scene_info(self) -> dict[str, Any]:
        """What `info` says of an episode once, after the reset."""
        assert self.episode is not None
        assert self.session is not None
        scene = self.episode.scene
        goal_x_m, goal_y_m = scene.route.goal_xy_m
        return {
            "map": town_name(self.session.map.name),
            "weather": scene.weather,
            "spawn_point": scene.spawn_point,
            "goal_x_m": goal_x_m,
            "goal_y_m": goal_y_m,
            "route_id": "" if scene.spec is None else scene.spec.route_id,
            "skipped_scenarios": list(self.episode.score.skipped),
            "traffic": dataclasses.asdict(self.episode.traffic.counts),
        }

    def _info(self) -> dict[str, Any]:
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
            "terminated_by": self._progress.ending,
            self.episode.score.value_name: self.episode.score.value,
            "infraction_penalty": self.episode.score.penalty,
            "infractions": [each.as_info() for each in self.episode.score.infractions],
            "reward_terms": self._progress.terms,
        }

    def _summary(self) -> dict[str, Any]:
        assert self.episode is not None
        scene, session = self.episode.scene, self.session
        route_id = "" if scene.spec is None else scene.spec.route_id
        town = "" if session is None else session.town
        programme = self.episode.programme
        staged = {"scenarios": [], "scenario_actors": []} if programme is None else programme.report()
        return {"route_id": route_id, "town": town, **self.episode.score.summary(scene.route.length_m), **staged}

    def _new_episode(self, session: Session, options: dict[str, Any], spec: RouteSpec | None) -> Episode:
        return Episode(session, self.config, self.np_random, options, spec)

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
        own, config = self.own_server, self.config
        host, port = ("127.0.0.1", own.start()) if config.connect is None else config.address()
        try:
            self.session = Session(host, port, config.timeout, config.delta_s, config.map)
        except SimulatorError as error:
            if own.server is not None and not own.runs:
                raise own.server.ended_error() from error
            raise
        if self._simulator == "embedded":
            self.session.calls = SimulatorCalls(host, port, self.config.timeout)
        return self.session

    def _end_episode(self) -> None:
        if self.episode is not None:
            episode, self.episode = self.episode, None
            episode.end()

    def _disconnect(self) -> None:
        session, self.session = self.session, None
        if session is not None:
            if session.calls is not None:
                session.calls.close()
            # A Traffic Manager that outlives its server can abort this process.
            session.lost |= self.server is not None and not self.own_server.runs
            session.close()
        self.own_server.close()


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
