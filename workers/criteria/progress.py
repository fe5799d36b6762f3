"""Criteria that only need the place on the route and the time: deviation, blocked, timeout, minimum speed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from zmqcarla.workers.criteria.base import Criterion, Infraction, Kind, Tick, place_text

_UNSAFE_SHARE: Final = 0.5
_MAX_UNSAFE_PERCENT: Final = 30.0
_STANDING_MPS: Final = 0.1
_LEAST_TIMEOUT_S: Final = 300.0
_TIMEOUT_SPEED_SHARE: Final = 0.1
# What a road without a known limit is taken for.
_USUAL_LIMIT_MPS: Final = 30.0 / 3.6
_SPEED_CHECKPOINTS: Final = 4
_LAST_CHECKPOINT_SHARE: Final = 0.95


@dataclass(slots=True)
class RouteDeviation(Criterion):
    """Too far from the route; or 30 % of the route driven at half that distance from it and more.

    Attributes:
        limit_m: distance from the route's line.
        length_m: of the route.
    """

    limit_m: float
    length_m: float
    _last_s_m: float | None = field(default=None, init=False)
    _unsafe_m: float = field(default=0.0, init=False)

    def update(self, tick: Tick) -> None:
        """Say once that the route is left."""
        if self.infractions:
            return
        progress_m = 0.0 if self._last_s_m is None else tick.s_m - self._last_s_m
        self._last_s_m = tick.s_m
        if tick.offset_m >= _UNSAFE_SHARE * self.limit_m:
            self._unsafe_m += max(progress_m, 0.0)
        too_long = 100.0 * self._unsafe_m / self.length_m > _MAX_UNSAFE_PERCENT
        if tick.offset_m > self.limit_m or too_long:
            text = f"Agent deviated from the route at {place_text(tick.position_m)}"
            self.infractions.append(Infraction(Kind.ROUTE_DEVIATION, tick, text))


@dataclass(slots=True)
class VehicleBlocked(Criterion):
    """Stands, in one piece, for `limit_s`; a scenario that is in the way has a timeout of its own."""

    limit_s: float
    _moved_s: float = field(default=0.0, init=False)

    def update(self, tick: Tick) -> None:
        """Say once that the vehicle is blocked."""
        if tick.speed_mps >= _STANDING_MPS or tick.staged.may_stand:
            self._moved_s = tick.time_s
        elif not self.infractions and tick.time_s - self._moved_s >= self.limit_s - 1e-6:
            text = f"Agent got blocked at {place_text(tick.position_m)}"
            self.infractions.append(Infraction(Kind.VEHICLE_BLOCKED, tick, text))


@dataclass(slots=True)
class RouteTimeout(Criterion):
    """Five minutes, and for each metre the time that it takes at a tenth of the speed limit.

    Attributes:
        start_s_m: place on the route where the episode began.
    """

    start_s_m: float
    _limit_s: float = field(default=_LEAST_TIMEOUT_S, init=False)
    _furthest_s_m: float = field(init=False)

    def __post_init__(self) -> None:
        self._furthest_s_m = self.start_s_m

    def update(self, tick: Tick) -> None:
        """Say once that the time is up."""
        progress_m = tick.s_m - self._furthest_s_m
        if progress_m > 0.0:
            self._furthest_s_m = tick.s_m
            self._limit_s += progress_m / (_TIMEOUT_SPEED_SHARE * (tick.speed_limit_mps or _USUAL_LIMIT_MPS))
        if tick.time_s > self._limit_s and not self.infractions:
            self.infractions.append(Infraction(Kind.ROUTE_TIMEOUT, tick, "Route timeout."))


@dataclass(slots=True)
class MinimumSpeed(Criterion):
    """Slower, over a quarter of the route, than the traffic around; without traffic there is nothing to compare with.

    Attributes:
        length_m: of the route.
    """

    length_m: float
    _since_s_m: float = field(default=0.0, init=False)
    _furthest_s_m: float = field(default=0.0, init=False)
    _own_sum: float = field(default=0.0, init=False)
    _traffic_sum: float = field(default=0.0, init=False)

    def update(self, tick: Tick) -> None:
        """Add this tick to the means; at the end of a quarter, compare them."""
        self._furthest_s_m = max(self._furthest_s_m, tick.s_m)
        if self._furthest_s_m - self._since_s_m > self.length_m / _SPEED_CHECKPOINTS:
            self._compare(tick)
            self._since_s_m = self._furthest_s_m
        if tick.traffic_mps is not None:
            self._own_sum += tick.speed_mps
            self._traffic_sum += tick.traffic_mps

    def finish(self, tick: Tick) -> None:
        """Compare the last quarter when the route was driven nearly whole."""
        if self._furthest_s_m > _LAST_CHECKPOINT_SHARE * self.length_m:
            self._compare(tick)

    def _compare(self, tick: Tick) -> None:
        percent = round(100.0 * self._own_sum / self._traffic_sum, 2) if self._traffic_sum > 0.0 else 100.0
        self._own_sum = self._traffic_sum = 0.0
        if percent < 100.0:
            text = f"Average speed is {percent}% of the surrounding traffic's one"
            self.infractions.append(Infraction(Kind.MIN_SPEED, tick, text, percent))
