"""A worker with a real server: the embedded simulator dies, hangs, or is left behind."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import wait_until
from worker_broker import Router, is_alive, running_pool

from zmqcarla.broker import protocol as p
from zmqcarla.shm.segment import sweep
from zmqcarla.workers import ports

OPEN = {"env_id": "zmqcarla/Carla-v0", "kwargs": {"map": None}, "autoreset": "NextStep"}
REBUILD: dict[str, Any] = {"slot": 0, "seed": 1, "options": None, "open": OPEN, "attach": None}
PORT = 24000
SETTINGS: dict[str, Any] = {"simulator": "embedded", "port": PORT, "env_patterns": ("zmqcarla/*",)}


def server_pid() -> int:
    """The pid that listens on the worker's port."""
    pid = ports.listener_pid(PORT)
    assert pid is not None
    return pid


def test_the_env_drives_on_the_workers_own_server(tmp_path: Path) -> None:
    router = Router(tmp_path)
    with running_pool(tmp_path, router, **SETTINGS) as pool:
        offer, _ = router.receive(p.Register)
        assert (offer.simulator, offer.port) == ("embedded", PORT)
        router.ready()
        outcome, value = router.command("rebuild", REBUILD, 1)
        assert outcome == "ok", value["traceback"]
        outcome, value = router.command("step", (0, [0.0, 0.5, 0.0]), 2)
        assert outcome == "ok", value["traceback"]
        told: tuple[float, ...] = ()
        while not any(told):
            beat, _ = router.receive(p.Heartbeat)
            told = (*beat.tick_ms, *beat.render_ms, *beat.observe_ms)
        assert all(part_ms > 0.0 for part_ms in told)
        assert sum(told) <= 1000.0 * value[5]  # what the whole step took
        server = server_pid()
        pool.process.terminate()
        assert pool.wait() == 0
        assert not is_alive(server)


def test_a_killed_server_restarts_with_its_env_process(tmp_path: Path) -> None:
    router = Router(tmp_path)
    with running_pool(tmp_path, router, **SETTINGS):
        ready, server = router.ready(), server_pid()
        router.command("rebuild", REBUILD, 1)
        os.kill(server, signal.SIGKILL)
        message, _ = router.receive(p.WorkerLost)
        assert (message.reason, message.exit_code) == ("its embedded simulator ended with status 137", -9)
        assert not is_alive(ready.pid)
        router.ready(incarnation=2)
        assert server_pid() != server
        assert router.command("rebuild", REBUILD, 2)[0] == "ok"


def test_a_server_that_hangs_is_restarted(tmp_path: Path) -> None:
    router = Router(tmp_path)
    with running_pool(tmp_path, router, step_timeout_s=1.0, **SETTINGS):
        router.ready()
        router.command("rebuild", REBUILD, 1)
        server = server_pid()
        os.kill(server, signal.SIGSTOP)
        router.post("step", (0, [0.0, 0.5, 0.0]), 2)
        message, _ = router.receive(p.WorkerLost)
        assert "of stepping (command 2); the limit is 1 s" in message.reason
        router.ready(incarnation=2)
        assert server_pid() != server
        assert not is_alive(server)


def test_a_dead_env_process_leaves_its_server_alone(tmp_path: Path) -> None:
    router = Router(tmp_path)
    with running_pool(tmp_path, router, **SETTINGS):
        ready, server = router.ready(), server_pid()
        os.kill(ready.pid, signal.SIGKILL)
        router.receive(p.WorkerLost)
        router.ready(incarnation=2)
        assert server_pid() == server


@pytest.mark.parametrize("victim", ["supervisor", "guard"])
def test_no_server_is_left_behind(tmp_path: Path, victim: str) -> None:
    router = Router(tmp_path)
    with running_pool(tmp_path, router, **SETTINGS) as pool:
        ready, server = router.ready(), server_pid()
        guard = psutil.Process(server).ppid()
        if victim == "supervisor":
            pool.kill()
            wait_until(lambda: not is_alive(ready.pid), "the env process to end")
        else:
            os.kill(guard, signal.SIGKILL)
            assert router.receive(p.WorkerLost)[0].reason == "its embedded simulator ended with status -9"
            router.ready(incarnation=2)
            assert not is_alive(server)  # at once: the next one had its port
        wait_until(lambda: not is_alive(server), "the server to end")
    sweep()


def test_a_busy_port_is_named(tmp_path: Path) -> None:
    router = Router(tmp_path)
    claim = ports.claim(PORT)
    try:
        with running_pool(tmp_path, router, max_restarts=0, **SETTINGS):
            message, _ = router.receive(p.WorkerLost)
            assert message.final
            assert f"port {PORT} is claimed by pid {os.getpid()}" in message.reason
    finally:
        claim.release()


def test_real_carla_without_a_root_is_given_up_at_once(tmp_path: Path) -> None:
    router = Router(tmp_path)
    with running_pool(tmp_path, router, simulator="carla", port=PORT):
        message, _ = router.receive(p.WorkerLost)
        assert (message.incarnation, message.final, message.restarts) == (0, True, 0)
        assert "pass carla_root" in message.reason
