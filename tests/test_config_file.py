"""The configuration file of `up`: what it may say, how a wrong one is refused, and that options count more."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from typer.testing import CliRunner

from zmqcarla.broker.errors import ConfigError
from zmqcarla.cli import app
from zmqcarla.config_cli import read_settings
from zmqcarla.lease import ask_status
from zmqcarla.pool_settings import PoolSettings, spread
from zmqcarla.watch.gpus import Gpu


def test_the_written_file_names_every_setting_and_is_right_with_all_of_them_set(tmp_path: Path) -> None:
    path = tmp_path / "pool.toml"
    assert CliRunner().invoke(app, ["config", "init", str(path)]).exit_code == 0
    text = path.read_text()
    assert read_settings(path) == {"pool": {}, "worker": {}}
    path.write_text(re.sub(r"^#(\w+ = (?!\.\.\.))", r"\1", text, flags=re.MULTILINE))
    told = read_settings(path)
    assert PoolSettings(**told["pool"]) == PoolSettings()
    assert told["worker"]["env_patterns"] == ("zmqcarla/*",)
    again = CliRunner().invoke(app, ["config", "init", str(path)])
    assert again.exit_code == 2
    assert "--force replaces it" in again.output


WRONG = {
    "[pool]\nworker = 3": r"pool.worker: expected one of address, .*found an unknown key; did you mean workers\?",
    "[pools]\nworkers = 3": r"expected the tables pool, worker, found 'pools'; did you mean pool\?",
    '[pool]\nworkers = "3"': 'pool.workers: expected a whole number, found "3"',
    "[pool]\nworkers = true": "pool.workers: expected a whole number, found true",
    "[pool]\nworkers = 0": "pool.workers: expected at least 1, found 0",
    '[pool]\nlog_format = "xml"': 'pool.log_format: expected one of text, json, found "xml"',
    '[pool]\ngpus = "first"': 'pool.gpus: expected numbers such as "0,1", or "auto", found',
    "[worker]\nenv_patterns = [1]": "worker.env_patterns: expected a text in quotes, found 1",
    "[worker]\nmax_restarts = -1": "max_restarts: expected 0 or more, found -1",
    '[worker]\nworker_id = "w"': "worker.worker_id: expected one of simulator, .*found an unknown key",
    "[pool": "expected a TOML file, see `zmqcarla config init`; found",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_file_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "pool.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=WRONG[text]) as caught:
        read_settings(path)
    assert str(path) in str(caught.value)


def test_show_prints_what_up_would_take(tmp_path: Path) -> None:
    path = tmp_path / "pool.toml"
    path.write_text("[pool]\nworkers = 7\n[worker]\nstep_timeout_s = 5\n")
    shown = CliRunner().invoke(app, ["config", "show", str(path)])
    assert {"workers = 7", "step_timeout_s = 5.0", "reset_timeout_s = 180.0"} <= set(shown.output.splitlines())
    (tmp_path / "shown.toml").write_text(shown.output)
    assert read_settings(tmp_path / "shown.toml")["pool"]["workers"] == 7


def test_workers_spread_over_gpus_by_the_memory_that_is_left() -> None:
    gib = 1 << 30
    gpus = [Gpu(0, "a", "0000:01:00.0", 80 * gib, 9 * gib), Gpu(1, "b", "0000:02:00.0", 80 * gib, 16 * gib)]
    assert spread(gpus, None, 5) == (1, 1, 0, 1, 0)
    assert spread(gpus, [None, "0000:02:00.0", "0000:01:00.0"], 3) == (1, 1, 2)  # as Vulkan counts
    assert spread([], None, 3) == ()
    assert PoolSettings(gpus="0,0, 1").gpu_numbers((), None) == (0, 0, 1)


def test_servers_of_carla_start_apart() -> None:
    assert [PoolSettings().start_interval(simulator) for simulator in ("carla", "embedded", "none")] == [5.0, 0.2, 0.0]
    assert PoolSettings(start_interval_s=1.5).start_interval("carla") == 1.5


def test_up_takes_the_file_and_options_count_more(tmp_path: Path) -> None:
    path = tmp_path / "pool.toml"
    pool = "[pool]\nworkers = 3\nbase_port = 26700\n"
    path.write_text(f'{pool}[worker]\nsimulator = "none"\nenv_patterns = ["CartPole-v1"]\n')
    address = f"ipc://{tmp_path}/b.sock"
    options = ["--config", str(path), "--workers", "2", "--metrics", "0", "--address", address]
    command = [sys.executable, "-m", "zmqcarla.cli", "up", *options]
    up = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert up.stdout is not None
    try:
        lines = iter(up.stdout.readline, "")
        url = next(line for line in lines if line.startswith("metrics at ")).removeprefix("metrics at ").strip()
        assert next(line for line in lines if line.startswith("all 2 workers are ready"))
        with urllib.request.urlopen(url, timeout=20) as answer:
            assert 'zmqcarla_workers{state="ready"} 2' in answer.read().decode()
        workers = ask_status(address)["workers"]
        assert [one["port"] for one in workers] == [26700, 26704]
        assert workers[0]["env_patterns"] == ["CartPole-v1"]
        up.send_signal(signal.SIGTERM)
        assert up.wait(40) == 0
    finally:
        up.terminate()
        up.communicate(timeout=40)
