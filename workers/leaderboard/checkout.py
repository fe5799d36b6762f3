"""Finds the user's checkouts of the Leaderboard and of ScenarioRunner and imports them, unchanged.

They were written for Python 3.7 and are folders to be put on the path. One process can hold one pair of checkouts,
because their modules keep their state in module and class variables.

Licences: leaderboard and scenario_runner are MIT; Bench2Drive, which carries changed copies of both, is CC BY-NC-ND.
Which of them is used is the user's choice; nothing of theirs is part of this package.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from zmqcarla.workers.leaderboard import old_python

LEADERBOARD: Final = "LEADERBOARD_ROOT"
SCENARIO_RUNNER: Final = "SCENARIO_RUNNER_ROOT"
BENCH2DRIVE: Final = "BENCH2DRIVE_ROOT"
CARLA: Final = "CARLA_ROOT"


class CheckoutError(RuntimeError):
    """A checkout is missing, is of another project, or cannot be imported."""


@dataclass(frozen=True, slots=True)
class Roots:
    """Where the code of others lies.

    Attributes:
        leaderboard: the folder that holds the package `leaderboard`.
        scenario_runner: the folder that holds the package `srunner`.
        agents: the folder that holds CARLA's package `agents`.
    """

    leaderboard: Path
    scenario_runner: Path
    agents: Path

    @classmethod
    def find(
        cls,
        leaderboard_root: str | None = None,
        scenario_runner_root: str | None = None,
        bench2drive_root: str | None = None,
        agents_root: str | None = None,
    ) -> Roots:
        """Take the arguments, else the variables of the same meaning in the environment.

        A Bench2Drive checkout stands for both of the others. `agents_root` is CARLA's folder PythonAPI/carla, or what
        CARLA_ROOT leads to.

        Raises:
            CheckoutError: one is named nowhere, or lacks its package; the text says which.
        """
        bench2drive = bench2drive_root or os.environ.get(BENCH2DRIVE)
        carla_root = os.environ.get(CARLA)
        inside = Path(bench2drive) if bench2drive else None
        return cls(
            _root(
                leaderboard_root or os.environ.get(LEADERBOARD) or (inside and inside / "leaderboard"),
                "leaderboard/scenarios/route_scenario.py",
                f"leaderboard_root, bench2drive_root or the variable {LEADERBOARD} or {BENCH2DRIVE}",
            ),
            _root(
                scenario_runner_root or os.environ.get(SCENARIO_RUNNER) or (inside and inside / "scenario_runner"),
                "srunner/scenariomanager/carla_data_provider.py",
                f"scenario_runner_root, bench2drive_root or the variable {SCENARIO_RUNNER} or {BENCH2DRIVE}",
            ),
            _root(
                agents_root or (carla_root and Path(carla_root) / "PythonAPI/carla"),
                "agents/navigation/local_planner.py",
                f"agents_root or the variable {CARLA}",
            ),
        )


def _root(named: str | Path | None, proof: str, how: str) -> Path:
    if not named:
        raise CheckoutError(f"expected a folder with {proof}, found none named: pass {how}")
    path = Path(named).expanduser().resolve()
    if not (path / proof).is_file():
        raise CheckoutError(f"expected {proof} in {path}, found no such file: correct {how}")
    return path


@dataclass(frozen=True, slots=True)
class Checkout:
    """The parts of the others' code that the env calls.

    Attributes:
        roots: where they came from.
        route_scenario: class RouteScenario.
        parse_routes_file: RouteParser.parse_routes_file.
        statistics_manager: class StatisticsManager.
        data_provider: class CarlaDataProvider, which holds its state in class variables.
        game_time: class GameTime, likewise.
        blackboard: class py_trees.blackboard.Blackboard, likewise.
        running: the status of a behaviour tree that goes on.
    """

    roots: Roots
    route_scenario: Any
    parse_routes_file: Callable[..., list[Any]]
    statistics_manager: Any
    data_provider: Any
    game_time: Any
    blackboard: Any
    running: Any


_loaded: Checkout | None = None


def load(roots: Roots) -> Checkout:
    """Import the checkouts; a second call returns the same.

    Raises:
        CheckoutError: something that they import is missing, or this process holds another pair of checkouts.
    """
    global _loaded
    if _loaded is None:
        _loaded = _import(roots)
    if _loaded.roots != roots:
        raise CheckoutError(f"expected one pair of checkouts a process, found {roots} after {_loaded.roots}")
    return _loaded


def _import(roots: Roots) -> Checkout:
    sys.path[:0] = [str(path) for path in (roots.leaderboard, roots.scenario_runner, roots.agents)]
    # Theirs looks there for the scenario classes.
    os.environ[SCENARIO_RUNNER] = str(roots.scenario_runner)
    old_python.prepare()
    try:
        py_trees = importlib.import_module("py_trees")
        provider = importlib.import_module("srunner.scenariomanager.carla_data_provider")
        timer = importlib.import_module("srunner.scenariomanager.timer")
        scenario = importlib.import_module("leaderboard.scenarios.route_scenario")
        parser = importlib.import_module("leaderboard.utils.route_parser")
        statistics = importlib.import_module("leaderboard.utils.statistics_manager")
    except ImportError as error:
        raise CheckoutError(
            f"expected what the checkouts import, found {error}: pip install 'zmqcarla[leaderboard]'"
        ) from error
    return Checkout(
        roots,
        scenario.RouteScenario,
        parser.RouteParser.parse_routes_file,
        statistics.StatisticsManager,
        provider.CarlaDataProvider,
        timer.GameTime,
        py_trees.blackboard.Blackboard,
        py_trees.common.Status.RUNNING,
    )
