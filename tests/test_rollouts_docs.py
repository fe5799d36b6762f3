"""The script of docs/rollouts.md runs as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs/rollouts.md"


def test_the_script_in_the_docs_runs(tmp_path: Path) -> None:
    (script,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    command = [sys.executable, "-W", "error", "-c", script]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=55, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 5
    for number, line in enumerate(lines):
        match = re.fullmatch(r"round (\d): mean return ([\d.]+), 0 rollouts lost", line)
        assert match is not None, line
        assert int(match[1]) == number
        assert float(match[2]) > 8  # no pole falls sooner
