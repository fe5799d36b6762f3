"""The bytes of CARLA's protocol, 0.9.16 or 0.9.15: msgpack-rpc envelopes, stream messages, actor records.

Nothing here knows a world or a socket. The real client kills its own process on a malformed message, so each payload
of the server is built by one function of this file.

All binary structs are little endian and packed. Units: m, s, deg; left-handed axes, x forward, y right, z up.
"""

import reprlib
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, cast

import msgpack
import numpy as np

OBSERVER_STREAM_ID = 1
MAX_REQUEST_BYTES = 64 * 2**20
MAX_ARRAY = 2**20  # entries of an array or map in a request, for which room is made before they have come
TCP = 1

pack = cast(Callable[[object], bytes], msgpack.packb)


@dataclass(frozen=True, slots=True)
class Release:
    """A release of CARLA, in what its client expects otherwise than that of another one.

    Attributes:
        version: its name; client and server have to be of one.
        world_stream: first word of the world observer's messages.
        first_attribute_type: number of the first type of attribute in the blueprint library.
        north_is_up: whether latitude falls along +y, which points south; 0.9.16 has it mirrored (its issue 9389).
    """

    version: str
    world_stream: int
    first_attribute_type: int
    north_is_up: bool


RELEASES = {each.version: each for each in (Release("0.9.16", 17, 1, False), Release("0.9.15", 16, 0, True))}
"""What can be spoken; the first is what everything here is written for."""
LATEST = next(iter(RELEASES.values()))


class WireError(Exception):
    """A peer sent bytes that are not this protocol; its connection is to be closed."""


class StreamType(IntEnum):
    """The first word of a sensor's messages; the world observer's depends on the `Release`."""

    COLLISION = 0
    DEPTH = 1
    NORMALS = 2
    DVS = 3
    GNSS = 4
    IMU = 5
    OBSTACLE = 7
    OPTICAL_FLOW = 8
    RADAR = 9
    SEMANTIC_LIDAR = 10
    LIDAR = 11
    RGB = 13
    SEMANTIC = 14
    INSTANCE = 15


class SimulationState(IntEnum):
    """What an observer message asks of the client."""

    NONE = 0
    MAP_CHANGE = 1
    LIGHT_UPDATE = 2


class LightColour(IntEnum):
    """State of a traffic light (carla.TrafficLightState)."""

    RED = 0
    YELLOW = 1
    GREEN = 2
    OFF = 3
    UNKNOWN = 4


# ---------------------------------------------------------------------------------------------------------------- rpc


@dataclass(frozen=True, slots=True)
class Request:
    """One call: ``[0, msgid, method, [meta, *arguments]]``."""

    msgid: int
    method: str
    arguments: list[Any]


class RequestReader:
    """Cuts the byte stream of one connection into requests."""

    def __init__(self) -> None:
        self._unpacker = cast(
            Any,
            msgpack.Unpacker(
                raw=False,
                strict_map_key=False,
                max_buffer_size=MAX_REQUEST_BYTES,
                max_array_len=MAX_ARRAY,
                max_map_len=MAX_ARRAY,
            ),
        )

    def feed(self, chunk: bytes) -> None:
        """Append received bytes.

        Raises:
            WireError: more than MAX_REQUEST_BYTES are waiting to be read.
        """
        try:
            self._unpacker.feed(chunk)
        except msgpack.BufferFull as error:
            raise WireError(f"a request of more than {MAX_REQUEST_BYTES} bytes") from error

    def __iter__(self) -> Iterator[Request]:
        return self

    def __next__(self) -> Request:
        """The next complete request.

        Raises:
            StopIteration: no complete request is waiting.
            WireError: the bytes are not a request.
        """
        while True:
            try:
                message = next(self._unpacker)
            except StopIteration:
                raise
            except Exception as error:  # msgpack raises a dozen kinds for garbage
                raise WireError(f"not msgpack: {error!r}") from error
            match message:
                case [0, int(msgid), str(method), [_, *arguments]]:
                    return Request(msgid, method, arguments)
                case [2, str(), list()]:
                    continue  # a notification; the client sends none and none needs an answer
                case _:
                    raise WireError(f"expected [0, msgid, method, [meta, ...]], found {reprlib.repr(message)}")


