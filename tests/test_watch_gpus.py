"""GPUs as NVML tells them: answers that were recorded once on a real NVIDIA H200, in place of the driver's."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from zmqcarla import pool
from zmqcarla.pool import PoolConfig
from zmqcarla.watch import doctor, gpus
from zmqcarla.workers.vram import vram_bytes

RECORDED: dict[str, Any] = json.loads(Path(__file__).with_name("recorded").joinpath("nvml-h200.json").read_text())


@pytest.fixture(autouse=True)
def _driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library answers with what was recorded."""
    devices = RECORDED["devices"]
    answers: dict[str, Any] = {
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetCount": lambda: len(devices),
        "nvmlDeviceGetHandleByIndex": lambda index: devices[index],
        "nvmlDeviceGetName": lambda device: device["name"],
        "nvmlDeviceGetPciInfo": lambda device: SimpleNamespace(**device["pci"]),
        "nvmlDeviceGetMemoryInfo": lambda device: SimpleNamespace(**device["memory"]),
        # Nothing ran on it.
        "nvmlDeviceGetGraphicsRunningProcesses": lambda device: [],
        "nvmlDeviceGetComputeRunningProcesses": lambda device: [],
    }
    for name, answer in answers.items():
        monkeypatch.setattr(pynvml, name, answer)


def test_a_gpu_is_read_with_its_memory_and_pci_address() -> None:
    assert gpus.read_gpus() == [
        gpus.Gpu(0, "NVIDIA H200", "0000:00:06.0", total_bytes=150754820096, free_bytes=150109880320)
    ]
    assert doctor.judge_gpus(gpus.read_gpus(), "", "carla").found == (
        "0: NVIDIA H200, 140 of 140 GiB free, PCI 0000:00:06.0"
    )


def test_its_adapter_is_found_behind_a_software_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "read_vulkan_adapters", lambda: [None, "0000:00:06.0"])
    assert gpus.adapters_of([0, 1]) == {0: 1}
    config = PoolConfig("ipc:///nowhere", 2, gpus=(0,), simulator="carla")
    workers = pool._supervisor_config(config)["workers"]  # pyright: ignore[reportPrivateUsage]
    assert [(worker["gpu"], worker["adapter"]) for worker in workers] == [(0, 1), (0, 1)]


def test_an_adapter_that_nobody_knows_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "read_vulkan_adapters", lambda: None)
    assert gpus.adapters_of([0]) == {}
    monkeypatch.setattr(gpus, "read_vulkan_adapters", lambda: ["0000:00:07.0"])
    assert gpus.adapters_of([0]) == {}


def test_the_driver_lists_no_memory_of_a_process_it_does_not_run() -> None:
    assert vram_bytes([1]) is None
