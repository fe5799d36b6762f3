"""A scenario in the middle of what it does goes on to the bit, in the same world and with actors that are born anew."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from snapshot_runs import Action, assert_exact, assert_same, connected, driven, running_servers

from zmqcarla.demo.driver import LaneFollowingDriver
from zmqcarla.workers.carla_env import CarlaEnv

FIRST_PORT = 20600
TRIGGER = '<trigger_point x="28" y="-93.25" z="0" yaw="0"/>'
WAY = '<waypoints><position x="18" y="-93.25" z="0"/><position x="185" y="-93.25" z="0"/></waypoints>'
KINDS = {
    "HardBreakRoute": "",
    "DynamicObjectCrossing": '<distance value="35"/>',
    "AccidentTwoWays": '<distance value="35"/>',
}


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CarlaEnv]:
    folder: Path = tmp_path_factory.mktemp("scenarios")
    routes = [
        f'<route id="{kind}" town="ZmqTown">{WAY}<scenarios><scenario name="S" type="{kind}">{TRIGGER}{more}</scenario>'
        "</scenarios></route>"
        for kind, more in KINDS.items()
    ]
    path = folder / "routes.xml"
    path.write_text(f"<routes>{''.join(routes)}</routes>")
    with running_servers(FIRST_PORT, folder, {"town": None}) as servers:
        one = connected(servers["town"], routes=str(path), terminate_on_collision=False)
        yield one
        one.close()


@pytest.mark.parametrize("kind", KINDS)
def test_a_running_scenario_goes_on_to_the_bit(env: CarlaEnv, kind: str) -> None:
    driver, actions = LaneFollowingDriver(), list[Action]()
    observation, _ = env.reset(seed=2, options={"route": kind})
    assert env.episode is not None
    assert env.episode.programme is not None
    (scenario,) = env.episode.programme.scenarios
    while not scenario.running or env.episode.ticks * env.config.delta_s - scenario.started_s < 2.0:
        observation, *_ = env.step(driver(observation))
    saved = env.save_snapshot("running")
    wanted = []
    for _ in range(60):
        actions.append(driver(observation))
        wanted.append(env.step(actions[-1]))
        observation = wanted[-1][0]
    env.restore_snapshot(saved)
    assert_same(driven(env, actions), wanted)
    env.reset(seed=3, options={"route": "HardBreakRoute"})
    assert_exact(env.restore_snapshot(saved)[1]["restore"])
    assert_same(driven(env, actions), wanted)
