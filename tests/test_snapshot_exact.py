"""On the embedded simulator a restored moment goes on to the bit: here, and in another process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import carla
import gymnasium
import numpy as np
import pytest
from snapshot_runs import assert_exact, assert_same, connected, differences, driven, running_servers, some_actions

from zmqcarla.broker.errors import SnapshotError
from zmqcarla.demo.driver import LaneFollowingDriver
from zmqcarla.workers.carla_env import CarlaEnv
from zmqcarla.workers.navigation import RoadOption
from zmqcarla.workers.servers import Server

FIRST_PORT = 20100
SETTINGS: dict[str, Any] = {"terminate_on_collision": False, "parked_vehicles": 6, "off_route_m": 500.0}
CHANGES = (RoadOption.CHANGELANELEFT, RoadOption.CHANGELANERIGHT)
STRAIGHT_ON = np.array([0.0, 1.0, 0.0], np.float32)

Observed = dict[str, Any]


@pytest.fixture(scope="module")
def towns(town_maps: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Server]]:
    """Two simulators of each town."""
    names = ("Town01a", "Town01b", "Town10HDa", "Town10HDb")
    wanted = {name: town_maps / f"{name[:-1]}.xodr" for name in names}
    with running_servers(FIRST_PORT, tmp_path_factory.mktemp("servers"), wanted) as servers:
        yield servers


@pytest.fixture(scope="module")
def env(towns: dict[str, Server]) -> Iterator[CarlaEnv]:
    one = connected(towns["Town10HDa"], **SETTINGS)
    yield one
    one.close()


@pytest.fixture(scope="module")
def elsewhere(towns: dict[str, Server]) -> Iterator[CarlaEnv]:
    """An env in the same town on another simulator."""
    one = connected(towns["Town10HDb"], **SETTINGS)
    yield one
    one.close()


def drive_until(env: CarlaEnv, seed: int, there: Callable[[CarlaEnv], bool], limit: int = 400) -> Observed:
    """Follow the route of a seed to a place; return the last observation."""
    driver = LaneFollowingDriver()
    observation, _ = env.reset(seed=seed)
    for _ in range(limit):
        if there(env):
            return observation
        observation, *_ = env.step(driver(observation))
    raise AssertionError(f"not there after {limit} steps")


def mid_junction(env: CarlaEnv) -> Observed:
    return drive_until(env, 3, lambda env: env.moment.route.at_junction and env.moment.route.s_m > 15.0)


def changing_lanes(env: CarlaEnv) -> Observed:
    observation = drive_until(env, 6, lambda env: env.moment.route.s_m > 9.0)
    assert env.moment.route.command in CHANGES
    return observation


def at_the_crash(env: CarlaEnv) -> Observed:
    observation, _ = env.reset(seed=14)
    for _ in range(300):
        observation, _, _, _, info = env.step(STRAIGHT_ON)
        if info["collided_with"]:
            return observation
    raise AssertionError("nothing was hit")


def before_the_change(env: CarlaEnv) -> Observed:
    """One tick before the lights of every junction become yellow."""
    observation = with_short_greens(env)
    assert env.session is not None
    light = env.session.surroundings.light_actors[0]
    while light.get_elapsed_time() < 0.93:
        observation, *_ = env.step(np.array([0.0, 0.15, 0.0], np.float32))
    assert 0.93 <= light.get_elapsed_time() < 0.99
    return observation


def with_short_greens(env: CarlaEnv) -> Observed:
    observation, _ = env.reset(seed=1)
    assert env.session is not None
    for light in env.session.surroundings.light_actors:
        light.set_green_time(1.0)
        light.set_yellow_time(0.5)
    return observation


def in_all_red(env: CarlaEnv) -> Observed:
    """When all lights are red, their colours do not say which of them are next."""
    observation = with_short_greens(env)
    assert env.session is not None
    lights = env.session.surroundings.light_actors
    while any(str(light.get_state()) != "Red" for light in lights):
        observation, *_ = env.step(np.array([0.0, 0.0, 1.0], np.float32))
    return observation


def at_step_0(env: CarlaEnv) -> Observed:
    return env.reset(seed=4)[0]


MOMENTS = [mid_junction, changing_lanes, at_the_crash, before_the_change, in_all_red, at_step_0]


@pytest.mark.parametrize("moment", MOMENTS, ids=lambda each: each.__name__)
def test_a_moment_goes_on_to_the_bit_here_and_elsewhere(
    env: CarlaEnv, elsewhere: CarlaEnv, moment: Callable[[CarlaEnv], Observed]
) -> None:
    observation = moment(env)
    saved = env.save_snapshot("here")
    actions = some_actions(60)
    wanted = driven(env, actions)

    seen, info = env.restore_snapshot(saved)
    assert_exact(info["restore"])
    assert differences(observation, seen) == []
    assert_same(driven(env, actions), wanted)

    assert elsewhere.import_snapshot(env.export_snapshot(saved)) == saved
    seen, info = elsewhere.restore_snapshot(saved)
    assert_exact(info["restore"])
    assert differences(observation, seen) == []
    assert_same(driven(elsewhere, actions), wanted)


def test_five_hundred_steps_go_on_to_the_bit_and_so_do_the_following_episodes(towns: dict[str, Server]) -> None:
    env = connected(towns["Town01a"], **SETTINGS)
    env.reset(seed=8)
    driven(env, some_actions(60, seed=3))
    saved = env.save_snapshot()
    actions = some_actions(500, seed=4)
    wanted = driven(env, actions)
    assert len(wanted) == 500
    assert wanted[-1][4]["infractions"]
    following = [env.reset()[1]["spawn_point"] for _ in range(2)]

    # It takes up another episode than the one it was saved in: new ego, new sensors.
    assert_exact(env.restore_snapshot(saved)[1]["restore"])
    assert_same(driven(env, actions), wanted)
    assert [env.reset()[1]["spawn_point"] for _ in range(2)] == following
    env.close()


def test_pictures_views_and_rain_go_on_to_the_bit(towns: dict[str, Server]) -> None:
    bev = {"size": [64, 64], "history": [0, 3], "layers": ["road", "route", "vehicles", "lights"]}
    sensors = [
        {"type": "sensor.camera.rgb", "id": "rgb", "x": 1.3, "z": 2.0, "width": 80, "height": 48, "fov": 90},
        {"type": "sensor.other.imu", "id": "imu"},
        {"type": "sensor.other.gnss", "id": "gnss"},
        {"type": "sensor.speedometer", "id": "speed"},
    ]
    settings = {"render_mode": "rgb_array", "image_size": (64, 48), "sensors": sensors, "bev": bev, **SETTINGS}
    runs = [connected(towns[name], **settings) for name in ("Town01a", "Town01b")]
    env, other = runs
    assert env.reset(seed=12)[1]["weather"] == "SoftRainNoon"
    driven(env, some_actions(20))
    saved, picture, actions = env.save_snapshot(), env.render(), some_actions(12, seed=2)
    wanted = driven(env, actions)
    after = env.render()
    assert after is not None
    other.import_snapshot(env.export_snapshot(saved))
    for each in runs:
        assert_exact(each.restore_snapshot(saved)[1]["restore"])
        assert differences(each.render(), picture) == []
        assert each.save_snapshot("again") == "again"
        assert_same(driven(each, actions), wanted)
        assert differences(each.render(), after) == []
        # A snapshot of a restored moment is as good as the first one.
        each.restore_snapshot("again")
        assert_same(driven(each, actions), wanted)
    for each in runs:
        each.close()


def test_sensors_that_remember_start_anew_and_alike_after_every_restore(towns: dict[str, Server]) -> None:
    sensors = [
        {"type": "sensor.lidar.ray_cast", "id": "lidar", "z": 2.0, "points_per_second": 20000, "channels": 8},
        {"type": "sensor.other.radar", "id": "radar", "x": 2.0, "z": 1.0},
        {"type": "sensor.other.imu", "id": "imu", "noise_gyro_stddev_x": 0.5, "noise_seed": 4},
        {"type": "sensor.camera.depth", "id": "slow", "width": 32, "height": 32, "z": 2.0, "sensor_tick": 0.2},
    ]
    runs = [connected(towns[name], sensors=sensors, **SETTINGS) for name in ("Town01a", "Town01b")]
    runs[0].reset(seed=2)
    driven(runs[0], some_actions(9))
    saved = runs[0].save_snapshot()
    runs[1].import_snapshot(runs[0].export_snapshot(saved))
    ways = []
    for each in (*runs, *runs):
        each.restore_snapshot(saved)
        ways.append(driven(each, some_actions(9, seed=5)))
    for way in ways[1:]:
        assert_same(way, ways[0])
    for each in runs:
        each.close()


def test_the_end_of_an_episode_can_be_restored_and_is_still_the_end(towns: dict[str, Server]) -> None:
    env = connected(towns["Town01a"], max_steps=12, off_route_m=9.0)
    env.reset(seed=1)
    truncated = driven(env, some_actions(30))
    assert (len(truncated), truncated[-1][3]) == (12, True)
    last = env.save_snapshot("last")
    env.reset(seed=1)
    driven(env, some_actions(30)[:11])
    before_last = env.save_snapshot("before_last")
    for name, wanted in ((last, []), (before_last, truncated[-1:])):
        seen, info = env.restore_snapshot(name)
        assert_exact(info["restore"])
        assert info["restore"]["ended"] is not bool(wanted)
        if wanted:
            assert_same(driven(env, some_actions(30)[11:12]), wanted)
        else:
            assert differences(seen, truncated[-1][0]) == []
            with pytest.raises(gymnasium.error.ResetNeeded, match="reset"):
                env.step(STRAIGHT_ON)
    assert [row["ended"] for row in env.list_snapshots()] == [True, False]
    env.close()


def test_a_terminated_episode_is_restored_as_terminated(towns: dict[str, Server]) -> None:
    env = connected(towns["Town01a"], off_route_m=4.0)
    env.reset(seed=1)
    steps = driven(env, [np.array([0.6, 0.9, 0.0], np.float32)] * 200)
    assert steps[-1][2]
    saved = env.save_snapshot()
    env.reset(seed=2)
    seen, info = env.restore_snapshot(saved)
    assert differences(seen, steps[-1][0]) == []
    assert info["terminated_by"] == steps[-1][4]["terminated_by"] != ""
    assert info["infractions"] == steps[-1][4]["infractions"]
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(STRAIGHT_ON)
    env.close()


def test_a_snapshot_outlives_the_world_that_it_was_taken_in(env: CarlaEnv, towns: dict[str, Server]) -> None:
    env.reset(seed=1)
    driven(env, some_actions(30))
    saved = env.save_snapshot()
    wanted = driven(env, some_actions(40, seed=2))
    other: Any = carla.Client("127.0.0.1", towns["Town10HDa"].spec.port)
    other.set_timeout(20.0)
    other.reload_world(False)
    assert_exact(env.restore_snapshot(saved)[1]["restore"])
    assert_same(driven(env, some_actions(40, seed=2)), wanted)


def test_a_snapshot_of_another_map_is_refused_and_nothing_happens(env: CarlaEnv, towns: dict[str, Server]) -> None:
    env.reset(seed=1)
    data = env.export_snapshot(env.save_snapshot("elsewhere"))
    other = connected(towns["Town01a"], **SETTINGS)
    assert other.import_snapshot(data) == "elsewhere"  # which map it has is not known yet
    other.reset(seed=1)
    mine = other.save_snapshot()
    wanted = driven(other, some_actions(3))
    other.restore_snapshot(mine)
    for refused in (lambda: other.restore_snapshot("elsewhere"), lambda: other.import_snapshot(data)):
        with pytest.raises(SnapshotError, match="of the map that is loaded, Town01, found one of Town10HD"):
            refused()
    assert_same(driven(other, some_actions(3)), wanted)
    other.close()
