"""A recording of an episode: its file format, written and read here and nowhere else.

Layout, little endian::

    16 bytes   MAGIC
    chunks     u32 packed size | u32 plain size | u32 CRC-32 of what is packed | f64 elapsed seconds | packed bytes

A chunk's bytes are msgpack, packed by zlib. The first is the header ``[version, map, date]``; each further one is a
frame ``[births, deaths, collisions, lamps, records]``: what has changed since the frame before. ``records`` holds the
119-byte actor records of `wire.RECORD` that are not as they were (the running time of traffic lights does not count).
Nothing is unpickled, each size is bounded before it is believed, and each value is checked. A file whose last chunk is
cut off, as one whose simulator was killed, is read up to there.
"""

import math
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import msgpack
import numpy as np

from zmqcarla.sim import wire
from zmqcarla.sim.geometry import Pose

MAGIC = b"zmqcarla record\n"
VERSION = 1
_CHUNK = struct.Struct("<IIId")
_MOST_BYTES = 32 * 2**20
_PACKING = 1  # zlib's level: speed before size


class RecordingError(Exception):
    """A file is not a recording, or is damaged; the text says where."""


class Birth(NamedTuple):
    """An actor that came to be.

    Attributes:
        id: its id in the recording.
        type_id: its blueprint.
        attributes: [id, type, value] each.
        parent: id of whom it is attached to, 0 for nobody.
        pose: in the world, or on its parent.
    """

    id: int
    type_id: str
    attributes: list[list[Any]]
    parent: int
    pose: Pose


@dataclass(frozen=True, slots=True)
class Frame:
    """What has changed in a tick.

    Attributes:
        elapsed_s: time since the first frame.
        births: actors that came to be, parents before their children.
        deaths: ids of those that went.
        collisions: pairs of ids that hit each other.
        lamps: (vehicle id, carla.VehicleLightState bits) that changed.
        records: `wire.RECORD_BYTES` bytes for each actor that changed.
    """

    elapsed_s: float
    births: list[Birth]
    deaths: list[int]
    collisions: list[tuple[int, int]]
    lamps: list[tuple[int, int]]
    records: bytes

    def rows(self) -> Iterator[tuple[int, bytes]]:
        """(actor id, record) of each actor that changed."""
        for at in range(0, len(self.records), wire.RECORD_BYTES):
            record = self.records[at : at + wire.RECORD_BYTES]
            yield wire.HEAD.unpack_from(record)[0], record


def path_of(name: str) -> Path:
    """Where a recording of that name lies: a bare name in the user's state directory, a path where it says."""
    if any(mark in name for mark in "/\\:"):
        return Path(name)
    state = os.environ.get("XDG_STATE_HOME", "")
    return Path(state if state.startswith("/") else Path.home() / ".local/state") / "zmqcarla/saved" / name


# ------------------------------------------------------------------------------------------------------------ writing


