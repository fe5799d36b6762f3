"""`zmqcarla evaluate` when something dies: a simulator, a worker, the pool, the evaluation itself; or just hangs."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import route_agents
from conftest import wait_until
from rich.console import Console

from zmqcarla.evaluate.agent import AgentDriver
from zmqcarla.evaluate.pools import WORKER, PrivatePool
from zmqcarla.evaluate.results import ResultFolder
from zmqcarla.evaluate.run import Evaluation, evaluate
from zmqcarla.evaluate.work_queue import Job
from zmqcarla.lease import ask_status
from zmqcarla.pool import LocalPool

TOWN = "ZmqTown"
WIDE = {**os.environ, "COLUMNS": "200"}
BLOCKED = "Failed - Agent got blocked"
CRASHED = "Failed - Simulation crashed"


def route(route_id: int) -> str:
    ends = "".join(f'<position x="{x}" y="-176.75" z="0"/>' for x in (288, 243))
    return f'<route id="{route_id}" town="{TOWN}"><waypoints>{ends}</waypoints></route>'


pytestmark = pytest.mark.timeout(240)
"""A busy machine needs long for what is restarted."""


@pytest.fixture(scope="module")
def routes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("deaths") / "routes.xml"
    path.write_text(f"<routes>{route(4)}{route(7)}</routes>")
    return path


def private_pool() -> PrivatePool:
    return PrivatePool(lambda: LocalPool(1, simulator="embedded", worker={**WORKER, "stable_start_s": 0.1}))


@pytest.fixture(scope="module")
def pool() -> Iterator[PrivatePool]:
    one = private_pool()
    address = one.address()
    # The leak check of the first test must find the sockets of the pool that all share.
    wait_until(lambda: any(each["state"] == "ready" for each in ask_status(address)["workers"]), "a worker", 120.0)
    yield one
    one.close()


def statuses(
    pool: PrivatePool, routes: Path, out: Path, agent: Any, retries: int = 2, **more: Any
) -> tuple[list[str], str]:
    said = io.StringIO()
    kwargs = {"routes": str(routes), "image_size": (16, 16), "terminate_on_collision": False, "blocked_s": 1.0}
    evaluation = Evaluation(
        [Job(0, "4", TOWN), Job(1, "7", TOWN)],
        lambda: AgentDriver(agent),
        lambda _: kwargs,
        pool,
        retries=retries,
        **more,
    )
    results = evaluate(evaluation, ResultFolder(out, {}, resume=True), Console(file=said, width=200))
    return [each["status"] for each in results["_checkpoint"]["records"]], said.getvalue()


def test_a_pool_that_dies_is_started_again(routes: Path, tmp_path: Path) -> None:
    killer = route_agents.Killer
    killer.victim, killer.kills, killer.allowed = "zmqcarla.pool", 0, 1
    with contextlib.closing(private_pool()) as own:
        found, said = statuses(own, routes, tmp_path, killer)
    assert killer.kills == 1
    assert found == [BLOCKED, BLOCKED], said


def test_a_route_is_driven_again_when_its_simulator_dies(pool: PrivatePool, routes: Path, tmp_path: Path) -> None:
    killer = route_agents.Killer
    killer.victim, killer.kills, killer.allowed = "zmqcarla.sim", 0, 1
    found, said = statuses(pool, routes, tmp_path, killer)
    assert killer.kills == 1
    assert found == [BLOCKED, BLOCKED], said


def test_a_route_that_kills_each_time_is_given_up_and_blocks_nobody(
    pool: PrivatePool, routes: Path, tmp_path: Path
) -> None:
    killer = route_agents.Killer
    killer.victim, killer.kills, killer.allowed = "zmqcarla.workers.env_process", 0, 99
    found, said = statuses(pool, routes, tmp_path, killer, retries=1)
    assert found == [CRASHED, BLOCKED], said
    assert killer.kills == 2
    assert "2 of 2 routes" in said
    (record,) = [each for each in ResultFolder(tmp_path, {}, resume=True).done() if each["index"] == 0]
    assert ["found it lost" in reason for reason in record["losses"]] == [True, True]
    killer.allowed = 0
    found, said = statuses(pool, routes, tmp_path, killer)  # the crash does not count as done
    assert "1 of 2 routes are done already" in said
    assert found == [BLOCKED, BLOCKED]


def test_an_agent_that_hangs_fails_its_route_only(pool: PrivatePool, routes: Path, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        stack.callback(route_agents.Dreamer.wake.set)
        found, said = statuses(pool, routes, tmp_path, route_agents.Dreamer, driver_timeout_s=3.0)
    assert found == ["Failed - Agent crashed", BLOCKED], said
    assert "has not answered for 3 s" in said


@pytest.mark.timeout(400)
def test_an_evaluation_that_was_killed_goes_on(routes: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "zmqcarla.cli", "evaluate", "--routes", str(routes), "--simulator", "embedded",
               "--observation", "state", "--out", str(tmp_path)]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=WIDE)
    with contextlib.ExitStack() as stack:
        stack.callback(process.wait)
        stack.callback(process.kill)
        first = tmp_path / "routes" / "0000-4.json"
        wait_until(first.exists, "the first route", 120.0)
    assert process.returncode == -signal.SIGKILL
    done_at = first.stat().st_mtime_ns
    again = subprocess.run([*command, "--resume"], capture_output=True, text=True, timeout=240, check=False, env=WIDE)
    assert again.returncode == 0, again.stderr
    assert "routes are done already" in again.stdout
    assert first.stat().st_mtime_ns == done_at
    assert "Finished" in again.stdout
