"""The sensors as the unmodified carla client gets them: encodings, rates, and that they see one and the same world."""

from __future__ import annotations

import gc
import math
import queue
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sim_process import DELTA_S, carla, connect, make_synchronous, running_sim

GET_S = 10.0
WIDTH, HEIGHT = 320, 180
LENS = {"image_size_x": WIDTH, "image_size_y": HEIGHT}
ROAD, CAR, PEDESTRIAN, SKY = 1, 14, 12, 11
SEMANTIC_POINT = np.dtype([("place", "<f4", 3), ("cosine", "<f4"), ("actor", "<u4"), ("label", "<u4")])


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with running_sim() as port:
        yield port


@pytest.fixture
def client(port: int) -> Iterator[Any]:
    client, world = connect(port)
    make_synchronous(world)
    world = client.reload_world(False)
    world.tick()
    yield client
    world = client.get_world()
    for actor in world.get_actors():
        if actor.type_id.startswith("sensor.") and actor.is_listening:
            actor.stop()
    client.reload_world(False)
    world.apply_settings(carla.WorldSettings(synchronous_mode=False, fixed_delta_seconds=0.0))
    gc.collect()


@pytest.fixture
def world(client: Any) -> Any:
    return client.get_world()


def spawn(world: Any, type_id: str, place: Any, parent: Any = None, **attributes: object) -> Any:
    blueprint = world.get_blueprint_library().find(type_id)
    for name, value in attributes.items():
        blueprint.set_attribute(name, str(value))
    return world.spawn_actor(blueprint, place, attach_to=parent)


def listen(sensor: Any) -> queue.Queue[Any]:
    inbox: queue.Queue[Any] = queue.Queue()
    sensor.listen(inbox.put)
    return inbox


def at(forward: float = 0.0, right: float = 0.0, up: float = 0.0, yaw: float = 0.0) -> Any:
    return carla.Transform(carla.Location(forward, right, up), carla.Rotation(yaw=yaw))


def road(world: Any) -> Any:
    """A spawn point with 30 m of straight road ahead."""
    town = world.get_map()
    for point in town.get_spawn_points():
        ahead = town.get_waypoint(point.location).next(30.0)
        if len(ahead) == 1 and abs(math.remainder(ahead[0].transform.rotation.yaw - point.rotation.yaw, 360.0)) < 0.1:
            return point
    raise AssertionError("no straight road")


def before(point: Any, forward: float, right: float = 0.0, up: float = 0.0) -> Any:
    """A place in the frame of a spawn point."""
    ahead, aside = point.get_forward_vector(), point.get_right_vector()
    x = point.location.x + forward * ahead.x + right * aside.x
    y = point.location.y + forward * ahead.y + right * aside.y
    return carla.Transform(carla.Location(x, y, point.location.z + up), point.rotation)


def settled(world: Any, type_id: str, place: Any, **attributes: object) -> Any:
    """A vehicle that stands on its wheels."""
    car = spawn(world, type_id, place, **attributes)
    for _ in range(15):
        world.tick()
    return car


def pixels(image: Any) -> NDArray[np.uint8]:
    return np.frombuffer(image.raw_data, np.uint8).reshape(image.height, image.width, 4)


def metres(image: Any) -> NDArray[np.float64]:
    blue, green, red = (pixels(image)[..., channel].astype(float) for channel in range(3))
    depths: NDArray[np.float64] = (red + green * 256.0 + blue * 65536.0) / (2**24 - 1) * 1000.0
    return depths


def points(scan: Any) -> NDArray[np.float32]:
    return np.frombuffer(scan.raw_data, np.float32).reshape(-1, 4)


def numbered(image: Any, actor: Any) -> NDArray[np.bool_]:
    """The pixels of an instance picture that show an actor."""
    found: NDArray[np.bool_] = pixels(image)[..., 1] + 256 * pixels(image)[..., 0].astype(int) == actor.id & 0xFFFF
    return found


