"""What tools/soak.py and its clients call wrong: rows that do not fit, growth, faults and ledger that disagree."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

TOOLS = Path(__file__).parents[1] / "tools"


@pytest.fixture
def tools() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(TOOLS))
        yield {name: importlib.import_module(name) for name in ("soak_ledger", "soak_report", "soak_checkers")}


def _step(frame: int, ended: bool = False, lost: bool = False, speed: float = 1.0) -> Any:
    infos: dict[str, Any] = (
        {"worker_lost": {}, "_worker_lost": np.array([True])} if lost else {"frame": np.array([frame])}
    )
    return {"speed": np.array([[speed]])}, np.array([0.0]), np.array([False]), np.array([ended or lost]), infos


GOOD = [_step(2), _step(3, ended=True), _step(1), _step(2), _step(0, lost=True), _step(1), _step(2)]
BAD = {
    "doubled step": (0, _step(3)),
    "lost step": (1, _step(2)),
    "no reset": (2, _step(4)),
    "not the last observation": (4, _step(0, lost=True, speed=2.0)),
    "no new episode": (5, _step(3)),
    "told twice": (5, _step(0, lost=True)),
    "nothing to see": (0, _step(2, speed=float("nan"))),
}


@pytest.mark.parametrize("name", ["good", *BAD])
def test_the_car_checker_finds_what_is_wrong(tools: Any, name: str) -> None:
    checker = tools["soak_checkers"].CarlaChecker({"speed": np.array([[1.0]])}, {"frame": np.array([1])})
    at, bad = BAD.get(name, (len(GOOD), None))
    for number, result in enumerate(GOOD[:at]):
        checker.check(number, None, result)
    assert checker.violations == []
    if bad is not None:
        checker.check(at, None, bad)
        assert checker.violations


LIFE = {"supervisor": 50}
KILL = {"at": 100.0, "fault": "kill env process", "worker": "w0", "incarnation": 1, **LIFE}
SERVER = {"at": 100.0, "fault": "kill simulator", "worker": "w0", **LIFE}
LONG = {"at": 100.0, "until": 132.0, "fault": "stop env process", "worker": "w0", "incarnation": 1, **LIFE}
SHORT = LONG | {"until": 104.0}
SUPERVISOR = {"at": 100.5, "fault": "kill supervisor", "worker": "", "pid": 50, "created": 1.0}
BROKER = {"at": 100.0, "fault": "kill broker", "worker": "", "pid": 51, "created": 1.0}


def _event(at: float, what: str, reason: str = "", worker: str = "w0", incarnation: int = 1) -> dict[str, Any]:
    return {"at": at, "what": what, "worker_id": worker, "reason": reason, "restarts": 0, "incarnation": incarnation}


LOST = _event(100.1, "lost", "killed by SIGKILL")
ENDED = _event(100.1, "lost", "its embedded simulator ended with status 137")
CUT = _event(116.0, "lost", "cut after 15.2 s of being stopped by a signal; the limit is 15 s")
BACK = _event(117.0, "restarted", incarnation=2)
SUCCESSOR = _event(103.0, "supervisor_restarted", "the one before, pid 50, has ended", "supervisor", 0)
REPLY = _event(102.0, "broker_restarted", "another broker answers than before", "supervisor", 0)


@pytest.mark.parametrize(
    ("faults", "events", "violations"),
    [
        ([KILL], [LOST, BACK], []),
        ([KILL], [], ["the ledger says nothing"]),
        ([KILL], [LOST], ["was not restarted"]),
        ([KILL], [LOST | {"worker_id": "w1"}, BACK | {"worker_id": "w1"}], ["no fault", "says nothing"]),
        ([KILL], [LOST | {"incarnation": 2}, BACK], ["no fault", "says nothing"]),
        ([], [LOST, BACK], ["no fault explains"]),
        ([KILL], [LOST, BACK, BACK], ["without a loss"]),
        # One fault accounts for one loss, and a supervisor hides only what struck just before its own end.
        ([SERVER], [ENDED, BACK, ENDED, BACK], ["no fault explains"]),
        ([KILL, SUPERVISOR], [SUCCESSOR], []),
        ([KILL | {"at": 90.0}, SUPERVISOR], [SUCCESSOR], ["says nothing"]),
        ([KILL | {"supervisor": 49}, SUPERVISOR], [SUCCESSOR], ["says nothing"]),
        ([KILL], [SUCCESSOR], ["no fault explains", "says nothing"]),
        ([SUPERVISOR], [], ["says nothing"]),
        # A server may die unnoticed while its worker is down.
        ([KILL, SERVER | {"at": 100.2}], [LOST, BACK], []),
        ([KILL, SERVER | {"at": 117.5}], [LOST, BACK], ["says nothing"]),
        ([LONG], [CUT, BACK], []),
        ([LONG], [], ["says nothing"]),
        ([SHORT], [], []),
        ([SHORT], [CUT, BACK], ["no fault explains"]),
        ([BROKER], [REPLY], []),
        ([BROKER], [LOST, BACK], ["no fault explains", "says nothing"]),
        ([], [REPLY], ["no fault explains"]),
        ([BROKER, SUPERVISOR], [SUCCESSOR], []),
    ],
)
def test_faults_and_ledger_must_agree(tools: Any, faults: Any, events: Any, violations: list[str]) -> None:
    found = tools["soak_ledger"].Books(faults, events, [], {"w0"}).settle().violations
    assert len(found) == len(violations)
    assert all(part in text for part, text in zip(violations, found, strict=True)), found


TOLD = {"at": 100.2, "worker_id": "w0", "reason": "killed by SIGKILL", "restarts": 0, "asked_at": 118, "back_at": 119}
REPLACED = TOLD | {"at": 104.0, "reason": "its supervisor was replaced"}


@pytest.mark.parametrize(
    ("losses", "violations"),
    [
        ([TOLD], []),
        ([TOLD | {"at": 100.05}], ["did not say before"]),
        ([TOLD | {"restarts": 3}], ["no client was told", "did not say before"]),
        ([TOLD, TOLD | {"at": 120.0}], ["did not say before"]),
        ([TOLD, TOLD | {"at": 120.0, "reason": "its supervisor was replaced"}], ["did not say before"]),
    ],
)
def test_losses_that_clients_were_told_of_must_stand_there_once(
    tools: Any, losses: list[Any], violations: list[str]
) -> None:
    found = tools["soak_ledger"].Books([KILL], [LOST, BACK], [dict(loss) for loss in losses], set()).settle().violations
    assert len(found) == len(violations)
    assert all(any(part in text for text in found) for part in violations), found


def test_the_end_of_a_supervisor_explains_one_loss_a_worker(tools: Any) -> None:
    def found(*losses: dict[str, Any]) -> list[str]:
        books = tools["soak_ledger"].Books([SUPERVISOR], [SUCCESSOR], [dict(loss) for loss in losses], set())
        return list(books.settle().violations)

    assert found(REPLACED, REPLACED | {"worker_id": "w1"}) == []
    assert len(found(REPLACED, REPLACED | {"at": 130.0})) == 1


def test_growth_is_told_from_noise(tools: Any) -> None:
    report = tools["soak_report"]
    steady = {f"{kind}: {what}": 20.0 for kind in report.LIMITS for what in ("processes", "fds", "MiB")}
    steady["segments"] = 18.0
    assert report.growth_violations(report.growth([steady] * 6, [steady] * 5 + [steady | {"segments": 19.0}])) == []
    for name in ("segments", "broker: fds", "broker: MiB", "env process: processes"):
        found = report.growth_violations(report.growth([steady] * 6, [steady | {name: 30.0}] * 6))
        assert [text.partition(": expected")[0] for text in found] == [name]
