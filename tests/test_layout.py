"""The house: who may import whom, and that every package is where the wheel and the checkers look for it."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("broker", "shm", "workers")
CONTRACTS = ("zmqcarla.broker.protocol", "zmqcarla.broker.errors", "zmqcarla.shm")
ALLOWED = {
    "zmqcarla.broker": ("zmqcarla.broker",),
    "zmqcarla.shm": ("zmqcarla.shm",),
    "zmqcarla.workers": ("zmqcarla.workers", *CONTRACTS),
    "zmqcarla.sim": ("zmqcarla.sim",),
}


def _modules() -> Iterator[tuple[str, Path]]:
    for folder in (ROOT / "zmqcarla", *(ROOT / room for room in ROOMS)):
        for path in folder.rglob("*.py"):
            if folder.name == "zmqcarla" and any((ROOT / "zmqcarla" / room) in path.parents for room in ROOMS):
                continue
            inside = path.relative_to(folder).with_suffix("")
            parts = [part for part in inside.parts if part != "__init__"]
            prefix = ["zmqcarla"] if folder.name == "zmqcarla" else ["zmqcarla", folder.name]
            yield ".".join(prefix + parts), path


def _imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            found.update(f"{module}.{alias.name}" for alias in node.names)
    return {name for name in found if name.split(".")[0] == "zmqcarla"}


def _within(name: str, prefixes: tuple[str, ...]) -> bool:
    return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)


@pytest.mark.parametrize(
    ("module", "path"), list(_modules()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_imports_only_run_down(module: str, path: Path) -> None:
    room = ".".join(module.split(".")[:2])
    if room in ALLOWED:
        allowed = ALLOWED[room]
    elif "cli" in module.rpartition(".")[2].split("_"):  # the commands: zmqcarla.cli and zmqcarla.*_cli
        return
    else:  # the face
        rooms = ("zmqcarla.workers", "zmqcarla.broker", "zmqcarla.sim")
        upward = {name for name in _imports(path) if _within(name, rooms) and not _within(name, CONTRACTS)}
        if module == "zmqcarla":
            upward -= {"zmqcarla.workers.carla_env.CarlaEnv"}  # named for type checkers; loaded lazily
        assert not upward
        return
    assert {name for name in _imports(path) if not _within(name, allowed)} == set()


def test_every_package_is_in_the_wheel_list() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    match = re.search(r"^packages = \[(.*?)\]", text, re.DOTALL | re.MULTILINE)
    assert match is not None
    listed = set(re.findall(r'"([^"]+)"', match.group(1)))
    there = {module if path.name == "__init__.py" else module.rpartition(".")[0] for module, path in _modules()}
    assert there == listed


@pytest.mark.parametrize("room", ROOMS)
def test_links_lead_to_the_rooms(room: str) -> None:
    link = ROOT / "zmqcarla" / room
    assert link.is_symlink()
    assert link.readlink() == Path("..") / room


def test_top_level_is_fixed() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    folders = {line.split("/")[0] for line in tracked.stdout.splitlines() if "/" in line}
    assert folders <= {"zmqcarla", *ROOMS, "tests", "tools", "docs", "examples", "deploy", ".ci"}


def test_a_users_own_workers_folder_is_not_shadowed(tmp_path: Path) -> None:
    (tmp_path / "workers").mkdir()
    (tmp_path / "workers" / "__init__.py").write_text("MINE = True\n")
    script = (
        "import zmqcarla, workers; import zmqcarla.workers as ours; assert workers.MINE and not hasattr(ours, 'MINE')"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", script], cwd=tmp_path, check=True, timeout=60)


def test_importing_the_package_loads_neither_client_nor_carla() -> None:
    script = "import sys, zmqcarla.broker.router; assert not {'carla', 'zmqcarla.lease', 'rich'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_version_is_the_packages() -> None:
    import zmqcarla  # noqa: PLC0415 - after the tests that look at a fresh interpreter

    assert zmqcarla.__version__ == importlib.metadata.version("zmqcarla")
    for name in zmqcarla.__all__:
        assert getattr(zmqcarla, name) is not None
