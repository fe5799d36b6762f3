"""Scenarios of route files: each kind takes place on the simulator's own town and is judged; its actors come and go."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from driving import STAND

from zmqcarla.demo.driver import LaneFollowingDriver
from zmqcarla.workers.carla_env import CarlaEnv
from zmqcarla.workers.scenarios.base import Scenario
from zmqcarla.workers.scenarios.kinds import KINDS
from zmqcarla.workers.scenarios.obstacles import Obstacle
from zmqcarla.workers.scenarios.programme import Programme
from zmqcarla.workers.servers import Server

TOWN = "ZmqTown"
WAYS = {
    "street": ((18.0, -93.25), (185.0, -93.25)),  # one lane each way, a junction with lights in the middle
    "left": ((18.0, -93.25), (85.0, -93.25), (111.75, -180.0)),  # left at that junction
    "avenue": ((80.0, -173.25), (290.0, -173.25)),  # two lanes each way, on the left one
}
TRIGGERS = {"street": (28.0, -93.25), "left": (28.0, -93.25), "avenue": (128.0, -173.25)}
FAR = '<distance value="35"/>'
SLOW_FLOW = '<flow_speed value="8"/><source_dist_interval from="15" to="25"/>'
NEARBY = '<distance value="60"/>'
FROM_LEFT = '<direction value="left"/>'
CROSS_FLOW = (
    '<start_actor_flow x="111.75" y="-20" z="0"/><end_actor_flow x="111.75" y="-150" z="0"/>'
    '<flow_speed value="6"/><source_dist_interval from="12" to="20"/>'
)
SAME_FLOW = (
    '<start_actor_flow x="150" y="-169.75" z="0"/><end_actor_flow x="285" y="-169.75" z="0"/>'
    '<flow_speed value="6"/><source_dist_interval from="12" to="20"/>'
)
RAMP = '<other_actor_location x="140" y="-169.75" z="0"/>'
FOG = (
    '<weathers><weather route_percentage="0" fog_density="10"/><weather route_percentage="40" fog_density="50"/>'
    "</weathers>"
)
CAR, WALKER, PROP = "vehicle", "walker", "static"

# kind: way, parameters, actors that there have to be at some time, what happens to a driver who sees nothing
CASES: dict[str, tuple[str, str, Counter[str], set[str]]] = {
    "Accident": ("street", FAR, Counter({CAR: 3, PROP: 1}), {"collisions_vehicle"}),
    "AccidentTwoWays": ("street", FAR, Counter({CAR: 5, PROP: 1}), {"collisions_vehicle"}),
    "BlockedIntersection": ("left", "", Counter({CAR: 1}), {"collisions_vehicle"}),
    "ConstructionObstacle": ("street", FAR, Counter({PROP: 10}), {"collisions_layout"}),
    "ConstructionObstacleTwoWays": ("street", FAR, Counter({PROP: 10, CAR: 1}), {"collisions_layout"}),
    "ControlLoss": ("street", "", Counter({PROP: 3}), set()),
    "DynamicObjectCrossing": ("street", FAR, Counter({PROP: 1, WALKER: 1}), {"collisions_pedestrian"}),
    "HardBreakRoute": ("street", "", Counter({CAR: 1}), {"collisions_vehicle"}),
    "HazardAtSideLane": ("street", FAR, Counter({CAR: 2}), {"collisions_vehicle"}),
    "HazardAtSideLaneTwoWays": ("street", FAR, Counter({CAR: 3}), {"collisions_vehicle"}),
    "EnterActorFlow": ("street", CROSS_FLOW, Counter({CAR: 2}), set()),
    "HighwayCutIn": ("avenue", RAMP, Counter({CAR: 1}), set()),
    "HighwayExit": ("street", CROSS_FLOW, Counter({CAR: 2}), set()),
    "InterurbanActorFlow": ("street", CROSS_FLOW, Counter({CAR: 2}), set()),
    "MergerIntoSlowTraffic": ("avenue", SAME_FLOW, Counter({CAR: 2}), set()),
    "InvadingTurn": ("street", '<distance value="30"/>', Counter({CAR: 1, PROP: 3}), set()),
    "NonSignalizedJunctionLeftTurn": ("left", SLOW_FLOW, Counter({CAR: 3}), set()),
    "NonSignalizedJunctionRightTurn": ("left", SLOW_FLOW, Counter({CAR: 3}), set()),
    "OppositeVehicleRunningRedLight": ("street", FROM_LEFT, Counter({CAR: 1}), set()),
    "OppositeVehicleTakingPriority": ("street", FROM_LEFT, Counter({CAR: 1}), set()),
    "ParkedObstacle": ("street", FAR, Counter({CAR: 1, PROP: 1}), {"collisions_vehicle"}),
    "ParkedObstacleTwoWays": ("street", FAR, Counter({CAR: 2, PROP: 1}), {"collisions_vehicle"}),
    "ParkingCrossingPedestrian": ("street", FAR, Counter({CAR: 1, WALKER: 1}), {"collisions_pedestrian"}),
    "ParkingCutIn": ("street", "", Counter({CAR: 2}), {"collisions_vehicle"}),
    "PedestrianCrossing": ("street", "", Counter({WALKER: 3}), {"collisions_pedestrian"}),
    "PriorityAtJunction": ("street", "", Counter(), set()),
    "SignalizedJunctionLeftTurn": ("left", SLOW_FLOW, Counter({CAR: 3}), set()),
    "SignalizedJunctionRightTurn": ("left", SLOW_FLOW, Counter({CAR: 3}), set()),
    "StaticCutIn": ("avenue", '<distance value="5"/>', Counter({CAR: 6}), set()),
    "VehicleOpensDoorTwoWays": ("street", FAR, Counter({CAR: 1}), set()),
    "VehicleTurningRoute": ("left", "", Counter({CAR: 1}), {"collisions_vehicle"}),
    "VehicleTurningRoutePedestrian": ("left", "", Counter({WALKER: 1}), {"collisions_pedestrian"}),
    "YieldToEmergencyVehicle": ("avenue", NEARBY, Counter({CAR: 1}), {"yield_emergency_vehicle_infractions"}),
}


def route(route_id: str, way: str, *scenarios: tuple[str, str]) -> str:
    keypoints = "".join(f'<position x="{x}" y="{y}" z="0"/>' for x, y in WAYS[way])
    x, y = TRIGGERS[way]
    place = f'<trigger_point x="{x}" y="{y}" z="0" yaw="0"/>'
    wanted = [
        f'<scenario name="S{k}" type="{kind}">{place}{more}</scenario>' for k, (kind, more) in enumerate(scenarios)
    ]
    inside = f"<waypoints>{keypoints}</waypoints><scenarios>{''.join(wanted)}</scenarios>"
    return f'<route id="{route_id}" town="{TOWN}">{inside}</route>'


@pytest.fixture(scope="module")
def env(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CarlaEnv]:
    path: Path = tmp_path_factory.mktemp("routes") / "routes.xml"
    several = (("ControlLoss", ""), ("NoSuchKind", ""), ("AccidentTwoWays", FAR))
    routes = [route(kind, way, (kind, more)) for kind, (way, more, _, _) in CASES.items()]
    routes += [
        route("several", "street", *several),
        route("one way", "avenue", ("VehicleOpensDoorTwoWays", '<direction value="up"/>')),
        route("too short", "street", ("DynamicObjectCrossing", '<distance value="900"/>')),
        route("nothing", "street"),
        route("fog", "street").replace("<scenarios>", f"{FOG}<scenarios>"),
    ]
    path.write_text(f"<routes>{''.join(routes)}</routes>")
    one = CarlaEnv(
        connect=f"127.0.0.1:{server.spec.port}",
        simulator="embedded",
        routes=str(path),
        observation="state",
        terminate_on_collision=False,
        max_steps=1500,
    )
    yield one
    one.close()


def begun(env: CarlaEnv, name: str, seed: int = 1) -> tuple[dict[str, Any], dict[str, Any]]:
    return env.reset(seed=seed, options={"route": name})


def programme(env: CarlaEnv) -> Programme:
    assert env.episode is not None
    assert env.episode.programme is not None
    return env.episode.programme


def families(env: CarlaEnv, scenario: Scenario) -> Counter[str]:
    assert env.session is not None
    world = env.session.world
    return Counter(actor.type_id.split(".")[0] for actor in world.get_actors(list(scenario.actors.values())))


def others(env: CarlaEnv) -> int:
    """How many actors of scenarios there are in the world after another tick, which takes those along that are gone."""
    assert env.session is not None
    env.session.tick()
    return sum(actor.attributes.get("role_name") == "scenario" for actor in env.session.world.get_actors())


# --------------------------------------------------------------------------------------------------------- every kind


def test_every_kind_has_a_case() -> None:
    assert CASES.keys() == KINDS.keys()


@pytest.mark.parametrize("kind", CASES)
def test_a_scenario_takes_place(env: CarlaEnv, kind: str) -> None:
    _, _, wanted, faults = CASES[kind]
    driver = LaneFollowingDriver()
    observation, info = begun(env, kind)
    assert info["skipped_scenarios"] == []
    (scenario,) = programme(env).scenarios
    seen: Counter[str] = Counter()
    counted: set[str] = set()
    while not (seen >= wanted and faults <= counted and scenario.phase.value in ("running", "over")):
        observation, _, terminated, truncated, info = env.step(driver(observation))
        assert not terminated
        assert not truncated
        if len(scenario.actors) > seen.total():
            seen |= families(env, scenario)
        counted = {each["kind"] for each in info["infractions"]}
    assert "driving_score" in info


# -------------------------------------------------------------------------------------------------------- what they do


def test_a_patch_of_debris_pulls_at_the_wheel_and_nothing_else_does(env: CarlaEnv) -> None:
    observation, _ = begun(env, "ControlLoss")
    patch_s_m = programme(env).scenarios[0].trigger_s_m + 14.0
    driver, pulls = LaneFollowingDriver(), []
    while env.moment.route.s_m < 50.0:
        action = driver(observation)
        observation, *_ = env.step(action)
        assert env.episode is not None
        pull = env.episode.vehicle.get_control().steer - float(np.clip(action[0], -1.0, 1.0))
        pulls.append((env.moment.route.s_m, pull))
    on_patch = [abs(pull) for s_m, pull in pulls if abs(s_m - patch_s_m) < 1.3]
    assert 0.03 < float(np.mean(on_patch)) < 0.09
    assert all(abs(pull) < 1e-6 for s_m, pull in pulls if abs(s_m - patch_s_m) > 3.0)


def test_the_car_ahead_brakes_stands_and_drives_on(env: CarlaEnv) -> None:
    observation, info = begun(env, "HardBreakRoute")
    (scenario,) = programme(env).scenarios
    driver, speeds = LaneFollowingDriver(), []
    while scenario.phase.value != "over":
        # A driver who halts as soon as the scenario begins.
        waits = scenario.running and scenario.get_state()["own"]["_released_s_m"] is None
        observation, _, _, truncated, info = env.step(STAND if waits else driver(observation))
        assert not truncated
        if "lead" in scenario.actors:
            speeds.append((scenario.phase.value, scenario.actor("lead").get_velocity().length()))
    assert not any(each["kind"].startswith("coll") for each in info["infractions"])
    assert max(speed for phase, speed in speeds if phase == "ready") > 4.0
    assert sum(speed < 0.1 for phase, speed in speeds if phase == "running") > 120
    assert speeds[-1][1] > 4.0


def test_who_waits_for_the_walker_is_not_charged(env: CarlaEnv) -> None:
    observation, info = begun(env, "DynamicObjectCrossing")
    (scenario,) = programme(env).scenarios
    driver = LaneFollowingDriver(cruise_mps=5.0)
    while scenario.phase.value != "over":
        crossing = scenario.get_state()["own"]["_set_off_s"] is not None and "crossing" in scenario.actors
        observation, _, terminated, truncated, info = env.step(STAND if crossing else driver(observation))
        assert not terminated
        assert not truncated
    assert not any(each["kind"].startswith("coll") for each in info["infractions"])


def test_a_scenario_that_takes_too_long_is_charged_and_cleared_away(
    env: CarlaEnv, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Obstacle, "timeout_s", 4.0)
    observation, info = begun(env, "ParkedObstacle")
    (scenario,) = programme(env).scenarios
    driver = LaneFollowingDriver(cruise_mps=5.0)
    while scenario.phase.value != "over":
        observation, *_, info = env.step(STAND if scenario.running else driver(observation))
    assert [each["kind"] for each in info["infractions"]] == ["scenario_timeouts"]
    assert info["infraction_penalty"] == pytest.approx(0.7)
    assert others(env) == 0


def test_letting_an_emergency_vehicle_pass_is_not_charged(env: CarlaEnv) -> None:
    observation, info = begun(env, "YieldToEmergencyVehicle")
    (scenario,) = programme(env).scenarios
    driver = LaneFollowingDriver()
    while scenario.phase.value != "over":
        action = driver(observation)
        if scenario.running:
            # To the lane on the right: the waypoints of the observation move over by its width.
            shifted = {name: part.copy() for name, part in observation.items()}
            shifted["navigation"][7::2] += 3.4
            action = LaneFollowingDriver(cruise_mps=4.0)(shifted)
        observation, _, _, truncated, info = env.step(action)
        assert not truncated
    assert not any("yield" in each["kind"] for each in info["infractions"])


def test_lights_of_a_junction_with_priority_are_green_for_the_ego(env: CarlaEnv) -> None:
    observation, info = begun(env, "PriorityAtJunction")
    (scenario,) = programme(env).scenarios
    driver, red = LaneFollowingDriver(), 0
    while scenario.phase.value != "over":
        observation, *_, info = env.step(driver(observation))
        red += scenario.running and env.moment.ego.light_is_red
    assert red <= 1
    assert not any(each["kind"] == "red_light" for each in info["infractions"])


def test_a_car_from_the_next_lane_cuts_in_before_the_ego(env: CarlaEnv) -> None:
    observation, _ = begun(env, "HighwayCutIn")
    (scenario,) = programme(env).scenarios
    driver, seen = LaneFollowingDriver(cruise_mps=6.0), []
    while scenario.phase.value != "over":
        observation, _, terminated, truncated, _ = env.step(driver(observation))
        assert not terminated
        assert not truncated
        if "cut in" in scenario.actors:
            place = scenario.actor("cut in").get_location()
            seen.append((place.x - env.moment.ego.position_m[0], place.y))
    assert seen[1][1] == pytest.approx(-169.75, abs=0.3)
    ahead_m, y_m = seen[-1]
    assert y_m == pytest.approx(-173.25, abs=0.6)
    assert 2.0 < ahead_m < 30.0


# ------------------------------------------------------------------------------------------------- files, seeds, states


def test_what_cannot_take_place_is_listed_with_its_reason(env: CarlaEnv) -> None:
    _, info = begun(env, "several")
    assert info["skipped_scenarios"] == ["S1 (NoSuchKind): not a kind that can take place here"]
    assert "partial_score" in info
    _, info = begun(env, "one way")
    assert info["skipped_scenarios"] == [
        "S0 (VehicleOpensDoorTwoWays): expected the direction left or right, found 'up'"
    ]
    _, info = begun(env, "too short")
    assert "expected 911 m of route, found" in info["skipped_scenarios"][0]
    _, info = begun(env, "nothing")
    assert info["skipped_scenarios"] == []
    assert "driving_score" in info


def test_actors_that_find_no_room_are_tried_again_and_then_given_up(env: CarlaEnv) -> None:
    import carla  # noqa: PLC0415 - only for one place

    observation, info = begun(env, "ParkedObstacle")
    (scenario,) = programme(env).scenarios
    assert env.session is not None
    blueprint = env.session.world.get_blueprint_library().find("vehicle.carlamotors.firetruck")
    place = carla.Transform(carla.Location(63.0, -92.0, 0.3))
    truck = env.session.world.try_spawn_actor(blueprint, place)
    driver = LaneFollowingDriver(cruise_mps=5.0)
    while scenario.phase.value == "ahead":
        observation, *_, info = env.step(driver(observation))
    truck.destroy()
    assert scenario.phase.value == "skipped"
    assert "expected room for vehicle." in info.get("skipped_scenarios", programme(env).skipped)[0]
    assert "partial_score" in info
    assert others(env) == 0


Places = list[tuple[float, ...]]


def course(env: CarlaEnv, observation: dict[str, Any], steps: int) -> tuple[Places, dict[str, Any]]:
    """Drive without seeing anything; return where the ego and the scenarios' actors are after each step."""
    driver, seen = LaneFollowingDriver(), []
    for _ in range(steps):
        observation, *_ = env.step(driver(observation))
        assert env.episode is not None
        actors = [each.actor(part) for each in programme(env).scenarios for part in each.actors]
        places = [actor.get_transform() for actor in (env.episode.vehicle, *actors)]
        seen.append(tuple(x for p in places for x in (p.location.x, p.location.y, p.rotation.yaw)))
    return seen, observation


