"""`zmqcarla events`: what became of workers, from the ledger that supervisors write."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console


def read_events(paths: Sequence[Path], last: int) -> list[dict[str, Any]]:
    """The last events of some files, oldest first; lines that are not events are passed over.

    Args:
        paths: files, the older one first; missing ones are empty.
        last: how many at most.
    """
    events: list[dict[str, Any]] = []
    for path in paths:
        try:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            continue
        events += [event for event in map(_event, lines) if event is not None]
    return events[-last:]


def show_events(events: Sequence[dict[str, Any]], console: Console, *, as_json: bool) -> None:
    """Print them: a line each, or one JSON array."""
    if as_json:
        print(json.dumps(events, indent=2))
        return
    for event in events:
        console.print(line_of(event), soft_wrap=True, markup=False, highlight=False)
    if not events:
        console.print("nothing has happened to this user's workers yet")


def line_of(event: dict[str, Any]) -> str:
    """One event in one line, in local time; of a long reason only its first line."""
    when = datetime.fromisoformat(event["time"]).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    counts = [f"restarts {event['restarts']}"]
    if event["exit_code"] is not None:
        counts.insert(0, f"exit code {event['exit_code']}")
    line = f"{when}  {event['worker_id']}  {event['what']} ({', '.join(counts)})"
    if event["reason"]:
        line += f": {event['reason'].splitlines()[0]}; see {' and '.join(event['logs'])}"
    return line


_FIELDS = {"time", "worker_id", "what", "reason", "exit_code", "restarts", "logs"}


def _event(line: str) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except ValueError:  # cut off by a full disk
        return None
    return event if isinstance(event, dict) and event.keys() >= _FIELDS else None
