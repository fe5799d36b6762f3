"""Calls about what is neither actor nor road: level objects, textures, debug drawing, ray casts."""

import math
from collections.abc import Iterable, Iterator
from typing import Any

from zmqcarla.sim.actors import Sign
from zmqcarla.sim.calls.actors import finite
from zmqcarla.sim.drawings import SHAPES
from zmqcarla.sim.geometry import Vector, pose_to_wire
from zmqcarla.sim.level import BUILDINGS, VEGETATION, LevelObject, box_hit, box_of, ground_hit, ground_label
from zmqcarla.sim.rpc import Session, value, void
from zmqcarla.sim.world import SimError

_ANY = 255
_LAYER_LABELS = {0x1: BUILDINGS, 0x4: VEGETATION}
"""carla.MapLayer Buildings and Foliage; the other layers are empty."""


def environment_objects(session: Session, label: int) -> list[Any]:
    """Level objects and props that carry a label, as EnvironmentObject."""
    world = session.simulation.world
    found: list[Any] = []
    for thing in session.simulation.level.of(world.road_map).objects:
        if label in (thing.label, _ANY):
            turned = list(thing.rotation_deg)
            box = [list(thing.centre_m), list(thing.half_m), turned, 0]
            found.append([[list(thing.centre_m), turned], box, thing.id, thing.name, thing.label])
    for actor in world.roster.props:
        if label in (int(actor.blueprint.label), _ANY):
            pose = world.table.pose(actor.row)
            centre, half, turned_deg = box_of(actor, pose)
            box = [list(centre), list(half), list(turned_deg), actor.id]
            name = f"{actor.type_id}_{actor.id}"
            found.append([pose_to_wire(pose), box, actor.id, name, int(actor.blueprint.label)])
    return found


def level_boxes(session: Session, label: int) -> list[Any]:
    """World boxes of what carries a label; vehicles and pedestrians included."""
    world = session.simulation.world
    boxes = [entry[1] for entry in environment_objects(session, label)]
    for actor in (*world.roster.vehicles, *world.roster.walkers):
        if label in (int(actor.blueprint.label), _ANY):
            centre, half, turned = box_of(actor, world.table.pose(actor.row))
            boxes.append([list(centre), list(half), list(turned), actor.id])
    return boxes


def light_boxes(session: Session, actor_id: int) -> list[Any]:
    """World boxes of the heads of a traffic light."""
    world = session.simulation.world
    sign = world.get_kind(actor_id, Sign)
    number = world.signs.index(sign)
    return [
        [list(thing.centre_m), list(thing.half_m), list(thing.rotation_deg), actor_id]
        for thing in session.simulation.level.of(world.road_map).objects
        if thing.signal == number
    ]


def enable_objects(session: Session, ids: list[int], enabled: bool) -> None:
    """Let level objects vanish for cameras, rays and bumpers, or bring them back; unknown ids are passed over."""
    world = session.simulation.world
    wanted = set(ids)
    _show(
        session, (thing for thing in session.simulation.level.of(world.road_map).objects if thing.id in wanted), enabled
    )


def _show(session: Session, things: Iterable[LevelObject], shown: bool) -> None:
    hidden, numbers = session.simulation.world.hidden, {thing.number for thing in things}
    # in place: contacts look into the same set
    if shown:
        hidden -= numbers
    else:
        hidden |= numbers


def _show_layers(session: Session, layers: int, shown: bool) -> None:
    """Show or hide what belongs to map layers: houses, and trees."""
    labels = {label for layer, label in _LAYER_LABELS.items() if layers & layer}
    if not labels:
        return  # the level need not be made for that
    objects = session.simulation.level.of(session.simulation.world.road_map).objects
    _show(session, (thing for thing in objects if thing.label in labels), shown)


def load_layers(session: Session, layers: int) -> None:
    """Bring what belongs to map layers back."""
    _show_layers(session, layers, shown=True)


