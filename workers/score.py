"""The score of one episode: all criteria, their penalties, and the sum of it as the Leaderboard writes it.

    score = percent of the route x product of the penalties

A route whose scenarios could not all take place is `partial`: its number is no driving score and is not called one.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from zmqcarla.workers.criteria.base import Criterion, Infraction, Kind, Tick

PENALTY: Final = {
    Kind.COLLISION_PEDESTRIAN: 0.5,
    Kind.COLLISION_VEHICLE: 0.6,
    Kind.COLLISION_LAYOUT: 0.65,
    Kind.RED_LIGHT: 0.7,
    Kind.STOP: 0.8,
    Kind.SCENARIO_TIMEOUT: 0.7,
    Kind.YIELD_TO_EMERGENCY: 0.7,
}
"""Factor of each infraction."""

_SHARE_PENALTY: Final[dict[Kind, Callable[[float], float]]] = {
    Kind.OUTSIDE_LANES: lambda percent: 1.0 - percent / 100.0,
    Kind.MIN_SPEED: lambda percent: 1.0 - 0.3 * (1.0 - percent / 100.0),
}
_FAILURES: Final = {
    Kind.ROUTE_DEVIATION: "Agent deviated from the route",
    Kind.VEHICLE_BLOCKED: "Agent got blocked",
    Kind.ROUTE_TIMEOUT: "Agent timed out",
}
_SCORE_DIGITS: Final = 6
_META_DIGITS: Final = 3


def penalty_of(infractions: Iterable[Infraction]) -> float:
    """Return the product of the penalties, 0 to 1."""
    return math.prod((_factor(each) for each in infractions), start=1.0)


def _factor(infraction: Infraction) -> float:
    if infraction.percent is not None:
        return _SHARE_PENALTY[infraction.kind](infraction.percent)
    return PENALTY.get(infraction.kind, 1.0)


class Score:
    """Judges one episode.

    Args:
        criteria: one object each, fresh.
        skipped: names of the scenarios that the route asks for and that did not take place.

    Attributes:
        completion_percent: of the route; the caller keeps it up to date.
        infractions: so far, by criterion and then by time.
        fresh: kinds of those that came with the last `update`.
        skipped: as given.
    """

    def __init__(self, criteria: Sequence[Criterion], skipped: Sequence[str] = ()) -> None:
        self._criteria = criteria
        self._watching = [each for each in criteria if not each.reads_hits]
        self._feeling = [each for each in criteria if each.reads_hits]
        self._last: Tick | None = None
        self._finished = False
        self.completion_percent = 0.0
        self.infractions: list[Infraction] = []
        self.fresh: frozenset[Kind] = frozenset()
        self.skipped = tuple(skipped)

    def get_state(self) -> dict[str, Any]:
        """Return all that was counted so far, for `set_state` of a score with the same criteria."""
        return {
            "criteria": [criterion.get_state() for criterion in self._criteria],
            "last": self._last,
            "finished": self._finished,
            "completion_percent": self.completion_percent,
            "fresh": self.fresh,
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what another one has counted."""
        for criterion, noted in zip(self._criteria, state["criteria"], strict=True):
            criterion.set_state(noted)
        self._last, self._finished = state["last"], state["finished"]
        self._gather()
        self.completion_percent, self.fresh = state["completion_percent"], state["fresh"]

    def watch(self, ticks: Iterable[Tick]) -> None:
        """Judge the ticks of one step by all but what was struck; `update` follows, which counts."""
        for tick in ticks:
            for criterion in self._watching:
                criterion.update(tick)

    def update(self, ticks: Iterable[Tick], completion_percent: float) -> None:
        """Take the ticks of one step, with what was struck in them."""
        for tick in ticks:
            self._last = tick
            for criterion in self._feeling:
                criterion.update(tick)
        self.completion_percent = completion_percent
        self._gather()

    def finish(self) -> None:
        """Close the episode: what is only judged at the end is added. A second call does nothing."""
        if self._finished or self._last is None:
            return
        self._finished = True
        for criterion in self._criteria:
            criterion.finish(self._last)
        self._gather()

    def _gather(self) -> None:
        now = [each for criterion in self._criteria for each in criterion.infractions]
        if now == self.infractions:
            self.fresh = frozenset()
            return
        more = Counter(each.kind for each in now) - Counter(each.kind for each in self.infractions)
        self.fresh, self.infractions = frozenset(more), now

    @property
    def penalty(self) -> float:
        """Product of the penalties so far."""
        return penalty_of(self.infractions)

    @property
    def value(self) -> float:
        """The score so far, 0 to 100."""
        return self.completion_percent * self.penalty

    @property
    def value_name(self) -> str:
        """What `value` may be called."""
        return "partial_score" if self.skipped else "driving_score"

    def status(self) -> str:
        """The Leaderboard's word for the episode as it stands."""
        if self.completion_percent >= 100.0:
            word = "Completed" if self.infractions else "Perfect"
        else:
            kinds = {each.kind for each in self.infractions}
            word = " - ".join(["Failed", *[text for kind, text in _FAILURES.items() if kind in kinds][:1]])
        return f"Partial - {word}" if self.skipped else word

    def summary(self, route_length_m: float) -> dict[str, Any]:
        """Return what happened in the form of a record of the Leaderboard's result file, with the events beside it."""
        by_kind: dict[str, list[str]] = {kind.value: [] for kind in Kind}
        for each in self.infractions:
            by_kind[each.kind.value].append(each.message)
        scores = {
            "score_route": round(self.completion_percent, _SCORE_DIGITS),
            "score_penalty": round(self.penalty, _SCORE_DIGITS),
            "score_composed": round(max(self.value, 0.0), _SCORE_DIGITS),
        }
        duration_s = 0.0 if self._last is None else self._last.time_s
        return {
            "status": self.status(),
            "num_infractions": len(self.infractions),
            "infractions": by_kind,
            "scores": scores,
            "meta": {
                "route_length": round(route_length_m, _META_DIGITS),
                "duration_game": round(duration_s, _META_DIGITS),
            },
            "events": [each.as_info() for each in sorted(self.infractions, key=lambda one: one.tick.frame)],
            "skipped_scenarios": list(self.skipped),
        }
