"""Every ending and every infraction made to happen in an episode on the embedded simulator, and kept from happening.

Those of scenarios are in test_scenarios: timeouts and emergency vehicles, waited for and let past.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import carla
import numpy as np
import pytest
from conftest import embedded_server
from driving import FORWARD, STAND, run, value

from zmqcarla.demo.driver import LaneFollowingDriver
from zmqcarla.workers.carla_env import CarlaEnv


def test_max_steps_truncates(make: Any) -> None:
    env = make(max_steps=7)
    env.reset(seed=0)
    steps, terminated, truncated, info = run(env, STAND)
    assert (steps, terminated, truncated, info["terminated_by"]) == (7, False, True, "")


def test_hitting_a_parked_car_terminates(make: Any) -> None:
    env = make()
    env.reset(seed=4)  # no light in the first 45 m
    parked = parked_in_front(env, 15.0)
    _, terminated, _, info = run(env, FORWARD)
    parked.destroy()
    assert terminated
    assert info["terminated_by"] == "collision"
    assert info["collided_with"] == "vehicle.audi.tt"
    assert info["reward_terms"]["collision"] < 0.0
    assert [each["kind"] for each in info["infractions"]] == ["collisions_vehicle"]
    assert info["driving_score"] == pytest.approx(0.6 * info["route_completion"])
    summary = info["episode_summary"]
    assert summary["status"] == "Failed"
    assert summary["scores"]["score_penalty"] == 0.6
    assert f"type=vehicle.audi.tt and id={parked.id} at" in summary["infractions"]["collisions_vehicle"][0]


def test_a_collision_may_be_allowed(make: Any) -> None:
    env = make(terminate_on_collision=False, max_steps=120)
    env.reset(seed=0)
    parked = parked_in_front(env, 15.0)
    steps = [env.step(FORWARD) for _ in range(120)]
    parked.destroy()
    assert any(value(observation, "collision") == 1.0 for observation, *_ in steps)
    assert [(terminated, truncated) for _, _, terminated, truncated, _ in steps[-2:]] == [(False, False), (False, True)]


@pytest.mark.parametrize(
    ("blueprint", "kind", "factor"),
    [
        ("walker.pedestrian.0001", "collisions_pedestrian", 0.5),
        ("vehicle.audi.tt", "collisions_vehicle", 0.6),
        ("static.prop.streetbarrier", "collisions_layout", 0.65),
    ],
)
def test_each_kind_of_collision_is_charged_once(make: Any, blueprint: str, kind: str, factor: float) -> None:
    env = make(terminate_on_collision=False, image_size=(16, 16))
    env.reset(seed=4)
    other = parked_in_front(env, 12.0, blueprint)
    infos = [env.step(FORWARD)[4] for _ in range(90)]
    other.destroy()
    assert sum(bool(info["collided_with"]) for info in infos) >= 1
    assert [each["kind"] for each in infos[-1]["infractions"]] == [kind]
    assert infos[-1]["infraction_penalty"] == pytest.approx(factor)


def test_driving_beside_the_road_is_charged_by_its_share(make: Any) -> None:
    env = make(terminate_on_collision=False, image_size=(16, 16), off_route_m=60.0)
    env.reset(seed=4)
    info: dict[str, Any] = {}
    for _ in range(120):
        *_, info = env.step(np.array([0.04, 0.6, 0.0], dtype=np.float32))
    outside = [each for each in info["infractions"] if each["kind"] == "outside_route_lanes"]
    assert len(outside) == 1
    assert 0.0 < outside[0]["percent"] <= 100.0
    others = [each for each in info["infractions"] if each not in outside]
    assert not others or {each["kind"] for each in others} <= {"collisions_layout"}
    factor = (1.0 - outside[0]["percent"] / 100.0) * 0.65 ** len(others)
    assert info["infraction_penalty"] == pytest.approx(factor)


def test_leaving_the_route_terminates(make: Any) -> None:
    env = make(terminate_on_collision=False, off_route_m=12.0)
    env.reset(seed=0)
    # Reverse in a curve: that leaves the road without a wall to stop at on a route that leads forward.
    _, terminated, _, info = run(env, np.array([0.25, 0.8, 0.0], dtype=np.float32))
    assert terminated
    assert info["terminated_by"] == "off_route"
    assert abs(info["lane_offset_m"]) > 12.0
    assert info["route_completion"] < 100.0


def test_standing_too_long_terminates(make: Any) -> None:
    env = make(reward_type="sparse", image_size=(16, 16))
    env.reset(seed=0)
    steps, terminated, _, info = run(env, STAND)
    assert terminated
    assert info["terminated_by"] == "blocked"
    assert steps == 1200  # 60 s at 20 ticks a second
    assert info["reward_terms"] == {"ending": -1.0}
    assert info["episode_summary"]["status"] == "Failed - Agent got blocked"
    assert info["episode_summary"]["meta"]["duration_game"] == 60.0


def test_driving_past_a_red_light_is_seen_and_charged(make: Any) -> None:
    env = make(image_size=(16, 16))
    observation, _ = env.reset(seed=0)
    world = env.session.world
    for light in world.get_actors().filter("traffic.traffic_light"):
        light.set_state(carla.TrafficLightState.Red)
    world.freeze_all_traffic_lights(True)
    drive, stood_in_the_box = LaneFollowingDriver(), False
    info: dict[str, Any] = {}
    for _ in range(1500):
        observation, _, terminated, _, info = env.step(drive(observation))
        if info["ran_red_light"] or terminated:
            break
        # The light is run when the tail has crossed the line; the box lies before it.
        stood_in_the_box = stood_in_the_box or value(observation, "red_light") == 1.0
    world.freeze_all_traffic_lights(False)
    assert info["ran_red_light"]
    assert info["reward_terms"]["red_light"] < 0.0
    assert stood_in_the_box
    assert info["infraction_penalty"] == pytest.approx(0.7)
    assert info["driving_score"] == pytest.approx(0.7 * info["route_completion"])
    (infraction,) = info["infractions"]
    assert infraction["kind"] == "red_light"
    assert infraction["time_s"] == pytest.approx(info["frame"] * 0.05)
    assert infraction["x_m"] == pytest.approx(value(observation, "x_m"), abs=1e-3)


def parked_in_front(env: CarlaEnv, distance_m: float, kind: str = "vehicle.audi.tt") -> Any:
    """Spawn something on the ego's lane."""
    episode, session = env.episode, env.session
    assert episode is not None
    assert session is not None
    line = episode.scene.route
    k = int(np.searchsorted(line.s_m, distance_m))
    dx, dy = line.xy_m[k + 1] - line.xy_m[k]
    place = carla.Transform(
        carla.Location(float(line.xy_m[k, 0]), float(line.xy_m[k, 1]), 1.0 if kind.startswith("walker") else 0.3),
        carla.Rotation(yaw=float(np.degrees(np.arctan2(dy, dx)))),
    )
    blueprint = session.world.get_blueprint_library().find(kind)
    return session.world.spawn_actor(blueprint, place)


