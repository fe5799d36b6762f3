"""How a snapshot lies in bytes: msgpack, with a version, a head that can be read by itself, and a checksum.

    [MAGIC, VERSION, head, checksum, body]     head: dict of plain values; body: bytes, msgpack again

Nothing is unpickled; what the body may hold is in `plain`.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, cast

import msgpack

from zmqcarla.broker.errors import SnapshotError
from zmqcarla.workers.snapshots.plain import from_plain, to_plain

MAGIC: Final = "zmqcarla-snapshot"
VERSION: Final = 1
"""Raised by one when an older release could not read what this one writes, or would misread it."""

LEVELS: Final = ("state", "replay")
"""How a moment can be gone back to: by its state, or by driving the episode once more."""

Content = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Head:
    """What is known of a snapshot without its body.

    Attributes:
        id: its name.
        town: of the world, for people.
        map_mark: checksum of the OpenDRIVE text, for programs.
        env: what an env must share with the one that saved it, as texts by name.
        simulator: "embedded" or "carla".
        frame: ticks of the episode.
        step: steps of the episode.
        actors: how many bodies it holds.
        ended: whether the episode was over.
        levels: at which it can be restored.
    """

    id: str
    town: str
    map_mark: int
    env: Mapping[str, str]
    simulator: str
    frame: int
    step: int
    actors: int
    ended: bool
    levels: Sequence[str] = LEVELS

    def check_env(self, env: Mapping[str, str]) -> None:
        """Raise SnapshotError unless an env can take up this snapshot."""
        for name, wanted in env.items():
            if self.env.get(name) != wanted:
                raise SnapshotError(
                    f"snapshot {self.id!r}: expected one of an env with {name} {wanted}, found {self.env.get(name)}; "
                    "make both envs with the same settings"
                )


def to_bytes(head: Head, content: Content) -> bytes:
    """Return the bytes of a snapshot."""
    body = cast("bytes", msgpack.packb(to_plain(content)))
    return cast("bytes", msgpack.packb([MAGIC, VERSION, asdict(head), zlib.crc32(body), body]))


def read_head(data: bytes) -> Head:
    """Return the head of a snapshot after checking the whole.

    Raises:
        SnapshotError: the bytes are none, are cut off or damaged, or are of another version.
    """
    return _open(data)[0]


def read(data: bytes) -> tuple[Head, Content]:
    """Return the head of a snapshot and what it holds.

    Raises:
        SnapshotError: see `read_head`.
    """
    head, body = _open(data)
    try:
        content: Content = from_plain(msgpack.unpackb(body, strict_map_key=False))
    except (ValueError, msgpack.UnpackException) as error:
        raise SnapshotError(f"expected the body of a snapshot, found {error}; save it anew") from error
    return head, content


def _open(data: bytes) -> tuple[Head, bytes]:
    try:
        parts = msgpack.unpackb(data, strict_map_key=False)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise SnapshotError(
            f"expected the bytes of a snapshot, found {len(data)} that end early or are none ({error}); export it again"
        ) from error
    match parts:
        case [str(magic), int(version), *_] if magic == MAGIC and version != VERSION:
            raise SnapshotError(
                f"expected a snapshot of version {VERSION}, found version {version}; save it with this release"
            )
        case [str(magic), _, dict(head), int(checksum), bytes(body)] if magic == MAGIC:
            if zlib.crc32(body) != checksum:
                raise SnapshotError("expected a snapshot whose checksum is right, found damaged bytes; export it again")
        case _:
            raise SnapshotError("expected the bytes that export_snapshot returned, found something else; export again")
    try:
        return Head(**head), body
    except TypeError as error:
        raise SnapshotError(f"expected the head of a snapshot, found {sorted(head)}; save it anew") from error
