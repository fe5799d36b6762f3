"""Pictures of the embedded simulator: what must be seen in them, and where."""

import math
from functools import lru_cache

import carla
import numpy as np
import pytest
from numpy.typing import NDArray

from zmqcarla.sim.blueprints import Label
from zmqcarla.sim.camera import Camera, Plane, clip_near, rotations
from zmqcarla.sim.moving import Lamp
from zmqcarla.sim.raster import ROAD_BGR_HIGH, ROAD_BGR_LOW, ROAD_MAX_CHROMA
from zmqcarla.sim.render import BOX_DTYPE, Kind, Renderer, Scene, Weather
from zmqcarla.sim.roads import RoadMap
from zmqcarla.sim.scenery import furniture, grow, with_radius
from zmqcarla.sim.town import TOWN_NAME, generate_town

Image = NDArray[np.uint8]
Floats = NDArray[np.float64]
WIDTH, HEIGHT, FOV = 400, 224, 90.0
RED = (30, 30, 210)


@lru_cache(maxsize=1)
def town() -> tuple[RoadMap, Renderer]:
    road_map = RoadMap.load(TOWN_NAME, generate_town())
    return road_map, Renderer(road_map)


def seen_from(spawn: int, forward: float = 1.5, up: float = 1.7, pitch: float = 0.0, roll: float = 0.0) -> Floats:
    """A camera pose in the frame of a car that stands on a spawn point."""
    x, y, z, _, yaw, _ = town()[0].spawn_points[spawn]
    turn = math.radians(yaw)
    return np.array([x + forward * math.cos(turn), y + forward * math.sin(turn), z - 0.5 + up, pitch, yaw, roll])


def car_at(spawn: int, forward: float, aside: float = 0.0, braking: bool = False) -> NDArray[np.void]:
    """A red car `forward` metres ahead of a spawn point."""
    x, y, z, _, yaw, _ = town()[0].spawn_points[spawn]
    turn = math.radians(yaw)
    centre = (
        x + forward * math.cos(turn) - aside * math.sin(turn),
        y + forward * math.sin(turn) + aside * math.cos(turn),
        z - 0.5 + 0.75,
    )
    lamps = int(Lamp.BRAKE) if braking else 0
    car = (centre, (2.4, 1.0, 0.75), (0.0, yaw, 0.0), RED, Kind.CAR, lamps, -1, Label.CAR, 77, 0.0)
    return with_radius(np.array([car], BOX_DTYPE))


def nobody() -> NDArray[np.void]:
    return np.zeros(0, BOX_DTYPE)


def picture(
    pose: Floats, boxes: NDArray[np.void] | None = None, state: int = 0, weather: Weather | None = None
) -> Image:
    road_map, renderer = town()
    out = np.full((HEIGHT, WIDTH, 4), 7, np.uint8)
    states = np.full(len(road_map.signals), state, np.uint8)
    scene = Scene(nobody() if boxes is None else boxes, states, weather or Weather())
    renderer.look(pose, FOV, WIDTH, HEIGHT, scene).paint(out)
    assert (out[..., 3] == 255).all()
    return out


def road_pixels(image: Image) -> NDArray[np.bool_]:
    colours = image[..., :3].astype(int)
    neutral = np.ptp(colours, axis=-1) <= ROAD_MAX_CHROMA
    inside: NDArray[np.bool_] = ((colours >= ROAD_BGR_LOW) & (colours <= ROAD_BGR_HIGH)).all(axis=-1) & neutral
    return inside


def reddish(image: Image) -> NDArray[np.bool_]:
    blue, green, red = (image[..., channel].astype(int) for channel in range(3))
    found: NDArray[np.bool_] = red > 60 + np.maximum(blue, green)
    return found


def straight_spawn() -> int:
    """A spawn point with 40 m of straight road ahead."""
    road_map = town()[0]
    for index, pose in enumerate(road_map.spawn_points):
        waypoint = road_map.carla_map.get_waypoint(carla.Location(*pose[:3].tolist()))
        ahead = waypoint.next(40.0)
        turn = math.remainder(ahead[0].transform.rotation.yaw - pose[4], 360.0)
        if len(ahead) == 1 and not ahead[0].is_junction and abs(turn) < 0.1:
            return index
    raise AssertionError("the town has no straight road of 40 m")