@pytest.mark.timeout(180)  # of simulated time, on a machine that may be busy
def test_who_takes_longer_than_five_minutes_is_stopped(make: Any) -> None:
    env = make(observation="state", delta_s=0.1, frame_skip=100, blocked_s=1000.0)
    env.reset(seed=0)
    for _ in range(30):
        *_, terminated, truncated, info = env.step(STAND)
        assert not terminated
        assert not truncated
        assert info["infractions"] == []
    *_, terminated, _, info = env.step(STAND)
    assert (terminated, info["terminated_by"]) == (True, "route_timeout")
    assert [each["kind"] for each in info["infractions"]] == ["route_timeout"]
    assert info["infractions"][0]["time_s"] == pytest.approx(300.1)
    assert info["episode_summary"]["infractions"]["route_timeout"] == ["Route timeout."]


# --------------------------------------------------------------------------------- a street with a stop sign at 150 m
# Here its env lives to the end, so no other may: a tick of any world steps all Traffic Managers of a process.

STOP_M = 150.0
STREET = """<OpenDRIVE><header revMajor="1" revMinor="4" name="Street"/>
<road name="r" length="400" id="1" junction="-1"><planView><geometry s="0" x="0" y="0" hdg="0" length="400"><line/>
</geometry></planView><lanes><laneSection s="0">
<left><lane id="1" type="driving" level="false"><width sOffset="0" a="4" b="0" c="0" d="0"/></lane></left>
<center><lane id="0" type="none" level="false"/></center>
<right><lane id="-1" type="driving" level="false"><width sOffset="0" a="4" b="0" c="0" d="0"/></lane></right>
</laneSection></lanes><signals><signal s="150" t="5" id="9" name="Sign_Stop" dynamic="no" orientation="-" zOffset="0"
type="206" country="OpenDRIVE" subtype="-1" value="-1" hOffset="0" width="0.6" height="0.6">
<validity fromLane="1" toLane="1"/></signal></signals></road></OpenDRIVE>"""


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CarlaEnv]:
    """An env on that street, whose routes are 100 m long and begin before the sign."""
    folder = tmp_path_factory.mktemp("street")
    town = folder / "Street.xodr"
    town.write_text(STREET)
    with embedded_server(folder / "log", town) as running:
        one = CarlaEnv(
            connect=f"127.0.0.1:{running.spec.port}",
            simulator="embedded",
            observation="state",
            map=str(town),
            terminate_on_collision=False,
            traffic_vehicles=4,
            traffic_speed_percent=60.0,
        )
        yield one
        one.close()


