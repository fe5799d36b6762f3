"""The rewards: named terms whose sum is the reward.

`dense` pays for each metre along the route and for its end, and charges a little on every step for a wrong speed, for
leaving the middle of the lane and for rough driving, and much for infractions. With the default weights a good step at
8 m/s with 20 steps a second is worth about 0.04.

`sparse` pays 1 for a completed route and -1 for any other ending.

`roach` is in the manner of the reinforcement learning coach of Zhang et al. (2021): each step pays for the right speed
and charges for the distance from the lane's centre, for the heading and for turning the wheel; an infraction costs more
at speed. The right speed is 0 before a red light; other cars and walkers do not change it, as they do there.

`carl` is in the manner of CaRL (Jaeger et al. 2025): what pays is the share of the route that was newly completed,
times factors of 0 to 1 for driving badly meanwhile; its terms say how much each factor took. Hard infractions cost
extra.

A caller's own reward is a function of `StepFacts` that returns such terms, named "module:name".
"""

from __future__ import annotations

import dataclasses
import importlib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from zmqcarla.workers.ego import EgoState
from zmqcarla.workers.events import StepEvents
from zmqcarla.workers.navigation import RouteState
from zmqcarla.workers.termination import Ending

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
        completed_percent: share of the route that was completed for the first time in this step.
    """

    ego: EgoState
    route: RouteState
    events: StepEvents
    ending: Ending
    steering_change: float
    completed_percent: float = 0.0


RewardFunction = Callable[[StepFacts], RewardTerms]


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseWeights:
    """Of `dense`: what is paid and charged."""

    progress_per_m: float = 0.1
    """Paid for each metre along the route."""

    speed: float = 0.02
    """Charged each step, times the relative difference from the target speed, at most 1."""

    target_speed_mps: float = 8.0
    """Or the speed limit, where that is lower."""

    centring: float = 0.02
    """Charged each step, times the square of the offset in half lanes, at most 1."""

    comfort: float = 0.01
    """Charged each step, times lateral acceleration (1 at hard_acceleration_mps2) and change of the steering."""

    hard_acceleration_mps2: float = 4.0
    """Lateral acceleration that counts fully."""

    collision: float = 10.0
    """Charged for a step with a collision."""

    red_light: float = 5.0
    """Charged for driving past a red light."""

    lane_invasion: float = 0.05
    """Charged each step that the body reaches over the lane's edge."""

    route_completed: float = 10.0
    """Paid at the end of the route."""

    failed: float = 10.0
    """Charged for any other ending, but a collision, which is charged already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SparseWeights:
    """Of `sparse`."""

    route_completed: float = 1.0
    """Paid at the end of the route."""

    failed: float = 1.0
    """Charged for any other ending."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoachWeights:
    """Of `roach`."""

    max_speed_mps: float = 6.0
    """The right speed, or the speed limit where that is lower; 0 before a red light."""

    speed: float = 1.0
    """Paid each step, times 1 - |speed - right speed| / max_speed_mps."""

    position_per_m: float = 0.5
    """Charged each step for each metre from the lane's centre."""

    rotation_per_rad: float = 1.0
    """Charged each step for the heading error."""

    action: float = 0.1
    """Charged for a step whose steering differs by more than 0.01 from the last."""

    failed: float = 1.0
    """Charged for any ending but a completed route."""

    infraction_per_mps: float = 1.0
    """Charged on top for a collision or a red light, for each metre a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CarlWeights:
    """Of `carl`."""

    completion_per_percent: float = 1.0
    """Paid for each newly completed percent of the route."""

    lane_factor: float = 0.5
    """What is left of that while the body reaches over the lane's edge."""

    speeding_factor: float = 0.5
    """What is left at more than speeding_mps above the limit; in between it falls evenly."""

    speeding_mps: float = 4.0
    """Excess of speed that costs fully."""

    comfort_factor: float = 0.8
    """What is left at an acceleration of hard_acceleration_mps2 or more, in any direction."""

    hard_acceleration_mps2: float = 5.0
    """Acceleration that costs fully."""

    collision: float = 5.0
    """Charged for a collision."""

    red_light: float = 5.0
    """Charged for driving past a red light."""

    failed: float = 5.0
    """Charged for leaving the route and for being blocked."""


