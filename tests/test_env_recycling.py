"""When a server is worn: decisions from numbers alone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from zmqcarla.workers.config import CarlaEnvConfig
from zmqcarla.workers.recycling import RecycleLimits, ServerWear
from zmqcarla.workers.vram import used_by
from zmqcarla.workers.worker_config import WorkerConfig

MIB = 1 << 20


def test_the_defaults_suit_carla_and_leave_the_embedded_simulator_alone() -> None:
    for simulator, episodes in (("carla", 500), ("embedded", 0)):
        limits = RecycleLimits(episodes, 4096 * MIB, 2048 * MIB)
        assert RecycleLimits.of(CarlaEnvConfig(simulator="embedded"), simulator) == limits
        assert RecycleLimits.of(WorkerConfig(worker_id="w"), simulator) == limits
    assert RecycleLimits.of(WorkerConfig(worker_id="w", recycle_episodes=7), "embedded").episodes == 7
    assert RecycleLimits.of(WorkerConfig(worker_id="w", recycle_episodes=0), "carla").episodes == 0


def test_a_server_is_worn_after_its_episodes() -> None:
    wear = ServerWear(RecycleLimits(episodes=3))
    assert [wear.look(episodes, 100 * MIB, None) for episodes in (1, 2)] == ["", ""]
    assert wear.look(3, 100 * MIB, None) == "3 episodes began on it; the limit is 3"


def test_growth_counts_from_the_third_episode() -> None:
    wear = ServerWear(RecycleLimits(rss_growth_bytes=50 * MIB))
    sizes_mib = [100, 800, 900, 949, 930]
    assert [wear.look(k, size * MIB, None) for k, size in enumerate(sizes_mib, start=1)] == [""] * 5
    assert wear.look(6, 951 * MIB, None) == (
        "its memory grew by 51 MiB to 951 MiB within 6 episodes; the limit is 50 MiB"
    )


def test_growth_may_count_from_a_later_episode_on() -> None:
    wear = ServerWear(RecycleLimits(rss_growth_bytes=50 * MIB), warm_up_episodes=20)
    assert wear.look(19, 100 * MIB, None) == ""
    assert wear.look(20, 200 * MIB, None) == ""
    assert wear.look(21, 250 * MIB, None).startswith("its memory grew by 50 MiB")


def test_growth_of_gpu_memory_counts_as_well() -> None:
    wear = ServerWear(RecycleLimits(vram_growth_bytes=50 * MIB))
    assert wear.look(3, 100 * MIB, 2000 * MIB) == ""
    assert wear.look(4, 900 * MIB, 2049 * MIB) == ""
    assert wear.look(5, 900 * MIB, 2050 * MIB).startswith("its GPU memory grew by 50 MiB")


def test_without_limits_nothing_is_worn_and_what_nobody_knows_does_not_count() -> None:
    wear = ServerWear(RecycleLimits())
    assert all(not wear.look(k, k << 40, k << 40) for k in range(1, 9))
    assert not ServerWear(RecycleLimits(vram_growth_bytes=1)).look(9, 1, None)


def test_gpu_memory_is_summed_over_the_processes_that_the_driver_lists() -> None:
    users = [SimpleNamespace(pid=pid, usedGpuMemory=size) for pid, size in ((1, 10), (2, 20), (3, 40), (4, None))]
    assert used_by({1, 3, 9}, users) == 50
    assert used_by({4}, users) is None
    assert used_by({9}, users) is None


@pytest.mark.parametrize("name", ["recycle_episodes", "recycle_rss_growth_mib", "recycle_vram_growth_mib"])
def test_negative_limits_are_refused(name: str) -> None:
    settings: dict[str, Any] = {name: -1}
    with pytest.raises(ValueError, match=name):
        WorkerConfig(worker_id="w", **settings)
    with pytest.raises(ValueError, match=name):
        CarlaEnvConfig(simulator="embedded", **settings)


def test_a_negative_limit_of_the_env_process_is_refused() -> None:
    with pytest.raises(ValueError, match="renew_env_growth_mib"):
        WorkerConfig(worker_id="w", renew_env_growth_mib=-1)


def test_a_camera_needs_a_server_that_draws() -> None:
    with pytest.raises(ValueError, match="rendering: expected True for cameras"):
        CarlaEnvConfig(simulator="embedded", rendering=False)
    with pytest.raises(ValueError, match="rendering: expected True for cameras"):
        CarlaEnvConfig(simulator="embedded", rendering=False, observation="state", render_mode="rgb_array")
    assert not CarlaEnvConfig(simulator="embedded", rendering=False, observation="state").draws
    assert CarlaEnvConfig(simulator="embedded").draws
