"""How `zmqcarla doctor` prints what it found."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from zmqcarla.watch.doctor import Finding, worst

_STYLES: Final = {"ok": "green", "warning": "yellow", "failure": "bold red"}


def show_findings(findings: Sequence[Finding], console: Console, *, as_json: bool) -> int:
    """Print them; returns the exit code: 1 when something will fail."""
    level = worst(findings)
    if as_json:
        print(json.dumps({"level": level, "findings": [dataclasses.asdict(finding) for finding in findings]}, indent=2))
        return int(level == "failure")
    table = Table.grid(padding=(0, 2))
    for finding in findings:
        table.add_row(f"[{_STYLES[finding.level]}]{finding.level}[/]", finding.check, escape(finding.found))
        if finding.remedy:
            table.add_row("", "", f"[cyan]-> {escape(finding.remedy)}[/]")
    console.print(table)
    return int(level == "failure")
