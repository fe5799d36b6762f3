"""Each criterion on ticks that must trigger it and on ticks that must not, over a real map, without a simulator."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import carla
import pytest

from zmqcarla.workers.criteria.base import Criterion, Hit, Infraction, Kind, Staged, Tick
from zmqcarla.workers.criteria.collisions import Collisions
from zmqcarla.workers.criteria.lanes import OutsideLanes
from zmqcarla.workers.criteria.progress import MinimumSpeed, RouteDeviation, RouteTimeout, VehicleBlocked
from zmqcarla.workers.criteria.signs import RedLights, StopSigns
from zmqcarla.workers.criteria.staged import ScenarioTimeouts, YieldToEmergency
from zmqcarla.workers.score import PENALTY, Score, penalty_of
from zmqcarla.workers.surroundings import Light, StopLine, StopSign

DELTA_S = 0.05
HALF_LENGTH_M = 2.4
START = Tick(0, 0.0, (0.0, 0.0, 0.0), 0.0, 8.0, 8.0, 30.0 / 3.6, 0.0, 0.0)
# One straight road along x, 200 m, a lane of 4 m each way, right-hand traffic.
ROAD = """<OpenDRIVE><header revMajor="1" revMinor="4" name="Road"/>
<road name="r" length="200" id="1" junction="-1"><planView><geometry s="0" x="0" y="0" hdg="0" length="200"><line/>
</geometry></planView><lanes><laneSection s="0">
<left><lane id="1" type="driving" level="false"><width sOffset="0" a="4" b="0" c="0" d="0"/></lane></left>
<center><lane id="0" type="none" level="false"/></center>
<right><lane id="-1" type="driving" level="false"><width sOffset="0" a="4" b="0" c="0" d="0"/></lane></right>
</laneSection></lanes></road></OpenDRIVE>"""
OWN_LANE_Y_M = 2.0


@pytest.fixture(scope="module")
def road() -> Any:
    return carla.Map("Road", ROAD)


def drive(*, y_m: float = OWN_LANE_Y_M, speed_mps: float = 8.0, until_m: float = 190.0, **more: Any) -> list[Tick]:
    """Along the road from x = 10 m at a constant speed; the route is the right lane."""
    ticks: list[Tick] = []
    x_m = 10.0
    while x_m < until_m:
        k = len(ticks) + 1
        x_m += speed_mps * DELTA_S
        place, offset_m = (x_m, y_m, 0.0), abs(y_m - OWN_LANE_Y_M)
        ticks.append(Tick(k, k * DELTA_S, place, 0.0, speed_mps, speed_mps, 10.0, x_m, offset_m, **more))
    return ticks


def stand(seconds: float, **more: Any) -> list[Tick]:
    still = replace(START, speed_mps=0.0, forward_mps=0.0, **more)
    return [replace(still, frame=k, time_s=k * DELTA_S) for k in range(1, round(seconds / DELTA_S) + 1)]


def judged(criterion: Criterion, ticks: list[Tick]) -> list[Infraction]:
    for tick in ticks:
        criterion.update(tick)
    criterion.finish(ticks[-1])
    return criterion.infractions


def hit_at(ticks: list[Tick], hits: Mapping[int, tuple[int, str]]) -> list[Tick]:
    """The same ticks, some of them with a message of the collision sensor."""
    return [replace(t, hits=(Hit(t.frame, *hits[k]),)) if k in hits else t for k, t in enumerate(ticks)]


# --------------------------------------------------------------------------------------------------------- collisions


@pytest.mark.parametrize(
    ("actor_type", "kind"),
    [
        ("vehicle.audi.tt", Kind.COLLISION_VEHICLE),
        ("walker.pedestrian.0001", Kind.COLLISION_PEDESTRIAN),
        ("static.wall", Kind.COLLISION_LAYOUT),
        ("static.prop.barrel", Kind.COLLISION_LAYOUT),
        ("traffic.traffic_light", Kind.COLLISION_LAYOUT),
        ("static.sidewalk", None),
        ("unknown", None),
    ],
)
def test_a_collision_counts_by_what_was_hit(actor_type: str, kind: Kind | None) -> None:
    found = judged(Collisions(), hit_at(drive(), {20: (7, actor_type)}))
    assert [each.kind for each in found] == ([] if kind is None else [kind])


def test_a_long_contact_is_one_collision() -> None:
    contact = dict.fromkeys(range(20, 80), (7, "vehicle.audi.tt"))  # 24 m and 3 s
    (found,) = judged(Collisions(), hit_at(drive(), contact))
    assert found.tick.frame == 21
    assert "type=vehicle.audi.tt and id=7 at (x=" in found.message


def test_the_same_actor_counts_again_after_five_seconds() -> None:
    ticks = drive(speed_mps=4.0)
    assert len(judged(Collisions(), hit_at(ticks, {20: (7, "vehicle.a"), 110: (7, "vehicle.a")}))) == 1
    assert len(judged(Collisions(), hit_at(ticks, {20: (7, "vehicle.a"), 130: (7, "vehicle.a")}))) == 2


def test_another_actor_counts_again_after_five_metres() -> None:
    near, far = {20: (7, "vehicle.a"), 28: (8, "vehicle.b")}, {20: (7, "vehicle.a"), 40: (8, "vehicle.b")}
    assert len(judged(Collisions(), hit_at(drive(), near))) == 1
    assert len(judged(Collisions(), hit_at(drive(), far))) == 2


def test_the_map_is_hit_again_after_five_metres_without_waiting() -> None:
    assert len(judged(Collisions(), hit_at(drive(), {20: (0, "static.wall"), 40: (0, "static.wall")}))) == 2


def test_who_stands_is_not_at_fault() -> None:
    assert not judged(Collisions(), hit_at(stand(1.0), {5: (7, "vehicle.audi.tt")}))


# ---------------------------------------------------------------------------------------------------- lights and signs


LINE = StopLine((1, -1), (1.0, 0.0), ((100.0, -0.4), (100.0, 4.4)))
LIGHT = Light(5, (105.0, 8.0, 0.0), (98.0, 2.0, 0.0), (LINE,))


def test_crossing_the_line_of_a_red_light_counts_once(road: Any) -> None:
    (found,) = judged(RedLights(road, [LIGHT], HALF_LENGTH_M), drive(red_lights=frozenset({5})))
    assert found.kind is Kind.RED_LIGHT
    # The tail crosses it, not the nose.
    assert 100.0 + 0.8 * HALF_LENGTH_M <= found.tick.position_m[0] <= 100.0 + HALF_LENGTH_M + 1.0
    assert "ran a red light 5 at (x=105.0, y=8.0, z=0.0)" in found.message


def test_fast_driving_does_not_jump_over_the_line(road: Any) -> None:
    assert judged(RedLights(road, [LIGHT], HALF_LENGTH_M), drive(speed_mps=28.0, red_lights=frozenset({5})))


@pytest.mark.parametrize("case", ["green", "other lane", "before the line", "against the lane"])
def test_a_red_light_is_not_run(road: Any, case: str) -> None:
    red = frozenset({5})
    ticks = {
        "green": drive(),
        "other lane": drive(y_m=-2.0, red_lights=red),
        "before the line": drive(until_m=100.0, red_lights=red),
        "against the lane": [replace(t, yaw_deg=180.0) for t in reversed(drive(red_lights=red))],
    }[case]
    assert not judged(RedLights(road, [LIGHT], HALF_LENGTH_M), ticks)


SIGN = StopSign(9, (60.0, 6.0, 0.0), (60.0, 2.0, 0.0), (1.5, 1.5))


def with_a_halt(at_m: float) -> list[Tick]:
    """Drive, stand for a second, drive on."""
    ticks = drive()
    k = next(k for k, tick in enumerate(ticks) if tick.position_m[0] >= at_m)
    return [*ticks[:k], *[replace(ticks[k], speed_mps=0.0, forward_mps=0.0)] * 20, *ticks[k:]]


def test_a_stop_sign_is_run_by_not_standing_at_it(road: Any) -> None:
    (found,) = judged(StopSigns(road, [SIGN]), drive())
    assert found.kind is Kind.STOP
    assert 60.0 < found.tick.position_m[0] < 64.0
    assert "ran a stop with id=9 at (x=60.0, y=6.0, z=0.0)" in found.message


@pytest.mark.parametrize("at_m", [57.0, 60.0])
def test_standing_at_a_stop_sign_obeys_it(road: Any, at_m: float) -> None:
    assert not judged(StopSigns(road, [SIGN]), with_a_halt(at_m))


def test_standing_too_early_does_not_obey_a_stop_sign(road: Any) -> None:
    assert judged(StopSigns(road, [SIGN]), with_a_halt(40.0))


def test_a_stop_sign_rules_its_own_lane_only(road: Any) -> None:
    assert not judged(StopSigns(road, [SIGN]), drive(y_m=-2.0))
    assert not judged(StopSigns(road, [SIGN]), [replace(t, forward_mps=-8.0) for t in drive()])


# --------------------------------------------------------------------------------------------------------------- lanes


def test_the_share_driven_on_the_pavement_is_charged(road: Any) -> None:
    ticks = drive()
    middle = [replace(t, position_m=(t.position_m[0], 4.7, 0.0)) if 250 <= k < 350 else t for k, t in enumerate(ticks)]
    (found,) = judged(OutsideLanes(road, 10.0), middle)
    assert found.percent == pytest.approx(100.0 * 100 / len(ticks), abs=0.5)
    assert penalty_of([found]) == pytest.approx(1.0 - 100 / len(ticks), abs=0.005)
    assert "for about 40.0 meters" in found.message


def test_the_oncoming_lane_is_outside_the_route(road: Any) -> None:
    ticks = drive()
    overtaking = [
        replace(t, position_m=(t.position_m[0], -2.0, 0.0)) if 250 <= k < 350 else t for k, t in enumerate(ticks)
    ]
    (found,) = judged(OutsideLanes(road, 10.0), overtaking)
    assert found.distance_m == pytest.approx(40.0, abs=0.5)


@pytest.mark.parametrize("y_m", [1.0, OWN_LANE_Y_M, 4.3])
def test_within_the_lane_and_half_a_metre_beside_it_nothing_is_charged(road: Any, y_m: float) -> None:
    assert not judged(OutsideLanes(road, 10.0), drive(y_m=y_m))


def test_who_stands_outside_is_not_charged_for_it(road: Any) -> None:
    assert not judged(OutsideLanes(road, 10.0), stand(5.0, position_m=(50.0, 9.0, 0.0), s_m=10.0))


# ------------------------------------------------------------------------------------------------------------ progress


def test_far_from_the_route_is_a_deviation() -> None:
    (found,) = judged(RouteDeviation(30.0, 200.0), drive(y_m=33.0))
    assert found.tick.frame == 1
    assert not judged(RouteDeviation(30.0, 200.0), drive(y_m=OWN_LANE_Y_M + 14.0))


def test_long_driving_at_half_the_distance_is_a_deviation() -> None:
    ticks = drive(y_m=OWN_LANE_Y_M + 20.0)
    (found,) = judged(RouteDeviation(30.0, 200.0), ticks)
    assert found.tick.s_m - ticks[0].s_m == pytest.approx(60.0, abs=1.0)  # 30 % of the route
    assert not judged(RouteDeviation(30.0, 200.0), ticks[:140])


def test_standing_for_the_whole_time_in_one_piece_is_blocked() -> None:
    assert [each.tick.time_s for each in judged(VehicleBlocked(60.0), stand(61.0))] == [pytest.approx(60.0)]
    ticks = stand(119.0)
    ticks[1180] = replace(ticks[1180], speed_mps=1.0)
    assert not judged(VehicleBlocked(60.0), ticks)


def test_the_route_has_a_time_limit_that_grows_with_the_way() -> None:
    assert [each.tick.time_s for each in judged(RouteTimeout(0.0), stand(301.0))] == [pytest.approx(300.05)]
    moved = replace(START, frame=1, time_s=DELTA_S, s_m=100.0, speed_limit_mps=10.0)
    later = [replace(tick, s_m=100.0) for tick in stand(399.0)]
    assert not judged(RouteTimeout(0.0), [moved, *later])  # 300 s + 100 m / (10 % of 10 m/s)
    assert judged(RouteTimeout(0.0), [moved, *[replace(tick, s_m=100.0) for tick in stand(401.0)]])


def test_slower_than_the_traffic_is_charged_by_quarters() -> None:
    slow = [replace(tick, traffic_mps=10.0) for tick in drive(speed_mps=4.0, until_m=200.0)]
    found = judged(MinimumSpeed(200.0), slow)
    assert [each.percent for each in found] == [pytest.approx(40.0)] * 4
    assert penalty_of(found) == pytest.approx((1.0 - 0.3 * 0.6) ** 4)


@pytest.mark.parametrize("traffic_mps", [None, 0.0, 7.9])
def test_as_fast_as_the_traffic_or_alone_is_not_charged(traffic_mps: float | None) -> None:
    assert not judged(MinimumSpeed(200.0), [replace(tick, traffic_mps=traffic_mps) for tick in drive()])


# ----------------------------------------------------------------------------------------------------------- scenarios


def followed(ticks: list[Tick], *, gap_m: float, until: int | None = None) -> list[Tick]:
    """The same ticks with an emergency vehicle, in the ego's direction, `gap_m` behind it; negative is ahead of it."""
    return [
        replace(t, staged=Staged(emergency=((t.position_m[0] - gap_m, t.position_m[1], 0.0), 0.0)))
        if until is None or k < until
        else t
        for k, t in enumerate(ticks)
    ]


