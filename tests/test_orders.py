"""Restart, scale and drain of a pool that runs, with a client that goes on stepping; and the roster behind them."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest
from conftest import NewVecEnv, wait_until
from pools import process_of_private_pool, ready_pool, workers_of

from zmqcarla.broker.errors import AdminError, BrokerUnavailableError
from zmqcarla.broker.protocol import admin_address
from zmqcarla.orders import find_workers, give_order
from zmqcarla.pool import LocalPool
from zmqcarla.workers.roster import Roster, next_worker, read_roster, write_roster
from zmqcarla.workers.worker_config import WorkerConfig

COUNTER = "client_envs:Counter-v0"


def test_a_pool_is_restarted_scaled_and_drained_under_a_client(new_vec_env: NewVecEnv) -> None:
    with ready_pool(2, "client_envs:*", worker={"max_restarts": 0}) as pool:
        vec = new_vec_env(1, COUNTER, None, pool.address)
        vec.reset()
        leased = next(worker for worker in workers_of(pool) if worker["lease"])
        (found,) = find_workers([f"{leased['lease'][:8]}/0"], {"workers": workers_of(pool)})
        give_order(pool.address, "restart", [found])
        while True:
            _, _, _, truncated, infos = vec.step(vec.action_space.sample())
            if truncated[0]:
                break
        assert infos["worker_lost"]["reason"][0].startswith("restarted on request")
        vec.step(vec.action_space.sample())

        give_order(pool.address, "scale", count=3)
        _wait_for(pool, ["ready"] * 3)
        before = {worker["pid"] for worker in workers_of(pool)}
        process_of_private_pool("zmqcarla.workers").kill()  # its successor goes on with three
        wait_until(lambda: before.isdisjoint(worker["pid"] for worker in workers_of(pool)), "the successor")
        _wait_for(pool, ["ready"] * 3)

        reply = give_order(pool.address, "scale", count=1)
        assert len(reply.workers) == 2
        assert found not in reply.workers
        _wait_for(pool, ["ready"])
        give_order(pool.address, "drain")
        wait_until(lambda: [worker["retiring"] for worker in workers_of(pool)] == [True], "the drain")
        vec.step(vec.action_space.sample())
        (process,) = [child for child in psutil.Process().children() if "zmqcarla.pool" in child.cmdline()]
        vec.close()
        assert process.wait(20) in (0, None)  # None: reaped by the pool object
        with pytest.raises(BrokerUnavailableError):
            give_order(pool.address, "drain", timeout_s=0.2)


def _wait_for(pool: LocalPool, states: list[str]) -> None:
    wait_until(lambda: [worker["state"] for worker in workers_of(pool)] == states, f"{states}")


def test_the_admin_socket_is_the_users_own() -> None:
    with ready_pool(1, "client_envs:*") as pool:
        path = Path(admin_address(pool.address).removeprefix("ipc://"))
        assert path.stat().st_mode & 0o077 == 0
        assert path.stat().st_uid == os.getuid()
    assert not path.exists()
    assert admin_address("tcp://127.0.0.1:5555") != admin_address("tcp://127.0.0.1:5556")


def test_a_name_that_fits_none_or_several_is_refused() -> None:
    workers = [{"worker_id": f"host-1-{index}", "lease": "", "row": -1} for index in (1, 11, 21)]
    pool = {"workers": workers}
    assert find_workers(["1", "host-1-11"], pool) == ["host-1-1", "host-1-11"]
    with pytest.raises(AdminError, match="means none of them"):
        find_workers(["2"], pool)
    with pytest.raises(AdminError, match="host-1-1, host-1-1"):
        find_workers(["1"], {"workers": workers[:1] * 2})


def test_one_more_worker_takes_the_next_number_ports_and_the_idlest_gpu() -> None:
    workers = [WorkerConfig(worker_id=f"h-7-{index}", port=2000 + 4 * index, gpu=index % 2) for index in (0, 1, 2)]
    more = next_worker(workers)
    assert (more.worker_id, more.port, more.gpu) == ("h-7-3", 2012, 1)
    more = next_worker([WorkerConfig(worker_id="alone", start_delay_s=4.0)])
    assert (more.worker_id, more.port, more.gpu, more.start_delay_s) == ("alone-1", None, None, 0.0)


def test_a_roster_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "workers.json"
    assert read_roster(path) is None
    roster = Roster(
        12, (WorkerConfig(worker_id="a-0", faults=("hang",)), WorkerConfig(worker_id="a-1")), frozenset({"a-1"})
    )
    write_roster(path, roster)
    assert read_roster(path) == roster
    path.write_text('{"pid": 1}')
    with pytest.raises(ValueError, match="expected the roster of a supervisor"):
        read_roster(path)