def test_four_cameras_agree_pixel_by_pixel(world: Any) -> None:
    start = road(world)
    car = spawn(world, "vehicle.lincoln.mkz_2020", start)
    near = spawn(world, "vehicle.audi.tt", before(start, 14.0, 1.0), color="220,20,20")
    far = settled(world, "vehicle.audi.tt", before(start, 24.0, 1.0), color="20,20,220")
    kinds = ("rgb", "depth", "semantic_segmentation", "instance_segmentation")
    cameras = [spawn(world, f"sensor.camera.{kind}", at(1.5, 0.0, 1.6), car, **LENS) for kind in kinds]
    inboxes = [listen(camera) for camera in cameras]
    frame = world.tick()
    images = [inbox.get(timeout=GET_S) for inbox in inboxes]
    assert [image.frame for image in images] == [frame] * 4
    colour, label, depth = pixels(images[0]), pixels(images[2])[..., 2], metres(images[1])
    first, second = numbered(images[3], near), numbered(images[3], far)
    assert first.sum() > 300
    assert 20 < second.sum() < first.sum() / 3, "the one behind is mostly hidden"
    assert not numbered(images[3], car).any()
    assert set(np.unique(label[first | second])) == {CAR}
    # the rear of a car of 4.18 m, 14 m before the origin of ours, 1.5 m from which the lens is
    assert np.median(depth[first]) == pytest.approx(14.0 - 1.5 - 4.18 / 2, abs=0.4)
    assert depth[second].min() > 19.0
    red = colour[..., 2].astype(int) - colour[..., 0]
    assert red[first].mean() > 30
    assert red[second].mean() < -10
    assert (depth[label == SKY] > 999.0).all()
    # the road lies 1.6 m below the lens
    row = HEIGHT - 20
    below = label[row] == ROAD
    assert below.any()
    assert depth[row][below] == pytest.approx(1.6 * WIDTH / 2 / (row + 0.5 - HEIGHT / 2), rel=0.05)


def test_lidar_sees_what_cameras_see(world: Any) -> None:
    start = road(world)
    car = spawn(world, "vehicle.lincoln.mkz_2020", start)
    other = settled(world, "vehicle.audi.tt", before(start, 12.0))
    beams = {"channels": 32, "points_per_second": 200_000, "rotation_frequency": 20, "range": 50}
    clear = {"dropoff_general_rate": 0.0, "dropoff_intensity_limit": 0.0, "dropoff_zero_intensity": 0.0}
    plain = spawn(world, "sensor.lidar.ray_cast", at(0.0, 0.0, 2.4), car, **beams, **clear)
    semantic = spawn(world, "sensor.lidar.ray_cast_semantic", at(0.0, 0.0, 2.4), car, **beams)
    lossy = spawn(world, "sensor.lidar.ray_cast", at(0.0, 0.0, 2.4), car, **beams)
    inboxes = [listen(sensor) for sensor in (plain, semantic, lossy)]
    world.tick()
    scan, tagged, some = (inbox.get(timeout=GET_S) for inbox in inboxes)
    for each in (scan, tagged, some):
        assert each.channels == 32
        assert len(each) == sum(each.get_point_count(channel) for channel in range(32))
    cloud = np.frombuffer(tagged.raw_data, SEMANTIC_POINT)
    assert np.array_equal(points(scan)[:, :3], cloud["place"])
    assert 0.4 * len(scan) < len(some) < 0.6 * len(scan)
    distance = np.linalg.norm(points(scan)[:, :3], axis=1)
    assert distance.max() <= 50.0
    assert np.allclose(points(scan)[:, 3], np.exp(-0.004 * distance), atol=1e-3)
    road_z = cloud["place"][cloud["label"] == ROAD][:, 2]
    assert np.allclose(road_z, -2.4, atol=0.1)
    hits = cloud[cloud["actor"] == other.id]
    assert len(hits) > 30
    assert set(hits["label"]) == {CAR}
    assert hits["place"][:, 0].min() == pytest.approx(12.0 - 4.18 / 2, abs=0.2)
    assert np.abs(hits["place"][:, 1]).max() < 1.1
    assert (cloud["cosine"] > 0.0).all()
    assert (cloud["cosine"] <= 1.0).all()


