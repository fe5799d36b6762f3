"""The examples without their extra, and a very short run of each with it."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
NAMES = ("ppo", "grpo")
needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="the extra learn is not installed (torch)"
)


@pytest.mark.parametrize("name", NAMES)
def test_without_the_extra_the_error_names_it(name: str) -> None:
    script = "import runpy, sys; sys.modules['torch'] = None; runpy.run_path(sys.argv[1], run_name='__main__')"
    command = [sys.executable, "-c", script, str(EXAMPLES / f"{name}.py"), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=55, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "expected torch" in done.stderr
    assert "pip install 'zmqcarla[learn]'" in done.stderr
    assert "Traceback" not in done.stderr


@needs_torch
@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", NAMES)
def test_a_run_of_one_update(name: str, tmp_path: Path) -> None:
    extra = ["--kl", "0.1"] if name == "grpo" else []
    # However busy the machine, there is one update; a budget of nothing leaves it at that, and evaluates nothing.
    budget = ["--minutes", "0", "--workers", "4", "--out", str(tmp_path)]
    command = [sys.executable, "-W", "error", str(EXAMPLES / f"{name}.py"), *budget, *extra]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("doing nothing: mean return")
    assert "update    1 " in done.stdout
    found: dict[str, Any] = json.loads((tmp_path / "curve.json").read_text())
    assert found["steps"] > 0
    assert found["zero_action"] | {"mean_reward_terms": {}} == {
        "mean_return": 0.0,
        "mean_route_percent": 0.0,
        "mean_reward_terms": {},
        "endings": {"unfinished": 4},
    }
    pictures = {"ppo": ["curve.png"], "grpo": ["branches.png", "curve.png"]}[name]
    assert sorted(path.name for path in tmp_path.glob("*.png")) == pictures
