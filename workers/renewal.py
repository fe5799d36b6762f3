"""A worn env process begins anew between two episodes, and its row goes on.

The carla client keeps the description of every actor that it has ever looked at until its process ends
(docs/real-carla.md). So an env process that has grown executes itself again when it is asked for the next reset. Its
pid stays, and with it the supervisor's watch, the status page and the pipe for last words. What else the next episode
needs travels in a memfd: the lease, how env, arena and board were opened, and the state of the env's random numbers.
The reset itself need not travel: the board still shows it, and the broker sends it again to a process that comes back.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Iterable
from typing import Any, Final, NoReturn

from zmqcarla.broker.protocol import pack, unpack
from zmqcarla.workers.recycling import RecycleLimits, ServerWear
from zmqcarla.workers.vitals import tree_rss_bytes
from zmqcarla.workers.worker_config import EnvProcessConfig

_MIB: Final = 1 << 20
_WARM_UP_EPISODES: Final = 20
"""Caches fill up meanwhile; and no life is shorter, whatever the limit."""


@dataclasses.dataclass(frozen=True, slots=True)
class Opened:
    """How an env was opened, and what became of it since.

    Attributes:
        open: payload of the command that opened it.
        attach: payload of the command that attached it to an arena, None where it is not.
        attributes: what `set_attr` set since, by names.
        state: from the env's `hand_over`.
    """

    open: dict[str, Any]
    attach: dict[str, Any] | None
    attributes: dict[str, Any]
    state: Any


@dataclasses.dataclass(frozen=True, slots=True)
class Carried:
    """What a new life of an env process gets from the one before.

    Attributes:
        lease_id: of the lease that it serves.
        row: of that lease.
        seq: of the last command that was done.
        opened: the env.
    """

    lease_id: bytes
    row: int
    seq: int
    opened: Opened


class EnvWear:
    """How much this process has grown.

    Args:
        limit_mib: growth since the twentieth episode at which it is worn; 0 for never.
    """

    def __init__(self, limit_mib: int) -> None:
        self._wear = ServerWear(RecycleLimits(rss_growth_bytes=limit_mib * _MIB), _WARM_UP_EPISODES)
        self._episodes = 0

    def look(self) -> str:
        """Before an episode: why the process should begin anew, "" while it need not."""
        self._episodes += 1
        return self._wear.look(self._episodes - 1, tree_rss_bytes(os.getpid()), None)


def begin_anew(config: EnvProcessConfig, carried: Carried) -> NoReturn:
    """Execute this process again; env, arena and board are closed already.

    Args:
        config: of this process, with the address of its present server.
        carried: for `take`.
    """
    fd = put(carried)
    told = dataclasses.replace(config, carried_fd=fd)
    # Whatever some library has opened ends here, whether it thought of that or not.
    _inherit_only((fd, config.page_fd, config.last_words_fd))
    os.execv(sys.executable, [sys.executable, "-u", "-m", "zmqcarla.workers.env_process", told.to_json()])


def put(carried: Carried) -> int:
    """Leave it in a memfd for the next life, and return the descriptor."""
    fd = os.memfd_create("zmqcarla-carried")
    with open(fd, "wb", closefd=False) as written:
        written.write(pack(dataclasses.asdict(carried)))
    return fd


def take(fd: int) -> Carried:
    """What the life before has left; the fd is closed."""
    os.lseek(fd, 0, os.SEEK_SET)
    with open(fd, "rb") as written:
        fields = unpack(written.read())
    opened = Opened(**fields.pop("opened"))
    return Carried(opened=opened, **fields)


def _inherit_only(fds: Iterable[int]) -> None:
    for fd in map(int, os.listdir("/proc/self/fd")):
        if fd > 2:
            try:
                os.set_inheritable(fd, fd in fds)
            except OSError:
                continue  # it was the one by which the folder was read, or has been closed meanwhile