def test_a_lidar_turns_by_its_share_of_a_tick(world: Any) -> None:
    pole = before(road(world), 0.0, 0.0, 2.0)
    beams = {"channels": 4, "points_per_second": 40_000, "rotation_frequency": 5, "upper_fov": -20}
    sensor = spawn(world, "sensor.lidar.ray_cast_semantic", pole, None, range=90, **beams)
    inbox = listen(sensor)
    turns: list[NDArray[np.float64]] = []
    for _ in range(4):
        world.tick()
        scan = inbox.get(timeout=GET_S)
        assert sum(scan.get_point_count(channel) for channel in range(4)) <= 40_000 * DELTA_S
        place = np.frombuffer(scan.raw_data, SEMANTIC_POINT)["place"]
        turns.append(np.degrees(np.arctan2(place[:, 1], place[:, 0])))
    for quarter, turn in enumerate(turns):
        assert len(turn) > 1900
        assert turn.min() >= -180.0 + 90.0 * quarter - 0.01
        assert turn.max() <= -90.0 + 90.0 * quarter + 0.01


def test_lidar_noise_repeats_itself_by_seed(client: Any) -> None:
    seen: list[list[NDArray[np.float32]]] = []
    for _ in range(2):
        world = client.reload_world(False)
        noisy = {"noise_stddev": 0.1, "noise_seed": 7, "channels": 8, "rotation_frequency": 20, "range": 60}
        sensor = spawn(world, "sensor.lidar.ray_cast", before(road(world), 0.0, 0.0, 2.0), None, **noisy)
        inbox = listen(sensor)
        scans: list[NDArray[np.float32]] = []
        for _ in range(3):
            world.tick()
            scans.append(points(inbox.get(timeout=GET_S)).copy())
        seen.append(scans)
        sensor.stop()
        world.tick()
    assert all(np.array_equal(*pair) for pair in zip(*seen, strict=True))
    assert not np.array_equal(seen[0][0], seen[0][1])


def test_radar_tells_how_fast_others_come(world: Any) -> None:
    start = road(world)
    car = spawn(world, "vehicle.lincoln.mkz_2020", start)
    other = spawn(world, "vehicle.audi.tt", before(start, 20.0))
    sensor = spawn(world, "sensor.other.radar", at(2.4, 0.0, 0.8), car, points_per_second=6000, vertical_fov=10)
    inbox = listen(sensor)
    ahead = start.get_forward_vector()
    other.enable_constant_velocity(carla.Vector3D(-5.0, 0.0, 0.0))
    for _ in range(3):
        world.tick()
    scan = [inbox.get(timeout=GET_S) for _ in range(3)][-1]
    assert 0 < len(scan) <= 6000 * DELTA_S
    gap = (other.get_location() - car.get_location()).dot(ahead) - 4.18 / 2 - 2.4
    near = [d for d in scan if abs(d.depth - gap) < 1.0]
    assert len(near) > 5
    assert np.median([d.velocity for d in near]) == pytest.approx(-5.0, abs=0.3)
    assert all(abs(d.azimuth) <= math.radians(15.1) and abs(d.altitude) <= math.radians(5.1) for d in scan)
    assert all(0.0 < d.depth <= 100.0 for d in scan)


def test_an_obstacle_is_told_with_its_distance(world: Any) -> None:
    start = road(world)
    car = spawn(world, "vehicle.lincoln.mkz_2020", start)
    other = spawn(world, "vehicle.audi.tt", before(start, 14.0))
    mount = at(2.5, 0.0, 0.8)
    sensor = spawn(world, "sensor.other.obstacle", mount, car, distance=15, hit_radius=0.5, only_dynamics=True)
    short = spawn(world, "sensor.other.obstacle", mount, car, distance=3, only_dynamics=True)
    inbox, silent = listen(sensor), listen(short)
    world.tick()
    event = inbox.get(timeout=GET_S)
    assert event.other_actor.id == other.id
    assert event.actor.id == car.id
    assert event.distance == pytest.approx(14.0 - 2.5 - 4.18 / 2 - 0.5, abs=0.1)
    assert silent.empty()


