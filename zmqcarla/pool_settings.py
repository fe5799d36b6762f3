"""What `zmqcarla up` is told, by a file or by options: the pool as a whole. Workers have `WorkerConfig`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Final, Literal

from zmqcarla.broker.errors import ConfigError
from zmqcarla.watch.gpus import Gpu, adapter_of

AUTO: Final = "auto"
_START_INTERVAL_S: Final = {"carla": 5.0, "embedded": 0.2, "none": 0.0}
_GPU_BYTES_A_WORKER: Final = 4 << 30
"""What a CarlaUE4 takes of a GPU, by what others report; the doctor's estimate too."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PoolSettings:
    """The table [pool]."""

    address: str | None = None
    """Where the broker serves: "ipc:///path" or "tcp://127.0.0.1:PORT". Default: this user's socket."""

    workers: int = 4
    """How many workers."""

    gpus: str = ""
    """GPU numbers such as "0,0,1,1", worker i takes the i-th, round robin; or "auto": always the GPU that has most
    memory free, by NVML."""

    base_port: int = 2000
    """RPC port of worker 0; each takes 4 ports."""

    start_interval_s: float | None = None
    """Seconds from one worker's first start to the next one's. Default: 5 for carla, 0.2 for embedded, 0 for none."""

    metrics_port: int | None = None
    """Serve metrics for Prometheus at http://127.0.0.1:PORT/metrics. Default: no."""

    log_format: Literal["text", "json"] = "text"
    """How broker and supervisor write their logs; "json": one object a line, with the cause of each message."""

    log_max_bytes: int = 16 << 20
    """A log file that is larger is put aside, as FILE.1, FILE.2 ..."""

    logs_kept: int = 3
    """So many of each file are kept beside the present one."""

    def __post_init__(self) -> None:
        for name, least in (("workers", 1), ("base_port", 1), ("log_max_bytes", 1 << 12), ("logs_kept", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"pool.{name}: expected at least {least}, found {getattr(self, name)}")
        if self.start_interval_s is not None and self.start_interval_s < 0:
            raise ConfigError(f"pool.start_interval_s: expected 0 or more, found {self.start_interval_s}")

    def start_interval(self, simulator: str) -> float:
        """In seconds, for workers with this simulator."""
        return _START_INTERVAL_S[simulator] if self.start_interval_s is None else self.start_interval_s

    def gpu_numbers(self, gpus: Sequence[Gpu], adapters: Sequence[str | None] | None) -> tuple[int, ...]:
        """The GPU of each worker, round robin; empty for none.

        Args:
            gpus: that NVML shows; only asked with "auto".
            adapters: PCI addresses in Vulkan's order, by which CarlaUE4 counts; None when nobody can tell.

        Raises:
            ConfigError: neither numbers nor "auto".
        """
        if self.gpus == AUTO:
            return spread(gpus, adapters, self.workers)
        try:
            return tuple(int(part) for part in self.gpus.split(",") if part.strip())
        except ValueError:
            raise ConfigError(f'pool.gpus: expected numbers such as "0,1", or "auto", found {self.gpus!r}') from None


def spread(gpus: Sequence[Gpu], adapters: Sequence[str | None] | None, workers: int) -> tuple[int, ...]:
    """Each worker to the GPU with most memory left after the ones before; of equals to the first."""
    left = {gpu.index: gpu.free_bytes for gpu in gpus}
    by_index = {gpu.index: gpu for gpu in gpus}
    chosen: list[int] = []
    for _ in range(workers if left else 0):
        index = max(left, key=lambda each: left[each])
        left[index] -= _GPU_BYTES_A_WORKER
        adapter = None if adapters is None else adapter_of(by_index[index], adapters)
        chosen.append(index if adapter is None else adapter)
    return tuple(chosen)
