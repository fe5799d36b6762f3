"""A policy of this process that drives an agent of the Leaderboard in another one, without CARLA or the Leaderboard."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq

from zmqcarla.agents import PolicyServer, policy_wire
from zmqcarla.agents.policy_wire import PolicyClient, Questions, WireError, pack, unpack

PLAN = {"gps": [[42.0, 2.0, 0.0]] * 2, "world": [[0.0] * 6, [9.0, 0.0, 0.0, 0.0, 90.0, 0.0]], "options": [4, 4]}
SENSORS = [
    {"type": "sensor.camera.rgb", "id": "EYE", "x": 0.7, "width": 40, "height": 20, "fov": 100},
    {"type": "sensor.lidar.ray_cast", "id": "LIDAR", "z": 2.5},
    {"type": "sensor.speedometer", "id": "SPEED", "reading_frequency": 20},
]


class Policy:
    """Steers by what it sees."""

    def __init__(self) -> None:
        self.plans: list[Any] = []
        self.seen: list[dict[str, Any]] = []
        self.ends = 0
        self.answer: Any = None

    def reset(self, plan: dict[str, Any]) -> None:
        self.plans.append(plan)

    def __call__(self, input_data: dict[str, Any], time_s: float) -> Any:
        self.seen.append({**input_data, "time": time_s})
        if isinstance(self.answer, Exception):
            raise self.answer
        return [input_data["EYE"][1][0, 0, 0] / 200.0, -0.25, 0.0] if self.answer is None else self.answer

    def end(self) -> None:
        self.ends += 1


@pytest.fixture
def policy() -> Policy:
    return Policy()


@pytest.fixture
def config(policy: Policy, tmp_path: Path) -> Iterator[Path]:
    """The file of a server that answers."""
    with PolicyServer(policy, SENSORS, track="MAP") as server:
        server.write_config(tmp_path / "policy.json")
        yield tmp_path / "policy.json"


def frame(number: int) -> dict[str, tuple[int, Any]]:
    """What an agent's run_step gets."""
    return {
        "EYE": (number, np.full((20, 40, 4), 100, np.uint8)),
        "LIDAR": (number, np.arange(12, dtype=np.float32).reshape(3, 4)[:, ::-1]),
        "SPEED": (number, {"speed": np.float64(3.5)}),
        "MAP": (1, {"opendrive": "<OpenDRIVE/>"}),
    }


def test_a_route_is_driven_by_the_policy(policy: Policy, config: Path) -> None:
    for route in range(2):
        questions = Questions(PolicyClient(config, timeout_s=20.0))
        assert questions.set_up(PLAN) == (SENSORS, "MAP")
        assert questions.step(frame(7), 0.05) == (0.5, -0.25, 0.0)
        questions.end()
        assert (len(policy.plans), policy.ends) == (route + 1, route + 1)
    seen = policy.seen[0]
    assert policy.plans[0] == PLAN
    assert (seen["EYE"][0], seen["MAP"], seen["time"]) == (7, (1, {"opendrive": "<OpenDRIVE/>"}), 0.05)
    assert seen["SPEED"] == (7, {"speed": 3.5})
    np.testing.assert_array_equal(seen["LIDAR"][1], frame(7)["LIDAR"][1])
    seen["EYE"][1][:] = 0  # its own copy


@pytest.mark.parametrize("answer", [ValueError("a NaN in the weights"), [0.0, 1.0], [0.0, np.nan, 0.0]])
def test_what_the_policy_raises_is_raised_in_the_agent(policy: Policy, config: Path, answer: Any) -> None:
    questions = Questions(PolicyClient(config, timeout_s=20.0))
    questions.set_up(PLAN)
    policy.answer = answer
    with pytest.raises(RuntimeError, match=r"a NaN in the weights|expected \[steer, throttle, brake\]"):
        questions.step(frame(7), 0.05)
    policy.answer = None
    assert questions.step(frame(8), 0.10) == (0.5, -0.25, 0.0)
    questions.end()


def test_who_does_not_know_the_token_is_refused(policy: Policy, config: Path) -> None:
    assert stat.S_IMODE(config.stat().st_mode) == 0o600
    place = json.loads(config.read_text())
    config.write_text(json.dumps({**place, "token": "00" * 32}))
    client = PolicyClient(config, timeout_s=20.0)
    with pytest.raises(RuntimeError, match="expected the token of this server"):
        client.ask({"ask": "end"})
    client.close()
    assert policy.ends == 0


def test_a_server_outlives_what_is_no_message(policy: Policy, config: Path) -> None:
    place = json.loads(config.read_text())
    socket: zmq.Socket[bytes]
    with zmq.Context.instance().socket(zmq.REQ) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect(place["address"])
        for frames in ([], [b""], [b"\x93"], pack({"ask": "fly"}, {}), pack({"no": 1}, {}), [*pack({}, {}), b"more"]):
            socket.send_multipart([bytes.fromhex(place["token"]), *frames])
            assert socket.poll(20_000)
            assert "error" in unpack(socket.recv_multipart())[0]
    questions = Questions(PolicyClient(config, timeout_s=20.0))
    assert questions.set_up(PLAN)[1] == "MAP"
    questions.end()


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [b"\xc1"],
        [b"\x01"],
        pack({}, {"a": np.zeros(3)})[:1],
        [pack({}, {"a": np.zeros(3)})[0], b"short"],
        [pack({}, {"a": np.zeros(3, np.float32)})[0].replace(b"float32", b"object_"), b"x" * 12],
    ],
)
def test_frames_of_another_form_are_refused(frames: list[bytes]) -> None:
    with pytest.raises(WireError, match="expected"):
        unpack(frames)


def test_an_array_that_cannot_travel_is_named() -> None:
    with pytest.raises(WireError, match="expected GPS as an array"):
        pack({}, {"GPS": np.array(["text"])})


def test_a_policy_that_is_gone_is_a_timeout_and_leaves_no_name(policy: Policy, tmp_path: Path) -> None:
    server = PolicyServer(policy, SENSORS)
    server.write_config(tmp_path / "policy.json")
    server.close()
    address = json.loads((tmp_path / "policy.json").read_text())["address"]
    assert address.startswith("ipc://@")  # abstract: no file
    client = PolicyClient(tmp_path / "policy.json", timeout_s=0.2)
    with pytest.raises(TimeoutError, match="look at the process of the PolicyServer"):
        client.ask({"ask": "end"})
    with pytest.raises(WireError, match=r"PolicyServer\.write_config wrote"):
        PolicyClient(tmp_path / "nowhere.json")


def test_the_asking_side_needs_nothing_of_ours(policy: Policy, config: Path) -> None:
    """As in the evaluator's interpreter, which may not have zmqcarla."""
    code = f"""
import sys
for name in ("zmqcarla", "carla", "gymnasium", "torch", "psutil", "posix_ipc"):
    sys.modules[name] = None
import runpy
wire = runpy.run_path({policy_wire.__file__!r})
questions = wire["Questions"](wire["PolicyClient"]({str(config)!r}, timeout_s=20.0))
print(questions.set_up({PLAN!r})[1])
questions.end()
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=50, check=False, env={**os.environ}
    )
    assert (done.stdout.strip(), done.returncode) == ("MAP", 0), done.stderr
    assert policy.ends == 1
