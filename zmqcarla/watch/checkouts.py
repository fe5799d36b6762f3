"""The user's checkouts of the Leaderboard and of ScenarioRunner: are they found, and is what they import there?

Nothing of theirs is imported, nor is `carla`: folders are looked at, and packages by what the installation knows.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from zmqcarla.watch.doctor import Finding

_PROOFS: Final = {
    "LEADERBOARD_ROOT": ("leaderboard", "leaderboard/scenarios/route_scenario.py"),
    "SCENARIO_RUNNER_ROOT": ("scenario_runner", "srunner/scenariomanager/carla_data_provider.py"),
}
"""By variable: the folder's name inside a Bench2Drive checkout, and a file that is in it."""
_BENCH2DRIVE: Final = "BENCH2DRIVE_ROOT"
_AGENTS: Final = "PythonAPI/carla/agents/navigation/local_planner.py"
_PACKAGES: Final = {
    "py_trees": "py-trees",
    "networkx": "networkx",
    "shapely": "shapely",
    "dictor": "dictor",
    "six": "six",
    "ephem": "ephem",
    "requests": "requests",
}
"""By the name that is imported: the name that is installed."""
PY_TREES: Final = "0.8.3"
_INSTALL: Final = "pip install 'zmqcarla[leaderboard]'"


def examine_checkouts(environment: Mapping[str, str]) -> list[Finding]:
    """Look for the checkouts that `zmqcarla/Leaderboard-v0` runs.

    Args:
        environment: the variables.

    Returns:
        One finding that nothing is configured, or one each of folders, agents and packages.
    """
    if not {*_PROOFS, _BENCH2DRIVE} & environment.keys():
        return [Finding("leaderboard", "ok", "no checkouts named; only zmqcarla/Leaderboard-v0 needs them")]
    return [
        judge_folders(environment),
        judge_agents(environment.get("CARLA_ROOT")),
        judge_packages(_installed(), sys.version_info[:2]),
    ]


def _installed() -> dict[str, str | None]:
    """The version of each package that the checkouts import; None for one that is missing."""
    return {
        name: importlib.metadata.version(name) if importlib.util.find_spec(module) is not None else None
        for module, name in _PACKAGES.items()
    }


def judge_folders(environment: Mapping[str, str]) -> Finding:
    """Both folders have to be named, by their own variables or by Bench2Drive's, and to be what they are called."""
    found: list[str] = []
    for variable, (inside, proof) in _PROOFS.items():
        own, bench2drive = environment.get(variable), environment.get(_BENCH2DRIVE)
        path = Path(own) if own else Path(bench2drive) / inside if bench2drive else None
        if path is None:
            remedy = f"set {variable}, or {_BENCH2DRIVE} for both"
            return Finding(
                "leaderboard", "failure", f"{', '.join(found)} but no {variable}".removeprefix(" but "), remedy
            )
        if not (path.expanduser() / proof).is_file():
            remedy = f"correct {variable if own else _BENCH2DRIVE}: the folder that holds {proof}"
            return Finding("leaderboard", "failure", f"no {proof} in {path}", remedy)
        found.append(str(path))
    return Finding("leaderboard", "ok", " and ".join(found))


def judge_agents(carla_root: str | None) -> Finding:
    """CARLA's own package `agents`, which the scenarios import and no wheel has."""
    remedy = "set CARLA_ROOT to a CARLA release, or pass agents_root= to the env"
    if carla_root is None:
        return Finding("carla agents", "warning", "CARLA_ROOT is not set", remedy)
    if not (Path(carla_root) / _AGENTS).is_file():
        return Finding("carla agents", "warning", f"no {_AGENTS} in {carla_root}", remedy)
    return Finding("carla agents", "ok", str(Path(carla_root) / _AGENTS.partition("/agents")[0]))


def judge_packages(versions: Mapping[str, str | None], python: tuple[int, ...]) -> Finding:
    """What the checkouts import; their behaviour trees are those of one release of py-trees."""
    missing = [name for name, version in versions.items() if version is None]
    if missing:
        return Finding("leaderboard packages", "failure", f"missing: {', '.join(missing)}", _INSTALL)
    if versions["py-trees"] != PY_TREES:
        found = f"py-trees {versions['py-trees']}; the checkouts are written for {PY_TREES}, and later ones differ"
        return Finding("leaderboard packages", "failure", found, _INSTALL)
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    return Finding(
        "leaderboard packages", "ok", f"{listed}; what Python {'.'.join(map(str, python))} lacks is given at start-up"
    )
