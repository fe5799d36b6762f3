"""What became of workers, one JSON line each, in a file that outlives them.

All supervisors of a user append to one file in the runtime directory. A line is one write to a file opened for
appending, so lines do not mix. A file that has grown large becomes `events.jsonl.1`, and the one before is dropped.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import fcntl
import json
import logging
import os
from pathlib import Path
from typing import Final, Literal

from zmqcarla.broker.protocol import runtime_directory

_LOG = logging.getLogger(__name__)

MAX_BYTES: Final = 1 << 20
"""A file that is larger is put aside."""
_MAX_REASON_CHARACTERS: Final = 4000

What = Literal[
    "lost", "gone", "server_failed", "restarted", "recycled",
    "added", "retired", "stopped", "leak", "quarantined",
    "supervisor_restarted", "broker_restarted",
]  # fmt: skip
"""lost: the env process ended. gone: and will not come back. server_failed: the CARLA server did not come up while the
worker was down or waited for it. recycled: a worn server is replaced between two episodes, at no loss. restarted: a new
env process was started. added: by `scale`. retired: by `scale` or `drain`, it stops when its lease ends. stopped: it
has. leak: its memory grows without end. quarantined: a seed or route has killed too many workers. supervisor_restarted:
the one before died, and its workers with it. broker_restarted: another broker answers than before."""

SUPERVISOR: Final = "supervisor"
"""Stands for the worker in what happens to no single one."""


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """One line.

    Attributes:
        worker_id: of whom; `SUPERVISOR` for what happened to all.
        what: happened.
        reason: in words; empty for "restarted".
        exit_code: of the env process, as subprocess.Popen.returncode; None when there was none.
        restarts: since the supervisor started, up to this moment.
        incarnation: of the env process that ended or started; 0 before the first.
        logs: files with the output of env process and server.
    """

    worker_id: str
    what: What
    reason: str
    exit_code: int | None
    restarts: int
    incarnation: int
    logs: tuple[str, ...]


class Ledger:
    """The file of this user.

    Args:
        path: of the file; its directory exists.
        max_bytes: size from which a file is put aside.
    """

    def __init__(self, path: Path, max_bytes: int = MAX_BYTES) -> None:
        self._path = path
        self._max_bytes = max_bytes

    def append(self, entry: Entry) -> None:
        """Write one line; a disk that is full is logged and costs nobody their worker."""
        now = datetime.datetime.now(datetime.timezone.utc)
        fields = {"time": now.isoformat(timespec="milliseconds"), **dataclasses.asdict(entry)}
        fields["reason"] = entry.reason[:_MAX_REASON_CHARACTERS]
        try:
            fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.write(fd, json.dumps(fields).encode() + b"\n")
                if os.fstat(fd).st_size > self._max_bytes:
                    self._put_aside(fd)
            finally:
                os.close(fd)
        except OSError as error:
            _LOG.warning("could not write to %s: %s", self._path, error)

    def _put_aside(self, fd: int) -> None:
        """Rename the file, unless another supervisor is doing so or has done it; waits for nobody."""
        with contextlib.suppress(BlockingIOError, FileNotFoundError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(fd), self._path.stat()):
                self._path.replace(aside(self._path))


def ledger_path() -> Path:
    """Where this user's supervisors write."""
    return runtime_directory() / "events.jsonl"


def aside(path: Path) -> Path:
    """The file before this one."""
    return path.with_name(f"{path.name}.1")
