"""The two built-in rewards. Both return named terms; the reward is their sum.

`sparse` pays 1 for a completed route and -1 for any other ending. `dense` pays 0.1 for each metre along the route and
10 for its end, and charges a little on every step for a wrong speed, for leaving the middle of the lane and for rough
driving, and much for infractions. A good step at 8 m/s with 20 steps a second is worth about 0.04.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from zmqcarla.workers.config import RewardType
from zmqcarla.workers.ego import EgoState
from zmqcarla.workers.events import StepEvents
from zmqcarla.workers.navigation import RouteState
from zmqcarla.workers.termination import Ending

_PROGRESS_PER_M = 0.1
_SPEED_WEIGHT = 0.02
_CENTRING_WEIGHT = 0.02
_COMFORT_WEIGHT = 0.01
_TARGET_SPEED_MPS = 8.0
_HARD_ACCELERATION_MPS2 = 4.0
_COLLISION = -10.0
_RED_LIGHT = -5.0
_LANE_INVASION = -0.05
_ENDING = {
    Ending.NONE: 0.0,
    Ending.ROUTE_COMPLETED: 10.0,
    Ending.COLLISION: 0.0,  # charged as an infraction, also where it does not end the episode
    Ending.OFF_ROUTE: -10.0,
    Ending.BLOCKED: -10.0,
    Ending.ROUTE_TIMEOUT: -10.0,
}

RewardTerms = dict[str, float]


@dataclass(frozen=True, slots=True)
class StepFacts:
    """What one step is judged by.

    Attributes:
        ego: the vehicle after the step.
        route: its place on the route after the step.
        events: infractions during the step.
        ending: why the episode terminated with it, if it did.
        steering_change: change of the steering command since the step before, 0 to 2.
    """

    ego: EgoState
    route: RouteState
    events: StepEvents
    ending: Ending
    steering_change: float


def dense_reward(facts: StepFacts) -> RewardTerms:
    """Return the terms of the dense reward; see the module for their scale."""
    ego, route, events = facts.ego, facts.route, facts.events
    target_mps = min(_TARGET_SPEED_MPS, ego.speed_limit_mps) if ego.speed_limit_mps > 0.0 else _TARGET_SPEED_MPS
    too_slow_or_fast = min(abs(ego.velocity_mps[0] - target_mps) / target_mps, 1.0)
    half_lane_m = max(route.lane_width_m / 2.0, 1.0)
    off_centre = min(abs(route.lane_offset_m) / half_lane_m, 1.0)
    jolt = min(abs(ego.acceleration_mps2[1]) / _HARD_ACCELERATION_MPS2, 1.0) + facts.steering_change / 2.0
    return {
        "progress": _PROGRESS_PER_M * route.progress_m,
        "speed": -_SPEED_WEIGHT * too_slow_or_fast,
        "centring": -_CENTRING_WEIGHT * off_centre**2,
        "comfort": -_COMFORT_WEIGHT * jolt,
        "collision": _COLLISION if events.collision else 0.0,
        "red_light": _RED_LIGHT if events.ran_red_light else 0.0,
        "lane_invasion": _LANE_INVASION if events.lane_invasion else 0.0,
        "ending": _ENDING[facts.ending],
    }


def sparse_reward(facts: StepFacts) -> RewardTerms:
    """Return the one term of the sparse reward."""
    if facts.ending is Ending.NONE:
        return {"ending": 0.0}
    return {"ending": 1.0 if facts.ending is Ending.ROUTE_COMPLETED else -1.0}


REWARDS: dict[RewardType, Callable[[StepFacts], RewardTerms]] = {"dense": dense_reward, "sparse": sparse_reward}
