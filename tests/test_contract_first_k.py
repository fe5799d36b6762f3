"""send and recv: the rows that are done first, none starved, none lost, and back to whole steps."""

from __future__ import annotations

import collections
import contextlib
import functools
import multiprocessing
import os
import signal
from collections.abc import Iterator
from typing import Any

import contract_envs
import numpy as np
import pytest
from conftest import NewVecEnv, wait_until
from gymnasium.error import AlreadyPendingCallError, NoAsyncCallError, ResetNeeded
from pools import ready_pool, workers_of

import zmqcarla
from zmqcarla.broker.errors import InvalidActionError
from zmqcarla.pool import LocalPool

SLOW = "contract_envs:Slow-v0"
N = 4


@pytest.fixture(scope="module")
def pool() -> Iterator[LocalPool]:
    with ready_pool(N, "contract_envs:*", step_timeout_s=5.0) as pool:
        yield pool


@pytest.fixture
def make(new_vec_env: NewVecEnv, pool: LocalPool, transport: str) -> Any:
    def make(**options: Any) -> zmqcarla.VectorEnv:
        more = {name: options.pop(name) for name in ("mean_s", "length", "text") if name in options}
        kwargs = [{"name": row, **more} for row in range(N)]
        return new_vec_env(N, SLOW, kwargs, pool.address, **{"transport": transport, **options})

    return make


def actions(*values: float) -> np.ndarray[Any, Any]:
    return np.array(values, np.float32)[:, None]


def test_every_result_belongs_to_its_row_and_no_row_starves(make: Any) -> None:
    vec = make()
    vec.reset(seed=1)
    vec.send(actions(0, 0, 0, 0))
    steps: collections.Counter[int] = collections.Counter()
    sent = dict.fromkeys(range(N), 0.0)
    held: list[tuple[Any, Any]] = []
    for turn in range(300):
        observations, rewards, terminated, truncated, infos = vec.recv(2)
        ids = infos["env_id"]
        assert (ids.dtype, ids.shape) == (np.int64, (2,))
        assert (rewards.dtype, terminated.dtype, truncated.dtype) == (np.float64, np.bool_, np.bool_)
        assert rewards.tolist() == observations[:, 0].tolist() == ids.tolist()
        for place, row in enumerate(ids.tolist()):
            steps[row] += 1
            assert observations[place].tolist() == [row, 1, steps[row], sent[row]]
            assert infos["steps"][place] == steps[row]
            assert ("even" in infos and bool(infos["even"][place])) == (row % 2 == 0)
            sent[row] = float(turn % 3)
        held.append((observations, observations.copy()))
        vec.send(actions(*[sent[row] for row in ids.tolist()]), ids)
    assert min(steps.values()) > 75  # of 150 on average
    for observations, copy in held:
        np.testing.assert_array_equal(observations, copy)
    vec.recv(N)
    assert vec.call("name") == tuple(range(N))


def test_done_rows_come_in_the_order_in_which_they_were_done(make: Any) -> None:
    vec = make(mean_s=0.0)
    vec.reset()
    for row in (2, 0, 3, 1):
        vec.send(actions(0), [row])
        wait_until(functools.partial(_is_done, vec, row), "the row to be done")
    assert vec.recv(3)[4]["env_id"].tolist() == [2, 0, 3]
    vec.send(actions(0, 0), [2, 0])
    assert vec.recv(1)[4]["env_id"].tolist() == [1]
    assert sorted(vec.recv(2)[4]["env_id"].tolist()) == [0, 2]


def _is_done(vec: zmqcarla.VectorEnv, row: int) -> bool:
    first_k: Any = vec._first_k  # pyright: ignore[reportPrivateUsage]
    first_k._look()
    return row in first_k._done_ns


