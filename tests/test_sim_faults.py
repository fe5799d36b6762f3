"""Faults on demand: how they are said, what the simulator does, and what a worker and a training loop see of them."""

from __future__ import annotations

import queue
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import wait_until
from sim_process import banner_of, carla, connect, free_port, make_synchronous, start_sim
from worker_broker import Router, running_pool

import zmqcarla
from zmqcarla.broker import protocol as p
from zmqcarla.lease import ask_status
from zmqcarla.sim.faults import Fault, parse_fault

PORT = 22360

OPEN = {"env_id": "zmqcarla/Carla-v0", "kwargs": {"map": None, "max_steps": 1000}, "autoreset": "NextStep"}
REBUILD: dict[str, Any] = {"slot": 0, "seed": 1, "options": None, "open": OPEN, "attach": None}


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("hang-at-tick=100", Fault("hang", 100)),
        ("crash-at-tick=1", Fault("crash", 1)),
        ("torn-frame-at=7", Fault("torn-frame", 7)),
        ("slow-tick=12.5", Fault("slow", 0, 0.0125)),
        ("slow-tick-at=3:250", Fault("slow", 3, 0.25)),
        ("crash-at-start", Fault("crash-at-start")),
    ],
)
def test_faults_as_they_are_said(text: str, fault: Fault) -> None:
    assert parse_fault(text) == fault


NO_FAULTS = [
    "",
    "hang",
    "hang-at-tick",
    "hang-at-tick=0",
    "hang-at-tick=-1",
    "hang-at-tick=1.5",
    "hang-at-tick=²",
    "slow-tick=",
    "slow-tick=nan",
    "slow-tick=-1",
    "slow-tick=fast",
    "slow-tick-at=3",
    "slow-tick-at=:3",
    "crash-at-start=1",
]


@pytest.mark.parametrize("text", NO_FAULTS)
def test_what_is_no_fault_is_refused_with_those_that_are(text: str) -> None:
    with pytest.raises(ValueError, match="expected one of hang-at-tick=N, crash-at-tick=N"):
        parse_fault(text)


def test_the_command_line_refuses_in_words() -> None:
    process = start_sim(free_port(), "--fault", "hang-at-tick=soon")
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 2
    assert "expected the number of a tick from 1 on, found 'soon'" in output
    assert "Traceback" not in output


def test_a_crash_at_the_start() -> None:
    process = start_sim(free_port(), "--fault", "crash-at-start")
    process.communicate(timeout=30)
    assert process.returncode == -signal.SIGSEGV


def ticking(*faults: str) -> tuple[subprocess.Popen[str], Any, Any]:
    """A simulator with faults, a client and its world in synchronous mode."""
    port = free_port()
    process = start_sim(port, *[argument for fault in faults for argument in ("--fault", fault)])
    assert "embedded simulator" in banner_of(process)
    client, world = connect(port)
    make_synchronous(world)
    return process, client, world


def ticks_until_silence(client: Any, world: Any) -> int:
    """How many ticks are answered."""
    client.set_timeout(2.0)
    for number in range(40):
        try:
            world.tick()
        except RuntimeError:
            return number
    pytest.fail("the fault did not come")


def test_a_crash_at_its_tick_and_not_before() -> None:
    process, client, world = ticking("crash-at-tick=20")
    answered = ticks_until_silence(client, world)
    process.communicate(timeout=15)
    assert process.returncode == -signal.SIGSEGV
    assert 15 <= answered <= 19  # the client ticks by itself when the settings change


def test_a_hang_answers_nobody_and_ends_on_a_signal() -> None:
    process, client, world = ticking("hang-at-tick=20")
    world.tick()
    world = client.reload_world(False)  # ticks count on
    assert 10 <= ticks_until_silence(client, world) <= 18
    assert process.poll() is None
    process.terminate()
    process.communicate(timeout=15)
    assert process.returncode == -signal.SIGTERM


