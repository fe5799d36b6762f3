"""What a training loop sees when something dies, stops or hangs: real processes, real signals, both transports.

The rows of docs/architecture.md's table of faults; the supervisor's own part is in test_worker_supervisor.py, the
simulator's in test_worker_embedded.py.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import client_envs
import fault_envs
import numpy as np
import psutil
import pytest
from conftest import NewVecEnv, wait_until
from pools import Hosts, process_of_private_pool, ready_pool

import zmqcarla
from zmqcarla.broker.errors import LeaseLostError, WorkerLostError
from zmqcarla.lease import ask_status
from zmqcarla.pool import LocalPool
from zmqcarla.workers import ports

COUNTER, FAULTY = "client_envs:Counter-v0", "fault_envs:Faulty-v0"
OPTIONS: dict[str, Any] = {"simulator": "none", "env_patterns": ("client_envs:*", "fault_envs:*")}


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    """Two workers that may die as often as they like."""
    limits: dict[str, Any] = {"max_restarts": 1000, "stable_start_s": 0.0, "step_timeout_s": 1.5}
    pool = Hosts(tmp_path_factory.mktemp("faults"), workers=2, ttl_s=30.0, **limits)
    yield pool
    pool.close()


@pytest.fixture
def new_hosts(tmp_path: Path) -> Iterator[Any]:
    """`Hosts` that are closed after the test."""
    made: list[Hosts] = []

    def new_hosts(**options: Any) -> Hosts:
        made.append(Hosts(tmp_path, **options))
        return made[-1]

    yield new_hosts
    for hosts in made:
        hosts.close()


@pytest.fixture
def vec(new_vec_env: NewVecEnv, pool: Hosts, transport: str) -> zmqcarla.VectorEnv:
    vec = new_vec_env(2, FAULTY, None, pool.address, transport=transport)
    vec.reset()
    return vec


def _actions(*rows: tuple[float, float]) -> np.ndarray[Any, Any]:
    return np.array(rows, np.float32)


STILL = _actions((0, 0), (0, 0))


def _counts(observations: Any) -> list[list[float]]:
    """Episode, step and echo of each row."""
    counts: list[list[float]] = observations["vector"][:, :3].tolist()
    return counts


def _check_lost(result: Any, row: int, reason: str) -> None:
    """One row is truncated with its last observation, and the other one was stepped."""
    _, rewards, terminated, truncated, infos = result
    assert truncated.tolist() == [number == row for number in range(2)]
    assert not terminated.any()
    assert rewards[row] == 0
    assert infos["_worker_lost"].tolist() == truncated.tolist()
    assert reason in infos["worker_lost"]["reason"][row]


# --- the env process ---


def test_a_row_that_was_written_but_not_told_is_lost(vec: zmqcarla.VectorEnv) -> None:
    vec.step(_actions((1, 0), (2, 0)))
    result = vec.step(_actions((3, 0), (4, fault_envs.DIE_AFTER_WRITING)))
    _check_lost(result, 1, "killed by SIGKILL")
    assert _counts(result[0]) == [[1, 2, 3], [1, 1, 2]]  # not what the dead process had written
    assert _counts(vec.step(_actions((5, 0), (6, 0)))[0]) == [[1, 3, 5], [1, 0, 0]]
    assert _counts(vec.step(_actions((7, 0), (8, 0)))[0]) == [[1, 4, 7], [1, 1, 8]]


def test_a_row_whose_bell_was_never_rung_is_delivered_or_lost_whole(vec: zmqcarla.VectorEnv, transport: str) -> None:
    vec.step(_actions((1, 0), (2, 0)))
    result = vec.step(_actions((3, 0), (4, fault_envs.DIE_BEFORE_POSTING)))
    told = 2
    if transport == "shm" and not result[3].any():  # it was done, and the client saw that before the supervisor did
        assert _counts(result[0]) == [[1, 2, 3], [1, 2, 4]]
        assert result[1].tolist() == [3, 4]
        result, told = vec.step(_actions((3, 0), (4, 0))), 3
    _check_lost(result, 1, "killed by SIGKILL")
    assert _counts(result[0]) == [[1, told, 3], [1, told - 1, 2 * told - 2]]
    assert _counts(vec.step(_actions((5, 0), (6, 0)))[0]) == [[1, told + 1, 5], [1, 0, 0]]


def test_a_process_stopped_in_a_step_is_dead_before_its_row_is_given_away(vec: zmqcarla.VectorEnv) -> None:
    pid = vec.call("pid")[1]
    result = vec.step(_actions((1, 0), (2, fault_envs.STOP)))
    assert not psutil.pid_exists(pid)  # so nothing can continue it any more
    _check_lost(result, 1, "of stepping")
    assert _counts(result[0]) == [[1, 1, 1], [1, 0, 0]]
    for step in range(2, 6):
        observations, *_, truncated, _ = vec.step(_actions((1, 0), (2, 0)))
        assert observations["vector"][:, 1].tolist() == [step, step - 2]
        assert not truncated.any()


def test_a_process_stopped_between_steps_is_cut_as_well(vec: zmqcarla.VectorEnv) -> None:
    pid = vec.call("pid")[1]
    os.kill(pid, signal.SIGSTOP)
    _check_lost(vec.step(STILL), 1, "stopped by a signal")
    assert not psutil.pid_exists(pid)
    assert _counts(vec.step(STILL)[0]) == [[1, 2, 0], [1, 0, 0]]


def test_a_process_continued_in_time_goes_on(vec: zmqcarla.VectorEnv) -> None:
    pid = vec.call("pid")[1]
    for step in range(1, 6):
        os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED, "the process to stop")
        vec.step_async(_actions((step, 0), (-step, 0)))
        os.kill(pid, signal.SIGCONT)
        observations, rewards, *_ = vec.step_wait()
        assert _counts(observations) == [[1, step, step], [1, step, -step]]
        assert rewards.tolist() == [step, -step]


def test_one_of_sixteen_dies_and_fifteen_are_delivered(new_vec_env: NewVecEnv) -> None:
    n = 16
    actions = np.zeros((n, 2), np.float32)
    actions[:, 0] = np.arange(n)
    with ready_pool(n, "client_envs:*") as pool:
        for transport in ("shm", "zmq"):
            vec = new_vec_env(n, COUNTER, None, pool.address, transport=transport)
            vec.reset()
            vec.step(actions)
            _kill_one_of(vec, actions, 5)
            vec.close()


def _kill_one_of(vec: zmqcarla.VectorEnv, actions: Any, victim: int) -> None:
    pids = vec.call("pid")
    others = np.arange(vec.num_envs) != victim
    actions[victim, 1] = client_envs.HANG
    vec.step_async(actions)
    os.kill(pids[victim], signal.SIGKILL)
    observations, rewards, _, truncated, infos = vec.step_wait()
    assert np.flatnonzero(truncated).tolist() == [victim]
    np.testing.assert_array_equal(rewards, np.where(others, actions[:, 0], 0))
    np.testing.assert_array_equal(observations["vector"][:, 1], np.where(others, 2, 1))
    assert infos["worker_lost"]["exit_code"][victim] == -signal.SIGKILL
    actions[victim, 1] = 0
    for step in range(3, 6):
        observations, *_, truncated, _ = vec.step(actions)
        np.testing.assert_array_equal(observations["vector"][:, 1], np.where(others, step, step - 3))
        assert not truncated.any()


def _one_row_each(hosts: Hosts) -> list[zmqcarla.VectorEnv]:
    """A vector env of one row over shm, and one over zmq."""
    vecs = [hosts.new_vec_env(1, COUNTER, transport) for transport in ("shm", "zmq")]
    for vec in vecs:
        vec.reset()
    return vecs


def test_a_spent_restart_budget_names_worker_and_log_and_leaves_others_alone(new_hosts: Any) -> None:
    hosts = new_hosts(workers=3, max_restarts=0)
    vecs = _one_row_each(hosts)
    other = hosts.new_vec_env(1, COUNTER, "auto")
    other.reset()
    for step, vec in enumerate(vecs, start=1):
        (worker,) = vec.statistics()["workers"]
        with pytest.raises(WorkerLostError) as caught:
            vec.step(_actions((0, client_envs.DIE)))
        assert f"worker {worker}) will not come back: killed by SIGKILL" in str(caught.value)
        assert str(hosts.logs / f"{worker}.log") in str(caught.value)
        assert vec.closed
        assert _counts(other.step(_actions((1, 0)))[0]) == [[1, step, 1]]
    other.close()


# --- the simulator ---


def test_simulators_that_die_and_hang_are_truncated_rows() -> None:
    with contextlib.closing(LocalPool(2, simulator="embedded", base_port=22600, step_timeout_s=4.0)) as pool:
        vec = zmqcarla.make_vec_env(2, env_kwargs={"image_size": (64, 48)}, address=pool.address)
        vec.reset(seed=1)
        forward = np.array([[0, 0.5, 0]] * 2, np.float32)
        vec.step(forward)
        for port, number in ((22600, signal.SIGKILL), (22604, signal.SIGSTOP)):
            simulator = ports.listener_pid(port)
            assert simulator is not None
            os.kill(simulator, number)
        reasons: dict[int, str] = {}
        while len(reasons) < 2:
            observations, _, _, truncated, infos = vec.step(forward)
            for row in np.flatnonzero(truncated).tolist():
                reasons[row] = infos["worker_lost"]["reason"][row]
        vec.step(forward)
        observations, _, _, truncated, _ = vec.step(forward)
        assert not truncated.any()
        assert observations["rgb"].shape == (2, 3, 48, 64)
        vec.close()


# --- the supervisor and its host ---


def test_a_killed_supervisor_costs_its_rows_one_episode(new_vec_env: NewVecEnv, transport: str) -> None:
    vec = new_vec_env(2, COUNTER, transport=transport, pool_options=OPTIONS)
    vec.reset()
    supervisor = process_of_private_pool("zmqcarla.workers")
    env_processes = supervisor.children()
    supervisor.kill()
    psutil.wait_procs(env_processes, timeout=20)
    _, _, _, truncated, _ = vec.step(STILL)
    assert truncated.all()
    assert _counts(vec.step(STILL)[0]) == [[1, 0, 0], [1, 0, 0]]


def _phases_and_steps(address: str) -> list[tuple[str, int]]:
    return [(one["phase"], one["steps"]) for one in ask_status(address)["workers"]]


def test_a_row_that_was_done_when_its_supervisor_died_is_lost_in_the_next_step(new_hosts: Any, transport: str) -> None:
    hosts = new_hosts(workers=2, ttl_s=30.0)
    vec = hosts.new_vec_env(2, COUNTER, transport)
    vec.reset()
    pids = vec.call("pid")
    vec.step_async(_actions((1, 0), (2, client_envs.HANG)))
    os.kill(pids[1], signal.SIGSTOP)
    if transport == "shm":
        board: Any = vec._rows._board._board  # pyright: ignore
        wait_until(lambda: board.rows["done_seq"][0] == board.rows["go_seq"][0], "row 0 to be done")
    else:  # a heartbeat that left after row 0's reply reached the broker after it
        wait_until(lambda: ("idle", 1) in _phases_and_steps(hosts.address), "row 0 to be done")
    hosts.supervisors[0].kill()
    hosts.supervisors[0].wait(20)
    hosts.start_supervisor()
    _check_lost(vec.step_wait(), 1, "its supervisor was replaced")
    observations, _, _, truncated, infos = vec.step(STILL)
    assert truncated.tolist() == [True, False]
    assert infos["worker_lost"]["reason"][0] == "its supervisor was replaced"
    assert _counts(observations) == [[1, 1, 1], [1, 0, 0]]
    assert _counts(vec.step(STILL)[0]) == [[1, 0, 0], [1, 1, 0]]
    vec.close()


def test_a_stopped_supervisor_tells_of_a_death_when_it_goes_on(vec: zmqcarla.VectorEnv, pool: Hosts) -> None:
    pid = vec.call("pid")[1]
    (supervisor,) = pool.supervisors
    supervisor.suspend()
    for step in range(1, 4):
        assert _counts(vec.step(_actions((step, 0), (step, 0)))[0]) == [[1, step, step]] * 2
    vec.step_async(_actions((4, 0), (4, client_envs.HANG)))
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: psutil.Process(pid).status() == psutil.STATUS_ZOMBIE, "the death")
    supervisor.resume()
    result = vec.step_wait()
    _check_lost(result, 1, "killed by SIGKILL")
    assert _counts(result[0]) == [[1, 4, 4], [1, 3, 3]]
    assert _counts(vec.step(STILL)[0]) == [[1, 5, 0], [1, 0, 0]]


def test_a_host_that_vanishes_is_named(new_hosts: Any) -> None:
    """Its processes are stopped, as by a network that fails; when it comes back, its rows are not its own any more."""
    hosts = new_hosts(workers=2)
    vecs = _one_row_each(hosts)
    pids = [vec.call("pid")[0] for vec in vecs]
    hosts.supervisors[0].suspend()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    for vec in vecs:
        with pytest.raises(WorkerLostError, match=r"row 0 .*host0-.* silent for 2 s"):
            vec.step(STILL[:1])
        assert vec.closed
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    hosts.supervisors[0].resume()
    hosts.wait_ready(2)
    for vec in _one_row_each(hosts):
        for step in range(1, 4):
            assert vec.step(STILL[:1])[0]["vector"][:, 1].tolist() == [step]
        vec.close()


# --- the broker ---


def test_a_killed_broker_does_not_stop_the_run(transport: str) -> None:
    """Kill it while a step is under way; every step is done exactly once, and calls work again when it is back."""
    vec = zmqcarla.make_vec_env(2, COUNTER, transport=transport, pool_options=OPTIONS)  # type: ignore[arg-type]
    vec.reset()
    for step in range(1, 6):
        vec.step_async(_actions((step, 0), (step, 0)))
        if step == 3:
            process_of_private_pool("zmqcarla.broker").kill()
        observations, rewards, _, truncated, _ = vec.step_wait()
        assert observations["vector"][:, 1].tolist() == [step, step]
        assert rewards.tolist() == [step, step]
        assert not truncated.any()
    assert vec.call("steps") == (5, 5)
    vec.close()


def test_a_new_broker_learns_of_rows_that_never_stop_stepping(new_hosts: Any) -> None:
    hosts = new_hosts(workers=2)
    (vec, *others) = _one_row_each(hosts)
    hosts.broker.kill()
    hosts.broker.wait(20)
    hosts.start_broker()
    with concurrent.futures.ThreadPoolExecutor(1) as aside:
        ready = aside.submit(hosts.wait_ready, 2)
        while not ready.done():
            vec.step(STILL[:1])
    ready.result()
    for each in (vec, *others):
        each.close()


def test_broker_and_supervisor_die_together(new_hosts: Any) -> None:
    """Nobody is left to report the env processes; the next broker learns of it from their successors."""
    hosts = new_hosts(workers=2, ttl_s=30.0)
    vecs = _one_row_each(hosts)
    for vec in vecs:
        vec.step(_actions((3, 0)))
    for process in (hosts.broker, *hosts.supervisors):
        process.kill()
        process.wait(20)
    hosts.start_broker()
    hosts.start_supervisor()
    for vec in vecs:
        observations, _, _, truncated, infos = vec.step(STILL[:1])
        assert truncated.all()
        assert _counts(observations) == [[1, 1, 3]]
        assert infos["worker_lost"]["reason"].tolist() == ["its env process ended while the broker was away"]
        assert _counts(vec.step(STILL[:1])[0]) == [[1, 0, 0]]
        vec.close()


# --- the pool and the client ---


def test_a_client_whose_pool_is_gone_is_told(new_hosts: Any) -> None:
    hosts = new_hosts(workers=2)
    vecs = _one_row_each(hosts)
    pids = [vec.call("pid")[0] for vec in vecs]
    for process in (hosts.broker, *hosts.supervisors):
        process.kill()
        process.wait(20)
    wait_until(lambda: not any(psutil.pid_exists(pid) for pid in pids), "the env processes to end")
    for vec in vecs:
        with pytest.raises(LeaseLostError, match=r"silent for .* the pool is gone"):
            vec.step(STILL[:1])
        vec.close()


_TENANT = """
import sys
from pathlib import Path
from zmqcarla.lease import Lease
from zmqcarla.vector_env import VectorEnv
lease = Lease.acquire(sys.argv[1], 2, "client_envs:Counter-v0", timeout_s=40, ttl_s=1)
vec = VectorEnv(lease, "client_envs:Counter-v0", transport=sys.argv[2])
vec.reset()
print("ready", flush=True)
vec.step_async(vec.action_space.sample())
sys.stdin.read()
"""


def test_the_rows_of_a_killed_client_are_free_again(new_hosts: Any, transport: str) -> None:
    hosts = new_hosts(workers=2)
    command = [sys.executable, "-c", _TENANT, hosts.address, transport]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"ready\n"
        client.kill()
    wait_until(lambda: not ask_status(hosts.address)["leases"], "the lease to end")
    vec = hosts.new_vec_env(2, COUNTER, transport)
    vec.reset()
    assert _counts(vec.step(STILL)[0]) == [[1, 1, 0], [1, 1, 0]]
    vec.close()


_CLIENT = """
import sys, zmqcarla
options = dict(simulator="none", env_patterns=("client_envs:*",))
vec = zmqcarla.make_vec_env(2, "client_envs:Counter-v0", pool_options=options)
vec.reset()
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM, None], ids=["kill", "term", "exit"])
def test_nothing_outlives_the_client_of_a_private_pool(ending: signal.Signals | None) -> None:
    """The leak check of every test looks for processes, segments and sockets afterwards."""
    client = subprocess.Popen(
        [sys.executable, "-c", _CLIENT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"ready\n"
        if ending is not None:
            client.send_signal(ending)
        assert client.stdin is not None
        client.stdin.close()
        client.wait(20)
