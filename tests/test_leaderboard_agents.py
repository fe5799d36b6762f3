"""Agents of the Leaderboard as drivers: inside the env, and how `zmqcarla evaluate` names them."""

from __future__ import annotations

import importlib
import io
import itertools
import json
import os
import select
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from rich.console import Console

from zmqcarla.evaluate.agent import AgentDriver
from zmqcarla.evaluate.drivers import HostedDriver, OwnProcess, choose_driver
from zmqcarla.evaluate.pools import RunningPool
from zmqcarla.evaluate.results import ResultFolder
from zmqcarla.evaluate.run import Evaluation, evaluate
from zmqcarla.evaluate.work_queue import Job
from zmqcarla.pool import LocalPool
from zmqcarla.workers.leaderboard.checkout import CheckoutError
from zmqcarla.workers.leaderboard.hosted_agent import AgentCode
from zmqcarla.workers.leaderboard.time_limit import TookTooLongError, time_limit

ROUTES = Path(__file__).parents[1].parent / "shared/data/routes/routes_town10.xml"
ENV_ID = "zmqcarla/Leaderboard-v0"
AGENT = Path(__file__).with_name("hosted_agents.py")
ACTION = np.array([0.7, -1.0, 1.0], np.float32)
"""Not what any agent does."""

# --- without the checkouts ---


def test_the_agent_is_named_by_arguments_or_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ZMQCARLA_AGENT", raising=False)
    monkeypatch.delenv("ZMQCARLA_AGENT_CONFIG", raising=False)
    with pytest.raises(CheckoutError, match="found none named: pass agent_file or the variable ZMQCARLA_AGENT"):
        AgentCode.find()
    assert AgentCode.find(str(AGENT)) == AgentCode(AGENT, "")
    monkeypatch.setenv("ZMQCARLA_AGENT", str(AGENT))
    monkeypatch.setenv("ZMQCARLA_AGENT_CONFIG", "crash")
    assert AgentCode.find() == AgentCode(AGENT, "crash")
    assert AgentCode.find(agent_config="") == AgentCode(AGENT, "")
    with pytest.raises(CheckoutError, match="expected the Python file of an agent"):
        AgentCode.find("nowhere.py")


def test_a_file_is_an_agent_of_the_leaderboard_and_a_class_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZMQCARLA_AGENT", "")
    monkeypatch.setenv("ZMQCARLA_AGENT_CONFIG", "")
    chosen = choose_driver(str(AGENT), "drive", 9.0)
    assert (chosen.new_driver, chosen.env_id, chosen.settings) == (
        HostedDriver,
        ENV_ID,
        {"driver": "agent", "agent_timeout_s": 9.0},
    )
    assert os.environ["ZMQCARLA_AGENT"] == str(AGENT)
    assert os.environ["ZMQCARLA_AGENT_CONFIG"] == "drive"
    driver = choose_driver("route_agents:Stander", "", 9.0)
    assert driver.env_id == ""
    assert isinstance(driver.new_driver(), AgentDriver)
    with pytest.raises(ValueError, match="only a Leaderboard agent's file takes one"):
        choose_driver("route_agents:Stander", "drive", 9.0)
    with pytest.raises(ValueError, match="found none at"):
        choose_driver("nowhere.py", "", 9.0)


def test_python_that_takes_too_long_is_interrupted_also_when_it_catches_that() -> None:
    caught = 0

    def stubborn() -> None:
        nonlocal caught
        while True:
            try:
                select.select([], [], [], 30.0)
            except TookTooLongError:
                caught += 1
                if caught == 2:
                    raise

    before, (left_s, _) = signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)
    with pytest.raises(TookTooLongError, match=r"the call took longer than 0\.05 s"), time_limit(0.05, "the call"):
        stubborn()
    assert signal.getsignal(signal.SIGALRM) is before
    assert (signal.getitimer(signal.ITIMER_REAL)[0] > 0.0) == (left_s > 0.0)


def test_in_another_thread_nothing_is_limited() -> None:
    changed: list[bool] = []

    def work() -> None:
        before = signal.getsignal(signal.SIGALRM)
        with time_limit(9.0, "the call"):
            changed.append(signal.getsignal(signal.SIGALRM) is not before)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert changed == [False]


# --- with them ---


@pytest.fixture(scope="module")
def settings(town_maps: Path) -> Iterator[dict[str, Any]]:
    """Keywords of the env; skips without checkouts."""
    api = os.environ.get("ZMQCARLA_CARLA_PYTHONAPI")
    if api is None or not ({"LEADERBOARD_ROOT", "BENCH2DRIVE_ROOT"} & os.environ.keys()):
        pytest.skip("LEADERBOARD_ROOT, SCENARIO_RUNNER_ROOT and ZMQCARLA_CARLA_PYTHONAPI name no checkouts")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZMQCARLA_MAPS", str(town_maps))
        yield {
            "routes": str(ROUTES),
            "simulator": "embedded",
            "observation": "state",
            "driver": "agent",
            "agent_file": str(AGENT),
            "agents_root": f"{api}/carla",
        }


def _agents() -> Any:
    """The module that the env has imported: one a process."""
    return importlib.import_module("hosted_agents")


