"""What the Leaderboard's own statistics say of an episode, in the form in which our own `Score` says it."""

from __future__ import annotations

import inspect
import re
import tempfile
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from zmqcarla.workers.criteria.base import Infraction, Kind, Tick
from zmqcarla.workers.leaderboard.checkout import Checkout
from zmqcarla.workers.score import Score

_ID: Final = re.compile(r"\bid=\d+")


class OfficialScore(Score):
    """Asks the statistics of a checkout about one route scenario.

    Args:
        checkout: theirs.
        route: names of the episode for the record: "route_id", "town", "scenario", "save_name".

    The infractions stand in the order in which they were noticed. No scenario counts as skipped: theirs all run.
    """

    def __init__(self, checkout: Checkout, route: Mapping[str, str]) -> None:
        super().__init__(())
        self._scenario: Any = None
        # They write to these files only when asked to, and nobody asks.
        nowhere = str(Path(tempfile.gettempdir()) / "zmqcarla-unused.json")
        self._statistics = checkout.statistics_manager(nowhere, nowhere)
        create = self._statistics.create_route_data
        known = {
            "route_id": route["route_id"],
            "index": 0,
            "scenario_name": route["scenario"],
            "weather_id": None,
            "save_name": route["save_name"],
            "town_name": route["town"],
        }
        # Bench2Drive's copy notes more than the Leaderboard's.
        create(**{name: known[name] for name in inspect.signature(create).parameters})
        self._counts: dict[str, int] = {}
        self._failure = ""
        self._over = False

    def judge(self, scenario: Any) -> None:
        """Begin with a RouteScenario of theirs."""
        self._scenario = scenario
        self._statistics.set_scenario(scenario)
        self._look(0.0)

    @property
    def record(self) -> dict[str, Any]:
        """The route's record as their result file has it, so far."""
        records: list[Any] = self._statistics._results.checkpoint.records  # their name for it; there is no other way in
        record: dict[str, Any] = records[0].to_json()
        return record

    @property
    def penalty(self) -> float:
        """Product of the penalties so far."""
        return float(self.record["scores"]["score_penalty"])

    @property
    def value(self) -> float:
        """The score so far, 0 to 100."""
        return float(self.record["scores"]["score_composed"])

    def ask(self, tick: Tick) -> None:
        """Ask anew, and note what was not there before as of this tick."""
        self._now = tick
        new = self._look(tick.time_s)
        self.fresh = frozenset(kind for kind, _ in new)
        self.infractions += [Infraction(kind, tick, message) for kind, message in new]

    def fail(self, message: str) -> None:
        """Note why nobody drives any more, in their words: it becomes the status unless the scenario knows better."""
        self._failure = message

    def get_state(self) -> dict[str, Any]:
        """Return what was counted so far, to be compared; actors of another world have other ids."""
        return {
            "scores": self.record["scores"],
            "infractions": [(each.kind, each.tick.time_s, _ID.sub("", each.message)) for each in self.infractions],
        }

    def finish(self) -> None:
        """End the scenario, which adds what is only judged at the end. A second call does nothing."""
        if not self._over:
            self.stop()
            self.ask(self._now)

    def stop(self) -> None:
        """End the scenario, whose criteria then let go of their sensors. A second call does nothing."""
        if not self._over and self._scenario is not None:
            self._over = True
            try:
                self._scenario.terminate()
            except Exception:  # of a scenario that is broken already; the record then lacks what is judged at the end
                traceback.print_exc()

    def summary(self, route_length_m: float) -> dict[str, Any]:
        """Return their record, with the events beside it; the length in it is theirs, not `route_length_m`."""
        del route_length_m
        events = [each.as_info() for each in self.infractions]
        return {**self.record, "events": events, "skipped_scenarios": []}

    def _look(self, duration_s: float) -> list[tuple[Kind, str]]:
        """Recompute the record; the sentences that are new in it."""
        # Theirs is meant to be called once: it empties all lists but this one.
        self._statistics._results.checkpoint.records[0].infractions["route_timeout"] = []
        self._statistics.compute_route_statistics(0, -1, duration_s, self._failure)
        record = self.record
        self.completion_percent = float(record["scores"]["score_route"])
        new: list[tuple[Kind, str]] = []
        for name, messages in record["infractions"].items():
            new += [(Kind(name), message) for message in messages[self._counts.get(name, 0) :]]
            self._counts[name] = len(messages)
        return new
