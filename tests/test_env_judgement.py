"""Observation bounds, rewards, infractions and endings from given moments, without a simulator."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from zmqcarla.workers.config import CarlaEnvConfig
from zmqcarla.workers.criteria.base import Kind
from zmqcarla.workers.ego import EgoState
from zmqcarla.workers.events import StepEvents, lane_invaded
from zmqcarla.workers.navigation import NUM_WAYPOINTS, RoadOption, RouteState
from zmqcarla.workers.observation import (
    MEASUREMENTS,
    NAVIGATION,
    VEHICLE_STATE,
    Observer,
    write_vectors,
)
from zmqcarla.workers.reward import REWARDS, StepFacts, dense_reward, make_reward, sparse_reward
from zmqcarla.workers.termination import Ending, ending_of

EGO = EgoState(
    position_m=(1.0, 2.0, 3.0),
    rotation_deg=(0.0, 0.0, 90.0),
    velocity_mps=(8.0, 0.0, 0.0),
    acceleration_mps2=(0.0, 0.0, 0.0),
    angular_velocity_dps=(0.0, 0.0, 0.0),
    speed_mps=8.0,
    speed_limit_mps=0.0,
    light_id=None,
    light_is_red=False,
)
ROUTE = RouteState(
    s_m=50.0,
    progress_m=0.4,
    distance_to_goal_m=50.0,
    completion_percent=50.0,
    lane_offset_m=0.0,
    heading_error_deg=0.0,
    lane_width_m=4.0,
    command=RoadOption.LANEFOLLOW,
    at_junction=False,
    waypoints_ego_m=np.zeros((NUM_WAYPOINTS, 2)),
    arrived=False,
)
FACTS = StepFacts(EGO, ROUTE, StepEvents(), Ending.NONE, steering_change=0.0)
VECTORS = Observer(CarlaEnvConfig(simulator="embedded", observation="state"))


def test_the_observation_holds_the_named_values() -> None:
    red = replace(EGO, light_id=7, light_is_red=True)
    seen = VECTORS.new()
    write_vectors(seen, red, replace(ROUTE, lane_offset_m=-0.5), StepEvents(lane_invasion=True))
    assert VECTORS.space.contains(seen)
    assert seen["vehicle_state"][VEHICLE_STATE.index("yaw_deg")] == 90.0
    assert seen["navigation"][NAVIGATION.index("command")] == RoadOption.LANEFOLLOW
    assert seen["navigation"][NAVIGATION.index("lane_offset_m")] == -0.5
    flags = {name: seen["measurements"][MEASUREMENTS.index(name)] for name in MEASUREMENTS[2:]}
    assert flags == {"collision": 0.0, "lane_invasion": 1.0, "red_light": 1.0, "at_junction": 0.0}


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e30])
def test_the_observation_is_finite_and_within_its_bounds_whatever_the_simulator_says(bad: float) -> None:
    ego = replace(EGO, acceleration_mps2=(bad, bad, bad), speed_mps=bad, position_m=(bad, 0.0, 0.0))
    route = replace(ROUTE, lane_offset_m=bad, waypoints_ego_m=np.full((NUM_WAYPOINTS, 2), bad))
    seen = VECTORS.new()
    write_vectors(seen, ego, route, StepEvents())
    assert VECTORS.space.contains(seen)


def test_good_driving_earns_its_progress() -> None:
    terms = dense_reward(FACTS)
    assert terms["progress"] == pytest.approx(0.04)
    assert sum(terms.values()) == pytest.approx(0.04)


@pytest.mark.parametrize(
    ("facts", "term"),
    [
        (replace(FACTS, ego=replace(EGO, velocity_mps=(0.0, 0.0, 0.0))), "speed"),
        (replace(FACTS, ego=replace(EGO, speed_limit_mps=4.0)), "speed"),
        (replace(FACTS, route=replace(ROUTE, lane_offset_m=1.5)), "centring"),
        (replace(FACTS, steering_change=1.0), "comfort"),
        (replace(FACTS, events=StepEvents(collision=True)), "collision"),
        (replace(FACTS, events=StepEvents(ran_red_light=True)), "red_light"),
        (replace(FACTS, events=StepEvents(lane_invasion=True)), "lane_invasion"),
        (replace(FACTS, ending=Ending.BLOCKED), "ending"),
    ],
)
def test_each_fault_costs_in_its_own_term_only(facts: StepFacts, term: str) -> None:
    usual, now = dense_reward(FACTS), dense_reward(facts)
    assert now[term] < usual[term]
    assert {name for name in usual if usual[name] != now[name]} == {term}


def test_the_sparse_reward_speaks_only_at_the_end() -> None:
    assert sparse_reward(FACTS) == {"ending": 0.0}
    assert sparse_reward(replace(FACTS, ending=Ending.ROUTE_COMPLETED)) == {"ending": 1.0}
    assert sparse_reward(replace(FACTS, ending=Ending.COLLISION)) == {"ending": -1.0}


@pytest.mark.parametrize(
    ("changes", "terms"),
    [
        ({}, {"speed": 0.75}),  # 7.5 m/s where 6 are right
        ({"lane_offset_m": -1.0}, {"position": -0.5}),
        ({"heading_error_deg": -90.0}, {"rotation": -np.pi / 2.0}),
        ({"steering_change": 0.02}, {"action": -0.1}),
        ({"speed_limit_mps": 3.0}, {"speed": 0.25}),
        ({"light_is_red": True}, {"speed": -0.25}),
        ({"collision": True, "ending": Ending.COLLISION}, {"infraction": -7.5, "ending": -1.0}),
    ],
)
def test_the_roach_reward(changes: dict[str, object], terms: dict[str, float]) -> None:
    facts = changed(replace(FACTS, ego=replace(EGO, speed_mps=7.5)), changes)
    expected = {"speed": 0.75, "position": 0.0, "rotation": 0.0, "action": 0.0, "infraction": 0.0, "ending": 0.0}
    assert make_reward("roach", None)(facts) == pytest.approx({**expected, **terms})


@pytest.mark.parametrize(
    ("changes", "reward"),
    [
        ({}, 2.0),
        ({"completed_percent": 0.0}, 0.0),
        ({"lane_invasion": True}, 1.0),
        ({"speed_limit_mps": 6.0}, 1.5),  # half of the excess that costs half
        ({"speed_limit_mps": 2.0}, 1.0),
        ({"acceleration_mps2": (3.0, 4.0, 0.0)}, 1.6),
        ({"lane_invasion": True, "speed_limit_mps": 2.0, "acceleration_mps2": (0.0, 9.0, 0.0)}, 0.4),
        ({"collision": True}, -3.0),
        ({"ran_red_light": True}, -3.0),
        ({"ending": Ending.OFF_ROUTE}, -3.0),
    ],
)
def test_the_carl_reward_is_a_product_whose_terms_add_up(changes: dict[str, object], reward: float) -> None:
    terms = make_reward("carl", None)(changed(replace(FACTS, completed_percent=2.0), changes))
    assert sum(terms.values()) == pytest.approx(reward)


def changed(facts: StepFacts, changes: dict[str, object]) -> StepFacts:
    """The facts with fields of theirs, or of their parts, replaced."""
    left = dict(changes)
    for part in ("ego", "route", "events"):
        own = {name: left.pop(name) for name in list(left) if hasattr(getattr(facts, part), name)}
        facts = replace(facts, **{part: replace(getattr(facts, part), **own)})  # type: ignore[arg-type, unused-ignore]
    return replace(facts, **left)  # type: ignore[arg-type, unused-ignore]


def test_weights_may_be_chosen() -> None:
    terms = make_reward("dense", {"progress_per_m": 2.0, "collision": 1.0})(
        replace(FACTS, events=StepEvents(collision=True))
    )
    assert (terms["progress"], terms["collision"], terms["speed"]) == (0.8, -1.0, 0.0)
    for name, (function, weights) in REWARDS.items():
        assert make_reward(name, None)(FACTS) == function(FACTS, weights()) == function(FACTS)


def own_reward(facts: StepFacts) -> dict[str, float]:
    return {"gain": facts.route.progress_m, "speed": facts.ego.speed_mps}


def wrong_reward(facts: StepFacts) -> float:
    return facts.ego.speed_mps


def test_a_callers_own_reward_is_named() -> None:
    assert make_reward(f"{__name__}:own_reward", None)(FACTS) == {"gain": 0.4, "speed": 8.0}
    with pytest.raises(ValueError, match=r"wrong_reward: expected a dict of finite numbers.*found 8\.0"):
        make_reward(f"{__name__}:wrong_reward", None)(FACTS)


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("money", None, "reward_type: expected one of dense, sparse, roach, carl, or the function 'module:name'"),
        ("no_such_module:reward", None, "No module named 'no_such_module'; put the module"),
        (f"{__name__}:EGO", None, "name a function of StepFacts"),
        ("dense", {"speeed": 1.0}, "reward_weights: expected finite numbers for some of .*found 'speeed'"),
        ("dense", {"speed": float("nan")}, "found 'speed': nan"),
        ("carl", {"speeding_mps": 0.0}, "above 0"),
        (f"{__name__}:own_reward", {"speed": 1.0}, "reward_weights: expected none"),
    ],
)
def test_a_reward_that_cannot_be_had_is_refused(name: str, weights: dict[str, float] | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_reward(name, weights)


@pytest.mark.parametrize(
    ("collided", "arrived", "fresh", "ending"),
    [
        (False, False, [], Ending.NONE),
        (False, False, [Kind.RED_LIGHT, Kind.STOP, Kind.MIN_SPEED], Ending.NONE),
        (False, True, [], Ending.ROUTE_COMPLETED),
        (False, True, [Kind.VEHICLE_BLOCKED, Kind.ROUTE_TIMEOUT], Ending.ROUTE_COMPLETED),
        (True, True, [Kind.COLLISION_VEHICLE], Ending.COLLISION),
        (False, False, [Kind.COLLISION_VEHICLE], Ending.NONE),
        (False, True, [Kind.ROUTE_DEVIATION], Ending.OFF_ROUTE),
        (False, False, [Kind.VEHICLE_BLOCKED], Ending.BLOCKED),
        (False, False, [Kind.ROUTE_TIMEOUT], Ending.ROUTE_TIMEOUT),
    ],
)
def test_endings(collided: bool, arrived: bool, fresh: list[Kind], ending: Ending) -> None:
    assert ending_of(collided=collided, arrived=arrived, fresh=fresh) is ending


def test_the_lane_is_invaded_when_the_body_reaches_over_its_edge() -> None:
    assert not lane_invaded(replace(ROUTE, lane_offset_m=0.9), 1.0)
    assert lane_invaded(replace(ROUTE, lane_offset_m=-1.1), 1.0)
    assert not lane_invaded(replace(ROUTE, lane_offset_m=-1.1, at_junction=True), 1.0)
