"""The server of an idle worker is asked whether it lives, over real sockets, and a real simulator is."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import msgpack
import psutil
import pytest
from conftest import wait_until
from pools import workers_of

from zmqcarla.pool import LocalPool
from zmqcarla.workers.health import INTERVAL_S, ServerProbe


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(10)
        yield listening


@pytest.fixture
def probe() -> Iterator[ServerProbe]:
    probe = ServerProbe(timeout_s=30.0)
    yield probe
    probe.forget()


def test_it_asks_in_the_servers_own_words_and_is_content_with_an_answer(
    listener: socket.socket, probe: ServerProbe
) -> None:
    port = listener.getsockname()[1]
    assert probe.look(port, 100.0) == 0.0
    assert probe.look(port, 100.0 + INTERVAL_S) == 0.0
    server, _ = listener.accept()
    with server:
        assert msgpack.unpackb(server.recv(100)) == [0, 1, "version", []]
        assert probe.look(port, 100.0 + INTERVAL_S + 30.0) == 0.0
        assert probe.look(port, 100.0 + INTERVAL_S + 30.5) == 30.5
        server.sendall(b"\x94\x01\x01\xc0\xa60.9.16")  # [1, 1, nil, "0.9.16"]
        wait_until(lambda: probe.look(port, 500.0) == 0.0, "the answer to be taken")
    assert probe.look(port, 500.0) == 0.0  # nothing is under way


@pytest.mark.parametrize("answer", [b"", b"\xc1", b"HTTP/1.1 400", b"\x94\x00\x01\xa7version\x90"])
def test_something_else_is_no_answer(listener: socket.socket, probe: ServerProbe, answer: bytes) -> None:
    port = listener.getsockname()[1]
    probe.look(port, 0.0)
    probe.look(port, INTERVAL_S)
    server, _ = listener.accept()
    with server:
        server.sendall(answer)
    assert probe.look(port, INTERVAL_S + 31.0) == 31.0


def test_a_port_where_nobody_listens_does_not_answer(probe: ServerProbe) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    probe.look(port, 0.0)
    assert probe.look(port, INTERVAL_S) == 0.0
    assert probe.look(port, INTERVAL_S + 31.0) == 31.0


@pytest.mark.timeout(150)
def test_a_stopped_simulator_of_an_idle_worker_is_replaced() -> None:
    pool = LocalPool(1, worker={"step_timeout_s": 3.0, "stable_start_s": 0.0})
    try:
        wait_until(lambda: [one["state"] for one in workers_of(pool)] == ["ready"], "the worker", 40)
        (stopped,) = _simulators()
        stopped.send_signal(signal.SIGSTOP)
        wait_until(lambda: workers_of(pool)[0]["restarts"] == 1, "the silence to be noticed", 50)
        wait_until(lambda: not stopped.is_running(), "the end of the stopped one", 40)
    finally:
        pool.close()
    log = (Path(pool.log_directory) / "supervisor.log").read_text()
    assert "its embedded simulator has not answered for" in log


def _simulators() -> list[psutil.Process]:
    children = psutil.Process().children(recursive=True)
    return [child for child in children if child.cmdline()[1:3] == ["-m", "zmqcarla.sim"]]
