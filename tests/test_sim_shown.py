"""Cameras of motion and surfaces, and what scripts make cameras see: drawings, open doors, hidden houses and trees."""

from __future__ import annotations

import gc
import math
import queue
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sim_process import carla, connect, make_synchronous, running_sim

GET_S = 10.0
WIDTH, HEIGHT = 240, 136
BUILDING, VEGETATION, ROAD, CAR = 3, 9, 1, 14
pytestmark = pytest.mark.timeout(180)
EVENT = np.dtype([("x", "<u2"), ("y", "<u2"), ("time_ns", "<i8"), ("brighter", "?")])

Floats = NDArray[np.float64]


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with running_sim() as port:
        yield port


@pytest.fixture
def world(port: int) -> Iterator[Any]:
    client, world = connect(port)
    make_synchronous(world)
    world = client.reload_world(False)
    world.tick()
    yield world
    for actor in world.get_actors().filter("sensor.*"):
        if actor.is_listening:
            actor.stop()
    client.reload_world(False)
    world.apply_settings(carla.WorldSettings(synchronous_mode=False, fixed_delta_seconds=0.0))
    gc.collect()


def start(world: Any) -> Any:
    """A spawn point with 40 m of straight road ahead."""
    town = world.get_map()
    for point in town.get_spawn_points():
        ahead = town.get_waypoint(point.location).next(40.0)
        if len(ahead) == 1 and abs(math.remainder(ahead[0].transform.rotation.yaw - point.rotation.yaw, 360.0)) < 0.1:
            return point
    raise AssertionError("no straight road")


def ahead_of(point: Any, forward_m: float) -> Any:
    way = point.get_forward_vector()
    return carla.Transform(point.location + carla.Location(way.x * forward_m, way.y * forward_m), point.rotation)


class Lens:
    """A camera and its pictures."""

    def __init__(self, world: Any, kind: str, place: Any, parent: Any = None, **attributes: object) -> None:
        blueprint = world.get_blueprint_library().find(f"sensor.camera.{kind}")
        for name, value in {"image_size_x": WIDTH, "image_size_y": HEIGHT, **attributes}.items():
            blueprint.set_attribute(name, str(value))
        self.actor = world.spawn_actor(blueprint, place, attach_to=parent)
        self._inbox: queue.Queue[Any] = queue.Queue()
        self.actor.listen(self._inbox.put)

    def picture(self, frame: int) -> Any:
        while True:
            image = self._inbox.get(timeout=GET_S)
            if image.frame == frame:
                return image

    def none_came(self) -> bool:
        return self._inbox.empty()


def pixels(image: Any) -> NDArray[np.uint8]:
    return np.frombuffer(image.raw_data, np.uint8).reshape(image.height, image.width, 4)


def metres(image: Any) -> Floats:
    blue, green, red = (pixels(image)[..., channel].astype(float) for channel in range(3))
    depths: Floats = (red + green * 256.0 + blue * 65536.0) / (2**24 - 1) * 1000.0
    return depths


def matrix(transform: Any) -> Floats:
    return np.array(transform.get_matrix())


def seen_points(depth: Any) -> Floats:
    """World places of all pixels: float64 (height, width, 4), homogeneous."""
    forward = metres(depth)
    focal = WIDTH / 2.0  # 90 degrees
    right = (np.arange(WIDTH) - WIDTH / 2.0 + 0.5) / focal * forward
    up = (HEIGHT / 2.0 - 0.5 - np.arange(HEIGHT))[:, None] / focal * forward
    local = np.stack([forward, right, up, np.ones_like(forward)], axis=-1)
    points: Floats = local @ matrix(depth.transform).T
    return points


def screen(points: Floats, lens: Any) -> Floats:
    """Where world places are in the picture of a lens: right and up, -1..1: float64 (height, width, 2)."""
    local = points @ np.linalg.inv(matrix(lens)).T
    places: Floats = np.stack([local[..., 1], local[..., 2] * WIDTH / HEIGHT], axis=-1) / local[..., :1]
    return places


