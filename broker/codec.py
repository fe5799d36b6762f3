"""Values in messages: msgpack plus four extension types; nothing is ever unpickled.

Source: the msgpack specification (extension types 0 to 127 belong to the application).

    ext 1  numpy array   [dtype.str, shape, C-order bytes]     bool, integer, float and complex dtypes only
    ext 2  numpy scalar  [dtype.str, bytes]
    ext 3  tuple         [items...]
    ext 4  integer beyond 64 bits, decimal digits

Anything else (sets, objects, object arrays) is an `UnserialisableError` that names the key.
"""

from __future__ import annotations

import functools
from typing import Any, Final, cast

import msgpack
import numpy as np

from zmqcarla.broker.errors import ProtocolError, UnserialisableError

_ARRAY: Final = 1
_SCALAR: Final = 2
_TUPLE: Final = 3
_BIG_INT: Final = 4
_MAX_BIG_INT_DIGITS: Final = 4096
_MAX_TUPLES: Final = 100
"""In each other; lists and dicts may lie in each other as deep as msgpack allows, which is 1024."""
_PLAIN: Final = msgpack.Packer()
"""For contents of extension types: a packb inside a packb allocates its 256 KiB buffer anew, 14 us an array."""
_NUMERIC_KINDS: Final = frozenset("?biufc")


def pack(value: object) -> bytes:
    """Encode a value.

    Raises:
        UnserialisableError: something inside has no place in a message; the text names its key.
    """
    try:
        return _packb(value)
    except (TypeError, ValueError, OverflowError) as error:
        where, found = _find_culprit(value, "value")
        raise UnserialisableError(
            f"cannot send {where}: expected numbers, strings, bytes, None, lists, tuples, dicts or numeric "
            f"numpy arrays, found {type(found).__module__}.{type(found).__qualname__} ({error})"
        ) from None


def unpack(frame: bytes | memoryview, depth: int = 0) -> Any:
    """Decode what `pack` made; arrays come back writable and owned by the caller.

    Args:
        frame: a packed value.
        depth: how many tuples it lies in.

    Raises:
        ProtocolError: the frame is not a value of ours, or nested too deeply.
    """
    if depth > _MAX_TUPLES:
        raise ProtocolError(f"expected at most {_MAX_TUPLES} tuples in each other, found more")
    hook = functools.partial(_decode_extension, depth)
    try:
        return msgpack.unpackb(frame, ext_hook=hook, strict_map_key=False, use_list=True)
    except ProtocolError:
        raise
    except Exception as error:  # msgpack raises its own types, ValueError and RecursionError alike
        raise ProtocolError(f"expected a msgpack value, found {len(frame)} bytes that are not one: {error}") from None


def _encode_default(value: object) -> msgpack.ExtType | int:
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in _NUMERIC_KINDS:
            raise TypeError(f"array of dtype {value.dtype}")
        return msgpack.ExtType(_ARRAY, _PLAIN.pack([value.dtype.str, list(value.shape), value.tobytes()]))
    if isinstance(value, np.generic):
        if value.dtype.kind not in _NUMERIC_KINDS:
            raise TypeError(f"numpy scalar of dtype {value.dtype}")
        return msgpack.ExtType(_SCALAR, _PLAIN.pack([value.dtype.str, value.tobytes()]))
    if type(value) is tuple:
        return msgpack.ExtType(_TUPLE, _packb(list(value)))
    if type(value) is int:
        return msgpack.ExtType(_BIG_INT, str(value).encode())
    raise TypeError(f"no encoding for {type(value).__qualname__}")


def _packb(value: object) -> bytes:
    return cast(bytes, msgpack.packb(value, default=_encode_default, strict_types=True))


def _decode_extension(depth: int, code: int, content: bytes) -> Any:
    if code == _ARRAY:
        dtype_text, shape, raw = msgpack.unpackb(content)
        array = np.frombuffer(bytearray(raw), dtype=_numeric_dtype(dtype_text))
        return array.reshape(shape)
    if code == _SCALAR:
        dtype_text, raw = msgpack.unpackb(content)
        return np.frombuffer(raw, dtype=_numeric_dtype(dtype_text))[0]
    if code == _TUPLE:
        return tuple(unpack(content, depth + 1))
    if code == _BIG_INT and len(content) <= _MAX_BIG_INT_DIGITS:
        return int(content)
    raise ProtocolError(f"expected extension type 1 to 4, found {code} with {len(content)} bytes")


def _numeric_dtype(text: str) -> np.dtype[Any]:
    dtype = np.dtype(text)
    if dtype.kind not in _NUMERIC_KINDS:
        raise ProtocolError(f"expected a numeric dtype, found {text!r}")
    return dtype


def _find_culprit(value: object, path: str) -> tuple[str, object]:
    """The first part of `value` that cannot be encoded, and its path."""
    children: list[tuple[str, object]] = []
    if isinstance(value, dict):
        children = [(f"{path}[{key!r}]", item) for key, item in value.items()]
    elif isinstance(value, (list, tuple)):
        children = [(f"{path}[{index}]", item) for index, item in enumerate(value)]
    for child_path, child in children:
        try:
            _packb(child)
        except (TypeError, ValueError, OverflowError):
            return _find_culprit(child, child_path)
    return path, value