def dense_reward(facts: StepFacts, weights: DenseWeights = DenseWeights()) -> RewardTerms:
    """Return the terms of the dense reward; see the module for their scale."""
    ego, route, events = facts.ego, facts.route, facts.events
    target_mps = _within_limit(weights.target_speed_mps, ego)
    too_slow_or_fast = min(abs(ego.velocity_mps[0] - target_mps) / target_mps, 1.0)
    half_lane_m = max(route.lane_width_m / 2.0, 1.0)
    off_centre = min(abs(route.lane_offset_m) / half_lane_m, 1.0)
    jolt = min(abs(ego.acceleration_mps2[1]) / weights.hard_acceleration_mps2, 1.0) + facts.steering_change / 2.0
    # A collision is charged as an infraction, also where it does not end the episode.
    failed = facts.ending not in (Ending.NONE, Ending.ROUTE_COMPLETED, Ending.COLLISION)
    return {
        "progress": weights.progress_per_m * route.progress_m,
        "speed": -weights.speed * too_slow_or_fast,
        "centring": -weights.centring * off_centre**2,
        "comfort": -weights.comfort * jolt,
        "collision": _charge(weights.collision, events.collision),
        "red_light": _charge(weights.red_light, events.ran_red_light),
        "lane_invasion": _charge(weights.lane_invasion, events.lane_invasion),
        "ending": weights.route_completed
        if facts.ending is Ending.ROUTE_COMPLETED
        else _charge(weights.failed, failed),
    }


def sparse_reward(facts: StepFacts, weights: SparseWeights = SparseWeights()) -> RewardTerms:
    """Return the one term of the sparse reward."""
    if facts.ending is Ending.NONE:
        return {"ending": 0.0}
    return {"ending": weights.route_completed if facts.ending is Ending.ROUTE_COMPLETED else -weights.failed}


def roach_reward(facts: StepFacts, weights: RoachWeights = RoachWeights()) -> RewardTerms:
    """Return the terms of the reward in the manner of Roach."""
    ego, route, events = facts.ego, facts.route, facts.events
    right_mps = 0.0 if ego.light_is_red else _within_limit(weights.max_speed_mps, ego)
    infraction = events.collision or events.ran_red_light
    failed = facts.ending not in (Ending.NONE, Ending.ROUTE_COMPLETED)
    return {
        "speed": weights.speed * (1.0 - abs(ego.speed_mps - right_mps) / weights.max_speed_mps),
        "position": -weights.position_per_m * abs(route.lane_offset_m),
        "rotation": -weights.rotation_per_rad * math.radians(abs(route.heading_error_deg)),
        "action": _charge(weights.action, facts.steering_change > 0.01),
        "infraction": _charge(weights.infraction_per_mps * ego.speed_mps, infraction),
        "ending": _charge(weights.failed, failed),
    }


def carl_reward(facts: StepFacts, weights: CarlWeights = CarlWeights()) -> RewardTerms:
    """Return the terms of the reward in the manner of CaRL; each factor's term is what it took."""
    ego, events = facts.ego, facts.events
    excess_mps = max(0.0, ego.speed_mps - ego.speed_limit_mps) if ego.speed_limit_mps > 0.0 else 0.0
    acceleration_mps2 = math.hypot(ego.acceleration_mps2[0], ego.acceleration_mps2[1])
    factors = {
        "lane": weights.lane_factor if events.lane_invasion else 1.0,
        "speeding": _falling(excess_mps / weights.speeding_mps, weights.speeding_factor),
        "comfort": _falling(acceleration_mps2 / weights.hard_acceleration_mps2, weights.comfort_factor),
    }
    left = weights.completion_per_percent * facts.completed_percent
    terms = {"completion": left}
    for name, factor in factors.items():
        terms[name] = left * (factor - 1.0)
        left *= factor
    failed = facts.ending in (Ending.OFF_ROUTE, Ending.BLOCKED)
    return {
        **terms,
        "collision": _charge(weights.collision, events.collision),
        "red_light": _charge(weights.red_light, events.ran_red_light),
        "ending": _charge(weights.failed, failed),
    }


