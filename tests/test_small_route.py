"""A route of our own in the Leaderboard's form: by our own scenarios, and by the Leaderboard's where it is given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import pytest
from official_evaluators import named

from zmqcarla.demo.driver import LaneFollowingDriver
from zmqcarla.workers.routes import read_routes

ROUTES = Path(__file__).parent / "small_route.xml"
SCENARIOS = ["ControlLoss", "HardBreakRoute", "DynamicObjectCrossing"]


def _drive(env_id: str, **settings: Any) -> dict[str, Any]:
    """Drive the route without looking at anybody; the record of the episode."""
    env: Any = gymnasium.make(
        env_id,
        routes=str(ROUTES),
        simulator="embedded",
        observation="state",
        terminate_on_collision=False,
        max_steps=900,
        **settings,
    )
    driver = LaneFollowingDriver()
    observation, info = env.reset(seed=1, options={"route": "1"})
    assert info["skipped_scenarios"] == []
    over = False
    while not over:
        observation, _, terminated, truncated, info = env.step(driver(observation))
        over = terminated or truncated
    env.close()
    summary: dict[str, Any] = info["episode_summary"]
    return summary


def test_the_file_says_what_it_should() -> None:
    (route,) = read_routes(str(ROUTES))
    assert (route.town, [each.kind for each in route.scenarios]) == ("ZmqTown", SCENARIOS)
    assert len(route.weathers) == 2


def test_our_own_scenarios_take_place_on_it() -> None:
    summary = _drive("zmqcarla/Carla-v0")
    assert summary["status"] == "Completed"
    assert [each["name"] for each in summary["scenarios"]] == [f"{kind}_1 ({kind})" for kind in SCENARIOS]
    assert all(each["status"] in ("running", "over") for each in summary["scenarios"])
    assert summary["infractions"]["collisions_vehicle"]  # the car ahead that brakes
    assert summary["infractions"]["collisions_pedestrian"]
    assert 0.0 < summary["scores"]["score_composed"] < 50.0


@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore")  # the checkouts' own
def test_the_leaderboards_scenarios_take_place_on_it() -> None:
    agents_root = named("ZMQCARLA_CARLA_PYTHONAPI") / "carla"
    roots = {name.lower(): str(named(name)) for name in ("LEADERBOARD_ROOT", "SCENARIO_RUNNER_ROOT")}
    summary = _drive("zmqcarla/Leaderboard-v0", agents_root=str(agents_root), **roots)
    assert summary["infractions"]["collisions_pedestrian"]
    assert summary["scores"]["score_route"] > 90.0
