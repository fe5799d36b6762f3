"""`zmqcarla evaluate`: who drives what next, what the result file holds, and whole evaluations on real workers."""

from __future__ import annotations

import io
import json
import math
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import route_agents
from rich.console import Console
from typer.testing import CliRunner

from zmqcarla.cli import app
from zmqcarla.evaluate.agent import AgentDriver, load_agent
from zmqcarla.evaluate.pools import RunningPool
from zmqcarla.evaluate.results import ResultFolder, failed_record, record_of, results_of
from zmqcarla.evaluate.run import Evaluation, evaluate, results_table
from zmqcarla.evaluate.work_queue import Job, WorkQueue
from zmqcarla.pool import LocalPool

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
WIDE = {**os.environ, "COLUMNS": "200"}
FACTORS = {"collisions_pedestrian": 0.5, "collisions_vehicle": 0.6, "collisions_layout": 0.65, "red_light": 0.7,
           "stop_infraction": 0.8}  # fmt: skip


def jobs(*towns: str) -> list[Job]:
    return [Job(index, f"r{index}", town) for index, town in enumerate(towns)]


def summary(completion: float, *kinds: str, skipped: tuple[str, ...] = ()) -> dict[str, Any]:
    penalty = math.prod(FACTORS[kind] for kind in kinds)
    infractions: dict[str, list[str]] = failed_record(0, "", "", "", 0.0)["infractions"]
    for kind in kinds:
        infractions[kind].append(kind)
    word = "Failed" if completion < 100.0 else "Completed" if kinds else "Perfect"
    scores = {"score_route": completion, "score_penalty": penalty, "score_composed": completion * penalty}
    return {"status": word, "num_infractions": len(kinds), "infractions": infractions, "scores": scores,
            "meta": {"route_length": 500.0, "duration_game": 60.0}, "events": [], "town": "Town01",
            "skipped_scenarios": list(skipped), "scenarios": [], "scenario_actors": []}  # fmt: skip


# ---------------------------------------------------------------------------------------------------------- the queue


def test_a_worker_stays_in_its_town_while_it_can() -> None:
    queue = WorkQueue(jobs("A", "B", "A", "B", "B"), retries=0)
    town, driven = "A", []
    while (job := queue.take(town)) is not None:
        town = job.town
        driven.append(town)
        queue.finish()
    assert driven == ["A", "A", "B", "B", "B"]


def test_workers_spread_over_the_towns_with_the_most_routes() -> None:
    queue = WorkQueue(jobs("A", "B", "B", "B", "A"), retries=0)
    first, second = queue.take(None), queue.take(None)
    assert first is not None
    assert second is not None
    assert {first.town, second.town} == {"A", "B"}


def test_a_route_is_tried_as_often_as_allowed_and_after_the_others() -> None:
    queue = WorkQueue(jobs("A", "A"), retries=2)
    order, given_up = [], None
    while given_up is None:
        job = queue.take("A")
        assert job is not None
        order.append(job.route_id)
        if job.route_id == "r0":
            given_up = queue.lose(job, f"death {len(job.losses)}")
        else:
            queue.finish()
    assert order == ["r0", "r1", "r0", "r0"]
    assert given_up.losses == ("death 0", "death 1", "death 2")
    queue.finish()
    assert queue.take("A") is None


def test_who_has_nothing_to_do_waits_for_what_may_come_back() -> None:
    queue = WorkQueue(jobs("A"), retries=0)
    job = queue.take(None)
    assert job is not None
    found: list[Job | None] = []
    other = threading.Thread(target=lambda: found.append(queue.take(None)))
    other.start()
    assert not found
    queue.put_back(job)
    other.join(15.0)
    assert found == [job]
    queue.close()
    assert queue.take(None) is None


# --------------------------------------------------------------------------------------------------------- the results


def test_the_global_record_is_the_mean_of_the_routes_and_counts_by_kilometre() -> None:
    records = [
        record_of(summary(100.0, "red_light", "red_light"), 0, "a", 9.0),
        record_of(summary(50.0), 1, "b", 9.0),
        failed_record(2, "c", "Town01", "Agent crashed", 1.0),
    ]
    results = results_of(records, total=3)
    whole = results["_checkpoint"]["global_record"]
    assert whole["scores_mean"] == {"score_composed": pytest.approx(33.0), "score_route": 50.0,
                                    "score_penalty": pytest.approx((0.49 + 1.0) / 3, abs=1e-6)}  # fmt: skip
    assert whole["scores_std_dev"]["score_composed"] == pytest.approx(np.std([49.0, 50.0, 0.0], ddof=1), abs=1e-3)
    assert whole["infractions"]["red_light"] == pytest.approx(2 / 0.75, abs=1e-3)
    assert whole["status"] == "Failed"
    assert [each[0] for each in whole["meta"]["exceptions"]] == ["RouteScenario_b_rep0", "RouteScenario_c_rep0"]
    assert (results["entry_status"], results["eligible"]) == ("Finished", True)
    assert len(results["values"]) == len(results["labels"]) == 15
    assert results["labels"][0] == "Avg. driving score"


