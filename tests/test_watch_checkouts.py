"""What `zmqcarla doctor` says of the checkouts of the Leaderboard."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from zmqcarla.watch.checkouts import PY_TREES, examine_checkouts, judge_agents, judge_folders, judge_packages

ROUTE_SCENARIO = "leaderboard/scenarios/route_scenario.py"
DATA_PROVIDER = "srunner/scenariomanager/carla_data_provider.py"
PACKAGES = {"py-trees": PY_TREES, "networkx": "3.4"}


def _touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def test_without_checkouts_nothing_is_asked_for() -> None:
    (found,) = examine_checkouts({"CARLA_ROOT": "/nowhere"})
    assert found.level == "ok"
    assert "no checkouts named" in found.found


def test_both_folders_are_needed_and_looked_into(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    variables = {"LEADERBOARD_ROOT": str(one)}
    assert "correct LEADERBOARD_ROOT" in judge_folders(variables).remedy
    _touch(one / ROUTE_SCENARIO)
    found = judge_folders(variables)
    assert (found.level, found.remedy) == ("failure", "set SCENARIO_RUNNER_ROOT, or BENCH2DRIVE_ROOT for both")
    assert "no SCENARIO_RUNNER_ROOT" in judge_folders({"BENCH2DRIVE_ROOT": "", **variables}).found
    _touch(other / DATA_PROVIDER)
    assert judge_folders({**variables, "SCENARIO_RUNNER_ROOT": str(other)}).level == "ok"


def test_bench2drive_stands_for_both(tmp_path: Path) -> None:
    variables = {"BENCH2DRIVE_ROOT": str(tmp_path)}
    found = judge_folders(variables)
    assert (found.level, found.found) == ("failure", f"no {ROUTE_SCENARIO} in {tmp_path / 'leaderboard'}")
    assert "correct BENCH2DRIVE_ROOT" in found.remedy
    _touch(tmp_path / "leaderboard" / ROUTE_SCENARIO)
    _touch(tmp_path / "scenario_runner" / DATA_PROVIDER)
    assert judge_folders(variables).level == "ok"


def test_the_agents_may_be_named_elsewhere(tmp_path: Path) -> None:
    assert judge_agents(None).level == judge_agents(str(tmp_path)).level == "warning"
    _touch(tmp_path / "PythonAPI/carla/agents/navigation/local_planner.py")
    assert judge_agents(str(tmp_path)).found == str(tmp_path / "PythonAPI/carla")


@pytest.mark.parametrize(
    ("versions", "level", "words"),
    [
        (PACKAGES, "ok", "networkx 3.4; what Python 3.12 lacks is given"),
        ({**PACKAGES, "networkx": None}, "failure", "missing: networkx"),
        ({**PACKAGES, "py-trees": "2.2.3"}, "failure", "py-trees 2.2.3"),
    ],
)
def test_packages(versions: dict[str, str | None], level: str, words: str) -> None:
    found = judge_packages(versions, (3, 12))
    assert found.level == level
    assert words in found.found
    assert bool(found.remedy) == (level != "ok")


def test_the_command_tells_of_a_wrong_folder(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "zmqcarla.cli", "doctor", "--workers", "1", "--base-port", "24280", "--json"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        env={**os.environ, "BENCH2DRIVE_ROOT": str(tmp_path)},
    )
    found = {finding["check"]: finding for finding in json.loads(done.stdout)["findings"]}
    assert done.returncode == 1
    assert found["leaderboard"]["level"] == "failure"
    assert str(tmp_path) in found["leaderboard"]["found"]
    assert found["carla agents"]["remedy"].startswith("set CARLA_ROOT")
    assert "leaderboard packages" in found
