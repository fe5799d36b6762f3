"""Leaderboard route files: what is read, what is refused, and the line that is planned through their keypoints."""

from __future__ import annotations

from pathlib import Path

import carla
import numpy as np
import pytest

from zmqcarla.workers.lane_graph import LaneGraph
from zmqcarla.workers.navigation import RoadOption, RouteTracker, route_through
from zmqcarla.workers.routes import choose_routes, read_routes, same_town

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
WAYPOINTS = '<waypoints><position x="1" y="2" z="0"/><position x="30" y="2" z="0"/></waypoints>'

NO_TRIGGER = '<scenarios><scenario name="a" type="b"/></scenarios>'
FROGS = '<weathers><weather route_percentage="0" frogs="1"/></weathers>'


def written(tmp_path: Path, *routes: str) -> Path:
    path = tmp_path / "routes.xml"
    path.write_text(f"<routes>{''.join(routes)}</routes>")
    return path


def route(inside: str = WAYPOINTS, route_id: str = "0") -> str:
    return f'<route id="{route_id}" town="Town01">{inside}</route>'


def test_a_route_holds_what_its_file_says(tmp_path: Path) -> None:
    inside = f"""{WAYPOINTS}
        <weathers><weather route_percentage="100" fog_density="30"/>
            <weather route_percentage="0" fog_density="10" cloudiness="0"/></weathers>
        <scenarios><scenario name="Brake_1" type="HardBreakRoute">
            <trigger_point x="5" y="2" z="0" yaw="180.5"/><distance value="35"/></scenario></scenarios>"""
    (spec,) = read_routes(written(tmp_path, route(inside)))
    assert (spec.route_id, spec.town) == ("0", "Town01")
    assert spec.keypoints_m == ((1.0, 2.0, 0.0), (30.0, 2.0, 0.0))
    (scenario,) = spec.scenarios
    assert (scenario.name, scenario.kind) == ("Brake_1", "HardBreakRoute")
    assert (scenario.trigger_m, scenario.trigger_yaw_deg) == ((5.0, 2.0, 0.0), 180.5)
    assert scenario.parameters == {"distance": {"value": "35"}}


def test_weather_is_linear_between_its_places_and_constant_outside(tmp_path: Path) -> None:
    inside = (
        WAYPOINTS
        + """<weathers><weather route_percentage="20" fog_density="10"/>
        <weather route_percentage="60" fog_density="30" sun_altitude_angle="10"/></weathers>"""
    )
    (spec,) = read_routes(written(tmp_path, route(inside)))
    fog = [spec.weather_at(percent)["fog_density"] for percent in (0, 20, 30, 60, 100)]
    assert fog == pytest.approx([10, 10, 15, 30, 30])
    assert spec.weather_at(40)["sun_altitude_angle"] == pytest.approx(40.0)  # from the Leaderboard's 70 to 10
    carla.WeatherParameters(**spec.weather_at(40))


def test_without_weather_it_is_the_leaderboards(tmp_path: Path) -> None:
    (spec,) = read_routes(written(tmp_path, route()))
    assert spec.weather_at(50) == {"sun_altitude_angle": 70.0, "cloudiness": 50.0}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<routes>", "expected XML"),
        ("<OpenDRIVE/>", "expected the root <routes>"),
        ("<routes/>", "found none"),
        (f"<routes>{route()}{route()}</routes>", "found the id '0' twice"),
        (f'<routes><route id="0">{WAYPOINTS}</route></routes>', "expected the attribute 'town'"),
        (f"<routes>{route('<waypoints/>')}</routes>", "at least two positions"),
        (f"<routes>{route(WAYPOINTS.replace('30', 'far'))}</routes>", "expected a number as 'x'.*'far'"),
        (f"<routes>{route(WAYPOINTS.replace('30', 'nan'))}</routes>", "expected a number as 'x'.*'nan'"),
        (f"<routes>{route(WAYPOINTS + NO_TRIGGER)}</routes>", "expected a <trigger_point>"),
        (f"<routes>{route(WAYPOINTS + FROGS)}</routes>", "found 'frogs'"),
    ],
)
def test_a_bad_file_is_an_error_that_says_where(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "bad.xml"
    path.write_text(text)
    with pytest.raises(ValueError, match=said) as error:
        read_routes(path)
    assert "bad.xml" in str(error.value)


def test_a_missing_file_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"expected a Leaderboard route file at nowhere\.xml"):
        read_routes("nowhere.xml")


def test_routes_are_chosen_by_id_and_range(tmp_path: Path) -> None:
    routes = read_routes(written(tmp_path, *(route(route_id=str(k)) for k in (7, 3, 5, 9))))
    assert [each.route_id for each in choose_routes(routes, "")] == ["7", "3", "5", "9"]
    assert [each.route_id for each in choose_routes(routes, "9, 3-5")] == ["3", "5", "9"]
    for wrong in ("4", "5-3", "3-"):
        with pytest.raises(ValueError, match="expected ids among 7, 3, 5, 9"):
            choose_routes(routes, wrong)


def test_layered_maps_are_the_same_town() -> None:
    assert same_town("Carla/Maps/Town10HD_Opt", "Town10HD")
    assert not same_town("Town01", "Town10HD")


def test_the_line_through_the_keypoints_keeps_to_the_lanes() -> None:
    map_path, routes_path = DATA / "maps" / "Town10HD.xodr", DATA / "routes" / "routes_town10.xml"
    if not map_path.exists():
        pytest.skip("the maps of CARLA are not beside this checkout")
    carla_map = carla.Map("Town10HD", map_path.read_text())
    (spec,) = read_routes(routes_path)
    graph = LaneGraph(carla_map)
    line = route_through(graph, spec.keypoints_m)
    assert 450.0 < line.length_m < 650.0
    for x, y, _ in spec.keypoints_m:
        assert np.linalg.norm(line.xy_m - (x, y), axis=1).min() < 2.5
    for x, y in line.xy_m[::10]:
        lane = carla_map.get_waypoint(carla.Location(float(x), float(y), 0.0))
        assert lane.transform.location.distance(carla.Location(float(x), float(y), lane.transform.location.z)) < 0.8
    assert {RoadOption.LANEFOLLOW, RoadOption.RIGHT, RoadOption.STRAIGHT} <= {RoadOption(c) for c in line.command}
    with pytest.raises(ValueError, match="expected keypoints at different places"):
        route_through(graph, [spec.keypoints_m[0], spec.keypoints_m[0]])


def test_a_long_route_counts_as_done_past_99_percent_and_near_its_end() -> None:
    map_path = DATA / "maps" / "Town10HD.xodr"
    if not map_path.exists():
        pytest.skip("the maps of CARLA are not beside this checkout")
    graph = LaneGraph(carla.Map("Town10HD", map_path.read_text()))
    line = route_through(graph, read_routes(DATA / "routes" / "routes_town10.xml")[0].keypoints_m)
    tracker = RouteTracker(line, *line.xy_m[0])
    arrived_m = []
    for (x, y), s_m in zip(line.xy_m, line.s_m, strict=True):
        tracker.follow(float(x), float(y))
        if tracker.update(float(x), float(y), 0.0).arrived:
            arrived_m.append(float(line.length_m - s_m))
    assert 4.0 < arrived_m[0] < 5.4  # a hundredth of 530 m
