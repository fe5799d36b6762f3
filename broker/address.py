"""Where the peers of a pool meet: addresses, the user's runtime directory, and who holds an address.

An ipc address is a path; a second bind of the same path would silently steal the first one's traffic, so a lock file
beside the socket is taken before the bind and held for life. The lock also tells whether a broker lives (the socket
file alone does not).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Final

import psutil

from zmqcarla.broker.errors import AddressError, AddressInUseError

_IPC_PATH_LIMIT_BYTES: Final = 107
"""sun_path of a unix socket, less the final NUL."""


def runtime_directory() -> Path:
    """This user's directory for sockets, locks and logs, mode 0700; made when absent.

    Raises:
        PermissionError: somebody else owns the path, or others may enter it.
    """
    base = os.environ.get("XDG_RUNTIME_DIR")
    path = Path(base) / "zmqcarla" if base else Path(tempfile.gettempdir()) / f"zmqcarla-{os.getuid()}"
    path.mkdir(mode=0o700, parents=False, exist_ok=True)
    found = path.lstat()
    if found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise PermissionError(
            f"expected {path} to belong to uid {os.getuid()} with mode 0700, found uid {found.st_uid} and mode "
            f"{found.st_mode & 0o777:o}; remove it or set XDG_RUNTIME_DIR"
        )
    return path


def default_address() -> str:
    """Where this user's pool is served when nothing else is said: ZMQCARLA_ADDRESS or an ipc socket."""
    return os.environ.get("ZMQCARLA_ADDRESS") or f"ipc://{runtime_directory() / 'broker.sock'}"


def admin_address(address: str) -> str:
    """Where the broker of an address takes orders: X.admin.sock beside X.sock, else in the runtime directory."""
    if address.startswith("ipc://"):
        return address.removesuffix(".sock") + ".admin.sock"
    name = hashlib.sha256(address.encode()).hexdigest()[:12]
    return f"ipc://{runtime_directory() / f'tcp-{name}.admin.sock'}"


def is_served(address: str) -> bool:
    """Whether a living broker holds the ipc address; False for other kinds of address."""
    if not address.startswith("ipc://"):
        return False
    try:
        fd = os.open(_lock_path(address), os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def sweep_sockets() -> list[str]:
    """Unlink the sockets in the runtime directory whose broker is dead; returns their paths."""
    swept: list[str] = []
    for path in _abandoned_sockets():
        path.unlink()
        swept.append(str(path))
    return swept


def abandoned_sockets() -> list[str]:
    """The paths that `sweep_sockets` would unlink now."""
    return [str(path) for path in _abandoned_sockets()]


def _abandoned_sockets() -> Iterator[Path]:
    for lock in sorted(runtime_directory().glob("*.sock.lock")):
        address = f"ipc://{str(lock).removesuffix('.lock')}"
        if not is_served(address):
            yield from (path for path in (Path(address.removeprefix("ipc://")), lock) if path.exists())


@contextlib.contextmanager
def claimed(address: str) -> Generator[None]:
    """Hold an address for as long as the context lasts; the socket and its lock file are gone afterwards.

    Raises:
        AddressInUseError: another broker holds it.
        AddressError: not an address that a broker may serve.
    """
    if address.startswith("tcp://"):
        yield  # the kernel lets only one process listen on a port
        return
    if not address.startswith("ipc:///"):
        raise AddressError(f"expected ipc:///absolute/path or tcp://HOST:PORT, found {address!r}")
    path = Path(address.removeprefix("ipc://"))
    length = len(os.fsencode(path))
    if length > _IPC_PATH_LIMIT_BYTES:
        raise AddressError(f"expected an ipc path of at most {_IPC_PATH_LIMIT_BYTES} bytes, found {length}: {path}")
    lock = _lock_path(address)
    fd = _lock(lock, address)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        lock.unlink(missing_ok=True)
        os.close(fd)


def listener(address: str) -> str:
    """Who listens on the port of a tcp address, as far as this user may know; to end a sentence with."""
    port = address.rpartition(":")[2]
    for connection in psutil.net_connections("tcp"):
        # The local address is an empty tuple while a socket is unbound.
        if connection.status == psutil.CONN_LISTEN and [str(each) for each in tuple(connection.laddr)[1:2]] == [port]:
            pid = connection.pid
            return f"; pid {pid} listens there" if pid else "; a process of another user listens there"
    return ""


def _lock(lock: Path, address: str) -> int:
    while True:
        fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            raise AddressInUseError(
                f"another broker serves {address}: use it (`zmqcarla status`), stop it, or pass another --address"
            ) from None
        if os.fstat(fd).st_nlink:  # else its last holder unlinked it between our open and our lock
            return fd
        os.close(fd)


def _lock_path(address: str) -> Path:
    return Path(address.removeprefix("ipc://") + ".lock")
