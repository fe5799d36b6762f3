"""The files in deploy/ name commands and options that exist, and systemd understands the unit.

No container engine is needed: the Dockerfile is read, not built.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from zmqcarla.cli import app

ROOT = Path(__file__).parents[1]
UNIT = ROOT / "deploy/zmqcarla.service"
DOCKERFILE = ROOT / "deploy/Dockerfile"


def _check_command(words: list[str]) -> None:
    """Fail unless our command line has this command with these options: they are parsed before the help is shown."""
    shown = CliRunner().invoke(app, [*words, "--help"])
    assert shown.exit_code == 0, shown.output
    assert f"Usage: zmqcarla {words[0]}" in shown.output


def test_the_check_finds_what_does_not_exist() -> None:
    for words in (["upp"], ["up", "--worker", "3"], ["config", "chek", "x"]):
        with pytest.raises(AssertionError):
            _check_command(words)


def _unit_settings() -> dict[str, list[str]]:
    settings: dict[str, list[str]] = {}
    for line in UNIT.read_text().splitlines():
        if line and not line.startswith(("#", "[")):
            key, _, value = line.partition("=")
            settings.setdefault(key, []).append(value)
    return settings


def _instructions() -> Iterator[tuple[str, str]]:
    text = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE))
    for line in filter(None, text.splitlines()):
        name, _, rest = line.partition(" ")
        yield name, rest.strip()


def test_the_units_commands_exist(tmp_path: Path) -> None:
    config = tmp_path / "pool.toml"
    config.write_text("[pool]\nworkers = 2\n")
    settings = _unit_settings()
    commands = [value for key in ("ExecStartPre", "ExecStart", "ExecStopPost") for value in settings[key]]
    assert len(commands) == 3
    for command in commands:
        program, *words = shlex.split(command.replace("%h/.config/zmqcarla/pool.toml", str(config)))
        assert program == "%h/zmqcarla/.venv/bin/zmqcarla"
        _check_command(words)
    assert int(settings["TimeoutStopSec"][0]) > 10  # what the pool promises
    assert settings["KillMode"] == ["mixed"]


def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("no systemd-analyze on this machine")
    program = Path(sys.executable).with_name("zmqcarla")
    unit = tmp_path / "zmqcarla.service"
    unit.write_text(UNIT.read_text().replace("%h/zmqcarla/.venv/bin/zmqcarla", str(program)))
    command = [analyze, "verify", "--man=no", "--recursive-errors=no", str(unit)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=40, check=False)
    assert (found.returncode, [line for line in found.stderr.splitlines() if "zmqcarla" in line]) == (0, [])


def test_the_dockerfile_starts_what_exists() -> None:
    instructions = list(_instructions())
    by_name = dict(instructions)
    assert {name for name, _ in instructions} <= {
        *("FROM", "RUN", "COPY", "USER", "WORKDIR", "ENV", "STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT", "CMD")
    }
    assert instructions[0][0] == "FROM"
    assert json.loads(by_name["ENTRYPOINT"]) == ["zmqcarla"]
    _check_command(json.loads(by_name["CMD"]))
    _, _, check = by_name["HEALTHCHECK"].partition("CMD ")
    assert json.loads(check)[0] == "zmqcarla"
    _check_command(json.loads(check)[1:])
    for line in DOCKERFILE.read_text().splitlines():
        if match := re.match(r"#\s+docker run .* zmqcarla (up .*?)(?:\s+#.*)?$", line):
            _check_command(shlex.split(match[1]))
    # Not as root, and only with files that are in the repository.
    users = [rest for name, rest in instructions if name == "USER"]
    assert users
    assert users[-1] != "root"
    extras = re.search(r'"/src\[(\w+)\]"', DOCKERFILE.read_text())
    assert extras is not None
    assert re.search(rf"^{extras[1]} = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert (ROOT / "constraints.txt").exists()
