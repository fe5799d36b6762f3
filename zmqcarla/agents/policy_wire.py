"""The questions of an agent in the Leaderboard's evaluator to a policy in another process of this machine.

A message is: the token, a msgpack map, and the bytes of each array. The map's "arrays" say what they are, as
[name, dtype, shape]. An answer has no token.

    {"ask": "setup", "plan": Plan}                  ->  {"sensors": [dict, ...], "track": str}
    {"ask": "step", "time_s": float, "frames": {id: int}, "plain": {id: value}}, camera and lidar data as arrays
                                                    ->  {"control": [steer, throttle, brake]}
    {"ask": "end"}                                  ->  {}
    any of them                                     ->  {"error": traceback}

A Plan is {"gps": [[lat, lon, z], ...], "world": [[x, y, z, pitch, yaw, roll], ...], "options": [int, ...]}. The address
is an abstract one of Linux, which leaves no file when its owner is killed; the token, 32 random bytes that stand in a
file only the user can read, keeps other users of the machine out.

This file is also loaded alone, in an interpreter that has nothing of ours: it needs pyzmq, msgpack and numpy only.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgpack
import numpy as np
import zmq

POLICY: Final = "ZMQCARLA_POLICY"
"""Variable that names the file of `write_place`, where the evaluator is given no configuration."""
MAX_BYTES: Final = 256 << 20
"""Of one frame of a message: 8 cameras of 4 megapixels have room."""
MAX_ARRAYS: Final = 64
_KINDS: Final = frozenset({"uint8", "float32", "float64", "int32", "int64"})


class WireError(ValueError):
    """Something that is not a message of this form."""


def pack(header: Mapping[str, Any], arrays: Mapping[str, Any]) -> list[Any]:
    """Return the frames of a message; arrays are not copied.

    Raises:
        WireError: an array is of a kind that does not travel.
    """
    whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    for name, array in whole.items():
        if array.dtype.name not in _KINDS:
            raise WireError(f"expected {name} as an array of {', '.join(sorted(_KINDS))}, found {array.dtype}")
    described = [[name, array.dtype.name, list(array.shape)] for name, array in whole.items()]
    return [msgpack.packb({**header, "arrays": described}), *(array.reshape(-1).data for array in whole.values())]


def unpack(frames: Sequence[bytes]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the map and the arrays, which are copies that may be written to.

    Raises:
        WireError: the frames are not of this form.
    """
    if not 1 <= len(frames) <= 1 + MAX_ARRAYS:
        raise WireError(f"expected 1 to {1 + MAX_ARRAYS} frames, found {len(frames)}")
    try:
        header = msgpack.unpackb(frames[0], max_str_len=64 << 20, max_array_len=1 << 20, max_map_len=1 << 12)
    except (ValueError, msgpack.exceptions.ExtraData) as error:
        raise WireError(f"expected msgpack, found {error}") from None
    if not isinstance(header, dict) or not isinstance(header.get("arrays"), list):
        raise WireError("expected a map with arrays")
    described = header.pop("arrays")
    if len(described) != len(frames) - 1:
        raise WireError(f"expected {len(described)} arrays, found {len(frames) - 1}")
    return header, dict(_array(each, frame) for each, frame in zip(described, frames[1:], strict=True))


def _array(described: Any, frame: bytes) -> tuple[str, Any]:
    match described:
        case [str(name), str(kind), [*shape]] if kind in _KINDS and all(type(n) is int and n >= 0 for n in shape):
            expected = math.prod(shape) * np.dtype(kind).itemsize
            if len(frame) != expected:
                raise WireError(f"expected {expected} bytes of {name}, found {len(frame)}")
            return name, np.frombuffer(frame, kind).reshape(shape).copy()
        case _:
            raise WireError(f"expected [name, dtype, shape], found {described!r}")


def write_place(path: Path, address: str, token: bytes) -> None:
    """Write where the policy listens, readable for this user only."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        json.dump({"address": address, "token": token.hex()}, file)


class PolicyClient:
    """Asks the policy; every answer has a timeout.

    Args:
        path: of the file that the server has written.
        timeout_s: for one answer.

    Raises:
        WireError: the file is not there or is another one.
    """

    def __init__(self, path: str | Path, timeout_s: float = 120.0) -> None:
        self._timeout_s = timeout_s
        try:
            place = json.loads(Path(path).read_text(encoding="utf-8"))
            address, self._token = str(place["address"]), bytes.fromhex(place["token"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise WireError(
                f"expected the file that PolicyServer.write_config wrote at {path}, found {error!r}; name it by the "
                f"evaluator's --agent-config or the variable {POLICY}"
            ) from error
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.REQ)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_BYTES)
        self._socket.connect(address)

    def ask(self, question: Mapping[str, Any], arrays: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Ask and return the answer.

        Raises:
            TimeoutError: none came; ask no more.
            RuntimeError: the policy raised; the text is its traceback.
        """
        self._socket.send_multipart([self._token, *pack(question, arrays or {})], copy=False)
        if not self._socket.poll(round(1000 * self._timeout_s)):
            self.close()
            raise TimeoutError(
                f"expected an answer to {question['ask']!r} from the policy within {self._timeout_s:g} s, found none; "
                "look at the process of the PolicyServer"
            )
        answer, _ = unpack(self._socket.recv_multipart())
        if "error" in answer:
            raise RuntimeError(f"the policy raised\n{answer['error']}")
        return answer

    def close(self) -> None:
        """Let go of the socket; a second call does nothing."""
        self._socket.close(0)


class Questions:
    """What an agent of the Leaderboard asks, in its own forms.

    Args:
        client: closed by `end`.
    """

    def __init__(self, client: PolicyClient) -> None:
        self._client = client

    def set_up(self, plan: Mapping[str, Any]) -> tuple[list[dict[str, Any]], str]:
        """Tell the plan; return the sensors and the track."""
        answer = self._client.ask({"ask": "setup", "plan": dict(plan)})
        return list(answer["sensors"]), str(answer["track"])

    def step(self, input_data: Mapping[str, tuple[int, Any]], time_s: float) -> tuple[float, float, float]:
        """Tell what the sensors say, {id: (frame, value)}; return steer, throttle and brake."""
        arrays = {name: value for name, (_, value) in input_data.items() if isinstance(value, np.ndarray)}
        plain = {name: _plain(value) for name, (_, value) in input_data.items() if name not in arrays}
        frames = {name: int(frame) for name, (frame, _) in input_data.items()}
        question = {"ask": "step", "time_s": float(time_s), "frames": frames, "plain": plain}
        steer, throttle, brake = self._client.ask(question, arrays)["control"]
        return float(steer), float(throttle), float(brake)

    def end(self) -> None:
        """Say that the route is over."""
        try:
            self._client.ask({"ask": "end"})
        finally:
            self._client.close()


def _plain(value: Any) -> Any:
    """A speed is a number of numpy's, which msgpack does not know."""
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    return value.item() if isinstance(value, np.generic) else value