def test_whole_steps_go_on_from_where_the_rows_are(make: Any) -> None:
    vec = make(mean_s=0.0)
    vec.reset()
    vec.step(actions(1, 1, 1, 1))
    vec.send(actions(1, 2), [1, 3])
    for name, arguments in {"step": (actions(0, 0, 0, 0),), "reset": (), "call": ("name",)}.items():
        with pytest.raises(AlreadyPendingCallError, match="while waiting for a pending call to `recv` to complete"):
            getattr(vec, name)(*arguments)
    with pytest.raises(AlreadyPendingCallError, match=r"rows \[3\]"):
        vec.send(actions(0, 0), [0, 3])
    vec.recv(1)
    vec.recv(1)
    vec.send(actions(5), [3])
    vec.recv(1)
    observations, _ = vec.reset(options={"reset_mask": np.array([True, False, False, False])})
    assert observations.tolist() == [[0, 2, 0, 0], [1, 1, 2, 1], [2, 1, 1, 1], [3, 1, 3, 5]]
    observations, *_ = vec.step(actions(6, 6, 6, 6))
    assert observations[:, 2].tolist() == [1, 3, 2, 4]
    vec.send(actions(7), [0])
    assert vec.recv(1)[0].tolist() == [[0, 2, 2, 7]]


def test_a_row_whose_episode_ended_is_reset_by_the_next_send(make: Any) -> None:
    vec = make(mean_s=0.0, length=2)
    vec.reset()
    seen = []
    for _ in range(5):
        vec.send(actions(1), [2])
        observations, rewards, terminated, *_ = vec.recv(1)
        seen.append((*observations[0, 1:3].tolist(), rewards[0], bool(terminated[0])))
    assert seen == [(1, 1, 2, False), (1, 2, 2, True), (2, 0, 0, False), (2, 1, 2, False), (2, 2, 2, True)]
    observations, *_ = vec.step(actions(0, 0, 0, 0))
    assert observations[:, 1:3].tolist() == [[1, 1], [1, 1], [3, 0], [1, 1]]


def test_same_step_brings_final_observations(make: Any) -> None:
    vec = make(mean_s=0.0, length=1, autoreset_mode="SameStep")
    vec.reset()
    vec.send(actions(4, 5), [1, 2])
    observations, _, terminated, _, infos = vec.recv(2)
    vec.send(actions(6, 7), [1, 2])
    vec.recv(2)
    assert terminated.all()
    assert observations[:, 1:3].tolist() == [[2, 0]] * 2
    finals = {int(final[0]): final.tolist() for final in infos["final_obs"]}
    assert finals == {1: [1, 1, 1, 4], 2: [2, 1, 1, 5]}


def _incarnation(pool: LocalPool, worker_id: str) -> int:
    return next(int(worker["incarnation"]) for worker in workers_of(pool) if worker["worker_id"] == worker_id)


def test_a_worker_killed_during_recv_is_a_truncated_row(make: Any, pool: LocalPool) -> None:
    vec = make(mean_s=0.0)
    vec.reset()
    vec.send(actions(5), [1])
    vec.recv(1)
    pids = vec.call("pid")
    vec.send(actions(1, contract_envs.HANG, 1, 1))
    assert 1 not in vec.recv(3)[4]["env_id"]
    worker = vec.statistics()["workers"][1]
    before = _incarnation(pool, worker)
    os.kill(pids[1], signal.SIGKILL)
    observations, rewards, terminated, truncated, infos = vec.recv(1, timeout=20)
    assert infos["env_id"].tolist() == [1]
    assert (rewards[0], terminated[0], truncated[0]) == (0, False, True)
    assert observations.tolist() == [[1, 1, 1, 5]]
    assert "SIGKILL" in infos["worker_lost"]["reason"][0]
    wait_until(lambda: _incarnation(pool, worker) > before, "the new process")
    vec.send(actions(1, 1, 1, 1))
    steps = {}
    for _ in range(N):
        observations, *_, truncated, infos = vec.recv(1)
        steps[int(infos["env_id"][0])] = observations[0, 1:3].tolist()
        assert not truncated.any(), infos
    assert steps == {0: [1, 2], 1: [1, 0], 2: [1, 2], 3: [1, 2]}
    observations, *_ = vec.step(actions(1, 1, 1, 1))
    assert observations[:, 2].tolist() == [3, 1, 3, 3]


