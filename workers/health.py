"""Does the server of an idle worker still answer? Asked from outside, without the carla client, and never waited for.

A step that hangs is cut by its time limit; but a worker that nobody steps would offer a dead server to the next lease.
So the supervisor asks it now and then for its version, in CARLA's own msgpack-rpc: `[0, id, "version", []]` is answered
by `[1, id, nil, ...]`. The kernel accepts connections for a stopped process too; only an answer shows life.
"""

from __future__ import annotations

import contextlib
import socket
from typing import Any, Final, cast

import msgpack

INTERVAL_S: Final = 5.0
"""Between two questions to a worker that idles."""
_REQUEST: Final = cast(bytes, msgpack.packb([0, 1, "version", []]))
_RESPONSE: Final = 1


class ServerProbe:
    """One question at a time; `look` is called often and never blocks.

    Args:
        timeout_s: a server that is silent for longer does not live.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._socket: socket.socket | None = None
        self._asked_at = 0.0
        self._due_at: float | None = None

    def look(self, port: int, now: float) -> float:
        """Ask when it is due, and take the answer when it is there.

        Args:
            port: of the server, on this host.
            now: the time.

        Returns:
            For how long the server has not answered, when that is too long; else 0.
        """
        if self._socket is None:
            self._due_at = now + INTERVAL_S if self._due_at is None else self._due_at
            if now >= self._due_at:
                self._ask(port, now)
            return 0.0
        if self._answered():
            self.forget()
            return 0.0
        silent_s = now - self._asked_at
        return silent_s if silent_s > self._timeout_s else 0.0

    def forget(self) -> None:
        """Drop the question; the next one comes an interval later."""
        if self._socket is not None:
            self._socket.close()
        self._socket, self._due_at = None, None

    def _ask(self, port: int, now: float) -> None:
        self._asked_at = now
        self._socket = socket.socket()
        # A connection that is refused shows no process here; its end is seen by itself, and the answer does not come.
        with contextlib.suppress(OSError):
            self._socket.settimeout(0.05)
            self._socket.connect(("127.0.0.1", port))
            self._socket.sendall(_REQUEST)
        self._socket.setblocking(False)

    def _answered(self) -> bool:
        assert self._socket is not None
        try:
            answer = self._socket.recv(4096)
        except OSError:
            return False
        try:
            unpacker: Any = msgpack.Unpacker()
            unpacker.feed(answer)
            parts: Any = next(unpacker, None)
        except (ValueError, msgpack.UnpackException):
            return False
        return isinstance(parts, list) and len(parts) == 4 and parts[0] == _RESPONSE
