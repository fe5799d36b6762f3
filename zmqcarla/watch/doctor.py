"""Will a pool of N workers run on this machine? Checks with a finding and a remedy each.

`examine` looks; the `judge_...` functions decide from what was seen, and are pure. A *failure* is what will certainly
go wrong; a *warning* is an estimate, or what will hurt only some uses.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pynvml
from gymnasium import spaces

from zmqcarla.shm.arena import DEFAULT_SLOTS
from zmqcarla.shm.board import board_size_bytes
from zmqcarla.shm.layout import Layout
from zmqcarla.watch.gpus import Gpu, adapter_of, read_gpus, read_vulkan_adapters
from zmqcarla.watch.machine import Machine, read_machine

Level = Literal["ok", "warning", "failure"]

_GRAVEST_FIRST: Final[tuple[Level, ...]] = ("failure", "warning")
CARLA_VERSION: Final = "0.9.16"
"""What the embedded simulator speaks, and what this release was built for."""
_PYTHONS: Final = ((3, 10), (3, 12))
_IMPORT_TIMEOUT_S: Final = 60.0
_RESERVED_SLOTS: Final = 2
"""One for when all slots are held, one more for final observations in SAME_STEP."""
_ACTION_SPACE: Final = spaces.Box(-1.0, 1.0, (3,), np.float32)
_SHM_SHARE_THAT_WARNS: Final = 0.5
_BUSY_SHOWN: Final = 2
_GIB: Final = 2**30


@dataclasses.dataclass(frozen=True, slots=True)
class Need:
    """What one worker takes: its server, its env process and their guard; estimates, see docs/operations.md."""

    memory_bytes: int
    gpu_bytes: int
    threads: int


NEEDS: Final = {
    "embedded": Need(memory_bytes=300 << 20, gpu_bytes=0, threads=16),
    "carla": Need(memory_bytes=6 * _GIB, gpu_bytes=4 * _GIB, threads=700),
}
_OPEN_FILES_A_WORKER: Final = 16
"""Of the supervisor, which holds the most: 10 were counted."""
_OPEN_FILES_BESIDE: Final = 64


@dataclasses.dataclass(frozen=True, slots=True)
class Wanted:
    """The pool in question.

    Attributes:
        workers: how many.
        carla_root: folder of a CARLA release; None for the embedded simulator.
        base_port: RPC port of worker 0.
    """

    workers: int
    carla_root: str | None
    base_port: int

    @property
    def simulator(self) -> Literal["embedded", "carla"]:
        """What the workers would drive."""
        return "embedded" if self.carla_root is None else "carla"


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """What one check found.

    Attributes:
        check: its name.
        level: how bad it is.
        found: in words.
        remedy: what to do about it; empty when nothing is to be done.
    """

    check: str
    level: Level
    found: str
    remedy: str = ""


def worst(findings: Sequence[Finding]) -> Level:
    """The gravest level among the findings."""
    levels = {finding.level for finding in findings}
    for level in _GRAVEST_FIRST:
        if level in levels:
            return level
    return "ok"


def examine(
    wanted: Wanted,
    observation_space: Callable[[], spaces.Space[Any]],
    busy_ports: Sequence[str],
    leftovers: Sequence[str],
) -> list[Finding]:
    """Look at this machine.

    Args:
        wanted: the pool.
        observation_space: returns that of its envs; only called when the carla client can be imported.
        busy_ports: why port blocks of the pool cannot be had, one line each.
        leftovers: segments and sockets whose owners are dead.
    """
    machine = read_machine()
    try:
        gpus, gpu_error = read_gpus(), ""
    except pynvml.NVMLError as error:
        gpus, gpu_error = list[Gpu](), str(error)
    client = judge_client(_version_of_carla(), _import_error_of_carla())
    root = None if wanted.carla_root is None else Path(wanted.carla_root)
    return [
        judge_python(sys.version_info[:2]),
        client,
        *([] if root is None else [judge_root(root, _read_version(root), _version_of_carla())]),
        judge_user(os.geteuid(), wanted.simulator),
        judge_gpus(gpus, gpu_error, wanted.simulator),
        *([judge_adapters(gpus, read_vulkan_adapters())] if gpus else []),
        *([] if client.level == "failure" else [_examine_shm(machine, observation_space(), wanted.workers)]),
        judge_open_files(machine.open_files, wanted.workers),
        judge_threads(machine.threads_free, wanted),
        judge_ports(busy_ports, wanted),
        judge_capacity(machine, gpus, wanted),
        judge_leftovers(leftovers),
    ]


# --- looking ---


def ring_bytes(observation_space: spaces.Space[Any], workers: int) -> int:
    """Shared memory of one lease over all workers: the arena with its slots, and the board."""
    arena_bytes = Layout.of(observation_space, workers, DEFAULT_SLOTS + _RESERVED_SLOTS).size_bytes
    return arena_bytes + board_size_bytes(_ACTION_SPACE, workers)


def _examine_shm(machine: Machine, observation_space: spaces.Space[Any], workers: int) -> Finding:
    return judge_shm(machine, ring_bytes(observation_space, workers), workers)


def _version_of_carla() -> str | None:
    try:
        return version_of("carla")
    except PackageNotFoundError:
        return None


def _import_error_of_carla() -> str:
    """The last line of what `import carla` says in a process of its own; empty when it works."""
    tried = subprocess.run(
        [sys.executable, "-c", "import carla"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_IMPORT_TIMEOUT_S,
        check=False,
    )
    lines = tried.stderr.strip().splitlines() or [f"exit code {tried.returncode}"]
    return lines[-1] if tried.returncode else ""


def _read_version(carla_root: Path) -> str | None:
    try:
        return (carla_root / "VERSION").read_text().strip()
    except OSError:
        return None


# --- judging ---


def judge_python(version: tuple[int, ...]) -> Finding:
    """The carla wheel exists for some versions only."""
    first, last = _PYTHONS
    found = ".".join(map(str, version))
    if first <= version <= last:
        return Finding("python", "ok", found)
    return Finding("python", "failure", found, "use Python 3.10, 3.11 or 3.12: there is no carla wheel for others")


def judge_client(version: str | None, import_error: str) -> Finding:
    """The carla client library."""
    install = f"pip install carla=={CARLA_VERSION}"
    if version is None:
        return Finding("carla client", "failure", "not installed", install)
    if import_error:
        return Finding(
            "carla client",
            "failure",
            f"{version}, but `import carla` fails: {import_error}",
            f"install what it misses, or `{install}` again",
        )
    if version != CARLA_VERSION:
        return Finding(
            "carla client",
            "warning",
            f"{version}; the embedded simulator speaks {CARLA_VERSION}, and so was this release tried",
            f"{install}, unless your CARLA server is {version}",
        )
    return Finding("carla client", "ok", version)


def judge_root(root: Path, root_version: str | None, client_version: str | None) -> Finding:
    """The CARLA release whose servers are to be started; client and server have to be of one version."""
    if not (root / "CarlaUE4.sh").is_file():
        remedy = f"point --carla-root (or CARLA_ROOT) at an unpacked CARLA {CARLA_VERSION} release"
        return Finding("carla root", "failure", f"no CarlaUE4.sh in {root}", remedy)
    if root_version is None:
        return Finding(
            "carla root", "ok", f"{root} (it has no VERSION file; its version shows at the first connection)"
        )
    # A release may call itself 0.9.16-1-gabc123.
    if client_version is not None and root_version.split("-")[0] != client_version:
        return Finding(
            "carla root",
            "failure",
            f"{root} is {root_version}, the client is {client_version}",
            f"pip install carla=={root_version.split('-')[0]}, or use CARLA {client_version}",
        )
    return Finding("carla root", "ok", f"{root} is {root_version}")


def judge_user(euid: int, simulator: str) -> Finding:
    """CarlaUE4 refuses to run as root."""
    if euid != 0:
        return Finding("user", "ok", f"uid {euid}")
    if simulator == "embedded":
        return Finding("user", "ok", "root (fine for the embedded simulator; CarlaUE4 would refuse)")
    remedy = "run as another user (`runuser -u carla -- zmqcarla up ...`; in a container, USER carla)"
    return Finding("user", "failure", "root: CarlaUE4 refuses to run", remedy)


def judge_gpus(gpus: Sequence[Gpu], error: str, simulator: str) -> Finding:
    """CarlaUE4 needs a GPU, the embedded simulator none."""
    level: Level = "ok" if simulator == "embedded" else "failure"
    if error:
        return Finding("gpus", level, f"the NVIDIA driver does not answer: {error}", "see `nvidia-smi`")
    if not gpus:
        remedy = "" if level == "ok" else "install the NVIDIA driver; in a container, start it with --gpus all"
        return Finding("gpus", level, "none by NVML" + (": enough for the embedded simulator" * (not remedy)), remedy)
    lines = [
        f"{gpu.index}: {gpu.name}, {gpu.free_bytes / _GIB:.0f} of {gpu.total_bytes / _GIB:.0f} GiB free, "
        f"PCI {gpu.pci_address}"
        for gpu in gpus
    ]
    return Finding("gpus", "ok", "; ".join(lines))


def judge_adapters(gpus: Sequence[Gpu], adapters: Sequence[str | None] | None) -> Finding:
    """Whether each GPU has an adapter: CarlaUE4 counts as Vulkan does, and ignores CUDA_VISIBLE_DEVICES."""
    check = "vulkan adapters"
    if adapters is None:
        found = "unknown: `vulkaninfo` is missing or does not answer; --gpu K then means Vulkan's adapter K, not CUDA's"
        return Finding(check, "warning", found, "install vulkan-tools and run doctor again")
    pairs = {gpu.index: adapter_of(gpu, adapters) for gpu in gpus}
    text = ", ".join(f"GPU {index} is adapter {number}" for index, number in pairs.items() if number is not None)
    unseen = [str(index) for index, number in pairs.items() if number is None]
    if unseen:
        return Finding(
            check,
            "warning",
            f"Vulkan does not show GPU {', '.join(unseen)}" + (f"; {text}" if text else ""),
            "install the driver's Vulkan part; in a container set NVIDIA_DRIVER_CAPABILITIES=all",
        )
    return Finding(check, "ok", f"{text}; --gpu counts as nvidia-smi does")


def judge_shm(machine: Machine, needed_bytes: int, workers: int) -> Finding:
    """Room for the ring of one lease over all workers, with the default observation."""
    found = (
        f"{_mib(machine.shm_free_bytes)} free of {_mib(machine.shm_total_bytes)}; the ring of {workers} workers takes "
        f"{_mib(needed_bytes)} (default observation)"
    )
    remedy = (
        "mount -o remount,size=8G /dev/shm; docker run --shm-size=8g; or smaller images, fewer slots, `zmqcarla clean`"
    )
    if needed_bytes > machine.shm_free_bytes:
        return Finding("/dev/shm", "failure", found, remedy)
    if needed_bytes > _SHM_SHARE_THAT_WARNS * machine.shm_free_bytes:
        return Finding("/dev/shm", "warning", found + "; a second client would not fit", remedy)
    return Finding("/dev/shm", "ok", found)


def judge_open_files(limit: int | None, workers: int) -> Finding:
    """The supervisor holds pidfds, pipes, port locks and a page for each worker."""
    needed = _OPEN_FILES_BESIDE + _OPEN_FILES_A_WORKER * workers
    if limit is None or limit >= needed:
        return Finding("open files", "ok", "no limit" if limit is None else f"limit {limit}, about {needed} needed")
    found = f"limit {limit}; the supervisor of {workers} workers needs about {needed}"
    return Finding("open files", "failure", found, f"ulimit -n {max(4096, needed)}")


def judge_threads(free: int | None, wanted: Wanted) -> Finding:
    """Both limits, of the user and of the control group, count threads."""
    needed = NEEDS[wanted.simulator].threads * wanted.workers
    if free is None or free >= needed:
        return Finding("threads", "ok", "no limit" if free is None else f"room for {free}, about {needed} needed")
    found = f"room for {free} more threads; {wanted.workers} workers need about {needed} (estimate)"
    return Finding("threads", "warning", found, "raise `ulimit -u`, or the container's --pids-limit")


def judge_ports(busy: Sequence[str], wanted: Wanted) -> Finding:
    """Each worker takes four ports."""
    last = wanted.base_port + 4 * wanted.workers - 1
    where = f"{wanted.base_port} to {last}"
    if not busy:
        return Finding("ports", "ok", f"{where} are free")
    remedy = "end these processes, or choose another --base-port below 32768"
    some = "; ".join(busy[:_BUSY_SHOWN]) + ("; ..." if len(busy) > _BUSY_SHOWN else "")
    return Finding("ports", "failure", f"{len(busy)} of {wanted.workers} blocks from {where}: {some}", remedy)


def judge_capacity(machine: Machine, gpus: Sequence[Gpu], wanted: Wanted) -> Finding:
    """How many workers the memory carries, by estimates."""
    need = NEEDS[wanted.simulator]
    fits = machine.memory_free_bytes // need.memory_bytes
    basis = f"{_mib(need.memory_bytes)} each in {_mib(machine.memory_free_bytes)} of free memory"
    if need.gpu_bytes:
        fits = min(fits, sum(gpu.free_bytes // need.gpu_bytes for gpu in gpus))
        basis += f", and {_mib(need.gpu_bytes)} on a GPU"
    found = f"about {fits} {wanted.simulator} workers fit (estimate: {basis})"
    if fits >= wanted.workers:
        return Finding("capacity", "ok", found)
    return Finding("capacity", "warning", f"{found}; {wanted.workers} are wanted", "use fewer workers, or free memory")


def judge_leftovers(names: Sequence[str]) -> Finding:
    """What killed processes left behind."""
    if not names:
        return Finding("leftovers", "ok", "none")
    return Finding("leftovers", "warning", f"{len(names)}: {', '.join(names)}", "zmqcarla clean")


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / _GIB:.1f} GiB" if size_bytes >= _GIB else f"{size_bytes / 2**20:.0f} MiB"