def begin(street: CarlaEnv, **options: Any) -> None:
    """Start at 174.5 m, towards the sign and the smaller numbers."""
    street.reset(seed=0)
    assert street.session is not None
    places = street.session.map.get_spawn_points()
    (start,) = [k for k, place in enumerate(places) if 170.0 < place.location.x < 180.0]
    street.reset(seed=0, options={"spawn_point": start, "goal": (75.0, -2.0, 0.0), **options})


def kinds_of(
    street: CarlaEnv, wanted_mps: float, *, stop_at_m: float | None = None, until_m: float = 215.0
) -> list[str]:
    """Keep a speed along the street, perhaps with a stop; the infractions."""
    info: dict[str, Any] = {}
    stood = stop_at_m is None
    for _ in range(2000):
        ego = street.moment.ego
        x_m, speed_mps = ego.position_m[0], ego.speed_mps
        if x_m < until_m:
            break
        stop = stop_at_m is not None and not stood and x_m < stop_at_m + 0.12 * speed_mps**2
        stood = stood or (stop and speed_mps < 0.01)
        pedal = -1.0 if stop else 0.6 * (wanted_mps - speed_mps)
        throttle, brake = min(max(pedal, 0.0), 0.8), min(max(-pedal, 0.0), 1.0)
        *_, terminated, _, info = street.step(np.array([0.0, throttle, brake], np.float32))
        if terminated:
            break
    return [each["kind"] for each in info["infractions"]]


@pytest.mark.parametrize(("stop_at_m", "kinds"), [(None, ["stop_infraction"]), (STOP_M + 2.0, [])])
def test_who_does_not_stand_at_a_stop_sign_is_charged(
    street: CarlaEnv, stop_at_m: float | None, kinds: list[str]
) -> None:
    begin(street, difficulty=0.0)
    assert kinds_of(street, 8.0, stop_at_m=stop_at_m, until_m=135.0) == kinds


@pytest.mark.parametrize(("speed_mps", "charged"), [(2.0, True), (12.0, False)])
def test_who_is_slower_than_the_traffic_is_charged(street: CarlaEnv, speed_mps: float, charged: bool) -> None:
    begin(street)
    assert ("min_speed_infractions" in kinds_of(street, speed_mps, until_m=147.0)) == charged