def test_one_seed_gives_one_course(env: CarlaEnv) -> None:
    runs = []
    for seed in (5, 5, 6):
        observation, _ = begun(env, "several", seed)
        runs.append(course(env, observation, 130)[0])
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


@pytest.mark.parametrize("name", ["AccidentTwoWays", "PedestrianCrossing"])
def test_a_snapshot_goes_on_in_the_middle_of_a_scenario(env: CarlaEnv, name: str) -> None:
    _, halfway = course(env, begun(env, name)[0], 165)
    (scenario,) = programme(env).scenarios
    assert scenario.phase.value in ("ready", "running")
    state = programme(env).get_state()
    assert msgpack.unpackb(msgpack.packb(state)) == state
    saved = env.save_snapshot(name)
    through, _ = course(env, halfway, 50)
    score = programme(env).report(), env.episode and env.episode.score.value
    begun(env, "nothing")
    observation, _ = env.restore_snapshot(saved)
    assert course(env, observation, 50)[0] == through
    assert (programme(env).report(), env.episode and env.episode.score.value) == score
    env.delete_snapshot(saved)


def test_a_state_is_for_its_own_route_only(env: CarlaEnv) -> None:
    begun(env, "several")
    state = programme(env).get_state()
    begun(env, "nothing")
    with pytest.raises(ValueError, match="restore it on the same route with its seed"):
        programme(env).set_state(state)


def test_the_weather_changes_along_the_route(env: CarlaEnv) -> None:
    observation, info = begun(env, "fog")
    assert env.session is not None
    driver, seen = LaneFollowingDriver(), [env.session.world.get_weather().fog_density]
    while info["route_completion"] < 22.0:
        observation, *_, info = env.step(driver(observation))
        seen.append(env.session.world.get_weather().fog_density)
    assert seen[0] == pytest.approx(10.0)
    assert seen == sorted(seen)
    assert seen[-1] == pytest.approx(10.0 + 40.0 * 22.0 / 40.0, abs=1.1)


def test_the_end_of_an_episode_takes_its_actors_along(env: CarlaEnv) -> None:
    course(env, begun(env, "several")[0], 60)
    assert others(env) > 3
    begun(env, "nothing")
    assert others(env) == 0
