"""GPU memory of processes, as the NVIDIA driver tells it (NVML)."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterable
from typing import Any, Final

import pynvml

_LOOK_EVERY_S: Final = 30.0
"""NVML takes its time to wake up, and memory does not leak by the second."""


def vram_bytes(pids: Collection[int]) -> int | None:
    """Return the GPU memory that processes use together, on all GPUs.

    None where nobody can tell: without a driver; in a container whose pids are not the driver's; on a GPU that keeps no
    count a process.

    Args:
        pids: of the processes.
    """
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        return used_by(pids, (user for index in range(pynvml.nvmlDeviceGetCount()) for user in _users(index)))
    except pynvml.NVMLError:
        return None
    finally:
        pynvml.nvmlShutdown()


class VramGauge:
    """Reads the GPU memory of one server now and then."""

    def __init__(self) -> None:
        self._bytes: int | None = None
        self._due_at = -math.inf

    def read(self, pids: Collection[int]) -> int | None:
        """Return `vram_bytes` as of the last half minute."""
        if time.monotonic() >= self._due_at:
            self._bytes, self._due_at = vram_bytes(pids), time.monotonic() + _LOOK_EVERY_S
        return self._bytes


def used_by(pids: Collection[int], users: Iterable[Any]) -> int | None:
    """Sum what the driver lists for some processes; None when it lists none of them.

    Args:
        pids: of the processes.
        users: NVML's records, one for each process and GPU, with `pid` and `usedGpuMemory` (bytes, None where it is
            not known).
    """
    known = [int(user.usedGpuMemory) for user in users if user.pid in pids and user.usedGpuMemory is not None]
    return sum(known) if known else None


def _users(index: int) -> list[Any]:
    """One record for each process on a GPU: who draws and computes is listed twice, with the same number."""
    device = pynvml.nvmlDeviceGetHandleByIndex(index)
    drawing: Any = pynvml.nvmlDeviceGetGraphicsRunningProcesses(device)
    computing: Any = pynvml.nvmlDeviceGetComputeRunningProcesses(device)
    return list({int(user.pid): user for user in (*computing, *drawing)}.values())