def test_a_torn_frame_is_missed_and_the_next_one_comes() -> None:
    process, client, world = ticking("torn-frame-at=20")
    try:
        sensor = world.spawn_actor(world.get_blueprint_library().find("sensor.other.imu"), carla.Transform())
        frames: queue.Queue[Any] = queue.Queue()
        sensor.listen(frames.put)
        asked = [world.tick() for _ in range(30)]
        deadline = time.monotonic() + 20.0
        while frames.qsize() < 20 or frames.queue[-1].frame <= asked[20]:
            assert time.monotonic() < deadline, "no frames after the torn one"
            asked.append(world.tick())
        seen = {frames.get().frame for _ in range(frames.qsize())}
        torn = next(frame for frame in asked if frame not in seen)
        assert asked[15] <= torn <= asked[19]
        sensor.stop()
        sensor.destroy()
    finally:
        process.terminate()
        process.communicate(timeout=15)
    del client


def test_half_of_the_frame_is_what_arrives() -> None:
    port = free_port()
    process = start_sim(port, "--fault", "torn-frame-at=5")
    try:
        assert "embedded simulator" in banner_of(process)
        _, world = connect(port)
        make_synchronous(world)
        with socket.create_connection(("127.0.0.1", port + 1), timeout=10) as stream:
            stream.sendall(struct.pack("<I", 1))
            stream.recv(1, socket.MSG_PEEK)  # the greeting: it is subscribed
            for _ in range(6):
                world.tick()
            got = b""
            while chunk := stream.recv(2**16):
                got += chunk
    finally:
        process.terminate()
        process.communicate(timeout=15)
    whole, size = 0, 0
    while got:
        (size,) = struct.unpack_from("<I", got)
        if len(got) < size + 4:
            break
        got, whole = got[size + 4 :], whole + 1
    assert whole >= 2
    assert len(got) == (size + 4) // 2


def test_slow_ticks_are_the_same_ticks() -> None:
    process, client, world = ticking("slow-tick=1", "slow-tick-at=2:50")
    try:
        frames = [world.tick() for _ in range(4)]
        assert frames == list(range(frames[0], frames[0] + 4))
    finally:
        process.terminate()
        process.communicate(timeout=15)
    del client


# ------------------------------------------------------------------------------------------------- through the worker


def steps_until_lost(router: Router, first_seq: int) -> tuple[int, p.WorkerLost]:
    """Step until the worker is lost: the number of steps that were answered, and what the broker is told."""
    for number in range(500):
        router.post("step", (0, [0.0, 0.5, 0.0]), first_seq + number)
        while True:
            message, _ = router.receive(p.Message)
            if isinstance(message, p.WorkerLost):
                return number, message
            if isinstance(message, p.RowReply):
                assert message.outcome == "ok"
                break
    pytest.fail("the fault did not come")


def test_a_hang_of_its_simulator_costs_a_worker_one_step(tmp_path: Path) -> None:
    router = Router(tmp_path)
    settings: dict[str, Any] = {"simulator": "embedded", "port": PORT, "env_patterns": ("zmqcarla/*",)}
    with running_pool(tmp_path, router, step_timeout_s=2.0, faults=("hang-at-tick=40",), **settings):
        router.ready()
        router.command("rebuild", REBUILD, 1)
        steps, lost = steps_until_lost(router, 2)
        assert "of stepping" in lost.reason
        assert 0 < steps < 40
        router.ready(incarnation=2)


def test_a_crash_of_a_simulator_is_one_truncated_row(tmp_path: Path) -> None:
    address = f"ipc://{tmp_path}/broker.sock"
    command = [sys.executable, "-m", "zmqcarla.cli"]
    worker = ["worker", "--port", str(PORT + 4), "--simulator", "embedded", "--fault", "crash-at-tick=45"]
    processes = [
        subprocess.Popen([*command, *words, "--address", address], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for words in (["broker"], worker)
    ]

    def ready() -> bool:
        try:
            return [one["state"] for one in ask_status(address, timeout_s=1)["workers"]] == ["ready"]
        except zmqcarla.ZmqCarlaError:
            return False

    try:
        wait_until(ready, "the worker", 40)
        vec = zmqcarla.make_vec_env(1, address=address)
        vec.reset(seed=1)
        ends: list[str] = []
        for _ in range(120):
            _, _, terminated, truncated, infos = vec.step(np.array([[0, 0.5, 0]], np.float32))
            assert not terminated.any()
            if truncated.any():
                ends.append(infos["worker_lost"]["reason"][0])
            if len(ends) == 2:
                break
        assert len(ends) == 2
        assert all("embedded simulator ended with status 139" in reason for reason in ends)
        vec.close()
    finally:
        for process in reversed(processes):
            process.send_signal(signal.SIGINT)
        for process in reversed(processes):
            process.wait(20)
