"""Roads that meet at right angles, written as OpenDRIVE 1.4: what the generated towns and motorways are built of.

Every lane of an incoming road has its own connecting road for every turn it may take, so any lane can be driven to any
other.

OpenDRIVE's frame is used throughout: x east, y north, headings counted counter-clockwise; directions are 0 east,
1 north, 2 west, 3 south.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.etree import ElementTree

if TYPE_CHECKING:
    from collections.abc import Iterable

LANE_M = 3.5
SHOULDER_M = 0.5
SIDEWALK_M = 3.0
JUNCTION_M = 15.0
"""Distance of a junction's edge from its middle."""
_SHORTEST_PIECE_M = 1e-6
_STOP_LINE_M = 5.0
_SIGNAL_M = 6.5
_CROSSWALK_M = (1.0, 4.0)
_GEOREFERENCE = "+proj=tmerc +lat_0=49.0094 +lon_0=8.4044 +k=1 +x_0=0 +y_0=0 +datum=WGS84 +units=m +no_defs"

Piece = tuple[float, float, float, float, float]
"""A piece of a road's course: x, y, heading at its begin, length, curvature."""

_FIRST_JUNCTION = 1000

STEP: tuple[tuple[int, int], ...] = ((1, 0), (0, 1), (-1, 0), (0, -1))
"""East and north of each direction."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One end of a road at a junction, seen from the junction: it leaves in `direction` from (x, y).

    Attributes:
        road_id: the road.
        at_end: whether the road ends here, or begins.
        lanes: lanes per direction.
        ways: which lanes there are: both directions, or only those that lead into ("in") or away ("out").
        paved: whether it has pavements.
    """

    road_id: int
    at_end: bool
    direction: int
    lanes: int
    speed_kmh: int
    x: float
    y: float
    ways: str = "both"
    paved: bool = True

    @property
    def contact(self) -> str:
        """OpenDRIVE's name of this end."""
        return "end" if self.at_end else "start"

    @property
    def lanes_in(self) -> int:
        """How many lanes lead into the junction."""
        return 0 if self.ways == "out" else self.lanes

    @property
    def lanes_out(self) -> int:
        """How many lanes lead away from the junction."""
        return 0 if self.ways == "in" else self.lanes

    def incoming(self, number: int) -> int:
        """OpenDRIVE id of the number-th lane from the middle that leads into the junction."""
        return -number if self.at_end else number

    def outgoing(self, number: int) -> int:
        """OpenDRIVE id of the number-th lane from the middle that leads away from the junction."""
        return number if self.at_end else -number


class Network:
    """A document under way.

    Args:
        name: the map's name.
        bounds_m: west, south, east, north.

    Attributes:
        roads: road elements by id; `lengths_m` their lengths.
    """

    def __init__(self, name: str, bounds_m: tuple[float, float, float, float]) -> None:
        west, south, east, north = bounds_m
        self._root = ElementTree.Element("OpenDRIVE")
        header = add(self._root, "header", revMajor=1, revMinor=4, name=name, version=1, north=north, south=south)
        header.attrib.update({"east": repr(east), "west": repr(west), "vendor": "zmqcarla"})
        add(header, "geoReference").text = _GEOREFERENCE
        self.roads: dict[int, ElementTree.Element] = {}
        self.lengths_m: dict[int, float] = {}
        self._junctions: list[ElementTree.Element] = []
        self._controllers: list[ElementTree.Element] = []

    def open_junction(self) -> ElementTree.Element:
        """A new junction element."""
        junction_id = _FIRST_JUNCTION + len(self._junctions)
        self._junctions.append(ElementTree.Element("junction", id=str(junction_id), name=f"junction{junction_id}"))
        return self._junctions[-1]

    def open_road(self, geometry: list[Piece], junction: int, speed_kmh: int, climb_m: tuple[float, float]) -> int:
        """Write a road up to its lanes, which are to follow.

        Args:
            geometry: its course.
            junction: the junction that it belongs to, -1 for none.
            speed_kmh: its limit.
            climb_m: height at its begin and end, level at both.

        Returns:
            Its id.
        """
        road_id, length_m = len(self.roads), 0.0
        for piece in geometry:
            length_m += piece[3]
        road = add(self._root, "road", name=f"Road {road_id}", length=length_m, id=road_id, junction=junction)
        add(road, "link")
        add(add(road, "type", s=0.0, type="town"), "speed", max=speed_kmh, unit="km/h")
        view, s_m = add(road, "planView"), 0.0
        for x, y, heading, piece_m, curvature in geometry:
            item = add(view, "geometry", s=s_m, x=x, y=y, hdg=heading, length=piece_m)
            if curvature:
                add(item, "arc", curvature=curvature)
            else:
                add(item, "line")
            s_m += piece_m
        rise = climb_m[1] - climb_m[0]
        profile = add(road, "elevationProfile")
        add(
            profile,
            "elevation",
            s=0.0,
            a=climb_m[0],
            b=0.0,
            c=3 * rise / length_m**2,
            d=2 * (climb_m[0] - climb_m[1]) / length_m**3,
        )
        add(road, "lateralProfile")
        self.roads[road_id], self.lengths_m[road_id] = road, length_m
        return road_id

    def crossing(self, arms: dict[int, Arm], kind: str, height_m: float = 0.0) -> None:
        """Write the junction in which arms (by direction) meet, with all turns, and lights or signs of a kind."""
        junction = self.open_junction()
        link_arms(self, int(junction.get("id", "-1")), arms.values())
        _turns(self, junction, arms, height_m)
        self._controllers += _rule(self, junction, arms, kind)

    def text(self) -> str:
        """The document."""
        self._root.extend(self._controllers + self._junctions)
        ElementTree.indent(self._root, " ")
        return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(self._root, encoding="unicode") + "\n"


