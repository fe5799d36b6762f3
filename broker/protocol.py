"""The messages between client, broker and worker: one frozen dataclass each, and their form on the wire.

A message is a list of ZeroMQ frames:

    [header]                            msgpack array [kind, field, field, ...]
    [header][payload][payload]...       commands and replies: one payload frame a row, opaque to the broker
    [head and payloads]                 the same, of steps; see `zmqcarla.broker.step_frames`

Payloads, packed with `pack` (-> the payload of an "ok" reply):

    open    {env_id, kwargs, autoreset}               -> {observation_space, action_space, metadata, render_mode}
    attach  {arena, board, num_envs, slots}           -> {visible}         whether the worker can map both
    reset   {slot, seed, options}                     -> {info, inline}
    rebuild {open, attach, slot, seed, options}       -> {info, inline, visible}   all three, in a worker new to it
    step    [slot, action]                            -> [reward, terminated, truncated, info, inline, busy_s]
            or a packed step (zmqcarla.broker.step_frames), which is answered by one
    call    {name, args, kwargs}                      -> the value
    set_attr {name, value}                            -> null

`busy_s` is the time that the worker spent on the step. `inline` maps the index of a leaf (zmqcarla.shm.layout) to its
value: leaves without a fixed size, or all leaves when the worker does not see the arena. An "error" reply carries
{type, text, traceback}; a "lost" or "gone" row, made by the broker, {reason, exit_code, restarts}.

`KINDS` lists every message; docs/protocol.md is the same list as a table with directions, and a test holds the two
together. Bump `PROTOCOL` with any change that an older peer would misread.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import reprlib
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any, Final, Union, cast, get_args, get_origin

import msgpack

from zmqcarla.broker import step_frames
from zmqcarla.broker.address import admin_address, default_address, is_served, runtime_directory
from zmqcarla.broker.codec import pack, unpack
from zmqcarla.broker.errors import ProtocolError, ProtocolVersionError
from zmqcarla.broker.keys import (
    INSECURE_VARIABLE,
    KEYS_VARIABLE,
    KeyFolder,
    check_may_serve,
    connect_to_broker,
    key_folder,
    keys_for,
)
from zmqcarla.broker.logs import log_to_stderr
from zmqcarla.broker.messages import (
    AUTORESET_SAME_STEP,
    DEFAULT_TTL_S,
    ENV_PARTS,
    EXIT_DRAINED,
    EXIT_SIMULATOR_FAILED,
    HEARTBEAT_S,
    KINDS,
    MAX_FRAMES,
    MAX_HEADER_BYTES,
    MAX_ID_BYTES,
    MAX_INT,
    MAX_PAYLOAD_BYTES,
    MAX_ROWS,
    MAX_TEXT_BYTES,
    OPS,
    OUTCOMES,
    PROTOCOL,
    STEP_TIMES,
    AdminReply,
    AdminRequest,
    Command,
    CommandReply,
    Heartbeat,
    Leased,
    LeaseEnded,
    LeaseLost,
    LeaseRequest,
    Message,
    Probe,
    ProbeReply,
    Queued,
    Ready,
    Refused,
    Register,
    Rejected,
    Release,
    Renew,
    Renewed,
    RowCommand,
    RowReply,
    StatusReply,
    StatusRequest,
    SupervisorOrder,
    UnknownWorker,
    Unregister,
    Welcome,
    WorkerLost,
)
from zmqcarla.broker.socket_frames import NO_WAIT, receive_frames, receive_from_broker, send_frames

__all__ = [
    "AUTORESET_SAME_STEP",
    "DEFAULT_TTL_S",
    "ENV_PARTS",
    "EXIT_DRAINED",
    "EXIT_SIMULATOR_FAILED",
    "HEARTBEAT_S",
    "INSECURE_VARIABLE",
    "KEYS_VARIABLE",
    "KINDS",
    "MAX_FRAMES",
    "MAX_HEADER_BYTES",
    "MAX_ID_BYTES",
    "MAX_INT",
    "MAX_PAYLOAD_BYTES",
    "MAX_ROWS",
    "MAX_TEXT_BYTES",
    "NO_WAIT",
    "OPS",
    "OUTCOMES",
    "PROTOCOL",
    "STEP_TIMES",
    "AdminReply",
    "AdminRequest",
    "Command",
    "CommandReply",
    "Heartbeat",
    "KeyFolder",
    "LeaseEnded",
    "LeaseLost",
    "LeaseRequest",
    "Leased",
    "Message",
    "Probe",
    "ProbeReply",
    "Queued",
    "Ready",
    "Refused",
    "Register",
    "Rejected",
    "Release",
    "Renew",
    "Renewed",
    "RowCommand",
    "RowReply",
    "StatusReply",
    "StatusRequest",
    "SupervisorOrder",
    "UnknownWorker",
    "Unregister",
    "Welcome",
    "WorkerLost",
    "admin_address",
    "check_may_serve",
    "check_protocol",
    "connect_to_broker",
    "decode",
    "default_address",
    "encode",
    "from_frames",
    "is_served",
    "key_folder",
    "keys_for",
    "log_to_stderr",
    "pack",
    "receive_frames",
    "receive_from_broker",
    "runtime_directory",
    "send_frames",
    "step_frames",
    "to_frames",
    "unpack",
]

_STEP_MARK: Final = bytes([step_frames.MARK])


def encode(message: Message) -> bytes:
    """The header frame of a message."""
    getters = _FIELD_NAMES[type(message)]
    return cast(bytes, msgpack.packb([message.kind, *[getattr(message, name) for name in getters]]))


def decode(header: bytes) -> Message:
    """The message of a header frame.

    Raises:
        ProtocolError: too large, not msgpack, an unknown kind, or a field of the wrong type.
    """
    if len(header) > MAX_HEADER_BYTES:
        raise ProtocolError(f"expected a header of at most {MAX_HEADER_BYTES} bytes, found {len(header)}")
    try:
        parts = msgpack.unpackb(
            header,
            max_array_len=MAX_ROWS,
            max_map_len=MAX_ID_BYTES,
            max_str_len=MAX_TEXT_BYTES,
            max_bin_len=MAX_ID_BYTES,
            max_ext_len=0,
        )
    except Exception as error:  # msgpack raises its own types, ValueError and RecursionError alike
        raise ProtocolError(f"expected a msgpack header, found {len(header)} bytes that are not one: {error}") from None
    if not isinstance(parts, list) or not parts or not isinstance(parts[0], str) or parts[0] not in KINDS:
        raise ProtocolError(f"expected [kind, ...] with a kind of protocol {PROTOCOL}, found {reprlib.repr(parts)}")
    message_type = KINDS[parts[0]]
    checks = _FIELD_CHECKS[message_type]
    if len(parts) - 1 != len(checks):
        raise ProtocolError(
            f"expected {len(checks)} fields in {parts[0]!r} of protocol {PROTOCOL}, found {len(parts) - 1}; "
            "install the same zmqcarla release on client, broker and workers"
        )
    return message_type(*[check(value) for check, value in zip(checks, parts[1:], strict=True)])


def to_frames(message: Message, payloads: Sequence[bytes] = ()) -> list[bytes]:
    """The frames of a message."""
    compact = step_frames.compact(message, payloads)
    return [encode(message), *payloads] if compact is None else [compact]


def from_frames(frames: Sequence[bytes]) -> tuple[Message, Sequence[bytes]]:
    """The message in some frames, and its payloads.

    Raises:
        ProtocolError: too many frames, one that is too large, or a header that `decode` does not take.
    """
    check_frames(frames)
    if frames[0][:1] != _STEP_MARK:
        return decode(frames[0]), frames[1:]
    if len(frames) != 1:
        raise ProtocolError(f"expected one frame about steps, found {len(frames)}")
    return step_frames.expand(frames[0])


def check_protocol(theirs: int, peer: str) -> None:
    """Raise ProtocolVersionError, saying which side to upgrade, unless `theirs` is ours."""
    if theirs != PROTOCOL:
        older = f"the {peer}" if theirs < PROTOCOL else "this broker"
        raise ProtocolVersionError(
            f"the {peer} speaks protocol {theirs}, the broker speaks {PROTOCOL}: upgrade zmqcarla on {older}'s side"
        )


def check_frames(frames: Sequence[bytes]) -> None:
    """Raise ProtocolError when there are too many frames or one is too large."""
    if not 1 <= len(frames) <= MAX_FRAMES:
        raise ProtocolError(f"expected 1 to {MAX_FRAMES} frames, found {len(frames)}")
    for frame in frames[1:]:
        if len(frame) > MAX_PAYLOAD_BYTES:
            raise ProtocolError(f"expected payloads of at most {MAX_PAYLOAD_BYTES} bytes, found {len(frame)}")


# --- schema ---


def _field_check(annotation: Any, where: str) -> Callable[[Any], Any]:
    """A function that returns the value in the form of `annotation` or raises ProtocolError."""
    origin = get_origin(annotation)
    if origin in (types.UnionType, Union):
        (inner,) = [part for part in get_args(annotation) if part is not type(None)]
        check_inner = _field_check(inner, where)
        return lambda value: None if value is None else check_inner(value)
    if origin is tuple:
        check_item = _field_check(get_args(annotation)[0], where)

        def check_tuple(value: Any) -> tuple[Any, ...]:
            if type(value) is not list:
                raise ProtocolError(f"expected a list in {where}, found {type(value).__name__}")
            return tuple([check_item(item) for item in value])

        return check_tuple

    if annotation is int:
        return functools.partial(_check_int, where)
    if annotation is float:
        return functools.partial(_check_float, where)

    def check_exact(value: Any) -> Any:
        if type(value) is annotation:  # of a size that `decode` has seen to
            return value
        raise ProtocolError(f"expected {annotation.__name__} in {where}, found {type(value).__name__}")

    return check_exact


def _check_int(where: str, value: Any) -> int:
    if type(value) is int and value <= MAX_INT:
        return value
    raise ProtocolError(f"expected an int of 64 bits with a sign in {where}, found {reprlib.repr(value)}")


def _check_float(where: str, value: Any) -> float:
    if type(value) in (float, int) and math.isfinite(value):
        return float(value)
    raise ProtocolError(f"expected a finite number in {where}, found {reprlib.repr(value)}")


_FIELD_NAMES: Final = {kind: tuple(field.name for field in dataclasses.fields(kind)) for kind in KINDS.values()}
_FIELD_CHECKS: Final = {
    kind: tuple(_field_check(typing.get_type_hints(kind)[name], f"{kind.kind}.{name}") for name in _FIELD_NAMES[kind])
    for kind in KINDS.values()
}
