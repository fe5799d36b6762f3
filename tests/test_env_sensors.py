"""Sensors of the caller's choice: refused, spawned, matched to their tick, decoded, and through the ring of a pool."""

from __future__ import annotations

import copy
from typing import Any

import carla
import gymnasium
import numpy as np
import pytest
from driving import FORWARD
from numpy.typing import NDArray

import zmqcarla
from zmqcarla.pool import LocalPool
from zmqcarla.workers.carla_env import CarlaEnv
from zmqcarla.workers.observation import VEHICLE_STATE
from zmqcarla.workers.presets import leaderboard_sensors

VIEW = {"x": 1.3, "z": 2.3, "width": 160, "height": 96}
RGB = {"type": "sensor.camera.rgb", "id": "rgb", **VIEW}
DEPTH = {"type": "sensor.camera.depth", "id": "depth", **VIEW}
LABELS = {"type": "sensor.camera.semantic_segmentation", "id": "labels", **VIEW}
INSTANCES = {"type": "sensor.camera.instance_segmentation", "id": "instances", **VIEW}
LIDAR = {"type": "sensor.lidar.ray_cast", "id": "lidar", "z": 2.5, "points_per_second": 40_000}
GNSS = {"type": "sensor.other.gnss", "id": "gnss"}
CAR = 14


def leaves(observation: Any, prefix: str = "") -> dict[str, NDArray[Any]]:
    """The arrays of an observation by their paths."""
    if not isinstance(observation, dict):
        return {prefix: observation}
    return {path: leaf for key, part in observation.items() for path, leaf in leaves(part, f"{prefix}/{key}").items()}


def pixels(image: Any) -> NDArray[np.uint8]:
    return np.frombuffer(image.raw_data, np.uint8).reshape(image.height, image.width, 4)


