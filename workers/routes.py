"""Route files of the CARLA Leaderboard: what is to be driven, in which weather, and what happens on the way.

    <routes>
      <route id="0" town="Town10HD">
        <weathers> <weather route_percentage="0" cloudiness="5.0" .../> ... </weathers>     optional
        <waypoints> <position x="85.7" y="66.4" z="0.0"/> ... </waypoints>                 keypoints, at least two
        <scenarios> <scenario name="..." type="..."> <trigger_point x y z yaw/> ... </scenario> </scenarios>   optional

Places are in CARLA's world frame, metres and degrees. Reading needs no simulator. How the keypoints become a line to
drive: `navigation.route_through`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

Vector = tuple[float, float, float]

WEATHER_FIELDS = (
    "cloudiness",
    "precipitation",
    "precipitation_deposits",
    "wind_intensity",
    "sun_azimuth_angle",
    "sun_altitude_angle",
    "fog_density",
    "fog_distance",
    "fog_falloff",
    "wetness",
    "scattering_intensity",
    "mie_scattering_scale",
    "rayleigh_scattering_scale",
    "dust_storm",
)
"""Attributes of `carla.WeatherParameters`."""

# What the Leaderboard begins with; other attributes keep the client's defaults.
_BASE_WEATHER = {"sun_altitude_angle": 70.0, "cloudiness": 50.0}


@dataclass(frozen=True, slots=True)
class WeatherKey:
    """The weather at one place of a route.

    Attributes:
        percent: of the route's length, 0 to 100.
        values: by names of `WEATHER_FIELDS`.
    """

    percent: float
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class ScenarioSpec:
    """Something that a route wants to happen.

    Attributes:
        name: unique in its route.
        kind: the scenario's type, such as "HardBreakRoute".
        trigger_m: place that starts it, world frame.
        trigger_yaw_deg: heading of the lane there.
        parameters: the attributes of every further element, by its tag.
    """

    name: str
    kind: str
    trigger_m: Vector
    trigger_yaw_deg: float
    parameters: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RouteSpec:
    """One route of a file.

    Attributes:
        route_id: as written in the file.
        town: name of its map.
        keypoints_m: places to drive through, world frame.
        weathers: sorted by percent, at least one.
        scenarios: in the file's order.
    """

    route_id: str
    town: str
    keypoints_m: tuple[Vector, ...]
    weathers: tuple[WeatherKey, ...]
    scenarios: tuple[ScenarioSpec, ...]

    def weather_at(self, percent: float) -> dict[str, float]:
        """Return the weather at a place, linear between its two keys and constant outside of them."""
        keys = self.weathers
        after = next((k for k, key in enumerate(keys) if key.percent >= percent), len(keys))
        before, ahead = keys[max(after - 1, 0)], keys[min(after, len(keys) - 1)]
        if ahead.percent <= before.percent:
            return dict(ahead.values)
        share = (percent - before.percent) / (ahead.percent - before.percent)
        names = before.values.keys() | ahead.values.keys()
        ends = ((name, before.values.get(name), ahead.values.get(name)) for name in sorted(names))
        return {
            name: start + (end - start) * share if start is not None and end is not None else float(start or end or 0.0)
            for name, start, end in ends
        }


def read_routes(path: str | Path) -> tuple[RouteSpec, ...]:
    """Return the routes of a file in its order.

    Raises:
        ValueError: the file is missing, is not XML, or holds something that is no route; the text says where.
    """
    where = str(path)
    try:
        root = ElementTree.fromstring(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"routes: expected a Leaderboard route file at {where}, found {error}") from error
    except ElementTree.ParseError as error:
        raise ValueError(f"routes: expected XML in {where}, found text that is not: {error}") from None
    if root.tag != "routes":
        raise ValueError(f"routes: expected the root <routes> in {where}, found <{root.tag}>; pass a route file")
    routes = tuple(_route(element, where) for element in root.iter("route"))
    ids = [route.route_id for route in routes]
    twice = sorted({each for each in ids if ids.count(each) > 1})
    if not routes or twice:
        found = f"the id {twice[0]!r} twice" if twice else "none"
        raise ValueError(f"routes: expected routes with different ids in {where}, found {found}")
    return routes


def same_town(a: str, b: str) -> bool:
    """Return whether two map names mean one road network: "Town10HD_Opt" is Town10HD with layers that can be hidden."""
    return a.rpartition("/")[2].removesuffix("_Opt") == b.rpartition("/")[2].removesuffix("_Opt")


def choose_routes(routes: Sequence[RouteSpec], wanted: str) -> tuple[RouteSpec, ...]:
    """Return the routes that a list such as "0,3-5" names, in the file's order; all of them for "".

    A dash takes the ids from the first to the last one in the order of the file.

    Raises:
        ValueError: the file has no such id.
    """
    ids = [route.route_id for route in routes]
    chosen: set[int] = set()
    for part in filter(None, (part.strip() for part in wanted.split(","))):
        first, _, last = (part, "", part) if part in ids else part.partition("-")
        if first not in ids or last not in ids or ids.index(first) > ids.index(last):
            raise ValueError(f"expected ids among {', '.join(ids)}, or a range of them, found {part!r}")
        chosen.update(range(ids.index(first), ids.index(last) + 1))
    return tuple(route for k, route in enumerate(routes) if not wanted or k in chosen)


def _route(element: ElementTree.Element, where: str) -> RouteSpec:
    route_id = _text(element, "id", where)
    where = f"{where}, route {route_id}"
    places = [_vector(position, where) for waypoints in element.iter("waypoints") for position in waypoints]
    if len(places) < 2:
        raise ValueError(f"routes: expected at least two positions in <waypoints> of {where}, found {len(places)}")
    scenarios = tuple(_scenario(each, where) for each in element.iterfind("scenarios/scenario"))
    return RouteSpec(route_id, _text(element, "town", where), tuple(places), _weathers(element, where), scenarios)


def _weathers(element: ElementTree.Element, where: str) -> tuple[WeatherKey, ...]:
    keys = []
    for each in element.iterfind("weathers/weather"):
        unknown = sorted(each.attrib.keys() - {"route_percentage", *WEATHER_FIELDS})
        if unknown:
            raise ValueError(f"routes: expected weather attributes of CARLA in {where}, found {unknown[0]!r}")
        values = {name: _number(each, name, where) for name in WEATHER_FIELDS if name in each.attrib}
        keys.append(WeatherKey(_number(each, "route_percentage", where), {**_BASE_WEATHER, **values}))
    keys.sort(key=lambda key: key.percent)
    if any(a.percent == b.percent for a, b in itertools.pairwise(keys)):
        raise ValueError(f"routes: expected weathers at different percentages in {where}, found two at one")
    return tuple(keys) or (WeatherKey(0.0, _BASE_WEATHER),)


def _scenario(element: ElementTree.Element, where: str) -> ScenarioSpec:
    name = _text(element, "name", where)
    where = f"{where}, scenario {name}"
    trigger = element.find("trigger_point")
    if trigger is None:
        raise ValueError(f"routes: expected a <trigger_point> in {where}, found none")
    others = {each.tag: dict(each.attrib) for each in _others(element)}
    place, yaw_deg = _vector(trigger, where), _number(trigger, "yaw", where)
    return ScenarioSpec(name, _text(element, "type", where), place, yaw_deg, others)


def _others(element: ElementTree.Element) -> Iterator[ElementTree.Element]:
    return (each for each in element if each.tag != "trigger_point")


def _vector(element: ElementTree.Element, where: str) -> Vector:
    return _number(element, "x", where), _number(element, "y", where), _number(element, "z", where)


def _text(element: ElementTree.Element, name: str, where: str) -> str:
    value = element.get(name)
    if not value:
        raise ValueError(f"routes: expected the attribute {name!r} of <{element.tag}> in {where}, found none")
    return value


def _number(element: ElementTree.Element, name: str, where: str) -> float:
    text = _text(element, name, where)
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"routes: expected a number as {name!r} of <{element.tag}> in {where}, found {text!r}")
    return value
