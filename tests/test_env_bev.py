"""The bird's-eye view against geometry: footprints, lanes, the route, lights, what was a few steps ago."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import carla
import numpy as np
import pytest
from driving import FORWARD
from numpy.typing import NDArray

from zmqcarla.workers.bev import BevPainter
from zmqcarla.workers.bev_config import BevConfig
from zmqcarla.workers.carla_env import CarlaEnv

PPM = 5.0


@pytest.fixture
def settings(settings: dict[str, Any]) -> dict[str, Any]:
    return {**settings, "observation": "state"}


def ground(env: CarlaEnv, config: BevConfig) -> NDArray[np.float64]:
    """World place of the middle of each pixel: (height, width, 2), metres."""
    x, y, _ = env.moment.ego.position_m
    yaw = math.radians(env.moment.ego.rotation_deg[2])
    ahead = (config.ego_at[1] - np.arange(config.size[1]) - 0.5) / config.pixels_per_metre
    right = (np.arange(config.size[0]) + 0.5 - config.ego_at[0]) / config.pixels_per_metre
    ahead, right = np.meshgrid(ahead, right, indexing="ij")
    return np.stack(
        [x + ahead * math.cos(yaw) - right * math.sin(yaw), y + ahead * math.sin(yaw) + right * math.cos(yaw)], axis=-1
    )


def outside_m(places: NDArray[np.float64], pose: Any, box: Any) -> NDArray[np.float64]:
    """How far each place is outside an actor's footprint; negative inside."""
    yaw = math.radians(pose.rotation.yaw)
    dx, dy = places[..., 0] - pose.location.x, places[..., 1] - pose.location.y
    along = np.abs(dx * math.cos(yaw) + dy * math.sin(yaw) - box.location.x) - box.extent.x
    aside = np.abs(dy * math.cos(yaw) - dx * math.sin(yaw) - box.location.y) - box.extent.y
    beyond = np.hypot(np.maximum(along, 0.0), np.maximum(aside, 0.0))
    outside: NDArray[np.float64] = np.where((along <= 0.0) & (aside <= 0.0), np.maximum(along, aside), beyond)
    return outside


def agrees(mask: NDArray[np.uint8], outside: NDArray[np.float64], ppm: float = PPM, slack_m: float = 1e-3) -> None:
    """Every pixel with its middle inside is painted, and none that does not touch the figure."""
    assert (outside < 0.0).any()
    assert mask[outside < -slack_m].all()
    assert not mask[outside > math.sqrt(0.5) / ppm + slack_m].any()
    assert set(np.unique(mask)) == {0, 255}


def beside(env: CarlaEnv, type_id: str, ahead: float, right: float, turn_deg: float) -> Any:
    """An actor that stands still at a place in the ego's frame."""
    assert env.session is not None
    assert env.episode is not None
    ego = env.episode.vehicle.get_transform()
    forward, aside = ego.get_forward_vector(), ego.get_right_vector()
    place = carla.Location(
        *(getattr(ego.location, c) + ahead * getattr(forward, c) + right * getattr(aside, c) for c in "xyz")
    )
    place.z += 1.0
    blueprint = env.session.world.get_blueprint_library().find(type_id)
    actor = env.session.world.spawn_actor(
        blueprint, carla.Transform(place, carla.Rotation(yaw=ego.rotation.yaw + turn_deg))
    )
    actor.set_simulate_physics(False)
    return actor


def test_footprints_are_where_the_actors_are_and_where_they_were(make: Any) -> None:
    env = make(bev={"history": [0, 2]})
    config = env.config.bev_config
    observation, _ = env.reset(seed=0)
    car = beside(env, "vehicle.carlamotors.carlacola", 14.0, -9.0, 33.0)
    walker = beside(env, "walker.pedestrian.0001", 9.0, 11.0, 0.0)
    for _ in range(3):
        observation, *_ = env.step(FORWARD)
    before, pose = car.get_transform(), car.get_transform()
    pose.rotation.yaw += 50.0
    car.set_transform(pose)
    for _ in range(2):
        observation, *_ = env.step(FORWARD)
    assert env.observation_space.contains(observation)
    bev = dict(zip(config.channels, observation["bev"], strict=True))
    places = ground(env, config)
    assert abs(car.get_transform().rotation.yaw - before.rotation.yaw) > 40.0
    agrees(bev["vehicles@0"], outside_m(places, car.get_transform(), car.bounding_box))
    agrees(bev["vehicles@2"], outside_m(places, before, car.bounding_box))
    agrees(bev["walkers@0"], outside_m(places, walker.get_transform(), walker.bounding_box))
    for actor in (car, walker):
        actor.destroy()


