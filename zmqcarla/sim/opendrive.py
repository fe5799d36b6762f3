"""OpenDRIVE 1.4 read into numpy: roads, lanes, signals and objects, as far as a driving simulator needs them.

The carla library answers questions about one point at a time (5-25 microseconds each) and may abort the process on a
document that is not OpenDRIVE. So the document is read here first, strictly, and whole lanes are sampled as arrays.

Frames: inside a `Road`, s and t are OpenDRIVE's (t to the left, metres). Everything that leaves it as x, y, z or yaw
is in CARLA's left-handed frame: x as in OpenDRIVE, y = -y, yaw_deg = -heading.

Source: ASAM OpenDRIVE 1.4 revision H, chapters 5.3 (roads), 5.3.7 (lanes), 5.3.8 (objects), 5.3.9 (signals),
5.4 (controllers), 5.5 (junctions).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import numpy as np

from zmqcarla.sim import curves

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

DRIVABLE = frozenset({"driving", "bidirectional", "entry", "exit", "onRamp", "offRamp", "parking"})
"""Lane types whose surface is carriageway; a car is placed on "driving" only."""

TRAFFIC_LIGHT = "1000001"
"""The signal type of a traffic light."""

SPEED_LIMIT = "274"
"""The signal type of a speed limit sign; CARLA's maps have them as objects that are called Speed_30."""

_KMH_PER_UNIT = {"km/h": 1.0, "mph": 1.609344, "m/s": 3.6, "": 3.6}


class MapError(ValueError):
    """A map document cannot be used; the text says what was expected, what was found and what to do."""


def _broken(found: str) -> MapError:
    return MapError(
        f"expected an OpenDRIVE document of roads with driving lanes, found {found}; "
        "pass the text of an .xodr file (OpenDRIVE 1.4)"
    )


@dataclass(frozen=True, slots=True)
class RoadMark:
    """The line painted on a lane's outer edge from `s_offset_m` after the start of its section on."""

    s_offset_m: float
    kind: str
    yellow: bool
    width_m: float


@dataclass(frozen=True, slots=True)
class Lane:
    """One lane of one section; `widths` are rows (s_offset, a, b, c, d), sorted by s_offset."""

    lane_id: int
    kind: str
    widths: Floats
    marks: tuple[RoadMark, ...]


@dataclass(frozen=True, slots=True)
class Section:
    """A stretch of road [start_m, end_m) with a constant number of lanes, by lane id (0 is the centre line)."""

    start_m: float
    end_m: float
    lanes: dict[int, Lane]


@dataclass(frozen=True, slots=True)
class SignalElement:
    """A `<signal>` (a light or a sign where it stands) of a road, or an `<object>` that is a speed limit sign."""

    signal_id: str
    kind: str
    s_m: float
    t_m: float
    z_offset_m: float
    orientation: str
    lanes: tuple[int, int]
    value: float = 0.0


@dataclass(frozen=True, slots=True)
class SignalReference:
    """Where a signal controls a road: a `<signalReference>`, or a `<signal>` with a validity of its own."""

    signal_id: str
    road_id: int
    s_m: float
    orientation: str
    lanes: tuple[int, int]


@dataclass(frozen=True, slots=True)
class RoadObject:
    """An `<object>` with its outline in CARLA's frame: float64 (n, 3), empty when it has none."""

    name: str
    kind: str
    outline: Floats


