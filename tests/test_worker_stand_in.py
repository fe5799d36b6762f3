"""A pool worker with a CARLA release whose starts and servers fail at every phase; see `carla_stand_in`."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Generator
from pathlib import Path
from typing import Any

import carla_stand_in
import numpy as np
import pytest
from conftest import NewVecEnv, wait_until
from pools import Hosts
from worker_broker import Router, is_alive, running_pool

import zmqcarla
from zmqcarla.broker import protocol as p
from zmqcarla.lease import ask_status
from zmqcarla.workers import ports
from zmqcarla.workers.ledger import ledger_path

ENV: dict[str, Any] = {"observation": "state", "max_steps": 3}
# A hang is cut early; so may be what only takes long on a busy machine, and then it is a fault like the others.
IMPATIENT: dict[str, Any] = {"step_timeout_s": 5.0, "reset_timeout_s": 8.0}
STILL = np.zeros((1, 3), np.float32)


@contextlib.contextmanager
def hosts_of(folder: Path, *plan: str, **limits: Any) -> Generator[Hosts]:
    """One worker with the stand-in."""
    root = carla_stand_in.install(folder, *plan)
    carla: dict[str, Any] = {"simulator": "carla", "carla_root": root, "env_patterns": ("zmqcarla/*",)}
    often: dict[str, Any] = {"stable_start_s": 0.0, "max_restarts": 100}
    ledger_path().unlink(missing_ok=True)
    hosts = Hosts(folder, **{**carla, **often, **limits}, ttl_s=30.0)
    try:
        yield hosts
    finally:
        hosts.close()


def noted() -> list[str]:
    """What happened, of the ledger."""
    lines = ledger_path().read_text().splitlines() if ledger_path().exists() else []
    return [line.split('"what": "')[1].split('"')[0] for line in lines]


def losses(vec: zmqcarla.VectorEnv, steps: int) -> list[str]:
    """Step on; the reasons of the rows that were lost meanwhile."""
    reasons: list[str] = []
    for _ in range(steps):
        *_, truncated, infos = vec.step(STILL)
        if "worker_lost" in infos:
            assert truncated.all()
            reasons.append(infos["worker_lost"]["reason"][0])
    return reasons


@pytest.mark.timeout(180)  # six starts of a simulator, on a machine that may be busy
def test_a_worn_server_is_replaced_without_loss_even_when_the_next_start_fails(
    new_vec_env: NewVecEnv, tmp_path: Path
) -> None:
    with hosts_of(tmp_path, carla_stand_in.PLAIN, "crash", "late 0.2", recycle_episodes=2) as hosts:
        vec = new_vec_env(1, "zmqcarla/Carla-v0", ENV, hosts.address)
        vec.reset(seed=0)
        (pid,) = [child.pid for child in hosts.supervisors[0].children() if "env_process" in " ".join(child.cmdline())]
        while "recycled" not in noted() or "server_failed" not in noted() or noted().count("recycled") < 2:
            assert losses(vec, 4) == []
        assert is_alive(pid)  # the same env process all the time
        assert len(carla_stand_in.starts(str(tmp_path))) >= 4
        vec.close()


@pytest.mark.timeout(240)  # three hangs are waited for
def test_a_fault_at_any_phase_costs_one_episode_at_most(new_vec_env: NewVecEnv, tmp_path: Path) -> None:
    """At the start, in a reset, in a step, between two episodes and at the end of the lease."""
    lost = ("--fault=crash-at-tick=13", "late 0.3 --fault=crash-at-tick=4", "--fault=hang-at-tick=4")
    plan = ("crash", *lost, "late 0.3 --fault=hang-at-tick=13")
    claim = ports.claim_free()
    port = claim.block.rpc
    claim.release()
    with socket.create_server(("::1", port), family=socket.AF_INET6), hosts_of(tmp_path, *plan, **IMPATIENT) as hosts:
        vec = new_vec_env(1, "zmqcarla/Carla-v0", ENV, hosts.address)
        vec.reset(seed=0)
        reasons: list[str] = []
        while len(carla_stand_in.starts(str(tmp_path))) <= len(plan):
            reasons += losses(vec, 1)
        while recent := losses(vec, 4):  # until it drives on
            reasons += recent
        causes = ("its carla simulator ended with status 139", " of stepping ", " of resetting ")
        assert all(any(cause in reason for cause in causes) for reason in reasons)
        # The one that failed at its start cost nothing, and the last one drives.
        assert 1 <= len(reasons) <= len(carla_stand_in.starts(str(tmp_path))) - 2

        (worker,) = ask_status(hosts.address)["workers"]
        assert worker["port"] != port  # which belongs to this process, on IPv6 alone
        server = ports.listener_pid(worker["port"])
        assert server is not None
        os.kill(server, signal.SIGSTOP)
        vec.close()
        wait_until(lambda: not is_alive(server), "the stopped server to end", 60.0)
        hosts.wait_ready(1)


@pytest.mark.timeout(180)
def test_a_hang_at_the_start_a_death_at_the_end_and_a_late_start_then_cost_nothing(
    new_vec_env: NewVecEnv, tmp_path: Path
) -> None:
    """The hosts end while their server is still late; the check for leaks sees that it ends, too."""
    plan = ("hang", carla_stand_in.PLAIN, "late 600")
    with hosts_of(tmp_path, *plan, restart_timeout_s=15.0) as hosts:
        vec = new_vec_env(1, "zmqcarla/Carla-v0", ENV, hosts.address)
        vec.reset(seed=0)
        assert losses(vec, 2) == []
        (worker,) = ask_status(hosts.address)["workers"]
        server = ports.listener_pid(worker["port"])
        assert server is not None
        os.kill(server, signal.SIGKILL)
        vec.close()
        wait_until(lambda: len(carla_stand_in.starts(str(tmp_path))) == len(plan), "the start that is late", 60.0)


def test_a_spent_budget_of_starts_ends_with_the_servers_last_words(tmp_path: Path) -> None:
    root = carla_stand_in.install(tmp_path, "crash", "crash")
    router = Router(tmp_path)
    with running_pool(tmp_path, router, simulator="carla", carla_root=root, max_restarts=1):
        first, _ = router.receive(p.WorkerLost)
        last, _ = router.receive(p.WorkerLost)
    assert (first.final, last.final, last.incarnation) == (False, True, 0)
    assert "ended with status 139" in last.reason
    assert "Segmentation fault" in last.reason
    assert "restarted 1 times within 600 s and stays down" in last.reason
    ports_tried = {start[2] for start in carla_stand_in.starts(root)}
    assert len(ports_tried) == 2
