"""A named piece of shared memory whose owner's life can be seen.

The creator holds `flock(LOCK_EX)` on the segment for as long as it lives; the kernel drops the lock with the process,
kill -9 included. `sweep` therefore unlinks exactly the segments whose lock it can take. (A pid written inside would
call a live owner in another pid namespace dead.)

posix_ipc rather than multiprocessing.shared_memory: before Python 3.13 the latter's resource tracker destroys a
segment when a merely attaching process ends.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import secrets
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import posix_ipc

from zmqcarla.shm.bell import unlink_bells

PREFIX: Final = "zmqcarla-"
_DIRECTORY: Final = Path("/dev/shm")
_PAGE_BYTES: Final = 4096


class SegmentError(OSError):
    """Base of the errors of this room."""


class SegmentSpaceError(SegmentError):
    """The memory file system has too little room for the segment."""


class SegmentGoneError(SegmentError):
    """There is no segment of that name, or it is not of the expected size."""


class Segment:
    """Shared memory, mapped read-write; made by `create` or `attach`.

    Attributes:
        name: the name in /dev/shm, with a leading slash.
        memory: the mapping. It stays valid for as long as any array over it lives, also after `close`.
        owner: whether this process created it and holds its lock.
    """

    def __init__(self, name: str, fd: int, size_bytes: int, owner: bool) -> None:
        self.name = name
        self.owner = owner
        self.memory = mmap.mmap(fd, size_bytes)
        self._closed = False
        if owner:  # also at exit, when nobody calls close
            self._end_ownership = weakref.finalize(self, _end_ownership, os.getpid(), name, fd)
        else:
            os.close(fd)

    @classmethod
    def create(cls, purpose: str, size_bytes: int) -> Segment:
        """Make a zero-filled segment `/zmqcarla-<uid>-<purpose>-<random>`, mode 0600, and lock it.

        Raises:
            SegmentSpaceError: too little room; the text says how much is needed and how much there is.
        """
        size_bytes = -(-size_bytes // _PAGE_BYTES) * _PAGE_BYTES
        while True:
            name = f"/{PREFIX}{os.getuid()}-{purpose}-{secrets.token_hex(8)}"
            fd: int = posix_ipc.SharedMemory(name, posix_ipc.O_CREX, mode=0o600).fd
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
                if os.fstat(fd).st_nlink == 0:  # a sweep took it between creation and lock
                    os.close(fd)
                    continue
                # ftruncate alone would succeed on a full file system and raise SIGBUS at the first touch.
                os.posix_fallocate(fd, 0, size_bytes)
                return cls(name, fd, size_bytes, owner=True)
            except OSError as error:
                _unlink(name)
                os.close(fd)
                if error.errno == errno.ENOSPC:
                    raise SegmentSpaceError(errno.ENOSPC, _space_text(size_bytes)) from None
                raise

    @classmethod
    def attach(cls, name: str, size_bytes: int | None) -> Segment:
        """Map a segment that another process made; `size_bytes` None takes it as large as it is.

        Raises:
            SegmentGoneError: no such name (another host, another container, or its owner is gone), another user's, or
                of another size.
        """
        if not name.startswith(f"/{PREFIX}") or "/" in name[1:]:
            raise SegmentGoneError(errno.EINVAL, f"expected a segment name starting with /{PREFIX}, found {name!r}")
        try:
            fd: int = posix_ipc.SharedMemory(name).fd
        except posix_ipc.ExistentialError:
            raise SegmentGoneError(errno.ENOENT, f"no segment {name} in this /dev/shm") from None
        except posix_ipc.PermissionsError:  # a worker of another user: its rows travel in messages
            raise SegmentGoneError(errno.EACCES, f"segment {name} belongs to another user") from None
        found = os.fstat(fd).st_size
        rounded = found if size_bytes is None else -(-size_bytes // _PAGE_BYTES) * _PAGE_BYTES
        if found != rounded:
            os.close(fd)
            raise SegmentGoneError(errno.EINVAL, f"expected {name} to have {rounded} bytes, found {found}")
        return cls(name, fd, rounded, owner=False)

    def close(self) -> None:
        """Unlink the name, drop the lock (owner), and unmap as soon as the last array over it dies; twice is once."""
        if self._closed:
            return
        self._closed = True
        if self.owner:
            self._end_ownership()
        with contextlib.suppress(BufferError):  # arrays are still alive: their end unmaps
            self.memory.close()
        del self.memory


def _end_ownership(pid: int, name: str, fd: int) -> None:
    if os.getpid() == pid:  # a forked child shares the lock but not the right to end it
        unlink_bells(name)
        _unlink(name)
        os.close(fd)


def sweep() -> list[str]:
    """Unlink every segment of this user whose owner is dead; returns their names."""
    swept: list[str] = []
    for name in _abandoned():
        unlink_bells(name)
        _unlink(name)
        swept.append(name)
    return swept


def abandoned() -> list[str]:
    """The names that `sweep` would unlink now."""
    return list(_abandoned())


def _abandoned() -> Iterator[str]:
    """Segments whose lock can be taken; each is held while it is looked at."""
    for path in sorted(_DIRECTORY.glob(f"{PREFIX}{os.getuid()}-*")):
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield f"/{path.name}"
        except BlockingIOError:
            pass
        finally:
            os.close(fd)


def _unlink(name: str) -> None:
    with contextlib.suppress(posix_ipc.ExistentialError):
        posix_ipc.unlink_shared_memory(name)


def _space_text(size_bytes: int) -> str:
    found = os.statvfs(_DIRECTORY)
    return (
        f"the shared-memory ring needs {size_bytes / 2**20:.1f} MiB, {_DIRECTORY} has "
        f"{found.f_bavail * found.f_frsize / 2**20:.1f} MiB free of {found.f_blocks * found.f_frsize / 2**20:.1f} MiB: "
        "use fewer envs, smaller images or fewer slots, run `zmqcarla clean`, or enlarge it "
        "(mount -o remount,size=8G /dev/shm; docker run --shm-size=8g)"
    )
