"""Groups of rollouts: one start, steps of the active members, arrays, and the group's arithmetic to the last digit."""

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
from zmqcarla.broker.errors import InvalidActionError, SnapshotError, WorkerLostError
from zmqcarla.group_batch import discounted_returns, group_advantages

WALK = "snapshot_envs:Walk-v0"
N = 4
Actions = np.ndarray[Any, np.dtype[np.float32]]


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    with mortal_workers(N, "snapshot_envs:*") as hosts:
        yield hosts


@pytest.fixture
def make(new_vec_env: NewVecEnv, hosts: Hosts) -> Any:
    def make(n: int = N, kwargs: Any = None, **options: Any) -> zmqcarla.VectorEnv:
        vec = new_vec_env(n, WALK, kwargs, hosts.address, **options)
        vec.reset(seed=5)
        return vec

    return make


def actions(*values: float, ask: float = 0.0, member: int = 0) -> Actions:
    batch = np.zeros((len(values), 2), np.float32)
    batch[:, 0] = values
    batch[member, 1] = ask
    return batch


def test_members_start_where_the_first_one_is_and_go_their_own_ways(make: Any, transport: str) -> None:
    vec = make(transport=transport)
    first = vec.step(actions(1, 2, 3, 4))[0]["walk"][0].tolist()
    group = zmqcarla.RolloutGroup(vec)
    assert not group.active.any()
    observations, infos = group.start()
    assert group.active.tolist() == [True] * N
    assert observations["walk"].tolist() == [first] * N
    assert infos["restore"]["level"].tolist() == ["state"] * N
    tried = [actions(0, 1, 2, 2), actions(1, 1, 1, 1)]
    steps = [group.step(batch) for batch in tried]
    for step, (seen, rewards, terminated, truncated, infos) in enumerate(steps, start=2):
        assert seen["walk"][:, 0].tolist() == [step] * N
        assert rewards.tolist() == seen["walk"][:, 1].tolist()
        assert rewards[2] == rewards[3] > rewards[1] > rewards[0]
        assert not terminated.any()
        assert not truncated.any()
        assert infos["steps"].tolist() == [step] * N
        assert "env_id" not in infos
    batch = group.batch()
    assert batch.observations["walk"].tolist() == [
        observations["walk"].tolist(),
        *[step[0]["walk"].tolist() for step in steps],
    ]
    assert batch.observations["walk"].shape == (3, N, 3)
    assert (batch.observations["count"].dtype, batch.observations["count"].shape) == (np.int64, (3, N))
    assert (batch.actions.dtype, batch.actions.tolist()) == (np.float32, [batch.tolist() for batch in tried])
    assert batch.rewards.dtype == np.float64
    assert batch.rewards.tolist() == [step[1].tolist() for step in steps]
    assert batch.active.all()
    assert batch.group_ids.tolist() == [batch.group_ids[0]] * N


def test_a_member_that_ends_is_not_stepped_any_more(make: Any) -> None:
    group = zmqcarla.RolloutGroup(make(kwargs={"limit": 8.0, "length": 4}))
    group.start()
    ended, rewards, terminated, *_ = group.step(actions(0, 10, 0, 0))
    assert terminated.tolist() == [False, True, False, False] == (~group.active).tolist()
    group.stop(3)
    seen, second, terminated, _, infos = group.step(actions(0, np.nan, 0, np.inf))  # nobody looks at those
    assert seen["walk"][1].tolist() == ended["walk"][1].tolist()
    assert seen["walk"][3].tolist() == ended["walk"][3].tolist()
    assert second[[1, 3]].tolist() == [0, 0]
    assert terminated.tolist() == [False, True, False, False]
    assert infos["_steps"].tolist() == [True, False, True, False]
    for _ in range(2):
        *_, terminated, _, _ = group.step(actions(0, 0, 0, 0))
    assert terminated.tolist() == [True, True, True, False]
    assert not group.active.any()
    with pytest.raises(ResetNeeded, match="found none"):
        group.step(actions(0, 0, 0, 0))
    batch = group.batch()
    assert batch.active.T.tolist() == [[True] * 4, [True, False, False, False], [True] * 4, [True, False, False, False]]
    assert batch.terminated.tolist() == [True, True, True, False]
    assert not batch.lost.any()
    assert batch.actions[1].tolist() == np.zeros((N, 2)).tolist()
    assert batch.returns[1] == rewards[1]
    assert batch.returns.tolist() == batch.rewards.sum(axis=0).tolist()