def test_a_scenario_whose_time_is_up_is_charged_once() -> None:
    ticks = stand(3.0)
    ticks[20] = replace(ticks[20], staged=Staged(overdue=("Accident_1",)))
    (found,) = judged(ScenarioTimeouts(), ticks)
    assert (found.kind, found.tick.frame) == (Kind.SCENARIO_TIMEOUT, 21)
    assert penalty_of([found]) == pytest.approx(0.7)
    assert not judged(ScenarioTimeouts(), stand(3.0, staged=Staged(may_stand=True)))


@pytest.mark.parametrize("until", [200, None])
def test_staying_ahead_of_an_emergency_vehicle_is_charged_at_the_end(until: int | None) -> None:
    (found,) = judged(YieldToEmergency(), followed(drive(), gap_m=10.0, until=until))
    assert found.kind is Kind.YIELD_TO_EMERGENCY
    assert penalty_of([found]) == pytest.approx(0.7)


def test_an_emergency_vehicle_that_got_past_is_no_infraction() -> None:
    ticks = drive()
    passed = [*followed(ticks[:100], gap_m=10.0), *followed(ticks[100:200], gap_m=-5.0), *ticks[200:]]
    assert not judged(YieldToEmergency(), passed)
    assert not judged(YieldToEmergency(), ticks)