def numbered(image: Any, actor: Any) -> NDArray[np.bool_]:
    """The pixels of an instance picture that show an actor."""
    found: NDArray[np.bool_] = pixels(image)[..., 1] + 256 * pixels(image)[..., 0].astype(int) == actor.id & 0xFFFF
    return found


def test_flow_is_the_motion_of_what_is_seen(world: Any) -> None:
    point, library = start(world), world.get_blueprint_library()
    car = world.spawn_actor(library.find("vehicle.lincoln.mkz_2020"), point)
    other = world.spawn_actor(library.find("vehicle.audi.tt"), ahead_of(point, 14.0))
    place = carla.Transform(carla.Location(x=1.5, z=1.6))
    lenses = [Lens(world, kind, place, car) for kind in ("optical_flow", "depth", "instance_segmentation")]
    car.apply_control(carla.VehicleControl(throttle=0.8, steer=0.2))
    other.apply_control(carla.VehicleControl(throttle=0.9))
    frame = world.tick()
    still = lenses[0].picture(frame)
    assert not np.frombuffer(still.raw_data, np.float32).any(), "nothing moves in the first picture"
    for _ in range(30):
        frame = world.tick()
    lens_before, body_before = lenses[1].picture(frame).transform, other.get_transform()
    frame = world.tick()
    flow, depth, owner = (lens.picture(frame) for lens in lenses)
    told = np.frombuffer(flow.raw_data, np.float32).reshape(HEIGHT, WIDTH, 2)
    points, theirs = seen_points(depth), numbered(owner, other)
    assert theirs.sum() > 50
    then = points.copy()
    then[theirs] = points[theirs] @ (matrix(body_before) @ np.linalg.inv(matrix(other.get_transform()))).T
    expected = screen(points, depth.transform) - screen(then, lens_before)
    near = metres(depth) < 200.0
    wrong = (np.abs(told - expected).max(axis=-1) > 1e-3) & near
    assert wrong.sum() <= 40, "but for a few pixels at the rims of faces"
    assert np.abs(told[near]).max() > 0.02, "the road moves"
    assert np.abs(told[theirs]).mean() < np.abs(told[near & ~theirs]).mean()


