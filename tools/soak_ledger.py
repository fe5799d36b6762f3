"""Holds what was done to a pool, what its ledger says and what its clients were told against each other.

Nothing is excused by a window of time alone. What a fault must have caused is looked up by the name that both sides
know: an env process is a worker and an incarnation under one supervisor, a supervisor is its pid, and a loss that a
client was told of carries worker, reason and the number of restarts as the ledger has them. Where two faults meet, one
may hide the other, and only so far as cause and effect allow:

* A supervisor that is killed takes its workers with it and notes nothing any more. It can hide a fault that struck no
  more than REACTION_S (and the time for which it was stopped) before its own end; all that came earlier it has seen.
  What becomes of its workers is one line, `supervisor_restarted`, that names its pid, and explains one loss a worker.
* A worker whose env process is dead already (*lost*, not yet *restarted*) cannot be lost again: its server may die
  unnoticed, it is about to be looked at anyway.
* A supervisor tells two brokers apart only if the first has answered it.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from typing import Any, Final

Fault = dict[str, Any]
Event = dict[str, Any]
Loss = dict[str, Any]

REACTION_S: Final = 5.0
"""From a fault to its line in the ledger: a turn of the supervisor's loop is 0.2 s, on a busy machine more."""
RETURN_S: Final = 20.0
"""From the death of a broker until its successor has answered: Python starts, and a second's patience of `up`."""
CLOCK_S: Final = 0.002
"""The ledger's times are cut to milliseconds."""
LOST: Final = ("lost", "gone", "server_failed")
MUST_TELL_S: Final = 30.0
"""A stop of that length is longer than all limits of the pool together that it can run into: 5 s until a server that
idles is asked, 15 s for its answer, and 5 s for that of a step that came just then."""
UNSEEN: Final = "its env process ended while the broker was away"
REPLACED: Final = ("its supervisor was replaced", "its env process was replaced")


@dataclasses.dataclass(frozen=True)
class Account:
    """What came of the comparison.

    Attributes:
        violations: in words.
        found: by fault, how many stand in the ledger.
        hidden: by fault, how many another fault hid.
        harmless: by fault, how many had to cause nothing.
    """

    violations: list[str]
    found: dict[str, int]
    hidden: dict[str, int]
    harmless: dict[str, int]


def _end(fault: Fault) -> float:
    """When a stop ended; of other faults, when they struck."""
    return float(fault.get("until", 0.0) or fault["at"])


