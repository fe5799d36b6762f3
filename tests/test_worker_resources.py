"""Memory that grows without end is found, and log files do not grow without end."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import wait_until

from zmqcarla.workers.log_files import cut_logs
from zmqcarla.workers.trend import INTERVAL_S, Trend, growth

MIB = 1 << 20
CURVES: dict[str, tuple[Callable[[float], float], bool]] = {
    "flat": (lambda hour: 500, False),
    "steady leak": (lambda hour: 500 + 300 * hour, True),
    "slow leak below what is chance": (lambda hour: 500 + 30 * hour, False),
    "one step": (lambda hour: 500 if hour < 0.3 else 800, False),
    "comes to rest": (lambda hour: 500 + 300 * min(hour, 0.4), False),
    "shrinks": (lambda hour: 800 - 300 * hour, False),
    "saw": (lambda hour: 500 + 400 * (6 * hour % 1), False),
    "leak under a saw": (lambda hour: 500 + 400 * hour + 100 * (6 * hour % 1), True),
}


@pytest.mark.parametrize("name", CURVES)
def test_a_leak_is_told_from_other_growth(name: str) -> None:
    curve, leaks = CURVES[name]
    draw = random.Random(name)
    samples = [(60.0 * minute, int((curve(minute / 60) + draw.uniform(-5, 5)) * MIB)) for minute in range(61)]
    found = growth(samples)
    assert found is not None
    assert found.leaking is leaks


def test_a_short_time_says_nothing() -> None:
    assert growth([]) is None
    assert growth([(60.0 * minute, minute * 100 * MIB) for minute in range(15)]) is None


def test_a_leak_is_told_once_in_each_life() -> None:
    trend = Trend()
    told: list[str] = []
    for minute in range(200):
        pid = 11 if minute < 100 else 12
        age = minute % 100
        told.append(trend.take(pid, (500 + 10 * age) * MIB, minute * INTERVAL_S))
        if age == 0:
            assert trend.growth is None
    assert [bool(text) for text in told].count(True) == 2
    assert trend.growth is not None
    assert trend.growth.bytes_per_h == pytest.approx(600 * MIB)
    trend.take(0, 0, 300 * INTERVAL_S)
    assert trend.growth is None


def test_a_large_log_is_put_aside_while_its_writer_goes_on(tmp_path: Path) -> None:
    log = tmp_path / "w.log"
    program = "import sys\nfor line in sys.stdin: print(line.strip() * 100, flush=True)"
    with log.open("ab") as output:
        command = [sys.executable, "-c", program]
        writer = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, text=True)
    assert writer.stdin is not None
    try:
        for number in range(5):
            writer.stdin.write(f"{number}\n")
            writer.stdin.flush()
            wait_until(lambda: log.stat().st_size == 101, "the line")
            assert cut_logs(tmp_path, 50, kept=2) == [log]
            assert log.stat().st_size == 0
    finally:
        writer.stdin.close()
        writer.wait(10)
    assert {path.name: path.read_text()[0] for path in tmp_path.iterdir() if path != log} == {
        "w.log.1": "4",
        "w.log.2": "3",
    }
    assert (tmp_path / "w.log.1").stat().st_mode & 0o077 == 0


def test_a_small_log_stays_and_none_may_be_kept(tmp_path: Path) -> None:
    (tmp_path / "small.log").write_text("x")
    (tmp_path / "large.log").write_text("x" * 100)
    assert cut_logs(tmp_path, 50, kept=0) == [tmp_path / "large.log"]
    assert {path.name: path.stat().st_size for path in tmp_path.iterdir()} == {"small.log": 1, "large.log": 0}
