"""What this machine allows a process: memory, processes, open files, /dev/shm; None where nothing limits it."""

from __future__ import annotations

import dataclasses
import os
import resource
from pathlib import Path
from typing import Final

import psutil

_SHM: Final = Path("/dev/shm")
_CGROUPS: Final = Path("/sys/fs/cgroup")
_UNLIMITED_BYTES: Final = 1 << 60
"""What version 1 of control groups says instead of "max" is near 2**63."""


@dataclasses.dataclass(frozen=True, slots=True)
class Machine:
    """Room on this machine for this user.

    Attributes:
        shm_total_bytes: size of /dev/shm.
        shm_free_bytes: what of it is free.
        memory_free_bytes: what new processes may take: available memory, or less within a control group.
        open_files: soft limit of one process; what Python's children inherit.
        threads_free: how many more this user, or this control group, may have.
    """

    shm_total_bytes: int
    shm_free_bytes: int
    memory_free_bytes: int
    open_files: int | None
    threads_free: int | None


def read_machine() -> Machine:
    """Look at this machine now."""
    shm = os.statvfs(_SHM)
    return Machine(
        shm_total_bytes=shm.f_blocks * shm.f_frsize,
        shm_free_bytes=shm.f_bavail * shm.f_frsize,
        memory_free_bytes=_memory_free_bytes(),
        open_files=_finite(resource.getrlimit(resource.RLIMIT_NOFILE)[0]),
        threads_free=_threads_free(),
    )


def _finite(limit: int) -> int | None:
    return None if limit == resource.RLIM_INFINITY else limit


def _memory_free_bytes() -> int:
    free = int(psutil.virtual_memory().available)
    limit, used = _cgroup("memory", "memory.max", "memory.limit_in_bytes"), None
    if limit is not None and limit < _UNLIMITED_BYTES:
        used = _cgroup("memory", "memory.current", "memory.usage_in_bytes")
    return free if limit is None or used is None else max(0, min(free, limit - used))


def _threads_free() -> int | None:
    """The kernel counts threads, not processes, against both limits; root is bound by the second alone."""
    found: list[int] = []
    of_user = _finite(resource.getrlimit(resource.RLIMIT_NPROC)[0])
    if of_user is not None and os.getuid() != 0:
        found.append(of_user - _threads_of_user())
    of_group = _cgroup("pids", "pids.max", "pids.max")
    if of_group is not None:
        found.append(of_group - (_cgroup("pids", "pids.current", "pids.current") or 0))
    return max(0, min(found)) if found else None


def _threads_of_user() -> int:
    mine = os.getuid()
    processes = psutil.process_iter(["uids", "num_threads"])
    return sum(one.info["num_threads"] or 0 for one in processes if one.info["uids"] and one.info["uids"].real == mine)


def _cgroup(controller: str, name: str, name_in_version_1: str) -> int | None:
    """A number of this process's control group, the nearest one that has it; None when none has or it is "max"."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, file_name = _CGROUPS, name
        elif controller in controllers.split(","):
            base, file_name = _CGROUPS / controller, name_in_version_1
        else:
            continue
        group = base / path.lstrip("/")
        # Inside a container the path may be the host's, while only the group's own files are mounted at the root.
        for folder in (group, base):
            text = _read(folder / file_name)
            if text:
                return None if text == "max" else int(text)
    return None


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
