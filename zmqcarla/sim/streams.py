"""Streams: one TCP connection per subscription, over which measurements flow to the client.

Raw non-blocking sockets instead of asyncio transports, because an image goes out as header and pixels in one sendmsg
without being joined, and because what the kernel does not take must be copied before the pixels' buffer is reused.
"""

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Callable, Sequence

from zmqcarla.sim import wire

Part = bytes | memoryview

log = logging.getLogger("zmqcarla.sim")

# How long a tick waits for a subscription that a client has just asked the token of.
SUBSCRIPTION_GRACE_S = 0.3
# What waits for one slow reader, and for all of them; while it is more, they miss messages.
_BACKLOG_BYTES = 64 * 2**20
_ALL_BACKLOGS_BYTES = 512 * 2**20


class Subscriber:
    """One accepted stream connection."""

    def __init__(self, board: "StreamBoard", sock: socket.socket, loop: asyncio.AbstractEventLoop) -> None:
        self._board = board
        self._sock = sock
        self._loop = loop
        self._request = b""
        self._backlog = bytearray()
        self._closed = False
        self._missing = False
        self.stream_id = 0
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * 2**20)
        loop.add_reader(sock.fileno(), self._on_readable)

    def _on_readable(self) -> None:
        try:
            chunk = self._sock.recv(4096)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            chunk = b""
        if not chunk:
            self.close()
            return
        if self.stream_id:
            return  # the client sends nothing after its request; tolerate it
        self._request += chunk
        if len(self._request) >= wire.SUBSCRIPTION.size:
            (self.stream_id,) = wire.SUBSCRIPTION.unpack_from(self._request)
            self._board.joined(self)

    def send(self, parts: Sequence[Part], lossless: bool) -> None:
        """Send one message.

        Args:
            parts: its bytes; may be reused as soon as this returns.
            lossless: queue it when the connection is busy, as long as it is not far behind; else it misses it.
        """
        if self._closed:
            return
        if self._backlog:
            if not lossless:
                return
            if len(self._backlog) > _BACKLOG_BYTES or self._board.backlog_bytes > _ALL_BACKLOGS_BYTES:
                self._miss()
                return
            for part in parts:
                self._backlog += part
                self._board.backlog_bytes += len(part)
            return
        try:
            sent = self._sock.sendmsg(parts)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            self.close()
            return
        for part in parts:
            size = len(part)
            if sent < size:
                self._backlog += part[sent:]
            sent = max(0, sent - size)
        if self._backlog:
            self._board.backlog_bytes += len(self._backlog)
            self._loop.add_writer(self._sock.fileno(), self._on_writable)

    def tear(self, parts: Sequence[Part]) -> None:
        """Send half of a message and close the connection."""
        message = b"".join(parts)
        with contextlib.suppress(OSError):
            self._sock.send(message[: len(message) // 2])
        self.close()

    def _miss(self) -> None:
        """Let a message go that there is no room for; tell of the first until the reader has caught up."""
        if not self._missing:
            log.warning(
                "stream %d: a reader is %d bytes behind and misses messages", self.stream_id, len(self._backlog)
            )
            self._missing = True

    def _on_writable(self) -> None:
        try:
            sent = self._sock.send(self._backlog)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.close()
            return
        del self._backlog[:sent]
        self._board.backlog_bytes -= sent
        if not self._backlog:
            self._missing = False
            self._loop.remove_writer(self._sock.fileno())

    def close(self) -> None:
        """Close the connection and forget it."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._sock.fileno())
        self._loop.remove_writer(self._sock.fileno())
        self._sock.close()
        self._board.backlog_bytes -= len(self._backlog)
        self._board.left(self)


class StreamBoard:
    """All streams by id, and who listens to them.

    Args:
        port: streaming port, as written into tokens.

    Attributes:
        on_joined: called with a subscriber that has said which stream it wants.
        on_none_pending: called when no announced subscription is outstanding any more.
        most_connections: how many there may be.
        backlog_bytes: what waits for slow readers.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self._next_id = wire.OBSERVER_STREAM_ID + 1
        self._listeners: dict[int, list[Subscriber]] = {}
        self._aside: list[Subscriber] = []
        self._connections: set[Subscriber] = set()
        self._pending: dict[int, float] = {}
        self._server: socket.socket | None = None
        self.most_connections = 1000
        self.backlog_bytes = 0
        self._tears = False
        self.on_joined: Callable[[Subscriber], None] = lambda _subscriber: None
        self.on_none_pending: Callable[[], None] = lambda: None

    def new_stream(self) -> int:
        """A stream id that was never used."""
        self._next_id += 1
        return self._next_id - 1

    def token(self, stream_id: int) -> bytes:
        """Token of a stream."""
        return wire.token(stream_id, self.port)

    def serve(self, server: socket.socket, loop: asyncio.AbstractEventLoop) -> None:
        """Accept subscribers on a listening socket until `close`."""
        self._server = server
        self._loop = loop
        server.setblocking(False)
        loop.add_reader(server.fileno(), self._on_connection)

    def _on_connection(self) -> None:
        assert self._server is not None
        try:
            sock, _ = self._server.accept()
        except OSError as error:
            log.debug("accept: %s", error)
            return
        if len(self._connections) >= self.most_connections:
            log.warning(
                "a stream refused: there are %d, and open files for no more; raise `ulimit -n`", len(self._connections)
            )
            sock.close()
            return
        self._connections.add(Subscriber(self, sock, self._loop))

    def joined(self, subscriber: Subscriber) -> None:
        """A connection has named its stream."""
        self._listeners.setdefault(subscriber.stream_id, []).append(subscriber)
        self.on_joined(subscriber)
        if self._pending.pop(subscriber.stream_id, None) is not None and not self._pending:
            self.on_none_pending()

    def left(self, subscriber: Subscriber) -> None:
        """A connection was closed."""
        self._connections.discard(subscriber)
        listeners = self._listeners.get(subscriber.stream_id)
        if listeners and subscriber in listeners:
            listeners.remove(subscriber)
            if not listeners:
                del self._listeners[subscriber.stream_id]
        if subscriber in self._aside:
            self._aside.remove(subscriber)

    def set_aside(self, stream_id: int) -> None:
        """Let those who listen now hear nothing until `bring_back`; who joins from now on is served."""
        self._aside += self._listeners.pop(stream_id, [])

    def bring_back(self, parts: Sequence[Part]) -> None:
        """Serve those set aside again, who have stayed, with a message first."""
        back, self._aside = self._aside, []
        for subscriber in back:
            self._listeners.setdefault(subscriber.stream_id, []).append(subscriber)
            subscriber.send(parts, lossless=True)

    def announce(self, stream_id: int) -> None:
        """A client has asked for a token and will subscribe at once."""
        if stream_id != wire.OBSERVER_STREAM_ID:
            self._pending[stream_id] = time.monotonic() + SUBSCRIPTION_GRACE_S

    def pending_s(self) -> float:
        """How long a tick should still wait for announced subscriptions."""
        if not self._pending:
            return 0.0
        now = time.monotonic()
        self._pending = {key: until for key, until in self._pending.items() if until > now}
        return max(self._pending.values(), default=now) - now

    def wanted(self, stream_id: int) -> bool:
        """Whether anybody listens to a stream."""
        return stream_id in self._listeners

    def publish(self, stream_id: int, parts: Sequence[Part], lossless: bool) -> None:
        """Send one message to all who listen; see `Subscriber.send`."""
        for subscriber in tuple(self._listeners.get(stream_id, ())):
            if self._tears:
                subscriber.tear(parts)
            else:
                subscriber.send(parts, lossless)

    def tear(self, tears: bool) -> None:
        """Whether what is published from now on is torn: half of it goes out, then the connection is closed."""
        self._tears = tears

    def close(self) -> None:
        """Close the listening socket and every connection."""
        if self._server is not None:
            self._loop.remove_reader(self._server.fileno())
            self._server.close()
        for subscriber in tuple(self._connections):
            subscriber.close()
