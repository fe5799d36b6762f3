"""Random and mutated messages of the bus, the same ones for the same seed."""

from __future__ import annotations

import dataclasses
import random
import struct
import typing
from collections.abc import Sequence
from typing import Any

import msgpack
import numpy as np

from zmqcarla.broker import protocol as p

NUMBERS = (-1, 0, 1, 2, 3, 255, 65536, -(2**31), 2**31, 2**53, 2**63 - 1, -(2**63), 2**64 - 1)
FLOATS = (0.0, 1.0, 30.0, -1.0, 1e300, float("nan"), float("inf"), -float("inf"))
TEXTS = ("", "embedded", "none", "carla", "soak_envs:Soak-v0", "*", "zmqcarla/*", "\0", "x" * 300, "é", "ok", "lost")
_LIKELY: dict[str, Any] = {
    "protocol": p.PROTOCOL,
    "num_envs": 1,
    "timeout_s": 30.0,
    "ttl_s": 30.0,
    "env_id": "soak_envs:Soak-v0",
    "simulator": "none",
    "gpu": None,
    "rows": 0,
    "row": 0,
}
METHODS = ("render", "spec", "np_random", "unwrapped.spec", "__class__", "close", "no_such_thing", "")


class Fuzzer:
    """Makes messages.

    Args:
        seed: of everything that is chosen.
        lease_ids: that are in use.
        worker_ids: the same.

    Attributes:
        rng: what chooses.
    """

    def __init__(self, seed: int, lease_ids: Sequence[bytes], worker_ids: Sequence[str]) -> None:
        self.rng = random.Random(seed)
        self._ids = [*lease_ids, b"", b"L" * 16, bytes(64)]
        self._names = [*worker_ids, "stranger", "stranger2"]
        self._kinds = [
            self._random_bytes,
            self._valid,
            self._mutated,
            self._mutated,
            self._bomb,
            self._frames,
            self._steps,
        ]

    def learn(self, lease_id: bytes) -> None:
        """Use the id of a lease that was granted to us."""
        self._ids.append(lease_id)

    def message(self) -> list[bytes]:
        """The frames of one message."""
        return self.rng.choice(self._kinds)()

    def _random_bytes(self) -> list[bytes]:
        return [self.rng.randbytes(self.rng.randrange(200)) for _ in range(self.rng.randrange(1, 4))]

    def _valid(self) -> list[bytes]:
        """A message of the right form, whose values are chosen to hurt."""
        kind = self.rng.choice(list(p.KINDS.values()))
        hints = typing.get_type_hints(kind)
        values = [self._value(hints[field.name], field.name) for field in dataclasses.fields(kind)]
        rows = next((len(value) for value in values if isinstance(value, list)), 1)
        header = typing.cast(bytes, msgpack.packb([kind.kind, *values]))
        return [header, *[self._payload() for _ in range(self.rng.choice([rows, rows, 0, 1, 2]))]]

    def _value(self, hint: Any, name: str) -> Any:
        choose = self.rng.choice
        if typing.get_origin(hint) is tuple:
            return [self._value(typing.get_args(hint)[0], name) for _ in range(choose([0, 1, 1, 2, 3, 40]))]
        if type(None) in typing.get_args(hint):
            return choose([None, self._value(typing.get_args(hint)[0], name)])
        if name in _LIKELY and choose([True, True, False]):
            return _LIKELY[name]
        if name in ("ops", "op"):
            return choose([*sorted(p.OPS), "nothing"])
        if hint is str:
            return choose(self._names if name.startswith("worker") else TEXTS)
        values: dict[Any, Any] = {bytes: self._ids, int: NUMBERS, float: FLOATS, bool: (True, False)}
        return choose(values[hint])

    def _payload(self) -> bytes:
        choose = self.rng.choice
        values: list[Any] = [
            None,
            [0, np.zeros(1)],
            [choose(NUMBERS[:6]), [1, "x"]],
            {"env_id": choose(TEXTS), "kwargs": {"row": 0, "length": 5}, "autoreset": choose(TEXTS)},
            {"slot": choose(NUMBERS[:6]), "seed": choose([None, *NUMBERS]), "options": choose([None, 1, {}])},
            {"arena": choose(["/zmqcarla-0-arena-0", "/etc", "", None]), "board": None, "num_envs": 1, "slots": 2},
            {"name": choose(METHODS), "args": choose([[], [1], None]), "kwargs": choose([{}, {"x": 1}, 3])},
            {"name": choose(METHODS), "value": 1},
        ]
        packed = p.pack(choose(values))
        return choose([packed, packed, self._damage(packed), self.rng.randbytes(20), b""])

    def _steps(self) -> list[bytes]:
        """A frame about steps with values that are chosen to hurt, whole or damaged."""
        choose = self.rng.choice
        count = choose([0, 1, 1, 2, 3])
        payloads = [choose([b"\xc1" + self.rng.randbytes(choose([0, 4, 12])), self._payload()]) for _ in range(count)]
        rows = [choose([0, 0, 1, 2, 2**32 - 1]) for _ in range(count)]
        sizes = [choose([len(payload), len(payload), 0, 2**32 - 1]) for payload in payloads]
        kind, number = choose([(1, count), (2, 0), (3, 0), (4, count), (9, 0), (1, 2**32 - 1)])
        lease_id = choose(self._ids)[:16].ljust(16, b"\0")
        head = struct.pack("<BB16sIq", 0xC1, kind, lease_id, number, choose(NUMBERS[:-1]))
        columns = struct.pack(f"<{2 * count}I", *rows, *sizes) if kind in (1, 4) else b""
        frame = b"".join([head, columns, *payloads])
        return choose([[frame], [frame], [self._damage(frame)], [frame, b""]])

    def _mutated(self) -> list[bytes]:
        frames = self._valid()
        index = self.rng.randrange(len(frames))
        frames[index] = self._damage(frames[index])
        return frames

    def _damage(self, frame: bytes) -> bytes:
        damaged = bytearray(frame)
        for _ in range(self.rng.choice([1, 1, 2, 8])):
            where = self.rng.randrange(len(damaged) + 1)
            match self.rng.randrange(5):
                case 0:
                    damaged[where : where + 1] = self.rng.randbytes(1)
                case 1:
                    del damaged[where:]
                case 2:
                    damaged[where:where] = self.rng.randbytes(self.rng.randrange(9))
                case 3:
                    damaged[where:where] = damaged[: self.rng.randrange(len(damaged) + 1)]
                case _:
                    del damaged[where : where + self.rng.randrange(9)]
        return bytes(damaged)

    def _bomb(self) -> list[bytes]:
        """Small on the wire, large in memory or deep on the stack, if nobody looks."""
        depth = self.rng.choice([30, 300, 1000, 1020, 5000])
        tuples: bytes = b"\x90"
        for _ in range(min(depth, 300)):
            tuples = typing.cast(bytes, msgpack.packb(msgpack.ExtType(3, tuples)))
        bombs = [
            b"\x91" * depth + b"\x90",
            b"\xdd\xff\xff\xff\xff" + bytes(depth),
            b"\xdf\xff\xff\xff\xff",
            b"\xdb\xff\xff\xff\xff",
            b"\xc6\xff\xff\xff\xff",
            b"\xdc\xff\xff" + b"\x90" * 65535,
            tuples,
            typing.cast(bytes, msgpack.packb(msgpack.ExtType(1, msgpack.packb(["<f8", [1 << 40, 1 << 40], b""])))),
            typing.cast(bytes, msgpack.packb(msgpack.ExtType(4, b"9" * 4096))),
        ]
        bomb = self.rng.choice(bombs)
        return self.rng.choice([[bomb], [*self._valid()[:1], bomb]])

    def _frames(self) -> list[bytes]:
        """An odd number of frames; now and then more than a message may have."""
        number = self.rng.choice([2, 3, 5, 17, 100])
        if self.rng.random() < 0.01:
            number = p.MAX_FRAMES + 1
        return [*self._valid()[:1], *[b""] * (number - 1)]