_VOID_OK = b"\xc0\x91\x91\xc2"  # nil, [[false]]


def void_reply(msgid: int) -> bytes:
    """Reply of a call without a result: ``[1, msgid, nil, [[false]]]``."""
    return b"\x94\x01" + pack(msgid) + _VOID_OK


def value_reply(msgid: int, value: object) -> bytes:
    """Reply of a call with a result: ``[1, msgid, nil, [[1, value]]]``."""
    return b"\x94\x01" + pack(msgid) + b"\xc0\x91\x92\x01" + pack(value)


def bare_reply(msgid: int, value: object) -> bytes:
    """Reply whose result stands without an envelope (apply_batch): ``[1, msgid, nil, value]``."""
    return b"\x94\x01" + pack(msgid) + b"\xc0" + pack(value)


def void_error(msgid: int, text: str) -> bytes:
    """Refusal of a call without a result."""
    return pack([1, msgid, None, [[True, [text]]]])


def value_error(msgid: int, text: str) -> bytes:
    """Refusal of a call with a result."""
    return pack([1, msgid, None, [[0, [text]]]])


def envelope_error(msgid: int, text: str) -> bytes:
    """Refusal of a method that does not exist, whose result shape is therefore unknown."""
    return pack([1, msgid, text, None])


# ------------------------------------------------------------------------------------------------------------- tokens

_TOKEN = struct.Struct("<IHBB16s")
SUBSCRIPTION = struct.Struct("<I")


def token(stream_id: int, port: int) -> bytes:
    """Stream token (24 bytes). Address type 0: the client uses the host that it already talks to."""
    return _TOKEN.pack(stream_id, port, TCP, 0, bytes(16))


# ------------------------------------------------------------------------------------------------------ actor records

STATE_ACTIVE = 1
_POSE = [
    ("id", "<u4", 0),
    ("state", "u1", 4),
    ("location", ("<f4", 3), 5),
    ("rotation", ("<f4", 3), 17),
    ("velocity", ("<f4", 3), 29),
    ("angular_velocity", ("<f4", 3), 41),
    ("acceleration", ("<f4", 3), 53),
]
_VEHICLE = [
    ("brake", "<f4", 73),
    ("speed_limit_kmh", "<f4", 84),
    ("light_state", "u1", 88),
    ("has_light", "u1", 89),
    ("light_id", "<u4", 90),
]
_LIGHT = [
    ("sign_id", "S32", 65),
    ("green_s", "<f4", 97),
    ("yellow_s", "<f4", 101),
    ("red_s", "<f4", 105),
    ("elapsed_s", "<f4", 109),
    ("pole_index", "<u4", 113),
    ("frozen", "u1", 117),
    ("colour", "u1", 118),
]
RECORD_BYTES = 119
_FIELDS = _POSE + _VEHICLE + _LIGHT
# One actor of the observer message. From byte 65 on, fields of different actor types share the bytes.
RECORD = np.dtype(
    {
        "names": [name for name, _, _ in _FIELDS],
        "formats": [kind for _, kind, _ in _FIELDS],
        "offsets": [offset for _, _, offset in _FIELDS],
        "itemsize": RECORD_BYTES,
    }
)

HEAD = struct.Struct("<IB")  # at 0: id, state
POSE = struct.Struct("<6f")  # at 5: x, y, z, pitch, yaw, roll
MOTION = struct.Struct("<9f")  # at 29: velocity, angular velocity, acceleration
POSE_AND_MOTION = struct.Struct("<15f")  # at 5
VEHICLE_CONTROL = struct.Struct("<3f3?i")  # at 65: throttle, steer, brake, hand brake, reverse, manual, gear
WALKER_CONTROL = struct.Struct("<4f?")  # at 65: direction, speed_mps, jump
LIMIT = struct.Struct("<f")  # at 84: speed limit, km/h
LIGHT_AHEAD = struct.Struct("<BBI")  # at 88: light state, has light, light id
LIGHT = struct.Struct("<32s4fI2B")  # at 65: see the fields above
SIGN = struct.Struct("<32s")  # at 65
POSE_AT, MOTION_AT, SPECIFIC_AT, LIMIT_AT, LIGHT_AHEAD_AT = 5, 29, 65, 84, 88

