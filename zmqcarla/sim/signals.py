"""Traffic lights, stop signs and yield signs: where they stand, which lanes they rule, which lights are green together.

A signal rules a lane through a trigger box on the carriageway before the stop line, as in CARLA: its reference point,
when it lies inside a junction, moves back to the lane that leads in and 3 m further upstream; half length 1.5 m, half
width a quarter of the lane's width, half height 1 m.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from zmqcarla.sim.opendrive import SPEED_LIMIT, TRAFFIC_LIGHT, Document, Road, SignalElement, SignalReference

if TYPE_CHECKING:
    from numpy.typing import NDArray

TYPE_IDS = {
    TRAFFIC_LIGHT: "traffic.traffic_light",
    "206": "traffic.stop",
    "205": "traffic.yield",
}
"""OpenDRIVE signal types that become actors."""

_LIMITS_KMH = frozenset(range(5, 150, 5))  # those that CARLA has signs of
_HALF_LENGTH_M = 1.5
_HALF_HEIGHT_M = 1.0
_UPSTREAM_M = 3.0
_LONGEST_JUNCTION_M = 120.0
_STRIDE_M = 1.0
_POLE_SETBACK_M = 0.4

Vector = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Box:
    """An upright oriented box. `extent` holds half sizes (along, across, up) in metres."""

    centre: Vector
    extent: Vector
    yaw_deg: float


@dataclass(frozen=True, slots=True)
class Signal:
    """A traffic light or sign as the simulator spawns it. Metres and degrees in CARLA's frame.

    Attributes:
        opendrive_id: The `id` of the `<signal>`; landmarks find the actor by it.
        type_id: "traffic.traffic_light", "traffic.stop", "traffic.yield", "traffic.speed_limit.30" and the like.
        location: The actor's position: the foot of its pole.
        yaw_deg: The actor's yaw, across the controlled lane: lane yaw + 90, in (-180, 180].
        trigger_boxes: World frame, one per controlled lane, yaw along the lane's direction of travel.
        box_location: Centre of the union of the trigger boxes, in the actor's frame (x across, the actor's yaw).
        box_extent: Half sizes of that union, in the actor's frame.
        junction_id: The junction behind the trigger boxes, -1 if there is none or the signal is a speed limit.
        pole_location: Where the visible pole stands (its foot).
        pole_yaw_deg: Where the visible face looks: against the controlled traffic.
    """

    opendrive_id: str
    type_id: str
    location: Vector
    yaw_deg: float
    trigger_boxes: tuple[Box, ...]
    box_location: Vector
    box_extent: Vector
    junction_id: int
    pole_location: Vector
    pole_yaw_deg: float


LightGroups = dict[int, tuple[tuple[str, ...], ...]]
"""By junction id: the phases in their order, each the OpenDRIVE ids of the lights that are green together."""


def _type_id(element: SignalElement) -> str | None:
    """The actor that a signal becomes, None for none."""
    if element.kind == SPEED_LIMIT:
        limit = round(element.value)
        return f"traffic.speed_limit.{limit}" if limit in _LIMITS_KMH else "traffic.unknown"
    return TYPE_IDS.get(element.kind)


def wrap_deg(angle_deg: float) -> float:
    """The same angle in (-180, 180]."""
    return 180.0 - (180.0 - angle_deg) % 360.0


def _ruled_lanes(document: Document, reference: SignalReference) -> list[int]:
    """Driving lanes in the reference's validity; a range over both directions keeps the one it faces."""
    road = document.roads[reference.road_id]
    low, high = reference.lanes
    sign = 0 if low * high > 0 else (-1 if reference.orientation == "+" else 1)
    lanes = road.section_at(reference.s_m).lanes
    return [
        lane_id
        for lane_id, lane in sorted(lanes.items())
        if low <= lane_id <= high and lane_id * (sign or lane_id) > 0 and lane.kind == "driving"
    ]


def _gate(carla_map: Any, document: Document, reference: SignalReference, lane_id: int) -> tuple[Any, int]:
    """The waypoint at which traffic of this lane is held, and the junction behind it (-1: none)."""
    road = document.roads[reference.road_id]
    s_m = min(max(reference.s_m, 0.05), road.length_m - 0.05)
    waypoint = carla_map.get_waypoint_xodr(road.road_id, lane_id, s_m)
    if waypoint is None:
        return None, -1
    if not waypoint.is_junction:
        ahead = waypoint.next(20.0)
        return waypoint, ahead[0].junction_id if ahead and ahead[0].is_junction else -1
    junction_id = waypoint.junction_id
    for _ in range(int(_LONGEST_JUNCTION_M / _STRIDE_M)):
        behind = waypoint.previous(_STRIDE_M)
        if not behind:
            return None, junction_id
        waypoint = behind[0]
        if not waypoint.is_junction:
            break
    # a road shorter than the shift would put the box into the junction behind
    upstream = [item for item in waypoint.previous(_UPSTREAM_M - _STRIDE_M / 2) if not item.is_junction]
    return (upstream or [waypoint])[0], junction_id


def _box(waypoint: Any) -> Box:
    place, yaw_deg = waypoint.transform.location, waypoint.transform.rotation.yaw
    return Box(
        (place.x, place.y, place.z + _HALF_HEIGHT_M),
        (_HALF_LENGTH_M, waypoint.lane_width / 4.0, _HALF_HEIGHT_M),
        wrap_deg(yaw_deg),
    )


