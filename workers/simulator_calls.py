"""The embedded simulator's own calls, which the `carla` client does not know: one small msgpack-rpc connection.

A request is [0, number, method, [[false], arguments...]], a reply [1, number, error, result] with the result
[[1, value]] or [[0, [text]]]; values follow each other without any frame around them.
"""

from __future__ import annotations

import itertools
import socket
from typing import Any, cast

import msgpack

from zmqcarla.broker.errors import SimulatorError, SimulatorTimeoutError

_CHUNK_BYTES = 65536

Cycle = list[Any]
"""Where the lights of a junction are: number of the phase, of its stage, seconds since the stage began."""


class SimulatorCalls:
    """Calls on one embedded simulator; it connects with the first of them.

    Args:
        host: of the simulator.
        port: of its RPC socket.
        timeout_s: for an answer.
    """

    def __init__(self, host: str, port: int, timeout_s: float) -> None:
        self._address = host, port
        self._timeout_s = timeout_s
        self._numbers = itertools.count(1)
        self._socket: socket.socket | None = None

    def publish_state(self, elapsed_s: float) -> int:
        """Let the simulator show its state without a tick, at a time of the episode; return the frame it has then."""
        return int(self._call("zmqcarla_publish_state", float(elapsed_s)))

    def light_cycles(self, cycles: list[Cycle] | None = None) -> list[Cycle]:
        """Set the cycles of all junctions when there are any given; return them as they are."""
        found: list[Cycle] = self._call("zmqcarla_light_cycles", cycles or [])
        return found

    def episode_id(self) -> int:
        """Return the number of the loaded world: one of CARLA's own calls, which the client makes only as it starts."""
        return int(self._call("get_episode_info")[0])

    def close(self) -> None:
        """Close the connection; the next call opens another one."""
        connection, self._socket = self._socket, None
        if connection is not None:
            connection.close()

    def _call(self, method: str, *arguments: Any) -> Any:
        """Call and return the value.

        Raises:
            SimulatorTimeoutError: no answer in time.
            SimulatorError: the connection broke, or the simulator refused.
        """
        where = f"{method} from the simulator at {self._address[0]}:{self._address[1]}"
        number = next(self._numbers)
        try:
            reply = self._exchange([0, number, method, [[False], *arguments]])
        except TimeoutError as error:
            self.close()
            raise SimulatorTimeoutError(
                f"expected an answer to {where} within {self._timeout_s:g} s, found none; restart it", self._timeout_s
            ) from error
        except (OSError, ValueError, msgpack.UnpackException) as error:
            self.close()
            raise SimulatorError(f"expected an answer to {where}, found {error!r}; restart it") from error
        match reply:
            case [1, answered, None, [[1, value]]] if answered == number:
                return value
            case [1, _, None, [[0, [text]]]]:
                raise SimulatorError(f"expected {where}, found {text}")
            case _:
                raise SimulatorError(f"expected {where}, found {str(reply)[:200]}; is it our embedded simulator?")

    def _exchange(self, request: list[Any]) -> Any:
        if self._socket is None:
            self._socket = socket.create_connection(self._address, self._timeout_s)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.settimeout(self._timeout_s)
        self._socket.sendall(cast("bytes", msgpack.packb(request)))
        unpacker = msgpack.Unpacker(raw=False)
        while True:
            chunk = self._socket.recv(_CHUNK_BYTES)
            if not chunk:
                raise ConnectionResetError("the connection was closed")
            unpacker.feed(chunk)
            for reply in unpacker:
                return reply
