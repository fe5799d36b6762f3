"""The messages between an evaluator's agent and the policy server: one msgpack frame, then a frame for each array.

The evaluator's Python need not have zmqcarla, and may be older: this file imports msgpack and numpy alone, and runs on
Python 3.7. The agent asks, the server answers:

    {"kind": "route", "version": 1, "gps": [...], "world": [...]}   {"track": str, "sensors": [dict, ...]}
    {"kind": "step", "timestamp_s": float, "input": {id: [frame, part]}}   {"control": [steer, throttle, brake]}
    {"kind": "end"}                                                 {}

An answer {"error": text} stands for each of them. A part is {"array": index of the frame, "dtype": str, "shape": [...]}
or {"value": whatever msgpack takes}. Nothing is unpickled.
"""

from __future__ import annotations

from typing import Any

import msgpack
import numpy as np

VERSION = 1
MAX_ARRAYS = 64
MAX_HEAD_BYTES = 64 * 2**20
"""A route's plan and the OpenDRIVE text of a large town travel in the head."""

_NUMERIC_KINDS = frozenset("?biuf")


class FramesError(ValueError):
    """What came is no message of this kind."""


def pack_message(head: dict[str, Any]) -> list[Any]:
    """The frames of a message without arrays."""
    return [msgpack.packb(head)]


def pack_step(timestamp_s: float, input_data: dict[str, tuple[int, Any]]) -> list[Any]:
    """The frames of a step: what the evaluator's sensors measured, {id: (frame, array or dict)}."""
    arrays: list[Any] = []
    parts = {}
    for name, (frame, measured) in input_data.items():
        if isinstance(measured, np.ndarray):
            array = np.ascontiguousarray(measured)
            part = {"array": len(arrays), "dtype": array.dtype.str, "shape": list(array.shape)}
            arrays.append(array)
        else:
            part = {"value": _plain(measured)}
        parts[name] = [int(frame), part]
    head = {"kind": "step", "timestamp_s": float(timestamp_s), "input": parts}
    return [msgpack.packb(head), *(memoryview(array).cast("B") if array.size else b"" for array in arrays)]


def unpack_head(frames: list[Any]) -> dict[str, Any]:
    """The first frame, checked to be a dict with text as keys.

    Raises:
        FramesError: it is none, or too much came.
    """
    if not 1 <= len(frames) <= 1 + MAX_ARRAYS or len(frames[0]) > MAX_HEAD_BYTES:
        raise FramesError(f"expected 1 to {1 + MAX_ARRAYS} frames, the first of at most {MAX_HEAD_BYTES} bytes")
    try:
        head = msgpack.unpackb(frames[0], strict_map_key=True)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise FramesError(f"expected a msgpack frame, found one that is none: {error}") from None
    if not isinstance(head, dict):
        raise FramesError(f"expected a dict, found {type(head).__name__}")
    return head


def unpack_step(head: dict[str, Any], frames: list[Any]) -> tuple[float, dict[str, tuple[int, Any]]]:
    """The time and the measurements of a step; arrays are views of the frames, read-only.

    Raises:
        FramesError: a part is malformed.
    """
    try:
        measured = {str(name): (int(frame), _measured(part, frames)) for name, (frame, part) in head["input"].items()}
        return float(head["timestamp_s"]), measured
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise FramesError(f"expected a step with measurements, found a malformed one: {error!r}") from None


def _measured(part: dict[str, Any], frames: list[Any]) -> Any:
    if "value" in part:
        return part["value"]
    dtype, index = np.dtype(part["dtype"]), part["array"]
    if dtype.kind not in _NUMERIC_KINDS or not 0 <= index < len(frames) - 1:
        raise FramesError(f"expected an array of numbers in one of the frames, found {part!r}")
    return np.frombuffer(frames[1 + index], dtype).reshape(part["shape"])


def _plain(value: Any) -> Any:
    """Dicts of numbers and texts, as the speedometer and the map give them."""
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (np.integer, np.floating)):
        return value.item()
    return value