def add(parent: ElementTree.Element, tag: str, **attributes: object) -> ElementTree.Element:
    """Append an element; attribute names lose a trailing underscore (`from_`), floats are written exactly."""
    return ElementTree.SubElement(
        parent,
        tag,
        {
            name.rstrip("_"): repr(value) if isinstance(value, float) else str(value)
            for name, value in attributes.items()
        },
    )


def heading_of(direction: int) -> float:
    """Heading of a direction, radians."""
    return (0.0, math.pi / 2, math.pi, -math.pi / 2)[direction % 4]


def ahead_of(x: float, y: float, direction: int, forward_m: float, right_m: float = 0.0) -> tuple[float, float]:
    """The point `forward_m` along and `right_m` to the right of a direction."""
    (east, north), (right_east, right_north) = STEP[direction % 4], STEP[(direction - 1) % 4]
    return x + forward_m * east + right_m * right_east, y + forward_m * north + right_m * right_north


def write_road(
    net: Network,
    start: tuple[float, float],
    direction: int,
    pieces: list[tuple[float, int]],
    junction: int,
    speed_kmh: int,
    height_m: float = 0.0,
) -> int:
    """Write a level road of pieces (length, turn): straight for 0, a quarter circle to the left (1) or right (-1)."""
    geometry: list[Piece] = []
    x, y = start
    for piece, turn in pieces:
        if piece <= _SHORTEST_PIECE_M:
            continue
        radius = piece / (math.pi / 2)
        geometry.append((x, y, heading_of(direction), piece, turn / radius))
        x, y = ahead_of(x, y, direction, radius if turn else piece, -turn * radius)
        direction += turn
    return net.open_road(geometry, junction, speed_kmh, (height_m, height_m))


def write_lane(
    side: ElementTree.Element, lane_id: int, kind: str, mark: str, links: tuple[int, int] | None, change: bool = False
) -> None:
    """Write a lane of a side; `mark` is style/colour, `links` the lanes before and behind it."""
    lane = add(side, "lane", id=lane_id, type=kind, level="false")
    if links is not None:
        link = add(lane, "link")
        add(link, "predecessor", id=links[0])
        add(link, "successor", id=links[1])
    if lane_id:
        width = {"driving": LANE_M, "shoulder": SHOULDER_M, "sidewalk": SIDEWALK_M, "none": 0.0}[kind]
        add(lane, "width", sOffset=0.0, a=width, b=0.0, c=0.0, d=0.0)
    style, _, color = mark.partition("/")
    add(
        lane,
        "roadMark",
        sOffset=0.0,
        type=style,
        weight="standard",
        color=color or "white",
        width=0.15,
        laneChange="both" if change else "none",
    )