def test_a_lost_row_in_disabled_mode_is_idle_until_it_is_reset(make: Any) -> None:
    vec = make(mean_s=0.0, autoreset_mode="Disabled")
    vec.reset()
    os.kill(vec.call("pid")[2], signal.SIGKILL)
    vec.send(actions(1), [2])
    assert vec.recv(1, timeout=20)[4]["worker_lost"]["exit_code"].tolist() == [-9]
    vec.send(actions(1, 1), [1, 2])
    _, _, _, truncated, infos = vec.recv(2)
    idle = dict(zip(infos["env_id"].tolist(), infos["row_idle"].tolist(), strict=True))
    assert idle == {1: False, 2: True}
    assert truncated.sum() == 1
    vec.reset(options={"reset_mask": np.array([False, False, True, False])})
    vec.send(actions(1), [2])
    assert vec.recv(1)[0].tolist() == [[2, 1, 1, 1]]


def _receive_all(vec: zmqcarla.VectorEnv) -> None:
    with contextlib.suppress(NoAsyncCallError):
        while True:
            vec.recv(1)


def test_an_env_that_raises_costs_its_row_one_step(make: Any) -> None:
    vec = make(mean_s=0.0)
    vec.reset()
    vec.send(actions(1, contract_envs.RAISE, 1, 1))
    with pytest.raises(ValueError, match="asked to raise"):
        _receive_all(vec)
    _receive_all(vec)
    assert vec.step(actions(1, 1, 1, 1))[0][:, 2].tolist() == [2, 1, 2, 2]


def test_a_recv_that_times_out_loses_nothing(make: Any) -> None:
    vec = make(mean_s=0.2)
    vec.reset()
    vec.send(actions(1, 1, 1, 1))
    with pytest.raises(multiprocessing.TimeoutError, match=r"`recv` has timed out after 0 second"):
        vec.recv(4, timeout=0)
    assert sorted(vec.recv(4)[4]["env_id"].tolist()) == [0, 1, 2, 3]


def test_a_space_without_a_fixed_size(make: Any) -> None:
    vec = make(mean_s=0.0, text=True, transport="auto")
    vec.reset()
    vec.send(actions(1, 2), [3, 0])
    observations, *_, infos = vec.recv(2)
    assert list(observations["text"]) == [f"{row}:1" for row in infos["env_id"]]
    vec.send(actions(1), [3])
    assert vec.recv(1)[0]["text"] == ("3:2",)
    assert vec.step(actions(0, 0, 0, 0))[0]["text"] == ("0:2", "1:1", "2:1", "3:3")


def test_misuse_is_named(make: Any) -> None:
    vec = make(mean_s=0.0)
    with pytest.raises(ResetNeeded, match=r"before send\(\)"):
        vec.send(actions(0, 0, 0, 0))
    vec.reset()
    with pytest.raises(NoAsyncCallError):
        vec.recv(1)
    for ids in ([0, 0], [4, 1], [-1, 0], [0.5, 1], [[0, 1]]):
        with pytest.raises(ValueError, match="expected env_ids"):
            vec.send(actions(0, 0), ids)
    for bad in (actions(0, 0, 0), actions(0, np.nan)):
        with pytest.raises(InvalidActionError):
            vec.send(bad, [0, 1])
    vec.send(actions(0, 0), [0, 1])
    for k in (0, 3):
        with pytest.raises(ValueError, match="expected k from 1 to the 2 rows"):
            vec.recv(k)
    vec.recv(2)
    vec.step_async(actions(0, 0, 0, 0))
    with pytest.raises(AlreadyPendingCallError, match="`send` while waiting for a pending call to `step`"):
        vec.send(actions(0), [0])
    vec.step_wait()
    held = [vec.step(actions(0, 0, 0, 0))[0] for _ in range(6)]
    with pytest.raises(RuntimeError, match="two free slots"):
        vec.send(actions(0), [0])
    del held
    vec.send(actions(0), [0])
    with pytest.warns(UserWarning, match="pending call to `recv`"):
        vec.close()