def test_the_oncoming_lane_may_be_used_where_a_scenario_asks_for_it(road: Any) -> None:
    ticks = drive()
    allowed = Staged(oncoming_allowed=True)
    overtaking = [
        replace(t, position_m=(t.position_m[0], -2.0, 0.0), staged=allowed) if 250 <= k < 350 else t
        for k, t in enumerate(ticks)
    ]
    assert not judged(OutsideLanes(road, 10.0), overtaking)
    beside = [replace(t, position_m=(t.position_m[0], 5.5, 0.0), staged=allowed) for t in ticks]
    assert judged(OutsideLanes(road, 10.0), beside)


def test_standing_before_a_scenarios_obstacle_is_no_blockage() -> None:
    assert not judged(VehicleBlocked(60.0), stand(120.0, staged=Staged(may_stand=True)))
    freed = [*stand(50.0, staged=Staged(may_stand=True)), *[replace(t, time_s=t.time_s + 50.0) for t in stand(61.0)]]
    assert [each.tick.time_s for each in judged(VehicleBlocked(60.0), freed)] == [pytest.approx(110.0)]


# --------------------------------------------------------------------------------------------------------------- score


def test_the_score_is_completion_times_the_penalties() -> None:
    hits = {20: (7, "walker.pedestrian.0001"), 60: (0, "static.wall"), 100: (8, "vehicle.audi.tt")}
    score = Score([Collisions(), VehicleBlocked(60.0)])
    score.watch(drive())
    score.update(hit_at(drive(), hits), completion_percent=80.0)
    assert score.fresh == {Kind.COLLISION_PEDESTRIAN, Kind.COLLISION_LAYOUT, Kind.COLLISION_VEHICLE}
    assert score.value == pytest.approx(80.0 * 0.5 * 0.65 * 0.6)
    score.update([], completion_percent=100.0)
    assert not score.fresh
    summary = score.summary(200.0)
    assert summary["status"] == "Completed"
    assert summary["scores"] == {"score_route": 100.0, "score_penalty": 0.195, "score_composed": 19.5}
    assert sum(len(messages) for messages in summary["infractions"].values()) == summary["num_infractions"] == 3
    assert [event["kind"] for event in summary["events"]] == [
        "collisions_pedestrian", "collisions_layout", "collisions_vehicle"
    ]  # fmt: skip
    assert score.value_name == "driving_score"


