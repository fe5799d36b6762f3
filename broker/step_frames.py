"""Steps on the wire: one frame a message, a fixed head instead of a msgpack header, and no copy of what it carries.

    [mark kind lease_id row seq payload]                          row_command, row_reply
    [mark kind lease_id n seq rows[n] sizes[n] payloads...]       command, command_reply

These are the same four messages as in `zmqcarla.broker.messages`, with op "step" and outcome "ok", in the form that
they take when every payload is a packed step: 0xC1, a byte that msgpack never begins with, is their mark and that of
the frame. Everything else (another op, a row that failed, payloads of more than a megabyte) takes the general form. A
step begins with cold caches in every process; what little code reads and writes these frames is most of its cost.

Payloads, which the broker does not look into:

    STEP    mark, slot; then the action: its leaves as they lie in memory, in the order of `zmqcarla.shm.layout`
    DONE    mark, terminated, truncated, reward, busy_s; then nothing, or msgpack [info, inline]
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any, Final

from zmqcarla.broker.errors import ProtocolError
from zmqcarla.broker.messages import (
    MAX_HEADER_BYTES,
    MAX_ROWS,
    Command,
    CommandReply,
    Message,
    RowCommand,
    RowReply,
)

MARK: Final = 0xC1
COMMAND: Final = 1
ROW_COMMAND: Final = 2
ROW_REPLY: Final = 3
COMMAND_REPLY: Final = 4
LEASE_ID_BYTES: Final = 16

STEP: Final = struct.Struct("<BI")
"""mark, slot; the action follows."""
DONE: Final = struct.Struct("<B??dd")
"""mark, terminated, truncated, reward, busy_s; the rest of the answer follows, if there is any."""

_HEAD: Final = struct.Struct(f"<BB{LEASE_ID_BYTES}sIq")
"""mark, kind, lease_id, row or number of rows, seq."""
_HEAD_BYTES: Final = _HEAD.size
_NO_BYTES: Final = b""

pack_head: Final = _HEAD.pack


def pack_done(reward: float, terminated: bool, truncated: bool, busy_s: float) -> bytes:
    """The answer to a packed step, or its beginning."""
    return DONE.pack(MARK, terminated, truncated, reward, busy_s)


def read_done(payload: bytes) -> tuple[float, bool, bool, float, bytes]:
    """reward, terminated, truncated, busy_s (s), and the rest, of an answer to a packed step.

    Raises:
        ProtocolError: too short.
    """
    if len(payload) < DONE.size:
        raise ProtocolError(f"expected an answer to a packed step, at least {DONE.size} bytes, found {len(payload)}")
    _, terminated, truncated, reward, busy_s = DONE.unpack_from(payload)
    return reward, terminated, truncated, busy_s, payload[DONE.size :]


def row_frame(kind: int, lease_id: bytes, row: int, seq: int, payload: bytes) -> bytes | None:
    """A row_command or row_reply with a packed step; None for one that has to take the general form."""
    if len(payload) > MAX_HEADER_BYTES - _HEAD_BYTES or payload[:1] != b"\xc1" or len(lease_id) != LEASE_ID_BYTES:
        return None
    return pack_head(MARK, kind, lease_id, row, seq) + payload


def read_row_frame(frame: bytes) -> tuple[bytes, int, int, bytes]:
    """lease_id, row, seq and payload of a row_command or row_reply.

    Raises:
        ProtocolError: too short, too long, or without a packed step.
    """
    if not _HEAD_BYTES < len(frame) <= MAX_HEADER_BYTES or frame[_HEAD_BYTES] != MARK:
        raise ProtocolError(
            f"expected a packed step of {_HEAD_BYTES + 1} to {MAX_HEADER_BYTES} bytes, found {len(frame)} bytes"
        )
    _, _, lease_id, row, seq = _HEAD.unpack_from(frame)
    return lease_id, row, seq, frame[_HEAD_BYTES:]


def compact(message: Message, payloads: Sequence[bytes]) -> bytes | None:
    """The one frame of a message about steps; None for a message that has to take the general form."""
    write = _WRITERS.get(type(message))
    return None if write is None else write(message, payloads)


def expand(frame: bytes) -> tuple[Message, list[bytes]]:
    """The message in a frame that begins with the mark, and its payloads.

    Raises:
        ProtocolError: a frame of no such form.
    """
    read = _READERS.get(frame[1]) if len(frame) >= _HEAD_BYTES else None
    if read is None or len(frame) > MAX_HEADER_BYTES:
        raise ProtocolError(
            f"expected a frame about steps, of {_HEAD_BYTES} to {MAX_HEADER_BYTES} bytes with a kind from "
            f"{sorted(_READERS)}, found {len(frame)} bytes that begin with {frame[:2].hex()}"
        )
    return read(frame)


def _batch_frame(kind: int, lease_id: bytes, seq: int, rows: Sequence[int], payloads: Sequence[bytes]) -> bytes | None:
    if len(rows) != len(payloads) or len(lease_id) != LEASE_ID_BYTES:
        return None
    for payload in payloads:
        if payload[:1] != b"\xc1":
            return None
    sizes = list(map(len, payloads))
    if sum(sizes) > MAX_HEADER_BYTES - _HEAD_BYTES - 8 * len(rows):
        return None
    columns = struct.pack(f"<{2 * len(rows)}I", *rows, *sizes)
    return _NO_BYTES.join([pack_head(MARK, kind, lease_id, len(rows), seq), columns, *payloads])


def _read_batch_frame(frame: bytes) -> tuple[bytes, int, tuple[int, ...], list[bytes]]:
    _, _, lease_id, count, seq = _HEAD.unpack_from(frame)
    begin = _HEAD_BYTES + 8 * count
    if count > MAX_ROWS or len(frame) < begin:
        raise ProtocolError(f"expected at most {MAX_ROWS} rows and all of them, found {count} in {len(frame)} bytes")
    columns = struct.unpack_from(f"<{2 * count}I", frame, _HEAD_BYTES)
    payloads: list[bytes] = []
    for size in columns[count:]:
        payload = frame[begin : begin + size]
        if payload[:1] != b"\xc1":
            raise ProtocolError(f"expected {count} packed steps, found something else after {len(payloads)}")
        payloads.append(payload)
        begin += size
    if begin != len(frame):
        raise ProtocolError(f"expected {begin} bytes with {count} steps, found {len(frame)}")
    return lease_id, seq, columns[:count], payloads


def _write_command(message: Any, payloads: Sequence[bytes]) -> bytes | None:
    if message.ops.count("step") != len(message.rows) or len(message.ops) != len(message.rows):
        return None
    return _batch_frame(COMMAND, message.lease_id, message.seq, message.rows, payloads)


def _write_command_reply(message: Any, payloads: Sequence[bytes]) -> bytes | None:
    if message.outcomes.count("ok") != len(message.rows):
        return None
    return _batch_frame(COMMAND_REPLY, message.lease_id, message.seq, message.rows, payloads)


def _write_row_command(message: Any, payloads: Sequence[bytes]) -> bytes | None:
    if message.op != "step":
        return None
    return row_frame(ROW_COMMAND, message.lease_id, message.row, message.seq, payloads[0])


def _write_row_reply(message: Any, payloads: Sequence[bytes]) -> bytes | None:
    if message.outcome != "ok":
        return None
    return row_frame(ROW_REPLY, message.lease_id, message.row, message.seq, payloads[0])


def _read_command(frame: bytes) -> tuple[Message, list[bytes]]:
    lease_id, seq, rows, payloads = _read_batch_frame(frame)
    return Command(lease_id, seq, rows, ("step",) * len(rows)), payloads


def _read_command_reply(frame: bytes) -> tuple[Message, list[bytes]]:
    lease_id, seq, rows, payloads = _read_batch_frame(frame)
    return CommandReply(lease_id, seq, rows, ("ok",) * len(rows)), payloads


def _read_row_command(frame: bytes) -> tuple[Message, list[bytes]]:
    lease_id, row, seq, payload = read_row_frame(frame)
    return RowCommand(lease_id, row, seq, "step"), [payload]


def _read_row_reply(frame: bytes) -> tuple[Message, list[bytes]]:
    lease_id, row, seq, payload = read_row_frame(frame)
    return RowReply(lease_id, row, seq, "ok"), [payload]


_WRITERS: Final[dict[type[Message], Callable[[Any, Sequence[bytes]], bytes | None]]] = {
    Command: _write_command,
    RowCommand: _write_row_command,
    RowReply: _write_row_reply,
    CommandReply: _write_command_reply,
}
_READERS: Final[dict[int, Callable[[bytes], tuple[Message, list[bytes]]]]] = {
    COMMAND: _read_command,
    ROW_COMMAND: _read_row_command,
    ROW_REPLY: _read_row_reply,
    COMMAND_REPLY: _read_command_reply,
}
