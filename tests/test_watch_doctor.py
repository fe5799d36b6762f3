"""What `zmqcarla doctor` decides from what it sees, and the command on this machine."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from gymnasium import spaces

from zmqcarla.broker.protocol import runtime_directory
from zmqcarla.shm.arena import DEFAULT_SLOTS, Arena
from zmqcarla.shm.board import Board
from zmqcarla.watch import doctor
from zmqcarla.watch.gpus import Gpu, adapter_of, pci_address_of_nvml, vulkan_adapters
from zmqcarla.watch.machine import Machine, read_machine

GIB = 1 << 30
PORT = 24240
GPUS = [
    Gpu(0, "A", pci_address_of_nvml("00000000:1B:00.0"), 24 * GIB, 20 * GIB),
    Gpu(1, "B", pci_address_of_nvml("00000000:41:00.0"), 24 * GIB, 20 * GIB),
]
VULKANINFO = """
VULKANINFO
GPU id = 0 (llvmpipe)
Device Properties and Extensions:
=================================
GPU0:
VkPhysicalDeviceProperties:
\tdeviceName     = llvmpipe (LLVM 15.0.7, 256 bits)
GPU1:
\tdeviceName     = B
VkPhysicalDevicePCIBusInfoPropertiesEXT:
\tpciDomain   = 0
\tpciBus      = 65
\tpciDevice   = 0
\tpciFunction = 0
GPU2:
VkPhysicalDevicePCIBusInfoPropertiesEXT:
\tpciDomain   = 0
\tpciBus      = 27
\tpciDevice   = 0
\tpciFunction = 0
GPU1:
"""


def machine(**fields: int | None) -> Machine:
    room: dict[str, int | None] = {
        "shm_total_bytes": 8 * GIB,
        "shm_free_bytes": 8 * GIB,
        "memory_free_bytes": 64 * GIB,
        "open_files": None,
        "threads_free": None,
    }
    return Machine(**(room | fields))  # type: ignore[arg-type]


def wanted(workers: int = 4, carla_root: str | None = None) -> doctor.Wanted:
    return doctor.Wanted(workers, carla_root, 2000)


def test_adapters_are_matched_by_pci_address() -> None:
    adapters = vulkan_adapters(VULKANINFO)
    assert adapters == [None, "0000:41:00.0", "0000:1b:00.0"]
    assert [adapter_of(gpu, adapters) for gpu in GPUS] == [2, 1]
    assert vulkan_adapters("ERROR: no instance") == []


def test_another_order_of_adapters_is_told() -> None:
    found = doctor.judge_adapters(GPUS, vulkan_adapters(VULKANINFO))
    assert found.level == "ok"
    assert "GPU 0 is adapter 2, GPU 1 is adapter 1; --gpu counts as nvidia-smi does" in found.found
    assert "does not show GPU 1" in doctor.judge_adapters(GPUS, ["0000:1b:00.0"]).found
    assert "unknown" in doctor.judge_adapters(GPUS, None).found


@pytest.mark.parametrize(
    ("version", "level"), [((3, 9), "failure"), ((3, 10), "ok"), ((3, 12), "ok"), ((3, 13), "failure")]
)
def test_python(version: tuple[int, int], level: str) -> None:
    assert doctor.judge_python(version).level == level


@pytest.mark.parametrize(
    ("version", "error", "level"),
    [
        (None, "", "failure"),
        ("0.9.16", "", "ok"),
        ("0.9.15", "", "warning"),
        ("0.9.16", "ImportError: libjpeg.so.8", "failure"),
    ],
)
def test_client(version: str | None, error: str, level: str) -> None:
    assert doctor.judge_client(version, error).level == level


@pytest.mark.parametrize(
    ("root_version", "level"), [("0.9.16", "ok"), ("0.9.16-dirty", "ok"), ("0.9.15", "failure"), (None, "ok")]
)
def test_the_root_is_of_the_clients_version(tmp_path: Path, root_version: str | None, level: str) -> None:
    assert doctor.judge_root(tmp_path, root_version, "0.9.16").level == "failure"
    (tmp_path / "CarlaUE4.sh").touch()
    assert doctor.judge_root(tmp_path, root_version, "0.9.16").level == level


def test_only_carla_minds_root_and_missing_gpus() -> None:
    assert doctor.judge_user(0, "carla").level == "failure"
    assert doctor.judge_user(0, "embedded").level == doctor.judge_user(1000, "carla").level == "ok"
    assert doctor.judge_gpus([], "", "carla").level == "failure"
    assert doctor.judge_gpus([], "", "embedded").level == "ok"
    assert "0000:1b:00.0" in doctor.judge_gpus(GPUS, "", "carla").found


def test_room_for_the_ring() -> None:
    levels = [doctor.judge_shm(machine(), needed, 4).level for needed in (GIB, 5 * GIB, 9 * GIB)]
    assert levels == ["ok", "warning", "failure"]


def test_the_ring_is_as_large_as_what_a_client_makes() -> None:
    space = spaces.Dict({"rgb": spaces.Box(0, 255, (3, 20, 30), np.uint8), "state": spaces.Box(-1, 1, (5,))})
    arena = Arena.create(space, 3, DEFAULT_SLOTS + 2)
    board = Board.create(spaces.Box(-1, 1, (3,)), 3)
    try:
        assert doctor.ring_bytes(space, 3) == len(arena.memory) + len(board.memory)
    finally:
        arena.close()
        board.close()


def test_limits() -> None:
    assert doctor.judge_open_files(None, 1000).level == "ok"
    assert doctor.judge_open_files(1024, 32).level == "ok"
    assert doctor.judge_open_files(1024, 100).level == "failure"
    assert doctor.judge_threads(None, wanted()).level == "ok"
    assert doctor.judge_threads(512, wanted(4)).level == "ok"
    assert doctor.judge_threads(512, wanted(4, "/opt/carla")).level == "warning"


def test_capacity_is_what_memory_and_gpus_carry() -> None:
    found = doctor.judge_capacity(machine(), GPUS, wanted(8, "/opt/carla"))
    assert (found.level, found.found.split(" (")[0]) == ("ok", "about 10 carla workers fit")
    assert doctor.judge_capacity(machine(), GPUS[:1], wanted(8, "/opt/carla")).level == "warning"
    assert doctor.judge_capacity(machine(memory_free_bytes=GIB // 2), [], wanted(4)).level == "warning"


def test_ports_and_leftovers() -> None:
    assert doctor.judge_ports([], wanted()).level == "ok"
    assert "1 of 4 blocks from 2000 to 2015: why" in doctor.judge_ports(["why"], wanted()).found
    assert doctor.judge_leftovers([]).level == "ok"
    assert doctor.judge_leftovers(["/zmqcarla-1"]).remedy == "zmqcarla clean"


def test_this_machine_has_room() -> None:
    found = read_machine()
    assert 0 < found.shm_free_bytes <= found.shm_total_bytes
    assert found.memory_free_bytes > 0


def _doctor(*arguments: str) -> tuple[int, str]:
    found = subprocess.run(
        [sys.executable, "-m", "zmqcarla.cli", "doctor", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        env={**os.environ, "COLUMNS": "160"},
    )
    assert "Traceback" not in found.stderr
    return found.returncode, found.stdout


def test_the_command_names_a_taken_port_and_a_leftover_and_touches_neither() -> None:
    left = runtime_directory() / "left.sock.lock"
    left.touch()
    try:
        with socket.create_server(("127.0.0.1", PORT + 5)):
            code, output = _doctor("--workers", "2", "--base-port", str(PORT), "--json")
        assert left.exists()
    finally:
        left.unlink()
    found = {finding["check"]: finding for finding in json.loads(output)["findings"]}
    assert code == 1
    assert found["ports"]["level"] == "failure"
    assert f"pid {os.getpid()}" in found["ports"]["found"]
    assert str(left) in found["leftovers"]["found"]
    assert found["carla client"]["level"] == "ok"
    assert all(finding["remedy"] for finding in found.values() if finding["level"] != "ok")


def test_the_command_says_what_a_missing_carla_needs(tmp_path: Path) -> None:
    code, output = _doctor("--carla-root", str(tmp_path), "--base-port", str(PORT + 20))
    assert code == 1
    assert f"no CarlaUE4.sh in {tmp_path}" in output
    assert "-> point --carla-root" in output
