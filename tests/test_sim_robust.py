"""What a simulator survives: garbage, half messages, absurd lengths, crowds, slow readers, kill -9, many reloads."""

from __future__ import annotations

import asyncio
import contextlib
import random
import resource
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, cast

import msgpack
import psutil
import pytest
from sim_process import banner_of, connect, free_port, run_script, running_sim, start_sim

from zmqcarla.sim import streams, wire

pack = cast("Any", msgpack).packb
VERSION = [[1, "0.9.16"]]


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with running_sim() as port:
        yield port


def dial(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=20)


def request(method: str, *arguments: object, msgid: int = 1) -> bytes:
    return cast("bytes", pack([0, msgid, method, [[False], *arguments]]))


class Replies:
    """Reads the replies on a connection."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._unpacker = cast("Any", msgpack.Unpacker(raw=False, max_buffer_size=2**30))

    def next(self) -> Any:
        while True:
            for reply in self._unpacker:
                return reply
            chunk = self._sock.recv(2**20)
            assert chunk, "the connection was closed"
            self._unpacker.feed(chunk)


def call(sock: socket.socket, method: str, *arguments: object) -> Any:
    sock.sendall(request(method, *arguments))
    reply = Replies(sock).next()
    return reply[3] if reply[2] is None else reply[2]


def assert_serves(port: int) -> None:
    with dial(port) as sock, dial(port + 1) as stream:
        assert call(sock, "version") == VERSION
        stream.sendall(wire.SUBSCRIPTION.pack(wire.OBSERVER_STREAM_ID))
        assert len(stream.recv(48)) == 48


def end_of(sock: socket.socket) -> bool:
    """Whether the peer closes the connection."""
    with contextlib.suppress(ConnectionResetError):
        while sock.recv(2**16):
            pass
    return True


# ---------------------------------------------------------------------------------------------- garbage, half messages


@pytest.mark.parametrize("aside", [0, 1])
def test_random_bytes_harm_nobody(port: int, aside: int) -> None:
    chance = random.Random(aside)
    for _ in range(60):
        with dial(port + aside) as sock, contextlib.suppress(ConnectionError):
            sock.sendall(chance.randbytes(chance.choice([1, 3, 4, 20, 5000])))
    assert_serves(port)


def test_a_request_may_stop_anywhere(port: int) -> None:
    whole = request("get_actors_by_id", [1, 2, 3])
    for length in range(len(whole)):
        with dial(port) as sock:
            sock.sendall(whole[:length])
    assert_serves(port)


def test_a_request_may_come_byte_by_byte(port: int) -> None:
    with dial(port) as sock:
        for byte in request("version"):
            sock.sendall(bytes([byte]))
        assert Replies(sock).next() == [1, 1, None, VERSION]


ABSURD = {
    "array": b"\xdd\xff\xff\xff\xff",
    "map": b"\xdf\xff\xff\xff\xff",
    "array of a million and one": b"\xdd\x00\x10\x00\x01",
    "deep": b"\x91" * 5000,
    "very deep and wide": b"\xdd\x00\x0f\xff\xff" * 5000,
    "bytes of a kind that is not used": b"\xc9\xff\xff\xff\xff\x01",
}


@pytest.mark.parametrize("name", ABSURD)
def test_absurd_lengths_close_that_connection(port: int, name: str) -> None:
    with dial(port) as sock:
        sock.sendall(ABSURD[name])
        assert end_of(sock)
    assert_serves(port)


@pytest.mark.parametrize("kind", [b"\xdb", b"\xc6"], ids=["str", "bin"])
def test_a_request_without_end_is_cut_off(port: int, kind: bytes) -> None:
    with dial(port) as sock:
        with contextlib.suppress(ConnectionError):
            sock.sendall(b"\x94\x00\x01" + kind + struct.pack(">I", 2**32 - 1))
            for _ in range(wire.MAX_REQUEST_BYTES // 2**20 + 1):
                sock.sendall(bytes(2**20))
        assert end_of(sock)
    assert_serves(port)


def test_a_client_that_is_gone_before_its_reply(port: int) -> None:
    for method in ("get_map_data", "get_actor_definitions", "tick_cue", "version"):
        sock = dial(port)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.sendall(request(method) * 20)
        sock.close()
    assert_serves(port)


KILLED_IN_A_CALL = """
import os, sys, threading, carla
client = carla.Client("127.0.0.1", int(sys.argv[1]))
client.set_timeout(10.0)
world = client.get_world()
threading.Timer(0.05, os.kill, (os.getpid(), 9)).start()
while True:
    world.get_blueprint_library()
