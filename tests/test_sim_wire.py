"""The bytes: sizes, offsets and reply shapes that the real client was seen to accept, and garbage in."""

from __future__ import annotations

import struct
from typing import Any, cast

import msgpack
import numpy as np
import pytest

from zmqcarla.sim import wire

unpack = cast("Any", msgpack.unpackb)
pack = cast("Any", msgpack.packb)


def test_actor_record_is_119_bytes_and_its_fields_lie_where_the_client_reads_them() -> None:
    assert wire.RECORD.itemsize == 119
    assert wire.VEHICLE_CONTROL.size + wire.SPECIFIC_AT == wire.LIMIT_AT
    row = np.zeros(1, wire.RECORD)
    buffer = bytearray(row.tobytes())
    wire.HEAD.pack_into(buffer, 0, 7, wire.STATE_ACTIVE)
    wire.POSE.pack_into(buffer, wire.POSE_AT, 1, 2, 3, 4, 5, 6)
    wire.MOTION.pack_into(buffer, wire.MOTION_AT, *range(10, 19))
    wire.LIMIT.pack_into(buffer, wire.LIMIT_AT, 50.0)
    wire.LIGHT_AHEAD.pack_into(buffer, wire.LIGHT_AHEAD_AT, wire.LightColour.RED, 1, 99)
    seen = np.frombuffer(buffer, wire.RECORD)[0]
    assert seen["id"] == 7
    assert seen["location"].tolist() == [1, 2, 3]
    assert seen["rotation"].tolist() == [4, 5, 6]
    assert seen["velocity"].tolist() == [10, 11, 12]
    assert seen["acceleration"].tolist() == [16, 17, 18]
    assert (seen["speed_limit_kmh"], seen["light_state"], seen["has_light"], seen["light_id"]) == (50.0, 0, 1, 99)
    assert wire.LIGHT.size + wire.SPECIFIC_AT == 119


def test_stream_messages_announce_their_exact_length() -> None:
    head = wire.observer_head(wire.LATEST, 5, 1.5, 2, 0.1, 0.05, wire.SimulationState.MAP_CHANGE, 3)
    (size,) = struct.unpack_from("<I", head)
    assert size == len(head) - 4 + 3 * wire.RECORD_BYTES
    assert struct.unpack_from("<QQd", head, 4) == (17, 5, 1.5)
    image = wire.image_head(4, 2, 90.0)
    message = wire.stream_head(wire.StreamType.RGB, 5, 1.5, (1, 2, 3, 4, 5, 6), len(image) + 32)
    assert struct.unpack_from("<I", message)[0] == len(message) - 4 + len(image) + 32
    assert len(image) == 12


def test_replies_have_the_shapes_of_the_wire_specification() -> None:
    assert unpack(wire.void_reply(3)) == [1, 3, None, [[False]]]
    assert unpack(wire.value_reply(70000, [1.5, "a"])) == [1, 70000, None, [[1, [1.5, "a"]]]]
    assert unpack(wire.bare_reply(3, [[[1, 9]]])) == [1, 3, None, [[[1, 9]]]]
    assert unpack(wire.void_error(3, "no")) == [1, 3, None, [[True, ["no"]]]]
    assert unpack(wire.value_error(3, "no")) == [1, 3, None, [[0, ["no"]]]]
    assert unpack(wire.envelope_error(3, "no")) == [1, 3, "no", None]


def test_token_is_24_bytes_and_leaves_the_address_to_the_client() -> None:
    token = wire.token(7, 2001)
    assert len(token) == 24
    assert struct.unpack("<IHBB", token[:8]) == (7, 2001, 1, 0)


def test_requests_are_cut_from_any_chunks() -> None:
    stream = pack([0, 1, "version", [[False]]]) + pack([2, "note", []]) + pack([0, 2, "destroy_actor", [[True], 5]])
    reader, requests = wire.RequestReader(), list[wire.Request]()
    for index in range(len(stream)):
        reader.feed(stream[index : index + 1])
        requests += list(reader)
    assert requests == [wire.Request(1, "version", []), wire.Request(2, "destroy_actor", [5])]


@pytest.mark.parametrize(
    "garbage",
    [b"\xc1", b"GET / HTTP/1.1\r\n\r\n", pack([1, 2, 3]), pack({"a": 1}), pack([0, "1", "version", [[False]]])],
)
def test_garbage_is_a_wire_error(garbage: bytes) -> None:
    reader = wire.RequestReader()
    reader.feed(garbage)
    with pytest.raises(wire.WireError):
        list(reader)