def unload_layers(session: Session, layers: int) -> None:
    """Let what belongs to map layers vanish."""
    _show_layers(session, layers, shown=False)


def draw(session: Session, shape: list[Any]) -> None:
    """Draw a debug shape: [[number, shape], colour, life_time, persistent]."""
    (number, body), colour, life_s, _ = shape
    if number in SHAPES and not _is_finite([body, life_s]):
        raise SimError(f"expected finite numbers, found {body} for {life_s} s")
    world = session.simulation.world
    world.drawings.add([number, body, colour], float(life_s), world.frame, world.elapsed_s)


def _is_finite(numbers: list[Any]) -> bool:
    return all(_is_finite(item) if isinstance(item, list) else math.isfinite(item) for item in numbers)


def clear_shapes(session: Session) -> None:
    """Take all debug shapes away."""
    session.simulation.world.drawings.clear()


def object_names(session: Session) -> list[str]:
    """Names of all level objects."""
    return [entry[3] for entry in environment_objects(session, _ANY)]


def apply_texture(session: Session, names: list[str], _parameter: object, _texture: object) -> None:
    """Paint objects: refused as in CARLA where none is named, else without an effect on the pictures."""
    if not set(names) & set(object_names(session)):
        raise SimError("unable to find Actor to apply the texture")


def _hits(session: Session, start: Vector, end: Vector) -> Iterator[tuple[float, int]]:
    """Share of the line and label of everything that a line meets, in no order."""
    world = session.simulation.world
    ground = ground_hit(world.road_map, start, end)
    if ground is not None:
        place = [a + (b - a) * ground for a, b in zip(start, end, strict=True)]
        yield ground, ground_label(world.road_map, *place)
    for thing in session.simulation.level.of(world.road_map).near(start, end):
        share = box_hit(start, end, (thing.centre_m, thing.half_m, thing.rotation_deg))
        if share is not None and thing.number not in world.hidden:
            yield share, thing.label
    for actor in world.actors.values():
        if actor.blueprint.label and not isinstance(actor, Sign):
            share = box_hit(start, end, box_of(actor, world.table.pose(actor.row)))
            if share is not None:
                yield share, int(actor.blueprint.label)


def cast_ray(session: Session, start: list[float], end: list[float]) -> list[Any]:
    """What the line between two points meets, as LabelledPoint, nearest first."""
    a, b = finite(start), finite(end)
    return [
        [[p + (q - p) * share for p, q in zip(a, b, strict=True)], label]
        for share, label in sorted(_hits(session, a, b))
    ]


def project_point(session: Session, location: list[float], direction: list[float], distance_m: float) -> list[Any]:
    """What a ray from a point meets first, as [found, LabelledPoint]."""
    a, towards = finite(location), finite(direction)
    length = math.hypot(*towards)
    if not math.isfinite(distance_m) or length == 0.0:
        raise SimError(f"expected a direction and a finite distance, found {direction} and {distance_m}")
    hits = cast_ray(session, list(a), [p + d / length * distance_m for p, d in zip(a, towards, strict=True)])
    return [bool(hits), hits[0] if hits else [[0.0, 0.0, 0.0], 0]]


def ignore(_session: Session, *_arguments: object) -> None:
    """For calls that show nothing here."""


SURROUNDINGS_CALLS = {
    "get_all_level_BBs": value(level_boxes),
    "get_environment_objects": value(environment_objects),
    "enable_environment_objects": void(enable_objects),
    "load_map_layer": void(load_layers),
    "unload_map_layer": void(unload_layers),
    "get_names_of_all_objects": value(object_names),
    "get_light_boxes": value(light_boxes),
    "apply_color_texture_to_objects": void(apply_texture),
    "apply_float_color_texture_to_objects": void(apply_texture),
    "project_point": value(project_point),
    "cast_ray": value(cast_ray),
    "draw_debug_shape": void(draw),
    "clear_debug_shape": void(clear_shapes),
    "clear_debug_string": void(ignore),
    "set_annotations_traverse_translucency": void(ignore),
}