"""


def test_a_client_killed_in_the_middle_of_a_call(port: int) -> None:
    assert run_script(port, KILLED_IN_A_CALL).returncode == -9
    _, world = connect(port)
    assert world.wait_for_tick(10.0).frame > 0


# ---------------------------------------------------------------------------------------------------- many and too many


def test_a_thousand_connections_on_each_port(port: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2200:
        pytest.skip(f"this process may open {hard} files; 2200 are needed")
    with contextlib.ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2200), hard))
        clients = [stack.enter_context(dial(port)) for _ in range(1000)]
        listeners = [stack.enter_context(dial(port + 1)) for _ in range(1000)]
        for client, listener in zip(clients, listeners, strict=True):
            client.sendall(request("version"))
            listener.sendall(wire.SUBSCRIPTION.pack(wire.OBSERVER_STREAM_ID))
        for client, listener in zip(clients, listeners, strict=True):
            assert Replies(client).next() == [1, 1, None, VERSION]
            assert len(listener.recv(48)) == 48
    assert_serves(port)


def test_connections_beyond_the_open_files_are_refused_in_words() -> None:
    port = free_port()
    command = f"ulimit -n 120; exec {sys.executable} -m zmqcarla.sim --port {port}"
    process = subprocess.Popen(["bash", "-c", command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert "embedded simulator" in banner_of(process)
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(dial(port)) for _ in range(11)]
            listeners = [stack.enter_context(dial(port + 1)) for _ in range(11)]
            for client in clients[:10]:
                assert call(client, "version") == VERSION
            assert end_of(clients[10])
            assert end_of(listeners[10])
        with dial(port) as client:
            assert call(client, "version") == VERSION
    finally:
        process.terminate()
        output, _ = process.communicate(timeout=15)
    assert "there are 10 connections, and open files for no more; raise `ulimit -n`" in output
    assert "a stream refused" in output


# --------------------------------------------------------------------------------------------------------- slow readers


def rss_bytes(pid: int) -> int:
    return int(psutil.Process(pid).memory_info().rss)


def test_a_client_that_does_not_read_its_replies_waits_and_costs_little() -> None:
    port = free_port()
    process = start_sim(port)
    try:
        assert "embedded simulator" in banner_of(process)
        with dial(port) as lazy, dial(port) as other:
            size = len(call(lazy, "get_map_data")[0][1])
            before = rss_bytes(process.pid)
            count = 200 * 2**20 // size
            lazy.sendall(request("get_map_data") * count)
            for _ in range(200):
                assert call(other, "version") == VERSION
            assert rss_bytes(process.pid) - before < 80 * 2**20
            replies = Replies(lazy)
            for _ in range(count):
                assert len(replies.next()[3][0][1]) == size
    finally:
        process.terminate()
        process.communicate(timeout=15)


def test_a_reader_far_behind_misses_messages_and_catches_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    limit, size = 2**20, 2**16
    monkeypatch.setattr(streams, "_BACKLOG_BYTES", limit)

    async def run() -> list[int]:
        board = streams.StreamBoard(0)
        listening = socket.create_server(("127.0.0.1", 0))
        board.serve(listening, asyncio.get_running_loop())
        joined: asyncio.Queue[streams.Subscriber] = asyncio.Queue()
        board.on_joined = joined.put_nowait
        reader, writer = await asyncio.open_connection(*listening.getsockname(), limit=size)
        writer.write(wire.SUBSCRIPTION.pack(7))
        subscriber = await asyncio.wait_for(joined.get(), 10)
        for number in range(1000):
            board.publish(7, (struct.pack("<II", size, number), bytes(size - 4)), lossless=True)
            assert len(subscriber._backlog) <= limit + size + 4  # pyright: ignore[reportPrivateUsage]
        seen: list[int] = []
        while not seen or seen[-1] != 1000:
            length, number = struct.unpack("<II", await asyncio.wait_for(reader.readexactly(8), 10))
            assert length == size
            await asyncio.wait_for(reader.readexactly(size - 4), 10)
            seen.append(number)
            if not subscriber._backlog and seen[-1] < 1000:  # pyright: ignore[reportPrivateUsage]
                board.publish(7, (struct.pack("<II", size, 1000), bytes(size - 4)), lossless=True)
        assert board.backlog_bytes == 0
        writer.close()
        await writer.wait_closed()
        board.close()
        return seen

    seen = asyncio.run(run())
    first = [number for number in seen if number < 1000]
    assert first == list(range(len(first)))
    assert 10 < len(first) < 1000
    assert caplog.text.count("misses messages") == 1


# ------------------------------------------------------------------------------------------------------ kill and reload


def test_killed_and_started_again_on_the_same_port() -> None:
    port = free_port()
    process = start_sim(port)
    assert "embedded simulator" in banner_of(process)
    client, world = connect(port)
    assert world.wait_for_tick(10.0).frame > 0
    with dial(port) as idle:
        process.kill()
        process.communicate(timeout=15)
        assert end_of(idle)
    again = start_sim(port)
    try:
        assert "embedded simulator" in banner_of(again)
        _, fresh = connect(port)
        assert fresh.wait_for_tick(10.0).frame > 0
    finally:
        del client, world
        again.terminate()
        again.communicate(timeout=15)


def test_many_reloads_do_not_make_it_grow() -> None:
    port = free_port()
    process = start_sim(port)
    place = [[0.0, 0.0, 0.5], [0.0, 0.0, 0.0]]
    try:
        assert "embedded simulator" in banner_of(process)
        with dial(port) as sock:
            call(sock, "set_episode_settings", [True, False, [True, 0.05], True, 0.01, 10, 0.0, True, 3e3, 2e3, True])
            sizes: list[int] = []
            for _ in range(4):
                for _ in range(30):
                    call(sock, "load_new_episode", "", False, 0)
                    for number in range(5):
                        place[0][0] = 8.0 * number
                        call(sock, "spawn_actor", [0, "vehicle.audi.tt", []], place)
                    call(sock, "spawn_actor", [0, "sensor.camera.rgb", []], place)
                    call(sock, "tick_cue")
                sizes.append(rss_bytes(process.pid))
    finally:
        process.terminate()
        process.communicate(timeout=15)
    assert sizes[-1] - sizes[1] < 3 * 2**20, sizes