def test_normals_look_up_from_the_road_and_back_from_a_car(world: Any) -> None:
    point, library = start(world), world.get_blueprint_library()
    world.spawn_actor(library.find("vehicle.carlamotors.firetruck"), ahead_of(point, 16.0))
    place = carla.Transform(point.location + carla.Location(z=1.5), point.rotation)
    normals, labels = Lens(world, "normals", place), Lens(world, "semantic_segmentation", place)
    frame = world.tick()
    colours = pixels(normals.picture(frame))[..., 2::-1] / 127.5 - 1.0
    tags = pixels(labels.picture(frame))[..., 2]
    assert (tags == ROAD).any()
    assert colours[tags == ROAD] == pytest.approx(np.tile((0.0, 0.0, 1.0), (int((tags == ROAD).sum()), 1)), abs=0.01)
    back = point.get_forward_vector()
    middle = colours[HEIGHT // 2, WIDTH // 2]
    assert middle == pytest.approx((-back.x, -back.y, 0.0), abs=0.02)


def test_events_tell_how_brightness_changed(world: Any) -> None:
    point, library = start(world), world.get_blueprint_library()
    car = world.spawn_actor(library.find("vehicle.lincoln.mkz_2020"), point)
    for _ in range(10):
        world.tick()
    place = carla.Transform(carla.Location(x=1.5, z=1.6))
    events = Lens(world, "dvs", place, car, positive_threshold=0.2, negative_threshold=0.25)
    colour = Lens(world, "rgb", place, car)

    def brightness(frame: int) -> Floats:
        bgr = pixels(colour.picture(frame))[..., :3]
        light: Floats = np.log(0.001 + bgr @ np.array([0.1140, 0.5870, 0.2989]) / 255.0)
        return light

    before = brightness(world.tick())
    for _ in range(3):
        assert (brightness(world.tick()) == before).all()
    assert events.none_came(), "nothing happens where nothing moves"
    car.enable_constant_velocity(carla.Vector3D(x=12.0))
    since_ns = world.get_snapshot().timestamp.elapsed_seconds * 1e9
    frame = world.tick()
    after, told = brightness(frame), np.frombuffer(events.picture(frame).raw_data, EVENT)
    up, down = np.zeros((HEIGHT, WIDTH), int), np.zeros((HEIGHT, WIDTH), int)
    for count, sign in ((up, True), (down, False)):
        chosen = told[told["brighter"] == sign]
        np.add.at(count, (chosen["y"], chosen["x"]), 1)
    change = after - before
    assert (np.abs(up - np.floor(np.maximum(change, 0.0) / 0.2)) <= 1).all()
    assert (np.abs(down - np.floor(np.maximum(-change, 0.0) / 0.25)) <= 1).all()
    assert up.sum() > 20
    assert down.sum() > 20
    assert (np.diff(told["time_ns"]) >= 0).all()
    assert since_ns - 1e3 <= told["time_ns"][0] <= told["time_ns"][-1] <= since_ns + 50e6 + 1e3


def test_a_blind_pixel_tells_one_change_less(world: Any) -> None:
    point, library = start(world), world.get_blueprint_library()
    car = world.spawn_actor(library.find("vehicle.lincoln.mkz_2020"), point)
    place = carla.Transform(carla.Location(x=1.5, z=1.6))
    lenses = [Lens(world, "dvs", place, car, refractory_period_ns=period) for period in (0, 10**9)]
    world.tick()
    car.enable_constant_velocity(carla.Vector3D(x=12.0))
    frame = world.tick()
    all_of_them, fewer = (np.frombuffer(lens.picture(frame).raw_data, EVENT) for lens in lenses)
    places = np.unique(fewer[["x", "y"]])
    assert len(places) == len(fewer) < len(all_of_them)
    assert (np.unique(all_of_them[["x", "y"]]) == places).all()


def reds(image: Any) -> int:
    bgr = pixels(image)[..., :3].astype(int)
    return int(((bgr[..., 2] > 230) & (bgr[..., :2].max(axis=-1) < 40)).sum())


def test_drawings_show_for_as_long_as_asked(world: Any) -> None:
    point = start(world)
    place = carla.Transform(point.location + carla.Location(z=1.5), point.rotation)
    colour, labels, depth = (Lens(world, kind, place) for kind in ("rgb", "semantic_segmentation", "depth"))
    red = carla.Color(255, 0, 0)
    left, right = (ahead_of(point, 10.0).location + carla.Location(z=z) for z in (0.2, 1.8))
    box = carla.BoundingBox(ahead_of(point, 15.0).location, carla.Vector3D(2.0, 1.0, 1.0))

    def look() -> tuple[int, bytes, bytes]:
        frame = world.tick()
        images = [lens.picture(frame) for lens in (colour, labels, depth)]
        return reds(images[0]), bytes(images[1].raw_data), bytes(images[2].raw_data)

    bare = look()
    assert bare[0] == 0
    draw = world.debug
    shapes: tuple[Callable[[float], None], ...] = (
        lambda life: draw.draw_line(left, right, 0.2, red, life),
        lambda life: draw.draw_arrow(left, right, 0.1, 0.3, red, life),
        lambda life: draw.draw_point(left, 0.1, red, life),
        lambda life: draw.draw_box(box, point.rotation, 0.1, red, life),
    )
    for shape in shapes:
        shape(-1.0)
        shown, tags, distances = look()
        assert shown > 20
        assert (tags, distances) == bare[1:], "light without substance"
        assert look()[0] == 0, "one frame"
    shapes[0](0.12)
    assert [look()[0] > 0 for _ in range(4)] == [True, True, False, False]
    shapes[2](0.0)
    assert [look()[0] > 0 for _ in range(4)] == [True] * 4
    draw.draw_string(left, "nowhere to be seen", False, red, 1.0)
    draw.draw_line(left, carla.Location(x=math.nan), 0.2, red, 0.0)
    draw.draw_line(left, carla.Location(x=math.inf), 0.2, red, 0.0)
    draw.draw_line(left, carla.Location(x=1e30), 0.2, red, 0.0)
    assert look()[0] > 0


def test_a_point_is_as_large_at_any_distance(world: Any) -> None:
    point = start(world)
    place = carla.Transform(point.location + carla.Location(z=1.5), point.rotation)
    colour = Lens(world, "rgb", place)
    for distance in (5.0, 30.0):
        spot = ahead_of(place, distance).location
        world.debug.draw_point(spot, 0.1, carla.Color(255, 0, 0), -1.0)
        assert reds(colour.picture(world.tick())) == pytest.approx(121, abs=40)


def count(image: Any, label: int) -> int:
    return int((pixels(image)[..., 2] == label).sum())


def test_hidden_houses_are_neither_seen_nor_met(world: Any) -> None:
    house = world.get_environment_objects(carla.CityObjectLabel.Buildings)[0]
    middle = house.bounding_box.location
    above = carla.Location(middle.x, middle.y, middle.z + 60.0)
    labels = Lens(world, "semantic_segmentation", carla.Transform(above, carla.Rotation(pitch=-90.0)))
    blueprint = world.get_blueprint_library().find("vehicle.audi.tt")
    inside = carla.Transform(carla.Location(middle.x, middle.y, 1.0))

    def roof() -> list[Any]:
        met = world.cast_ray(above, carla.Location(middle.x, middle.y, -5.0))
        return [item.label for item in met if item.label == carla.CityObjectLabel.Buildings]

    shown = count(labels.picture(world.tick()), BUILDING)
    assert roof()
    assert world.try_spawn_actor(blueprint, inside) is None
    world.enable_environment_objects({house.id, 12345}, False)
    fewer = count(labels.picture(world.tick()), BUILDING)
    assert fewer < shown - 200
    assert not roof()
    car = world.try_spawn_actor(blueprint, inside)
    assert car is not None
    world.tick()
    assert car.destroy()
    world.enable_environment_objects({house.id}, True)
    assert count(labels.picture(world.tick()), BUILDING) == shown
    assert roof()
    assert world.try_spawn_actor(blueprint, inside) is None


def test_map_layers_take_houses_and_trees_away(world: Any) -> None:
    point = world.get_map().get_spawn_points()[0]
    above = carla.Transform(point.location + carla.Location(z=45.0), carla.Rotation(pitch=-60.0))
    labels = Lens(world, "semantic_segmentation", above, fov=120)

    def seen() -> tuple[bool, bool]:
        image = labels.picture(world.tick())
        return count(image, BUILDING) > 0, count(image, VEGETATION) > 0

    assert seen() == (True, True)
    world.unload_map_layer(carla.MapLayer.Buildings)
    assert seen() == (False, True)
    world.unload_map_layer(carla.MapLayer.Foliage)
    assert seen() == (False, False)
    world.load_map_layer(carla.MapLayer.All)
    assert seen() == (True, True)


def test_open_doors_are_seen(world: Any) -> None:
    point, library = start(world), world.get_blueprint_library()
    car = world.spawn_actor(library.find("vehicle.mini.cooper_s_2021"), point)
    place = carla.Transform(ahead_of(point, -9.0).location + carla.Location(z=1.5), point.rotation)
    lens = Lens(world, "instance_segmentation", place)
    for _ in range(15):
        world.tick()

    def width() -> int:
        columns = numbered(lens.picture(world.tick()), car).any(axis=0)
        return int(columns.sum())

    closed = width()
    car.open_door(carla.VehicleDoor.FL)
    one = width()
    car.open_door(carla.VehicleDoor.All)
    both = width()
    car.close_door(carla.VehicleDoor.All)
    assert closed < one < both
    assert width() == closed
