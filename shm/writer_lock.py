"""Who can still write into a row: a lock of the kernel's that a writer holds for as long as its process lives.

A process that is stopped, or cut off with its supervisor, may go on at any time and finish the write that it began. Its
row may be given to another process only when it has ended, and nobody has to be asked about that: byte `row` of the
segment's file is locked by whoever writes into the row, and the kernel drops the lock at the very end of the process,
in every pid namespace. (Open-file-description locks, fcntl(2); `flock` on the same file, which tells whether the
segment's owner lives, is another kind and does not meet them.)
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import weakref
from typing import Final

from zmqcarla.shm.segment import SegmentError, SegmentGoneError

_FLOCK: Final = struct.Struct("@hhqqi4x")
"""struct flock on 64 bit: type, whence, start, length, pid."""


class RowTakenError(SegmentError):
    """Another living process can write into the row."""


class WriterLock:
    """Held from construction to `close`, or to the end of the process.

    Args:
        name: of the segment.
        row: whose writer this process is.

    Attributes:
        close: lets go.

    Raises:
        RowTakenError: another process holds it.
        SegmentGoneError: there is no such segment here.
    """

    def __init__(self, name: str, row: int) -> None:
        fd = _open(name)
        try:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, row, 1, 0))
        except BlockingIOError:
            os.close(fd)
            raise RowTakenError(
                errno.EBUSY, f"expected row {row} of {name} to have no writer, found that another process still lives"
            ) from None
        self.close = weakref.finalize(self, os.close, fd)


def has_writer(name: str, row: int) -> bool:
    """Whether a living process can write into the row."""
    fd = _open(name)
    try:
        found = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, row, 1, 0))
    finally:
        os.close(fd)
    return bool(_FLOCK.unpack(found)[0] != fcntl.F_UNLCK)


def _open(name: str) -> int:
    try:
        return os.open(f"/dev/shm{name}", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        raise SegmentGoneError(errno.ENOENT, f"no segment {name} in this /dev/shm") from None
