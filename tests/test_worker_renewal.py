"""An env process that has grown begins anew between two episodes, and nobody but the memory notices."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hoarding_envs
import numpy as np
import pytest
from conftest import NewVecEnv
from pools import Hosts

import zmqcarla
from zmqcarla.workers import renewal
from zmqcarla.workers.carla_env import CarlaEnv

LIMIT_MIB = 10
LIFE = 20 + 5
"""Episodes of warm-up, and as many as the limit holds; a few of them may find room in what is free."""

EPISODES = LIFE + 2


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    folder = tmp_path_factory.mktemp("hosts")
    hosts = Hosts(folder, env_patterns=("hoarding_envs:*",), renew_env_growth_mib=LIMIT_MIB, ttl_s=30.0)
    yield hosts
    hosts.close()


def episodes(vec: zmqcarla.VectorEnv) -> tuple[list[dict[str, Any]], list[list[float]]]:
    """The infos of `EPISODES` resets, and all observations between them."""
    observation, infos = vec.reset(seed=3)
    found, seen = [infos], [observation[0].tolist()]
    while len(found) < EPISODES:
        observation, _, terminated, truncated, infos = vec.step(np.zeros(1, np.int64))
        assert "worker_lost" not in infos
        assert not truncated.any()
        seen.append(observation[0].tolist())
        if "pid" in infos:
            assert not terminated.any()
            found.append(infos)
    return [{name: int(info[name][0]) for name in ("pid", "held", "mood", "wanted")} for info in found], seen


def test_a_grown_process_begins_anew_and_its_row_goes_on(hosts: Hosts, new_vec_env: NewVecEnv, transport: Any) -> None:
    vec = new_vec_env(1, hoarding_envs.HOARD, {}, hosts.address, transport=transport)
    vec.set_attr("mood", 7)
    told, seen = episodes(vec)
    env = hoarding_envs.HoardingEnv()
    expected = [env.reset(seed=3)[0].tolist()]
    for k in range(1, len(seen)):
        begins = k % (hoarding_envs.EPISODE_STEPS + 1) == 0
        expected.append((env.reset()[0] if begins else env.step(0)[0]).tolist())
    assert seen == expected
    held = [each["held"] for each in told]
    assert held.count(1) >= 2  # lives, all of one process
    assert max(held) <= LIFE
    assert len({each["pid"] for each in told}) == 1
    assert {each["mood"] for each in told} == {7}

    # A reset that comes over the bus, with options, may be the one before which the process begins anew, too.
    lives = [int(vec.reset(options={"wanted": k})[1]["held"][0]) for k in range(LIFE)]
    assert 1 in lives
    _, infos = vec.reset(options={"wanted": 5})
    assert infos["wanted"].tolist() == [5]


def test_one_that_would_lose_something_goes_on_as_it_is(hosts: Hosts, new_vec_env: NewVecEnv) -> None:
    vec = new_vec_env(1, hoarding_envs.HOARD, {"sure": False}, hosts.address)
    told, _ = episodes(vec)
    assert [each["held"] for each in told] == list(range(1, EPISODES + 1))


def test_one_that_fails_to_begin_anew_is_a_lost_row_and_comes_back(
    hosts: Hosts, new_vec_env: NewVecEnv, tmp_path: Path, transport: Any
) -> None:
    kwargs = {"trap": str(tmp_path / "trap")}
    vec = new_vec_env(1, hoarding_envs.HOARD, kwargs, hosts.address, transport=transport)
    _, infos = vec.reset(seed=3)
    truncated = np.zeros(1, bool)
    for _ in range((hoarding_envs.EPISODE_STEPS + 1) * LIFE):
        *_, truncated, infos = vec.step(np.zeros(1, np.int64))
        if "worker_lost" in infos:
            break
    assert truncated.all()
    assert "no such luck" in infos["worker_lost"]["reason"][0]
    _, _, terminated, truncated, infos = vec.step(np.zeros(1, np.int64))
    assert not (terminated | truncated).any()
    assert infos["held"].tolist() == [1]


def test_what_is_carried_comes_back_and_the_descriptor_is_gone() -> None:
    opened = renewal.Opened({"env_id": "a", "kwargs": {"b": (1, 2)}}, None, {"c": 0.5}, {"rng": "big"})
    carried = renewal.Carried(b"L" * 16, 3, 9, opened)
    fd = renewal.put(carried)
    assert renewal.take(fd) == carried
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_an_env_goes_on_where_another_one_stopped() -> None:
    def new_env() -> CarlaEnv:
        return CarlaEnv(simulator="embedded", observation="state")

    def chances(env: CarlaEnv) -> list[object]:
        return [(info["spawn_point"], info["weather"], info["goal_x_m"]) for _, info in (env.reset() for _ in range(3))]

    with contextlib.closing(new_env()) as first:
        first.reset(seed=4)
        state = first.hand_over()
        expected = chances(first)
        first.save_snapshot("kept")
        assert first.hand_over() is None  # it would be gone
    assert state is not None
    with contextlib.closing(new_env()) as second:
        second.take_over(state)
        assert chances(second) == expected
