"""The messages between an agent's process and whoever started it: a length, JSON, and arrays in memory that both see.

An agent's Python need not have zmqcarla, and may be older: this file imports the standard library and numpy alone, and
runs on Python 3.7. The starter asks, the agent's process answers:

    {"kind": "set_up", "file", "config", "folders", "gps", "world", "options", "frame", "host", "port"}
                                          {"track": str, "sensors": [dict, ...]}
    {"kind": "step", "timestamp_s": float, "frame": int, "memory_bytes": int, "input": {id: part}}
                                          {"control": [steer, throttle, brake, reverse]}
    {"kind": "end"}                       {}

An answer {"error": text} stands for each of them. A part is {"at": place in the memory in bytes, "dtype": str,
"shape": [...]} or {"value": JSON}. Nothing is unpickled.
"""

from __future__ import annotations

import json
import struct
import time
from typing import Any

import numpy as np

ALIGNMENT_BYTES = 64
MAX_ANSWER_BYTES = 2**20
"""The longest answer of an agent: its list of sensors, or a traceback."""
MAX_MESSAGE_BYTES = 2**28
"""The longest question: a town's map as text is the longest part of one."""

_LENGTH = struct.Struct(">I")


class WireError(Exception):
    """What came is no message of this kind."""


def send(channel: Any, message: dict[str, Any]) -> None:
    """Send one message over a connected stream socket, which may have a time limit.

    Raises:
        OSError: the other side is gone, or takes nothing.
    """
    body = json.dumps(message, default=_plain).encode()
    channel.sendall(_LENGTH.pack(len(body)) + body)


def receive(channel: Any, most_bytes: int, deadline_s: float | None = None) -> dict[str, Any]:
    """Wait for one message.

    Args:
        channel: a connected stream socket.
        most_bytes: its longest length.
        deadline_s: monotonic time at which to give up, None for never.

    Raises:
        EOFError: the other side is gone.
        TimeoutError: nothing came in time.
        WireError: it is too long, or no dict in JSON.
    """
    (length,) = _LENGTH.unpack(_read(channel, _LENGTH.size, deadline_s))
    if length > most_bytes:
        raise WireError(f"expected a message of at most {most_bytes} bytes, found one of {length}")
    body = _read(channel, length, deadline_s)
    try:
        message = json.loads(body)
    except ValueError as error:
        raise WireError(f"expected a message in JSON, found {error}") from None
    if not isinstance(message, dict):
        raise WireError(f"expected a dict, found {type(message).__name__}")
    return message


def room_bytes(input_data: dict[str, Any]) -> int:
    """How much memory the arrays of a step need."""
    return sum(_aligned(part.nbytes) for part in input_data.values() if isinstance(part, np.ndarray))


def write_parts(input_data: dict[str, Any], memory: Any) -> dict[str, Any]:
    """Put the arrays into the memory, one behind the other, and return the parts of the message."""
    parts: dict[str, Any] = {}
    at = 0
    for name, value in input_data.items():
        if not isinstance(value, np.ndarray):
            parts[name] = {"value": value}
            continue
        array_view(memory, at, value.dtype, value.shape)[...] = value
        parts[name] = {"at": at, "dtype": value.dtype.str, "shape": list(value.shape)}
        at += _aligned(value.nbytes)
    return parts


def read_parts(parts: dict[str, Any], memory: Any) -> dict[str, Any]:
    """Return what `write_parts` described; arrays are copies, because an agent may keep and change them."""
    return {
        name: part["value"]
        if "value" in part
        else array_view(memory, part["at"], np.dtype(part["dtype"]), part["shape"]).copy()
        for name, part in parts.items()
    }


def array_view(memory: Any, at: int, dtype: Any, shape: Any) -> Any:
    """An array that lies in the memory."""
    count = int(np.prod(shape, dtype=np.int64))
    return np.frombuffer(memory, dtype, count, at).reshape(shape) if count else np.empty(shape, dtype)


def _read(channel: Any, count: int, deadline_s: float | None) -> bytes:
    pieces = []
    while count:
        channel.settimeout(None if deadline_s is None else max(deadline_s - time.monotonic(), 0.001))
        try:
            piece = channel.recv(min(count, 2**20))
        except ConnectionError:
            piece = b""
        except OSError as error:  # socket.timeout, which is no TimeoutError before Python 3.10
            raise TimeoutError(str(error)) from None
        if not piece:
            raise EOFError
        pieces.append(piece)
        count -= len(piece)
    return b"".join(pieces)


def _aligned(size_bytes: int) -> int:
    return -(-size_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def _plain(value: Any) -> Any:
    """Numbers of numpy, and enums of theirs, as JSON has them."""
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    raise TypeError(f"expected numbers, texts, lists and dicts, found {type(value).__name__}")
