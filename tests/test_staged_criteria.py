"""Timed-out scenarios and emergency vehicles, judged by scenario_runner's own criteria and by ours on the same ticks.

Needs checkouts of public repositories, as test_leaderboard_score.py says.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import pytest

from zmqcarla.workers import ports
from zmqcarla.workers.criteria.base import Criterion, Staged, Tick
from zmqcarla.workers.criteria.staged import ScenarioTimeouts, YieldToEmergency
from zmqcarla.workers.routes import ScenarioSpec
from zmqcarla.workers.scenarios.base import Scenario
from zmqcarla.workers.servers import ServerSpec, launch

THEIRS = Path(__file__).with_name("staged_criteria_theirs.py")
ROOTS = ("SCENARIO_RUNNER_ROOT", "ZMQCARLA_CARLA_PYTHONAPI")

missing = [name for name in ROOTS if not os.environ.get(name)]
pytestmark = pytest.mark.skipif(bool(missing), reason=f"needs checkouts of CARLA's, named by {', '.join(missing)}")


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What their criteria said, by cases, and the ticks."""
    out = tmp_path_factory.mktemp("theirs")
    claim = ports.claim_free(23900)
    running = launch(ServerSpec("embedded", claim.block.rpc), out / "log")
    try:
        running.wait_ready(60.0)
        runner, api = (Path(os.environ[name]) for name in ROOTS)
        python = os.environ.get("LEADERBOARD_PYTHON", sys.executable)
        done = subprocess.run(
            [python, str(THEIRS), str(running.spec.port), str(out / "told.json")],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (runner, api / "carla")))},
            cwd=out,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        yield json.loads((out / "told.json").read_text())
    finally:
        running.close()
        claim.release()


class Obstruction(Scenario):
    """In the way until its time is up; it has no actors."""

    build_ahead_m: ClassVar[float] = 1e9

    def plan(self, rng: np.random.Generator) -> None:
        """Nothing is drawn."""

    def build(self, tick: Tick) -> None:
        """Nobody comes."""

    def step(self, tick: Tick) -> bool:
        """It never ends by itself."""
        return False

    def dismiss(self) -> None:
        """Nobody is there."""


def tick_of(seen: dict[str, Any], staged: Staged) -> Tick:
    position_m, yaw_deg = seen["ego"]
    return Tick(
        frame=seen["frame"],
        time_s=seen["time_s"],
        position_m=tuple(position_m),
        yaw_deg=yaw_deg,
        speed_mps=0.0,
        forward_mps=0.0,
        speed_limit_mps=10.0,
        s_m=0.0,
        offset_m=0.0,
        red_lights=frozenset(),
        traffic_mps=None,
        staged=staged,
    )


def events_of(criterion: Criterion) -> list[list[Any]]:
    return [[each.tick.frame, each.message] for each in criterion.infractions]


def test_who_lets_an_emergency_vehicle_pass_is_judged_alike(told: dict[str, Any]) -> None:
    verdicts: dict[str, bool] = {}
    for name, case in told.items():
        if "duration_s" in case:
            continue
        ours = YieldToEmergency()
        last = None
        for seen in case["ticks"]:
            position_m, yaw_deg = seen["other"]
            last = tick_of(seen, Staged(emergency=(tuple(position_m), yaw_deg)))
            ours.update(last)
        assert last is not None
        ours.finish(last)
        assert events_of(ours) == case["events"], name
        verdicts[name] = bool(case["events"])
    assert verdicts == {
        "left behind": True,
        "let past": False,
        "let past and overtaken again": True,
        "turned round behind": False,
        "turned round in front": True,
    }


def test_a_scenario_times_out_at_the_same_tick(told: dict[str, Any]) -> None:
    verdicts: dict[str, bool] = {}
    for name, case in told.items():
        if "duration_s" not in case:
            continue
        kind = type("Timed", (Obstruction,), {"timeout_s": case["duration_s"]})
        spec = ScenarioSpec(name, "Obstruction", (0.0, 0.0, 0.0), 0.0, {})
        scenario = kind(spec, cast("Any", None), 0.0, np.random.default_rng(0))
        scenario.advance(tick_of(case["ticks"][0], Staged()))  # it is built, and triggered with the next
        ours = ScenarioTimeouts()
        for seen in case["ticks"]:
            overdue = (scenario.name,) if scenario.advance(tick_of(seen, Staged())) else ()
            ours.update(tick_of(seen, Staged(overdue=overdue)))
        assert events_of(ours) == case["events"], name
        verdicts[name] = bool(case["events"])
    assert verdicts == {"times out": True, "on the very tick": True, "has time": False}