def test_rotations_are_carlas() -> None:
    for pitch, yaw, roll in ((0.0, 0.0, 0.0), (10.0, 20.0, 30.0), (-40.0, 170.0, -5.0)):
        matrix = np.array(carla.Transform(carla.Location(), carla.Rotation(pitch, yaw, roll)).get_matrix())[:3, :3]
        assert np.allclose(rotations(np.array([[pitch, yaw, roll]]))[0], matrix, atol=1e-6)


@pytest.mark.parametrize("pose", [(3.0, -4.0, 1.7, 0.0, 30.0, 0.0), (0.0, 9.0, 5.0, -25.0, -120.0, 8.0)])
def test_the_ground_is_seen_where_a_point_on_it_is_projected(pose: tuple[float, ...]) -> None:
    camera = Camera(np.array(pose), FOV, WIDTH, HEIGHT)
    plane = Plane(0.3, 0.02, -0.03)
    ahead = camera.position[:2] + 12.0 * camera.axes[0, :2] + (0.7, -0.4)
    away = ahead - camera.position[:2]
    z = plane.height + away[0] * plane.slope_x + away[1] * plane.slope_y
    seen = camera.to_camera(np.array([[*ahead, z]]))
    column, row = camera.to_pixels(seen)[0] / 16.0
    x, y, w = camera.ground_homography(plane, (-50.0, -60.0), 0.25) @ (column, row, 1.0)
    assert np.allclose((np.array([x, y]) / w + 0.5) * 0.25 + (-50.0, -60.0), ahead, atol=0.3)
    if pose[5] == 0.0:
        assert camera.depths(plane, np.array([row]))[0] == pytest.approx(seen[0, 0], rel=0.1)


def test_polygons_are_cut_at_the_near_plane() -> None:
    square = np.array([[-1.0, -1.0, 0.0], [1.0, -1.0, 0.0], [1.0, 1.0, 0.0], [-1.0, 1.0, 0.0]])
    kept = clip_near(square.tolist())
    assert len(kept) == 4
    assert min(corner[0] for corner in kept) == pytest.approx(0.15)
    assert len(clip_near((square - (5.0, 0.0, 0.0)).tolist())) == 0


def test_equal_calls_give_equal_bytes_also_from_another_renderer() -> None:
    road_map, renderer = town()
    pose, boxes = seen_from(5), car_at(5, 9.0)
    first = picture(pose, boxes)
    assert picture(pose, boxes).tobytes() == first.tobytes()
    out = np.zeros_like(first)
    scene = Scene(boxes, np.zeros(len(road_map.signals), np.uint8), Weather())
    Renderer(road_map).look(pose, FOV, WIDTH, HEIGHT, scene).paint(out)
    assert out.tobytes() == first.tobytes()
    assert renderer is town()[1]


def test_drivers_see_road() -> None:
    road_map, _ = town()
    shares = [road_pixels(picture(seen_from(spawn))).mean() for spawn in range(0, len(road_map.spawn_points), 4)]
    assert np.median(shares) > 0.15
    assert min(shares) > 0.1


