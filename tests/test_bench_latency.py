"""The vector env's benchmark runs as a user runs it, checks what it times, and says which targets are met."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

TOOL = Path(__file__).parents[1] / "tools" / "bench_latency.py"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(TOOL), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=55, check=False)


def test_a_tiny_run_measures_each_workload(tmp_path: Path) -> None:
    contenders = ["gym", "floor-py", "sync", "rest", "shm-bound", *(["floor-c"] if shutil.which("cc") else [])]
    arguments = ["--num-envs", "1", "--steps", "10", "--rounds", "1", "--out", str(tmp_path)]

    done = run("--workloads", "image,rollout", "--contenders", ",".join(contenders), "--markdown", *arguments)

    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "summary.json").read_text())["rows"]
    measured = {(row["workload"], row["contender"]) for row in rows if row["p50_us"] > 0 and row["cpu_us"] >= 0}
    assert {name for work, name in measured if work == "image"} == set(contenders)
    assert {name for work, name in measured if work == "rollout"} == {"gym", "sync", "rest", "shm-bound"}
    assert {row["ratio"] for row in rows if row["contender"] == "gym"} == {1.0}
    assert "| gymnasium AsyncVectorEnv | " in done.stdout
    assert done.stdout == (tmp_path / "latency.md").read_text() + "\n"
    assert "| vector, n=16 | >= 8 x | - | - | not measured |" in done.stdout
    assert (tmp_path / "latency.png").stat().st_size > 10_000


def test_infos_first_k_and_a_killed_worker(tmp_path: Path) -> None:
    arguments = ["--num-envs", "1", "--steps", "10", "--rounds", "1", "--out", str(tmp_path)]

    done = run("--workloads", "infos,jitter,loss", "--contenders", "gym,shm", *arguments)

    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert {(row["workload"], row["contender"]) for row in summary["rows"]} == {
        *(("infos", name) for name in ("gym", "shm")),
        *(("jitter", name) for name in ("gym", "shm", "shm recv(1)")),
        ("loss", "shm"),
    }
    raw = json.loads((tmp_path / "latency.json").read_text())
    assert all(len(turn["step_us"]) >= 10 for row in raw["results"] if "turns" in row for turn in row["turns"])
    assert [target["what"] for target in summary["targets"] if target["measured"] == 0] == [
        "the same, names left in /dev/shm"
    ]


def test_an_unknown_workload_is_named(tmp_path: Path) -> None:
    done = run("--workloads", "vectr", "--out", str(tmp_path))

    assert done.returncode == 2
    assert "expected names of image, rollout, vector, infos, jitter, loss, found vectr" in done.stderr
