"""The ledger of losses and restarts: what supervisors write, and what `zmqcarla events` shows."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import wait_until
from worker_broker import Router, running_pool
from worker_envs import EXIT

from zmqcarla.broker import protocol as p
from zmqcarla.watch.events import line_of, read_events
from zmqcarla.workers.ledger import Entry, Ledger, aside, ledger_path

REBUILD = {
    "slot": 0,
    "seed": None,
    "options": None,
    "open": {"env_id": "worker_envs:Counting-v0", "kwargs": {}, "autoreset": "NextStep"},
    "attach": None,
}


def entry(number: int) -> Entry:
    return Entry(f"w{number}", "lost", "killed by SIGKILL", -9, number, number + 1, ("/logs/w.log",))


def events_of(worker_id: str) -> list[dict[str, Any]]:
    path = ledger_path()
    return [event for event in read_events([aside(path), path], 10_000) if event["worker_id"] == worker_id]


def test_entries_come_back_in_order(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    assert read_events([path], 5) == []
    for number in range(4):
        Ledger(path).append(entry(number))
    assert [event["worker_id"] for event in read_events([path], 3)] == ["w1", "w2", "w3"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_large_file_is_put_aside_and_only_the_latest_two_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    ledger = Ledger(path, max_bytes=600)
    for number in range(40):
        ledger.append(entry(number))
    assert {one.name for one in tmp_path.iterdir()} <= {"events.jsonl", "events.jsonl.1"}
    assert aside(path).stat().st_size < 900
    kept = [event["restarts"] for event in read_events([aside(path), path], 100)]
    assert kept == list(range(kept[0], 40))
    assert len(kept) >= 3


def test_a_line_that_was_cut_off_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    Ledger(path).append(entry(0))
    path.write_bytes(path.read_bytes() + b'{"time": "2026-\n[1]\n{"time": 3}\n')
    Ledger(path).append(entry(1))
    assert [event["worker_id"] for event in read_events([path], 9)] == ["w0", "w1"]


def test_a_ledger_that_cannot_be_written_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Ledger(tmp_path / "absent" / "events.jsonl").append(entry(0))
    assert "could not write to" in caplog.text


def test_a_line_says_what_happened_and_where_the_output_is(tmp_path: Path) -> None:
    Ledger(tmp_path / "e").append(Entry("w0", "server_failed", "it ended\nlong tail", None, 2, 1, ("/a", "/b")))
    (event,) = read_events([tmp_path / "e"], 1)
    assert line_of(event).endswith("  w0  server_failed (restarts 2): it ended; see /a and /b")


def test_a_supervisor_notes_losses_restarts_and_the_end(tmp_path: Path) -> None:
    router = Router(tmp_path)
    name = f"noted-{os.getpid()}"
    with running_pool(tmp_path, router, worker_ids=(name,), max_restarts=1) as pool:
        ready = router.ready()
        os.kill(ready.pid, signal.SIGKILL)
        router.receive(p.WorkerLost)
        router.ready(incarnation=2)
        assert router.command("rebuild", REBUILD, 1)[0] == "ok"
        router.post("step", (0, EXIT), 2)
        assert router.receive(p.WorkerLost)[0].final
        wait_until(lambda: len(events_of(name)) == 3, "three entries")
    lost, restarted, gone = events_of(name)
    assert [one["what"] for one in (lost, restarted, gone)] == ["lost", "restarted", "gone"]
    assert (lost["reason"], lost["exit_code"], lost["restarts"]) == ("killed by SIGKILL", -9, 0)
    assert [one["incarnation"] for one in (lost, restarted, gone)] == [1, 2, 2]
    assert restarted["restarts"] == 1
    assert (gone["exit_code"], gone["restarts"]) == (3, 1)
    assert gone["logs"] == [str(pool.env_log)]
    found = subprocess.run(
        [sys.executable, "-m", "zmqcarla.cli", "events", "--last", "10000"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=40,
        check=True,
    )
    assert f"{name}  lost (exit code -9, restarts 0): killed by SIGKILL; see {pool.env_log}" in found.stdout
    as_json = subprocess.run(
        [sys.executable, "-m", "zmqcarla.cli", "events", "--json", "--last", "10000"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=40,
        check=True,
    )
    assert gone in json.loads(as_json.stdout)


def test_a_server_that_does_not_come_up_is_noted(tmp_path: Path) -> None:
    router = Router(tmp_path)
    name = f"serverless-{os.getpid()}"
    settings: dict[str, Any] = {"simulator": "carla", "carla_root": str(tmp_path)}
    with running_pool(tmp_path, router, worker_ids=(name,), **settings):
        assert router.receive(p.WorkerLost)[0].final
        wait_until(lambda: events_of(name), "the entry")
    (gone,) = events_of(name)
    assert (gone["what"], gone["exit_code"]) == ("gone", None)
    assert "CarlaUE4" in gone["reason"]
    assert len(gone["logs"]) == 2
