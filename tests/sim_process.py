"""Starting the embedded simulator for tests, and the carla client that drives it."""

from __future__ import annotations

import contextlib
import select
import socket
import subprocess
import sys
from collections.abc import Generator
from typing import Any, cast

import carla as _carla

carla = cast("Any", _carla)

START_S = 40.0
DELTA_S = 0.05


def free_port() -> int:
    """A port that is free together with the next one."""
    for _ in range(50):
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port: int = first.getsockname()[1]
            with contextlib.suppress(OSError, OverflowError):
                second.bind(("127.0.0.1", port + 1))
                return port
    raise OSError("no two neighbouring ports are free")


def start_sim(port: int, *options: str) -> subprocess.Popen[str]:
    """Start the simulator; its output is a pipe."""
    command = [sys.executable, "-m", "zmqcarla.sim", "--port", str(port), *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def banner_of(process: subprocess.Popen[str]) -> str:
    """The first line that the simulator prints."""
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], START_S)
    assert ready, f"no banner within {START_S} s"
    return process.stdout.readline()


@contextlib.contextmanager
def running_sim(*options: str) -> Generator[int, None, None]:
    """A running simulator's port."""
    port = free_port()
    process = start_sim(port, *options)
    try:
        assert "embedded simulator" in banner_of(process)
        yield port
    finally:
        process.terminate()
        process.communicate(timeout=15)
    assert process.returncode == 0


def connect(port: int) -> tuple[Any, Any]:
    """A client and its world."""
    client = carla.Client("127.0.0.1", port)
    client.set_timeout(10.0)
    return client, client.get_world()


def make_synchronous(world: Any) -> None:
    """Synchronous mode at DELTA_S."""
    world.apply_settings(carla.WorldSettings(synchronous_mode=True, fixed_delta_seconds=DELTA_S))


def run_script(port: int, script: str, timeout_s: float = 50.0) -> subprocess.CompletedProcess[str]:
    """Run a script in a process of its own, with the simulator's port as its argument."""
    command = [sys.executable, "-c", script, str(port)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
