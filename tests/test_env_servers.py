"""Servers as processes: started under a guard, ready when they listen, gone with whoever started them."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from zmqcarla.broker.errors import PortInUseError, SimulatorStartError
from zmqcarla.broker.protocol import runtime_directory
from zmqcarla.workers import ports, servers
from zmqcarla.workers.carla_env import CarlaEnv
from zmqcarla.workers.servers import ServerSpec, launch

STARTER = """
import sys
from zmqcarla.workers.carla_env import CarlaEnv
env = CarlaEnv(simulator="embedded")
env.reset(seed=0)
print(env.server.server_pid(), flush=True)
sys.stdin.read()
"""

WARNER = """
import gymnasium, zmqcarla
for _ in range(3):
    gymnasium.make("zmqcarla/Carla-v0").close()
"""


@pytest.fixture
def claim() -> Iterator[ports.PortClaim]:
    held = ports.claim_free(23400)
    yield held
    held.release()


@pytest.fixture
def carla_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder with a start script in it, seen by a user who is not root; the script itself is never run."""
    script = tmp_path / "CarlaUE4.sh"
    script.write_text("#!/bin/sh\n")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    (tmp_path / "CarlaUE4").mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    return str(tmp_path)


def start_script(folder: Path, text: str) -> str:
    """A folder with a start script that does what the text says; there is no CarlaUE4 beside it."""
    script = folder / "CarlaUE4.sh"
    script.write_text(f"#!/bin/sh\n{text}\n")
    script.chmod(0o755)
    return str(folder)


LATE_LISTENER = """
import signal, socket, sys, time
while True:
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind(("127.0.0.1", int(sys.argv[1])))
            one.listen()
        except OSError:
            time.sleep(0.01)
        else:
            signal.pause()
"""


def late_listener(folder: Path, port: int) -> str:
    (folder / "late.py").write_text(LATE_LISTENER)
    return start_script(folder, f"exec {sys.executable} -I -S {folder}/late.py {port}")


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def wait_until(condition: Callable[[], bool], timeout_s: float = 15.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.01)


def test_the_command_of_the_embedded_simulator() -> None:
    assert ServerSpec("embedded", 2000).command() == [sys.executable, "-m", "zmqcarla.sim", "--port", "2000"]
    assert ServerSpec("embedded", 2000, map="a.xodr", extra=("--seed", "1")).command()[-4:] == [
        "--map",
        "a.xodr",
        "--seed",
        "1",
    ]


def test_the_command_of_real_carla(carla_root: str) -> None:
    assert ServerSpec("carla", 2004, adapter=1, carla_root=carla_root).command() == [
        f"{carla_root}/CarlaUE4.sh",
        "-RenderOffScreen",
        "-nosound",
        "-carla-rpc-port=2004",
        "-graphicsadapter=1",
        "-quality-level=Low",
    ]


def test_real_carla_without_a_camera_touches_no_gpu(carla_root: str) -> None:
    command = ServerSpec("carla", 2004, carla_root=carla_root, quality="Epic", rendering=False).command()
    assert "-nullrhi" in command
    assert "-RenderOffScreen" not in command
    assert command[-1] == "-quality-level=Epic"


def test_real_carla_is_not_started_by_root(carla_root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(SimulatorStartError, match="refuses to run as root"):
        ServerSpec("carla", 2000, carla_root=carla_root).command()


def test_a_root_without_carla_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SimulatorStartError, match=r"CarlaUE4\.sh, found no such file"):
        ServerSpec("carla", 2000, carla_root=str(tmp_path)).command()


def test_a_server_listens_when_ready_and_its_ports_are_free_after_close(claim: ports.PortClaim, tmp_path: Path) -> None:
    port = claim.block.rpc
    server = launch(ServerSpec("embedded", port), tmp_path / "log")
    server.wait_ready(30.0)
    assert ports.listener_pid(port) == server.server_pid()
    assert server.poll() is None
    server.close()
    server.close()
    assert server.poll() is not None
    assert not ports.is_listening(port)


def test_a_server_that_dies_is_seen_with_its_status_and_last_words(claim: ports.PortClaim, tmp_path: Path) -> None:
    server = launch(ServerSpec("embedded", claim.block.rpc, extra=("--no-such-option",)), tmp_path / "log")
    with pytest.raises(SimulatorStartError, match=r"(?s)ended with status 2.*no-such-option") as caught:
        server.wait_ready(30.0)
    assert str(tmp_path / "log") in str(caught.value)
    server.close()


def test_a_server_that_died_before_anybody_waited_for_it_is_seen_too(claim: ports.PortClaim, tmp_path: Path) -> None:
    server = launch(ServerSpec("embedded", claim.block.rpc, extra=("--no-such-option",)), tmp_path / "log")
    wait_until(lambda: server.poll() is not None)
    with pytest.raises(SimulatorStartError, match=r"(?s)ended with status 2.*no-such-option"):
        server.wait_ready(30.0)
    server.close()


def test_a_killed_server_reports_its_signal(claim: ports.PortClaim, tmp_path: Path) -> None:
    server = launch(ServerSpec("embedded", claim.block.rpc), tmp_path / "log")
    server.wait_ready(30.0)
    os.kill(server.server_pid(), 9)
    wait_until(lambda: server.poll() is not None)
    assert server.poll() == 137
    server.close()


