"""A motorway, written as an OpenDRIVE 1.4 document: it stands in for those of CARLA's towns that have one.

Two carriageways run round a stadium, the outer one counter-clockwise. In the middle of each straight a street crosses
them on a bridge, and ramps join it to both: a diamond interchange. Lights hold the traffic where ramps meet the street.
So every lane leads to every other, in both directions.

    outer carriageway  <------------------------------      exits and entries leave and join the outermost lane
    inner carriageway  ------------------------------>      over 60 m; in between they climb to the bridge

A carriageway's reference line is its left edge; all its lanes are on the right. OpenDRIVE's frame, as in streets.py.
"""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import dataclass

from zmqcarla.sim.streets import (
    JUNCTION_M,
    LANE_M,
    Arm,
    Network,
    Piece,
    add,
    ahead_of,
    heading_of,
    link_arms,
    street_lanes,
    write_lane,
    write_road,
)

_STREET_X_M = -250.0  # so that the map's origin lies in the open, on level ground
_HALF_MEDIAN_M = 2.0
_BRIDGE_M = 6.0
_RAMP_BEGIN_M = 195.0  # from the crossing: where a ramp is clear of the carriageway
_TAPER_M = 60.0
_ASIDE_M = 2 * LANE_M  # of the ramp's lane from the outermost one, after the taper
_TERMINAL_M = 60.0  # from the carriageway's edge to the middle of the crossing on the street
_MOTORWAY_KMH, _RAMP_KMH, _STREET_KMH = 90, 60, 50

Pose = tuple[float, float, float]
"""x, y, heading (radians)."""


@dataclass(frozen=True, slots=True)
class _Crossing:
    """Where the street crosses a carriageway: the point of its left edge there, and its direction of travel."""

    x: float
    y: float
    direction: int

    def at(self, along_m: float, right_m: float) -> Pose:
        """A pose along the carriageway, so far beyond the street and so far to the right."""
        x, y = ahead_of(self.x, self.y, self.direction, along_m, right_m)
        return x, y, heading_of(self.direction)


def _course(start: Pose, pieces: list[tuple[float, float]]) -> list[Piece]:
    """Geometry of pieces (length, turn in radians, to the left)."""
    geometry: list[Piece] = []
    x, y, heading = start
    for length, turn in pieces:
        geometry.append((x, y, heading, length, turn / length))
        chord = length * (math.sin(turn / 2) / (turn / 2) if turn else 1.0)
        x, y = x + chord * math.cos(heading + turn / 2), y + chord * math.sin(heading + turn / 2)
        heading += turn
    return geometry


def _swerve(length_m: float, right_m: float) -> list[tuple[float, float]]:
    """Two equal arcs that shift a road sideways over a length and leave its heading."""
    angle = 2 * math.atan(abs(right_m) / length_m)
    arc = angle * length_m / (2 * math.sin(angle))
    turn = math.copysign(angle, -right_m)
    return [(arc, turn), (arc, -turn)]


def _lanes(
    net: Network, road_id: int, lanes: int, links: list[int] | None = None, ends: list[int] | None = None
) -> None:
    """Lanes of a carriageway or ramp, and its shoulder; of a connecting road also which lanes it joins."""
    section = add(add(net.roads[road_id], "lanes"), "laneSection", s=0.0)
    write_lane(add(section, "center"), 0, "none", "solid/yellow", None)
    right = add(section, "right")
    for number in range(1, lanes + 1):
        joined = (links[number - 1], ends[number - 1]) if links and ends else None
        write_lane(right, -number, "driving", "solid" if number == lanes else "broken", joined, change=number < lanes)
    if not links:
        write_lane(right, -lanes - 1, "shoulder", "none", None)


def _carriageway(net: Network, start: Pose, pieces: list[tuple[float, float]], lanes: int) -> int:
    road_id = net.open_road(_course(start, pieces), -1, _MOTORWAY_KMH, (0.0, 0.0))
    _lanes(net, road_id, lanes)
    return road_id


def _ramp(net: Network, start: Pose, right_m: float, climb_m: tuple[float, float]) -> int:
    length = _RAMP_BEGIN_M - JUNCTION_M
    road_id = net.open_road(_course(start, _swerve(length, right_m)), -1, _RAMP_KMH, climb_m)
    _lanes(net, road_id, 1)
    return road_id


def _fork(
    net: Network,
    start: Pose,
    shift_m: float,
    lanes: int,
    roads: tuple[int, int, int],
    merge: bool,
) -> None:
    """The junction where a ramp leaves the outermost lane, or joins it.

    Args:
        net: the document.
        start: where the carriageway enters the junction.
        shift_m: how far the ramp's connecting road swerves to the right.
        lanes: of the carriageway.
        roads: the carriageway before it, the carriageway behind it, the ramp.
        merge: whether the ramp joins.
    """
    before, behind, ramp = roads
    junction = net.open_junction()
    number = int(junction.get("id", "-1"))
    ends = {before: True, behind: False, ramp: merge}
    link_arms(net, number, [Arm(road, at_end, 0, 1, 0, 0.0, 0.0) for road, at_end in ends.items()])
    x, y, heading = start
    aside = (lanes - 1) * LANE_M + (_ASIDE_M if merge else 0.0)
    edge = (x + aside * math.sin(heading), y - aside * math.cos(heading), heading)
    through = [-lane for lane in range(1, lanes + 1)]
    for source, target, pose, pieces, links, targets in (
        (before, behind, start, [(_TAPER_M, 0.0)], through, through),
        (*((ramp, behind) if merge else (before, ramp)), edge, _swerve(_TAPER_M, shift_m), *(
            ([-1], [-lanes]) if merge else ([-lanes], [-1])
        )),
    ):  # fmt: skip
        road_id = net.open_road(_course(pose, pieces), number, _MOTORWAY_KMH, (0.0, 0.0))
        link = net.roads[road_id].find("link")
        assert link is not None
        add(link, "predecessor", elementType="road", elementId=source, contactPoint="end")
        add(link, "successor", elementType="road", elementId=target, contactPoint="start")
        _lanes(net, road_id, len(links), links, targets)
        count = len(junction.findall("connection"))
        connection = add(
            junction, "connection", id=count, incomingRoad=source, connectingRoad=road_id, contactPoint="start"
        )
        for index, lane in enumerate(links):
            add(connection, "laneLink", from_=lane, to=-1 - index)


