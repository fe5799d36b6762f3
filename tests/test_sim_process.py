"""The simulator as a process: how it starts, refuses to start, survives bad clients, cleans up and ends."""

from __future__ import annotations

import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import msgpack
import pytest
from sim_process import banner_of, carla, connect, free_port, run_script, running_sim, start_sim

from zmqcarla.sim import wire

pack = cast("Any", msgpack.packb)
unpack = cast("Any", msgpack.unpackb)


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with running_sim() as port:
        yield port


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    output, _ = process.communicate(timeout=30)
    return process.returncode, output


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ends_cleanly_on_a_signal(number: int) -> None:
    process = start_sim(free_port())
    banner = banner_of(process)
    assert "not CarlaUE4" in banner
    process.send_signal(number)
    code, output = finish(process)
    assert (code, output) == (0, "")


def test_a_taken_port_is_named_with_its_owner(port: int) -> None:
    code, output = finish(start_sim(port))
    assert code == 2
    assert f"port {port}" in output
    assert "in use by pid" in output
    assert "--port" in output
    assert "Traceback" not in output


@pytest.mark.parametrize("content", [None, "", "<html></html>", "<OpenDRIVE></OpenDRIVE>", "\x00\x01"])
def test_a_bad_map_is_refused_in_words(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "Bad.xodr"
    if content is not None:
        path.write_text(content)
    code, output = finish(start_sim(free_port(), "--map", str(path)))
    assert code == 2
    assert str(path) in output
    assert ".xodr" in output or "OpenDRIVE" in output
    assert "Traceback" not in output


def test_a_map_file_gives_the_map_its_name(town_maps: Path) -> None:
    with running_sim("--map", str(town_maps / "Town01.xodr")) as port:
        client, world = connect(port)
        assert client.get_available_maps()[0] == "/Game/Carla/Maps/Town01"
        assert world.get_map().name.endswith("Town01")


@pytest.mark.parametrize(
    "garbage",
    [
        b"\xc1\xc1\xc1",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        pack([1, 2, 3]),
        pack({"method": "version"}),
        pack([0, 1, 5, [[False]]]),
    ],
)
def test_garbage_closes_that_connection_and_no_other(port: int, garbage: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as bad:
        bad.sendall(garbage)
        assert bad.recv(100) == b""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as good:
        assert call(good, "version") == [[1, "0.9.16"]]


def call(sock: socket.socket, method: str, *arguments: object) -> Any:
    sock.sendall(pack([0, 1, method, [[False], *arguments]]))
    unpacker = cast("Any", msgpack.Unpacker(raw=False))
    while True:
        chunk = sock.recv(65536)
        assert chunk, "the connection was closed"
        unpacker.feed(chunk)
        for reply in unpacker:
            assert reply[:2] == [1, 1]
            return reply[3] if reply[2] is None else reply[2]


# calls with arguments that no client would send: each is refused in the shape of its method
WRONG: list[tuple[str, tuple[object, ...]]] = [
    ("spawn_actor", ()),
    ("spawn_actor", ([0, "vehicle.audi.tt", []], [[0, 0], [0, 0, 0]])),
    ("spawn_actor", ([0, "vehicle.audi.tt", []], [[float("nan"), 0.0, 0.0], [0.0, 0.0, 0.0]])),
    ("spawn_actor", ([0, "no.such.thing", []], [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])),
    ("spawn_actor", ([0, "sensor.camera.rgb", [["image_size_x", 2, "-5"]]], [[0.0] * 3, [0.0] * 3])),
    ("spawn_actor", ([0, "sensor.camera.rgb", [["image_size_x", 2, "many"]]], [[0.0] * 3, [0.0] * 3])),
    ("destroy_actor", ("x", "y")),
    ("apply_control_to_vehicle", (1, [1, 2])),
    ("apply_control_to_vehicle", (999, [0.0, 0.0, 0.0, False, False, False, 0])),
    ("set_actor_target_velocity", (1, [float("inf"), 0.0, 0.0])),
    ("set_episode_settings", ([True],)),
    ("set_episode_settings", ([True, False, [True, -1.0], True, 0.01, 10, 0.0, True, 3000.0, 2000.0, True],)),
    ("get_actors_by_id", (5,)),
    ("load_new_episode", ()),
    ("copy_opendrive_to_file", ("nothing", [])),
    ("set_weather_parameters", ([1.0],)),
    ("apply_physics_control", (1, [])),
    ("get_light_boxes", (1,)),
    ("set_traffic_light_state", (2, 77)),
    ("no_such_call", ()),
]


@pytest.mark.parametrize(("method", "arguments"), WRONG)
def test_wrong_arguments_are_refused_and_nothing_else_happens(
    port: int, method: str, arguments: tuple[object, ...]
) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        result = call(sock, method, *arguments)
        if isinstance(result, str):
            assert method in result
        else:
            ((flag, text),) = result
            assert flag in (0, True)
            assert text[0]
        assert call(sock, "version") == [[1, "0.9.16"]]


def test_a_batch_of_nonsense_gets_an_error_each(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        replies = call(sock, "apply_batch", [[[99, [1]]], [[2, []]], [[]], [[22, ["x"]]], [[1, [4242]]]], False)
        assert [reply[0][0] for reply in replies] == [0] * 5


def test_a_stream_connection_that_says_nothing_or_nonsense_harms_nobody(port: int) -> None:
    silent = socket.create_connection(("127.0.0.1", port + 1), timeout=10)
    unknown = socket.create_connection(("127.0.0.1", port + 1), timeout=10)
    unknown.sendall(wire.SUBSCRIPTION.pack(4_000_000_000) + b"more" * 1000)
    _, world = connect(port)
    assert world.wait_for_tick(10.0).frame > 0
    silent.close()
    unknown.close()


def read_message(stream: socket.socket) -> bytes:
    def read(size: int) -> bytes:
        got = b""
        while len(got) < size:
            chunk = stream.recv(size - len(got))
            assert chunk, "the stream was closed"
            got += chunk
        return got

    (size,) = struct.unpack("<I", read(4))
    return read(size)


def test_an_observer_of_the_old_episode_hears_nothing_before_the_map_change() -> None:
    """The client that reloads is still subscribed then, and a message of the new episode may corrupt its memory."""
    with running_sim() as port, socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        call(sock, "set_episode_settings", [True, False, [True, 0.05], True, 0.01, 10, 0.0, True, 3000.0, 2000.0, True])
        ((_, (episode, _)),) = call(sock, "get_episode_info")
        with socket.create_connection(("127.0.0.1", port + 1), timeout=10) as old:
            old.sendall(wire.SUBSCRIPTION.pack(wire.OBSERVER_STREAM_ID))
            assert struct.unpack_from("<Q", read_message(old), 48) == (episode,)
            call(sock, "load_new_episode", "", False, 0)
            call(sock, "tick_cue")
            with socket.create_connection(("127.0.0.1", port + 1), timeout=10) as new:
                new.sendall(wire.SUBSCRIPTION.pack(wire.OBSERVER_STREAM_ID))
                assert struct.unpack_from("<Q", read_message(new), 48) == (episode + 1,)
            message = read_message(old)
            while struct.unpack_from("<Q", message, 48) == (episode,):
                message = read_message(old)
            assert struct.unpack_from("<Q", message, 48) == (episode + 1,)
            assert struct.unpack_from("<I", message, 48 + 32) == (wire.SimulationState.MAP_CHANGE,)


LEAVE_SYNCHRONOUS = """
import os, sys, carla
client = carla.Client("127.0.0.1", int(sys.argv[1]))
client.set_timeout(10.0)
world = client.get_world()
world.apply_settings(carla.WorldSettings(synchronous_mode=True, fixed_delta_seconds=0.05))
world.spawn_actor(world.get_blueprint_library().find("vehicle.audi.tt"), world.get_map().get_spawn_points()[0])
world.tick()
os.kill(os.getpid(), 9)
"""


def test_a_killed_synchronous_client_leaves_no_actors_and_no_hanging_world() -> None:
    with running_sim() as port:
        assert run_script(port, LEAVE_SYNCHRONOUS).returncode == -9
        client, world = connect(port)
        assert not world.get_settings().synchronous_mode
        assert len(world.get_actors().filter("vehicle.*")) == 0
        assert world.wait_for_tick(10.0).frame > 0
        del client


def test_another_client_keeps_the_world_of_one_that_was_killed() -> None:
    with running_sim() as port:
        client, world = connect(port)
        assert run_script(port, LEAVE_SYNCHRONOUS).returncode == -9
        assert world.get_settings().synchronous_mode
        world.tick()
        assert len(world.get_actors().filter("vehicle.*")) == 1
        del client


def test_two_clients_one_ticking_one_watching() -> None:
    with running_sim() as port:
        _, ticking = connect(port)
        _, watching = connect(port)
        ticking.apply_settings(carla.WorldSettings(synchronous_mode=True, fixed_delta_seconds=0.05))
        points = ticking.get_map().get_spawn_points()
        car = ticking.spawn_actor(ticking.get_blueprint_library().find("vehicle.audi.tt"), points[0])
        seen: list[int] = []
        number = watching.on_tick(lambda snapshot: seen.append(snapshot.frame))
        frames = [ticking.tick() for _ in range(10)]
        assert watching.get_actor(car.id).type_id == "vehicle.audi.tt"
        wait_for(lambda: frames[-1] in seen)
        watching.remove_on_tick(number)
        assert set(frames) <= set(seen)


def wait_for(condition: Callable[[], bool]) -> None:
    from conftest import wait_until  # noqa: PLC0415

    wait_until(condition, "the watcher to see the last frame")


TRAFFIC = """
import random, sys, carla
client = carla.Client("127.0.0.1", int(sys.argv[1]))
client.set_timeout(20.0)
world = client.get_world()
world.apply_settings(carla.WorldSettings(synchronous_mode=True, fixed_delta_seconds=0.05))
world = client.reload_world(False)
manager = client.get_trafficmanager(int(sys.argv[1]) + 7)
manager.set_synchronous_mode(True)
manager.set_random_device_seed(5)
cars = []
for point in world.get_map().get_spawn_points()[::8][:12]:
    cars.append(world.spawn_actor(world.get_blueprint_library().find("vehicle.audi.tt"), point))
for car in cars:
    car.set_autopilot(True, manager.get_port())
world.tick()
starts = {car.id: car.get_location() for car in cars}
off = 0
for tick in range(300):
    world.tick()
    if tick % 10 == 0:
        for car in cars:
            off += world.get_map().get_waypoint(car.get_location(), project_to_road=False) is None
moved = [car.get_location().distance(starts[car.id]) for car in cars]
print(off, sum(distance > 10 for distance in moved))
for car in cars:
    t = car.get_transform()
    print(t.location.x, t.location.y, t.rotation.yaw)
manager.set_synchronous_mode(False)
manager.shut_down()
world.apply_settings(carla.WorldSettings(synchronous_mode=False))
"""


def test_the_traffic_manager_drives_and_repeats_itself() -> None:
    outputs: list[str] = []
    for _ in range(2):
        with running_sim() as port:
            done = run_script(port, TRAFFIC)
            assert done.returncode == 0, done.stderr
            outputs.append(done.stdout)
    off, moved = map(int, outputs[0].split("\n", 1)[0].split())
    assert off <= 5
    assert moved >= 6
    assert outputs[0] == outputs[1]


def test_help_needs_no_simulator() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "zmqcarla.sim", "--help"], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0
    assert "--map" in done.stdout


def test_vehicles_and_walkers_repeat_themselves_to_the_bit() -> None:
    tool = Path(__file__).parents[1] / "tools/check_repeat.py"
    sizes = ["--ticks", "120", "--vehicles", "12", "--walkers", "5", "--port", str(free_port()), "--timeout-s", "40"]
    done = subprocess.run([sys.executable, str(tool), *sizes], capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 runs of 120 ticks are alike" in done.stdout