# ---------------------------------------------------------------------------------------------------- stream messages

_SIZE_AND_HEADER = struct.Struct("<IQQd6f")
_HEADER_BYTES = _SIZE_AND_HEADER.size - 4
_OBSERVER = struct.Struct("<QdfiiiI")
_IMAGE = struct.Struct("<IIf")

Pose = tuple[float, float, float, float, float, float]
_ORIGIN: Pose = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


def stream_head(kind: StreamType, frame: int, elapsed_s: float, pose: Pose, body_bytes: int) -> bytes:
    """Size word and header that come before a body of ``body_bytes``.

    Args:
        kind: what the body is.
        frame: frame number of the measurement.
        elapsed_s: episode time of the measurement.
        pose: world pose of the sensor, x, y, z in m, pitch, yaw, roll in deg.
        body_bytes: length of what follows.
    """
    return _SIZE_AND_HEADER.pack(_HEADER_BYTES + body_bytes, kind, frame, elapsed_s, *pose)


def observer_head(
    release: Release,
    frame: int,
    elapsed_s: float,
    episode_id: int,
    platform_s: float,
    delta_s: float,
    state: SimulationState,
    records: int,
) -> bytes:
    """Everything of a world-observer message that comes before its ``records`` actor records."""
    body_bytes = _OBSERVER.size + records * RECORD_BYTES
    head = _SIZE_AND_HEADER.pack(_HEADER_BYTES + body_bytes, release.world_stream, frame, elapsed_s, *_ORIGIN)
    return head + _OBSERVER.pack(episode_id, platform_s, delta_s, 0, 0, 0, state)


def image_head(width: int, height: int, fov_deg: float) -> bytes:
    """Body prefix of an image; ``width * height`` BGRA pixels follow."""
    return _IMAGE.pack(width, height, fov_deg)


def gnss_body(latitude_deg: float, longitude_deg: float, altitude_m: float) -> bytes:
    """Body of a GNSS measurement."""
    return pack([latitude_deg, longitude_deg, altitude_m])


def imu_body(acceleration: Sequence[float], gyroscope: Sequence[float], compass_rad: float) -> bytes:
    """Body of an IMU measurement: m/s2 and rad/s in the sensor's frame, compass in rad (north 0)."""
    return pack([list(acceleration), list(gyroscope), compass_rad])


def collision_body(actor: list[Any], other: list[Any], impulse: Sequence[float]) -> bytes:
    """Body of a collision event: two serialised actors and the impulse on the first, world frame, N s."""
    return pack([actor, other, list(impulse)])


def obstacle_body(actor: list[Any], other: list[Any], distance_m: float) -> bytes:
    """Body of an obstacle event: two serialised actors and the distance between them."""
    return pack([actor, other, distance_m])


def lidar_head(angle_rad: float, counts: Sequence[int]) -> bytes:
    """Body prefix of a lidar measurement: angle that the lasers have reached, and points by channel; points follow.

    A point is four float32 x, y, z, intensity; that of a semantic lidar a `SEMANTIC_POINT`. Sensor frame, m.
    """
    return struct.pack(f"<fI{len(counts)}I", angle_rad, len(counts), *counts)


SEMANTIC_POINT = np.dtype([("place", "<f4", 3), ("cosine", "<f4"), ("actor", "<u4"), ("label", "<u4")])
DVS_EVENT = np.dtype([("x", "<u2"), ("y", "<u2"), ("time_ns", "<i8"), ("brighter", "?")])
"""What an event camera sends after the prefix of an image, once for each change of a pixel (13 bytes)."""