def street_lanes(road: ElementTree.Element, lanes: int) -> None:
    """Write the lanes of a street: pavement, kerb and `lanes` driving lanes on either side."""
    section = add(add(road, "lanes"), "laneSection", s=0.0)
    order = [("sidewalk", "none"), ("shoulder", "curb"), *[("driving", "broken")] * lanes]
    left = add(section, "left")
    for lane_id, (kind, mark) in zip(range(lanes + 2, 0, -1), order, strict=True):
        write_lane(left, lane_id, kind, "solid" if lane_id == lanes else mark, None, change=lane_id < lanes)
    middle = "broken/yellow" if lanes == 1 else "solid solid/yellow"
    write_lane(add(section, "center"), 0, "none", middle, None)
    right = add(section, "right")
    for lane_id, (kind, mark) in zip(range(-1, -lanes - 3, -1), reversed(order), strict=True):
        write_lane(right, lane_id, kind, "solid" if lane_id == -lanes else mark, None, change=lane_id > -lanes)


def connect(
    net: Network,
    junction: ElementTree.Element,
    source: Arm,
    target: Arm,
    numbers: tuple[int, int],
    pavement: bool,
    height_m: float,
) -> None:
    """Write the connecting road from lane numbers[0] of `source` to lane numbers[1] of `target`."""
    heading = (source.direction + 2) % 4
    turn = {0: 0, 1: 1, 3: -1}[(target.direction - heading) % 4]
    x, y = ahead_of(source.x, source.y, heading, 0.0, (numbers[0] - 1) * LANE_M)
    goal_x, goal_y = ahead_of(target.x, target.y, target.direction, 0.0, (numbers[1] - 1) * LANE_M)
    east, north = STEP[heading]
    along, across = (goal_x - x) * east + (goal_y - y) * north, abs((goal_x - x) * north - (goal_y - y) * east)
    radius = min(along, across)
    pieces = [(along - radius, 0), (radius * math.pi / 2, turn), (across - radius, 0)] if turn else [(along, 0)]
    junction_id = int(junction.get("id", "-1"))
    road_id = write_road(net, (x, y), heading, pieces, junction_id, source.speed_kmh, height_m)
    road = net.roads[road_id]
    link = road.find("link")
    assert link is not None
    for tag, arm in (("predecessor", source), ("successor", target)):
        add(link, tag, elementType="road", elementId=arm.road_id, contactPoint=arm.contact)
    section = add(add(road, "lanes"), "laneSection", s=0.0)
    write_lane(add(section, "center"), 0, "none", "none", None)
    right = add(section, "right")
    kinds = [("driving", "none"), ("shoulder", "curb"), ("sidewalk", "none")] if pavement else [("driving", "none")]
    connection = add(
        junction,
        "connection",
        id=len(junction.findall("connection")),
        incomingRoad=source.road_id,
        connectingRoad=road_id,
        contactPoint="start",
    )
    for offset, (kind, mark) in enumerate(kinds):
        ends = source.incoming(numbers[0] + offset), target.outgoing(numbers[1] + offset)
        write_lane(right, -1 - offset, kind, mark, ends)
        if kind == "driving":
            add(connection, "laneLink", from_=ends[0], to=-1)


def _turns(net: Network, junction: ElementTree.Element, arms: dict[int, Arm], height_m: float) -> None:
    for source in arms.values():
        outer = source.lanes_in
        if not outer:
            continue
        heading = (source.direction + 2) % 4
        turns = (arms.get((heading + turn) % 4) for turn in (-1, 0, 1))
        right, ahead, left = (arm if arm and arm.lanes_out else None for arm in turns)
        if right:
            paved = source.paved and right.paved
            connect(net, junction, source, right, (outer, right.lanes), paved, height_m)
        for number in range(1, min(outer, ahead.lanes) + 1 if ahead else 1):
            assert ahead is not None
            closed_side = not right and number == outer and source.paved and ahead.paved
            connect(net, junction, source, ahead, (number, number), closed_side, height_m)
        if left:
            connect(net, junction, source, left, (1, 1), pavement=False, height_m=height_m)