REWARDS: Final[dict[str, tuple[Callable[..., RewardTerms], type[Any]]]] = {
    "dense": (dense_reward, DenseWeights),
    "sparse": (sparse_reward, SparseWeights),
    "roach": (roach_reward, RoachWeights),
    "carl": (carl_reward, CarlWeights),
}


def make_reward(reward_type: str, weights: Mapping[str, Any] | None) -> RewardFunction:
    """Return the reward of a name, or the function "module:name".

    Args:
        reward_type: one of `REWARDS`, or "module:name".
        weights: replaces fields of the preset's weights.

    Raises:
        ValueError: there is no such reward, or no such weight.
    """
    if reward_type in REWARDS:
        function, kind = REWARDS[reward_type]
        known = {field.name for field in dataclasses.fields(kind)}
        for name, value in (weights or {}).items():
            good = name in known and isinstance(value, (int, float)) and math.isfinite(value)
            if not good or (name in _DIVISORS and value <= 0.0):
                raise ValueError(
                    f"reward_weights: expected finite numbers for some of {', '.join(sorted(known))} (speeds and "
                    f"accelerations above 0), found {name!r}: {value!r}; correct it"
                )
        chosen = kind(**(weights or {}))
        return lambda facts: function(facts, chosen)
    if weights:
        raise ValueError(f"reward_weights: expected none with {reward_type!r}, found {dict(weights)!r}; leave them out")
    return _checked(reward_type, _load(reward_type))


_FUNCTION_NAME: Final = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_DIVISORS: Final = {"target_speed_mps", "hard_acceleration_mps2", "max_speed_mps", "speeding_mps"}


def _load(name: str) -> Callable[[StepFacts], Any]:
    expected = f"reward_type: expected one of {', '.join(REWARDS)}, or the function 'module:name' of this process"
    if not _FUNCTION_NAME.fullmatch(name):
        raise ValueError(f"{expected}, found {name!r}; correct it")
    module, _, attribute = name.partition(":")
    try:
        function = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{expected}, found {name!r}: {error}; put the module on the worker's PYTHONPATH") from error
    if not callable(function):
        raise ValueError(f"{expected}, found {function!r}; name a function of StepFacts")
    loaded: Callable[[StepFacts], Any] = function
    return loaded


def _checked(name: str, function: Callable[[StepFacts], Any]) -> RewardFunction:
    def reward(facts: StepFacts) -> RewardTerms:
        terms = function(facts)
        try:
            numbers = {str(term): float(value) for term, value in terms.items()}
        except (AttributeError, TypeError, ValueError):
            numbers = {"": math.nan}
        if not all(math.isfinite(value) for value in numbers.values()):
            raise ValueError(f"{name}: expected a dict of finite numbers, the terms of the reward, found {terms!r}")
        return numbers

    return reward


def _charge(weight: float, happened: bool) -> float:
    return -weight if happened else 0.0


def _within_limit(speed_mps: float, ego: EgoState) -> float:
    return min(speed_mps, ego.speed_limit_mps) if ego.speed_limit_mps > 0.0 else speed_mps


def _falling(share: float, least: float) -> float:
    """From 1 at share 0 evenly down to `least` at share 1 and beyond."""
    return 1.0 - (1.0 - least) * min(share, 1.0)
