"""The client's Traffic Manager drives every kind of vehicle: nobody crashes, gets stuck or leaves his lane."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from sim_process import free_port

TOOL = Path(__file__).parents[1] / "tools" / "soak_traffic.py"


def test_thirty_vehicles_drive_for_half_a_minute() -> None:
    command = [sys.executable, str(TOOL), "--vehicles", "30", "--seconds", "30", "--port", str(free_port()), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=55, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["vehicles"] == 30
    assert result["km"] > 2.0
    assert (result["collisions"], result["reds_run"], result["stuck"]) == (0, 0, 0)
    assert result["off_lane_share"] < 0.002
    assert result["lane_offset_worst_m"] < 2.0