def link_arms(net: Network, junction_id: int, arms: Iterable[Arm]) -> None:
    """Let roads say that they end in a junction."""
    for arm in arms:
        link = net.roads[arm.road_id].find("link")
        assert link is not None
        which = "successor" if arm.at_end else "predecessor"
        item = add(link, which, elementType="junction", elementId=junction_id)
        if which == "predecessor":  # the schema wants it first
            link.remove(item)
            link.insert(0, item)


def _paint(net: Network, arm: Arm, junction_id: int, crosswalk: bool) -> None:
    """Stop line and crosswalk in front of a junction."""
    road = net.roads[arm.road_id]
    objects = road.find("objects")
    if objects is None:
        objects = add(road, "objects")
    half = arm.lanes * LANE_M
    first = junction_id * 100 + arm.direction * 10

    def paint(number: int, name: str, kind: str, distance_m: float, corners: list[tuple[float, float]]) -> None:
        s_m = net.lengths_m[arm.road_id] - distance_m if arm.at_end else distance_m
        item = add(objects, "object", id=first + number, name=name, type=kind, s=s_m, t=0.0, zOffset=0.0, hdg=0.0)
        outline = add(item, "outline")
        for u, v in corners:
            add(outline, "cornerLocal", u=u, v=v, z=0.0)

    side = -1.0 if arm.at_end else 1.0
    paint(0, "StopLine", "-1", _STOP_LINE_M, [(0.0, side * 0.2), (0.0, side * (half - 0.1))])
    if crosswalk:
        depth = (_CROSSWALK_M[1] - _CROSSWALK_M[0]) / 2
        corners = [(-depth, half), (depth, half), (depth, -half), (-depth, -half), (-depth, half)]
        paint(1, "ContinentalCrosswalk", "crosswalk", sum(_CROSSWALK_M) / 2, corners)


def _signal(net: Network, arm: Arm, signal_id: int, kind: str) -> None:
    """A light or sign on the right-hand pavement that rules all lanes of `arm` into the junction."""
    road = net.roads[arm.road_id]
    signals = road.find("signals")
    if signals is None:
        signals = add(road, "signals")
    light = kind == "1000001"
    aside = arm.lanes * LANE_M + SHOULDER_M + 0.7
    item = add(
        signals,
        "signal",
        name={"1000001": "Signal_3Light_Post01", "206": "Sign_Stop", "205": "Sign_Yield"}[kind],
        id=signal_id,
        s=net.lengths_m[arm.road_id] - _SIGNAL_M if arm.at_end else _SIGNAL_M,
        t=-aside if arm.at_end else aside,
        zOffset=0.0 if light else 2.4,
        hOffset=0.0,
        roll=0.0,
        pitch=0.0,
        orientation="+" if arm.at_end else "-",
        dynamic="yes" if light else "no",
        country="OpenDRIVE",
        type=kind,
        subtype="-1",
        value="-1",
        text="",
        height=1.0,
        width=0.5,
    )
    lanes = sorted((arm.incoming(1), arm.incoming(arm.lanes)))  # the carla library wants the lower id first
    add(item, "validity", fromLane=lanes[0], toLane=lanes[-1])


def _rule(net: Network, junction: ElementTree.Element, arms: dict[int, Arm], kind: str) -> list[ElementTree.Element]:
    """Lights on every arm, one after the other green; or a sign of `kind` on the arm that meets the ring."""
    junction_id = int(junction.get("id", "-1"))
    lights = kind == "1000001"
    stem = next((arm for arm in arms.values() if (arm.direction + 2) % 4 not in arms), None)
    controllers: list[ElementTree.Element] = []
    ruled = [arm for arm in arms.values() if arm.lanes_in] if lights or stem is None else [stem]
    for sequence, arm in enumerate(ruled):
        signal_id = junction_id * 10 + arm.direction
        _signal(net, arm, signal_id, kind)
        _paint(net, arm, junction_id, crosswalk=lights and arm.paved)
        if lights:
            controller = ElementTree.Element("controller", name=f"ctrl{signal_id}", id=str(signal_id), sequence="0")
            add(controller, "control", signalId=signal_id, type="")
            add(junction, "controller", id=signal_id, type="0", sequence=sequence)
            controllers.append(controller)
    return controllers
