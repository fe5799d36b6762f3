"""The server: listening sockets, one protocol object a client connection, and the process's life."""

import asyncio
import gc
import logging
import signal
import socket

from zmqcarla.sim.calls import METHODS
from zmqcarla.sim.roads import RoadMap
from zmqcarla.sim.rpc import Method, Session, answer
from zmqcarla.sim.simulation import Simulation
from zmqcarla.sim.streams import StreamBoard
from zmqcarla.sim.wire import Request, RequestReader, WireError
from zmqcarla.sim.world import World

# Time for the client to take in an observer message before sensor messages follow; see `Connection`.
LATE_S = 0.002

log = logging.getLogger("zmqcarla.sim")


class Connection(asyncio.Protocol):
    """One client connection. Requests are answered in order.

    Two things make a request wait. A tick waits for announced subscriptions, so that a sensor's first frame is not
    missed. And after a tick that directly follows a batch everything waits until the sensors' messages are out: that
    pair is what `apply_batch_sync(commands, True)` sends, which holds the client's GIL until the observer's message is
    in; a sensor message that comes earlier would block one of the client's few network threads in a Python callback.
    """

    def __init__(self, server: "Server") -> None:
        self._server = server
        self._reader = RequestReader()
        self._held: Request | None = None
        self._after_batch = False
        self.session = Session(server.simulation)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        sock: socket.socket = transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._server.connections.add(self)

    def data_received(self, data: bytes) -> None:
        """Answer what has arrived whole."""
        try:
            self._reader.feed(data)
            if self._held is None:
                self._answer_waiting()
        except WireError as error:
            log.warning("client %s: %s; connection closed", self._transport.get_extra_info("peername"), error)
            self._transport.close()

    def _answer_waiting(self) -> None:
        for request in self._reader:
            method = METHODS.get(request.method)
            ticks = method is not None and method.ticks(request.arguments)
            if self._server.must_wait(self, ticks):
                self._held = request
                return
            self._answer(request, ticks)

    def _answer(self, request: Request, ticks: bool) -> None:
        self._transport.write(answer(METHODS, self.session, request))
        if ticks:
            self._server.ticked(late=self._after_batch)
        self._after_batch = request.method == "apply_batch"

    def resume(self) -> None:
        """What the held request waited for is there, or late."""
        request, self._held = self._held, None
        if request is None or self._transport.is_closing():
            return
        method = METHODS.get(request.method)
        try:
            self._answer(request, method is not None and method.ticks(request.arguments))
            self._answer_waiting()
        except WireError as error:
            log.warning("client: %s; connection closed", error)
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone."""
        self._held = None
        self._server.connections.discard(self)
        self._server.departed(self.session)

    def close(self) -> None:
        """Close the connection."""
        self._transport.abort()


class Server:
    """The simulator as a process sees it.

    Args:
        simulation: what clients act on.
    """

    def __init__(self, simulation: Simulation) -> None:
        self.simulation = simulation
        self.connections: set[Connection] = set()
        self._waiting: list[Connection] = []
        self._emits_late = False
        simulation.streams.on_none_pending = self._resume_all

    def must_wait(self, connection: Connection, ticks: bool) -> bool:
        """Whether a request has to wait; if so, the connection is resumed in time."""
        if self._emits_late:
            self._waiting.append(connection)
            return True
        wait_s = self.simulation.streams.pending_s() if ticks else 0.0
        if wait_s > 0.0:
            self._waiting.append(connection)
            asyncio.get_running_loop().call_later(wait_s, self._resume_all)
            return True
        return False

    def ticked(self, late: bool) -> None:
        """The world was ticked and the reply is out: let the sensors measure, now or a little later."""
        if late and self.simulation.world.roster.sensors:
            self._emits_late = True
            asyncio.get_running_loop().call_later(LATE_S, self._emit_late)
        else:
            self.simulation.emit()

    def _emit_late(self) -> None:
        self._emits_late = False
        self.simulation.emit()
        self._resume_all()

    def _resume_all(self) -> None:
        waiting, self._waiting = self._waiting, []
        for connection in waiting:
            connection.resume()

    def departed(self, session: Session) -> None:
        """A client has gone: forget its Traffic Managers; leave synchronous mode if nobody is left to tick."""
        for port in session.traffic_manager_ports:
            self.simulation.traffic_managers.pop(port, None)
        if session.made_synchronous and not self.connections and self.simulation.world.settings.synchronous:
            self.simulation.abandoned(session.spawned)

    async def serve(self, rpc: socket.socket, streaming: socket.socket) -> None:
        """Serve until SIGTERM or SIGINT.

        Args:
            rpc: listening socket for calls.
            streaming: listening socket for streams.
        """
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        self.simulation.streams.serve(streaming, loop)
        listener = await loop.create_server(lambda: Connection(self), sock=rpc)
        self.simulation.step()
        free = loop.create_task(self.simulation.run_freely())
        gc.collect()
        gc.freeze()
        stopped = loop.create_task(stop.wait())
        try:
            await asyncio.wait((free, stopped), return_when=asyncio.FIRST_COMPLETED)
            if free.done():
                free.result()
        finally:
            free.cancel()
            stopped.cancel()
            listener.close()
            for connection in tuple(self.connections):
                connection.close()
            self.simulation.streams.close()


def build(road_map: RoadMap, streaming_port: int, seed: int) -> Server:
    """A server for a map; it listens once `Server.serve` runs."""
    return Server(Simulation(World(road_map, seed), StreamBoard(streaming_port)))


__all__ = ["Connection", "Method", "Server", "build"]