def test_select_goes_on_from_one_member_as_a_new_group(make: Any) -> None:
    group = zmqcarla.RolloutGroup(make(kwargs={"limit": 8.0}))
    group.start()
    seen, *_ = group.step(actions(0, 1, 2, 10))
    before = group.batch()
    with pytest.raises(ValueError, match="member 3 ended"):
        group.select(3)
    group.stop(2)
    observations, _ = group.select(2)
    assert group.active.all()
    assert observations["walk"].tolist() == [seen["walk"][2].tolist()] * N
    observations, *_ = group.step(actions(1, 1, 1, 1))
    assert len({tuple(row) for row in observations["walk"].tolist()}) == 1
    after = group.batch()
    assert after.group_ids[0] != before.group_ids[0]
    assert after.rewards.shape == (1, N)
    assert after.advantages.tolist() == [0.0] * N
    assert before.observations["walk"][-1].tolist() == seen["walk"].tolist()


def test_groups_on_disjoint_rows_step_together(make: Any) -> None:
    vec = make()
    groups = [zmqcarla.RolloutGroup(vec, [0, 1]), zmqcarla.RolloutGroup(vec, [3, 2])]
    starts = [group.start()[0]["walk"] for group in groups]
    assert starts[0].tolist() == [starts[0][0].tolist()] * 2 != starts[1].tolist()
    left, right = zmqcarla.step_groups(groups, [actions(1, 2), actions(3, 3)])
    assert left[1][1] == left[1][0] + 1
    assert right[1][0] == right[1][1] == pytest.approx(0.5 * 0 + 3 + right[0]["walk"][0, 2])
    groups[0].stop(0)
    groups[0].stop(1)
    left, right = zmqcarla.step_groups(groups, [actions(1, 2), actions(3, 3)])
    assert left[1].tolist() == [0, 0]
    assert [len(group.batch().rewards) for group in groups] == [1, 2]
    assert groups[0].batch().group_ids[0] != groups[1].batch().group_ids[0]
    seen, *_ = groups[1].step(actions(3, 4))
    assert seen["walk"][:, 0].tolist() == [3, 3]
    with pytest.raises(ValueError, match="env_ids that differ"):
        zmqcarla.step_groups([groups[1], groups[1]], [actions(1, 2)] * 2)
    assert vec.step(actions(0, 0, 0, 0))[0]["walk"][:, 0].tolist() == [2, 2, 4, 4]  # the rows are the vector env's


def test_a_start_from_a_saved_moment(make: Any) -> None:
    vec = make(kwargs={"length": 2})
    vec.save_snapshot("early")
    group = zmqcarla.RolloutGroup(vec, [1, 3])
    data = vec.export_snapshot("early", 2)
    vec.import_snapshot(data)
    observations, _ = group.start(snapshot="early")
    assert observations["walk"][0].tolist() == observations["walk"][1].tolist()
    group.step(actions(0, 0))
    group.step(actions(0, 0))
    assert not group.active.any()
    vec.save_snapshot("end", rows=[1, 3])
    with pytest.raises(ValueError, match="the end of one"):
        group.start(snapshot="end")
    with pytest.raises(ValueError, match="a source or a snapshot"):
        group.start(0, snapshot="early")
    with pytest.raises(SnapshotError, match="'none'"):
        group.start(snapshot="none")


