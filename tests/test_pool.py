"""A private pool checks its settings at once; its log directories are few, and never taken from a pool that runs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from zmqcarla.pool import LocalPool, new_log_directory


def test_an_unknown_simulator_is_refused_before_anything_starts() -> None:
    with pytest.raises(ValueError, match="expected 'embedded', 'carla' or 'none', found 'embeded'"):
        LocalPool(1, simulator="embeded")


def test_old_log_directories_go_and_those_of_living_processes_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    logs = tmp_path / "zmqcarla" / "logs"
    first = new_log_directory()
    assert first.name.endswith(f"-{os.getpid()}")
    living = logs / f"20000101-000000-{os.getpid()}"
    # Above the largest pid that Linux hands out.
    dead = [logs / f"20000101-0000{second:02}-{2**22 + second}" for second in range(1, 31)]
    for path in [living, *dead, logs / "env"]:
        path.mkdir()
        (path / "a.log").write_text("text")
    new_log_directory()
    assert (living / "a.log").exists()
    assert (logs / "env" / "a.log").exists()
    assert [path for path in dead if path.exists()] == dead[-19:]
