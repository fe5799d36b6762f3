"""Where an env keeps its snapshots: in memory up to a limit, and in a folder when there is one.

The limit is of bytes. When a new snapshot does not fit, those that were saved or restored longest ago leave memory.
With a folder they are still there, and come back when they are asked for; without one they are gone, and asking for
one says so.
"""

from __future__ import annotations

import os
import re
import secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from zmqcarla.broker.errors import SnapshotError
from zmqcarla.workers.snapshots.format import Head, read_head

SUFFIX: Final = ".snapshot"
_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_LATELY: Final = 64


class SnapshotStore:
    """Snapshots by their ids.

    Args:
        limit_bytes: what may lie in memory.
        folder: says where each is written as well, None for nowhere. It belongs to one env.
    """

    def __init__(self, limit_bytes: int, folder: Callable[[], Path | None] = lambda: None) -> None:
        self._limit_bytes = limit_bytes
        self._find_folder = folder
        self._kept: OrderedDict[str, tuple[Head, bytes]] = OrderedDict()
        self._evicted: list[str] = []

    def new_id(self, name: str | None) -> str:
        """Return a name that may be an id, or make one up.

        Raises:
            SnapshotError: the name has letters that a file name had better not have.
        """
        if name is None:
            return f"snapshot-{secrets.token_hex(6)}"
        if not _ID.fullmatch(name):
            raise SnapshotError(
                f"expected a name of 1 to 64 letters, digits, '_', '.', '-' for a snapshot, found {name!r}; change it"
            )
        return name

    @property
    def _folder(self) -> Path | None:
        return self._find_folder()

    def put(self, data: bytes) -> Head:
        """Keep a snapshot in place of one with its id.

        Raises:
            SnapshotError: it is broken, or alone larger than the limit; what was there is kept.
        """
        head = read_head(data)
        self.new_id(head.id)
        if len(data) > self._limit_bytes:
            raise SnapshotError(
                f"expected a snapshot of at most {self._limit_bytes} bytes, found one of {len(data)}; raise "
                "the setting `snapshot_memory_mb`"
            )
        if self._folder is not None:
            self._write(self._folder, head.id, data)
        self._keep(head, data)
        return head

    def get(self, snapshot_id: str) -> bytes:
        """Return the bytes of a snapshot.

        Raises:
            SnapshotError: there is none of this id.
        """
        found = self._kept.get(snapshot_id)
        if found is not None:
            self._kept.move_to_end(snapshot_id)
            return found[1]
        if self._folder is not None and _ID.fullmatch(snapshot_id):
            path = self._folder / f"{snapshot_id}{SUFFIX}"
            if path.is_file():
                data = path.read_bytes()
                self._keep(read_head(data), data)
                return data
        raise self._unknown(snapshot_id)

    def delete(self, snapshot_id: str) -> None:
        """Forget a snapshot.

        Raises:
            SnapshotError: there is none of this id.
        """
        known = self._kept.pop(snapshot_id, None) is not None
        if self._folder is not None and _ID.fullmatch(snapshot_id):
            path = self._folder / f"{snapshot_id}{SUFFIX}"
            known = path.is_file() or known
            path.unlink(missing_ok=True)
        if not known:
            raise self._unknown(snapshot_id)

    @property
    def in_memory(self) -> bool:
        """Whether there are any that would be gone with this process, or were and have to be told of."""
        return bool(self._kept or self._evicted)

    def list(self) -> list[dict[str, Any]]:
        """Return what there is, the one used longest ago first; those that only lie in the folder come before."""
        rows = [_row(head, len(data), True) for head, data in self._kept.values()]
        if self._folder is None or not self._folder.is_dir():
            return rows
        files = sorted(path for path in self._folder.glob(f"*{SUFFIX}") if path.stem not in self._kept)
        return [_row(read_head(data), len(data), False) for data in (path.read_bytes() for path in files)] + rows

    def _keep(self, head: Head, data: bytes) -> None:
        self._kept.pop(head.id, None)
        self._kept[head.id] = head, data
        while sum(len(each) for _, each in self._kept.values()) > self._limit_bytes:
            evicted, _ = self._kept.popitem(last=False)
            self._evicted = [*self._evicted[-_LATELY:], evicted]

    def _write(self, folder: Path, snapshot_id: str, data: bytes) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f".{snapshot_id}.{os.getpid()}.part"
        part.write_bytes(data)
        part.replace(folder / f"{snapshot_id}{SUFFIX}")

    def _unknown(self, snapshot_id: object) -> SnapshotError:
        if snapshot_id in self._evicted:
            return SnapshotError(
                f"expected a snapshot {snapshot_id!r}, found that it had to make room for others (limit "
                f"{self._limit_bytes} bytes); raise `snapshot_memory_mb` or give the env a `snapshot_folder`"
            )
        known = ", ".join(self._kept) or "none"
        return SnapshotError(f"expected the id of a snapshot of this env ({known}), found {snapshot_id!r}; save one")


def _row(head: Head, size_bytes: int, in_memory: bool) -> dict[str, Any]:
    listed = {name: value for name, value in asdict(head).items() if name != "env"}
    return {**listed, "size_bytes": size_bytes, "in_memory": in_memory, "levels": ["state", "replay"]}
