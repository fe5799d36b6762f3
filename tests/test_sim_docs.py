"""The script of docs/simulator.md runs as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import cv2
from sim_process import running_sim

PAGE = Path(__file__).parents[1] / "docs/simulator.md"


def test_the_script_in_the_docs_runs(tmp_path: Path) -> None:
    (script,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    path = tmp_path / "script.py"
    path.write_text(script)
    with running_sim() as port:
        done = subprocess.run(
            [sys.executable, str(path), str(port)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert "cars parked" in done.stdout
    picture = cv2.imread(str(tmp_path / "camera.png"))
    assert picture is not None
    assert picture.shape == (224, 400, 3)
    assert picture.std() > 20