class Books:
    """One run.

    Args:
        faults: as `soak_trouble.Trouble.done`.
        events: the ledger, in its order; each with `at` in seconds.
        losses: that clients were told of: `at`, `worker_id`, `reason`, `restarts`; the step that brought the row back
            began at `asked_at` and ended at `back_at` (None when there was none until the end).
        probed: workers whose servers somebody looks at (by steps, or because nobody steps them).
    """

    def __init__(self, faults: list[Fault], events: list[Event], losses: list[Loss], probed: set[str]) -> None:
        self.faults, self.events, self.losses, self._probed = faults, events, losses, probed
        deaths = [event for event in events if event["what"] == "supervisor_restarted"]
        self._pids = [int(re.findall(r"pid (\d+)", event["reason"])[0]) for event in deaths]
        life = 0
        self._life: list[int] = []
        """Under which supervisor each event was written, counted from 0."""
        for event in events:
            life += event["what"] == "supervisor_restarted"
            self._life.append(life)
        self._explains: set[int] = set()
        """Faults that account for an event, by number."""
        self._told: set[int] = set()
        """Events that a client was told of, by number."""
        self._told_of_supervisor: set[tuple[int, str]] = set()

    def settle(self) -> Account:
        """Compare both ways."""
        violations = [*self._unexplained(), *self._out_of_order(), *self._untold()]
        counts: dict[str, dict[str, int]] = {"found": {}, "hidden": {}, "harmless": {}}
        for fault in self.faults:
            verdict = self._verdict(fault)
            if verdict == "missing":
                violations.append(f"the ledger says nothing of {fault}")
                continue
            counts[verdict][fault["fault"]] = counts[verdict].get(fault["fault"], 0) + 1
        return Account(violations, **counts)

    # --- every fault has its event ---

    def _verdict(self, fault: Fault) -> str:
        deed, _, kind = fault["fault"].partition(" ")
        match deed, kind:
            case "kill", "supervisor":
                return self._of_supervisor(fault)
            case "kill", "broker":
                return self._of_broker(fault)
            case "stop", "supervisor" | "broker" | "guard":
                return "harmless"
            case "stop", _ if self._stopped_s(fault) < MUST_TELL_S or not self._looked_at(fault, kind):
                return "found" if self._event_of(fault) is not None else "harmless"
            case _:
                if self._event_of(fault) is not None:
                    return "found"
                return "hidden" if self._was_down(fault) or self._unseen(fault) else "missing"

    def _looked_at(self, fault: Fault, kind: str) -> bool:
        return kind == "env process" or fault["worker"] in self._probed

    def _stopped_s(self, fault: Fault) -> float:
        """For how long it was stopped while its supervisor could see it."""
        others = self._struck("stop supervisor")
        blind_s = sum(max(min(one["until"], fault["until"]) - max(one["at"], fault["at"]), 0) for one in others)
        return float(fault["until"] - fault["at"] - blind_s)

    def _of_supervisor(self, fault: Fault) -> str:
        if fault["pid"] in self._pids:
            return "found"
        births = [event["at"] for event in self.events if event["what"] == "supervisor_restarted"]
        # It had not written its own name yet: its successor names the one before.
        unborn = bool(births) and not any(fault["created"] <= at <= fault["at"] for at in births)
        return "hidden" if unborn and births[-1] > fault["at"] else "missing"

    def _of_broker(self, fault: Fault) -> str:
        until = fault["at"] + RETURN_S
        for other in self._struck("kill broker", "stop broker"):
            if fault["at"] < other["at"] < until:
                until = _end(other) + RETURN_S
        if any(event["what"] == "broker_restarted" and fault["at"] <= event["at"] <= until for event in self.events):
            return "found"
        ends = self._struck("kill supervisor")
        return "hidden" if any(fault["at"] - RETURN_S <= one["at"] <= until for one in ends) else "missing"

    def _event_of(self, fault: Fault) -> int | None:
        """The event that a fault of a worker caused, by number."""
        for number, event in enumerate(self.events):
            if event["worker_id"] != fault["worker"] or event["what"] not in LOST:
                continue
            if not self._same_life(fault, number):
                continue
            if "incarnation" in fault:
                if event["incarnation"] == fault["incarnation"] and event["what"] != "server_failed":
                    return number
            elif fault["at"] - CLOCK_S <= event["at"] <= _end(fault) + self._lag_s(fault):
                return number
        return None

    def _same_life(self, fault: Fault, number: int) -> bool:
        if "supervisor" not in fault:
            return True
        life = self._pids.index(fault["supervisor"]) if fault["supervisor"] in self._pids else len(self._pids)
        return life == self._life[number]

    def _lag_s(self, fault: Fault) -> float:
        """REACTION_S, and the time for which the supervisor was stopped then."""
        begins, ends = fault["at"] - REACTION_S, _end(fault) + REACTION_S
        return REACTION_S + sum(
            float(one["until"] - one["at"])
            for one in self._struck("stop supervisor")
            if one["at"] <= ends and one["until"] >= begins
        )

    def _was_down(self, fault: Fault) -> bool:
        """Whether the worker had been lost, and not been restarted."""
        before = [
            event
            for number, event in enumerate(self.events)
            if event["worker_id"] == fault["worker"] and event["at"] <= fault["at"] and self._same_life(fault, number)
        ]
        return bool(before) and before[-1]["what"] in LOST and "incarnation" not in fault

    def _unseen(self, fault: Fault) -> bool:
        """Whether the supervisor ended before it could see it, or a broker with an order."""
        until = _end(fault) + self._lag_s(fault)
        ends = self._struck("kill supervisor", *(["kill broker"] if fault["fault"].startswith("restart") else []))
        return any(
            fault["at"] - REACTION_S <= end["at"] <= until
            and (end["fault"] == "kill broker" or (fault.get("supervisor") or end["pid"]) == end["pid"])
            for end in ends
        )

    def _struck(self, *faults: str) -> list[Fault]:
        return [fault for fault in self.faults if fault["fault"] in faults]

    # --- every event has its fault ---

    def _unexplained(self) -> Iterator[str]:
        brokers = 0.0
        for number, event in enumerate(self.events):
            match event["what"]:
                case "restarted":
                    continue
                case "supervisor_restarted":
                    pids = [fault["pid"] for fault in self._struck("kill supervisor")]
                    good = self._pids[self._life[number] - 1] in pids
                case "broker_restarted":
                    good = any(brokers <= fault["at"] <= event["at"] for fault in self._struck("kill broker"))
                    brokers = event["at"]
                case "lost" | "server_failed":
                    good = self._explain(number, event)
                case _:
                    good = False
            if not good:
                yield f"no fault explains {event}"

    def _explain(self, number: int, event: Event) -> bool:
        for index, fault in enumerate(self.faults):
            if index in self._explains or fault.get("worker") != event["worker_id"]:
                continue
            if not self._same_life(fault, number) or not self._may_cause(fault, event):
                continue
            self._explains.add(index)
            return True
        return False

    def _may_cause(self, fault: Fault, event: Event) -> bool:
        reason = event["reason"]
        if reason.startswith("killed by SIGKILL"):
            return (fault["fault"], fault.get("incarnation")) == ("kill env process", event["incarnation"])
        due = bool(fault["at"] - CLOCK_S <= event["at"] <= _end(fault) + self._lag_s(fault))
        if reason.startswith("restarted on request"):
            return due and fault["fault"] == "restart worker"
        return due and fault["fault"] not in ("restart worker", "kill env process")

    def _out_of_order(self) -> Iterator[str]:
        """Each life of a worker follows the one before, and nobody stays down."""
        last: dict[str, tuple[int, Event]] = {}
        for life, event in zip(self._life, self.events, strict=True):
            worker, what = event["worker_id"], event["what"]
            if worker == "supervisor":
                continue
            before_life, before = last.get(worker, (-1, {}))
            if what == "restarted" and (before_life != life or before["what"] not in LOST):
                yield f"a restart without a loss before it: {event}"
            if what == "lost" and before_life == life and before["what"] == "lost" and before["incarnation"] > 0:
                yield f"lost twice without a restart between: {before}, {event}"
            last[worker] = life, event
        for life, event in last.values():
            if life == len(self._pids) and event["what"] in LOST and event["incarnation"] > 0:
                yield f"it was not restarted: {event}"

    # --- what clients were told ---

    def _untold(self) -> Iterator[str]:
        """Losses without an event before them, and events of leased workers that nobody was told of."""
        for loss in self.losses:
            if not self._event_before(loss):
                yield f"a client was told of what the ledger did not say before: {loss}"
        leased = {loss["worker_id"] for loss in self.losses}
        for number, event in enumerate(self.events):
            if event["what"] != "lost" or event["worker_id"] not in leased or number in self._told:
                continue
            spans = self._losses_of(event["worker_id"], float("inf"))
            if not any(one["caused_at"] <= event["at"] <= (one["back_at"] or float("inf")) for one in spans):
                yield f"no client was told of {event}"

    def _losses_of(self, worker: str, before: float) -> list[Loss]:
        return [one for one in self.losses if one["worker_id"] == worker and one["at"] < before]

    def _event_before(self, loss: Loss) -> bool:
        """Find what a client was told of; each event is told once, that of a supervisor once a worker."""
        worker = loss["worker_id"]
        alive_at = max([one["asked_at"] or loss["at"] for one in self._losses_of(worker, loss["at"])], default=0.0)
        for number, event in enumerate(self.events):
            if not alive_at <= event["at"] <= loss["at"]:  # it befell the life before, or comes after the news
                continue
            if event["what"] == "supervisor_restarted":
                if loss["reason"] in (UNSEEN, *REPLACED) and (number, worker) not in self._told_of_supervisor:
                    self._told_of_supervisor.add((number, worker))
                    loss["caused_at"] = event["at"]
                    return True
            elif event["worker_id"] == worker and event["what"] == "lost" and number not in self._told:
                same = (event["reason"], event["restarts"]) == (loss["reason"], loss["restarts"])
                if same or (loss["reason"] in (UNSEEN, REPLACED[1]) and event["restarts"] <= loss["restarts"]):
                    self._told.add(number)
                    loss["caused_at"] = event["at"]
                    return True
        loss["caused_at"] = loss["at"]
        return False
