"""The soak tool, for a moment: it finds nothing wrong, and its checker finds what is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

TOOLS = Path(__file__).parents[1] / "tools"


def test_a_short_soak_over_both_transports(tmp_path: Path) -> None:
    out = tmp_path / "soak.json"
    options = ["--steps", "2000", "--envs", "2", "--minutes", "0.05", "--fault-s", "0.5", "--out", str(out)]
    command = [sys.executable, str(TOOLS / "soak_vector.py"), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=58, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for report, transport in zip(json.loads(out.read_text()), ("shm", "zmq"), strict=True):
        assert (report["transport"], report["violations"]) == (transport, [])
        assert report["row_steps_checked"] == 2 * report["steps"] > 0


@pytest.fixture
def checker() -> Any:
    """Of one row whose episodes have three steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(TOOLS))
        from soak_checkers import Checker  # pyright: ignore  # noqa: PLC0415

    return Checker([3], np.array([[0.0, 77.0, 1.0, 0.0, 0.0]]))


def _step(
    observation: list[float], reward: float = 0.0, ended: bool = False, lost: bool = False, steps: int = 0
) -> tuple[Any, ...]:
    infos: dict[str, Any] = {"_worker_lost": np.array([True])} if lost else {}
    if steps:
        infos |= {"steps": np.array([steps]), "_steps": np.array([True])}
    return np.array([observation], float), np.array([reward]), np.array([ended]), np.array([lost]), infos


ACTION = np.array([[0.5]])
GOOD = [
    _step([0, 77, 1, 1, 0.5], 1.5),
    _step([0, 77, 1, 2, 0.5], 2.5),
    _step([0, 77, 1, 3, 0.5], 3.5, ended=True, steps=3),
    _step([0, 77, 2, 0, 0]),
    _step([0, 77, 2, 0, 0], lost=True),
    _step([0, 78, 1, 0, 0]),
    _step([0, 78, 1, 1, 0.5], 1.5),
]
BAD: dict[str, tuple[int, Any]] = {
    "lost step": (0, _step([0, 77, 1, 0, 0])),
    "doubled step": (1, _step([0, 77, 1, 3, 0.5], 3.5, ended=True, steps=3)),
    "stale echo": (1, _step([0, 77, 1, 2, 0.25], 2.25)),
    "another row": (1, _step([1, 77, 1, 2, 0.5], 2.5)),
    "infos of another step": (2, _step([0, 77, 1, 3, 0.5], 3.5, ended=True, steps=2)),
    "no reset": (3, _step([0, 77, 1, 4, 0.5], 4.5)),
    "not the last observation": (4, _step([0, 77, 2, 1, 0.5], lost=True)),
    "the dead process": (5, _step([0, 77, 3, 0, 0])),
    "told twice": (5, _step([0, 77, 2, 0, 0], lost=True)),
}


@pytest.mark.parametrize("name", ["good", *BAD])
def test_the_checker_finds_what_is_wrong(checker: Any, name: str) -> None:
    at, bad = BAD.get(name, (len(GOOD), None))
    for number, result in enumerate(GOOD[:at]):
        checker.check(number, ACTION, result)
    assert checker.violations == []
    if bad is not None:
        checker.check(at, ACTION, bad)
        assert checker.violations