class RecordingWriter:
    """Writes a recording, frame by frame.

    Args:
        path: the file; its directory is made. A recording that is there is replaced.
        map_name: of the episode.
        date: as texts about the recording show it.

    Raises:
        OSError: it cannot be written.
        RecordingError: a file is there that is no recording, and is left alone.
    """

    def __init__(self, path: Path, map_name: str, date: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size > 0:
            with path.open("rb") as there:
                if there.read(len(MAGIC)) != MAGIC:
                    raise RecordingError(f"{path} is there and is no recording; choose another name")
        self._file = path.open("wb")
        self._file.write(MAGIC)
        self._write(0.0, [VERSION, map_name, date])

    def write(self, frame: Frame) -> None:
        """Append a frame."""
        content = [frame.births, frame.deaths, frame.collisions, frame.lamps, frame.records]
        self._write(frame.elapsed_s, content)

    def _write(self, elapsed_s: float, content: object) -> None:
        plain = wire.pack(content)
        packed = zlib.compress(plain, _PACKING)
        self._file.write(_CHUNK.pack(len(packed), len(plain), zlib.crc32(packed), elapsed_s) + packed)

    def close(self) -> None:
        """Finish the file."""
        self._file.close()


# ------------------------------------------------------------------------------------------------------------ reading


class RecordingReader:
    """Reads a recording; iterate it for its frames.

    Args:
        path: the file.

    Attributes:
        map_name: of the episode.
        date: when it was recorded, as a text.

    Raises:
        OSError: it cannot be read.
        RecordingError: it is no recording.
    """

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = path.open("rb")
        try:
            if self._file.read(len(MAGIC)) != MAGIC:
                raise RecordingError(f"{path} is no recording of this simulator")
            first = self._read()
            match first and first[1]:
                case [int(version), str(name), str(date)] if version == VERSION:
                    self.map_name, self.date = name, date
                case [int(version), *_] if version != VERSION:
                    raise RecordingError(f"{path}: expected a recording of version {VERSION}, found {version}")
                case found:
                    raise RecordingError(f"{path}: expected a header [version, map, date], found {found!r:.80}")
        except BaseException:
            self._file.close()
            raise
        self._start = self._file.tell()

    def __iter__(self) -> Iterator[Frame]:
        return self

    def __next__(self) -> Frame:
        """The next frame.

        Raises:
            StopIteration: there is no further one.
            RecordingError: it is damaged.
        """
        chunk = self._read()
        if chunk is None:
            raise StopIteration
        elapsed_s, content = chunk
        try:
            return _frame(elapsed_s, content)
        except (TypeError, ValueError) as error:
            raise RecordingError(f"a frame that is not one, before byte {self._file.tell()}: {error}") from error

    def survey(self) -> tuple[int, float]:
        """Number of frames and the time of the last, without reading what is in them; the reading starts anew."""
        self.rewind()
        count, last_s = 0, 0.0
        size = os.fstat(self._file.fileno()).st_size
        while (head := self._head()) is not None and self._file.tell() + head[0] <= size:
            self._file.seek(head[0], os.SEEK_CUR)
            count, last_s = count + 1, head[3]
        self.rewind()
        return count, last_s

    def rewind(self) -> None:
        """Start with the first frame again."""
        self._file.seek(self._start)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _head(self) -> tuple[int, int, int, float] | None:
        head = self._file.read(_CHUNK.size)
        if len(head) < _CHUNK.size:
            return None
        packed, plain, check, elapsed_s = _CHUNK.unpack(head)
        if packed > _MOST_BYTES or plain > _MOST_BYTES or not math.isfinite(elapsed_s):
            where = self._file.tell() - _CHUNK.size
            raise RecordingError(f"damaged at byte {where}: a chunk of {packed} bytes, {plain} unpacked")
        return packed, plain, check, elapsed_s

    def _read(self) -> tuple[float, Any] | None:
        """Time and content of the next chunk, None at the end."""
        where, head = self._file.tell(), self._head()
        if head is None:
            return None
        size, plain_size, check, elapsed_s = head
        packed = self._file.read(size)
        if len(packed) < size:
            return None
        try:
            if zlib.crc32(packed) != check:
                raise ValueError("its sum does not match")
            unpacking = zlib.decompressobj()
            plain = unpacking.decompress(packed, plain_size + 1)
            if len(plain) != plain_size:
                raise ValueError(f"expected {plain_size} bytes unpacked, found another number")
            return elapsed_s, cast(Any, msgpack).unpackb(plain, raw=False, use_list=True)
        except Exception as error:  # zlib and msgpack raise a dozen kinds for garbage
            raise RecordingError(f"damaged at byte {where}: {error}") from error


def _frame(elapsed_s: float, content: Any) -> Frame:
    """A frame from its content.

    Raises:
        ValueError: it is not one.
        TypeError: likewise.
    """
    match content:
        case [list(births), list(deaths), list(collisions), list(lamps), bytes(records)]:
            pass
        case _:
            raise ValueError(f"expected [births, deaths, collisions, lamps, records], found {content!r:.80}")
    if len(records) % wire.RECORD_BYTES:
        raise ValueError(f"expected records of {wire.RECORD_BYTES} bytes, found {len(records)} bytes")
    table = np.frombuffer(records, wire.RECORD)
    if not all(np.isfinite(table[name]).all() for name in ("location", "rotation", "velocity", "angular_velocity")):
        raise ValueError("expected finite places and velocities, found others")
    return Frame(
        elapsed_s,
        [_birth(*birth) for birth in births],
        [_whole(number) for number in deaths],
        [(_whole(first), _whole(second)) for first, second in collisions],
        [(_whole(number), _whole(bits)) for number, bits in lamps],
        records,
    )


def _birth(number: Any, type_id: Any, attributes: Any, parent: Any, pose: Any) -> Birth:
    x, y, z, pitch, yaw, roll = (_finite(value) for value in pose)
    named = [[str(name), _whole(kind), str(value)] for name, kind, value in attributes]
    return Birth(_whole(number), str(type_id), named, _whole(parent), (x, y, z, pitch, yaw, roll))


def _whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**32:
        raise ValueError(f"expected a number below 2**32, found {value!r:.40}")
    return value


def _finite(value: Any) -> float:
    if not isinstance(value, float) or not math.isfinite(value):
        raise ValueError(f"expected a finite float, found {value!r:.40}")
    return value
