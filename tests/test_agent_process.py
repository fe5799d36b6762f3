"""Agents of the Leaderboard in processes of their own: what they are told, and what becomes of those that fail."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from conftest import wait_until
from rich.console import Console
from typer.testing import CliRunner

from zmqcarla.agents import AgentError, AgentProcess, Manner, agent_wire
from zmqcarla.agents.agent_sensors import env_sensors
from zmqcarla.cli import app
from zmqcarla.evaluate.drivers import OwnProcess, choose_driver
from zmqcarla.evaluate.pools import RunningPool
from zmqcarla.evaluate.results import ResultFolder
from zmqcarla.evaluate.run import Evaluation, evaluate
from zmqcarla.evaluate.work_queue import Job
from zmqcarla.pool import LocalPool

AGENT = Path(__file__).with_name("process_agents.py")
TOWN = "ZmqTown"
BRIEFING = {"gps": [[0.0, 1e-5, 0.0]], "world": [[1.0, 2.0, 0.0, 0.0, 90.0, 0.0]], "options": [4], "frame": 7,
            "host": "", "port": 0}  # fmt: skip
TIMEOUT_S = 60.0

pytestmark = pytest.mark.timeout(240)


def config(mode: str, notes: Path) -> str:
    return json.dumps({"mode": mode, "notes": str(notes)})


def control(process: AgentProcess) -> list[float]:
    found: list[float] = process.step(0.05, 7, {"SPEED": {"speed": 0.0}}).tolist()
    return found


def is_gone(pid: int) -> bool:
    """A zombie counts: who adopts orphans here may not reap them."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


