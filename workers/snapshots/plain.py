"""Values of the env as values that msgpack can hold, and back, to the bit.

Numbers, texts, bytes, None and lists stay as they are. Everything else becomes a map with one key, which says what it
is: {"tuple": [...]}, {"dict": [[key, value], ...]}, {"record": [name, field, ...]} for the classes listed in `RECORDS`,
and so on. Only these can come back, whatever the bytes say.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from enum import Enum
from typing import Any, Final

import numpy as np

from zmqcarla.broker.errors import SnapshotError
from zmqcarla.workers.criteria.base import Hit, Infraction, Kind, Staged, Tick
from zmqcarla.workers.criteria.lanes import LaneSeen
from zmqcarla.workers.ego import EgoState
from zmqcarla.workers.events import StepEvents
from zmqcarla.workers.navigation import RoadOption, RouteState
from zmqcarla.workers.surroundings import StopSign

_CLASSES: Final = (EgoState, Hit, Infraction, LaneSeen, RouteState, Staged, StepEvents, StopSign, Tick)
RECORDS: Final[dict[str, type[Any]]] = {each.__name__: each for each in _CLASSES}
"""Classes whose objects are made of their fields, in order."""

_ENUMS: Final[dict[str, type[Enum]]] = {each.__name__: each for each in (Kind, RoadOption)}
_SAFE_KINDS: Final = "biuf"
_SMALL: Final = 2**63


def to_plain(value: Any) -> Any:
    """Return what msgpack can hold of a value.

    Raises:
        SnapshotError: it is of a class that has no place in a snapshot.
    """
    if isinstance(value, Enum):
        return {"enum": [type(value).__name__, value.value]}
    if value is None or isinstance(value, (bool, float, str, bytes)):
        return float(value) if isinstance(value, np.floating) else value
    if isinstance(value, (int, np.integer)):
        number = int(value)
        return number if -_SMALL <= number < _SMALL else {"integer": str(number)}
    name = type(value).__name__
    if RECORDS.get(name) is type(value):
        return {"record": [name, *(to_plain(getattr(value, field)) for field in _field_names(RECORDS[name]))]}
    for kind, encode in _ENCODERS:
        if isinstance(value, kind):
            return encode(value)
    raise SnapshotError(
        f"expected plain values, arrays and {', '.join(RECORDS)} in a snapshot, found {type(value)}; keep numbers, "
        "texts, lists and dicts in the state of an agent and in the options of a reset"
    )


def from_plain(plain: Any) -> Any:
    """Return the value that `to_plain` was given.

    Raises:
        SnapshotError: this is nothing that `to_plain` makes.
    """
    if isinstance(plain, list):
        return [from_plain(each) for each in plain]
    if not isinstance(plain, dict):
        return plain
    try:
        ((kind, content),) = plain.items()
        return _DECODERS[kind](content)
    except (KeyError, TypeError, ValueError) as error:
        raise SnapshotError(f"expected a value of a snapshot, found {str(plain)[:80]}: {error!r}") from error


def _field_names(record: type[Any]) -> tuple[str, ...]:
    named: tuple[str, ...] | None = getattr(record, "_fields", None)
    return named if named is not None else tuple(field.name for field in dataclasses.fields(record))


def _encode_array(array: Any) -> dict[str, Any]:
    if array.dtype.kind not in _SAFE_KINDS:
        raise SnapshotError(f"expected an array of numbers in a snapshot, found one of {array.dtype}")
    return {"array": [array.dtype.str, list(array.shape), array.tobytes()]}


def _encode_dict(mapping: Any) -> dict[str, Any]:
    return {"dict": [[to_plain(key), to_plain(value)] for key, value in mapping.items()]}


def _encode_set(members: Any) -> dict[str, Any]:
    return {"set": [to_plain(each) for each in sorted(members, key=repr)]}


_ENCODERS: Final[tuple[tuple[type[Any], Callable[[Any], Any]], ...]] = (
    (list, lambda value: [to_plain(each) for each in value]),
    (tuple, lambda value: {"tuple": [to_plain(each) for each in value]}),
    (dict, _encode_dict),
    (np.ndarray, _encode_array),
    (frozenset, _encode_set),
    (np.bool_, bool),
    (np.floating, float),
)


def _decode_array(content: Any) -> Any:
    kind, shape, raw = content
    dtype = np.dtype(kind)
    if dtype.kind not in _SAFE_KINDS:
        raise ValueError(f"an array of {dtype}")
    return np.frombuffer(raw, dtype).reshape(shape).copy()


def _decode_record(content: Any) -> Any:
    name, *fields = content
    return RECORDS[name](*(from_plain(each) for each in fields))


_DECODERS: Final[dict[str, Callable[[Any], Any]]] = {
    "enum": lambda content: _ENUMS[content[0]](content[1]),
    "integer": int,
    "record": _decode_record,
    "tuple": lambda content: tuple(from_plain(each) for each in content),
    "dict": lambda content: {from_plain(key): from_plain(value) for key, value in content},
    "array": _decode_array,
    "set": lambda content: frozenset(from_plain(each) for each in content),
}
