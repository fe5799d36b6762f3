"""The part of `CarlaEnv` that saves moments and goes back to them.

A restore is a reset to a saved moment, and goes the way of every reset. docs/snapshots.md says what is exact.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Mapping
from typing import Any, ClassVar

import gymnasium
import numpy as np
from numpy.typing import NDArray

from zmqcarla.broker.errors import SnapshotError
from zmqcarla.workers.bev import BevPainter
from zmqcarla.workers.config import CarlaEnvConfig
from zmqcarla.workers.episode import Episode, Moment, Scene
from zmqcarla.workers.navigation import route_along
from zmqcarla.workers.observation import Observation
from zmqcarla.workers.routes import RouteSpec, same_town
from zmqcarla.workers.servers import SimulatorName
from zmqcarla.workers.session import Session
from zmqcarla.workers.snapshots.bodies import Wardrobe, birth_place
from zmqcarla.workers.snapshots.format import LEVELS, Head, read, read_head, to_bytes
from zmqcarla.workers.snapshots.progress import Kept, Progress
from zmqcarla.workers.snapshots.report import measure
from zmqcarla.workers.snapshots.store import SnapshotStore
from zmqcarla.workers.snapshots.world import Placed, bodies_of, found_again, put_back, read_world


class SnapshotMethods(gymnasium.Env[Observation, Any]):
    """Save, restore, list, delete, export and import; `CarlaEnv` is the one class that is made of it.

    Attributes:
        agent: something that drives inside this process and has get_state() and set_state(state) of plain values; its
            state travels in snapshots. None for nothing.
        scenarios: whose they are; an env takes up no snapshot with those of another kind.
        levels: at which its moments can be gone back to.
    """

    scenarios: ClassVar[str] = "own"
    levels: ClassVar[tuple[str, ...]] = LEVELS
    config: CarlaEnvConfig
    session: Session | None
    episode: Episode | None
    moment: Moment
    agent: Any = None
    _progress: Progress
    _bev: BevPainter | None
    _snapshots: SnapshotStore
    _simulator: SimulatorName
    _routes: tuple[RouteSpec, ...]
    _wardrobe: tuple[int, Wardrobe] | None = None

    def save_snapshot(self, name: str | None = None) -> str:
        """Save this moment of the episode and return its id.

        Args:
            name: the id, in place of one that is made up; a snapshot that has it is replaced.

        Raises:
            gymnasium.error.ResetNeeded: no episode is running.
            SnapshotError: the name is no good, the agent's state or an option of the reset cannot be kept, or the
                snapshot is larger than `snapshot_memory_mb`.
        """
        session, episode = self.session, self.episode
        if session is None or episode is None:
            raise gymnasium.error.ResetNeeded("expected reset() before save_snapshot(), found no running episode")
        snapshot_id = self._snapshots.new_id(name)
        world = read_world(session, episode, session.calls, self._wardrobe_of(session))
        content = {
            "world": world,
            "scene": _scene_state(episode.scene),
            "episode": episode.get_state(self.moment),
            "progress": self._progress.get_state(),
            "rng": _rng_state(self.np_random),
            "observation": self._observation_again(),
            "picture": None if self.render_mode is None else self._picture(),
            "bev": [] if self._bev is None else self._bev.get_state(),
            "agent": None if self.agent is None else self.agent.get_state(),
        }
        head = Head(
            id=snapshot_id,
            town=session.town,
            map_mark=session.map_mark,
            env=self._marks,
            simulator=self._simulator,
            frame=episode.ticks,
            step=self._progress.steps,
            actors=len(world["bodies"]),
            ended=self._progress.over,
            levels=self.levels,
        )
        self._snapshots.put(to_bytes(head, content))
        return snapshot_id

    def restore_snapshot(self, snapshot_id: str, level: str = "state") -> tuple[Observation, dict[str, Any]]:
        """Go back to a saved moment: `reset(options={"snapshot": snapshot_id, "level": level})`."""
        return self.reset(options={"snapshot": snapshot_id, "level": level})

    def list_snapshots(self) -> list[dict[str, Any]]:
        """Return what is known of each snapshot: id, town, frame, step, size_bytes and more."""
        return self._snapshots.list()

    def delete_snapshot(self, snapshot_id: str) -> None:
        """Forget a snapshot.

        Raises:
            SnapshotError: there is none of this id.
        """
        self._snapshots.delete(snapshot_id)

    def export_snapshot(self, snapshot_id: str) -> bytes:
        """Return a snapshot as bytes, for `import_snapshot` of an env with the same settings on the same map.

        Raises:
            SnapshotError: there is none of this id.
        """
        return self._snapshots.get(snapshot_id)

    def import_snapshot(self, data: bytes) -> str:
        """Keep what an env exported and return its id; one that has this id is replaced.

        Raises:
            SnapshotError: the bytes are damaged, or are of another version, map or kind of env; nothing has changed.
        """
        head = read_head(data)
        head.check_env(self._marks)
        if self.session is not None and not self._routes:
            _check_map(head, self.session)
        return self._snapshots.put(data).id

    def _go_back(self, options: Mapping[str, Any], seed: int | None) -> tuple[Observation, dict[str, Any]]:
        """Reset to the snapshot that the options name."""
        began_s = time.perf_counter()
        snapshot_id, level = _checked(options, seed)
        head, content = read(self._snapshots.get(snapshot_id))
        head.check_env(self._marks)
        session = self._open()
        session.keep_up()
        if head.map_mark != session.map_mark and any(same_town(each.town, head.town) for each in self._routes):
            self._end_episode()
            session.enter(head.town)
        _check_map(head, session)
        placed = self._replay(session, content) if level == "replay" else self._put_back(session, content)
        self.np_random = _rng_of(content["rng"])
        if self.agent is not None and content["agent"] is not None:
            self.agent.set_state(content["agent"])
        report = measure(session, content["world"], placed.actor_of)
        assert self.episode is not None
        report["criteria_restored"] = self.episode.score.get_state() == content["episode"]["score"]
        report["rng_restored"] = _rng_state(self.np_random) == content["rng"]
        seconds = time.perf_counter() - began_s
        restore = {"level": level, "ended": head.ended, "seconds": seconds, "ticks_used": placed.ticks, **report}
        return self._observation(), {**self._info(), **self._scene_info(), "restore": restore}

    def _put_back(self, session: Session, content: Mapping[str, Any]) -> Placed:
        """Give the running episode, or a new one, the state of a snapshot."""
        state, world = content["episode"], content["world"]
        episode = self.episode
        if episode is None or not _is_at(session, episode, content["scene"]):
            self._end_episode()
            episode = self.episode = self._stand_in(session, content)
            self._bev = None
        placed = put_back(session, episode, world, state, session.calls, self._wardrobe_of(session))
        self.moment = episode.set_state(state, placed.told, placed.frame)
        self._progress = Progress.from_state(content["progress"], Kept(content["observation"], content["picture"]))
        if self._bev is None:
            self._new_painter(session, episode)
        if self._bev is not None:
            self._bev.set_state(content["bev"], placed.actor_of)
        return placed

    def _stand_in(self, session: Session, content: Mapping[str, Any]) -> Episode:
        """Return a new episode of a snapshot's scene: its ego, somewhere, and its sensors."""
        scene, options = content["scene"], content["progress"]["recording"]["options"]
        ego_id = content["episode"]["ego_id"]
        ego = next(body for body in bodies_of(content["world"]) if body.body_id == ego_id)
        found = [spec for spec in self._routes if spec.route_id == scene["route_id"]]
        if scene["route_id"] is not None and not found:
            raise SnapshotError(
                f"expected route {scene['route_id']!r} in the setting `routes`, for the snapshot is of it; found "
                f"{[spec.route_id for spec in self._routes]}; use the same route file"
            )
        route = route_along(session.graph, scene["path"])
        spec = found[0] if scene["route_id"] is not None else None
        resumed = Scene(scene["spawn_point"], scene["weather"], route, spec), birth_place(ego)
        return Episode(session, self.config, self.np_random, options, resumed=resumed)

    def _replay(self, session: Session, content: Mapping[str, Any]) -> Placed:
        """Begin the episode of a snapshot anew and drive it as it was driven."""
        state = content["progress"]["recording"]
        self.np_random = _rng_of(state["rng"])
        before = int(session.world.get_snapshot().frame)
        self._begin(state["seed"], dict(state["options"]))
        for control in state["controls"]:
            assert self.episode is not None
            self._advance(self.episode, control)
        assert self.episode is not None
        ticks = int(session.world.get_snapshot().frame) - before
        wardrobe = self._wardrobe_of(session)
        return found_again(session, self.episode, content["world"], content["episode"], ticks, wardrobe)

    @property
    def _marks(self) -> dict[str, str]:
        return {**_marks_of(self.config, self.action_space), "scenarios": self.scenarios}

    def _wardrobe_of(self, session: Session) -> Wardrobe:
        if self._wardrobe is None or self._wardrobe[0] != id(session):
            self._wardrobe = id(session), Wardrobe(session)
        return self._wardrobe[1]

    # What `CarlaEnv` has for it.

    def _open(self) -> Session:
        raise NotImplementedError

    def _end_episode(self) -> None:
        raise NotImplementedError

    def _begin(self, seed: int | None, options: dict[str, Any]) -> tuple[Observation, dict[str, Any]]:
        raise NotImplementedError

    def _advance(
        self, episode: Episode, control: NDArray[np.float32]
    ) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        raise NotImplementedError

    def _new_painter(self, session: Session, episode: Episode) -> None:
        raise NotImplementedError

    def _observation(self) -> Observation:
        raise NotImplementedError

    def _observation_again(self) -> Observation:
        raise NotImplementedError

    def _picture(self) -> NDArray[np.uint8]:
        raise NotImplementedError

    def _info(self) -> dict[str, Any]:
        raise NotImplementedError

    def _scene_info(self) -> dict[str, Any]:
        raise NotImplementedError