def test_the_client_finds_crossed_lanes_by_itself(world: Any) -> None:
    start = road(world)
    car = spawn(world, "vehicle.lincoln.mkz_2020", start)
    # it lives only as long as the script holds it
    sensor = spawn(world, "sensor.other.lane_invasion", at(), car)
    inbox = listen(sensor)
    for _ in range(100):
        car.apply_control(carla.VehicleControl(throttle=0.6, steer=0.3))
        world.tick()
    event = inbox.get(timeout=GET_S)
    assert event.frame <= world.get_snapshot().frame
    assert len(event.crossed_lane_markings) > 0
    sensor.stop()


def test_sensors_ride_on_walkers_props_and_the_spectator(world: Any) -> None:
    start = road(world)
    walker = spawn(world, "walker.pedestrian.0001", before(start, 0.0, 0.0, 0.6))
    prop = spawn(world, "static.prop.trafficcone01", before(start, 6.0))
    spectator = world.get_spectator()
    spectator.set_transform(before(start, -8.0, 0.0, 3.0))
    lens = {**LENS, "fov": 60}
    cameras = [
        spawn(world, "sensor.camera.instance_segmentation", mount, parent, **lens)
        for mount, parent in ((at(-4.0, 0.0, 1.0), walker), (at(0.0, 0.0, 2.0, yaw=180.0), prop), (at(), spectator))
    ]
    inboxes = [listen(camera) for camera in cameras]
    frame = world.tick()
    images = [inbox.get(timeout=GET_S) for inbox in inboxes]
    assert all(image.frame == frame for image in images)
    assert all(numbered(image, walker).sum() > 30 for image in images)
    assert images[0].transform.location.distance(walker.get_location()) == pytest.approx(math.hypot(4.0, 1.0), abs=0.05)


def test_several_rates_and_listeners(port: int, world: Any) -> None:
    start = road(world)
    fast = spawn(world, "sensor.camera.depth", start, None, **LENS)
    slow = spawn(world, "sensor.lidar.ray_cast", start, None, sensor_tick=3 * DELTA_S, channels=4)
    quick, rare = listen(fast), listen(slow)
    _, other_world = connect(port)
    same = other_world.get_actor(fast.id)
    again = listen(same)
    frames = [world.tick() for _ in range(9)]
    for inbox in (quick, again):
        assert [inbox.get(timeout=GET_S).frame for _ in frames] == frames
    scans = [rare.get(timeout=GET_S) for _ in range(3)]
    assert [scan.frame for scan in scans] == frames[::3]
    assert rare.empty()
    same.stop()


def test_no_first_frame_is_missed(world: Any) -> None:
    start = road(world)
    for _ in range(40):
        sensor = spawn(world, "sensor.other.imu", start)
        inbox = listen(sensor)
        frame = world.tick()
        assert inbox.get(timeout=GET_S).frame == frame
        sensor.stop()
        sensor.destroy()


@pytest.mark.parametrize(
    ("sensor", "name", "text"),
    [
        ("camera.rgb", "image_size_x", "0"),
        ("camera.depth", "image_size_y", "100000"),
        ("camera.rgb", "fov", "400"),
        ("lidar.ray_cast", "channels", "-1"),
        ("other.radar", "range", "nan"),
    ],
)
def test_senseless_settings_are_refused(world: Any, sensor: str, name: str, text: str) -> None:
    with pytest.raises(RuntimeError, match=rf"sensor\.{sensor}: expected {name} from .* found '{text}'"):
        spawn(world, f"sensor.{sensor}", at(), None, **{name: text})
