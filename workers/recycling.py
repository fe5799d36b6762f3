"""When a CARLA server is worn and should be replaced: decisions only.

CarlaUE4 leaks, a little with each episode and more with each load of a map, in main memory and in the GPU's. So a
server is replaced after a number of episodes, or when it has grown; always between two episodes, where it costs time
and nothing else. Growth counts from the first episodes on, when the map, its textures and the caches are loaded.
"""

from __future__ import annotations

import dataclasses
from typing import Final, Protocol

_MIB: Final = 1 << 20
_CARLA_EPISODES: Final = 500
_WARM_UP_EPISODES: Final = 3


class RecycleSettings(Protocol):
    """The fields of `WorkerConfig` and `CarlaEnvConfig` that say when; their docstrings are there."""

    @property
    def recycle_episodes(self) -> int | None: ...  # noqa: D102

    @property
    def recycle_rss_growth_mib(self) -> int: ...  # noqa: D102

    @property
    def recycle_vram_growth_mib(self) -> int: ...  # noqa: D102


@dataclasses.dataclass(frozen=True, slots=True)
class RecycleLimits:
    """What one server may do before it is replaced; 0 stands for any amount.

    Attributes:
        episodes: how many begin on it.
        rss_growth_bytes: of main memory, of the server and all that it started.
        vram_growth_bytes: of GPU memory, likewise.
    """

    episodes: int = 0
    rss_growth_bytes: int = 0
    vram_growth_bytes: int = 0

    @classmethod
    def of(cls, settings: RecycleSettings, simulator: str) -> RecycleLimits:
        """The limits of a worker or an env; the embedded simulator, which does not leak, has none of episodes."""
        episodes = settings.recycle_episodes
        if episodes is None:
            episodes = _CARLA_EPISODES if simulator == "carla" else 0
        return cls(episodes, settings.recycle_rss_growth_mib * _MIB, settings.recycle_vram_growth_mib * _MIB)


class ServerWear:
    """How worn one server is.

    Args:
        limits: what it may do.
        warm_up_episodes: after so many its size is taken as what it needs.
    """

    def __init__(self, limits: RecycleLimits, warm_up_episodes: int = _WARM_UP_EPISODES) -> None:
        self._limits = limits
        self._warm_up_episodes = warm_up_episodes
        self._first_rss_bytes: int | None = None
        self._first_vram_bytes: int | None = None

    def look(self, episodes: int, rss_bytes: int, vram_bytes: int | None) -> str:
        """Take a measurement during or after an episode; why the server should be replaced, "" while it need not be.

        Args:
            episodes: that have begun on this server.
            rss_bytes: its main memory.
            vram_bytes: its GPU memory; None where nobody can tell.
        """
        if episodes >= self._warm_up_episodes:
            self._first_rss_bytes = self._first_rss_bytes or rss_bytes
            self._first_vram_bytes = self._first_vram_bytes or vram_bytes
        limits = self._limits
        if 0 < limits.episodes <= episodes:
            return f"{episodes} episodes began on it; the limit is {limits.episodes}"
        for what, now_bytes, first_bytes, limit_bytes in (
            ("memory", rss_bytes, self._first_rss_bytes, limits.rss_growth_bytes),
            ("GPU memory", vram_bytes, self._first_vram_bytes, limits.vram_growth_bytes),
        ):
            if now_bytes and first_bytes and 0 < limit_bytes <= now_bytes - first_bytes:
                grown_mib = (now_bytes - first_bytes) // _MIB
                return (
                    f"its {what} grew by {grown_mib} MiB to {now_bytes // _MIB} MiB within {episodes} episodes; "
                    f"the limit is {limit_bytes // _MIB} MiB"
                )
        return ""