def _interchange(net: Network, crossing: _Crossing, lanes: int, before: int, behind: int) -> dict[int, Arm]:
    """Write the ramps and the part of the carriageway under the bridge; the arms of the ramps at the street."""
    edge = (lanes - 1) * LANE_M
    clear = edge + _ASIDE_M
    sideways = _TERMINAL_M - clear
    under = _carriageway(net, crossing.at(-_RAMP_BEGIN_M, 0.0), [(2 * _RAMP_BEGIN_M, 0.0)], lanes)
    leave = _ramp(net, crossing.at(-_RAMP_BEGIN_M, clear), sideways, (0.0, _BRIDGE_M))
    join = _ramp(net, crossing.at(JUNCTION_M, _TERMINAL_M), -sideways, (_BRIDGE_M, 0.0))
    _fork(net, crossing.at(-_RAMP_BEGIN_M - _TAPER_M, 0.0), _ASIDE_M, lanes, (before, under, leave), merge=False)
    _fork(net, crossing.at(_RAMP_BEGIN_M, 0.0), -_ASIDE_M, lanes, (under, behind, join), merge=True)
    back = (crossing.direction + 2) % 4
    end, begin = crossing.at(-JUNCTION_M, _TERMINAL_M), crossing.at(JUNCTION_M, _TERMINAL_M)
    return {
        back: Arm(leave, True, back, 1, _RAMP_KMH, end[0], end[1], ways="in", paved=False),
        crossing.direction: Arm(
            join, False, crossing.direction, 1, _RAMP_KMH, begin[0], begin[1], ways="out", paved=False
        ),
    }


def generate_motorway(lanes: int = 4, seed: int = 0) -> str:
    """Write the motorway.

    Args:
        lanes: of each carriageway, at least 2.
        seed: chooses length and bends.

    Returns:
        An OpenDRIVE 1.4 document; equal arguments give equal text.

    Raises:
        ValueError: `lanes` is below 2 or above 5, which the ramps have no room for.
    """
    if not 2 <= lanes <= 5:
        raise ValueError(f"expected 2 to 5 lanes, found {lanes}")
    chance = random.Random(seed)
    radius = float(chance.randrange(150, 201, 10))
    half = _RAMP_BEGIN_M + _TAPER_M + float(chance.randrange(60, 161, 20))
    reach = half + radius + 30.0
    net = Network("Motorway", (_STREET_X_M - reach, -radius - 100.0, _STREET_X_M + reach, radius + 100.0))
    street: dict[float, dict[int, Arm]] = {}
    for outer in (True, False):
        bend = radius + (_HALF_MEDIAN_M if outer else -_HALF_MEDIAN_M)
        south = _Crossing(_STREET_X_M, -bend, 0 if outer else 2)
        north = _Crossing(_STREET_X_M, bend, 2 if outer else 0)
        straight = half - _RAMP_BEGIN_M - _TAPER_M
        turn = math.pi if outer else -math.pi
        pieces = [(straight, 0.0), (bend * math.pi, turn), (straight, 0.0)]
        begin = _RAMP_BEGIN_M + _TAPER_M
        to_north = _carriageway(net, south.at(begin, 0.0), pieces, lanes)
        to_south = _carriageway(net, north.at(begin, 0.0), pieces, lanes)
        outward = _TERMINAL_M if outer else -_TERMINAL_M
        street[-bend - outward] = _interchange(net, south, lanes, to_south, to_north)
        street[bend + outward] = _interchange(net, north, lanes, to_north, to_south)
    _street(net, street)
    return net.text()


def _street(net: Network, crossings: dict[float, dict[int, Arm]]) -> None:
    """Write the street that runs north through all crossings with ramps, given by their y; then the crossings."""
    places = sorted(crossings)
    for south, north in itertools.pairwise(places):
        start, end = (_STREET_X_M, south + JUNCTION_M), (_STREET_X_M, north - JUNCTION_M)
        road_id = write_road(net, start, 1, [(end[1] - start[1], 0)], -1, _STREET_KMH, _BRIDGE_M)
        street_lanes(net.roads[road_id], 1)
        crossings[south][1] = Arm(road_id, False, 1, 1, _STREET_KMH, *start)
        crossings[north][3] = Arm(road_id, True, 3, 1, _STREET_KMH, *end)
    for place in places:
        net.crossing(dict(sorted(crossings[place].items())), "1000001", _BRIDGE_M)
