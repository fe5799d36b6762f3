"""How long the rest of an evaluation takes, from what the routes so far took."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

_LEAST: Final = 3
"""Routes that have to be measured before anything is said."""
_LEAST_IN_TOWN: Final = 3
"""Routes of a town from which it has a rate of its own."""
_SPREAD: Final = 1.28
"""Standard deviations to each side that hold 80 % of the outcomes."""


@dataclass(frozen=True, slots=True)
class Leg:
    """A route in the eyes of the estimate.

    Attributes:
        town: where it is.
        length_m: of its keypoints.
        seconds: it took, or has taken so far.
    """

    town: str
    length_m: float
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Estimate:
    """The rest in seconds: what is expected, and between what 80 % of the outcomes lie."""

    expected_s: float
    low_s: float
    high_s: float


def remaining(measured: Sequence[Leg], running: Sequence[Leg], waiting: Sequence[Leg], crews: int) -> Estimate | None:
    """Return what is left, None where that is not known.

    A route is expected to take its length times the seconds a metre of the routes of its town, or of all where there
    are few of its town. The spread comes from how far the measured routes were off that, and from how few they are.

    Args:
        measured: routes that are done.
        running: routes that are being driven, with the seconds so far.
        waiting: routes that nobody drives yet.
        crews: how many drive at the same time.
    """
    if len(measured) < _LEAST or crews < 1:
        return None
    off_s = statistics.stdev(leg.seconds - _expected(leg, measured) for leg in measured)
    rests = [max(_expected(leg, measured) - leg.seconds, 0.0) for leg in running]
    wholes = [_expected(leg, measured) for leg in waiting]
    count = len(rests) + len(wholes)
    if not count:
        return Estimate(0.0, 0.0, 0.0)
    spread_s = _SPREAD * off_s * math.sqrt(count + count**2 / len(measured))
    busy = min(crews, count)
    longest = max([*rests, *wholes])

    def on_the_clock(total_s: float) -> float:
        return max(total_s / busy, 0.0)

    total_s = sum(rests) + sum(wholes)
    expected_s = max(on_the_clock(total_s), longest)
    return Estimate(expected_s, on_the_clock(total_s - spread_s), max(on_the_clock(total_s + spread_s), expected_s))


def _expected(leg: Leg, measured: Sequence[Leg]) -> float:
    of_town = [each for each in measured if each.town == leg.town]
    known = of_town if len(of_town) >= _LEAST_IN_TOWN else measured
    metres = sum(each.length_m for each in known)
    if metres <= 0.0:  # lengths are unknown: routes count alike
        return statistics.fmean(each.seconds for each in known)
    return leg.length_m * sum(each.seconds for each in known) / metres