def test_a_lost_member_is_masked_and_comes_back_with_the_next_group(make: Any, transport: str) -> None:
    group = zmqcarla.RolloutGroup(make(transport=transport))
    group.start()
    last, *_ = group.step(actions(0, 1, 2, 3))
    seen, rewards, terminated, truncated, infos = group.step(actions(0, 1, 2, 3, ask=snapshot_envs.DIE, member=1))
    assert seen["walk"][1].tolist() == last["walk"][1].tolist()
    assert rewards[1] == 0
    assert (terminated | truncated).tolist() == [False, True, False, False]
    assert infos["_worker_lost"].tolist() == [False, True, False, False]
    group.step(actions(0, 1, 2, 3))
    batch = group.batch()
    assert batch.lost.tolist() == [False, True, False, False]
    assert batch.active.tolist() == [[True, False, True, True]] * 3
    counted = batch.returns[[0, 2, 3]]
    assert batch.advantages[1] == 0
    assert batch.advantages[[0, 2, 3]].tolist() == ((counted - counted.mean()) / (counted.std() + 1e-6)).tolist()
    with pytest.raises(ValueError, match="member 1 ended"):
        group.select(1)
    with pytest.raises(WorkerLostError):
        group.start(1)
    assert not group.active.any()
    observations, _ = group.start(3)
    assert len({tuple(row) for row in observations["walk"].tolist()}) == 1
    group.step(actions(0, 0, 0, 0))
    assert not group.batch().lost.any()


def test_an_env_that_raises_ends_the_group_and_nothing_else(make: Any, transport: str) -> None:
    vec = make(transport=transport)
    group = zmqcarla.RolloutGroup(vec)
    group.start()
    group.step(actions(0, 0, 0, 0))
    with pytest.raises(KeyError, match="asked to raise"):
        group.step(actions(0, 0, 0, 0, ask=snapshot_envs.RAISE, member=2))
    assert not group.active.any()
    assert group.batch().rewards.shape == (1, N)
    group.start()
    group.step(actions(0, 0, 0, 0))


def test_actions_that_do_not_fit_step_nobody(make: Any) -> None:
    group = zmqcarla.RolloutGroup(make())
    group.start()
    for wrong in (actions(0, 0), np.zeros((N, 3)), np.zeros(N), actions(0, np.nan, 0, 0), np.float32(1)):
        with pytest.raises(InvalidActionError):
            group.step(wrong)
    seen, *_ = group.step(np.zeros((N, 2), np.float64).tolist())
    assert seen["walk"][:, 0].tolist() == [1] * N
    assert group.batch().actions.dtype == np.float32


def test_what_cannot_be_a_group_is_refused(make: Any) -> None:
    vec = make()
    with pytest.raises(ValueError, match="two rows at least"):
        zmqcarla.RolloutGroup(vec, [1])
    with pytest.raises(ValueError, match="rows that differ"):
        zmqcarla.RolloutGroup(vec, [1, 1])
    group = zmqcarla.RolloutGroup(vec)
    for call in (lambda: group.start(N), lambda: group.stop(-1), lambda: group.select(N)):
        with pytest.raises(ValueError, match="expected a member from 0 to 3"):
            call()
    with pytest.raises(ResetNeeded):
        group.step(actions(0, 0, 0, 0))
    with pytest.raises(ValueError, match="that did a step"):
        group.batch()
    vec.close()
    with pytest.raises(ValueError, match="SAME_STEP"):
        zmqcarla.RolloutGroup(make(2, autoreset_mode="SameStep"))


def test_a_text_has_no_place_in_a_batch(make: Any) -> None:
    vec = make(2, {"text": True})
    with pytest.raises(ValueError, match="fixed size"):
        zmqcarla.RolloutGroup(vec)


def test_returns_and_advantages_are_the_ones_of_the_paper() -> None:
    rewards = np.array([[1.0, 0.0, 4.0], [2.0, 0.0, 0.0], [4.0, 8.0, 0.0]])
    assert discounted_returns(rewards, 1.0).tolist() == [7, 8, 4]
    assert discounted_returns(rewards, 0.5).tolist() == [3, 2, 4]
    assert discounted_returns(rewards, 0.0).tolist() == [1, 0, 4]
    everyone = np.ones(4, np.bool_)
    returns = np.array([1.0, 3.0, 5.0, 7.0])  # mean 4, deviation sqrt(5)
    assert group_advantages(returns, everyone, 0.0).tolist() == [value / np.sqrt(5) for value in (-3, -1, 1, 3)]
    some = np.array([True, False, True, False])  # mean 3, deviation 2
    assert group_advantages(returns, some, 0.0).tolist() == [-1, 0, 1, 0]
    assert group_advantages(returns, some, 2.0).tolist() == [-0.5, 0, 0.5, 0]
    assert group_advantages(np.full(4, 0.1), everyone).tolist() == [0] * 4
    assert group_advantages(returns, ~everyone).tolist() == [0] * 4
