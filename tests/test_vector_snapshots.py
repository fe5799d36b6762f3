"""Snapshots over the rows of a vector env, and forks: in every mode, over both transports, and with dying workers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import snapshot_envs
from conftest import NewVecEnv
from gymnasium.error import AlreadyPendingCallError
from gymnasium.vector import AutoresetMode
from pools import Hosts, mortal_workers

import zmqcarla
from zmqcarla.broker.errors import SnapshotError, WorkerLostError

WALK = "snapshot_envs:Walk-v0"
N = 3
Actions = np.ndarray[Any, np.dtype[np.float32]]


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    with mortal_workers(N, "snapshot_envs:*") as hosts:
        yield hosts


@pytest.fixture
def make(new_vec_env: NewVecEnv, hosts: Hosts, transport: str) -> Any:
    def make(kwargs: Any = None, **options: Any) -> zmqcarla.VectorEnv:
        return new_vec_env(N, WALK, kwargs, hosts.address, **{"transport": transport, **options})

    return make


def actions(*values: float, ask: float = 0.0, row: int = 0) -> Actions:
    batch = np.zeros((len(values), 2), np.float32)
    batch[:, 0] = values
    batch[row, 1] = ask
    return batch


def walk(vec: zmqcarla.VectorEnv, steps: int, scale: float = 1.0) -> list[list[list[float]]]:
    """The same steps for everybody: the observations of each."""
    return [vec.step(actions(*[scale * step] * N))[0]["walk"].tolist() for step in range(steps)]


def test_rows_go_on_from_their_own_saved_moments(make: Any) -> None:
    vec = make()
    vec.reset(seed=3)
    walk(vec, 2)
    assert vec.save_snapshot("here") == "here"
    saved = walk(vec, 1)[0]
    after = walk(vec, 3)
    observations, infos = vec.restore_snapshot("here", level="replay")
    assert observations["walk"][:, 0].tolist() == [2] * N
    assert infos["restore"]["level"].tolist() == ["replay"] * N
    assert walk(vec, 1)[0] == saved
    assert walk(vec, 3) == after
    assert [[one["id"] for one in row] for row in vec.list_snapshots()] == [["here"]] * N
    vec.delete_snapshot("here")
    assert vec.list_snapshots() == ([],) * N


def test_rows_that_are_not_named_are_not_touched(make: Any) -> None:
    vec = make()
    vec.reset(seed=3)
    snapshot = vec.save_snapshot(rows=[1])
    last = walk(vec, 4)[-1]
    observations, infos = vec.restore_snapshot(snapshot, [1])
    assert observations["walk"][:, 0].tolist() == [4, 0, 4]
    assert observations["walk"][[0, 2]].tolist() == [last[0], last[2]]
    assert infos["_restore"].tolist() == [False, True, False]
    assert walk(vec, 1)[0][1][0] == 1
    assert [len(listed) for listed in vec.list_snapshots()] == [0, 1, 0]
    assert len(vec.list_snapshots([2])) == 1


def test_export_and_import_carry_a_moment_to_other_rows(make: Any) -> None:
    vec = make()
    vec.reset(seed=3)
    walk(vec, 2)
    vec.save_snapshot("mine", rows=[2])
    data = vec.export_snapshot("mine", 2)
    assert isinstance(data, bytes)
    assert vec.import_snapshot(data, [0, 1]) == "mine"
    observations, _ = vec.restore_snapshot("mine")
    assert len({tuple(row) for row in observations["walk"].tolist()}) == 1
    for step in walk(vec, 5):
        assert step[0] == step[1] == step[2]


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_after_a_fork_the_same_actions_give_the_same_in_every_row(make: Any, mode: AutoresetMode) -> None:
    vec = make({"length": 6}, autoreset_mode=mode)
    vec.reset(seed=9)
    walk(vec, 3)
    before = vec.step(actions(1, 2, 3))[0]["walk"].tolist()
    observations, infos = vec.fork(1)
    assert observations["walk"].tolist() == [before[1]] * N
    assert observations["count"].tolist() == [4] * N
    assert infos["restore"]["ended"].tolist() == [False] * N
    for ended in (False, True):
        _, rewards, terminated, _, _ = vec.step(actions(1, 1, 1))
        assert len(set(rewards.tolist())) == 1
        assert terminated.tolist() == [ended] * N
    assert vec.list_snapshots() == ([],) * N


def test_forks_of_disjoint_rows_leave_each_other_alone(make: Any) -> None:
    vec = make()
    vec.reset(seed=9)
    vec.step(actions(1, 2, 3))
    observations, _ = vec.fork(2, [0])
    assert observations["walk"][0].tolist() == observations["walk"][2].tolist() != observations["walk"][1].tolist()
    again, *_ = vec.step(actions(1, 1, 1))
    assert again["walk"][0].tolist() == again["walk"][2].tolist() != again["walk"][1].tolist()


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_a_restore_ends_a_waiting_autoreset_and_brings_back_the_end_of_an_episode(
    make: Any, mode: AutoresetMode
) -> None:
    vec = make({"length": 2}, autoreset_mode=mode)
    vec.reset(seed=1)
    vec.step(actions(0, 0, 0))
    vec.save_snapshot("alive")
    vec.step(actions(0, 0, 0))
    if mode is not AutoresetMode.SAME_STEP:  # there the env is in its next episode by now
        vec.save_snapshot("end")
    observations, _ = vec.restore_snapshot("alive")
    assert observations["walk"][:, 0].tolist() == [1] * N
    observations, _, terminated, _, infos = vec.step(actions(0, 0, 0))
    assert terminated.all()  # and not a reset
    if mode is AutoresetMode.SAME_STEP:
        assert [final["walk"][0] for final in infos["final_obs"]] == [2] * N
        return
    vec.restore_snapshot("alive")
    observations, infos = vec.restore_snapshot("end", [0, 2])
    assert observations["walk"][:, 0].tolist() == [2, 1, 2]
    if mode is AutoresetMode.DISABLED:
        with pytest.raises(Exception, match="expected reset"):
            vec.step(actions(0, 0, 0))
        return
    observations, _, terminated, _, infos = vec.step(actions(0, 0, 0))
    assert observations["walk"][:, 0].tolist() == [0, 2, 0]
    assert infos["_fresh"].tolist() == [True, False, True]
    assert terminated.tolist() == [False, True, False]


def test_an_env_with_text_forks_as_well(make: Any) -> None:
    vec = make({"text": True}, transport="auto")
    vec.reset(seed=1)
    walk(vec, 2)
    observations, _ = vec.fork(0, [2])
    assert observations["text"] == ("step 2",) * N
    observations, *_ = vec.step(actions(0, 0, 0))
    assert observations["text"] == ("step 3",) * N
    assert observations["walk"][0].tolist() == observations["walk"][2].tolist()


def test_a_fork_gives_lost_rows_a_new_env(make: Any) -> None:
    vec = make()
    vec.reset(seed=1)
    *_, infos = vec.step(actions(1, 2, 3, ask=snapshot_envs.DIE, row=1))
    assert infos["_worker_lost"].tolist() == [False, True, False]
    assert vec.lost_rows == [1]
    with pytest.raises(WorkerLostError, match=r"rows \[1\] have no env"):
        vec.fork(1)
    with pytest.raises(WorkerLostError, match=r"rows \[1\] have no env"):
        vec.save_snapshot()
    observations, _ = vec.fork(0)
    assert vec.lost_rows == []
    assert observations["walk"][1].tolist() == observations["walk"][0].tolist()
    for step in walk(vec, 3):
        assert step[0] == step[1] == step[2]
    assert vec.list_snapshots() == ([],) * N


@pytest.mark.parametrize("ask", [snapshot_envs.DIE_AT_RESTORE, snapshot_envs.DIE_AT_IMPORT])
def test_a_worker_that_dies_during_a_fork_is_started_again_and_forked(
    new_vec_env: NewVecEnv, hosts: Hosts, ask: float
) -> None:
    vec = new_vec_env(N, WALK, None, hosts.address)
    vec.reset(seed=1)
    vec.step(actions(1, 2, 3, ask=ask, row=2))
    observations, _ = vec.fork(0)
    assert vec.lost_rows == []
    assert observations["walk"][2].tolist() == observations["walk"][0].tolist()
    for step in walk(vec, 2):
        assert step[0] == step[1] == step[2]
    assert vec.list_snapshots() == ([],) * N


def test_a_restore_brings_lost_rows_the_snapshot_of_another_row(new_vec_env: NewVecEnv, hosts: Hosts) -> None:
    vec = new_vec_env(N, WALK, None, hosts.address)
    vec.reset(seed=1)
    vec.fork(0)
    vec.save_snapshot("start")
    vec.step(actions(1, 2, 3, ask=snapshot_envs.DIE, row=2))
    observations, _ = vec.restore_snapshot("start", [2])
    assert observations["walk"][:, 0].tolist() == [1, 1, 0]
    vec.restore_snapshot("start")
    for step in walk(vec, 2):
        assert step[0] == step[1] == step[2]
    vec.save_snapshot("own", rows=[2])
    vec.step(actions(1, 2, 3, ask=snapshot_envs.DIE, row=2))
    with pytest.raises(SnapshotError, match="'own'"):  # it went with its process
        vec.restore_snapshot("own", [2])
    assert vec.lost_rows == []
    assert walk(vec, 1)[0][2][0] == 1  # in a new episode


def test_an_env_that_refuses_costs_nobody_a_snapshot(make: Any) -> None:
    vec = make()
    vec.reset(seed=1)
    vec.step(actions(1, 2, 3, ask=snapshot_envs.RAISE_AT_IMPORT, row=1))
    vec.save_snapshot("kept")
    with pytest.raises(SnapshotError, match="asked to refuse"):
        vec.fork(0)
    assert [[one["id"] for one in row] for row in vec.list_snapshots()] == [["kept"]] * N
    assert walk(vec, 1)[0][0][0] == 2


def test_what_does_not_fit_is_refused_before_anything_is_sent(make: Any) -> None:
    vec = make()
    with pytest.raises(SnapshotError, match="expected reset"):
        vec.save_snapshot()
    vec.reset(seed=1)
    with pytest.raises(SnapshotError, match="found snapshot 'none'"):
        vec.restore_snapshot("none")
    for rows in ([3], [-1], [0, 0], []):
        with pytest.raises(ValueError, match="expected rows that differ, from 0 to 2"):
            vec.save_snapshot("a", rows)
    with pytest.raises(ValueError, match="without the source row 1"):
        vec.fork(1, [1, 2])
    vec.step_async(actions(0, 0, 0))
    for name, argument in (("fork", 0), ("save_snapshot", "a"), ("restore_snapshot", "a"), ("list_snapshots", [0])):
        with pytest.raises(AlreadyPendingCallError):
            getattr(vec, name)(argument)
    vec.step_wait()
    vec.send(actions(0), [1])
    with pytest.raises(AlreadyPendingCallError):
        vec.fork(0)
    vec.recv(1)
    assert vec.list_snapshots() == ([],) * N


def test_first_k_and_forks_take_turns(make: Any) -> None:
    vec = make()
    vec.reset(seed=1)
    vec.send(actions(1, 2), [0, 2])
    vec.recv(2)
    observations, _ = vec.fork(2, [1])
    assert observations["walk"][:, 0].tolist() == [1, 1, 1]
    vec.send(actions(5, 5), [1, 2])
    received, *_ = vec.recv(2)
    assert received["walk"][0].tolist() == received["walk"][1].tolist()


def test_calls_and_attributes_of_some_rows(make: Any) -> None:
    vec = make([{"start": float(row)} for row in range(N)])
    vec.reset(seed=1)
    assert vec.call("start", rows=[2, 0]) == (2.0, 0.0)
    vec.set_attr("start", 7.0, rows=[1])
    assert vec.get_attr("start") == (0.0, 7.0, 2.0)
    vec.set_attr("start", [8.0, 9.0], rows=[2, 0])
    assert vec.get_attr("start") == (9.0, 7.0, 8.0)
    with pytest.raises(ValueError, match="expected rows that differ"):
        vec.call("start", rows=[N])
    with pytest.raises(ValueError, match="Got `1` values for 2"):
        vec.set_attr("start", [1.0], rows=[0, 1])
    vec.step(actions(0, 0, 0, ask=snapshot_envs.DIE, row=1))
    assert vec.call("start", rows=[0]) == (9.0,)
    with pytest.raises(WorkerLostError):
        vec.call("start")


@pytest.mark.parametrize("shared_memory", [True, False])
def test_child_processes_fork_as_well(shared_memory: bool) -> None:
    vec = zmqcarla.AsyncVectorEnv([snapshot_envs.WalkEnv] * 2, shared_memory=shared_memory)
    try:
        vec.reset(seed=4)
        vec.step(actions(1, 2))
        observations, _ = vec.fork(1)
        assert observations["walk"][0].tolist() == observations["walk"][1].tolist()
        observations, *_ = vec.step(actions(1, 1))
        assert observations["walk"][0].tolist() == observations["walk"][1].tolist()
    finally:
        vec.close()


def test_a_single_env_of_a_pool_goes_back_as_well(hosts: Hosts) -> None:
    env = zmqcarla.make_env(WALK, address=hosts.address)
    try:
        env.reset(seed=2)
        env.step(actions(1)[0])
        snapshot = env.save_snapshot()
        after, *_ = env.step(actions(2)[0])
        data = env.export_snapshot(snapshot)
        env.delete_snapshot(snapshot)
        assert env.list_snapshots() == []
        assert env.import_snapshot(data) == snapshot
        observation, info = env.restore_snapshot(snapshot)
        assert (observation["walk"][0], info["restore"]["level"]) == (1, "state")
        again, *_ = env.step(actions(2)[0])
        assert again["walk"].tolist() == after["walk"].tolist()
    finally:
        env.close()


def test_a_rebuild_whose_reset_raised_can_be_asked_for_again(make: Any) -> None:
    vec = make()
    vec.reset(seed=1)
    vec.step(actions(1, 2, 3, ask=snapshot_envs.DIE, row=1))
    for _ in range(2):
        with pytest.raises(SnapshotError, match="'none'"):
            vec.reset(options={"snapshot": "none", "level": "state", "reset_mask": np.arange(N) == 1})
        assert vec.lost_rows == [1]
    vec.fork(0)
    assert vec.lost_rows == []
    assert walk(vec, 1)[0][1][0] == 2