@dataclass(frozen=True, slots=True)
class Road:
    """One road. Tables are float64, sorted by s: geometry (s, x, y, heading, curvature), others (s, a, b, c, d)."""

    road_id: int
    junction_id: int
    length_m: float
    geometry: Floats
    elevations: Floats
    lane_offsets: Floats
    speeds_kmh: tuple[tuple[float, float], ...]
    sections: tuple[Section, ...]
    predecessor: tuple[str, int] | None
    successor: tuple[str, int] | None
    signals: tuple[SignalElement, ...] = ()
    references: tuple[SignalReference, ...] = ()
    objects: tuple[RoadObject, ...] = ()

    def frame_at(self, s_m: Floats) -> tuple[Floats, Floats, Floats, Floats]:
        """Reference line at `s_m` (n,): x, y, heading in OpenDRIVE's frame and elevation z, each (n,)."""
        row = self.geometry[_row_at(self.geometry, s_m)]
        run = s_m - row[:, 0]
        half_turn = 0.5 * row[:, 4] * run
        chord = run * np.sinc(half_turn / np.pi)
        x = row[:, 1] + chord * np.cos(row[:, 3] + half_turn)
        y = row[:, 2] + chord * np.sin(row[:, 3] + half_turn)
        return x, y, row[:, 3] + 2 * half_turn, _cubic(self.elevations, s_m)

    def points(self, s_m: Floats, t_m: Floats) -> Floats:
        """Points at (s, t) in CARLA's frame: float64 (n, 3)."""
        x, y, heading, z = self.frame_at(s_m)
        return np.stack([x - t_m * np.sin(heading), -(y + t_m * np.cos(heading)), z], axis=-1)

    def yaws_deg(self, s_m: Floats) -> Floats:
        """Yaw of the reference line (increasing s) in CARLA's frame, degrees, not normalised: (n,)."""
        return -np.degrees(self.frame_at(s_m)[2])

    def slopes(self, s_m: Floats) -> Floats:
        """dz/ds of the reference line: (n,)."""
        row = self.elevations[_row_at(self.elevations, s_m)]
        run = s_m - row[:, 0]
        return row[:, 2] + run * (2 * row[:, 3] + 3 * run * row[:, 4])

    def section_at(self, s_m: float) -> Section:
        """The lane section that holds `s_m`."""
        return next((x for x in reversed(self.sections) if x.start_m <= s_m), self.sections[0])

    def edges(self, section: Section, s_m: Floats) -> dict[int, Floats]:
        """Lateral position t (n,) of each lane's outer edge at `s_m`, by lane id; 0 is the centre line."""
        centre = _cubic(self.lane_offsets, s_m)
        edges = {0: centre}
        run = s_m - section.start_m
        for side in (1, -1):
            edge, lane_id = centre, side
            while lane_id in section.lanes:
                edge = edge + side * np.maximum(_cubic(section.lanes[lane_id].widths, run), 0.0)
                edges[lane_id] = edge
                lane_id += side
        return edges

    def speed_kmh_at(self, s_m: float) -> float | None:
        """The speed record in force at `s_m`, or None when the road has none."""
        return next((limit for start, limit in reversed(self.speeds_kmh) if start <= s_m), None)


@dataclass(frozen=True, slots=True)
class Junction:
    """A junction: the ids of its controllers in the order of their sequence numbers."""

    junction_id: int
    controllers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Document:
    """A whole map; `controllers` lists signal ids by controller id."""

    roads: dict[int, Road]
    junctions: dict[int, Junction]
    controllers: dict[str, tuple[str, ...]]
    georeference_deg: tuple[float, float]
    references: tuple[SignalReference, ...] = field(default=())


def inner(lane_id: int) -> int:
    """The id whose outer edge is this lane's inner edge."""
    return lane_id - 1 if lane_id > 0 else lane_id + 1


def _row_at(table: Floats, s_m: Floats) -> NDArray[np.intp]:
    return np.clip(np.searchsorted(table[:, 0], s_m, side="right") - 1, 0, len(table) - 1)


def _cubic(table: Floats, s_m: Floats) -> Floats:
    row = table[_row_at(table, s_m)] if len(table) > 1 else np.broadcast_to(table[0], (len(s_m), 5))
    run = s_m - row[:, 0]
    value: Floats = row[:, 1] + run * (row[:, 2] + run * (row[:, 3] + run * row[:, 4]))
    return value


def _number(element: ElementTree.Element, name: str, default: float | None = None) -> float:
    text = element.get(name)
    if text is None and default is not None:
        return default
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise _broken(f"<{element.tag}> with {name}={text!r} where a number belongs")
    return value


def _table(parent: ElementTree.Element | None, tag: str, key: str = "s") -> Floats:
    """Rows (key, a, b, c, d) of the children called `tag`; one zero row when there are none."""
    found = [] if parent is None else parent.findall(tag)
    rows = [[_number(item, name) for name in (key, "a", "b", "c", "d")] for item in found]
    return np.array(sorted(rows) or [[0.0] * 5])


def _numbers(element: ElementTree.Element, names: str) -> dict[str, float]:
    return {name: _number(element, name) for name in names.split()}


# by the name of the shape: rows of a course of a length, in the frame of its begin
_COURSES: dict[str, Callable[[ElementTree.Element, float], Floats]] = {
    "line": lambda _shape, _length_m: np.zeros((1, 5)),
    "arc": lambda shape, _length_m: np.array([[0.0, 0.0, 0.0, 0.0, _number(shape, "curvature")]]),
    "spiral": lambda shape, length_m: curves.clothoid(length_m, _numbers(shape, "curvStart curvEnd")),
    "poly3": lambda shape, length_m: curves.cubic(length_m, _numbers(shape, "a b c d")),
    "paramPoly3": lambda shape, length_m: curves.parametric(
        length_m, _numbers(shape, "aU bU cU dU aV bV cV dV"), shape.get("pRange") != "arcLength"
    ),
}