# ------------------------------------------------------------------------------------------------------- the process


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        ("crash", "a division by zero in the policy"),
        ("nan", "expected a control of finite numbers"),
        ("die", f"ended with signal {int(signal.SIGABRT)}"),
        ("hang", "took longer than 0.5 s over step"),
    ],
)
def test_an_agent_that_fails_ends_with_all_that_it_started(mode: str, said: str, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    process = AgentProcess(AGENT, config(mode, notes), log=tmp_path / "log", timeout_s=TIMEOUT_S)
    assert process.set_up(BRIEFING) == Manner("MAP", [{"type": "sensor.speedometer", "reading_frequency": 20,
                                                       "id": "SPEED"}])  # fmt: skip
    if mode != "nan":
        assert [control(process), control(process)] == [[0.125, 0.5, 0.0]] * 2
    if mode == "hang":
        process.timeout_s = 0.5
    with pytest.raises(AgentError, match=said) as raised:
        control(process)
    assert raised.value.status == "Agent crashed"
    if notes.exists():
        pids = json.loads(notes.read_text())
        wait_until(lambda: all(is_gone(pid) for pid in pids), "the end of the agent and its child", TIMEOUT_S)
    with pytest.raises(AgentError, match="expected a living agent"):
        control(process)
    process.close()
    assert (tmp_path / "log").read_text().startswith(f"the mode is {mode}")


def test_an_agent_that_cannot_be_set_up_says_so(tmp_path: Path) -> None:
    process = AgentProcess(AGENT, config("setup", tmp_path / "notes"), timeout_s=TIMEOUT_S)
    with pytest.raises(AgentError, match="RuntimeError: no weights") as raised:
        process.set_up(BRIEFING)
    assert raised.value.status == "Agent couldn't be set up"


def test_an_agent_dies_with_whoever_started_it(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    script = (
        "import json, sys, time; from pathlib import Path; from zmqcarla.agents import AgentProcess;"
        f"process = AgentProcess(Path({str(AGENT)!r}), {config('hang', notes)!r});"
        f"process.set_up({BRIEFING!r}); print('up', flush=True); time.sleep(600)"
    )
    owner = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    assert owner.stdout.readline() == "up\n"
    pids = json.loads(notes.read_text())
    assert not any(is_gone(pid) for pid in pids)
    owner.kill()
    owner.wait()
    owner.stdout.close()
    wait_until(lambda: all(is_gone(pid) for pid in pids), "the end of the agent and its child", TIMEOUT_S)


def test_what_is_no_message_is_refused() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for sent, said in (
            (b"\x00\x00\x00\x09", "at most 8 bytes"),
            (b"\x00\x00\x00\x02{]", "in JSON"),
            (b"\x00\x00\x00\x02[]", "found list"),
        ):
            theirs.sendall(sent)
            with pytest.raises(agent_wire.WireError, match=said):
                agent_wire.receive(ours, 8, time.monotonic() + TIMEOUT_S)
        with pytest.raises(TimeoutError):
            agent_wire.receive(ours, 8, time.monotonic())
        theirs.close()
        with pytest.raises(EOFError):
            agent_wire.receive(ours, 8)


# ------------------------------------------------------------------------------------------------------- the sensors


CAMERA = {"type": "sensor.camera.rgb", "id": "C", "x": 0.7, "y": 0.0, "z": 1.6, "roll": 0.0, "pitch": 0.0, "yaw": 0.0,
          "width": 64, "height": 36, "fov": 70}  # fmt: skip
MAP = {"type": "sensor.opendrive_map", "id": "M", "reading_frequency": 1}


@pytest.mark.parametrize(
    ("track", "sensors", "said"),
    [
        ("SENSORS", [MAP], "allowed on the track SENSORS, found 'sensor.opendrive_map'"),
        ("MAP", [CAMERA, CAMERA], "an id of its own"),
        ("MAP", [{**CAMERA, "fov": None}], "numbers as fov"),
        ("MAP", [{**CAMERA, "x": 4.0}], "within 3 m"),
        ("SENSORS_QUALIFIER", [{**CAMERA, "id": str(k)} for k in range(5)], "at most 4 sensor.camera.rgb"),
    ],
)
def test_sensors_that_the_leaderboard_refuses_are_refused(
    track: str, sensors: list[dict[str, Any]], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SAVE_PATH", raising=False)
    with pytest.raises(AgentError, match=said) as raised:
        env_sensors(Manner(track, sensors))
    assert raised.value.status == "Agent's sensors were invalid"


def test_an_agent_cannot_choose_what_the_leaderboard_decides() -> None:
    lidar = {**{key: CAMERA[key] for key in ("x", "y", "z", "roll", "pitch", "yaw")}, "type": "sensor.lidar.ray_cast"}
    found, last = env_sensors(Manner("MAP", [{**lidar, "id": "far away", "range": 500}, MAP, {**CAMERA, "gamma": 9}]))
    assert (found["id"], found["range"], found["channels"]) == ("sensor0", 85.0, 64)
    assert last == {**CAMERA, "id": "sensor2"}


# --------------------------------------------------------------------------------------------------- whole evaluations


def route(route_id: int) -> str:
    ends = "".join(f'<position x="{x}" y="-176.75" z="0"/>' for x in (288, 243))
    return f'<route id="{route_id}" town="{TOWN}"><waypoints>{ends}</waypoints></route>'


@pytest.fixture(scope="module")
def routes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("agents") / "routes.xml"
    path.write_text(f"<routes>{route(4)}{route(7)}</routes>")
    return path


@pytest.fixture(scope="module")
def pool() -> Iterator[LocalPool]:
    one = LocalPool(1, simulator="embedded")
    yield one
    one.close()


def evaluated(pool: LocalPool, routes: Path, out: Path, mode: str, python: str | None) -> tuple[list[Any], str]:
    said = io.StringIO()
    chosen = choose_driver(str(AGENT), config(mode, out / "notes"), TIMEOUT_S, OwnProcess(python, out / "logs"))
    kwargs = {"routes": str(routes), "observation": "state", "terminate_on_collision": False, "max_steps": 24}
    work = [Job(0, "4", TOWN), Job(1, "7", TOWN)]
    evaluation = Evaluation(work, chosen.new_driver, lambda _: {**kwargs, **chosen.settings}, RunningPool(pool.address))
    results = evaluate(evaluation, ResultFolder(out, {}, resume=True), Console(file=said, width=200))
    return results["_checkpoint"]["records"], said.getvalue()


def test_an_agent_gets_what_it_asked_for_in_each_tick_and_drives(pool: LocalPool, routes: Path, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nMARK=its_own exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    memory = set(os.listdir("/dev/shm"))
    records, said = evaluated(pool, routes, tmp_path, "suite", str(python))
    assert [record["status"] for record in records] == ["Failed", "Failed"], said  # cut after 24 steps
    assert all(record["scores"]["score_route"] > 1.0 for record in records)
    told = json.loads((tmp_path / "notes").read_text())
    assert (told["marked"], told["start"]) == ("its_own", [288.0, -176.75, 180.0])
    assert told["points"] == pytest.approx(46, abs=2)
    seen = told["seen"]
    assert [timestamp for timestamp, _ in seen] == pytest.approx([0.05 * k for k in range(1, 25)])
    first = seen[0][1]["SPEED"][0]
    assert [{frame for frame, _ in parts.values()} for _, parts in seen] == [{first + k} for k in range(24)]
    assert [k for k, (_, parts) in enumerate(seen) if "MAP" in parts] == [0, 21]
    assert "<OpenDRIVE>" in seen[0][1]["MAP"][1]["opendrive"]
    newest = {name: value for name, (_, value) in seen[-1][1].items()}
    assert newest["CAMERA 0"] == newest["CAMERA 1"] == ["uint8", 36, 64, 4]
    assert newest["LIDAR"][::2] == newest["RADAR"][::2] == ["float32", 4]
    assert newest["IMU"] == ["float64", 7]
    assert newest["GPS"] == ["float64", 3]
    assert newest["SPEED"]["speed"] > 0.5
    # The first agent was asked for its sensors in an env without any, and ended.
    ups = [(tmp_path / "logs" / f"{route_id}.log").read_text().count("the mode is suite") for route_id in (4, 7)]
    assert ups == [2, 1]
    assert (tmp_path / "routes" / "0000-4-sheet.jpg").exists()
    assert not [name for name in set(os.listdir("/dev/shm")) - memory if "agent" in name]


@pytest.mark.parametrize(
    ("mode", "status", "message"),
    [
        ("crash", "Failed - Agent crashed", "a division by zero in the policy"),
        ("sensors", "Failed - Agent's sensors were invalid", "sensor.other.obstacle"),
    ],
)
def test_an_agent_that_fails_costs_its_route_only(
    pool: LocalPool, routes: Path, tmp_path: Path, mode: str, status: str, message: str
) -> None:
    records, said = evaluated(pool, routes, tmp_path, mode, None)
    assert [record["status"] for record in records] == [status] * 2
    assert said.count(message) >= 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--agent", str(AGENT), "--agent-process", "--observation", "roach"], "the agent says what it sees"),
        (["--agent", "route_agents:Stander", "--agent-process"], "expected a Leaderboard agent's file"),
        (["--agent", str(AGENT), "--agent-python", "/no/python"], "expected an interpreter, found none"),
        (["--agent", str(AGENT), "--env", "zmqcarla/Carla-v0"], "pass --agent-process"),
    ],
)
def test_an_option_that_cannot_be_is_an_error(
    options: list[str], said: str, routes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZMQCARLA_AGENT", "")  # which hosting an agent sets
    monkeypatch.setenv("ZMQCARLA_AGENT_CONFIG", "")
    command = ["evaluate", "--routes", str(routes), "--out", str(tmp_path), *options]
    told = CliRunner().invoke(app, command, env={**os.environ, "COLUMNS": "200"})
    assert told.exit_code == 2
    assert said in " ".join(told.stderr.replace("│", " ").split())


def test_arrays_keep_their_form_in_the_memory() -> None:
    arrays: dict[str, Any] = {
        "a": np.arange(6, dtype=np.float64).reshape(2, 3)[:, ::-1],
        "b": np.zeros((0, 4), np.float32),
        "c": {},
    }
    memory = bytearray(agent_wire.room_bytes(arrays))
    found = agent_wire.read_parts(json.loads(json.dumps(agent_wire.write_parts(arrays, memory))), memory)
    assert found["c"] == {}
    for name in "ab":
        np.testing.assert_array_equal(found[name], arrays[name])
        assert found[name].dtype == arrays[name].dtype
