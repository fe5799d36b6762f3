"""The fuzzer of the bus, for a moment: brokers and a worker stay up, and a lease beside it loses no step."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[1] / "tools"


@pytest.mark.timeout(180)  # three pools start one after the other
def test_a_short_fuzz_changes_nothing(tmp_path: Path) -> None:
    out = tmp_path / "fuzz.json"
    command = [sys.executable, str(TOOLS / "fuzz_bus.py"), "--frames", "1500", "--seed", "7", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=170, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    reports = json.loads(out.read_text())
    assert [report["target"] for report in reports] == ["ipc broker", "tcp broker with keys", "worker"]
    for report in reports:
        assert report["violations"] == []
        assert report["frames"] > report["messages"] >= 300
        assert report["steps_checked"] > 0


def test_the_same_seed_makes_the_same_messages() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(TOOLS))
        from fuzz_messages import Fuzzer  # pyright: ignore  # noqa: PLC0415

    first, second = Fuzzer(3, [], []), Fuzzer(3, [], [])
    assert [first.message() for _ in range(300)] == [second.message() for _ in range(300)]