@pytest.mark.parametrize(
    ("sensors", "message"),
    [
        (
            [{**RGB, "type": "sensor.camera.rbg"}],
            r"sensors\[0\]: expected a 'type' among sensor\.camera\.rgb, .*found 'se",
        ),
        ([RGB, RGB], r"sensors\[1\]: expected an id that is not yet a key .*found 'rgb'; give it another"),
        ([{**RGB, "id": "navigation"}], "expected an id that is not yet a key"),
        ([{**RGB, "id": ""}], "expected an 'id' of 1 to 64 letters"),
        (
            [{"type": "sensor.camera.rgb", "id": "a", "height": 96}],
            r"\(a\): expected 'width', found none; add it, 16 to",
        ),
        ([{**RGB, "fov": 200}], r"\(rgb\): expected 'fov' as a number from 1 to 179, found 200"),
        ([{**RGB, "width": 100.5}], "expected 'width' as a whole number from 16 to 8192"),
        ([{**RGB, "x": "front"}], "expected a number as 'x', found 'front'"),
        ([{**RGB, "x": float("nan")}], "expected 'x' as a number from -1000 to 1000, found nan"),
        ([{**LIDAR, "range": -1}], "expected 'range' as a number from 0.1 to 1000, found -1"),
        (
            [{**RGB, "resize": (100, 96)}],
            r"expected 'resize' as \(width, height\) that divides \(160, 96\).*\(80, 48\)",
        ),
        ([{**LIDAR, "resize": (8, 8)}], "expected 'resize' only of a camera"),
        ([{**GNSS, "sensor_tick": 0.12}], r"expected 'sensor_tick' as a multiple of delta_s = 0.05 s.*write 0.1"),
        ([{"type": "sensor.speedometer", "id": "v", "fov": 3}], "expected no other keys"),
        (RGB, "expected a list of dicts"),
    ],
)
def test_a_sensor_that_cannot_be_had_is_refused_at_once(sensors: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CarlaEnv(simulator="embedded", sensors=sensors)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"observation": "everything"}, "observation: expected one of 'standard', 'roach'"),
        ({"vectors": ("speed",)}, "vectors: expected one of 'vehicle_state'"),
        ({"vectors": ("navigation", "navigation")}, "each name once"),
        ({"image_layout": "WHC"}, "image_layout: expected one of 'CHW', 'HWC', 'BGRA'"),
        ({"sensors": [], "vectors": ()}, "at least one sensor, one vector or bev"),
    ],
)
def test_wrong_choices_are_refused_at_once(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CarlaEnv(simulator="embedded", **settings)


def test_the_leaderboard_suite_has_the_documented_spaces() -> None:
    spaces = CarlaEnv(simulator="embedded", observation="leaderboard").observation_space
    assert isinstance(spaces, gymnasium.spaces.Dict)
    cameras = [name for name in spaces.spaces if name.startswith("CAM_")]
    assert len(cameras) == 6
    assert {spaces[name].shape for name in cameras} == {(3, 900, 1600)}
    assert {spaces[name].dtype for name in cameras} == {np.dtype(np.uint8)}
    shapes = {
        "LIDAR/points": ((30_000, 4), np.float32),
        "LIDAR/count": ((1,), np.int32),
        "RADAR/points": ((75, 4), np.float32),
        "IMU": ((7,), np.float64),
        "GPS": ((3,), np.float64),
        "SPEED": ((1,), np.float32),
    }
    for path, (shape, dtype) in shapes.items():
        part: Any = spaces
        for key in path.split("/"):
            part = part[key]
        assert (part.shape, part.dtype) == (shape, dtype), path


def test_every_measurement_is_of_the_tick_and_decoded(make: Any) -> None:
    small = {"id": "small", "resize": (40, 24)}
    chosen = [RGB, {**RGB, **small}, DEPTH, LABELS, INSTANCES, LIDAR, GNSS]
    chosen += [{**DEPTH, "id": "small_depth", "resize": (40, 24)}, {"type": "sensor.other.imu", "id": "imu"}]
    chosen += [{"type": "sensor.speedometer", "id": "speed"}, {"type": "sensor.other.radar", "id": "radar", "x": 2.0}]
    env = make(sensors=chosen, frame_skip=2)
    observation, _ = env.reset(seed=0)
    episode = env.episode
    line = episode.scene.route
    k = int(np.searchsorted(line.s_m, 14.0))
    place = carla.Transform(carla.Location(float(line.xy_m[k, 0]), float(line.xy_m[k, 1]), 0.3))
    parked = env.session.world.spawn_actor(env.session.world.get_blueprint_library().find("vehicle.audi.tt"), place)
    raw: dict[str, Any] = {}
    for _ in range(3):
        observation, *_ = env.step(FORWARD)
        assert env.observation_space.contains(observation)
        frame = env.session.world.get_snapshot().frame
        raw = {name: measured for name, (measured, _) in env.moment.readings.items()}
        assert {measured.frame for measured in raw.values()} == {frame}
    picture = pixels(raw["rgb"])[..., 2::-1].transpose(2, 0, 1)
    assert np.array_equal(observation["rgb"], picture)
    means = picture.reshape(3, 24, 4, 40, 4).mean(axis=(2, 4))
    assert np.abs(observation["small"] - means).max() <= 0.5
    blue, green, red = (pixels(raw["depth"])[..., channel].astype(float) for channel in range(3))
    depth = 1000.0 * (red + 256.0 * green + 65536.0 * blue) / (2**24 - 1)
    assert observation["depth"] == pytest.approx(depth, rel=1e-5, abs=1e-4)
    assert np.array_equal(observation["small_depth"], observation["depth"][2::4, 2::4])
    assert np.array_equal(observation["labels"], observation["instances"]["label"])
    seen = observation["instances"]["id"] == parked.id % 65536
    assert seen.sum() > 20
    assert set(observation["labels"][seen]) == {CAR}
    lidar, count = observation["lidar"]["points"], int(observation["lidar"]["count"][0])
    assert lidar.shape == (2000, 4)
    assert 0 < count == len(raw["lidar"])
    assert not lidar[count:].any()
    assert lidar[:count, :3].any(axis=1).all()
    radar, hits = observation["radar"]["points"], int(observation["radar"]["count"][0])
    detections = [(hit.depth, hit.altitude, hit.azimuth, hit.velocity) for hit in raw["radar"]]
    assert radar[:hits] == pytest.approx(np.array(detections), abs=1e-5)
    assert observation["imu"][2] == pytest.approx(9.81, abs=0.5)
    assert tuple(observation["gnss"][:2]) == (raw["gnss"].latitude, raw["gnss"].longitude)
    forward = observation["vehicle_state"][VEHICLE_STATE.index("velocity_forward_mps")]
    assert observation["speed"][0] == pytest.approx(forward, abs=1e-5)
    parked.destroy()


def test_every_part_is_written_where_the_worker_says(make: Any) -> None:
    env = make(sensors=[RGB, DEPTH, LABELS, INSTANCES, LIDAR, {**GNSS, "sensor_tick": 0.1}], bev={})
    views = copy.deepcopy(env.reset(seed=0)[0])
    places = leaves(views)
    for array in places.values():
        array[...] = 77
    env.bind_out(views)
    bound = leaves(env.step(FORWARD)[0])
    assert len(bound) == 13
    for path, array in bound.items():
        assert array is places[path], path
        assert (array != 77).any(), path
    assert env.observation_space.contains(views)
    assert not any(array is places[path] for path, array in leaves(env.step(FORWARD)[0]).items())


def test_a_slow_sensor_keeps_its_value_and_says_how_old_it_is(make: Any) -> None:
    env = make(sensors=[GNSS, {**GNSS, "id": "slow", "sensor_tick": 0.15}], vectors=())
    observation, _ = env.reset(seed=0)
    assert set(observation) == {"gnss", "slow", "slow_age_s"}
    quick = [observation["gnss"][0]]
    ages: list[float] = []
    for _ in range(12):
        observation, *_ = env.step(FORWARD)
        quick.append(observation["gnss"][0])
        age_ticks = round(float(observation["slow_age_s"][0]) / 0.05)
        ages.append(age_ticks)
        if len(quick) > age_ticks:
            assert observation["slow"][0] == quick[-1 - age_ticks]
    start = ages.index(0)
    assert start < 3
    assert ages[start:] == [k % 3 for k in range(len(ages) - start)]


def test_pictures_may_have_their_channels_last(make: Any) -> None:
    env = make(image_layout="HWC", vectors=("measurements",), render_mode="rgb_array")
    last, _ = env.reset(seed=4)
    assert set(last) == {"rgb", "measurements"}
    assert env.render().shape == (224, 400, 3)
    env.close()
    first, _ = make(vectors=("measurements",)).reset(seed=4)
    assert last["rgb"].shape == (224, 400, 3)
    assert np.array_equal(last["rgb"].transpose(2, 0, 1), first["rgb"])


def test_pictures_may_be_as_carla_sends_them(make: Any) -> None:
    def seen(layout: str) -> Any:
        env = make(image_layout=layout, sensors=[{**RGB, "id": "a"}, {**RGB, "id": "b", "resize": (80, 48)}])
        observation, _ = env.reset(seed=4)
        env.close()
        return observation

    plain, raw = seen("HWC"), seen("BGRA")
    assert raw["a"].shape == (96, 160, 4)
    for name in "ab":
        assert np.array_equal(raw[name][:, :, 2::-1], plain[name])
        assert np.all(raw[name][:, :, 3] == 255)


def test_without_cameras_collisions_are_still_of_their_step(make: Any) -> None:
    def hits(**chosen: Any) -> list[float]:
        env = make(**chosen, terminate_on_collision=False)
        env.reset(seed=0)
        # In reverse round a bend, into whatever stands there.
        action = np.array([0.25, 0.8, 0.0], dtype=np.float32)
        seen = [env.step(action)[0]["measurements"][2] for _ in range(160)]
        env.close()
        return seen

    without, with_camera = hits(observation="state"), hits(sensors=[{**RGB, "width": 16, "height": 16}])
    assert any(without)
    assert without == with_camera


def test_an_attribute_that_the_blueprint_lacks_is_an_error_that_leaves_nothing(make: Any) -> None:
    env = make(sensors=[GNSS, {**RGB, "gama": 2.2}])
    with pytest.raises(ValueError, match=r"rgb: expected an attribute of sensor\.camera\.rgb \(.*gamma.*found 'gama'"):
        env.reset(seed=0)
    actors = env.session.world.get_actors()
    env.session.tick()
    assert not [actor for actor in actors if actor.type_id.startswith(("sensor.", "vehicle.")) and actor.is_alive]
    with pytest.raises(ValueError, match=r"expected a value that sensor\.camera\.rgb takes as 'gamma'"):
        make(sensors=[{**RGB, "gamma": "much"}]).reset(seed=0)


def test_the_leaderboard_suite_comes_through_the_ring(make: Any) -> None:
    chosen = [*leaderboard_sensors(64, 36), INSTANCES, DEPTH, {**GNSS, "sensor_tick": 0.1}]
    settings: dict[str, Any] = {"sensors": chosen, "bev": {"size": [64, 48]}}
    env = make(**settings)
    alone = [env.reset(seed=5)[0]]
    for _ in range(2):
        alone.append(env.step(FORWARD)[0])
        frame = env.session.world.get_snapshot().frame
        ages = {name: frame - measured.frame for name, (measured, _) in env.moment.readings.items()}
        assert {name for name, age in ages.items() if age} <= {"gnss"}
    pool = LocalPool(1, simulator="embedded")
    try:
        for transport in ("shm", "zmq"):
            vec = zmqcarla.make_vec_env(1, env_kwargs=settings, address=pool.address, transport=transport)
            batches = [vec.reset(seed=5)[0], vec.step(FORWARD[None])[0], vec.step(FORWARD[None])[0]]
            for batch, single in zip(batches, alone, strict=True):
                assert_same_row(batch, single)
            vec.close()
    finally:
        pool.close()


def assert_same_row(batch: Any, single: Any) -> None:
    """The first row of a batch is an observation, in every part."""
    rows, parts = leaves(batch), leaves(single)
    assert rows.keys() == parts.keys()
    assert len(rows) > 20
    for path, part in parts.items():
        assert rows[path].dtype == part.dtype
        if path != "/instances/id":  # actors are numbered by the server, and this one has had more of them
            assert np.array_equal(rows[path][0], part), path
