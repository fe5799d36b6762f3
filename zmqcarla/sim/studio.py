"""From the world to the picture: keeps the painter of the current map and says what it is to paint."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from zmqcarla.sim import weather as sky
from zmqcarla.sim.actors import Actor
from zmqcarla.sim.doors import door_boxes
from zmqcarla.sim.geometry import Pose
from zmqcarla.sim.moving import Lamp
from zmqcarla.sim.render import BOX_DTYPE, Kind, Renderer, Scene, Weather
from zmqcarla.sim.roads import RoadMap
from zmqcarla.sim.scenery import with_radius
from zmqcarla.sim.standing import Standing
from zmqcarla.sim.view import View
from zmqcarla.sim.world import World

_KINDS = {
    "car": Kind.CAR,
    "van": Kind.CAR,
    "truck": Kind.TRUCK,
    "bus": Kind.TRUCK,
    "motorcycle": Kind.BIKE,
    "bicycle": Kind.BIKE,
}
_FAMILIES = {"walker": Kind.WALKER, "static": Kind.PROP}
_GREY = "128,128,128"
_BRAKE_LIGHT = 0.01
# carla.VehicleLightState: position, low beam, high beam, brake, right and left blinker
_LAMP_BITS = (Lamp.TAIL, Lamp.HEAD | Lamp.TAIL, Lamp.HEAD | Lamp.TAIL, Lamp.BRAKE, Lamp.RIGHT, Lamp.LEFT)
_LAMPS = np.zeros(256, np.uint8)
for _bit, _lamps in enumerate(_LAMP_BITS):
    _LAMPS[(np.arange(256) >> _bit) & 1 == 1] |= int(_lamps)


class _Cast(NamedTuple):
    """Who can be seen, with what does not change while nobody comes or goes."""

    world: World
    population: int
    episode_id: int
    actors: list[Actor]
    boxes: NDArray[np.void]
    offsets: NDArray[np.float64]
    signs: list[int]
    vehicles: int


class Studio:
    """Sees a world. The renderer of a map is made when the first view of it is wanted."""

    def __init__(self) -> None:
        self._map: RoadMap | None = None
        self._renderer: Renderer | None = None
        self._cast: _Cast | None = None
        self._scene: Scene | None = None
        self._frame = -1
        self._views: dict[tuple[Pose, float, int, int], View] = {}

    def view(self, world: World, pose: Pose, fov_deg: float, width: int, height: int) -> View:
        """What a camera sees. Asked again at the same tick, it is the same view.

        Args:
            world: what is to be seen.
            pose: of the camera.
            fov_deg: horizontal field of view.
            width: of the picture, pixels.
            height: of the picture, pixels.
        """
        renderer, scene = self._renderer_of(world), self._scene_now(world)
        key = (pose, fov_deg, width, height)
        view = self._views.get(key)
        if view is None:
            view = self._views[key] = renderer.look(np.array(pose), fov_deg, width, height, scene)
        return view

    def boxes(self, world: World) -> NDArray[np.void]:
        """The vehicles, walkers and props of the world as they stand now (BOX_DTYPE)."""
        return self._scene_now(world).boxes

    def standing(self, world: World) -> Standing:
        """What stands beside the roads of the world's map."""
        return self._renderer_of(world).standing

    def _renderer_of(self, world: World) -> Renderer:
        if self._renderer is None or self._map is not world.road_map:
            self._map, self._renderer = world.road_map, Renderer(world.road_map)
            self._scene = None
        self._renderer.standing.hide(world.hidden)
        return self._renderer

    def _scene_now(self, world: World) -> Scene:
        if self._scene is None or self._frame != world.frame or self._stale(world):
            self._scene, self._frame = self._scene_of(world), world.frame
            self._views.clear()
        return self._scene

    def _stale(self, world: World) -> bool:
        cast = self._cast
        return (
            cast is None
            or cast.world is not world
            or cast.population != world.population
            or cast.episode_id != world.episode_id
        )

    def _scene_of(self, world: World) -> Scene:
        if self._stale(world):
            self._cast = _cast_of(world)
        cast = self._cast
        assert cast is not None
        rows = [actor.row for actor in cast.actors]
        records = world.table.records
        np.add(records["location"][rows], cast.offsets, out=cast.boxes["centre"])
        cast.boxes["rotation"] = records["rotation"][rows]
        braking = records["brake"][rows[: cast.vehicles]] > _BRAKE_LIGHT
        lights = [actor.lights & 0xFF for actor in world.roster.vehicles]
        cast.boxes["lamps"][: cast.vehicles] = _LAMPS[lights] | braking
        boxes = cast.boxes
        if any(vehicle.doors for vehicle in world.roster.vehicles):
            doors = door_boxes(world.roster.vehicles, boxes, world.table)
            boxes = np.concatenate([boxes, doors])
        return Scene(
            boxes,
            world.table.records["colour"][cast.signs],
            _weather_of(world.weather),
            round(world.elapsed_s * 1e3),
            world.drawings.strokes(world.frame, world.elapsed_s),
        )


def _cast_of(world: World) -> _Cast:
    roster = world.roster
    actors: list[Actor] = [*roster.vehicles, *roster.walkers, *roster.props]
    boxes = np.zeros(len(actors), BOX_DTYPE)
    boxes["signal"] = -1
    for index, actor in enumerate(actors):
        red, green, blue = _colour_of(actor)
        boxes["half"][index] = np.maximum(actor.shape.extent_m, 0.01)
        boxes["bgr"][index] = blue, green, red
        boxes["kind"][index] = _kind_of(actor)
        boxes["label"][index], boxes["actor"][index] = actor.blueprint.label, actor.id
    with_radius(boxes)
    offsets = np.array([actor.shape.centre_m for actor in actors]).reshape(-1, 3)
    signs = [sign.row for sign in world.signs]
    return _Cast(world, world.population, world.episode_id, actors, boxes, offsets, signs, len(roster.vehicles))


def _colour_of(actor: Actor) -> tuple[int, int, int]:
    numbers = [part.strip() for part in actor.attribute("color", _GREY).split(",")]
    if len(numbers) != 3 or not all(number.isdigit() for number in numbers):
        return (128, 128, 128)
    red, green, blue = (min(int(number), 255) for number in numbers)
    return (red, green, blue)


def _kind_of(actor: Actor) -> Kind:
    family = actor.type_id.split(".")[0]
    return _FAMILIES.get(family) or _KINDS.get(actor.attribute("base_type", "car"), Kind.CAR)


def _weather_of(parameters: list[float]) -> Weather:
    return Weather(
        cloudiness=parameters[sky.CLOUDINESS],
        precipitation=parameters[sky.PRECIPITATION],
        sun_azimuth_deg=parameters[sky.SUN_AZIMUTH],
        sun_altitude_deg=parameters[sky.SUN_ALTITUDE],
        fog_density=parameters[sky.FOG_DENSITY],
        fog_distance_m=parameters[sky.FOG_DISTANCE],
        wetness=parameters[sky.WETNESS],
        puddles=parameters[sky.PUDDLES],
        dust=parameters[sky.DUST_STORM],
    )
