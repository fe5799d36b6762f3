"""`zmqcarla/Leaderboard-v0` over checkouts of the Leaderboard and of ScenarioRunner, which are named by path.

LEADERBOARD_ROOT and SCENARIO_RUNNER_ROOT (or BENCH2DRIVE_ROOT) and ZMQCARLA_CARLA_PYTHONAPI, CARLA's folder PythonAPI;
without them, what can be tested without their code is.
"""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from conftest import wait_until

import zmqcarla
from zmqcarla.broker.errors import SnapshotError
from zmqcarla.demo.driver import LaneFollowingDriver
from zmqcarla.workers.leaderboard.checkout import CheckoutError, Roots, load
from zmqcarla.workers.leaderboard.lockstep import Lockstep, LockstepWorld

ROUTES = Path(__file__).parents[1].parent / "shared/data/routes/routes_town10.xml"
ENV_ID = "zmqcarla/Leaderboard-v0"


# --- without the checkouts ---


def _make_checkouts(folder: Path) -> dict[str, str]:
    """Folders that look like checkouts from outside."""
    made = {}
    for name, proof in (
        ("leaderboard_root", "leaderboard/scenarios/route_scenario.py"),
        ("scenario_runner_root", "srunner/scenariomanager/carla_data_provider.py"),
        ("agents_root", "agents/navigation/local_planner.py"),
    ):
        made[name] = str(folder / name)
        (folder / name / proof).parent.mkdir(parents=True)
        (folder / name / proof).touch()
    return made


