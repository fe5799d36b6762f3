"""The command line as a person uses it: commands in several processes, kill -9, Ctrl-C, bad input."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import wait_until

import zmqcarla
from zmqcarla.broker.protocol import PROTOCOL
from zmqcarla.lease import ask_status

PORT = 25600


def _start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "zmqcarla.cli", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def _run(*arguments: str, timeout_s: float = 40.0) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "zmqcarla.cli", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        env={**os.environ, "COLUMNS": "200"},
    )


@contextlib.contextmanager
def _running(*arguments: str) -> Generator[subprocess.Popen[str]]:
    """A command that Ctrl-C ends cleanly."""
    process = _start(*arguments)
    try:
        yield process
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=20)
        assert process.returncode == 0, output
        assert "Traceback" not in output
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=10)


def _worker_states(address: str) -> list[str]:
    try:
        return [worker["state"] for worker in ask_status(address, timeout_s=1)["workers"]]
    except zmqcarla.ZmqCarlaError:
        return []


def test_broker_worker_and_client_by_hand(tmp_path: Path) -> None:
    address = f"ipc://{tmp_path}/broker.sock"
    port = str(PORT)
    with (
        _running("broker", "--address", address),
        _running("worker", "--gpu", "1", "--port", port, "--simulator", "embedded", "--address", address),
    ):
        wait_until(lambda: _worker_states(address) == ["ready"], "the worker", 40)
        vec = zmqcarla.make_vec_env(1, address=address)
        observations, _ = vec.reset(seed=1)
        assert observations["rgb"].shape == (1, 3, 224, 400)
        shown = _run("status", "--address", address)
        assert shown.returncode == 0
        for word in (port, "embedded", "zmqcarla/Carla-v0"):
            assert word in shown.stdout
        state = json.loads(_run("status", "--json", "--address", address).stdout)
        (worker,) = state["workers"]
        assert (worker["gpu"], worker["port"], worker["row"]) == (1, PORT, 0)
        forward = np.array([[0, 0.5, 0]], np.float32)
        observations, *_ = vec.step(forward)
        os.kill(worker["pid"], signal.SIGKILL)
        after, rewards, terminated, truncated, infos = _step_until_lost(vec, forward)
        assert truncated.tolist() == [True]
        assert not terminated.any()
        assert rewards.tolist() == [0]
        assert infos["worker_lost"]["exit_code"].tolist() == [-signal.SIGKILL]
        assert after["rgb"].shape == (1, 3, 224, 400)
        for _ in range(20):
            observations, _, _, truncated, _ = vec.step(forward)
        assert not truncated.any()
        assert observations["vehicle_state"][0, 6] > 0.5  # it drives again
        vec.close()


def _step_until_lost(vec: zmqcarla.VectorEnv, actions: Any) -> Any:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        result = vec.step(actions)
        if "worker_lost" in result[4]:
            return result
    pytest.fail("the death was not noticed")


def test_up_serves_a_pool_and_stops_on_ctrl_c(tmp_path: Path) -> None:
    address = f"ipc://{tmp_path}/broker.sock"
    with _running("up", "--workers", "2", "--gpus", "0,1", "--base-port", str(PORT + 40), "--address", address):
        wait_until(lambda: _worker_states(address) == ["ready"] * 2, "two workers", 40)
        workers = ask_status(address)["workers"]
        assert [(worker["gpu"], worker["port"]) for worker in workers] == [(0, PORT + 40), (1, PORT + 44)]
        second = _run("up", "--address", address)
        assert second.returncode == 2
        assert "already runs" in second.stderr


def test_killing_up_leaves_nothing(tmp_path: Path) -> None:
    address = f"ipc://{tmp_path}/broker.sock"
    process = _start("up", "--workers", "1", "--base-port", str(PORT + 80), "--address", address)
    with process:
        wait_until(lambda: _worker_states(address) == ["ready"], "the worker", 40)
        process.kill()


def test_a_broker_that_runs_already_is_named(tmp_path: Path) -> None:
    address = f"ipc://{tmp_path}/broker.sock"
    with _running("broker", "--address", address):
        wait_until(lambda: Path(f"{tmp_path}/broker.sock").exists(), "the socket")
        second = _run("broker", "--address", address)
        assert second.returncode == 2
        assert "another broker serves" in second.stderr
        assert "Traceback" not in second.stderr


@pytest.mark.parametrize("address", ["tcp://0.0.0.0:5555", "tcp://*:5555", "ipc://relative.sock", "http://x"])
def test_a_broker_serves_only_this_host(address: str) -> None:
    found = _run("broker", "--address", address)
    assert found.returncode == 2
    assert "expected" in found.stderr
    assert "Traceback" not in found.stderr


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    address = f"ipc://{tmp_path}/broker.sock"
    with _running("sim", "--port", str(PORT + 120)) as sim:
        wait_until(lambda: _listens(PORT + 120), "the simulator", 20)
        found = _run("worker", "--port", str(PORT + 120), "--simulator", "embedded", "--address", address)
        assert found.returncode == 2
        assert str(PORT + 120) in found.stderr
        assert str(sim.pid) in found.stderr
        second = _run("sim", "--port", str(PORT + 120))
        assert second.returncode == 2
        assert str(sim.pid) in second.stderr


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_map_that_is_not_opendrive_is_refused(tmp_path: Path) -> None:
    bad = tmp_path / "town.xodr"
    bad.write_text("<html>not a map</html>")
    for command in (["sim"], ["worker"], ["up"], ["demo"]):
        found = _run(*command, "--map", str(bad))
        assert found.returncode == 2, (command, found)
        assert "OpenDRIVE" in found.stderr
        assert "Traceback" not in found.stderr


def test_status_without_a_pool_says_how_to_start_one(tmp_path: Path) -> None:
    found = _run("status", "--address", f"ipc://{tmp_path}/nobody.sock")
    assert found.returncode == 2
    assert "zmqcarla up" in found.stderr


def test_clean_removes_only_what_is_dead() -> None:
    script = (
        "import os, signal; from zmqcarla.shm.segment import Segment;"
        "print(Segment.create('arena', 4096).name, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    dead = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False)
    found = _run("clean")
    assert found.returncode == 0
    assert "leftovers removed" in found.stdout
    assert not Path(f"/dev/shm{dead.stdout.strip()}").exists()


def test_version_names_what_a_bug_report_needs() -> None:
    found = _run("version")
    for word in ("zmqcarla 0.1.0", f"protocol {PROTOCOL}", "carla 0.9.16", "gymnasium"):
        assert word in found.stdout


def test_the_demo_drives_and_draws(tmp_path: Path) -> None:
    found = _run("demo", "--workers", "2", "--steps", "60", "--out", str(tmp_path), timeout_s=58)
    assert found.returncode == 0, found
    assert "env-steps/s" in found.stdout
    for name in ("cameras.png", "paths.png", "latency.png"):
        assert (tmp_path / name).stat().st_size > 10_000