def test_a_port_with_another_listener_is_named_with_its_owner(claim: ports.PortClaim, tmp_path: Path) -> None:
    first = launch(ServerSpec("embedded", claim.block.rpc), tmp_path / "first")
    first.wait_ready(30.0)
    second = launch(ServerSpec("embedded", claim.block.rpc), tmp_path / "second")
    with pytest.raises(PortInUseError, match=f"found pid {first.server_pid()}"):
        second.wait_ready(30.0)
    second.close()
    assert first.poll() is None
    first.close()


def test_a_listener_that_leaves_while_the_server_starts_is_no_failure(claim: ports.PortClaim, tmp_path: Path) -> None:
    port = claim.block.rpc
    with socket.socket() as old:
        old.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        old.bind(("127.0.0.1", port))
        old.listen()
        # The embedded simulator binds once; this one tries until it can, and so stands for one that comes up late.
        server = launch(ServerSpec("carla", port, carla_root=late_listener(tmp_path, port)), tmp_path / "log")
        server.server_pid()
        assert not server.is_ready()
    wait_until(server.is_ready)
    assert ports.listener_pid(port) == server.server_pid()
    server.close()


def test_a_port_that_was_listened_on_and_is_not_any_more_is_not_ready(claim: ports.PortClaim, tmp_path: Path) -> None:
    port = claim.block.rpc
    with socket.socket() as old:
        old.bind(("127.0.0.1", port))
        old.listen()
        server = launch(
            ServerSpec("carla", port, carla_root=start_script(tmp_path, "exec sleep 1000")), tmp_path / "log"
        )
        assert not server.is_ready()
    assert not server.is_ready()
    with pytest.raises(SimulatorStartError, match=f"did not listen on port {port} within 0 s"):
        server.wait_ready(0.0)
    server.close()


def test_a_stranger_that_stays_is_named(
    claim: ports.PortClaim, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "_STRANGER_LEAVES_WITHIN_S", 0.0)
    port = claim.block.rpc
    server = launch(ServerSpec("carla", port, carla_root=start_script(tmp_path, "exec sleep 1000")), tmp_path / "log")
    with socket.create_server(("127.0.0.1", port)), pytest.raises(PortInUseError, match=f"found pid {os.getpid()}"):
        server.wait_ready(30.0)
    server.close()


def test_the_status_of_a_server_whose_guard_was_killed_waits_for_the_server(
    claim: ports.PortClaim, tmp_path: Path
) -> None:
    port = claim.block.rpc
    server = launch(ServerSpec("embedded", port), tmp_path / "log")
    server.wait_ready(30.0)
    pid = server.server_pid()
    os.kill(server.pid, signal.SIGKILL)
    wait_until(lambda: server.poll() is not None)
    assert gone(pid)
    assert not ports.is_listening(port)
    assert server.poll() == -signal.SIGKILL
    again = launch(ServerSpec("embedded", port), tmp_path / "log")
    again.wait_ready(30.0)
    assert ports.listener_pid(port) == again.server_pid()
    again.close()
    server.close()


def test_what_a_start_script_leaves_behind_ends_before_the_status_is_told(
    claim: ports.PortClaim, tmp_path: Path
) -> None:
    pid_file = tmp_path / "pid"
    wait = f"while [ ! -s {pid_file} ]; do sleep 0.01; done"
    root = start_script(tmp_path, f"sh -c 'echo $$ > {pid_file}; exec sleep 1000' &\n{wait}")
    server = launch(ServerSpec("carla", claim.block.rpc, carla_root=root), tmp_path / "log")
    wait_until(lambda: server.poll() is not None)
    assert gone(int(pid_file.read_text()))
    server.close()


def test_an_env_alone_starts_and_ends_its_own_server() -> None:
    env = CarlaEnv(simulator="embedded", image_size=(32, 16))
    observation, info = env.reset(seed=0)
    assert observation["rgb"].shape == (3, 16, 32)
    assert info["simulator"] == "embedded"
    server = env.server
    assert server is not None
    pid, port = server.server_pid(), server.spec.port
    assert server.log_path == runtime_directory() / "logs" / "env" / f"server-{port}.log"
    assert server.log_path.exists()
    env.close()
    env.close()
    assert gone(pid)
    assert not server.log_path.exists()
    ports.claim(port).release()


def test_an_env_whose_server_was_killed_starts_another_at_reset() -> None:
    env = CarlaEnv(simulator="embedded", image_size=(32, 16), timeout=5.0)
    env.reset(seed=0)
    assert env.server is not None
    os.kill(env.server.server_pid(), 9)
    with pytest.raises(TimeoutError, match="expected an answer to tick"):
        env.step(env.action_space.sample())
    env.server.log_path.write_text("what the first server said")
    observation, _ = env.reset(seed=0)
    assert observation in env.observation_space
    assert "first" not in env.server.log_path.read_text()
    env.close()


def test_no_server_outlives_a_python_that_was_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", STARTER], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as starter:
        assert starter.stdout is not None
        pid = int(starter.stdout.readline())
        assert not gone(pid)
        starter.kill()
    wait_until(lambda: gone(pid))


def test_choosing_nothing_warns_once_that_the_embedded_simulator_drives() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", WARNER], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stderr.count("EmbeddedSimulatorWarning") == 1