@pytest.fixture
def no_roots(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LEADERBOARD_ROOT", "SCENARIO_RUNNER_ROOT", "BENCH2DRIVE_ROOT", "CARLA_ROOT"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("no_roots")
def test_the_roots_are_taken_from_arguments_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = _make_checkouts(tmp_path)
    found = Roots.find(**named)
    assert found.leaderboard == tmp_path / "leaderboard_root"
    monkeypatch.setenv("LEADERBOARD_ROOT", named["leaderboard_root"])
    monkeypatch.setenv("SCENARIO_RUNNER_ROOT", named["scenario_runner_root"])
    assert Roots.find(agents_root=named["agents_root"]) == found
    with pytest.raises(CheckoutError, match="agents_root or the variable CARLA_ROOT"):
        Roots.find()


@pytest.mark.usefixtures("no_roots")
def test_a_root_without_its_package_is_named(tmp_path: Path) -> None:
    named = {**_make_checkouts(tmp_path), "leaderboard_root": str(tmp_path / "elsewhere")}
    with pytest.raises(CheckoutError, match=r"expected leaderboard/scenarios/route_scenario\.py in .*elsewhere"):
        Roots.find(**named)
    with pytest.raises(CheckoutError, match="none named: pass leaderboard_root, bench2drive_root or the variable"):
        gymnasium.make(ENV_ID, routes="any.xml")


def test_what_the_scenarios_decide_is_no_setting(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="expected no traffic_vehicles, blocked_s"):
        gymnasium.make(ENV_ID, routes="any.xml", blocked_s=3.0, traffic_vehicles=3)


class _World:
    """Counts; the part of a world that the lockstep stands before."""

    def __init__(self) -> None:
        self.ticks = 0

    def get_snapshot(self) -> int:
        return self.ticks

    def wait_for_tick(self, seconds: float) -> str:
        return f"waits itself for {seconds:g} s"


def test_a_piece_of_work_runs_between_ticks_only() -> None:
    real, lockstep, seen = _World(), Lockstep(10.0), list[Any]()
    world = LockstepWorld(real, lockstep)

    def work() -> None:
        seen.append(world.ticks)
        seen.append(world.wait_for_tick())
        seen.append(world.wait_for_tick())

    lockstep.begin(work)
    for tick in range(1, 4):
        assert lockstep.busy == (tick < 3)
        assert seen == list(range(tick if tick < 3 else 3))
        real.ticks = tick
        lockstep.after_tick()
    assert world.wait_for_tick(2.0) == "waits itself for 2 s"


def test_an_error_of_the_work_is_raised_where_the_world_ticks() -> None:
    lockstep = Lockstep(10.0)
    world = LockstepWorld(_World(), lockstep)

    def work() -> None:
        world.wait_for_tick()
        raise ValueError("a scenario that cannot be")

    lockstep.begin(work)
    with pytest.raises(ValueError, match="a scenario that cannot be"):
        lockstep.after_tick()
    assert not lockstep.busy


def test_work_that_waits_ends_with_its_world() -> None:
    lockstep = Lockstep(10.0)
    world = LockstepWorld(_World(), lockstep)
    threads = threading.active_count()
    lockstep.begin(lambda: world.wait_for_tick() and None)
    lockstep.cancel()
    assert threading.active_count() == threads
    assert not lockstep.busy


# --- with them ---


@pytest.fixture(scope="module")
def settings(town_maps: Path) -> Iterator[dict[str, Any]]:
    """Keywords of the env; skips without checkouts."""
    api = os.environ.get("ZMQCARLA_CARLA_PYTHONAPI")
    if api is None or not ({"LEADERBOARD_ROOT", "BENCH2DRIVE_ROOT"} & os.environ.keys()):
        pytest.skip("LEADERBOARD_ROOT, SCENARIO_RUNNER_ROOT and ZMQCARLA_CARLA_PYTHONAPI name no checkouts")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZMQCARLA_MAPS", str(town_maps))
        yield {"routes": str(ROUTES), "simulator": "embedded", "agents_root": f"{api}/carla"}


def _drive(env: gymnasium.Env[Any, Any], seed: int, steps: int) -> list[Any]:
    """Drive; every observation, reward and info."""
    driver = LaneFollowingDriver()
    observation, info = env.reset(seed=seed)
    seen: list[Any] = [(observation["vehicle_state"].tobytes(), 0.0, info["driving_score"])]
    for _ in range(steps):
        observation, reward, terminated, truncated, info = env.step(driver(observation))
        seen.append((observation["vehicle_state"].tobytes(), reward, info["driving_score"]))
        if terminated or truncated:
            break
    return [seen, info]


@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore")  # the checkouts' own
def test_a_route_is_driven_judged_and_repeated(settings: dict[str, Any]) -> None:
    env = gymnasium.make(ENV_ID, observation="state", max_steps=150, **settings)
    first, info = _drive(env, 3, 200)
    assert len(first) == 151
    summary = info["episode_summary"]
    assert summary["route_id"] == "RouteScenario_0_rep0"
    assert summary["meta"]["duration_game"] == pytest.approx(7.5)
    assert 5.0 < summary["scores"]["score_route"] < 50.0
    assert summary["scores"]["score_composed"] == pytest.approx(info["driving_score"])
    messages = [message for found in summary["infractions"].values() for message in found]
    assert messages == [event["message"] for event in summary["events"]]  # one of each kind at most, this early
    second, _ = _drive(env, 3, 200)
    assert second == first
    env.close()


@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore")
def test_a_car_that_stands_gets_no_route(settings: dict[str, Any]) -> None:
    env = gymnasium.make(ENV_ID, observation="state", max_steps=20, frame_skip=2, **settings)
    env.reset(seed=1, options={"route": "0"})
    for _ in range(19):
        env.step(np.array([0.0, 0.0, 1.0], np.float32))
    *_, truncated, info = env.step(np.array([0.0, 0.0, 1.0], np.float32))
    assert truncated
    assert info["episode_summary"]["status"] == "Failed"
    assert info["episode_summary"]["scores"]["score_route"] < 1.0
    with pytest.raises(ValueError, match="expected only 'route'"):
        env.reset(options={"spawn_point": 3})
    env.close()


@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore")
def test_an_error_in_the_scenarios_own_code_costs_an_episode_and_no_more(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    env: Any = gymnasium.make(ENV_ID, observation="state", **settings).unwrapped
    observation, _ = env.reset(seed=3)
    _follow(env, observation, 5)

    def tick_once() -> None:
        raise RuntimeError("trying to operate on a destroyed actor")

    monkeypatch.setattr(env.episode._scenario.scenario_tree, "tick_once", tick_once)
    *_, terminated, truncated, info = env.step(np.zeros(3, np.float32))
    assert truncated
    assert not terminated
    assert info["episode_summary"]["status"] == "Failed - Simulation crashed"
    assert "trying to operate on a destroyed actor" in info["scenario_error"]
    observation, _ = env.reset(seed=3)
    assert len(_follow(env, observation, 5)) == 5
    env.close()


@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("broken", [False, True])
def test_an_episode_that_is_cut_short_leaves_no_client(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, broken: bool
) -> None:
    """One that stays hears the next server on the port, asks the one that is gone, and ends the process."""
    before = len(os.listdir("/proc/self/task"))
    env: Any = gymnasium.make(ENV_ID, observation="state", **settings).unwrapped
    if broken:
        theirs = load(env._roots)
        monkeypatch.setattr(theirs.statistics_manager, "set_scenario", _raise)
        with pytest.raises(RuntimeError, match="no statistics"):
            env.reset(seed=3)
    else:
        observation, _ = env.reset(seed=3)
        _follow(env, observation, 5)
    assert len(os.listdir("/proc/self/task")) > before
    env.close()
    gc.collect()
    wait_until(lambda: len(os.listdir("/proc/self/task")) <= before, "the threads of the client to end")


def _raise(*_arguments: object) -> None:
    raise RuntimeError("no statistics")


def _follow(env: Any, observation: Any, steps: int) -> list[Any]:
    """Drive on from an observation; what came of each step."""
    driver, seen = LaneFollowingDriver(), list[Any]()
    for _ in range(steps):
        observation, reward, *_, info = env.step(driver(observation))
        seen.append((observation["vehicle_state"].tobytes(), reward, info["driving_score"], info["route_completion"]))
    return seen


@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore")
def test_a_moment_comes_back_by_replay_and_not_by_state(settings: dict[str, Any]) -> None:
    env: Any = gymnasium.make(ENV_ID, observation="state", **settings).unwrapped
    observation, _ = env.reset(seed=3)
    _follow(env, observation, 100)  # past the first scenario and the first car
    saved = env.save_snapshot()
    (listed,) = env.list_snapshots()
    assert listed["levels"] == ["replay"]
    observation = env._observation_again()
    after = _follow(env, observation, 40)
    for options in ({"snapshot": saved}, {"snapshot": saved, "level": "state"}):
        with pytest.raises(SnapshotError, match=r"expected level='replay'.*behaviour trees"):
            env.reset(options=options)
    again, info = env.restore_snapshot(saved, "replay")
    report = info["restore"]
    assert report["actors"] > 5
    assert [report[name] for name in ("missing", "extra", "position_error_max_m", "speed_error_max_mps")] == [0] * 4
    assert report["criteria_restored"]
    assert report["rng_restored"]
    assert again["vehicle_state"].tobytes() == observation["vehicle_state"].tobytes()
    assert _follow(env, again, 40) == after
    env.close()


@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore")
def test_a_row_of_a_pool_is_forked_by_replay(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "PythonAPI").symlink_to(os.environ["ZMQCARLA_CARLA_PYTHONAPI"])
    monkeypatch.setenv("CARLA_ROOT", str(tmp_path))  # workers find CARLA's agents there
    vec: Any = zmqcarla.make_vec_env(
        2, ENV_ID, {"routes": settings["routes"], "observation": "state"}, simulator="embedded"
    )
    try:
        vec.reset(seed=[3, 4])
        ahead = np.tile(np.array([0.0, 0.5, 0.0], np.float32), (2, 1))
        for _ in range(30):
            vec.step(ahead)
        observations, infos = vec.fork(0, [1], level="replay")
        assert infos["restore"]["missing"].tolist()[1] == 0
        states = observations["vehicle_state"]
        for _ in range(30):
            assert states[0].tobytes() == states[1].tobytes()
            states = vec.step(ahead)[0]["vehicle_state"]
    finally:
        vec.close()