def _geometry(road: ElementTree.Element) -> Floats:
    """Rows (s, x, y, heading, curvature), one a line or arc."""
    parts: list[Floats] = []
    for item in road.findall("planView/geometry"):
        shapes = [child for child in item if child.tag not in ("userData", "include")]
        if len(shapes) != 1 or shapes[0].tag not in _COURSES:
            found = "+".join(shape.tag for shape in shapes) or "nothing"
            raise _broken(f"road {road.get('id')} with geometry {found}")
        s_m, x, y, heading, length_m = (_number(item, name) for name in ("s", "x", "y", "hdg", "length"))
        if length_m <= 0.0:
            continue  # real maps have them; nothing lies on such a piece
        rows = _COURSES[shapes[0].tag](shapes[0], length_m)
        cos, sin = math.cos(heading), math.sin(heading)
        u, v = rows[:, 1].copy(), rows[:, 2].copy()
        rows[:, 1], rows[:, 2] = x + u * cos - v * sin, y + u * sin + v * cos
        rows[:, 0] += s_m
        rows[:, 3] += heading
        parts.append(rows)
    if not parts:
        raise _broken(f"road {road.get('id')} without a planView geometry")
    table = np.concatenate(parts)
    return table[np.argsort(table[:, 0], kind="stable")]


def _lane(element: ElementTree.Element) -> Lane:
    marks = [
        RoadMark(
            s_offset_m=_number(item, "sOffset", 0.0),
            kind=item.get("type", "none"),
            yellow=item.get("color") == "yellow",
            width_m=_number(item, "width", 0.125),
        )
        for item in element.findall("roadMark")
    ]
    return Lane(
        lane_id=int(_number(element, "id")),
        kind=element.get("type", "none"),
        widths=_table(element, "width", key="sOffset"),
        marks=tuple(sorted(marks, key=lambda mark: mark.s_offset_m)),
    )


def _sections(road: ElementTree.Element, length_m: float) -> tuple[Section, ...]:
    found = sorted(road.findall("lanes/laneSection"), key=lambda item: _number(item, "s"))
    starts = [_number(item, "s") for item in found] + [length_m]
    if not found:
        raise _broken(f"road {road.get('id')} without a laneSection")
    sections: list[Section] = []
    for item, start_m, end_m in zip(found, starts, starts[1:], strict=False):
        lanes = [_lane(child) for side in ("left", "center", "right") for child in item.findall(f"{side}/lane")]
        sections.append(Section(start_m, max(end_m, start_m), {lane.lane_id: lane for lane in lanes}))
    return tuple(sections)


def _link(road: ElementTree.Element, which: str) -> tuple[str, int] | None:
    item = road.find(f"link/{which}")
    return None if item is None else (item.get("elementType", "road"), int(_number(item, "elementId")))


def _validities(element: ElementTree.Element) -> list[tuple[int, int]]:
    """Lane ranges (lowest, highest); (0, 0), which real maps write on posts, controls no lane and is dropped."""
    pairs = [(int(_number(x, "fromLane")), int(_number(x, "toLane"))) for x in element.findall("validity")]
    return [(min(pair), max(pair)) for pair in pairs if pair != (0, 0)]


def _signals(road: ElementTree.Element) -> tuple[tuple[SignalElement, ...], tuple[SignalReference, ...]]:
    signals: list[SignalElement] = []
    references: list[SignalReference] = []
    road_id = int(_number(road, "id"))
    for tag in ("signal", "signalReference"):
        for item in road.findall(f"signals/{tag}"):
            signal_id, s_m, facing = item.get("id", ""), _number(item, "s"), item.get("orientation", "+")
            lanes = _validities(item)
            references.extend(SignalReference(signal_id, road_id, s_m, facing, pair) for pair in lanes)
            if tag == "signal":
                kind, z_m = item.get("type", ""), _number(item, "zOffset", 0.0)
                if kind == "-1" and item.get("dynamic") == "yes":  # how some maps write their traffic lights
                    kind = TRAFFIC_LIGHT
                span = lanes[0] if lanes else (0, 0)
                value = float(item.get("value", "0")) if kind == SPEED_LIMIT else 0.0
                signals.append(SignalElement(signal_id, kind, s_m, _number(item, "t"), z_m, facing, span, value))
    return (*signals, *_speed_limits(road)), tuple(references)


