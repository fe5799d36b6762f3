"""The tables of `zmqcarla status` and `zmqcarla top`, and the rates between two looks."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from conftest import wait_until
from pools import ready_pool, workers_of
from rich.console import Console

import zmqcarla
from zmqcarla.watch.status import pool_view
from zmqcarla.watch.top import Rates

WORKER: dict[str, Any] = {
    "worker_id": "a-host-with-a-long-name-1234567-12",
    "host": "a-host-with-a-long-name",
    "state": "starting",
    "phase": "resetting",
    "simulator": "embedded",
    "gpu": 10,
    "port": 32000,
    "pid": 4194304,
    "restarts": 100,
    "lease": "0123456789abcdef",
    "row": 12,
    "steps": 10_000_000,
    "env_rss_bytes": 800 << 20,
    "server_rss_bytes": 6000 << 20,
    "seen_s": 0.5,
    "server_vram_bytes": 4000 << 20,
    "retiring": False,
    "leaks": "",
    "growth_bytes_per_h": 0.0,
    "tick_ms": 1000.4,
    "render_ms": 150.0,
    "observe_ms": 0.5,
}
LEASE = {"lease": "0123456789abcdef", "num_envs": 16, "env_id": "zmqcarla/Carla-v0", "commands": 5} | {
    "age_s": 100.0,
    "silent_s": 0.25,
    "step_p50_ms": 1234.5,
    "step_p99_ms": 2345.6,
    "env_p50_ms": 1200.0,
    "transport_p50_ms": 0.345,
    "policy_p50_ms": 34.56,
    "tick_ms": 1000.4,
    "render_ms": 150.0,
    "observe_ms": 0.5,
}
POOL: dict[str, Any] = {"workers": [WORKER], "leases": [LEASE], "queue": []}


def shown(width: int, rates: dict[str, float] | None = None) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(pool_view(POOL, width, rates))
    return capture.get()


@pytest.mark.parametrize("rates", [None, {WORKER["worker_id"]: 123.44}], ids=["status", "top"])
@pytest.mark.parametrize("width", [80, 200])
def test_nothing_is_cut_off(width: int, rates: dict[str, float] | None) -> None:
    lines = shown(width, rates).splitlines()
    assert len(lines) == 5  # nothing wraps
    assert lines[-2] == "  step 1234 ms (p99 2346): env 1200, transport 0.34; policy 34.6"
    assert lines[-1] == "  slowest env: tick 1000, render 150, observe 0.50"
    assert ("1000+150+0.50" in lines[1].split()) == (width == 200)
    words = lines[1].split()
    expected = ["starting", "100", "01234567/12", "6800"]
    expected += ["10", "32000", "4194304"] if rates is None or width == 200 else ["123.4", "resetting"]
    assert set(expected) <= set(words)
    assert words[0].endswith("-1234567-12")
    assert (words[0] == WORKER["worker_id"]) == (width == 200)


@pytest.mark.parametrize("width", [80, 200])
def test_retiring_leaking_and_spare_workers_are_seen(width: int) -> None:
    leaking = WORKER | {"state": "ready", "leaks": "server", "growth_bytes_per_h": 500 * 2.0**20}
    spare = WORKER | {"state": "ready", "lease": ""}
    retiring = spare | {"retiring": True}
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(pool_view(POOL | {"workers": [leaking, spare, retiring]}, width))
    lines = [line.rstrip() for line in capture.get().splitlines()]
    assert [line.split()[1] for line in lines[1:4]] == ["ready!", "ready", "retiring"]
    assert lines[4] == f"! {WORKER['worker_id']}: server grows without end, +500 MiB/h"
    assert lines[-1] == "spare: 1 free worker"
    assert ("+500" in lines[1]) == (width == 200)


def pool(steps: int, seen_s: float) -> dict[str, Any]:
    return {"workers": [{"worker_id": "w0", "steps": steps, "seen_s": seen_s}]}


def test_rates_are_taken_between_heartbeats_and_not_between_looks() -> None:
    rates = Rates()
    rates.update(pool(100, 0.9), now=10.9)
    assert rates.by_worker == {}
    rates.update(pool(140, 0.1), now=11.1)
    assert rates.by_worker["w0"] == pytest.approx(40)
    rates.update(pool(140, 0.8), now=11.8)  # the same heartbeat once more
    assert rates.by_worker["w0"] == pytest.approx(40)
    rates.update(pool(200, 0.2), now=12.2)
    assert rates.by_worker["w0"] == pytest.approx(60)


def test_a_new_supervisor_counts_from_zero_and_a_worker_that_left_has_no_rate() -> None:
    rates = Rates()
    rates.update(pool(100, 0.0), now=10.0)
    rates.update(pool(140, 0.0), now=11.0)
    rates.update(pool(3, 0.0), now=12.0)
    assert rates.by_worker == {}
    rates.update(pool(13, 0.0), now=13.0)
    assert rates.by_worker["w0"] == pytest.approx(10)
    rates.update({"workers": [{"worker_id": "w0", "steps": None, "seen_s": None}]}, now=14.0)
    assert rates.by_worker == {}


def test_top_shows_a_pool_that_works_and_counts_its_restarts() -> None:
    with ready_pool(2, "client_envs:*") as local:
        wait_until(lambda: [worker["phase"] for worker in workers_of(local)] == ["idle"] * 2, "two heartbeats")
        assert all(worker["env_rss_bytes"] > 1 << 20 for worker in workers_of(local))
        os.kill(workers_of(local)[0]["pid"], signal.SIGKILL)
        wait_until(lambda: workers_of(local)[0]["restarts"] == 1, "the restart to be counted")
        wait_until(lambda: [worker["state"] for worker in workers_of(local)] == ["ready"] * 2, "the worker again")
        found = subprocess.run(
            [sys.executable, "-m", "zmqcarla.cli", "top", "--once", "--address", local.address],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=40,
            check=False,
            env={**os.environ, "COLUMNS": "80"},
        )
        assert found.returncode == 0, found.stderr
        assert "2 workers: 2 ready; 0 leased; 0 waiting;" in found.stdout
        assert "steps/s" in found.stdout.splitlines()[1]
        assert len(found.stdout.splitlines()) == 4


def test_steps_are_counted_for_the_worker_that_does_them() -> None:
    with ready_pool(2, "client_envs:*") as local:
        vec = zmqcarla.make_vec_env(1, "client_envs:Pole-v0", address=local.address)
        with contextlib.closing(vec):
            vec.reset(seed=0)
            for _ in range(7):
                vec.step(np.zeros(1, np.int64))
            wait_until(lambda: {worker["steps"] for worker in workers_of(local)} == {0, 7}, "seven steps")
            (stepped,) = [worker for worker in workers_of(local) if worker["lease"]]
            assert stepped["steps"] == 7