def _checked(options: Mapping[str, Any], seed: int | None) -> tuple[str, str]:
    """Return id and level of the options of a reset to a snapshot."""
    others = sorted(set(options) - {"snapshot", "level"})
    if seed is not None or others:
        raise SnapshotError(
            "expected a reset to a snapshot without a seed and without other options than 'level', for the snapshot "
            f"says all of that; found {'seed=' + str(seed) if seed is not None else others}; leave it out"
        )
    level = options.get("level", "state")
    if level not in LEVELS:
        raise SnapshotError(f"options['level']: expected one of {', '.join(LEVELS)}, found {level!r}")
    return str(options["snapshot"]), level


def _check_map(head: Head, session: Session) -> None:
    if head.map_mark != session.map_mark:
        raise SnapshotError(
            f"snapshot {head.id!r}: expected one of the map that is loaded, {session.town}, found one of "
            f"{head.town}{' with another content' if same_town(head.town, session.town) else ''}; restore it in an env "
            "of that map"
        )


def _marks_of(config: CarlaEnvConfig, action_space: gymnasium.Space[Any]) -> dict[str, str]:
    """What an env must share with the one that saved a snapshot."""
    seen = repr((config.sensor_specs, config.vector_names, config.bev_config, config.image_layout))
    return {
        "observation": f"{zlib.crc32(seen.encode()):08x}",
        "actions": str(action_space),
        "delta_s": repr(config.delta_s),
        "frame_skip": repr(config.frame_skip),
        "render_mode": repr(config.render_mode),
    }


def _scene_state(scene: Scene) -> dict[str, Any]:
    route_id = None if scene.spec is None else scene.spec.route_id
    path = np.array(scene.route.path, np.int32)
    return {"spawn_point": scene.spawn_point, "weather": scene.weather, "route_id": route_id, "path": path}


def _is_at(session: Session, episode: Episode, scene: Mapping[str, Any]) -> bool:
    """Whether an episode of this world can take up a state of a scene as it is: it drives the same route, and lives."""
    present = _scene_state(episode.scene)
    alike = all(present[name] == scene[name] for name in ("spawn_point", "weather", "route_id"))
    return (
        alike
        and np.array_equal(present["path"], scene["path"])
        and bool(session.world.get_snapshot().has_actor(episode.vehicle.id))
    )


def _rng_state(rng: np.random.Generator) -> dict[str, Any]:
    return dict(rng.bit_generator.state)


def _rng_of(state: Mapping[str, Any]) -> np.random.Generator:
    """Return a generator that goes on from a state, of the kind that Gymnasium makes."""
    generator: Any = np.random.PCG64(0)
    generator.state = dict(state)
    return np.random.Generator(generator)
