"""Calls about what is neither actor nor road: level objects, street lamps, debug drawing, ray casts."""

from typing import Any

import numpy as np

from zmqcarla.sim.actors import Vehicle
from zmqcarla.sim.geometry import pose_to_wire, rotation, turn
from zmqcarla.sim.rpc import Session, value, void

_ANY = 255


def level_boxes(session: Session, label: int) -> list[Any]:
    """World boxes of the actors that carry a label; there are no static level objects."""
    return [box for _, box, _, _, _ in environment_objects(session, label) if box]


def environment_objects(session: Session, label: int) -> list[Any]:
    """Actors that carry a label, as EnvironmentObject."""
    world = session.simulation.world
    found: list[Any] = []
    for actor in world.actors.values():
        own = int(actor.blueprint.label)
        if not own or label not in (own, _ANY) or isinstance(actor, Vehicle):
            continue
        pose = world.table.pose(actor.row)
        offset = turn(rotation(*pose[3:]), actor.shape.centre_m)
        centre = [pose[i] + offset[i] for i in range(3)]
        box = [centre, list(actor.shape.extent_m), list(pose[3:]), actor.id]
        found.append([pose_to_wire(pose), box, actor.id, f"{actor.type_id}_{actor.id}", own])
    return found


def object_names(session: Session) -> list[str]:
    """Names of all level objects."""
    return [entry[3] for entry in environment_objects(session, _ANY)]


def project_point(session: Session, location: list[float], direction: list[float], distance_m: float) -> list[Any]:
    """Where a ray from a point meets the ground, as [found, LabelledPoint]."""
    hit = _ground_hit(session, location, [location[i] + direction[i] * distance_m for i in range(3)])
    return [hit is not None, [hit or [0.0, 0.0, 0.0], 1]]


def cast_ray(session: Session, start: list[float], end: list[float]) -> list[Any]:
    """Where the line between two points meets the ground."""
    hit = _ground_hit(session, start, end)
    return [] if hit is None else [[hit, 1]]


def _ground_hit(session: Session, start: list[float], end: list[float]) -> list[float] | None:
    samples = np.linspace(start, end, 257)
    below = samples[:, 2] - session.simulation.world.road_map.heights_m(samples[:, :2], samples[:, 2])
    crossing = np.flatnonzero((below[:-1] >= 0) & (below[1:] <= 0))
    if not len(crossing):
        return None
    first = int(crossing[0])
    part = below[first] / max(below[first] - below[first + 1], 1e-9)
    point: list[float] = (samples[first] + (samples[first + 1] - samples[first]) * part).tolist()
    return point


def ignore(_session: Session, *_arguments: object) -> None:
    """For calls that show nothing here."""


SURROUNDINGS_CALLS = {
    "get_all_level_BBs": value(level_boxes),
    "get_environment_objects": value(environment_objects),
    "enable_environment_objects": void(ignore),
    "get_names_of_all_objects": value(object_names),
    "project_point": value(project_point),
    "cast_ray": value(cast_ray),
    "query_lights_state": value(lambda _session, _client: []),
    "update_lights_state": void(ignore),
    "update_day_night_cycle": void(ignore),
    "draw_debug_shape": void(ignore),
    "clear_debug_shape": void(ignore),
    "clear_debug_string": void(ignore),
    "set_annotations_traverse_translucency": void(ignore),
    "get_imui_gravity": value(lambda _session: 9.81),
    "set_imui_gravity": void(ignore),
}
