"""A pool of two hosts: rows here and there in one batch, cables that are cut, rows that move to another host."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import wait_until
from keyed_pools import DEADLINE_S, KeyedPool
from other_host import CLOCK_AHEAD_S, OtherHost, other_host, reason_why_not

import zmqcarla
from zmqcarla.broker import protocol as p
from zmqcarla.lease import ask_status

COUNTER, FAULTY = "client_envs:Counter-v0", "fault_envs:Faulty-v0"
TTL_S = 6.0
_WHY_NOT = reason_why_not()

pytestmark = pytest.mark.skipif(bool(_WHY_NOT), reason=f"no second host here: {_WHY_NOT}")


@pytest.fixture(scope="module")
def there() -> Iterator[OtherHost]:
    with other_host() as host:
        yield host


@pytest.fixture(scope="module")
def pool(there: OtherHost, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeyedPool]:
    """One worker there, which leases get first, and two here."""
    directory = tmp_path_factory.mktemp("hosts")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(p.KEYS_VARIABLE, str(directory / "keys"))
        pool = KeyedPool(directory, hosts=0, address=f"tcp://{there.address}")
        keys = pool.new_keys(directory / "keys-there", "there")
        pool.start_host(directory, keys, "there", ttl_s=TTL_S, prefix=there.prefix)
        pool.wait_ready(1)
        pool.start_host(directory, pool.keys, "here", workers=2, env_patterns=("client_envs:*",))
        pool.wait_ready(3)
        yield pool
        pool.close()


def _vec(pool: KeyedPool, n: int, env: str = COUNTER, **options: Any) -> zmqcarla.VectorEnv:
    return zmqcarla.make_vec_env(n, env, options.pop("env_kwargs", None), pool.address, **options)


def _actions(*rows: float) -> np.ndarray[Any, Any]:
    return np.array([(row, 0) for row in rows], np.float32)


def _counts(observations: Any) -> list[list[float]]:
    """Episode, step and echo of each row."""
    counts: list[list[float]] = observations["vector"][:, :3].tolist()
    return counts


def _check_whole(observations: Any, steps: list[int]) -> None:
    """Every leaf of every row is of its own step."""
    for row, step in enumerate(steps):
        assert (observations["image"][row] == step).all()
        assert observations["nested"][0][row] == step
        assert observations["nested"][1][row].tolist() == [1, 0, step % 2]


@pytest.mark.parametrize("text", [False, True], ids=["fixed", "with text"])
def test_rows_of_two_hosts_stand_in_one_batch(pool: KeyedPool, text: bool) -> None:
    vec = _vec(pool, 3, env_kwargs={"text": text})
    observations, _ = vec.reset(seed=5)
    assert _counts(observations) == [[1, 0, 0]] * 3
    found = vec.statistics()
    assert [worker.split("-")[0] for worker in found["workers"]] == ["there", "here", "here"]
    assert found["rows_in_shared_memory"] == 2
    assert found["rows_on_board"] == (0 if text else 2)
    held = []
    for step in range(1, 8):
        observations, rewards, *_ = vec.step(_actions(1, 2, 3))
        assert _counts(observations) == [[1, step, 1], [1, step, 2], [1, step, 3]]
        assert rewards.tolist() == [1, 2, 3]
        _check_whole(observations, [step] * 3)
        held.append((step, observations))
    for step, observations in held:  # more of them than slots
        _check_whole(observations, [step] * 3)
    if text:
        assert observations["text"] == ("step 7",) * 3
    vec.close()


def test_first_k_takes_rows_of_both_hosts(pool: KeyedPool) -> None:
    vec = _vec(pool, 3)
    vec.reset()
    vec.send(_actions(1, 2, 3))
    _, _, _, _, infos = vec.recv(3)
    assert sorted(infos["env_id"].tolist()) == [0, 1, 2]
    vec.close()


def test_clocks_need_not_agree(pool: KeyedPool, there: OtherHost) -> None:
    """The other host's steady clock is eleven days ahead, and nobody thinks that anything is late."""
    command = [*there.prefix, sys.executable, "-c", "import time; print(time.monotonic())"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=True)
    wait_until(
        lambda: all(worker["seen_s"] is not None for worker in ask_status(pool.address)["workers"]), "heartbeats of all"
    )
    status = ask_status(pool.address)
    (worker,) = [worker for worker in status["workers"] if worker["worker_id"].startswith("there")]
    (here, *_) = [worker for worker in status["workers"] if worker["worker_id"].startswith("here")]
    assert float(done.stdout) > CLOCK_AHEAD_S
    for name in ("silent_s", "seen_s"):
        assert 0 <= worker[name] < TTL_S
        assert abs(worker[name] - here[name]) < CLOCK_AHEAD_S / 1000


