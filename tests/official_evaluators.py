"""Running the evaluators of the Leaderboard and of Bench2Drive, unmodified, as their users run them.

LEADERBOARD_PYTHON is a Python with what they import; the rest are the folders' usual variables.
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from sim_process import free_port

OLD_PYTHON = Path(__file__).parents[1] / "workers/leaderboard/old_python.py"
STEPPED = Path(__file__).parent / "stepped_evaluator.py"
_ROUTE_S = 1500.0
"""How long an evaluator may take for a route on a busy machine."""


def named(variable: str) -> Path:
    """The folder or program that a variable names; skips without it."""
    value = os.environ.get(variable)
    if value is None:
        pytest.skip(f"{variable} is not set")
    return Path(value)


@dataclass(frozen=True)
class Evaluator:
    """An evaluator of a checkout.

    Attributes:
        leaderboard: the folder that holds the package `leaderboard`.
        scenario_runner: the folder that holds the package `srunner`.
        work: where it is started: Bench2Drive reads a file relative to that.
    """

    leaderboard: Path
    scenario_runner: Path
    work: Path

    @property
    def agent(self) -> Path:
        """CARLA's npc agent, as the checkout carries it."""
        return self.leaderboard / "leaderboard/autoagents/npc_agent.py"

    def run(
        self, routes: Path, route: str, out: Path, port: int, seed: int | None = None, **environment: str
    ) -> dict[str, Any]:
        """Evaluate the npc agent on one route and return what is in the result file.

        With a seed its two threads keep in step; see `stepped_evaluator`.

        Args:
            routes: a route file.
            route: id of the route in it.
            out: takes log and result.
            port: of the server.
            seed: None for a run by the wall clock.
            environment: further variables.
        """
        agents = named("ZMQCARLA_CARLA_PYTHONAPI") / "carla"
        out.mkdir(parents=True, exist_ok=True)
        result = out / "results.json"
        options = {
            "port": port,
            "traffic-manager-port": free_port(),
            "routes": routes,
            "routes-subset": route,
            "agent": self.agent,
            "agent-config": "",
            "track": "SENSORS",
            "timeout": 120,
            "checkpoint": result,
            "debug-checkpoint": out / "live.txt",
        }
        program = self.leaderboard / "leaderboard/leaderboard_evaluator.py"
        starter = [str(OLD_PYTHON)] if seed is None else [str(STEPPED), str(seed)]
        command = [str(named("LEADERBOARD_PYTHON")), *starter, str(program)]
        command += [f"--{name}={value}" for name, value in options.items()]
        path = [self.leaderboard, self.scenario_runner, agents]
        variables = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, path)),
            "LEADERBOARD_ROOT": str(self.leaderboard),
            "SCENARIO_RUNNER_ROOT": str(self.scenario_runner),
            "PYTHONDONTWRITEBYTECODE": "1",
            **environment,
        }
        with (out / "log.txt").open("w") as log:
            process = psutil.Popen(
                command, cwd=self.work, env=variables, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
            try:
                code = process.wait(_ROUTE_S)
            finally:  # a server that it started is not its child's death to die
                for each in [*process.children(recursive=True), process] if process.is_running() else []:
                    each.kill()
        text = (out / "log.txt").read_text(errors="replace")
        assert code == 0, text[-3000:]
        assert "Traceback" not in text, text[text.index("Traceback") :][:3000]
        found: dict[str, Any] = json.loads(result.read_text())
        return found


def leaderboard() -> Evaluator:
    """The evaluator of the Leaderboard."""
    root = named("LEADERBOARD_ROOT")
    return Evaluator(root, named("SCENARIO_RUNNER_ROOT"), root)


def bench2drive() -> Evaluator:
    """The evaluator of Bench2Drive."""
    root = named("BENCH2DRIVE_ROOT")
    return Evaluator(root / "leaderboard", root / "scenario_runner", root)