def _speed_limits(road: ElementTree.Element) -> Iterator[SignalElement]:
    for item in road.findall("objects/object"):
        found = re.fullmatch(r"Speed_(\d+)", item.get("name", ""))
        if found:
            s_m, t_m, z_m = (_number(item, name, 0.0) for name in ("s", "t", "zOffset"))
            facing = item.get("orientation", "+")
            yield SignalElement(item.get("id", ""), SPEED_LIMIT, s_m, t_m, z_m, facing, (0, 0), float(found.group(1)))


def _object(road: Road, element: ElementTree.Element) -> RoadObject:
    s_m, t_m = np.array([_number(element, "s")]), _number(element, "t")
    x, y, heading, z = (float(value[0]) for value in road.frame_at(s_m))
    x, y = x - t_m * math.sin(heading), y + t_m * math.cos(heading)
    turn = heading + _number(element, "hdg", 0.0)
    corners = [[_number(item, axis, 0.0) for axis in "uvz"] for item in element.findall("outline/cornerLocal")]
    u, v, up = np.array(corners or np.empty((0, 3))).reshape(-1, 3).T
    outline = np.stack(
        [
            x + u * math.cos(turn) - v * math.sin(turn),
            -(y + u * math.sin(turn) + v * math.cos(turn)),
            z + up + _number(element, "zOffset", 0.0),
        ],
        axis=-1,
    )
    return RoadObject(element.get("name", ""), element.get("type", ""), outline)


def _road(element: ElementTree.Element) -> Road:
    length_m = _number(element, "length")
    signals, references = _signals(element)
    speeds = [
        (_number(item, "s", 0.0), speed.get("max", ""), speed.get("unit", ""))
        for item in element.findall("type")
        for speed in item.findall("speed")
    ]
    bare = Road(
        road_id=int(_number(element, "id")),
        junction_id=int(_number(element, "junction", -1.0)),
        length_m=length_m,
        geometry=_geometry(element),
        elevations=_table(element.find("elevationProfile"), "elevation"),
        lane_offsets=_table(element.find("lanes"), "laneOffset"),
        speeds_kmh=tuple(
            (s_m, float(limit) * _KMH_PER_UNIT.get(unit, 3.6))
            for s_m, limit, unit in speeds
            if re.fullmatch(r"[0-9.eE+-]+", limit)  # "no limit" and "undefined" are legal and mean no record
        ),
        sections=_sections(element, length_m),
        predecessor=_link(element, "predecessor"),
        successor=_link(element, "successor"),
        signals=signals,
        references=references,
    )
    objects = tuple(_object(bare, item) for item in element.findall("objects/object"))
    return Road(**{name: getattr(bare, name) for name in bare.__slots__ if name != "objects"}, objects=objects)


def _georeference(root: ElementTree.Element) -> tuple[float, float]:
    text = root.findtext("header/geoReference") or ""
    found = [re.search(rf"\+{name}=([-+0-9.eE]+)", text) for name in ("lat_0", "lon_0")]
    latitude, longitude = (float(match.group(1)) if match else 0.0 for match in found)
    return latitude, longitude


def _junction(element: ElementTree.Element) -> Junction:
    items = sorted(element.findall("controller"), key=lambda item: _number(item, "sequence", 0.0))
    return Junction(int(_number(element, "id")), tuple(item.get("id", "") for item in items))


def parse(text: str) -> Document:
    """Read an OpenDRIVE document.

    Raises:
        MapError: The text is not XML, not OpenDRIVE, or lacks what a simulator cannot do without.
    """
    try:
        root = ElementTree.fromstring(text.encode())
    except ElementTree.ParseError as error:
        raise _broken(f"text that is not XML ({error}), beginning {text[:40]!r}") from None
    if root.tag != "OpenDRIVE":
        raise _broken(f"an XML document whose root is <{root.tag}>")
    roads = {road.road_id: road for road in map(_road, root.findall("road"))}
    if not any(lane.kind == "driving" for r in roads.values() for x in r.sections for lane in x.lanes.values()):
        raise _broken(f"{len(roads)} roads and no driving lane")
    return Document(
        roads=roads,
        junctions={item.junction_id: item for item in map(_junction, root.findall("junction"))},
        controllers={
            item.get("id", ""): tuple(dict.fromkeys(x.get("signalId", "") for x in item.findall("control")))
            for item in root.findall("controller")
        },
        georeference_deg=_georeference(root),
        references=tuple(reference for road in roads.values() for reference in road.references),
    )
