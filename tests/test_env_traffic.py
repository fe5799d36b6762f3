"""Other road users: spawned as asked, alike for one seed, gone at the end, never more after many episodes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
from driving import STAND

import zmqcarla  # registers the env
from zmqcarla.workers.carla_env import CarlaEnv
from zmqcarla.workers.servers import Server

SETTINGS: dict[str, Any] = {"image_size": (16, 16), "traffic_vehicles": 6, "traffic_walkers": 4, "parked_vehicles": 3}


@pytest.fixture(scope="module")
def env(server: Server) -> Iterator[CarlaEnv]:
    one = CarlaEnv(connect=f"127.0.0.1:{server.spec.port}", simulator="embedded", timeout=20.0, **SETTINGS)
    yield one
    one.close()


def actors(env: CarlaEnv) -> Counter[str]:
    assert env.session is not None
    return Counter(actor.type_id.split(".")[0] for actor in env.session.world.get_actors())


def poses(env: CarlaEnv) -> list[tuple[float, ...]]:
    """Where everybody is, without the ids, which differ from episode to episode."""
    assert env.session is not None
    found = env.session.world.get_actors()
    moving = [actor for actor in found if actor.type_id.startswith(("vehicle.", "walker."))]
    places = [(actor.id, actor.get_transform()) for actor in moving]
    return [(p.location.x, p.location.y, p.rotation.yaw) for _, p in sorted(places, key=lambda each: each[0])]


def drive(env: CarlaEnv, seed: int, steps: int = 40) -> list[list[tuple[float, ...]]]:
    env.reset(seed=seed)
    seen = [poses(env)]
    for _ in range(steps):
        env.step(STAND)
        seen.append(poses(env))
    return seen


def test_traffic_is_there_and_moves(env: CarlaEnv) -> None:
    _, info = env.reset(seed=3)
    assert info["traffic"] == {"vehicles": 6, "walkers": 4, "parked": info["traffic"]["parked"]}
    count = actors(env)
    assert count["vehicle"] == 7 + info["traffic"]["parked"]
    assert (count["walker"], count["controller"]) == (4, 4)
    before = dict(enumerate(poses(env)))
    for _ in range(60):
        env.step(STAND)
    assert env.episode is not None
    assert (env.episode.traffic.mean_speed_mps() or 0.0) > 1.0
    moved_m = [np.hypot(x - before[k][0], y - before[k][1]) for k, (x, y, _) in enumerate(poses(env))]
    assert sum(distance > 0.5 for distance in moved_m) >= 6


def test_one_seed_gives_the_same_traffic(env: CarlaEnv) -> None:
    first = drive(env, seed=5)
    drive(env, seed=6, steps=7)
    assert drive(env, seed=5) == first


def test_episodes_leave_no_actors_behind(env: CarlaEnv) -> None:
    env.reset(seed=1)
    expected = actors(env)
    now: Counter[str] = Counter()
    for k in range(8):
        _, info = env.reset(seed=1 if k == 7 else None)
        env.step(STAND)
        now = actors(env)
        assert now["vehicle"] == 1 + info["traffic"]["vehicles"] + info["traffic"]["parked"]
        assert (now["walker"], now["controller"], now["sensor"]) == (info["traffic"]["walkers"],) * 2 + (2,)
    assert now == expected


def test_difficulty_is_set_from_outside_and_by_the_reset(env: CarlaEnv) -> None:
    env.difficulty = 0.5
    assert env.reset(seed=1)[1]["traffic"]["vehicles"] == 3
    assert env.reset(seed=1, options={"difficulty": 0.0})[1]["traffic"]["walkers"] == 0
    assert env.reset(seed=1)[1]["traffic"]["walkers"] == 2
    with pytest.raises(ValueError, match="between 0 and 1"):
        env.difficulty = 1.5
    with pytest.raises(ValueError, match="between 0 and 1"):
        env.reset(options={"difficulty": -1.0})
    env.difficulty = 1.0


def test_difficulty_reaches_the_env_through_the_wrappers_of_make(server: Server) -> None:
    assert zmqcarla.__version__
    settings: dict[str, Any] = {**SETTINGS, "connect": f"127.0.0.1:{server.spec.port}", "simulator": "embedded"}
    wrapped = gymnasium.make("zmqcarla/Carla-v0", disable_env_checker=True, **settings)
    wrapped.set_wrapper_attr("difficulty", 0.0)
    _, info = wrapped.reset(seed=1)
    wrapped.close()
    assert (info["traffic"]["vehicles"], info["traffic"]["walkers"]) == (0, 0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"traffic_vehicles": -1},
        {"difficulty": 2.0},
        {"traffic_ignores_lights_percent": 101.0},
        {"traffic_speed_percent": 0.0},
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        CarlaEnv(simulator="embedded", **wrong)
