"""The vector env over a real pool of ordinary envs: broker, supervisor and env processes, sockets and segments."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import client_envs
import gymnasium
import numpy as np
import psutil
import pytest
from conftest import NewVecEnv, wait_until
from gymnasium.utils import seeding
from pools import ready_pool, workers_of

import zmqcarla
from zmqcarla.broker.errors import (
    BrokerUnavailableError,
    InvalidActionError,
    LeaseRefusedError,
    LeaseTimeoutError,
    UnserialisableError,
)
from zmqcarla.lease import ask_status
from zmqcarla.pool import LocalPool
from zmqcarla.shm.segment import SegmentSpaceError, sweep

COUNTER = "client_envs:Counter-v0"
OPTIONS: dict[str, Any] = {"simulator": "none", "env_patterns": ("client_envs:*", "gone:*", "CartPole-v1")}


@pytest.fixture(scope="module")
def pool() -> Iterator[LocalPool]:
    with ready_pool(4, *OPTIONS["env_patterns"], step_timeout_s=2.0) as pool:
        yield pool


@pytest.fixture
def make(new_vec_env: NewVecEnv, pool: LocalPool, transport: str) -> Any:
    def make(n: int = 2, env: str = COUNTER, kwargs: Any = None, **options: Any) -> zmqcarla.VectorEnv:
        return new_vec_env(n, env, kwargs, pool.address, **{"transport": transport, **options})

    return make


def _actions(*rows: tuple[float, float]) -> np.ndarray[Any, Any]:
    return np.array(rows, np.float32)


def test_reset_and_steps_bring_every_row_its_own(make: Any) -> None:
    vec = make(3)
    observations, infos = vec.reset(seed=5, options={"a": 1})
    assert observations["image"].shape == (3, 3, 4, 5)
    assert infos["options"].tolist() == ["{'a': 1}"] * 3
    expected = [float(seeding.np_random(5 + row)[0].integers(1000)) for row in range(3)]
    assert observations["vector"][:, 3].tolist() == expected
    for step in range(1, 10):
        observations, rewards, terminated, truncated, infos = vec.step(_actions((step, 0), (-step, 0), (9, 0)))
        assert observations["vector"][:, 1].tolist() == [step] * 3
        assert observations["vector"][:, 2].tolist() == [step, -step, 9]
        assert (observations["image"] == step).all()
        assert observations["nested"][0].tolist() == [step] * 3
        assert rewards.tolist() == [step, -step, 9]
        assert infos["steps"].tolist() == [step] * 3
        assert not terminated.any()
        assert not truncated.any()
    assert vec.statistics()["rows_in_shared_memory"] == 3


def test_next_step_autoreset_ignores_the_action_of_the_reset_step(make: Any) -> None:
    vec = make(2, kwargs={"length": 3})
    assert vec.metadata["autoreset_mode"] is gymnasium.vector.AutoresetMode.NEXT_STEP
    vec.reset()
    for _ in range(2):
        vec.step(_actions((5, 0), (6, 0)))
    observations, _, terminated, _, _ = vec.step(_actions((5, 0), (6, 0)))
    assert terminated.all()
    episode = observations["vector"][0, 0]
    observations, rewards, terminated, _, infos = vec.step(_actions((5, 0), (6, 0)))
    assert rewards.tolist() == [0, 0]
    assert not terminated.any()
    assert observations["vector"][:, :2].tolist() == [[episode + 1, 0]] * 2
    assert "options" in infos


def test_held_batches_are_never_overwritten(make: Any) -> None:
    vec = make(2)
    held = [vec.reset()[0]]
    held += [vec.step(_actions((step, 0), (step, 0)))[0] for step in range(1, 12)]
    assert [int(batch["vector"][0, 1]) for batch in held] == list(range(12))
    assert [int(batch["image"][1, 2, 3, 4]) for batch in held] == list(range(12))
    assert vec.statistics()["reserve_used"] > 0
    del held
    before = vec.statistics()["reserve_used"]
    for _ in range(10):
        vec.step(_actions((0, 0), (0, 0)))
    assert vec.statistics()["reserve_used"] == before


def test_a_space_without_a_fixed_size_travels_inline(make: Any) -> None:
    vec = make(2, kwargs={"text": True}, transport="auto")
    observations, _ = vec.reset()
    assert observations["text"] == ("step 0", "step 0")
    observations, *_ = vec.step(_actions((0, 0), (0, 0)))
    assert observations["text"] == ("step 1", "step 1")
    assert observations["vector"][0, 1] == 1


def test_a_killed_worker_is_a_truncated_row_and_the_run_goes_on(make: Any) -> None:
    vec = make(3)
    vec.reset(seed=1)
    before, *_ = vec.step(_actions((1, 0), (2, 0), (3, 0)))
    observations, rewards, terminated, truncated, infos = vec.step(_actions((1, 0), (2, client_envs.DIE), (3, 0)))
    assert truncated.tolist() == [False, True, False]
    assert not terminated.any()
    assert rewards.tolist() == [1, 0, 3]
    np.testing.assert_array_equal(observations["vector"][1], before["vector"][1])
    assert observations["vector"][[0, 2], 1].tolist() == [2, 2]
    lost = infos["worker_lost"]
    assert lost["exit_code"].tolist()[1] == -signal.SIGKILL
    assert "SIGKILL" in lost["reason"][1]
    assert infos["_worker_lost"].tolist() == [False, True, False]
    observations, rewards, _, truncated, _ = vec.step(_actions((1, 0), (2, 0), (3, 0)))
    assert observations["vector"][:, 1].tolist() == [3, 0, 3]
    assert observations["vector"][1, 0] == 1  # a new process: its first episode
    assert not truncated.any()
    assert rewards.tolist() == [1, 0, 3]
    observations, *_ = vec.step(_actions((1, 0), (2, 0), (3, 0)))
    assert observations["vector"][:, 1].tolist() == [4, 1, 4]


def test_a_worker_killed_between_steps_is_noticed_by_the_next(make: Any, pool: LocalPool) -> None:
    vec = make(2)
    vec.reset()
    os.kill(vec.call("pid")[0], signal.SIGKILL)
    workers = vec.statistics()["workers"]
    wait_until(
        lambda: next(w for w in workers_of(pool) if w["worker_id"] == workers[0])["state"] != "ready",
        "the broker to hear of the death",
    )
    _, _, _, truncated, infos = vec.step(_actions((0, 0), (0, 0)))
    assert truncated.tolist() == [True, False]
    assert infos["_worker_lost"].tolist() == [True, False]
    observations, *_ = vec.step(_actions((0, 0), (0, 0)))
    assert observations["vector"][:, 1].tolist() == [0, 2]


def test_reset_brings_a_lost_row_back(make: Any) -> None:
    vec = make(2)
    vec.reset()
    vec.step(_actions((0, client_envs.DIE), (0, 0)))
    observations, _ = vec.reset()
    assert observations["vector"][:, 1].tolist() == [0, 0]


def test_a_hang_is_cut(make: Any) -> None:
    vec = make(2)
    vec.reset()
    observations, _, _, truncated, infos = vec.step(_actions((0, 0), (0, client_envs.HANG)))
    assert truncated.tolist() == [False, True]
    assert "2 s" in infos["worker_lost"]["reason"][1]
    observations, *_ = vec.step(_actions((0, 0), (0, 0)))
    assert observations["vector"][:, 1].tolist() == [2, 0]


def test_an_exception_in_the_env_keeps_its_type_and_traceback(make: Any) -> None:
    vec = make(2)
    vec.reset()
    with pytest.raises(ValueError, match="asked to raise") as caught:
        vec.step(_actions((0, 0), (0, client_envs.RAISE)))
    assert "row 1" in str(caught.value)
    assert "client_envs.py" in str(caught.value)
    observations, _ = vec.reset()
    assert observations["vector"][:, 1].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("actions", "text"),
    [
        (np.zeros((2, 3), np.float32), r"shape \(2, 2\).*found \(2, 3\)"),
        (np.zeros((3, 2), np.float32), r"shape \(2, 2\).*found \(3, 2\)"),
        (np.array([[0, np.nan], [0, 0]]), "expected finite actions.*row 0"),
        ("left", "expected actions of dtype float32"),
    ],
)
def test_a_bad_action_is_named_and_no_env_is_stepped(make: Any, actions: Any, text: str) -> None:
    vec = make(2)
    vec.reset()
    with pytest.raises(InvalidActionError, match=text):
        vec.step(actions)
    observations, *_ = vec.step(_actions((0, 0), (0, 0)))
    assert observations["vector"][:, 1].tolist() == [1, 1]


def test_calls_out_of_order_raise_gymnasiums_errors(make: Any) -> None:
    vec = make(2)
    with pytest.raises(gymnasium.error.ResetNeeded):
        vec.step(_actions((0, 0), (0, 0)))
    vec.reset()
    with pytest.raises(gymnasium.error.NoAsyncCallError):
        vec.step_wait()
    vec.step_async(_actions((0, 0), (0, 0)))
    with pytest.raises(gymnasium.error.AlreadyPendingCallError):
        vec.reset()
    vec.step_wait()
    vec.close()
    with pytest.raises(gymnasium.error.ClosedEnvironmentError):
        vec.reset()


def test_views_outlive_the_vector_env(make: Any) -> None:
    vec = make(2)
    observations, _ = vec.reset(seed=3)
    image, marker = observations["image"], observations["vector"][0, 3]
    vec.close()
    del vec
    assert (image == 0).all()
    assert observations["vector"][0, 3] == marker


def test_a_constructor_that_fails_says_so_and_frees_the_rows(make: Any, pool: LocalPool) -> None:
    with pytest.raises(ValueError, match="asked to fail: please"):
        make(2, kwargs={"fail": "please"})
    wait_until(lambda: not ask_status(pool.address)["leases"], "the lease to end")
    assert make(4).num_envs == 4


def test_kwargs_that_cannot_travel_are_named(make: Any) -> None:
    with pytest.raises(UnserialisableError, match="length"):
        make(1, kwargs={"length": {1, 2}})


def test_more_envs_than_the_pool_has_time_out_with_numbers(make: Any) -> None:
    with pytest.raises(LeaseTimeoutError, match=r"expected 5 x .* within 0.5 s, found 4 suitable workers"):
        make(5, lease_timeout_s=0.5)


def test_an_unknown_env_id_is_refused(make: Any) -> None:
    with pytest.raises(LeaseRefusedError, match="NoSuchEnv-v9"):
        make(1, env="NoSuchEnv-v9")
    with pytest.raises(gymnasium.error.Error, match="Nothing"):
        make(1, env="client_envs:Nothing-v0")
    with pytest.raises(ModuleNotFoundError, match="gone"):
        make(1, env="gone:Env-v0")


def test_nobody_at_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zmqcarla.lease._ANSWER_TIMEOUT_S", 0.5)
    with pytest.raises(BrokerUnavailableError, match="zmqcarla up"):
        zmqcarla.make_vec_env(1, address="ipc:///tmp/zmqcarla-nobody.sock")


def test_too_little_shared_memory_says_how_much(make: Any) -> None:
    room = os.statvfs("/dev/shm")
    too_many = room.f_blocks * room.f_frsize // 16  # 16 bytes: the sequence numbers alone of two rows
    with pytest.raises(SegmentSpaceError, match=r"needs [\d.]+ MiB, /dev/shm has [\d.]+ MiB free"):
        make(2, slots=too_many)
    assert make(2).reset()[0]["vector"].shape == (2, 4)


def _pool_processes() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "zmqcarla.pool" in child.cmdline()]


def test_a_private_pool_ends_with_its_vector_env() -> None:
    before = _pool_processes()
    vec = zmqcarla.make_vec_env(1, COUNTER, pool_options=OPTIONS)
    assert len(_pool_processes()) == len(before) + 1
    vec.reset()
    vec.close()
    assert _pool_processes() == before


_FORKING_CLIENT = """
import os, signal, sys, zmqcarla
options = dict(simulator="none", env_patterns=("client_envs:*",))
vec = zmqcarla.make_vec_env(1, "client_envs:Counter-v0", pool_options=options)
child = os.fork()
if child == 0:
    signal.pause()
