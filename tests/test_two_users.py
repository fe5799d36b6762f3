"""Two pools of one machine, of one user or of two: neither touches the other's sockets, segments, ports, processes."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import NewVecEnv
from pools import ready_pool, workers_of

import zmqcarla
from zmqcarla.broker import protocol as p
from zmqcarla.pool import LocalPool

COUNTER = "client_envs:Counter-v0"
STRANGER = 65_101

# Imports first: the other user may have no right to read this Python.
_NEIGHBOUR = """
import encodings.ascii, json, os, sys
from zmqcarla.broker.address import sweep_sockets
from zmqcarla.broker.protocol import default_address, runtime_directory
from zmqcarla.lease import ask_status
from zmqcarla.shm.segment import Segment, sweep
from zmqcarla.workers import ports

uid, address, segment, port, directory = json.loads(sys.argv[1])
os.setgroups([])
os.setresgid(uid, uid, uid)
os.setresuid(uid, uid, uid)

def told(action):
    try:
        return repr(action())
    except Exception as error:
        return f"{type(error).__name__}: {error}"

own = Segment.create("test", 4096)
found = {
    "address": default_address(),
    "swept": sweep() + sweep_sockets(),
    "segment": own.name,
    "attach": told(lambda: Segment.attach(segment, None).name),
    "status": told(lambda: ask_status(address, 0.3)["protocol"]),
    "claim": told(lambda: ports.claim(port)),
}
own.close()
os.environ["XDG_RUNTIME_DIR"] = directory
found["their directory"] = told(runtime_directory)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def pool() -> Iterator[LocalPool]:
    with ready_pool(1, "client_envs:*") as pool:
        yield pool


@pytest.fixture
def vec(new_vec_env: NewVecEnv, pool: LocalPool) -> zmqcarla.VectorEnv:
    vec = new_vec_env(1, COUNTER, None, pool.address)
    vec.reset()
    return vec


@pytest.fixture
def port() -> Iterator[int]:
    """Of a server that somebody runs."""
    for number in range(25_900, 25_990, 4):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", number)):
            yield number
            return


def _neighbour(vec: zmqcarla.VectorEnv, pool: LocalPool, port: int, uid: int) -> dict[str, Any]:
    """What a process with a runtime directory of its own finds out, as this user or as another one."""
    arena: str = vec._rows._arena.name  # type: ignore[union-attr]  # pyright: ignore
    directory = Path(tempfile.mkdtemp(prefix="zq-"))
    try:
        os.chown(directory, uid, uid)
        told = json.dumps([uid, pool.address, arena, port, os.environ["XDG_RUNTIME_DIR"]])
        environment = {**os.environ, "XDG_RUNTIME_DIR": str(directory)}
        done = subprocess.run(
            [sys.executable, "-c", _NEIGHBOUR, told],
            env=environment,
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
    finally:
        shutil.rmtree(directory)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["swept"] == []
    assert found["address"] == f"ipc://{directory}/zmqcarla/broker.sock" != p.default_address()
    return found


def _check_untouched(vec: zmqcarla.VectorEnv, pool: LocalPool, before: list[dict[str, Any]]) -> None:
    for step in range(1, 4):
        assert vec.step(np.zeros((1, 2), np.float32))[0]["vector"][:, 1].tolist() == [step]
    same = ("pid", "supervisor_pid", "restarts", "state")
    assert [[one[name] for name in same] for one in workers_of(pool)] == [
        [one[name] for name in same] for one in before
    ]


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to be another user")
def test_another_user_sees_a_busy_port_and_nothing_else(vec: zmqcarla.VectorEnv, pool: LocalPool, port: int) -> None:
    before = workers_of(pool)
    found = _neighbour(vec, pool, port, STRANGER)
    assert found["segment"].startswith(f"/zmqcarla-{STRANGER}-")
    assert "belongs to another user" in found["attach"]
    assert found["status"].startswith("BrokerUnavailableError")
    assert found["claim"].startswith(f"PortInUseError: port {port} is in use by a process of user root (uid 0)")
    assert found["their directory"].startswith("PermissionError")
    _check_untouched(vec, pool, before)


@pytest.mark.skipif(os.getuid() != 0, reason="needs the right to change groups, also to none")
def test_another_pool_of_one_user_is_told_the_pid(vec: zmqcarla.VectorEnv, pool: LocalPool, port: int) -> None:
    before = workers_of(pool)
    found = _neighbour(vec, pool, port, os.getuid())
    assert found["claim"].startswith(f"PortInUseError: port {port} is in use by pid {os.getpid()} ")
    assert found["status"] == str(p.PROTOCOL)
    _check_untouched(vec, pool, before)
