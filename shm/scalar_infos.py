"""Infos that are numbers travel as columns of the board; this says which, and where each stands.

Gymnasium turns the numbers of all rows' infos into one array a key. Packing them into messages, row by row, and taking
these apart again costs more than the step; a worker that writes them side by side, as a struct, lets the client read
the column of a key from all rows at once.

An info is split into its numbers (also those of a dict in it, when that holds nothing else) and the rest. Which
numbers, in which order and of which type is a `Schema`; a worker names it by its digest and leaves its text on the
board, so that a client that meets an unknown digest can read what it means.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

INFO_BYTES: Final = 2048
SCHEMA_BYTES: Final = 16 << 10

_FORMAT: Final[dict[type, tuple[str, str]]] = {
    float: ("float", "d"),
    int: ("int", "q"),
    bool: ("bool", "?"),
    np.float64: ("float64", "d"),
    np.float32: ("float32", "f"),
    np.int64: ("int64", "q"),
    np.int32: ("int32", "i"),
}
"""Name and struct format of the types that stand in columns: those whose arrays Gymnasium makes of the type itself."""
_TYPE: Final = {name: kind for kind, (name, _) in _FORMAT.items()}

Path = tuple[str, ...]


class Schema:
    """Which numbers stand in a row's info area, one behind the other without padding.

    Args:
        keys: of the info in their order, also those of the rest.
        fields: path of keys and type of each number.

    Attributes:
        keys: the same.
        fields: the same.
        digest: 63 bits that differ when the fields do; never 0.
        layout: struct of the area.
    """

    def __init__(self, keys: Sequence[str], fields: Sequence[tuple[Path, type]]) -> None:
        self.keys = tuple(keys)
        self.fields = tuple(fields)
        self.layout = struct.Struct("=" + "".join(_FORMAT[kind][1] for _, kind in fields))
        digest = hashlib.blake2b(self.text(), digest_size=8).digest()
        self.digest = int.from_bytes(digest, "little") >> 1 | 1

    def text(self) -> bytes:
        """For `parse`."""
        fields = [[list(path), _FORMAT[kind][0]] for path, kind in self.fields]
        return json.dumps({"keys": self.keys, "fields": fields}).encode()

    @classmethod
    def parse(cls, text: bytes) -> Schema:
        """What `text` says.

        Raises:
            ValueError: it is of another form.
        """
        try:
            found = json.loads(text)
            fields = [(tuple(map(str, path)), _TYPE[name]) for path, name in found["fields"]]
            return cls([str(key) for key in found["keys"]], fields)
        except (TypeError, KeyError, ValueError) as error:
            raise ValueError(f"expected the fields of a schema, found {text[:200]!r}: {error}") from error

    def info(self, area: bytes, rest: Mapping[str, Any]) -> dict[str, Any]:
        """The info of one row, each number of its own type, and the rest of it at its places."""
        info: dict[str, Any] = dict.fromkeys(self.keys, None)
        for key in {path[0] for path, _ in self.fields if len(path) > 1}:
            info[key] = {}
        info.update(rest)
        for (path, kind), value in zip(self.fields, self.layout.unpack_from(area), strict=True):
            _inner(info, path)[path[-1]] = value if type(value) is kind else kind(value)
        return info

    def batcher(self, areas: NDArray[np.uint8]) -> Callable[[], dict[str, Any]]:
        """A function that returns the infos of all rows as Gymnasium batches them: an array a key, and a mask `_key`.

        Args:
            areas: uint8 (num_envs, INFO_BYTES), live.
        """
        num_envs, row_bytes = areas.shape
        places: list[tuple[Path, str, str, NDArray[Any]]] = []
        offset_bytes = 0
        for path, kind in self.fields:
            place: NDArray[Any] = np.ndarray((num_envs,), kind, areas, offset_bytes, (row_bytes,))
            places.append((path[:-1], path[-1], f"_{path[-1]}", place))
            offset_bytes += place.itemsize
        all_true = np.ones((len(places), num_envs), np.bool_)

        def batch() -> dict[str, Any]:
            infos: dict[str, Any] = {}
            for (outer, key, mask_key, place), mask in zip(places, all_true.copy(), strict=True):
                inner = infos
                for name in outer:
                    if name not in inner:
                        inner[name], inner[f"_{name}"] = {}, mask.copy()
                    inner = inner[name]
                inner[key], inner[mask_key] = place.copy(), mask
            return infos

        return batch


class InfoSplitter:
    """Splits one env's infos; remembers their schemas."""

    def __init__(self) -> None:
        self._schemas: dict[tuple[tuple[str, ...], tuple[tuple[Path, type], ...]], Schema] = {}

    def split(self, info: Mapping[str, Any]) -> tuple[Schema | None, Sequence[Any], dict[str, Any]]:
        """The schema and values of the numbers, and the rest of the info."""
        if any(str(key).startswith("_") for key in info):  # may stand for another's mask: Gymnasium's rule
            return None, (), dict(info)
        fields: list[tuple[Path, type]] = []
        values: list[Any] = []
        rest = {key: value for key, value in info.items() if not _take(key, value, (), fields, values)}
        schema = self._schema(tuple(map(str, info)), tuple(fields))
        if schema is None:
            return None, (), dict(info)
        return schema, values, rest

    def _schema(self, keys: tuple[str, ...], fields: tuple[tuple[Path, type], ...]) -> Schema | None:
        if not fields:
            return None
        found = self._schemas.get((keys, fields))
        if found is None:
            found = Schema(keys, fields)
            if len(self._schemas) >= _REMEMBERED:  # an env that invents keys for ever
                self._schemas.clear()
            self._schemas[keys, fields] = found
        return found if found.layout.size <= INFO_BYTES and len(found.text()) <= SCHEMA_BYTES else None


_REMEMBERED: Final = 64


def _take(key: Any, value: Any, outer: Path, fields: list[tuple[Path, type]], values: list[Any]) -> bool:
    """Append what stands under a key when it consists of numbers."""
    if type(key) is not str or key.startswith("_") or key in _WHOLE:
        return False
    path = (*outer, key)
    if type(value) in _FORMAT:
        fields.append((path, type(value)))
        values.append(value)
        return True
    if type(value) is not dict or not value:
        return False
    inner_fields: list[tuple[Path, type]] = []
    inner_values: list[Any] = []
    if not all(_take(inner, part, path, inner_fields, inner_values) for inner, part in value.items()):
        return False
    fields.extend(inner_fields)
    values.extend(inner_values)
    return True


_WHOLE: Final = frozenset({"final_obs"})
"""Keys whose dicts Gymnasium does not take apart."""


def _inner(info: dict[str, Any], path: Path) -> dict[str, Any]:
    for key in path[:-1]:
        info = info.setdefault(key, {})
    return info
