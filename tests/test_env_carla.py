"""The environment on the embedded simulator, with the real client: its contract, its determinism, its errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import carla
import gymnasium
import numpy as np
import pytest
from driving import FORWARD, STAND, Arrays, value
from gymnasium.utils.env_checker import check_env
from numpy.typing import NDArray

import zmqcarla  # registers the env
from zmqcarla.broker.errors import (
    InvalidActionError,
    MapNotFoundError,
    SimulatorError,
    SimulatorStartError,
    SimulatorTimeoutError,
)
from zmqcarla.workers import ports
from zmqcarla.workers.carla_env import CarlaEnv
from zmqcarla.workers.observation import MEASUREMENTS, NAVIGATION, VEHICLE_STATE
from zmqcarla.workers.servers import Server, ServerSpec, launch

ENV_ID = "zmqcarla/Carla-v0"


# ------------------------------------------------------------------------------------------------------ the contract


def test_the_unwrapped_env_passes_gymnasiums_checker(settings: dict[str, Any]) -> None:
    env = gymnasium.make(ENV_ID, **settings)
    check_env(env.unwrapped)
    env.close()


def test_an_env_that_renders_passes_gymnasiums_checker(settings: dict[str, Any]) -> None:
    env = gymnasium.make(ENV_ID, **settings, render_mode="rgb_array")
    check_env(env.unwrapped)
    env.close()


@pytest.mark.filterwarnings("ignore:.*is different from the unwrapped version")  # said of any wrapper
def test_the_wrapped_env_passes_gymnasiums_checker(settings: dict[str, Any]) -> None:
    env = gymnasium.make(ENV_ID, **settings, max_episode_steps=100)
    check_env(env)
    env.close()


def test_the_default_spaces_are_the_documented_ones(make: Any) -> None:
    env = make()
    assert env.observation_space["rgb"] == gymnasium.spaces.Box(0, 255, (3, 224, 400), np.uint8)
    for key, names in (("vehicle_state", VEHICLE_STATE), ("navigation", NAVIGATION), ("measurements", MEASUREMENTS)):
        space = env.observation_space[key]
        assert (space.shape, space.dtype) == ((len(names),), np.float32)
    assert env.action_space == gymnasium.spaces.Box(np.array([-1, -1, 0], np.float32), np.array([1, 1, 1], np.float32))


def test_a_step_says_what_the_world_says(make: Any) -> None:
    env = make(frame_skip=2)
    observation, info = env.reset(seed=3)
    assert info["frame"] == 0
    assert info["simulator"] == "embedded"
    assert value(observation, "speed_mps") < 0.05
    for _ in range(19):
        env.step(FORWARD)
    observation, reward, _, _, info = env.step(FORWARD)
    assert info["frame"] == 40
    assert reward == pytest.approx(sum(info["reward_terms"].values()))
    vehicle = env.episode.vehicle
    transform, velocity = vehicle.get_transform(), vehicle.get_velocity()
    assert value(observation, "x_m") == pytest.approx(transform.location.x, abs=1e-3)
    assert value(observation, "yaw_deg") == pytest.approx(transform.rotation.yaw, abs=1e-3)
    assert value(observation, "speed_mps") == pytest.approx(velocity.length(), abs=1e-4)
    assert value(observation, "velocity_forward_mps") == pytest.approx(velocity.length(), abs=0.2)
    assert value(observation, "speed_mps") > 3.0
    assert info["lane_offset_m"] == pytest.approx(value(observation, "lane_offset_m"), abs=1e-5)
    assert value(observation, "route_completion_percent") > 0.5


def test_a_table_of_actions_drives_for_the_completed_part_of_the_route(make: Any) -> None:
    env = make(action_type="discrete", reward_type="carl", observation="state")
    _, info = env.reset(seed=0)
    forward, completed = 8, 0.0  # row 8 of the default table: throttle, straight on
    for _ in range(40):
        _, reward, _, _, info = env.step(forward)
        assert reward == pytest.approx(sum(info["reward_terms"].values()))
        completed += info["reward_terms"]["completion"]
    assert (env.episode.vehicle.get_control().throttle, info["speed_mps"] > 3.0) == (pytest.approx(0.6), True)
    assert 1.0 < completed == pytest.approx(info["route_completion"])


def test_render_shows_the_car_from_behind(make: Any) -> None:
    env = make(render_mode="rgb_array")
    env.reset(seed=0)
    for _ in range(40):
        env.step(FORWARD)
        picture = env.render()
        assert (picture.shape, picture.dtype) == ((224, 400, 3), np.uint8)
        # The rear lights of the car stay where they are in the picture while the town passes by.
        rear = picture[140:215, 140:260].astype(int)
        red = (rear[..., 0] > 90) & (rear[..., 0] > 2 * rear[..., 1:].max(axis=-1))
        assert red.mean() > 0.02
        assert abs(np.flatnonzero(red.any(axis=0)).mean() - 59.5) < 10.0


def test_render_is_of_the_frame_of_the_observation(make: Any) -> None:
    env = make(render_mode="rgb_array", frame_skip=3)
    env.reset(seed=0)
    frames: list[NDArray[np.uint8]] = []
    for _ in range(10):
        env.step(FORWARD)
        frames.append(env.render())
        assert np.array_equal(frames[-1], env.render())
    again = make(render_mode="rgb_array", frame_skip=1)
    env.close()
    again.reset(seed=0)
    for k in range(30):
        again.step(FORWARD)
        if k % 3 == 2:
            assert np.array_equal(again.render(), frames[k // 3]), f"tick {k + 1}"


def test_there_is_no_second_camera_without_a_render_mode(make: Any) -> None:
    for render_mode, cameras in ((None, 1), ("rgb_array", 2)):
        env = make(render_mode=render_mode)
        env.reset(seed=0)
        actors = env.session.world.get_actors()
        assert sum(actor.type_id == "sensor.camera.rgb" for actor in actors) == cameras
        assert (env.render() is None) == (render_mode is None)
        env.close()


def test_reset_options_choose_spawn_point_goal_and_length(make: Any) -> None:
    env = make()
    _, first = env.reset(seed=1, options={"spawn_point": 5, "route_length_m": 150.0})
    assert first["spawn_point"] == 5
    assert first["route_length_m"] >= 150.0
    goal = (first["goal_x_m"], first["goal_y_m"], 0.0)
    _, second = env.reset(options={"spawn_point": 5, "goal": goal})
    assert (second["goal_x_m"], second["goal_y_m"]) == pytest.approx(goal[:2], abs=3.0)
    for wrong in ({"spawn_point": 10_000}, {"goal": "home"}, {"spawnpoint": 1}):
        with pytest.raises(ValueError, match="expected"):
            env.reset(options=wrong)


@pytest.mark.parametrize("wrong", [[0.0, 0.5], [[0.0, 0.5, 0.0]], [0.0, float("nan"), 0.0], [0.0, float("inf"), 0.0]])
def test_an_action_of_wrong_shape_or_not_finite_is_an_error(make: Any, wrong: list[Any]) -> None:
    env = make()
    env.reset(seed=0)
    with pytest.raises(InvalidActionError, match="expected an action of 3 finite numbers"):
        env.step(np.array(wrong, dtype=np.float32))


def test_an_action_out_of_range_is_clipped(make: Any) -> None:
    env = make()
    env.reset(seed=0)
    env.step(np.array([7.0, 9.0, -3.0], dtype=np.float32))
    control = env.episode.vehicle.get_control()
    assert (control.steer, control.throttle, control.brake) == (1.0, 1.0, 0.0)


def test_negative_throttle_drives_in_reverse(make: Any) -> None:
    env = make()
    env.reset(seed=0)
    reverse = np.array([0.0, -0.6, 0.0], dtype=np.float32)
    for _ in range(39):
        env.step(reverse)
    observation, *_ = env.step(reverse)
    assert value(observation, "velocity_forward_mps") < -1.0


def test_step_before_reset_is_an_error(make: Any) -> None:
    with pytest.raises(gymnasium.error.ResetNeeded):
        make().step(STAND)


# -------------------------------------------------------------------------------------------- determinism and tidiness


def rollout(env: CarlaEnv, seed: int, steps: int = 200) -> list[Arrays]:
    rng = np.random.default_rng(seed)
    observation, _ = env.reset(seed=seed)
    seen: list[Arrays] = [observation]
    for _ in range(steps):
        action = np.array([rng.uniform(-0.1, 0.1), rng.uniform(0.2, 0.9), 0.0], dtype=np.float32)
        seen.append(env.step(action)[0])
    return seen


def assert_identical(a: list[Arrays], b: list[Arrays]) -> None:
    for k, (x, y) in enumerate(zip(a, b, strict=True)):
        for key in x:
            assert x[key].tobytes() == y[key].tobytes(), f"step {k}, {key}"


def test_two_runs_of_one_seed_are_identical_bit_for_bit(make: Any) -> None:
    env = make(terminate_on_collision=False)
    first = rollout(env, seed=11)
    env.reset(seed=12)
    for _ in range(33):
        env.step(FORWARD)
    assert_identical(first, rollout(env, seed=11))


def test_another_server_gives_the_same_run(make: Any, tmp_path: Path) -> None:
    here = rollout(make(terminate_on_collision=False), seed=21)
    claim = ports.claim_free(23240)
    other = launch(ServerSpec("embedded", claim.block.rpc), tmp_path / "log")
    other.wait_ready(30.0)
    env = CarlaEnv(connect=f"127.0.0.1:{claim.block.rpc}", simulator="embedded", terminate_on_collision=False)
    there = rollout(env, seed=21)
    env.close()
    other.close()
    claim.release()
    assert_identical(here, there)


def test_different_seeds_choose_different_scenes(make: Any) -> None:
    env = make()
    chosen = {(info["spawn_point"], info["weather"]) for _, info in (env.reset(seed=seed) for seed in range(6))}
    assert len(chosen) > 3


def test_resets_leave_one_vehicle_and_close_leaves_nothing(make: Any, server: Server) -> None:
    env = make()
    for seed in (None, 1, None, None):
        env.reset(seed=seed)
        env.step(FORWARD)
    actors = list(env.session.world.get_actors())
    assert sum(actor.type_id.startswith("vehicle.") for actor in actors) == 1
    assert sum(actor.type_id.startswith("sensor.") for actor in actors) == 2
    env.close()
    env.close()
    world = carla.Client("127.0.0.1", server.spec.port, worker_threads=1).get_world()
    world.wait_for_tick(5.0)
    assert not world.get_settings().synchronous_mode
    assert not [actor for actor in world.get_actors() if actor.type_id.startswith(("vehicle.", "sensor."))]


def test_an_env_recovers_when_somebody_else_destroys_its_actors(make: Any) -> None:
    env = make()
    env.reset(seed=0)
    for actor in env.session.world.get_actors():
        if actor.type_id.startswith(("sensor.", "vehicle.")):
            actor.destroy()
    with pytest.raises(SimulatorError, match="destroyed"):
        env.step(FORWARD)
    observation, _ = env.reset(seed=0)
    assert observation in env.observation_space


# ------------------------------------------------------------------------------------------------------------- errors


def test_nobody_at_the_address_is_an_error_that_says_so() -> None:
    env = CarlaEnv(connect="127.0.0.1:23999")
    with pytest.raises(SimulatorStartError, match=r"expected a CARLA server at 127\.0\.0\.1:23999"):
        env.reset()
    env.close()


def test_a_town_that_the_server_does_not_have_is_an_error_that_lists_its_maps(make: Any) -> None:
    with pytest.raises(MapNotFoundError, match="expected one of the maps"):
        make(map="Town99").reset()


def test_a_file_that_is_no_opendrive_is_an_error(make: Any, tmp_path: Path) -> None:
    (tmp_path / "a.xodr").write_text("hello")
    with pytest.raises(MapNotFoundError, match="expected an OpenDRIVE file at"):
        make(map=str(tmp_path / "a.xodr")).reset()


@pytest.mark.parametrize(
    "wrong",
    [
        {"connect": "localhost"},
        {"reward_type": "money"},
        {"simulator": "unity"},
        {"delta_s": 0.5},
        {"max_steps": 0},
        {"image_size": (0, 10)},
        {"render_mode": "human"},
    ],
)
def test_wrong_settings_are_refused_at_once(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        CarlaEnv(**{"simulator": "embedded", **wrong})


def test_an_unknown_setting_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(TypeError, match=r"expected settings among connect, .*max_steps, .*; found speed"):
        gymnasium.make(ENV_ID, simulator="embedded", speed=3)


def test_real_carla_without_a_root_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CARLA_ROOT", raising=False)
    with pytest.raises(SimulatorStartError, match="set CARLA_ROOT"):
        CarlaEnv(simulator="carla")


def test_a_server_that_stops_answering_is_a_timeout_and_the_next_reset_reconnects(tmp_path: Path) -> None:
    claim = ports.claim_free(23260)
    port = claim.block.rpc
    first = launch(ServerSpec("embedded", port), tmp_path / "first")
    first.wait_ready(30.0)
    env = CarlaEnv(connect=f"127.0.0.1:{port}", simulator="embedded", timeout=3.0)
    env.reset(seed=0)
    first.close()
    with pytest.raises(SimulatorTimeoutError, match=f"127.0.0.1:{port} within 3 s") as caught:
        env.step(FORWARD)
    assert caught.value.timeout_s == 3.0
    second = launch(ServerSpec("embedded", port), tmp_path / "second")
    second.wait_ready(30.0)
    observation, _ = env.reset(seed=0)
    assert observation in env.observation_space
    env.close()
    second.close()
    claim.release()


assert zmqcarla.__version__
