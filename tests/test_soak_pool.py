"""What tools/soak.py and its clients call wrong: rows that do not fit, growth, kills of which the ledger is silent."""

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
        soak = importlib.import_module("soak")
        yield soak, importlib.import_module("soak_client")


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
    checker = tools[1].CarlaChecker({"speed": np.array([[1.0]])}, {"frame": np.array([1])})
    at, bad = BAD.get(name, (len(GOOD), None))
    for number, result in enumerate(GOOD[:at]):
        checker.check(number, None, result)
    assert checker.violations == []
    if bad is not None:
        checker.check(at, None, bad)
        assert checker.violations


def _event(at: float, what: str, worker: str = "w0") -> dict[str, Any]:
    return {"at": at, "what": what, "worker_id": worker}


KILL = {"at": 100.0, "fault": "kill env process", "worker": "w0"}


@pytest.mark.parametrize(
    ("faults", "events", "violations"),
    [
        ([KILL], [_event(101.0, "lost")], 0),
        ([KILL], [_event(101.0, "lost", "w1")], 1),
        ([KILL], [_event(90.0, "lost")], 1),
        ([KILL], [_event(101.0, "supervisor_restarted", "supervisor")], 0),
        ([KILL | {"fault": "kill broker", "worker": ""}], [_event(101.0, "lost")], 1),
        ([KILL | {"fault": "kill broker", "worker": ""}], [_event(101.0, "broker_restarted", "supervisor")], 0),
        ([KILL | {"fault": "stop env process"}], [], 0),
    ],
)
def test_kills_must_stand_in_the_ledger(tools: Any, faults: Any, events: Any, violations: int) -> None:
    assert len(tools[0].ledger_violations(faults, [], events)) == violations


def test_losses_that_a_client_was_told_of_must_stand_there_too(tools: Any) -> None:
    losses = [{"at": 100.0, "worker_id": "w0", "reason": "killed"}]
    assert tools[0].ledger_violations([], losses, [_event(99.0, "lost")]) == []
    assert len(tools[0].ledger_violations([], losses, [_event(99.0, "lost", "w1")])) == 1


def test_growth_is_told_from_noise(tools: Any) -> None:
    steady = {"clients_mib": 100.0, "pool_mib": 150.0, "fds": 130.0, "segments": 20.0, "processes": 26.0}
    assert tools[0].growth_violations([steady] * 60, 8) == []
    grown = [steady | {"fds": 130.0 + step} for step in range(60)]
    assert [text.partition(" ")[0] for text in tools[0].growth_violations(grown, 8)] == ["fds"]
    crowd = [steady | {"processes": 100.0}, *[steady] * 60]
    assert ["processes" in text for text in tools[0].growth_violations(crowd, 8)] == [True]
