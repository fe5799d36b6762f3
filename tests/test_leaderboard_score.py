"""CARLA's own Leaderboard on the embedded simulator: its unmodified evaluator, and our score of the same episode.

The evaluator runs a route with an agent that writes every tick down; then our criteria judge what was written down. So
both judge the same driving. Needs checkouts of three public repositories, which are not part of this one:

    LEADERBOARD_ROOT            carla-simulator/leaderboard
    SCENARIO_RUNNER_ROOT        carla-simulator/scenario_runner
    ZMQCARLA_CARLA_PYTHONAPI    PythonAPI of carla-simulator/carla, for its `agents` package
    LEADERBOARD_PYTHON          an interpreter with their requirements and the `carla` wheel; default: this one
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import carla
import pytest

from zmqcarla.workers import ports
from zmqcarla.workers.criteria.base import Hit, Kind, Tick
from zmqcarla.workers.criteria.collisions import Collisions
from zmqcarla.workers.criteria.lanes import OutsideLanes
from zmqcarla.workers.criteria.progress import MinimumSpeed, RouteDeviation, RouteTimeout, VehicleBlocked
from zmqcarla.workers.criteria.signs import RedLights, StopSigns
from zmqcarla.workers.lane_graph import LaneGraph
from zmqcarla.workers.navigation import RouteTracker, route_through
from zmqcarla.workers.routes import read_routes
from zmqcarla.workers.score import Score
from zmqcarla.workers.servers import Server, ServerSpec, launch
from zmqcarla.workers.surroundings import Surroundings

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
ROUTES, TOWN = DATA / "routes" / "routes_town10.xml", DATA / "maps" / "Town10HD.xodr"
AGENT = Path(__file__).with_name("leaderboard_agent.py")
ROOTS = ("LEADERBOARD_ROOT", "SCENARIO_RUNNER_ROOT", "ZMQCARLA_CARLA_PYTHONAPI")
NEAR_LIGHT_M = 15.0
BLOCKED_S = 180.0

missing = [name for name in ROOTS if not os.environ.get(name)]
pytestmark = [
    pytest.mark.timeout(1200),
    pytest.mark.skipif(bool(missing), reason=f"needs checkouts of CARLA's repositories, named by {', '.join(missing)}"),
    pytest.mark.skipif(not ROUTES.exists() or not TOWN.exists(), reason="CARLA's maps are not beside this checkout"),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    claim = ports.claim_free(23900)
    spec = ServerSpec("embedded", claim.block.rpc, map=str(TOWN))
    running = launch(spec, tmp_path_factory.mktemp("server") / "log")
    try:
        running.wait_ready(60.0)
        yield running
    finally:
        running.close()
        claim.release()


@pytest.fixture(scope="module")
def episode(server: Server, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Let the evaluator drive the route; return its record and the ticks."""
    out = tmp_path_factory.mktemp("leaderboard")
    leaderboard, runner, api = (Path(os.environ[name]) for name in ROOTS)
    python = os.environ.get("LEADERBOARD_PYTHON", sys.executable)
    paths = os.pathsep.join(map(str, (leaderboard, runner, api / "carla")))
    command = [python, str(leaderboard / "leaderboard" / "leaderboard_evaluator.py"), "--routes", str(ROUTES)]
    command += ["--port", str(server.spec.port), "--traffic-manager-port", str(server.spec.port + 3)]
    command += ["--agent", str(AGENT), "--agent-config", str(out / "ticks.json"), "--track", "MAP", "--timeout", "120"]
    command += ["--checkpoint", str(out / "results.json"), "--debug-checkpoint", str(out / "live.txt")]
    environment = {**os.environ, "PYTHONPATH": paths}
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False, env=environment, cwd=out)
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    (record,) = json.loads((out / "results.json").read_text())["_checkpoint"]["records"]
    return record, json.loads((out / "ticks.json").read_text())


def our_score(server: Server, written: list[dict[str, Any]]) -> dict[str, Any]:
    """Judge the ticks by our criteria."""
    client: Any = carla.Client("127.0.0.1", server.spec.port)
    client.set_timeout(20.0)
    world = client.get_world()
    carla_map = world.get_map()
    around = Surroundings(world, carla_map)
    centres = {light.light_id: light.centre_m for light in around.lights}
    (spec,) = read_routes(ROUTES)
    route = route_through(LaneGraph(carla_map), spec.keypoints_m)
    x_m, y_m, _ = written[0]["position_m"]
    tracker = RouteTracker(route, x_m, y_m)
    half_m = 2.395  # of the Leaderboard's ego, a Lincoln MKZ
    score = Score(
        [
            Collisions(),
            RedLights(carla_map, around.lights, half_m),
            StopSigns(carla_map, around.signs),
            OutsideLanes(carla_map, tracker.start_s_m),
            MinimumSpeed(route.length_m),
            RouteDeviation(30.0, route.length_m),
            VehicleBlocked(BLOCKED_S),
            RouteTimeout(tracker.start_s_m),
        ]
    )
    for each in written:
        x_m, y_m, z_m = each["position_m"]
        s_m, offset_m = tracker.follow(x_m, y_m)
        near = [k for k in each["red_lights"] if math.dist(centres[k], (x_m, y_m, z_m)) <= NEAR_LIGHT_M]
        tick = Tick(
            frame=each["frame"],
            time_s=each["time_s"],
            position_m=(x_m, y_m, z_m),
            yaw_deg=each["yaw_deg"],
            speed_mps=each["speed_mps"],
            forward_mps=each["forward_mps"],
            speed_limit_mps=each["speed_limit_mps"],
            s_m=s_m,
            offset_m=offset_m,
            red_lights=frozenset(near),
            traffic_mps=each["traffic_mps"],
            hits=tuple(Hit(*hit) for hit in each["hits"]),
        )
        score.watch([tick])
        score.update([tick], tracker.update(x_m, y_m, each["yaw_deg"]).completion_percent)
    score.finish()
    return score.summary(route.length_m)


def test_the_leaderboard_and_we_judge_one_episode_alike(
    server: Server, episode: tuple[dict[str, Any], list[dict[str, Any]]]
) -> None:
    theirs, written = episode
    ours = our_score(server, written)
    # Their test of the speed is told twice that the route is over, and counts a last quarter that was too slow twice.
    speeds = theirs["infractions"]["min_speed_infractions"]
    twice = len(speeds) > 1 and speeds[-1] == speeds[-2]
    penalty = theirs["scores"]["score_penalty"]
    if twice:
        percent = float(speeds.pop().partition("is ")[2].partition("%")[0])
        penalty /= 1.0 - 0.3 * (1.0 - percent / 100.0)
    counts = [{kind: len(each["infractions"][kind.value]) for kind in Kind} for each in (theirs, ours)]
    assert counts[0] == counts[1]
    assert theirs["status"] == ours["status"]
    assert ours["meta"]["route_length"] == pytest.approx(theirs["meta"]["route_length"], rel=0.01)
    assert ours["scores"]["score_route"] == pytest.approx(theirs["scores"]["score_route"], abs=0.5)
    assert ours["scores"]["score_penalty"] == pytest.approx(penalty, rel=0.02)
    assert ours["scores"]["score_composed"] == pytest.approx(theirs["scores"]["score_route"] * penalty, rel=0.02)