def test_road_lies_below_the_horizon_only_and_has_markings() -> None:
    image = picture(seen_from(straight_spawn()))
    road = road_pixels(image)
    assert road[: HEIGHT // 2 - 2].mean() < 0.01
    assert road[HEIGHT // 2 + 20 :].mean() > 0.3
    bright = (image[HEIGHT // 2 :, :, :3] > 170).all(axis=-1)
    assert bright.mean() > 0.003


def test_a_car_ahead_is_seen_where_it_stands() -> None:
    spawn = straight_spawn()
    pose = seen_from(spawn)
    plain, image = picture(pose), picture(pose, car_at(spawn, 13.9, aside=2.0))
    rows, columns = np.nonzero(reddish(image) & ~reddish(plain))
    assert len(rows) > 150
    # its middle is 12.4 m ahead of the lens, 2 m to the right and 0.95 m below it
    assert abs(columns.mean() - (WIDTH / 2 + WIDTH / 2 * 2.0 / 11.5)) < 8
    assert abs(rows.mean() - (HEIGHT / 2 + WIDTH / 2 * 0.9 / 11.5)) < 8


def test_a_car_behind_is_not_seen_and_the_own_car_is_left_out() -> None:
    spawn = straight_spawn()
    pose = seen_from(spawn)
    plain = picture(pose)
    assert picture(pose, car_at(spawn, -12.0)).tobytes() == plain.tobytes()
    assert picture(pose, car_at(spawn, 0.0)).tobytes() == plain.tobytes()
    chase = seen_from(spawn, forward=-6.0, up=3.0, pitch=-12.0)
    assert reddish(picture(chase, car_at(spawn, 0.0))).mean() > 0.02


def test_a_car_beside_the_lens_is_cut_at_the_image_border() -> None:
    spawn = straight_spawn()
    pose = seen_from(spawn)
    for aside in (-2.2, 2.2):
        image = picture(pose, car_at(spawn, 1.5, aside))
        left, right = reddish(image)[:, : WIDTH // 2].sum(), reddish(image)[:, WIDTH // 2 :].sum()
        near, far = (left, right) if aside < 0 else (right, left)
        assert near > 400
        assert far < 100


def test_brake_lamps_glow() -> None:
    spawn = straight_spawn()
    glow = [(picture(seen_from(spawn), car_at(spawn, 9.0, braking=on))[..., 2] >= 245).sum() for on in (False, True)]
    assert glow[1] > glow[0] + 20


@pytest.mark.parametrize(("state", "bgr"), [(0, (50, 50, 255)), (1, (40, 210, 255)), (2, (120, 255, 70))])
def test_a_light_shows_its_state(state: int, bgr: tuple[int, int, int]) -> None:
    road_map, _ = town()
    light = next(signal for signal in road_map.signals if signal.type_id == "traffic.traffic_light")
    box = light.trigger_boxes[0]
    turn = math.radians(box.yaw_deg)
    pose = np.array([box.centre[0] - 4 * math.cos(turn), box.centre[1] - 4 * math.sin(turn), 1.7, 0, box.yaw_deg, 0])
    lit = np.abs(picture(pose, state=state)[..., :3].astype(int) - bgr).max(axis=-1) < 40
    off = np.abs(picture(pose, state=3)[..., :3].astype(int) - bgr).max(axis=-1) < 40
    assert lit.sum() > off.sum() + 20


def test_weather_changes_the_picture() -> None:
    pose = seen_from(straight_spawn())
    day = picture(pose)[..., :3].astype(float)
    night = picture(pose, weather=Weather(sun_altitude_deg=-30.0))[..., :3].astype(float)
    fog = picture(pose, weather=Weather(fog_density=90.0))[..., :3].astype(float)
    rain = picture(pose, weather=Weather(precipitation=90.0, cloudiness=90.0, wetness=90.0))[..., :3].astype(float)
    assert night.mean() < 0.5 * day.mean()
    band = slice(HEIGHT // 2 - 12, HEIGHT // 2 + 6)
    assert fog[band].std() < 0.6 * day[band].std()
    assert np.abs(rain - day).mean() > 8


def test_clouds_evening_and_dust_look_different() -> None:
    pose = seen_from(straight_spawn(), up=30.0, pitch=45.0)
    clear, cloudy, evening, dusty = (
        picture(pose, weather=weather)[: HEIGHT // 2, :, :3].astype(float)
        for weather in (
            Weather(),
            Weather(cloudiness=45.0),
            Weather(sun_altitude_deg=5.0),
            Weather(dust=100.0),
        )
    )
    # over the roofs a row of clear sky has one colour
    assert np.median(clear.std(axis=1)) < 1.0
    assert np.median(cloudy.std(axis=1)) > 1.5 + np.median(clear.std(axis=1))
    blueness = [np.median(image[..., 0] - image[..., 2]) for image in (clear, evening, dusty)]
    assert blueness[0] > blueness[1] + 15 > blueness[2] + 15


def test_wet_roads_mirror_the_sky() -> None:
    pose = seen_from(straight_spawn())
    far, near = slice(HEIGHT // 2 + 12, HEIGHT // 2 + 20), slice(HEIGHT - 20, HEIGHT)
    dry, wet = (picture(pose, weather=Weather(wetness=wet))[..., :3].astype(float) for wet in (0.0, 100.0))
    assert wet[near].mean() < dry[near].mean() - 5
    assert wet[far].mean() - wet[near].mean() > dry[far].mean() - dry[near].mean() + 10


def test_headlights_light_the_road_by_night_only() -> None:
    spawn = straight_spawn()
    dark, lit = (car_at(spawn, 0.0) for _ in range(2))
    lit["lamps"] = int(Lamp.HEAD)
    road = slice(HEIGHT // 2 + 25, HEIGHT), slice(WIDTH // 2 - 40, WIDTH // 2 + 40)
    for altitude, gain in ((-30.0, 1.8), (50.0, 1.0)):
        weather = Weather(sun_altitude_deg=altitude)
        means = [picture(seen_from(spawn), car, weather=weather)[road][..., :3].mean() for car in (dark, lit)]
        assert means[1] >= gain * means[0]
        assert gain > 1.0 or means[1] == means[0]


@pytest.mark.parametrize("pose", [(0.0, 0.0, 90.0, -90.0, 10.0, 0.0), (0.0, 0.0, 3.0, 80.0, 0.0, 0.0)])
def test_cameras_may_look_straight_down_or_up(pose: tuple[float, ...]) -> None:
    road_map, _ = town()
    pose = (road_map.spawn_points[0, 0], road_map.spawn_points[0, 1], *pose[2:])
    assert (road_pixels(picture(np.array(pose))).mean() > 0.05) == (pose[3] < 0.0)


def test_a_leaning_camera_sees_a_leaning_horizon() -> None:
    image = picture(seen_from(straight_spawn(), roll=20.0))
    sky = image[..., 0].astype(int) > image[..., 2].astype(int) + 8
    assert abs(int(sky[:, 20].sum()) - int(sky[:, -20].sum())) > 60


def test_nothing_stands_on_a_lane() -> None:
    road_map, _ = town()
    houses, trees = grow(road_map)
    assert len(houses) > 50
    assert len(trees) > 20
    lanes = [strip for strip in road_map.strips if strip.lane.lane_id]
    points = np.concatenate([(strip.inner_m + strip.outer_m)[:, :2] / 2 for strip in lanes])
    for house in houses:
        turn = math.radians(house["rotation"][1])
        offset = points - house["centre"][:2]
        along = np.abs(offset @ (math.cos(turn), math.sin(turn)))
        across = np.abs(offset @ (-math.sin(turn), math.cos(turn)))
        assert not ((along < house["half"][0]) & (across < house["half"][1])).any()
    roadway = np.concatenate(
        [(strip.inner_m + strip.outer_m)[:, :2] / 2 for strip in lanes if strip.lane.kind == "driving"]
    )
    poles = [part["centre"][:2] for part in furniture(road_map) if part["kind"] == Kind.POLE and part["half"][2] > 1.0]
    for foot in [*(tree["foot"][:2] for tree in trees), *poles]:
        assert np.linalg.norm(roadway - foot, axis=1).min() > 1.75


def test_a_road_without_markings_is_painted() -> None:
    document = """<?xml version="1.0"?><OpenDRIVE><header revMajor="1" revMinor="4"/>
<road name="" length="120" id="1" junction="-1"><link/>
 <planView><geometry s="0" x="0" y="0" hdg="0" length="120"><line/></geometry></planView>
 <lanes><laneSection s="0">
  <left><lane id="1" type="driving"><width sOffset="0" a="4" b="0" c="0" d="0"/></lane></left>
  <center><lane id="0" type="none"/></center>
  <right><lane id="-1" type="driving"><width sOffset="0" a="4" b="0" c="0" d="0"/></lane></right>
 </laneSection></lanes></road></OpenDRIVE>"""
    renderer = Renderer(RoadMap.load("Bare", document))
    out = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
    pose = np.array([20.0, 2.0, 1.7, 0.0, 0.0, 0.0])
    renderer.look(pose, FOV, WIDTH, HEIGHT, Scene(nobody(), np.zeros(0, np.uint8), Weather())).paint(out)
    assert road_pixels(out).mean() > 0.15