def test_the_penalties_are_the_leaderboards() -> None:
    assert {kind.value: factor for kind, factor in PENALTY.items()} == {
        "collisions_pedestrian": 0.5,
        "collisions_vehicle": 0.6,
        "collisions_layout": 0.65,
        "red_light": 0.7,
        "stop_infraction": 0.8,
        "scenario_timeouts": 0.7,
        "yield_emergency_vehicle_infractions": 0.7,
    }


def test_the_status_says_how_it_ended() -> None:
    perfect, blocked = (
        Score([VehicleBlocked(60.0)]),
        Score([VehicleBlocked(60.0)], skipped=["Brake_1 (HardBreakRoute)"]),
    )
    perfect.update(drive(), completion_percent=100.0)
    assert perfect.status() == "Perfect"
    blocked.watch(stand(60.0))
    blocked.update(stand(60.0), completion_percent=12.0)
    assert blocked.status() == "Partial - Failed - Agent got blocked"
    assert blocked.value_name == "partial_score"
    assert blocked.summary(200.0)["skipped_scenarios"] == ["Brake_1 (HardBreakRoute)"]


def test_the_end_is_judged_once() -> None:
    score = Score([MinimumSpeed(200.0)])
    ticks = [replace(tick, traffic_mps=16.0) for tick in drive(until_m=200.0)]
    score.watch(ticks)
    score.update(ticks, completion_percent=100.0)
    before = len(score.infractions)
    score.finish()
    score.finish()
    assert (before, len(score.infractions)) == (3, 4)
    assert math.isclose(score.penalty, 0.85**4)
