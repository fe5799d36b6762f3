"""Messages and values on the wire: what comes back, and what is refused."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any, cast

import msgpack
import numpy as np
import pytest

from zmqcarla.broker import protocol as p
from zmqcarla.broker.errors import ProtocolError, UnserialisableError

_EXAMPLES: dict[Any, Any] = {
    "str": "text",
    "int": 3,
    "float": 1.5,
    "bool": True,
    "bytes": b"\x00id",
    "str | None": None,
    "int | None": 2,
    "tuple[str, ...]": ("a", "b"),
    "tuple[int, ...]": (1, 2),
    "tuple[float, ...]": (1.5, 2.0),
}


def _packb(value: Any) -> bytes:
    return cast(bytes, msgpack.packb(value))


def _example(kind: type[p.Message]) -> p.Message:
    return kind(*[_EXAMPLES[str(field.type)] for field in dataclasses.fields(kind)])


@pytest.mark.parametrize("kind", p.KINDS.values(), ids=lambda kind: kind.kind)
def test_every_message_survives_the_wire(kind: type[p.Message]) -> None:
    message = _example(kind)
    assert p.decode(p.encode(message)) == message


@pytest.mark.parametrize("kind", [kind for kind in p.KINDS.values() if dataclasses.fields(kind)], ids=lambda k: k.kind)
def test_a_field_of_a_wrong_type_is_named(kind: type[p.Message]) -> None:
    parts = msgpack.unpackb(p.encode(_example(kind)))
    parts[1] = {"not": "this"}
    with pytest.raises(ProtocolError, match=re.escape(f"{kind.kind}.{dataclasses.fields(kind)[0].name}")):
        p.decode(_packb(parts))


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"\xc1",
        b"GET / HTTP/1.1",
        msgpack.packb([]),
        msgpack.packb(["nonsense"]),
        msgpack.packb({}),
        b"\x91" * 4000,
        b"\x91" * 1000 + b"\x90",  # as deep as msgpack goes: too deep for repr()
        b"\xdd\xff\xff\xff\xff",  # a list of four billion, says its first byte
        b"\xdc\x10\x01" + b"\x90" * 4097,
        b"\xc9\x00\x10\x00\x00\x01" + bytes(1 << 20),
    ],
)
def test_garbage_is_a_protocol_error(header: bytes) -> None:
    with pytest.raises(ProtocolError):
        p.decode(header)


def test_sizes_are_limited() -> None:
    with pytest.raises(ProtocolError, match="at most"):
        p.decode(bytes(p.MAX_HEADER_BYTES + 1))
    with pytest.raises(ProtocolError, match="frames"):
        p.check_frames([b""] * (p.MAX_FRAMES + 1))
    with pytest.raises(ProtocolError, match="payloads of at most"):
        p.check_frames([b"", bytes(p.MAX_PAYLOAD_BYTES + 1)])


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (["release", bytes(65)], "max_bin_len"),
        (["status_request", 1 << 63, b""], "64 bits"),
        (["renew", b"id", "x" * 70_000, 1.0, [], None, None], "max_str_len"),
        (["renew", b"id", "x", float("nan"), [], None, None], "finite"),
        (["renew", b"id", "x", float("inf"), [], None, None], "finite"),
        (["renew", b"id", "x", 1.0, ["w"] * 4097, None, None], "4097"),
    ],
    ids=["bytes", "int", "text", "nan", "inf", "list"],
)
def test_every_field_has_a_size(message: list[Any], text: str) -> None:
    with pytest.raises(ProtocolError, match=text):
        p.decode(_packb(message))


def test_a_missing_field_says_what_to_do() -> None:
    with pytest.raises(ProtocolError, match="expected 6 fields in 'renew' of protocol 2, found 0; install the same"):
        p.decode(_packb(["renew"]))


def test_the_document_lists_exactly_the_messages() -> None:
    text = (Path(__file__).parents[1] / "docs/protocol.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \|[^|]*\|([^|]*)\|", text, re.MULTILINE)
    documented = {kind: re.findall(r"`(\w+)`", fields) for kind, fields in rows}
    assert documented == {kind: [f.name for f in dataclasses.fields(message)] for kind, message in p.KINDS.items()}


@pytest.mark.parametrize(
    "value",
    [
        None,
        {"a": [1, 2.5, "x", b"y", True, None]},
        (1, (2, [3])),
        2**80,
        -(2**70),
        {1: "integer keys"},
    ],
)
def test_values_survive(value: Any) -> None:
    found = p.unpack(p.pack(value))
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("dtype", ["?", "u1", "<i4", ">f8", "<f4", "<c8"])
def test_arrays_survive_and_are_writable(dtype: str) -> None:
    array = np.arange(6).reshape(2, 3).astype(dtype)
    found = p.unpack(p.pack({"array": array.T}))["array"]
    np.testing.assert_array_equal(found, array.T)
    assert found.dtype == array.dtype
    found[0, 0] = 1


def test_numpy_scalars_keep_their_type() -> None:
    found = p.unpack(p.pack(np.float32(1.5)))
    assert found == np.float32(1.5)
    assert found.dtype == np.float32


@pytest.mark.parametrize("culprit", [{1, 2}, object(), np.array([object()]), lambda: None])
def test_what_has_no_encoding_is_named(culprit: Any) -> None:
    with pytest.raises(UnserialisableError, match=re.escape("value['info']['deep'][1]")):
        p.pack({"fine": 1, "info": {"deep": [0, culprit]}})


def _nested_tuples(depth: int) -> bytes:
    frame = _packb([])
    for _ in range(depth):
        frame = _packb(msgpack.ExtType(3, frame))
    return frame


@pytest.mark.parametrize(
    "frame",
    [
        msgpack.packb(msgpack.ExtType(1, msgpack.packb(["O", [1], b"12345678"]))),
        msgpack.packb(msgpack.ExtType(1, msgpack.packb(["<f4", [3], b"1234"]))),
        msgpack.packb(msgpack.ExtType(9, b"")),
        _nested_tuples(200),
        _nested_tuples(5000),
        b"\x91" * 100_000 + b"\x90",
        b"\xdd\xff\xff\xff\xff",
        b"".join([msgpack.packb(msgpack.ExtType(1, msgpack.packb(["<f4", [1 << 40, 0], b""]))) or b"", b"more"]),
        msgpack.packb(msgpack.ExtType(4, b"9" * 5000)),
        b"\xc1",
    ],
)
def test_bad_values_are_protocol_errors(frame: bytes) -> None:
    with pytest.raises(ProtocolError):
        p.unpack(frame)
