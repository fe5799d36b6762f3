"""The policy server: what it answers to an evaluator's agent, and to what it should not get."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import zmq

from zmqcarla.agents import PolicyServer, Route
from zmqcarla.agents.policy_frames import VERSION, pack_message, pack_step, unpack_head
from zmqcarla.broker.errors import AddressError

SENSORS = [{"type": "sensor.camera.rgb", "id": "front", "x": 0.7, "width": 32, "height": 16, "fov": 90}]
WORLD = [[1.0, 2.0, 0.0, 0.0, 0.0, 90.0, 4.0], [1.0, 9.0, 0.0, 0.0, 0.0, 90.0, 4.0]]
GPS = [[0.0, 1e-5, 0.0, 4.0], [0.0, 2e-5, 0.0, 4.0]]
TIMEOUT_MS = 20_000


class Steering:
    """Steers by the first pixel, and remembers what it saw."""

    def __init__(self, route: Route) -> None:
        self.route = route
        self.seen: list[tuple[float, dict[str, Any]]] = []

    def __call__(self, input_data: dict[str, tuple[int, Any]], timestamp_s: float) -> list[float]:
        self.seen.append((timestamp_s, input_data))
        if "speed" in input_data and input_data["speed"][1]["speed"] > 100.0:
            raise ArithmeticError("too fast")
        return [float(input_data["front"][1][0, 0, 0]) / 255, -0.5, 3.0]


@pytest.fixture
def policies() -> list[Steering]:
    return []


@pytest.fixture
def server(policies: list[Steering]) -> Iterator[PolicyServer]:
    def new_policy(route: Route) -> Steering:
        policies.append(Steering(route))
        return policies[-1]

    with PolicyServer(new_policy, SENSORS) as server:
        yield server


@pytest.fixture
def socket(server: PolicyServer) -> Iterator[zmq.Socket[bytes]]:
    with zmq.Context() as context, context.socket(zmq.REQ) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.RCVTIMEO, TIMEOUT_MS)
        socket.connect(server.address)
        yield socket


def ask(socket: zmq.Socket[bytes], frames: list[Any]) -> dict[str, Any]:
    socket.send_multipart(frames)
    return unpack_head(socket.recv_multipart())


def begin(socket: zmq.Socket[bytes]) -> dict[str, Any]:
    return ask(socket, pack_message({"kind": "route", "version": VERSION, "gps": GPS, "world": WORLD}))


def camera(value: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.full((16, 32, 4), value, np.uint8)


def test_a_route_is_driven_by_a_policy_of_its_own(policies: list[Steering], socket: zmq.Socket[bytes]) -> None:
    assert begin(socket) == {"track": "SENSORS", "sensors": SENSORS}
    np.testing.assert_array_equal(policies[0].route.world, WORLD)
    points = np.arange(12, dtype=np.float32).reshape(3, 4)[:, ::-1]
    sent = {"front": (7, camera(255)), "lidar": (7, points), "speed": (7, {"speed": np.float64(3.5)})}
    assert ask(socket, pack_step(0.35, sent)) == {"control": [1.0, -0.5, 1.0]}
    ((timestamp_s, got),) = policies[0].seen
    assert timestamp_s == 0.35
    assert got["speed"] == (7, {"speed": 3.5})
    np.testing.assert_array_equal(got["front"][1], camera(255))
    np.testing.assert_array_equal(got["lidar"][1], points)
    assert ask(socket, pack_message({"kind": "end"})) == {}
    assert "expected a route before its steps" in ask(socket, pack_step(0.4, sent))["error"]
    begin(socket)
    assert len(policies) == 2


def test_a_scan_without_points_arrives(policies: list[Steering], socket: zmq.Socket[bytes]) -> None:
    begin(socket)
    ask(socket, pack_step(0.0, {"front": (1, camera(0)), "lidar": (1, np.empty((0, 4), np.float32))}))
    assert policies[0].seen[0][1]["lidar"][1].shape == (0, 4)


def test_a_policy_that_raises_fails_its_route_alone(socket: zmq.Socket[bytes]) -> None:
    begin(socket)
    answer = ask(socket, pack_step(0.0, {"speed": (1, {"speed": 101.0})}))
    assert "ArithmeticError('too fast')" in answer["error"]
    assert "Traceback" in answer["error"]
    assert "control" in ask(socket, pack_step(0.05, {"front": (2, camera(0))}))


def _step_with(part: dict[str, Any], *arrays: bytes) -> list[Any]:
    return [msgpack.packb({"kind": "step", "timestamp_s": 0.0, "input": {"front": [1, part]}}), *arrays]


@pytest.mark.parametrize(
    ("frames", "text"),
    [
        ([b"\xc1"], "expected a msgpack frame"),
        ([msgpack.packb([1])], "expected a dict"),
        ([msgpack.packb({"kind": "shutdown"})], "expected kind route, step or end"),
        ([msgpack.packb({"kind": "route", "version": 9})], "expected version 1"),
        (pack_message({"kind": "route", "version": VERSION, "gps": [[1.0]], "world": WORLD}), "rows of 4 numbers"),
        (_step_with({"array": 0, "dtype": "|O", "shape": [1]}, b"x" * 8), "array of numbers"),
        (_step_with({"array": 5, "dtype": "|u1", "shape": [1]}, b"x"), "array of numbers"),
        (_step_with({"array": 0, "dtype": "|u1", "shape": [2, 2]}, b"x"), "malformed"),
        ([b"\x80", *[b""] * 100], "expected 1 to 65 frames"),
    ],
)
def test_what_is_no_question_is_answered_in_words(socket: zmq.Socket[bytes], frames: list[Any], text: str) -> None:
    begin(socket)
    assert text in ask(socket, frames)["error"]
    assert "sensors" in begin(socket)


def test_a_control_that_is_none_is_an_error(server: PolicyServer) -> None:
    with (
        PolicyServer(lambda route: lambda data, time_s: [0.0, float("nan"), 0.0], SENSORS) as bad,
        zmq.Context() as context,
        context.socket(zmq.REQ) as socket,
    ):
        socket.setsockopt(zmq.RCVTIMEO, TIMEOUT_MS)
        socket.connect(bad.address)
        begin(socket)
        assert "3 finite numbers" in ask(socket, pack_step(0.0, {}))["error"]


def test_addresses_beyond_the_host_are_refused() -> None:
    with pytest.raises(AddressError, match="stay on one host"):
        PolicyServer(Steering, SENSORS, address="tcp://0.0.0.0:23456")


def test_a_taken_address_is_an_error(server: PolicyServer, tmp_path: Path) -> None:
    with pytest.raises(AddressError, match="expected a free address"):
        PolicyServer(Steering, SENSORS, address=f"ipc://{tmp_path}/no/such/folder.sock")
    assert Path(server.address.removeprefix("ipc://")).exists()


def test_the_socket_is_gone_afterwards(policies: list[Steering]) -> None:
    server = PolicyServer(Steering, SENSORS)
    path = Path(server.address.removeprefix("ipc://"))
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert path.exists()
    server.close()
    server.close()
    assert not path.parent.exists()


def test_the_track_is_one_of_the_leaderboards() -> None:
    with pytest.raises(ValueError, match="expected one of SENSORS"):
        PolicyServer(Steering, SENSORS, track="sensors")
