"""GRPOCarlaEnv over the small forkable env: its two modes, snapshots, and what it tells."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import snapshot_envs
from conftest import NewVecEnv
from gymnasium.error import ResetNeeded
from pools import Hosts, mortal_workers

import zmqcarla
from zmqcarla.broker.errors import SnapshotError
from zmqcarla.grpo import EnvStatus, GRPOCarlaEnv

WALK = "snapshot_envs:Walk-v0"
N = 3


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    with mortal_workers(N, "snapshot_envs:*") as hosts:
        yield hosts


@pytest.fixture
def make(new_vec_env: NewVecEnv, hosts: Hosts) -> Any:
    def make(**kwargs: Any) -> GRPOCarlaEnv:
        return GRPOCarlaEnv(vec=new_vec_env(N, WALK, kwargs, hosts.address, autoreset_mode="Disabled"))

    return make


def push(value: float, ask: float = 0.0) -> Any:
    return np.array([value, ask], np.float32)


def test_explore_branch_select_and_go_on(make: Any) -> None:
    env = make()
    observation, info = env.reset(seed=3)
    assert env.observation_space.contains(observation | {"count": np.int64(observation["count"])})
    assert info["fresh"] is True
    total = 0.0
    for step in range(1, 4):
        observation, reward, terminated, truncated, info = env.single_step(push(1))
        total += reward
        assert (type(reward), type(terminated), type(truncated)) == (float, bool, bool)
        assert (info["mode"], info["episode_steps"], info["cumulative_reward"]) == ("single", step, total)
        assert info["status"].status is EnvStatus.READY
    snapshot = env.save_snapshot()
    assert env.get_branch_statistics() == {"mode": "single", "active_branches": 1, "primary_reward": total}
    assert not env.is_branching

    status = env.enable_branching(snapshot)
    assert (status.status, status.ready, status.details) == (EnvStatus.BRANCHING_READY, True, {"active_branches": N})
    assert env.check_branching_status() == status
    assert (env.is_branching, env.current_mode) == (True, "branching")
    observations, rewards, terminated, truncated, infos = env.branch_step([push(0), push(4), push(2)])
    assert [type(one) for one in (observations, rewards, terminated, truncated, infos)] == [list] * 5
    assert rewards[1] > rewards[2] > rewards[0]
    assert [one["walk"][0] for one in observations] == [4] * N
    assert [info["branch_id"] for info in infos] == [0, 1, 2]
    assert [info["cumulative_reward"] for info in infos] == [total + reward for reward in rewards]
    assert infos[2]["episode_steps"] == 4
    second = env.branch_step([push(0)] * N)
    found = env.get_branch_statistics()
    assert found["branch_rewards"] == [first + then for first, then in zip(rewards, second[1], strict=True)]
    assert found["cumulative_rewards"] == [total + reward for reward in found["branch_rewards"]]
    assert (found["best_branch"], found["steps_since_branch"], found["active_branches"]) == (1, 2, N)
    assert np.argmax(env.branch_batch().advantages) == 1

    env.select_branch(found["best_branch"])
    assert not env.is_branching
    observation, reward, *_, info = env.single_step(push(0))
    assert observation["walk"][0] == 6
    assert observation["walk"][1] == 0.5 * second[0][1]["walk"][1] + observation["walk"][2]
    assert info["cumulative_reward"] == found["cumulative_rewards"][1] + reward
    observations, infos = env.fork_from_snapshot(num_branches=2)  # of the present, from the row that was selected
    assert [one["walk"].tolist() for one in observations] == [observation["walk"].tolist()] * 2
    assert len(infos) == 2
    env.disable_branching()
    env.disable_branching()
    assert env.single_step(push(0))[0]["walk"][0] == 7


def test_snapshots_outlive_a_change_of_rows(make: Any) -> None:
    env = make()
    env.reset(seed=3)
    env.single_step(push(1))
    early = env.save_snapshot("early")
    saved, _ = env.restore_snapshot(early)
    after, *_ = env.single_step(push(1))
    env.fork_from_snapshot(early)
    env.branch_step([push(2)] * N)
    env.select_branch(2)
    late = env.save_snapshot()
    assert {one["id"] for one in env.list_snapshots()} == {early, late}
    observation, info = env.reset_from_snapshot(early)
    assert observation["walk"].tolist() == saved["walk"].tolist()
    assert info["restore"]["level"] == "state"
    again, *_, info = env.single_step(push(1))
    assert again["walk"].tolist() == after["walk"].tolist()
    assert info["episode_steps"] == 2
    env.delete_snapshot(early)
    assert [one["id"] for one in env.list_snapshots()] == [late]
    env.enable_branching(late)
    observation, _ = env.reset_from_snapshot(late)
    assert observation["walk"][0] == 2
    assert not env.is_branching
    for call in (env.delete_snapshot, env.restore_snapshot, env.enable_branching):
        with pytest.raises(SnapshotError, match="found 'early' in no row"):
            call(early)


def test_each_mode_refuses_the_calls_of_the_other(make: Any) -> None:
    env = make()
    env.reset(seed=3)
    for name, arguments in (("branch_step", [[push(0)] * N]), ("select_branch", [0]), ("branch_batch", [])):
        with pytest.raises(RuntimeError, match=rf"expected branching mode for {name}\(\), found single"):
            getattr(env, name)(*arguments)
    for count in (1, N + 1):
        with pytest.raises(ValueError, match="expected 2 to 3 branches"):
            env.enable_branching(num_branches=count)
    env.enable_branching()
    calls: dict[str, list[Any]] = {
        "single_step": [push(0)],
        "save_snapshot": [],
        "restore_snapshot": ["a"],
        "enable_branching": [],
    }
    for name, arguments in calls.items():
        with pytest.raises(RuntimeError, match=rf"expected single mode for {name}\(\), found branching"):
            getattr(env, name)(*arguments)
    with pytest.raises(ValueError, match="expected 3 actions"):
        env.branch_step([push(0)])
    with pytest.raises(ValueError, match="branch from 0 to 2"):
        env.select_branch(N)
    env.reset(seed=3)
    assert not env.is_branching


def test_ends_of_episodes(make: Any) -> None:
    env = make(limit=8.0)
    env.reset(seed=3)
    env.enable_branching()
    *_, terminated, _, infos = env.branch_step([push(0), push(10), push(1)])
    assert terminated == [False, True, False]
    assert [info["status"].ready for info in infos] == [True, False, True]
    observations, rewards, terminated, _, infos = env.branch_step([push(0), push(10), push(1)])
    assert (rewards[1], terminated[1], observations[1]["walk"][0]) == (0, True, 1)
    env.select_branch(1)
    assert env.check_branching_status().status is EnvStatus.TERMINATED
    with pytest.raises(ResetNeeded):
        env.single_step(push(0))
    end = env.save_snapshot()
    with pytest.raises(ValueError, match="the end of one"):
        env.enable_branching(end)
    assert not env.is_branching
    env.reset()
    *_, info = env.single_step(push(10))
    assert (info["status"].status, info["status"].ready) == (EnvStatus.TERMINATED, False)


def test_a_branch_whose_worker_died_is_no_choice(make: Any) -> None:
    env = make()
    env.reset(seed=3)
    env.save_snapshot("begin")
    env.enable_branching()
    *_, infos = env.branch_step([push(-1), push(0, snapshot_envs.DIE), push(-2)])
    assert "worker_lost" in infos[1]
    assert not infos[1]["status"].ready
    assert env.get_branch_statistics()["best_branch"] == 0
    with pytest.raises(ValueError, match="branch 1 dead"):
        env.select_branch(1)
    env.select_branch(0)
    observations, _ = env.fork_from_snapshot("begin")
    assert [one["walk"].tolist() for one in observations] == [observations[0]["walk"].tolist()] * N


def test_a_vector_env_that_resets_on_its_own_is_refused(new_vec_env: NewVecEnv, hosts: Hosts) -> None:
    with pytest.raises(ValueError, match='autoreset_mode="Disabled"'):
        GRPOCarlaEnv(vec=new_vec_env(N, WALK, None, hosts.address))
    assert zmqcarla.GRPOCarlaEnv is GRPOCarlaEnv
