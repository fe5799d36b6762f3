"""The default map: a small town of square blocks, written as an OpenDRIVE 1.4 document.

The plan is a grid of streets. Where a street meets another there is a junction; the four outer corners are curves of
the ring road. One avenue each way has two lanes per direction. Every lane of an incoming road has its own connecting
road for every turn it may take, so any lane can be driven to any other.

OpenDRIVE's frame is used throughout: x east, y north, headings counted counter-clockwise; directions are 0 east,
1 north, 2 west, 3 south.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from xml.etree import ElementTree

TOWN_NAME = "ZmqTown"

_LANE_M = 3.5
_SHOULDER_M = 0.5
_SIDEWALK_M = 3.0
_JUNCTION_M = 15.0
_CORNER_RADIUS_M = 20.0
_SHORTEST_BLOCK_M = 80
_LONGEST_BLOCK_M = 110
_STOP_LINE_M = 5.0
_SIGNAL_M = 6.5
_CROSSWALK_M = (1.0, 4.0)
_GEOREFERENCE = "+proj=tmerc +lat_0=49.0094 +lon_0=8.4044 +k=1 +x_0=0 +y_0=0 +datum=WGS84 +units=m +no_defs"

Node = tuple[int, int]
_STEP: tuple[Node, ...] = ((1, 0), (0, 1), (-1, 0), (0, -1))


@dataclass(frozen=True, slots=True)
class _Arm:
    """One end of a road at a junction, seen from the junction: it leaves in `direction` from (x, y)."""

    road_id: int
    at_end: bool
    direction: int
    lanes: int
    speed_kmh: int
    x: float
    y: float

    @property
    def contact(self) -> str:
        return "end" if self.at_end else "start"

    def incoming(self, number: int) -> int:
        """OpenDRIVE id of the number-th lane from the middle that leads into the junction."""
        return -number if self.at_end else number

    def outgoing(self, number: int) -> int:
        """OpenDRIVE id of the number-th lane from the middle that leads away from the junction."""
        return number if self.at_end else -number


@dataclass(slots=True)
class _Plan:
    """The grid: street positions, lanes per direction of each street, and what has been written so far."""

    columns_m: list[float]
    rows_m: list[float]
    column_lanes: list[int]
    row_lanes: list[int]
    root: ElementTree.Element
    arms: dict[Node, dict[int, _Arm]] = field(default_factory=dict)
    roads: dict[int, ElementTree.Element] = field(default_factory=dict)
    lengths_m: dict[int, float] = field(default_factory=dict)

    def is_corner(self, node: Node) -> bool:
        return node[0] in (0, len(self.columns_m) - 1) and node[1] in (0, len(self.rows_m) - 1)

    def place(self, node: Node) -> tuple[float, float]:
        return self.columns_m[node[0]], self.rows_m[node[1]]

    def street(self, node: Node, direction: int) -> tuple[int, int]:
        """(lanes per direction, speed limit km/h) of the street that passes the node in this direction."""
        lanes = self.row_lanes[node[1]] if direction % 2 == 0 else self.column_lanes[node[0]]
        index, last = (node[1], len(self.rows_m) - 1) if direction % 2 == 0 else (node[0], len(self.columns_m) - 1)
        return lanes, 50 if lanes > 1 or index in (0, last) else (30, 40)[index % 2]


def _add(parent: ElementTree.Element, tag: str, **attributes: object) -> ElementTree.Element:
    """Append an element; attribute names lose a trailing underscore (`from_`), floats are written exactly."""
    return ElementTree.SubElement(
        parent,
        tag,
        {
            name.rstrip("_"): repr(value) if isinstance(value, float) else str(value)
            for name, value in attributes.items()
        },
    )


def _heading(direction: int) -> float:
    return (0.0, math.pi / 2, math.pi, -math.pi / 2)[direction % 4]


def _ahead(x: float, y: float, direction: int, forward_m: float, right_m: float = 0.0) -> tuple[float, float]:
    """The point `forward_m` along and `right_m` to the right of a direction."""
    (east, north), (right_east, right_north) = _STEP[direction % 4], _STEP[(direction - 1) % 4]
    return x + forward_m * east + right_m * right_east, y + forward_m * north + right_m * right_north


def _road(
    plan: _Plan, start: tuple[float, float], direction: int, pieces: list[tuple[float, int]], junction: int, speed: int
) -> int:
    """Write a road of pieces (length, turn): straight for 0, a quarter circle to the left (1) or right (-1)."""
    road_id = len(plan.roads)
    pieces = [piece for piece in pieces if piece[0] > 1e-6]
    length_m = 0.0
    for piece, _ in pieces:
        length_m += piece
    road = _add(plan.root, "road", name=f"Road {road_id}", length=length_m, id=road_id, junction=junction)
    _add(road, "link")
    _add(_add(road, "type", s=0.0, type="town"), "speed", max=speed, unit="km/h")
    view = _add(road, "planView")
    (x, y), s_m = start, 0.0
    for piece, turn in pieces:
        geometry = _add(view, "geometry", s=s_m, x=x, y=y, hdg=_heading(direction), length=piece)
        if turn:
            radius = piece / (math.pi / 2)
            _add(geometry, "arc", curvature=turn / radius)
            x, y = _ahead(x, y, direction, radius, -turn * radius)
            direction += turn
        else:
            _add(geometry, "line")
            x, y = _ahead(x, y, direction, piece)
        s_m += piece
    _add(_add(road, "elevationProfile"), "elevation", s=0.0, a=0.0, b=0.0, c=0.0, d=0.0)
    _add(road, "lateralProfile")
    plan.roads[road_id], plan.lengths_m[road_id] = road, length_m
    return road_id


def _lane(
    side: ElementTree.Element, lane_id: int, kind: str, mark: str, links: tuple[int, int] | None, change: bool = False
) -> None:
    lane = _add(side, "lane", id=lane_id, type=kind, level="false")
    if links is not None:
        link = _add(lane, "link")
        _add(link, "predecessor", id=links[0])
        _add(link, "successor", id=links[1])
    if lane_id:
        width = {"driving": _LANE_M, "shoulder": _SHOULDER_M, "sidewalk": _SIDEWALK_M, "none": 0.0}[kind]
        _add(lane, "width", sOffset=0.0, a=width, b=0.0, c=0.0, d=0.0)
    style, _, color = mark.partition("/")
    _add(
        lane,
        "roadMark",
        sOffset=0.0,
        type=style,
        weight="standard",
        color=color or "white",
        width=0.15,
        laneChange="both" if change else "none",
    )


def _street_lanes(road: ElementTree.Element, lanes: int) -> None:
    section = _add(_add(road, "lanes"), "laneSection", s=0.0)
    order = [("sidewalk", "none"), ("shoulder", "curb"), *[("driving", "broken")] * lanes]
    left = _add(section, "left")
    for lane_id, (kind, mark) in zip(range(lanes + 2, 0, -1), order, strict=True):
        _lane(left, lane_id, kind, "solid" if lane_id == lanes else mark, None, change=lane_id < lanes)
    middle = "broken/yellow" if lanes == 1 else "solid solid/yellow"
    _lane(_add(section, "center"), 0, "none", middle, None)
    right = _add(section, "right")
    for lane_id, (kind, mark) in zip(range(-1, -lanes - 3, -1), reversed(order), strict=True):
        _lane(right, lane_id, kind, "solid" if lane_id == -lanes else mark, None, change=lane_id > -lanes)


def _streets(plan: _Plan) -> None:
    """Write every road between two junctions; a road that meets a corner of the ring bends there."""
    for column in range(len(plan.columns_m)):
        for row in range(len(plan.rows_m)):
            for direction, step in enumerate(_STEP):
                node, end = (column, row), (column + step[0], row + step[1])
                inside = 0 <= end[0] < len(plan.columns_m) and 0 <= end[1] < len(plan.rows_m)
                if inside and not plan.is_corner(node) and direction not in plan.arms.setdefault(node, {}):
                    _street(plan, node, end, direction)


def _street(plan: _Plan, node: Node, end: Node, direction: int) -> None:
    lanes, speed = plan.street(node, direction)
    (x, y), (end_x, end_y) = plan.place(node), plan.place(end)
    pieces, arrival = [(abs(end_x - x) + abs(end_y - y) - 2 * _JUNCTION_M, 0)], direction
    if plan.is_corner(end):
        left = (direction + 1) % 4
        turn = 1 if plan.is_corner(node) or 0 <= end[left % 2] + _STEP[left][left % 2] < _count(plan, left) else -1
        arrival = (direction + turn) % 4
        beyond = (end[0] + _STEP[arrival][0], end[1] + _STEP[arrival][1])
        straight = pieces[0][0] + _JUNCTION_M - _CORNER_RADIUS_M
        far_x, far_y = plan.place(beyond)
        rest = abs(far_x - end_x) + abs(far_y - end_y) - _JUNCTION_M - _CORNER_RADIUS_M
        pieces = [(straight, 0), (_CORNER_RADIUS_M * math.pi / 2, turn), (rest, 0)]
        end, end_x, end_y = beyond, far_x, far_y
    start = _ahead(x, y, direction, _JUNCTION_M)
    road_id = _road(plan, start, direction, pieces, -1, speed)
    _street_lanes(plan.roads[road_id], lanes)
    back = (arrival + 2) % 4
    plan.arms[node][direction] = _Arm(road_id, False, direction, lanes, speed, *start)
    finish = _ahead(end_x, end_y, back, _JUNCTION_M)
    plan.arms.setdefault(end, {})[back] = _Arm(road_id, True, back, lanes, speed, *finish)


def _count(plan: _Plan, direction: int) -> int:
    return len(plan.columns_m) if direction % 2 == 0 else len(plan.rows_m)


def _connect(
    plan: _Plan, junction: ElementTree.Element, source: _Arm, target: _Arm, numbers: tuple[int, int], pavement: bool
) -> None:
    """Write the connecting road from lane numbers[0] of `source` to lane numbers[1] of `target`."""
    heading = (source.direction + 2) % 4
    turn = {0: 0, 1: 1, 3: -1}[(target.direction - heading) % 4]
    x, y = _ahead(source.x, source.y, heading, 0.0, (numbers[0] - 1) * _LANE_M)
    goal_x, goal_y = _ahead(target.x, target.y, target.direction, 0.0, (numbers[1] - 1) * _LANE_M)
    east, north = _STEP[heading]
    along, across = (goal_x - x) * east + (goal_y - y) * north, abs((goal_x - x) * north - (goal_y - y) * east)
    radius = min(along, across)
    pieces = [(along - radius, 0), (radius * math.pi / 2, turn), (across - radius, 0)] if turn else [(along, 0)]
    junction_id = int(junction.get("id", "-1"))
    road_id = _road(plan, (x, y), heading, pieces, junction_id, source.speed_kmh)
    road = plan.roads[road_id]
    link = road.find("link")
    assert link is not None
    for tag, arm in (("predecessor", source), ("successor", target)):
        _add(link, tag, elementType="road", elementId=arm.road_id, contactPoint=arm.contact)
    section = _add(_add(road, "lanes"), "laneSection", s=0.0)
    _lane(_add(section, "center"), 0, "none", "none", None)
    right = _add(section, "right")
    kinds = [("driving", "none"), ("shoulder", "curb"), ("sidewalk", "none")] if pavement else [("driving", "none")]
    connection = _add(
        junction,
        "connection",
        id=len(junction.findall("connection")),
        incomingRoad=source.road_id,
        connectingRoad=road_id,
        contactPoint="start",
    )
    for offset, (kind, mark) in enumerate(kinds):
        ends = source.incoming(numbers[0] + offset), target.outgoing(numbers[1] + offset)
        _lane(right, -1 - offset, kind, mark, ends)
        if kind == "driving":
            _add(connection, "laneLink", from_=ends[0], to=-1)


def _turns(plan: _Plan, junction: ElementTree.Element, arms: dict[int, _Arm]) -> None:
    for source in arms.values():
        heading = (source.direction + 2) % 4
        outer = source.lanes
        right, ahead, left = (arms.get((heading + turn) % 4) for turn in (-1, 0, 1))
        if right:
            _connect(plan, junction, source, right, (outer, right.lanes), pavement=True)
        for number in range(1, min(outer, ahead.lanes) + 1 if ahead else 1):
            assert ahead is not None
            closed_side = not right and number == outer
            _connect(plan, junction, source, ahead, (number, number), pavement=closed_side)
        if left:
            _connect(plan, junction, source, left, (1, 1), pavement=False)


def _link_streets(plan: _Plan, junction_id: int, arms: dict[int, _Arm]) -> None:
    for arm in arms.values():
        link = plan.roads[arm.road_id].find("link")
        assert link is not None
        which = "successor" if arm.at_end else "predecessor"
        item = _add(link, which, elementType="junction", elementId=junction_id)
        if which == "predecessor":  # the schema wants it first
            link.remove(item)
            link.insert(0, item)


def _paint(plan: _Plan, arm: _Arm, junction_id: int, crosswalk: bool) -> None:
    """Stop line and crosswalk in front of a junction."""
    road = plan.roads[arm.road_id]
    objects = road.find("objects")
    if objects is None:
        objects = _add(road, "objects")
    half = arm.lanes * _LANE_M
    first = junction_id * 100 + arm.direction * 10

    def paint(number: int, name: str, kind: str, distance_m: float, corners: list[tuple[float, float]]) -> None:
        s_m = plan.lengths_m[arm.road_id] - distance_m if arm.at_end else distance_m
        item = _add(objects, "object", id=first + number, name=name, type=kind, s=s_m, t=0.0, zOffset=0.0, hdg=0.0)
        outline = _add(item, "outline")
        for u, v in corners:
            _add(outline, "cornerLocal", u=u, v=v, z=0.0)

    side = -1.0 if arm.at_end else 1.0
    paint(0, "StopLine", "-1", _STOP_LINE_M, [(0.0, side * 0.2), (0.0, side * (half - 0.1))])
    if crosswalk:
        depth = (_CROSSWALK_M[1] - _CROSSWALK_M[0]) / 2
        corners = [(-depth, half), (depth, half), (depth, -half), (-depth, -half), (-depth, half)]
        paint(1, "ContinentalCrosswalk", "crosswalk", sum(_CROSSWALK_M) / 2, corners)


def _signal(plan: _Plan, arm: _Arm, signal_id: int, kind: str) -> None:
    """A light or sign on the right-hand pavement that rules all lanes of `arm` into the junction."""
    road = plan.roads[arm.road_id]
    signals = road.find("signals")
    if signals is None:
        signals = _add(road, "signals")
    light = kind == "1000001"
    aside = arm.lanes * _LANE_M + _SHOULDER_M + 0.7
    item = _add(
        signals,
        "signal",
        name={"1000001": "Signal_3Light_Post01", "206": "Sign_Stop", "205": "Sign_Yield"}[kind],
        id=signal_id,
        s=plan.lengths_m[arm.road_id] - _SIGNAL_M if arm.at_end else _SIGNAL_M,
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
    lanes = sorted((arm.incoming(1), arm.incoming(arm.lanes)), key=abs)
    _add(item, "validity", fromLane=lanes[0], toLane=lanes[-1])


def _rule(plan: _Plan, junction: ElementTree.Element, arms: dict[int, _Arm], kind: str) -> list[ElementTree.Element]:
    """Lights on every arm, one after the other green; or a sign of `kind` on the arm that meets the ring."""
    junction_id = int(junction.get("id", "-1"))
    lights = kind == "1000001"
    stem = next((arm for arm in arms.values() if (arm.direction + 2) % 4 not in arms), None)
    controllers: list[ElementTree.Element] = []
    for sequence, arm in enumerate(arms.values() if lights or stem is None else [stem]):
        signal_id = junction_id * 10 + arm.direction
        _signal(plan, arm, signal_id, kind)
        _paint(plan, arm, junction_id, crosswalk=lights)
        if lights:
            controller = ElementTree.Element("controller", name=f"ctrl{signal_id}", id=str(signal_id), sequence="0")
            _add(controller, "control", signalId=signal_id, type="")
            _add(junction, "controller", id=signal_id, type="0", sequence=sequence)
            controllers.append(controller)
    return controllers


def generate_town(blocks: int = 3, seed: int = 0) -> str:
    """Write the town.

    Args:
        blocks: Blocks along each side, at least 2; three make a town of about 300 m by 300 m.
        seed: Chooses block sizes, the avenues and where signs stand in place of lights.

    Returns:
        An OpenDRIVE 1.4 document; equal arguments give equal text.

    Raises:
        ValueError: `blocks` is below 2.
    """
    if blocks < 2:
        raise ValueError(
            f"expected blocks >= 2 (a single block has no junction), found {blocks}; pass blocks=2 or more"
        )
    chance = random.Random(seed)
    sides = [[0.0], [0.0]]
    for side in sides:
        for _ in range(blocks):
            side.append(side[-1] + float(chance.randrange(_SHORTEST_BLOCK_M, _LONGEST_BLOCK_M + 1, 5)))
    avenues = [chance.randrange(1, blocks) for _ in sides]
    lanes = [[2 if street == avenue else 1 for street in range(blocks + 1)] for avenue in avenues]
    root = ElementTree.Element("OpenDRIVE")
    header = _add(root, "header", revMajor=1, revMinor=4, name=TOWN_NAME, version=1, north=sides[1][-1], south=0.0)
    header.attrib.update({"east": repr(sides[0][-1]), "west": "0.0", "vendor": "zmqcarla"})
    _add(header, "geoReference").text = _GEOREFERENCE
    plan = _Plan(sides[0], sides[1], lanes[0], lanes[1], root)
    _streets(plan)
    nodes = sorted(node for node in plan.arms if not plan.is_corner(node))
    ends = [node for node in nodes if len(plan.arms[node]) == 3]
    signed = dict(zip(chance.sample(ends, 3), ("206", "206", "205"), strict=True))
    junctions: list[ElementTree.Element] = []
    controllers: list[ElementTree.Element] = []
    for junction_id, node in enumerate(nodes, start=1000):
        arms = dict(sorted(plan.arms[node].items()))
        junction = ElementTree.Element("junction", id=str(junction_id), name=f"junction{junction_id}")
        _link_streets(plan, junction_id, arms)
        _turns(plan, junction, arms)
        controllers += _rule(plan, junction, arms, signed.get(node, "1000001"))
        junctions.append(junction)
    root.extend(controllers + junctions)
    ElementTree.indent(root, " ")
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"