def test_routes_that_are_not_done_count_as_nothing() -> None:
    results = results_of([record_of(summary(100.0), 0, "a", 9.0)], total=4)
    assert results["_checkpoint"]["global_record"]["scores_mean"]["score_composed"] == 25.0
    assert (results["entry_status"], results["_checkpoint"]["progress"]) == ("Started", [1, 4])


def test_a_score_without_some_scenarios_is_never_called_a_driving_score() -> None:
    records = [record_of(summary(100.0, skipped=("Brake_1 (HardBreakRoute)",)), 0, "a", 9.0)]
    results = results_of(records, total=1)
    assert (results["entry_status"], results["eligible"]) == ("Partial", False)
    assert results["_checkpoint"]["global_record"]["status"].startswith("Partial")
    out = io.StringIO()
    Console(file=out, width=200).print(results_table(results))
    assert "driving score" not in (json.dumps(results) + out.getvalue()).lower()


def test_a_folder_holds_one_evaluation_and_goes_on_with_it(tmp_path: Path) -> None:
    folder = ResultFolder(tmp_path, {"agent": "a"}, resume=False)
    folder.add(record_of(summary(100.0), 0, "a/b", 9.0), "a/b", total=2)
    with pytest.raises(ValueError, match="pass --resume"):
        ResultFolder(tmp_path, {"agent": "a"}, resume=False)
    with pytest.raises(ValueError, match="found another one's"):
        ResultFolder(tmp_path, {"agent": "b"}, resume=True)
    again = ResultFolder(tmp_path, {"agent": "a"}, resume=True)
    assert [record["route_id"] for record in again.done()] == ["RouteScenario_a/b_rep0"]
    assert json.loads((tmp_path / "results.json").read_text())["entry_status"] == "Started"
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".")]


@pytest.mark.parametrize(
    ("name", "said"),
    [("demo", "expected module:Class"), ("no.such:Thing", "importable module"), ("json:Thing", "expected a class")],
)
def test_an_agent_that_is_not_there_is_an_error(name: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        load_agent(name)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ["--env", "zmqcarla/Leaderboard-v0", "--vehicles", "3", "--blocked-s", "9"],
            "expected no --vehicles, --block",
        ),
        (["--env", "zmqcarla/Leaderboard-v0"], "leaderboard_root, bench2drive_root or the variable"),
        (["--env", "CartPole-v1"], "expected zmqcarla/Carla-v0 or zmqcarla/Leaderboard-v0"),
        (["--towns", "Town77"], "expected some of Town05, ZmqTown"),
        (["--maps", "."], "expected Town05, ZmqTown as .xodr"),
    ],
)
def test_an_option_that_cannot_be_is_an_error(
    options: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "routes.xml").write_text(f"<routes>{route(4)}{route(5).replace(TOWN, 'Town05')}</routes>")
    for name in ("LEADERBOARD_ROOT", "SCENARIO_RUNNER_ROOT", "BENCH2DRIVE_ROOT", "CARLA_ROOT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    told = CliRunner().invoke(app, ["evaluate", "--routes", "routes.xml", *options], env=WIDE)
    assert told.exit_code == 2
    assert said in " ".join(told.stderr.replace("│", " ").split())


# ---------------------------------------------------------------------------------------------------- whole evaluations

pytestmark = pytest.mark.timeout(300)
"""A busy machine needs long for what starts processes."""

TOWN = "ZmqTown"
"""The simulator's own; the routes are 45 m straight on, without a junction."""


def route(route_id: int) -> str:
    ends = "".join(f'<position x="{x}" y="-176.75" z="0"/>' for x in (288, 243))
    return f'<route id="{route_id}" town="{TOWN}"><waypoints>{ends}</waypoints></route>'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("evaluate")
    (path / "routes.xml").write_text(f"<routes>{route(4)}{route(7)}</routes>")
    return path


@pytest.fixture(scope="module")
def pool() -> Iterator[LocalPool]:
    one = LocalPool(1, simulator="embedded")
    yield one
    one.close()


def evaluated(pool: LocalPool, folder: Path, out: Path, agent: Any, **settings: Any) -> tuple[dict[str, Any], str]:
    said = io.StringIO()
    kwargs: dict[str, Any] = {"routes": str(folder / "routes.xml"), "image_size": (16, 16)}
    kwargs |= {"terminate_on_collision": False, "blocked_s": 2.0, **settings}
    work = [Job(0, "4", TOWN), Job(1, "7", TOWN)]
    evaluation = Evaluation(work, lambda: AgentDriver(agent), lambda town: kwargs, RunningPool(pool.address))
    return evaluate(evaluation, ResultFolder(out, {}, resume=True), Console(file=said, width=200)), said.getvalue()


def test_routes_are_driven_and_then_not_again(pool: LocalPool, folder: Path, tmp_path: Path) -> None:
    results, _ = evaluated(pool, folder, tmp_path, load_agent("zmqcarla.demo.driver:LaneFollowingDriver"))
    records = results["_checkpoint"]["records"]
    assert [record["status"] for record in records] == ["Perfect", "Perfect"]
    assert [record["scores"]["score_composed"] for record in records] == [100.0, 100.0]
    assert records[0]["meta"]["route_length"] == pytest.approx(45.0, abs=2.5)
    assert len(list(tmp_path.glob("routes/*.png"))) == 2
    (tmp_path / "routes" / "0001-7.json").unlink()  # as if it had crashed there
    again, said = evaluated(pool, folder, tmp_path, route_agents.Stander)
    assert "1 of 2 routes are done already" in said
    records = again["_checkpoint"]["records"]
    assert [record["status"] for record in records] == ["Perfect", "Failed - Agent got blocked"]
    assert records[1]["meta"]["duration_game"] == pytest.approx(2.0)
    assert records[1]["infractions"]["vehicle_blocked"]


def test_an_agent_that_raises_fails_its_route_only(pool: LocalPool, folder: Path, tmp_path: Path) -> None:
    results, said = evaluated(pool, folder, tmp_path, route_agents.Crasher)
    assert [each["status"] for each in results["_checkpoint"]["records"]] == ["Failed - Agent crashed"] * 2
    assert "the network is on fire" in said


def test_a_route_whose_worker_is_lost_is_driven_again(pool: LocalPool, folder: Path, tmp_path: Path) -> None:
    results, said = evaluated(pool, folder, tmp_path, route_agents.Saboteur)
    assert "found it lost" in said
    records = results["_checkpoint"]["records"]
    assert [each["status"] for each in records] == ["Failed - Agent got blocked"] * 2


def test_the_command_says_what_it_did(folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "zmqcarla.cli", "evaluate", "--routes", str(folder / "routes.xml"), "--only", "7",
               "--simulator", "embedded", "--out", str(tmp_path)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False, env=WIDE)
    assert done.returncode == 0, done.stderr
    assert "route 7 in ZmqTown: Perfect, 100.0" in done.stdout
    assert "driving score" in done.stdout
    again = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False, env=WIDE)
    assert again.returncode == 2
    assert "--resume" in again.stderr