if sys.argv[1] == "close":
    vec.close()
print(child, flush=True)
if sys.argv[1] == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("ending", ["close", "kill"])
def test_a_private_pool_ends_although_a_fork_of_its_client_lives(ending: str) -> None:
    before = _pools_of_this_run()
    command = [sys.executable, "-c", _FORKING_CLIENT, ending]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as client:
        assert client.stdout is not None
        fork = int(client.stdout.readline())
        client.wait(20)
        wait_until(lambda: _pools_of_this_run() <= before, "the pool to end")
        os.kill(fork, signal.SIGKILL)
    sweep()  # the fork held the lock of the arena


def _pools_of_this_run() -> set[str]:
    return {path.name for path in Path(os.environ["XDG_RUNTIME_DIR"], "zmqcarla").glob("pool-*.sock")}


def test_a_remote_env_is_a_plain_gymnasium_env(pool: LocalPool) -> None:
    env = zmqcarla.make_env(COUNTER, {"length": 2}, address=pool.address)
    observation, info = env.reset(seed=4)
    assert observation["vector"].shape == (4,)
    assert observation["nested"][1].shape == (3,)
    assert info["options"] == "None"
    observation, reward, terminated, truncated, info = env.step(np.array([3, 0], np.float32))
    assert (reward, terminated, truncated, info) == (3.0, False, False, {"steps": 1})
    observation, _, terminated, _, _ = env.step(np.array([3, 0], np.float32))
    assert terminated
    assert observation in env.observation_space
    assert env.reset()[0]["vector"][1] == 0
    env.close()