def _drive(env: gymnasium.Env[Any, Any], most: int) -> list[dict[str, Any]]:
    """Every info, the reset's too."""
    infos = [env.reset(seed=1, options={"route": "0"})[1]]
    for _ in range(most):
        _, _, terminated, truncated, info = env.step(ACTION)
        infos.append(info)
        if terminated or truncated:
            break
    return infos


@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore")  # the checkouts' own
def test_an_agent_sees_every_frame_of_every_sensor_and_drives(settings: dict[str, Any]) -> None:
    env = gymnasium.make(ENV_ID, agent_config="suite", max_steps=6, **settings)
    infos = _drive(env, 10)
    env.close()
    assert infos[0]["control"].tolist() == [0.0, 0.0, 0.0]
    assert [info["control"].tolist() for info in infos[1:]] == [[0.125, 0.5, 0.0]] * 6
    assert infos[-1]["speed_mps"] > 0.1
    assert infos[-1]["episode_summary"]["status"] == "Failed"
    seen = _agents().SEEN
    assert [each["time"] for each in seen] == pytest.approx([0.05 * k for k in range(1, 7)])
    ids = {*(f"CAMERA{k}" for k in range(6)), "LIDAR", "RADAR", "IMU", "GPS", "SPEED"}
    for before, after in itertools.pairwise(seen):
        assert ids <= before.keys()
        assert {after[name][0] - before[name][0] for name in ids} == {1}
    assert any("MAP" in each for each in seen)
    newest = seen[-1]
    assert newest["CAMERA0"][1].shape == (36, 64, 4)
    assert newest["LIDAR"][1].shape[1] == newest["RADAR"][1].shape[1] == 4
    assert newest["IMU"][1].shape == (7,)
    assert newest["SPEED"][1]["speed"] > 0.1


@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("mode", "steps", "status", "said"),
    [
        ("crash", 3, "Failed - Agent crashed", "a division by zero in the policy"),
        ("setup", 1, "Failed - Agent couldn't be set up", "no weights"),
        ("sensors", 1, "Failed - Agent's sensors were invalid", "Illegal sensor 'sensor.other.obstacle'"),
        ("hang", 3, "Failed - Agent crashed", "a call of the agent took longer than 6 s"),
    ],
)
def test_an_agent_that_fails_ends_its_episode_in_the_leaderboards_words(
    settings: dict[str, Any], mode: str, steps: int, status: str, said: str
) -> None:
    env = gymnasium.make(ENV_ID, agent_config=mode, agent_timeout_s=6.0 if mode == "hang" else 300.0, **settings)
    infos = _drive(env, 10)
    last = infos[-1]
    assert len(infos) == steps + 1
    assert last["terminated_by"] == "agent_failed"
    assert last["episode_summary"]["status"] == status
    assert said in last["agent_error"]
    destroyed = len(_agents().DESTROYED)
    env.close()
    assert _agents().DESTROYED[destroyed:] == [mode]


@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore")
def test_reverse_is_a_negative_throttle_and_the_plan_can_be_had(settings: dict[str, Any]) -> None:
    env = gymnasium.make(ENV_ID, agent_config="reverse", max_steps=12, **settings)
    infos = _drive(env, 20)
    assert infos[-1]["control"].tolist() == [0.125, -0.5, 0.0]
    assert infos[-1]["route_completion"] <= infos[0]["route_completion"] + 0.1
    plan = env.unwrapped.global_plan()  # type: ignore[attr-defined]
    assert len(plan["gps"]) == len(plan["world"]) == len(plan["options"]) > 100
    assert {len(each) for each in plan["gps"]} == {3}
    assert {len(each) for each in plan["world"]} == {6}
    env.close()


@pytest.mark.timeout(300)
def test_an_agent_in_its_own_process_sees_the_world_at_the_tick_of_its_step(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "PythonAPI").symlink_to(Path(settings["agents_root"]).parent)
    monkeypatch.setenv("CARLA_ROOT", str(tmp_path))  # workers inherit it: these folders do not travel over the bus
    monkeypatch.setenv("NOTES", str(tmp_path / "notes"))
    chosen = choose_driver(str(AGENT), "look", 120.0, OwnProcess(None, tmp_path / "logs"))
    kwargs = {"routes": str(ROUTES), "observation": "state", "max_steps": 8}
    pool = LocalPool(1, simulator="embedded")
    try:
        evaluation = Evaluation(
            [Job(0, "0", "Town10HD")],
            chosen.new_driver,
            lambda _: {**kwargs, **chosen.settings},
            RunningPool(pool.address),
            ENV_ID,
        )
        results = evaluate(evaluation, ResultFolder(tmp_path / "out", {}, resume=False), Console(file=io.StringIO()))
    finally:
        pool.close()
    (record,) = results["_checkpoint"]["records"]
    assert record["status"] == "Failed", (tmp_path / "logs" / "0.log").read_text()  # cut after 8 steps
    seen = [json.loads(line) for line in (tmp_path / "notes").read_text().splitlines()]
    assert len(seen) == 8
    frames, world_frames, times, game_times, heroes, x_m, points = (list(each) for each in zip(*seen, strict=True))
    assert world_frames == frames == list(range(frames[0], frames[0] + 8))
    assert times == pytest.approx([0.05 * k for k in range(1, 9)])
    assert game_times == pytest.approx(times)
    assert set(heroes) == {1}
    assert abs(x_m[-1] - x_m[0]) > 1e-3
    assert min(points) > 2