@pytest.mark.timeout(600)  # a route of half a kilometre with nine scenarios
def test_a_leaderboard_file_is_scored_as_a_hand_calculation_says(tmp_path: Path) -> None:
    routes, town = DATA / "routes" / "routes_town10.xml", DATA / "maps" / "Town10HD.xodr"
    if not routes.exists() or not town.exists():
        pytest.skip("the maps and route files of CARLA are not beside this checkout")
    kwargs = {"routes": str(routes), "map": str(town), "observation": "state", "terminate_on_collision": False}
    driver = load_agent("zmqcarla.demo.driver:LaneFollowingDriver")
    pool = LocalPool(1, simulator="embedded", map=str(town))
    try:
        work = [Job(0, "0", "Town10HD_Opt")]
        settings = {**kwargs, "frame_skip": 3, "max_steps": 1500}
        place = RunningPool(pool.address)
        evaluation = Evaluation(work, lambda: AgentDriver(driver), lambda town: settings, place)
        evaluate(evaluation, ResultFolder(tmp_path, {}, resume=False), Console(file=io.StringIO()))
    finally:
        pool.close()
    results = json.loads((tmp_path / "results.json").read_text())
    (record,) = results["_checkpoint"]["records"]
    counts = {kind: len(messages) for kind, messages in record["infractions"].items() if messages}
    assert counts.keys() <= FACTORS.keys(), (
        "who sees nothing hits cars and runs lights and signs, but keeps to the lanes"
    )
    assert counts["red_light"] >= 1
    assert counts["collisions_vehicle"] >= 2, "two cars brake ahead of it and one stands behind a junction"
    by_hand = math.prod(FACTORS[kind] ** count for kind, count in counts.items())
    assert record["scores"]["score_route"] == 100.0
    assert record["scores"]["score_penalty"] == pytest.approx(by_hand, abs=1e-6)
    assert record["scores"]["score_composed"] == pytest.approx(100.0 * by_hand, abs=1e-4)
    means = results["_checkpoint"]["global_record"]["scores_mean"]
    assert means["score_composed"] == pytest.approx(100.0 * by_hand, abs=1e-4)
    assert record["status"] == "Completed"
    assert record["skipped_scenarios"] == []
    assert [each["status"] for each in record["scenarios"]] == ["over"] * 8 + ["running"]
    assert {each["type"].partition(".")[0] for each in record["scenario_actors"]} == {"vehicle", "walker", "static"}
