"""The unmodified evaluators of the Leaderboard and of Bench2Drive against the embedded simulator.

Opt-in: LEADERBOARD_ROOT and SCENARIO_RUNNER_ROOT, BENCH2DRIVE_ROOT, ZMQCARLA_CARLA_PYTHONAPI (CARLA's folder PythonAPI)
and LEADERBOARD_PYTHON (a Python with what their evaluators import). A route takes minutes.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from official_evaluators import Evaluator, bench2drive, leaderboard, named
from sim_process import free_port, running_sim

ROUTES = Path(__file__).parents[1].parent / "shared/data/routes/routes_town10.xml"
BENCH2DRIVE_ROUTE = "24211"
"""Of Town01; the npc agent completes it and hits the walker who crosses."""
HOSTED = Path(__file__).parent / "hosted_npc_agent.py"

pytestmark = [pytest.mark.timeout(3600), pytest.mark.filterwarnings("ignore")]


def _record_of(result: dict[str, Any]) -> dict[str, Any]:
    """The one record of a result file whose run has come to its end."""
    assert result["entry_status"] == "Finished"
    assert result["eligible"]
    assert result["_checkpoint"]["progress"] == [1, 1]
    (record,) = result["_checkpoint"]["records"]
    scores = record["scores"]
    assert 0.0 < scores["score_route"] <= 100.0
    assert scores["score_composed"] == pytest.approx(scores["score_route"] * scores["score_penalty"], abs=1e-3)
    return dict(record)


def _judgement(record: dict[str, Any]) -> dict[str, Any]:
    """Status, scores and infractions; without the ids of actors, which are those of a world."""
    infractions = {
        name: [re.sub(r" and id=\d+| with id=\d+", "", message) for message in messages]
        for name, messages in record["infractions"].items()
    }
    return {"status": record["status"], "scores": record["scores"], "infractions": infractions}


def _hosted(evaluator: Evaluator, routes: Path, route: str, maps: Path) -> dict[str, Any]:
    """The record of `zmqcarla/Leaderboard-v0` driven by the same agent, in a process of its own."""
    api = named("ZMQCARLA_CARLA_PYTHONAPI")
    roots = [evaluator.leaderboard, evaluator.scenario_runner, api / "carla"]
    done = subprocess.run(
        [sys.executable, str(HOSTED), str(routes), route, str(maps), *map(str, roots)],
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    record: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return record


@pytest.mark.parametrize("seed", [None, 0])
def test_the_leaderboards_evaluator_completes_a_route_and_scores_it_as_the_env_does(
    town_maps: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int | None
) -> None:
    """By the wall clock their nine scenarios are built at other ticks each time, which changes the traffic's speed."""
    evaluator = leaderboard()
    monkeypatch.setenv("ZMQCARLA_MAPS", str(town_maps))
    with running_sim("--map", "Town10HD") as port:
        theirs = _record_of(evaluator.run(ROUTES, "0", tmp_path, port, seed))
    ours = _hosted(evaluator, ROUTES, "0", town_maps)
    assert theirs["status"] == ours["status"] == "Completed"
    if seed is not None:
        assert _judgement(ours) == _judgement(theirs)
        assert ours["meta"]["duration_game"] == theirs["meta"]["duration_game"]


def test_bench2drives_evaluator_starts_the_simulator_and_scores_a_route_as_the_env_does(
    town_maps: Path, tmp_path: Path
) -> None:
    evaluator = bench2drive()
    carla_root = tmp_path / "carla"
    launcher = [sys.executable, "-m", "zmqcarla.cli", "sim", "--install-launcher", str(carla_root)]
    subprocess.run(launcher, check=True, capture_output=True, timeout=60)
    routes = evaluator.leaderboard / "data/bench2drive220.xml"
    further = {
        "CARLA_ROOT": str(carla_root),
        "ZMQCARLA_MAPS": str(town_maps),
        "IS_BENCH2DRIVE": "True",
        "SAVE_PATH": str(tmp_path / "saved"),
    }
    theirs = _record_of(evaluator.run(routes, BENCH2DRIVE_ROUTE, tmp_path, free_port(), **further))
    ours = _hosted(evaluator, routes, BENCH2DRIVE_ROUTE, town_maps)
    assert theirs["status"] == "Completed"
    assert _judgement(ours) == _judgement(theirs)
    assert ours["meta"]["duration_game"] == theirs["meta"]["duration_game"]
