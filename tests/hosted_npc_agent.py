"""Drives one route of `zmqcarla/Leaderboard-v0` with CARLA's npc agent in the env's process; prints the record.

python hosted_npc_agent.py ROUTES ROUTE MAPS LEADERBOARD SCENARIO_RUNNER AGENTS
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from typing import Any

import gymnasium
import numpy as np

import zmqcarla

gymnasium.register_envs(zmqcarla)


def main(routes: str, route: str, maps: str, *roots: str) -> None:
    """See the module."""
    os.environ["ZMQCARLA_MAPS"] = maps
    for name in ("LEADERBOARD_ROOT", "SCENARIO_RUNNER_ROOT", "BENCH2DRIVE_ROOT", "CARLA_ROOT"):
        os.environ.pop(name, None)
    folders: Any = dict(zip(("leaderboard_root", "scenario_runner_root", "agents_root"), roots, strict=True))
    env: Any = gymnasium.make(
        "zmqcarla/Leaderboard-v0", routes=routes, simulator="embedded", observation="state", max_steps=10**6, **folders
    ).unwrapped
    env.reset(seed=0, options={"route": route})
    scenario = env.episode._scenario  # an agent of theirs gets its plan from the scenario
    agent = importlib.import_module("leaderboard.autoagents.npc_agent").NpcAgent("127.0.0.1", 0)
    agent.set_global_plan(scenario.gps_route, scenario.route)
    agent.setup("")
    over, info = False, {}
    while not over:
        wanted = agent.run_step({}, 0.0)
        action = np.array([wanted.steer, wanted.throttle, wanted.brake], np.float32)
        *_, terminated, truncated, info = env.step(action)
        over = terminated or truncated
    print(json.dumps({name: value for name, value in info["episode_summary"].items() if name != "events"}))
    env.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
