"""Fixtures for every room: a private runtime directory, and the leak check that ends every test."""

from __future__ import annotations

import contextlib
import fcntl
import gc
import os
import secrets
import select
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import zmqcarla
from zmqcarla.workers import ports
from zmqcarla.workers.carla_env import CarlaEnv
from zmqcarla.workers.servers import Server, ServerSpec, launch

_MARK = "ZMQCARLA_TEST_RUN"
_DEADLINE_S = 15.0

os.environ[_MARK] = secrets.token_hex(8)
for _name in ("ZMQCARLA_ADDRESS", "ZMQCARLA_KEYS", "ZMQCARLA_INSECURE"):
    os.environ.pop(_name, None)
os.environ.pop("CARLA_ROOT", None)
# Test runs that share a machine do not know of each other's claims.
os.environ["ZMQCARLA_FIRST_PORT"] = str(28000 + 4 * (os.getpid() % 600))
# Workers and other child processes find the envs of the tests.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")]))


NewVecEnv = Callable[..., zmqcarla.VectorEnv]


def wait_until(condition: Callable[[], object], what: str, timeout_s: float = _DEADLINE_S) -> None:
    """Poll until the condition holds; fail with `what` after the deadline."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"waited {timeout_s:g} s for: {what}")
        select.select([], [], [], 0.005)


@contextlib.contextmanager
def embedded_server(log: Path, town_file: Path | None = None) -> Generator[Server]:
    """An embedded simulator that listens, on ports of its own; it ends with the block."""
    claim = ports.claim_free()
    try:
        spec = ServerSpec("embedded", claim.block.rpc, map=None if town_file is None else str(town_file))
        with contextlib.closing(launch(spec, log)) as running:
            running.wait_ready(30.0)
            yield running
    finally:
        claim.release()


@pytest.fixture(scope="session", autouse=True)
def _runtime_directory() -> Iterator[None]:
    """Sockets, locks and logs of the test run, apart from the user's own pool."""
    gc.collect()
    gc.freeze()  # what was imported by now need not be searched for garbage after every test
    with tempfile.TemporaryDirectory(prefix="zq-") as path, pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", path)
        yield


def _our_processes() -> dict[int, str]:
    """Processes of this test run, orphans included, known by the mark in their environment."""
    found: dict[int, str] = {}
    mark = f"{_MARK}={os.environ[_MARK]}".encode()
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        if pid == os.getpid():
            continue
        with contextlib.suppress(OSError):
            if mark in Path(f"/proc/{pid}/environ").read_bytes():  # a zombie's is empty
                found[pid] = (
                    Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:200]
                )
    return found


def _belongs_to(pid: int, owners: dict[int, str]) -> bool:
    """Whether a process, or one of its ancestors, is among the owners (a worker that a shared pool restarted)."""
    with contextlib.suppress(psutil.Error):
        return bool({pid, *[parent.pid for parent in psutil.Process(pid).parents()]} & set(owners))
    return False


def _sockets() -> set[str]:
    return {str(path) for path in Path(os.environ["XDG_RUNTIME_DIR"]).glob("zmqcarla/*.sock*")}


def _segments() -> set[str]:
    return {path.name for path in Path("/dev/shm").glob(f"zmqcarla-{os.getuid()}-*")}


def _is_ours(segment: str) -> bool:
    """Whether nobody alive owns the segment, or this process still maps it."""
    try:
        fd = os.open(f"/dev/shm/{segment}", os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return segment in Path("/proc/self/maps").read_text()
    finally:
        os.close(fd)
    return True


@pytest.fixture(autouse=True)
def _nothing_leaks() -> Iterator[None]:
    """A process, segment or socket file that a test leaves behind fails it."""
    processes, segments, sockets = _our_processes(), _segments(), _sockets()
    yield
    gc.collect()
    deadline = time.monotonic() + _DEADLINE_S
    while True:
        left_processes = {pid: name for pid, name in _our_processes().items() if not _belongs_to(pid, processes)}
        left_segments = {name for name in _segments() - segments if _is_ours(name)}
        left_sockets = _sockets() - sockets
        if not (left_processes or left_segments or left_sockets):
            return
        if time.monotonic() > deadline:
            pytest.fail(f"left behind: processes {left_processes}, segments {left_segments}, sockets {left_sockets}")
        select.select([], [], [], 0.02)


@pytest.fixture(params=["shm", "zmq"])
def transport(request: pytest.FixtureRequest) -> str:
    """How a vector env steps."""
    return str(request.param)


@pytest.fixture
def new_vec_env() -> Iterator[NewVecEnv]:
    """`make_vec_env`, whose vector envs are closed after the test."""
    made: list[zmqcarla.VectorEnv] = []

    def new_vec_env(n: int, env: str, *arguments: Any, **options: Any) -> zmqcarla.VectorEnv:
        made.append(zmqcarla.make_vec_env(n, env, *arguments, **options))
        return made[-1]

    yield new_vec_env
    for vec in made:
        vec.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An embedded simulator with its default town, one for all tests of a file."""
    with embedded_server(tmp_path_factory.mktemp("server") / "log") as running:
        yield running


@pytest.fixture
def settings(server: Server) -> dict[str, Any]:
    """Of an env on that simulator."""
    return {"connect": f"127.0.0.1:{server.spec.port}", "simulator": "embedded", "timeout": 10.0}


@pytest.fixture
def make(settings: dict[str, Any]) -> Iterator[Any]:
    """Make an env on the server; closed after the test."""
    envs: list[CarlaEnv] = []

    def make_env(**more: Any) -> CarlaEnv:
        envs.append(CarlaEnv(**{**settings, **more}))
        return envs[-1]

    yield make_env
    for env in envs:
        env.close()


@pytest.fixture(scope="session")
def town_maps() -> Path:
    """The folder with real CARLA towns beside the checkout."""
    path = Path(__file__).parents[1].parent / "shared/data/maps"
    if not path.is_dir():
        pytest.skip("no ../shared/data/maps with CARLA towns beside this checkout")
    return path
