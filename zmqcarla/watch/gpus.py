"""The GPUs of this machine in the driver's order (NVML), and in Vulkan's, which CarlaUE4 counts by.

The two orders differ as soon as a software driver or another vendor's card comes first; the PCI address is what they
have in common.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import shutil
import subprocess
from collections.abc import Sequence
from typing import Any, Final

import pynvml

_VULKANINFO_TIMEOUT_S: Final = 20.0
_NO_DRIVER: Final = (
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND,
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
    pynvml.NVML_ERROR_NO_PERMISSION,
)
_PCI_FIELDS: Final = ("pciDomain", "pciBus", "pciDevice", "pciFunction")


@dataclasses.dataclass(frozen=True, slots=True)
class Gpu:
    """One NVIDIA GPU.

    Attributes:
        index: as nvidia-smi counts; CUDA's number too under CUDA_DEVICE_ORDER=PCI_BUS_ID.
        name: of the product.
        pci_address: domain:bus:device.function in lower-case hexadecimal, such as "0000:1b:00.0".
        total_bytes: of its memory.
        free_bytes: of its memory, now.
    """

    index: int
    name: str
    pci_address: str
    total_bytes: int
    free_bytes: int


def read_gpus() -> list[Gpu]:
    """The GPUs that the NVIDIA driver shows; none without a driver.

    Raises:
        pynvml.NVMLError: there is a driver, and it failed.
    """
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        if error.value in _NO_DRIVER:  # type: ignore[attr-defined, unused-ignore]
            return []
        raise
    try:
        return [_read_gpu(index) for index in range(pynvml.nvmlDeviceGetCount())]
    finally:
        pynvml.nvmlShutdown()


def _read_gpu(index: int) -> Gpu:
    device = pynvml.nvmlDeviceGetHandleByIndex(index)
    memory: Any = pynvml.nvmlDeviceGetMemoryInfo(device)
    pci: Any = pynvml.nvmlDeviceGetPciInfo(device)
    name = _text(pynvml.nvmlDeviceGetName(device))
    return Gpu(index, name, pci_address_of_nvml(_text(pci.busId)), int(memory.total), int(memory.free))


def _text(value: str | bytes) -> str:
    """Older releases of pynvml return bytes."""
    return value.decode() if isinstance(value, bytes) else value


def pci_address_of_nvml(bus_id: str) -> str:
    """NVML writes eight digits of domain, everybody else four."""
    domain, rest = bus_id.lower().split(":", 1)
    return f"{int(domain, 16):04x}:{rest}"


def read_vulkan_adapters() -> list[str | None] | None:
    """PCI addresses in Vulkan's order; None where `vulkaninfo` does not exist or does not answer."""
    program = shutil.which("vulkaninfo")
    if program is None:
        return None
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        answer = subprocess.run(
            [program],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_VULKANINFO_TIMEOUT_S,
            check=False,
        )
        return vulkan_adapters(answer.stdout) or None
    return None


def vulkan_adapters(vulkaninfo: str) -> list[str | None]:
    """The PCI address of each adapter in the text that `vulkaninfo` prints, in Vulkan's order.

    An adapter without one (a software driver) is None. Further sections about the same adapter change nothing.
    """
    adapters: dict[int, dict[str, int]] = {}
    current: dict[str, int] = {}
    for line in vulkaninfo.splitlines():
        heading = re.fullmatch(r"GPU(\d+):", line.strip())
        if heading:
            current = adapters.setdefault(int(heading[1]), {})
            continue
        field = re.fullmatch(r"(pci\w+)\s*=\s*(\w+)", line.strip())
        if field and field[1] in _PCI_FIELDS:
            current.setdefault(field[1], int(field[2], 0))
    return [_pci_address(adapters[index]) for index in sorted(adapters)]


def _pci_address(fields: dict[str, int]) -> str | None:
    if any(name not in fields for name in _PCI_FIELDS):
        return None
    domain, bus, device, function = (fields[name] for name in _PCI_FIELDS)
    return f"{domain:04x}:{bus:02x}:{device:02x}.{function:x}"


def adapter_of(gpu: Gpu, adapters: Sequence[str | None]) -> int | None:
    """The number that CarlaUE4's -graphicsadapter knows the GPU by; None when Vulkan does not show it."""
    return adapters.index(gpu.pci_address) if gpu.pci_address in adapters else None


def adapters_of(indices: Sequence[int]) -> dict[int, int]:
    """Vulkan's numbers of GPUs that nvidia-smi counts so; those are left out of which nobody can tell.

    Args:
        indices: of the GPUs, as nvidia-smi counts.
    """
    try:
        gpus = [gpu for gpu in read_gpus() if gpu.index in indices]
    except pynvml.NVMLError:
        return {}
    adapters = read_vulkan_adapters() if gpus else None
    numbers = {gpu.index: adapter_of(gpu, adapters or ()) for gpu in gpus}
    return {index: number for index, number in numbers.items() if number is not None}
