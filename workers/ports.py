"""Port blocks: which four TCP ports a CARLA server and its client use, and who on this host has claimed them.

A block at P is RPC P, streaming P+1, secondary P+2 and traffic manager P+3, all below the kernel's ephemeral range. A
claim holds `flock` on one small file per port in a directory of this user, so that two of our processes can never
choose the same port between the bind test and the server's own bind; the kernel drops the lock with the process.
Programs that know nothing of these files are found by binding the ports for a moment.
"""

from __future__ import annotations

import errno
import fcntl
import os
import pwd
import socket
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import psutil

from zmqcarla.broker.errors import PortInUseError
from zmqcarla.broker.protocol import runtime_directory

BLOCK_SIZE = 4
EPHEMERAL_START = 32768
FREE_START = 28000
"""Where `claim_free` begins to look, far from CARLA's own 2000, unless the variable ZMQCARLA_FIRST_PORT says otherwise.
Claims are known to one user only, so users of one host who start many servers do well to begin at different ports."""


@dataclass(frozen=True, slots=True)
class PortBlock:
    """The four ports that belong to one simulator.

    Attributes:
        rpc: port of the server's RPC socket; the first of the block.
    """

    rpc: int

    @property
    def stream(self) -> int:
        """Port of the server's sensor streams."""
        return self.rpc + 1

    @property
    def secondary(self) -> int:
        """Port that CARLA keeps for secondary servers."""
        return self.rpc + 2

    @property
    def traffic_manager(self) -> int:
        """Port of the traffic manager, which lives in the client."""
        return self.rpc + 3

    @property
    def ports(self) -> tuple[int, ...]:
        """All ports of the block in order."""
        return tuple(range(self.rpc, self.rpc + BLOCK_SIZE))


class PortClaim:
    """The right to use a block; ends with `release()` or with the process.

    Attributes:
        block: the claimed ports.
    """

    def __init__(self, block: PortBlock, lock_fds: list[int]) -> None:
        self.block = block
        self._lock_fds = lock_fds
        self._owner_pid = os.getpid()

    def release(self) -> None:
        """Give the ports back; a second call does nothing."""
        while self._lock_fds:
            fd = self._lock_fds.pop()
            # A forked child shares the lock: closing alone would not drop it, and only its owner may.
            if os.getpid() == self._owner_pid:
                fcntl.flock(fd, fcntl.LOCK_UN)
            os.close(fd)


def claim(port: int) -> PortClaim:
    """Claim the block that starts at `port`, and no other.

    Raises:
        PortInUseError: a port of the block is claimed or bound by another process.
        ValueError: the block does not lie between 1024 and the ephemeral ports.
    """
    if not 1024 <= port <= EPHEMERAL_START - BLOCK_SIZE:
        raise ValueError(
            f"expected a port block between 1024 and {EPHEMERAL_START - 1}, found {port}..{port + 3}; "
            "ports above are handed to outgoing connections by the kernel"
        )
    block, lock_fds = PortBlock(port), list[int]()
    try:
        for each in block.ports:
            lock_fds.append(_lock(each))
            _bind_test(each)
    except BaseException:
        PortClaim(block, lock_fds).release()
        raise
    return PortClaim(block, lock_fds)


def claim_free(first: int | None = None, avoid: Collection[int] = ()) -> PortClaim:
    """Claim the first free block at or after `first`.

    Args:
        first: where to begin; None for ZMQCARLA_FIRST_PORT or `FREE_START`.
        avoid: first ports of blocks that looked free and were not: somebody can take a port between the claim and the
            server's own bind, or hold it in a way that the bind test does not see (IPv6 alone).

    Raises:
        PortInUseError: every block up to the ephemeral ports is taken.
        ValueError: ZMQCARLA_FIRST_PORT is not a number.
    """
    first = int(os.environ.get("ZMQCARLA_FIRST_PORT", FREE_START)) if first is None else first
    for port in range(first, EPHEMERAL_START - BLOCK_SIZE + 1, BLOCK_SIZE):
        if port in avoid:
            continue
        try:
            return claim(port)
        except PortInUseError:
            continue
    raise PortInUseError(
        f"no block of {BLOCK_SIZE} free ports from {first} to {EPHEMERAL_START - 1}; "
        "end servers that are no longer needed, or start from a lower port",
        first,
    )


def busy_blocks(first: int, count: int) -> list[str]:
    """Why blocks among `count` consecutive ones from `first` cannot be claimed now; empty when all can."""
    busy: list[str] = []
    for index in range(count):
        try:
            claim(first + BLOCK_SIZE * index).release()
        except (PortInUseError, ValueError) as error:
            busy.append(str(error))
    return busy


def port_owner(port: int) -> str:
    """Name the process that listens on `port`, as far as this user may know it."""
    return owner_name(listener_pid(port), port)


def owner_name(pid: int | None, port: int) -> str:
    """Name a process that listens on `port`; None is one whose pid this user may not know."""
    if pid is None:
        return _user_of_listener(port)
    try:
        return f"pid {pid} ({psutil.Process(pid).name()})"
    except psutil.Error:
        return f"pid {pid}"


def listener_pid(port: int) -> int | None:
    """Return the pid that listens on `port`, or None when nobody does or the pid is not readable."""
    return next(iter(listener_pids(port)), None)


def listener_pids(port: int) -> list[int | None]:
    """Return the pid of each listener on `port`, of any address; None for one that is not readable."""
    return [
        None if connection.pid is None else int(connection.pid)
        for connection in psutil.net_connections("tcp")
        # The local address is an empty tuple while a socket is unbound.
        if connection.status == psutil.CONN_LISTEN and tuple(connection.laddr)[1:2] == (port,)
    ]


def is_listening(port: int) -> bool:
    """Return whether some process listens on `port`; reads only the kernel's table, so it is cheap to poll."""
    return bool(_listening_rows(port))


def _listening_rows(port: int) -> list[list[str]]:
    rows: list[list[str]] = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            columns = line.split()
            if columns[3] == "0A" and int(columns[1].rpartition(":")[2], 16) == port:
                rows.append(columns)
    return rows


def _user_of_listener(port: int) -> str:
    for columns in _listening_rows(port):
        uid = int(columns[7])
        try:
            return f"a process of user {pwd.getpwuid(uid).pw_name} (uid {uid})"
        except KeyError:
            return f"a process of uid {uid}"
    return "an unknown process"


def _lock(port: int) -> int:
    path = runtime_directory() / f"port-{port}.lock"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.read(fd, 32).decode("ascii", "replace").strip() or "unknown"
        os.close(fd)
        raise PortInUseError(
            f"port {port} is claimed by pid {owner} for another simulator; choose another --port or end it", port
        ) from None
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode("ascii"), 0)
    return fd


def _bind_test(port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # CARLA itself sets SO_REUSEADDR: connections of the last server in TIME_WAIT do not count as taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            raise PortInUseError(
                f"port {port} is in use by {port_owner(port)}; choose another --port or end that process", port
            ) from None
