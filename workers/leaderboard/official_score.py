"""What the Leaderboard's own statistics say of an episode, in the form in which our own `Score` says it."""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from zmqcarla.workers.criteria.base import Kind
from zmqcarla.workers.leaderboard.checkout import Checkout

_KINDS: Final = {kind.value: kind for kind in Kind}


class OfficialInfraction:
    """One sentence of the record.

    Args:
        kind: its list in the record.
        message: the sentence.
        time_s: simulated time since the episode began when it was first there.
        position_m: of the ego at that moment, world frame.
    """

    def __init__(self, kind: str, message: str, time_s: float, position_m: tuple[float, float, float]) -> None:
        self._info = {"kind": kind, "time_s": time_s, **dict(zip(("x_m", "y_m", "z_m"), position_m, strict=True))}
        self._info["message"] = message
        self.kind = kind

    def as_info(self) -> dict[str, Any]:
        """For `info["infractions"]`: plain numbers and texts."""
        return dict(self._info)


class OfficialScore:
    """Asks the statistics of a checkout about one route scenario.

    Args:
        checkout: theirs.
        scenario: a RouteScenario.
        route: names of the episode for the record: "route_id", "town", "scenario".

    Attributes:
        infractions: so far, in the order in which they were noticed.
        fresh: kinds of those that came with the last `look`.
        skipped: names of scenarios that did not take place; always empty, for it is their scenarios that run.
        value_name: what `value` is called.
    """

    skipped: tuple[str, ...] = ()
    value_name = "driving_score"

    def __init__(self, checkout: Checkout, scenario: Any, route: Mapping[str, str]) -> None:
        self._scenario = scenario
        # They write to these files only when asked to, and nobody asks.
        nowhere = str(Path(tempfile.gettempdir()) / "zmqcarla-unused.json")
        self._statistics = checkout.statistics_manager(nowhere, nowhere)
        create = self._statistics.create_route_data
        known = {
            "route_id": route["route_id"],
            "index": 0,
            "scenario_name": route["scenario"],
            "weather_id": None,
            "save_name": route["route_id"],
            "town_name": route["town"],
        }
        # Bench2Drive's copy notes more than the Leaderboard's.
        create(**{name: known[name] for name in inspect.signature(create).parameters})
        self._statistics.set_scenario(scenario)
        self._counts: dict[str, int] = {}
        self._finished = False
        self._duration_s = 0.0
        self.infractions: list[OfficialInfraction] = []
        self.fresh: frozenset[Kind] = frozenset()
        self._look()

    @property
    def record(self) -> dict[str, Any]:
        """The route's record as their result file has it, so far."""
        records: list[Any] = self._statistics._results.checkpoint.records  # their name for it; there is no other way in
        record: dict[str, Any] = records[0].to_json()
        return record

    @property
    def completion_percent(self) -> float:
        """Share of the route so far, 0 to 100."""
        return float(self.record["scores"]["score_route"])

    @property
    def penalty(self) -> float:
        """Product of the penalties so far."""
        return float(self.record["scores"]["score_penalty"])

    @property
    def value(self) -> float:
        """The score so far, 0 to 100."""
        return float(self.record["scores"]["score_composed"])

    def update(self, time_s: float, position_m: tuple[float, float, float]) -> None:
        """Ask anew, and note what was not there before.

        Args:
            time_s: simulated time since the episode began.
            position_m: of the ego, world frame.
        """
        self._duration_s = time_s
        new = self._look()
        self.fresh = frozenset(_KINDS[kind] for kind, _ in new if kind in _KINDS)
        self.infractions += [OfficialInfraction(kind, message, time_s, position_m) for kind, message in new]
        self._position_m = position_m

    def finish(self) -> None:
        """End the scenario, which adds what is only judged at the end. A second call does nothing."""
        if not self._finished:
            self._finished = True
            self._scenario.terminate()
            self.update(self._duration_s, self._position_m)

    def summary(self, route_length_m: float) -> dict[str, Any]:
        """Return their record, with the events beside it; the length in it is theirs, not `route_length_m`."""
        del route_length_m
        events = [each.as_info() for each in self.infractions]
        return {**self.record, "events": events, "skipped_scenarios": []}

    def _look(self) -> list[tuple[str, str]]:
        """Recompute the record; the sentences that are new in it."""
        self._statistics.compute_route_statistics(0, -1, self._duration_s, "")
        new: list[tuple[str, str]] = []
        for kind, messages in self.record["infractions"].items():
            new += [(kind, message) for message in messages[self._counts.get(kind, 0) :]]
            self._counts[kind] = len(messages)
        return new
