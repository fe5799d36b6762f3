"""The lane-following driver drives whole routes from the observation alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from zmqcarla.demo import driver
from zmqcarla.demo.driver import LaneFollowingDriver
from zmqcarla.workers import observation as tables
from zmqcarla.workers import ports
from zmqcarla.workers.carla_env import CarlaEnv
from zmqcarla.workers.servers import Server, ServerSpec, launch

MAPS = Path(__file__).parents[1] / ".." / "shared" / "data" / "maps"


@pytest.fixture(params=["default", "Town01", "Town10HD"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    path = MAPS / f"{request.param}.xodr"
    if request.param != "default" and not path.exists():
        pytest.skip(f"no {path}")
    claim = ports.claim_free(23600)
    running = launch(
        ServerSpec("embedded", claim.block.rpc, map=None if request.param == "default" else str(path)),
        tmp_path / "log",
    )
    try:
        running.wait_ready(30.0)
        yield running
    finally:
        running.close()
        claim.release()


def test_the_driver_knows_the_places_in_the_observation() -> None:
    assert tables.VEHICLE_STATE[driver.FORWARD_SPEED] == "velocity_forward_mps"
    assert slice(driver.FIRST_WAYPOINT, driver.FIRST_WAYPOINT + 2 * driver.NUM_WAYPOINTS) == tables.WAYPOINTS
    assert tables.NUM_WAYPOINTS == driver.NUM_WAYPOINTS


def test_a_route_of_300_m_is_driven_within_the_lane(server: Server) -> None:
    env = CarlaEnv(connect=f"127.0.0.1:{server.spec.port}", simulator="embedded", image_size=(64, 32))
    drive = LaneFollowingDriver()
    observation, info = env.reset(seed=4, options={"route_length_m": 300.0})
    assert info["route_length_m"] >= 300.0
    over = terminated = truncated = False
    farthest_share = 0.0
    while not over:
        observation, _, terminated, truncated, info = env.step(drive(observation))
        farthest_share = max(farthest_share, abs(info["lane_offset_m"]) / info["lane_width_m"])
        over = terminated or truncated
    env.close()
    assert (info["terminated_by"], info["route_completion"]) == ("route_completed", 100.0)
    assert farthest_share < 0.5


def test_a_batch_gets_the_same_actions_as_its_rows() -> None:
    rng = np.random.default_rng(0)
    navigation = rng.normal(size=(5, len(tables.NAVIGATION))).astype(np.float32)
    ahead = np.stack([2.0 * np.arange(1, 17), rng.normal(size=16)], axis=1)
    navigation[:, tables.WAYPOINTS] = ahead.ravel()
    state = rng.normal(size=(5, len(tables.VEHICLE_STATE))).astype(np.float32)
    drive = LaneFollowingDriver()
    actions = drive({"navigation": navigation, "vehicle_state": state})
    assert actions.shape == (5, 3)
    assert actions.dtype == np.float32
    for k in range(5):
        assert np.allclose(actions[k], drive({"navigation": navigation[k], "vehicle_state": state[k]}))


@pytest.mark.parametrize(("y_m", "sign"), [(3.0, 1.0), (-3.0, -1.0)])
def test_steering_goes_to_the_side_of_the_route(y_m: float, sign: float) -> None:
    navigation = np.zeros(len(tables.NAVIGATION), dtype=np.float32)
    navigation[tables.WAYPOINTS] = np.stack([2.0 * np.arange(1, 17), np.full(16, y_m)], axis=1).ravel()
    state = np.zeros(len(tables.VEHICLE_STATE), dtype=np.float32)
    steer, throttle, brake = LaneFollowingDriver()({"navigation": navigation, "vehicle_state": state})
    assert np.sign(steer) == sign
    assert throttle > 0.0
    assert brake == 0.0
