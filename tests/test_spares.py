"""Rows whose worker will not come back, on one host: they go on with a free worker, once the old process has ended."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from conftest import wait_until
from pools import Hosts

import zmqcarla
from zmqcarla.broker.errors import WorkerLostError
from zmqcarla.shm.writer_lock import RowTakenError, WriterLock, has_writer

COUNTER = "client_envs:Counter-v0"
ONE, TWO = np.array([[1, 0]], np.float32), np.array([[2, 0]], np.float32)


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    """Two supervisors with a worker each, which is not restarted."""
    hosts = Hosts(tmp_path, hosts=2, ttl_s=4.0, max_restarts=0)
    yield hosts
    hosts.close()


def _counts(observations: Any) -> list[float]:
    """Episode, step and echo of the one row."""
    counts: list[float] = observations["vector"][0, :3].tolist()
    return counts


def _check_moves(vec: zmqcarla.VectorEnv, lost: str, reason: str) -> None:
    observations, rewards, _, truncated, infos = vec.step(TWO)
    assert _counts(observations) == [1, 1, 1]
    assert (rewards.tolist(), truncated.tolist()) == ([0], [True])
    assert infos["worker_lost"]["worker_id"].tolist() == [lost]
    assert reason in infos["worker_lost"]["reason"][0]
    for counts in ([1, 0, 0], [1, 1, 2], [1, 2, 2]):
        observations, _, _, truncated, _ = vec.step(TWO)
        assert _counts(observations) == counts
        assert not truncated.any()
    wait_until(lambda: vec.statistics()["workers"] != [lost], "the next renewal")


def _with_a_step(hosts: Hosts, transport: str) -> zmqcarla.VectorEnv:
    vec = hosts.new_vec_env(1, COUNTER, transport)
    vec.reset()
    vec.step(ONE)
    return vec


def test_a_row_whose_worker_is_not_restarted_goes_on_with_another(hosts: Hosts, transport: str) -> None:
    vec = _with_a_step(hosts, transport)
    (lost,) = vec.statistics()["workers"]
    os.kill(vec.call("pid")[0], signal.SIGKILL)
    _check_moves(vec, lost, "SIGKILL")
    assert vec.statistics()["rows_in_shared_memory"] == 1
    (spare,) = vec.statistics()["workers"]
    os.kill(vec.call("pid")[0], signal.SIGKILL)
    with pytest.raises(WorkerLostError, match=spare):  # and there is no third
        vec.step(TWO)
    assert vec.closed


def test_a_row_whose_supervisor_was_killed_goes_on_with_another(hosts: Hosts) -> None:
    vec = _with_a_step(hosts, "shm")
    (lost,) = vec.statistics()["workers"]
    host = hosts.supervisors[int(lost.removeprefix("host").split("-")[0])]
    host.kill()
    host.wait(20)
    _check_moves(vec, lost, "silent for 4 s")
    vec.close()


def test_a_row_whose_old_process_could_still_write_is_given_to_nobody(hosts: Hosts) -> None:
    """A supervisor and its env process that stand still might go on in the middle of a write."""
    vec = _with_a_step(hosts, "zmq")
    (lost,) = vec.statistics()["workers"]
    host = hosts.supervisors[int(lost.removeprefix("host").split("-")[0])]
    pid = vec.call("pid")[0]
    host.suspend()
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(WorkerLostError, match="old process still lives"):
        vec.step(TWO)
    assert vec.closed
    assert psutil.pid_exists(pid)  # nobody's process is killed from here
    os.kill(pid, signal.SIGCONT)
    host.resume()


def test_the_kernel_knows_who_can_write_into_a_row(tmp_path: Path) -> None:
    segment = Path("/dev/shm") / f"zmqcarla-{os.getuid()}-test-{os.getpid()}"
    segment.touch(mode=0o600)
    name = f"/{segment.name}"
    try:
        lock = WriterLock(name, 3)
        assert [has_writer(name, row) for row in range(5)] == [False, False, False, True, False]
        with pytest.raises(RowTakenError, match="row 3"):
            WriterLock(name, 3)
        lock.close()
        assert not has_writer(name, 3)
    finally:
        segment.unlink()