def corners_xy(box: Box) -> NDArray[np.float64]:
    """The four corners of a box seen from above, float64 (4, 2)."""
    cos, sin = math.cos(math.radians(box.yaw_deg)), math.sin(math.radians(box.yaw_deg))
    signs = np.array([[1, 1], [1, -1], [-1, -1], [-1, 1]]) * box.extent[:2]
    corners: NDArray[np.float64] = signs @ np.array([[cos, sin], [-sin, cos]]) + box.centre[:2]
    return corners


def _union(boxes: tuple[Box, ...], location: Vector, yaw_deg: float) -> tuple[Vector, Vector]:
    """Centre and half sizes, in the frame of an actor at `location`, of the box around all boxes."""
    cos, sin = math.cos(math.radians(yaw_deg)), math.sin(math.radians(yaw_deg))
    points = np.concatenate([corners_xy(box) for box in boxes]) - location[:2]
    local = points @ np.array([[cos, -sin], [sin, cos]])
    heights = [box.centre[2] + sign * box.extent[2] - location[2] for box in boxes for sign in (1, -1)]
    low = np.array([*local.min(axis=0), min(heights)])
    high = np.array([*local.max(axis=0), max(heights)])
    centre, half = (low + high) / 2, (high - low) / 2
    return (float(centre[0]), float(centre[1]), float(centre[2])), (float(half[0]), float(half[1]), float(half[2]))


def _own_reference(document: Document, road_id: int, signal: SignalElement) -> list[SignalReference]:
    """A signal that nothing refers to rules all lanes of its road in the direction it faces."""
    ids = [lane_id for lane_id in document.roads[road_id].section_at(signal.s_m).lanes if lane_id]
    return [SignalReference(signal.signal_id, road_id, signal.s_m, signal.orientation, (min(ids), max(ids)))]


def _pole_foot(road: Road, element: SignalElement) -> Vector:
    """A light that stands on its own stop line is moved on to the junction's edge, where waiting drivers see it."""
    s_m = element.s_m
    if element.kind == TRAFFIC_LIGHT and road.junction_id < 0 and element.lanes != (0, 0):
        s_m = road.length_m - _POLE_SETBACK_M if element.orientation == "+" else _POLE_SETBACK_M
    x, y, z = road.points(np.array([s_m]), np.array([element.t_m]))[0].tolist()
    return x, y, z


def _signal(carla_map: Any, document: Document, road_id: int, element: SignalElement, type_id: str) -> Signal | None:
    named = [item for item in document.references if item.signal_id == element.signal_id]
    gates: dict[tuple[int, int], tuple[Any, int]] = {}
    for reference in named or _own_reference(document, road_id, element):
        for lane_id in _ruled_lanes(document, reference):
            waypoint, junction_id = _gate(carla_map, document, reference, lane_id)
            if waypoint is not None:
                gates.setdefault((waypoint.road_id, waypoint.lane_id), (waypoint, junction_id))
    if not gates:
        return None
    boxes = tuple(_box(waypoint) for waypoint, _ in gates.values())
    road = document.roads[road_id]
    x, y, z = road.points(np.array([element.s_m]), np.array([element.t_m]))[0].tolist()
    location = (x, y, z)
    yaw_deg = wrap_deg(boxes[0].yaw_deg + 90.0)
    centre, extent = _union(boxes, location, yaw_deg)
    return Signal(
        opendrive_id=element.signal_id,
        type_id=type_id,
        location=location,
        yaw_deg=yaw_deg,
        trigger_boxes=boxes,
        box_location=centre,
        box_extent=extent,
        junction_id=-1 if element.kind == SPEED_LIMIT else max(junction_id for _, junction_id in gates.values()),
        pole_location=_pole_foot(road, element),
        pole_yaw_deg=wrap_deg(boxes[0].yaw_deg + 180.0),
    )


def find_signals(carla_map: Any, document: Document) -> tuple[Signal, ...]:
    """Every light and sign that rules at least one driving lane, in the order of the document."""
    found: dict[str, Signal] = {}
    for road in document.roads.values():
        for element in road.signals:
            type_id = _type_id(element)
            if type_id is not None and element.signal_id not in found:
                signal = _signal(carla_map, document, road.road_id, element, type_id)
                if signal is not None:
                    found[element.signal_id] = signal
    return tuple(found.values())


def _phases_by_heading(lights: list[Signal]) -> list[tuple[str, ...]]:
    """Without controllers: one phase per incoming road, told apart by heading."""
    by_heading: dict[int, list[str]] = {}
    for light in lights:
        by_heading.setdefault(round(light.yaw_deg / 20.0), []).append(light.opendrive_id)
    return [tuple(ids) for _, ids in sorted(by_heading.items())]


def group_lights(document: Document, signals: tuple[Signal, ...]) -> LightGroups:
    """The light phases of each junction that has lights, from its controllers in their sequence.

    A light that no controller names is added as a phase of its incoming road, so every light turns green some time.
    """
    groups: LightGroups = {}
    lights = [signal for signal in signals if signal.type_id == "traffic.traffic_light"]
    for junction_id in dict.fromkeys(light.junction_id for light in lights):
        here = {light.opendrive_id: light for light in lights if light.junction_id == junction_id}
        junction = document.junctions.get(junction_id)
        phases = [
            tuple(signal_id for signal_id in document.controllers.get(controller, ()) if signal_id in here)
            for controller in (junction.controllers if junction else ())
        ]
        phases = [phase for phase in phases if phase]
        named = {signal_id for phase in phases for signal_id in phase}
        phases += _phases_by_heading([light for key, light in here.items() if key not in named])
        groups[junction_id] = tuple(phases)
    return groups