def test_shm_alone_is_refused_for_a_row_elsewhere(pool: KeyedPool) -> None:
    with pytest.raises(OSError, match=r"this /dev/shm .* found rows \[0\] elsewhere"):
        _vec(pool, 2, transport="shm")


def test_a_cable_that_is_put_back_in_time_loses_nothing(pool: KeyedPool, there: OtherHost) -> None:
    vec = _vec(pool, 2)
    vec.reset()
    there.cut()
    vec.step_async(_actions(1, 2))
    rows: Any = vec._rows  # pyright: ignore
    board = rows._board
    wait_until(lambda: int(board.done_seq[1]) > 0, "the row here to be done")
    there.heal()
    observations, _, _, truncated, _ = vec.step_wait()
    assert _counts(observations) == [[1, 1, 1], [1, 1, 2]]
    assert not truncated.any()
    vec.close()


def test_a_host_that_is_cut_off_is_a_lost_worker_and_a_spare_takes_its_row(pool: KeyedPool, there: OtherHost) -> None:
    vec = _vec(pool, 2)
    vec.reset()
    vec.step(_actions(1, 2))
    there.cut()
    observations, rewards, terminated, truncated, infos = vec.step(_actions(3, 4))
    assert _counts(observations) == [[1, 1, 1], [1, 2, 4]]  # its last observation; the other row was stepped
    assert rewards.tolist() == [0, 4]
    assert truncated.tolist() == [True, False]
    assert not terminated.any()
    assert infos["worker_lost"]["worker_id"][0] == "there-0"
    assert infos["worker_lost"]["reason"][0] == f"its supervisor was silent for {TTL_S:g} s"

    observations, _, _, truncated, _ = vec.step(_actions(5, 6))
    assert _counts(observations) == [[1, 0, 0], [1, 3, 6]]
    assert not truncated.any()
    assert vec.statistics()["rows_on_board"] == 2  # it moved here, and this host shares its memory
    for step in range(1, 4):
        assert _counts(vec.step(_actions(7, 8))[0]) == [[1, step, 7], [1, step + 3, 8]]

    there.heal()
    wait_until(lambda: pool.states().get("there-0") == "ready", "the host to be back", 20.0)
    back = _vec(pool, 1)
    back.reset()
    assert back.statistics()["workers"] == ["there-0"]
    for step in range(1, 4):
        assert _counts(back.step(_actions(9))[0]) == [[1, step, 9]]
        assert _counts(vec.step(_actions(7, 8))[0])[0] == [1, step + 3, 7]
    back.close()
    vec.close()


def test_the_row_of_a_worker_that_stays_down_goes_to_the_other_host(pool: KeyedPool, tmp_path: Path) -> None:
    """Out of shared memory and into messages, in the same batch."""
    doomed = pool.start_host(tmp_path, pool.keys, "doomed", max_restarts=0, env_patterns=("fault_envs:*",))
    pool.wait_ready(4)
    first = _vec(pool, 1, FAULTY)
    vec = _vec(pool, 1, FAULTY)
    vec.reset()
    assert (first.statistics()["workers"], vec.statistics()["workers"]) == (["there-0"], ["doomed-0"])
    first.close()
    wait_until(lambda: len(ask_status(pool.address)["leases"]) == 1, "the other host to be free")
    vec.step(_actions(1))
    os.kill(vec.call("pid")[0], signal.SIGKILL)
    observations, _, _, truncated, infos = vec.step(_actions(2))
    assert truncated.all()
    assert _counts(observations) == [[1, 1, 1]]
    assert "budget" in infos["worker_lost"]["reason"][0] or "SIGKILL" in infos["worker_lost"]["reason"][0]
    assert _counts(vec.step(_actions(3))[0]) == [[1, 0, 0]]
    assert _counts(vec.step(_actions(4))[0]) == [[1, 1, 4]]
    assert vec.statistics()["rows_in_shared_memory"] == 0
    wait_until(lambda: vec.statistics()["workers"] == ["there-0"], "the next renewal")
    vec.close()
    doomed.terminate()
    doomed.wait(DEADLINE_S)