def test_lanes_and_route_lie_where_the_map_has_them(make: Any) -> None:
    layers = ["road", "route", "markings_broken", "markings_solid", "markings"]
    config = BevConfig(size=(96, 64), pixels_per_metre=2.0, ego_at=(40.0, 50.0), layers=tuple(layers))
    env = make(bev={"size": [96, 64], "pixels_per_metre": 2.0, "ego_at": [40.0, 50.0], "layers": layers}, vectors=())
    for seed in (0, 2):
        observation, _ = env.reset(seed=seed)
        for _ in range(10):
            observation, *_ = env.step(FORWARD)
        bev = dict(zip(layers, observation["bev"], strict=True))
        places = ground(env, config)
        town = env.session.map
        height_m = env.moment.ego.position_m[2]
        on_lane = np.array(
            [
                town.get_waypoint(carla.Location(float(place[0]), float(place[1]), height_m), project_to_road=False)
                is not None
                for place in places.reshape(-1, 2)
            ]
        ).reshape(places.shape[:2])
        painted = bev["road"] > 0
        clear = same_around(on_lane)
        assert clear.mean() > 0.6
        assert (painted == on_lane)[clear].mean() > 0.995
        line = env.episode.scene.route
        distances = np.linalg.norm(places[:, :, None] - line.xy_m, axis=-1)
        distance, s_m = distances.min(axis=-1), line.s_m[distances.argmin(axis=-1)] - env.moment.route.s_m
        half = float(line.lane_width_m.min()) / 2.0
        inside = (distance < half - 0.5) & (s_m > 1.0)
        assert inside.sum() > 50
        assert bev["route"][inside].all()
        assert not bev["route"][(distance > half + 1.0) | (s_m < -1.0)].any()
        assert (bev["markings"][bev["markings_solid"] > 0] == 255).all()
        only_broken = (bev["markings_broken"] > 0) & (bev["markings_solid"] == 0)
        assert only_broken.any()
        assert (bev["markings"][only_broken] == 120).all()


def same_around(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The pixels whose eight neighbours are like them."""
    same = np.zeros_like(mask)
    inner = mask[1:-1, 1:-1]
    height, width = mask.shape
    around = [mask[r : r + height - 2, c : c + width - 2] == inner for r in range(3) for c in range(3)]
    same[1:-1, 1:-1] = np.logical_and.reduce(around)
    return same


def test_lights_and_stop_lines_show_their_state(make: Any) -> None:
    env = make()
    env.reset(seed=0)
    world = env.session.world
    light = min(world.get_actors().filter("traffic.traffic_light"), key=lambda each: each.id)
    stop = light.get_stop_waypoints()[0].transform
    yaw = math.radians(stop.rotation.yaw)
    x, y = stop.location.x - 10.0 * math.cos(yaw), stop.location.y - 10.0 * math.sin(yaw)
    ego = dataclasses.replace(env.moment.ego, position_m=(x, y, 0.0), rotation_deg=(0.0, 0.0, stop.rotation.yaw))
    layers = ("stop_lines", "lights_red", "lights_green", "lights")
    config = BevConfig(layers=layers)
    painter = BevPainter(world, env.session.road_lines, env.episode.scene.route, env.episode.vehicle.id, config)
    out = np.full(config.shape, 7, np.uint8)
    # Ten metres before the line, in the middle of its lane, which is 3.5 m wide.
    line = (slice(101, 103), slice(96 - 8, 96 + 8))
    for state, value, red, green in (("Red", 255, 255, 0), ("Green", 80, 0, 255), ("Off", 0, 0, 0)):
        light.set_state(getattr(carla.TrafficLightState, state))
        light.freeze(True)
        env.session.tick()
        painter.paint(ego, 0.0, out)
        assert (out[0][line] == 255).any(axis=0).all()
        assert [set(np.unique(mask[line])) for mask in out[1:]] == [{red}, {green}, {value}], state
    light.freeze(False)


def test_the_roach_preset_has_its_fifteen_masks(make: Any) -> None:
    env = make(observation="roach")
    config = env.config.bev_config
    assert env.observation_space["bev"].shape == (15, 192, 192)
    assert config.channels[:4] == ("road", "route", "markings", "vehicles@15")
    assert config.channels[-1] == "lights@0"
    assert set(env.observation_space.spaces) == {"bev", "vehicle_state", "navigation", "measurements"}
    observation, _ = env.reset(seed=0)
    assert observation["bev"][0].any()


@pytest.mark.parametrize(
    ("bev", "message"),
    [
        ({"width": 3}, "bev: expected a dict with keys among size, .*found {'width': 3}"),
        ({"size": (192, 4)}, r"bev: size: expected \(width, height\) of 8 to 4096 pixels, found \(192, 4\)"),
        ({"pixels_per_metre": 0.0}, "bev: pixels_per_metre: expected 0.1 to 100"),
        ({"layers": ("roads",)}, "bev: layers: expected some of road, route"),
        ({"history": (0, -1)}, "bev: history: expected different numbers of steps"),
        ({"ego_at": ("left", "top")}, "bev: expected numbers"),
        ("yes", "bev: expected a dict"),
    ],
)
def test_wrong_settings_are_refused_at_once(bev: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CarlaEnv(simulator="embedded", bev=bev)
