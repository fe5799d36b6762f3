"""The server: listening sockets, one protocol object a client connection, and the process's life."""

import asyncio
import gc
import logging
import resource
import socket
import time
from collections.abc import Callable

from zmqcarla.sim.calls import METHODS
from zmqcarla.sim.faults import Faults
from zmqcarla.sim.maps import MapShelf
from zmqcarla.sim.rpc import Session, answer
from zmqcarla.sim.simulation import Simulation
from zmqcarla.sim.streams import StreamBoard
from zmqcarla.sim.traffic_managers import GRACE_S, cue_again
from zmqcarla.sim.wire import Release, Request, RequestReader, WireError
from zmqcarla.sim.world import World

# Time for the client to take in an observer message before sensor messages follow; see `Connection`.
LATE_S = 0.002
# Replies that a client has not read yet, before its further requests have to wait.
UNREAD_BYTES = 16 * 2**20
# Calls that a client makes by itself, at any time.
_UNASKED = ("get_episode_settings",)
# Open files that are not connections: maps, recordings, libraries.
_SPARE_FILES = 100
_MOST_FILES = 2**16

log = logging.getLogger("zmqcarla.sim")


class Connection(asyncio.Protocol):
    """One client connection. Requests are answered in order, but for a tick that Traffic Managers have to precede.

    That one is put off, and what the managers ask for is answered; see traffic_managers.py.

    Two things make a request wait, and all behind it. A tick waits for announced subscriptions, so that a sensor's
    first frame is not missed. And after a tick that directly follows a script's batch everything waits until the
    sensors' messages are out: that pair is what `apply_batch_sync(commands, True)` sends, which holds the client's GIL
    until the observer's message is in; a sensor message that comes earlier would block one of the client's few network
    threads in a Python callback. Traffic Managers and the pedestrians' navigation send a batch each tick too, but
    nobody holds the GIL meanwhile.
    """

    def __init__(self, server: "Server") -> None:
        self._server = server
        self._reader = RequestReader()
        self._held: Request | None = None
        self._put_off: Request | None = None
        self._patience: asyncio.TimerHandle | None = None
        self._choked = False
        self._after_batch = False
        self.session = Session(server.simulation)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        sock: socket.socket = transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        transport.set_write_buffer_limits(high=UNREAD_BYTES)
        self.session.host = transport.get_extra_info("peername")[0]
        if len(self._server.connections) >= self._server.most_connections:
            log.warning(
                "client %s refused: there are %d connections, and open files for no more; raise `ulimit -n`",
                *(self.session.host, self._server.most_connections),
            )
            transport.abort()
            return
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

    def pause_writing(self) -> None:
        """The client does not read its replies: no further request is answered, or read, until it does."""
        self._choked = True
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """The client has read its replies."""
        self._choked = False
        if not self._transport.is_closing():
            self._transport.resume_reading()
            self.data_received(b"")

    def _answer_waiting(self) -> None:
        while not self._choked:
            request = next(self._reader, None)
            if request is None:
                return
            method = METHODS.get(request.method)
            ticks = method is not None and method.ticks(request.arguments)
            if ticks and self._puts_off(request):
                continue
            if self._server.must_wait(self, ticks):
                self._held = request
                return
            self._answer(request, ticks)
            self._catch_up()

    def _puts_off(self, request: Request) -> bool:
        """Put a tick off while the client's Traffic Managers have not fetched the map of the new episode."""
        wait_s = self.session.renewal.wait_s(time.monotonic())
        if wait_s > 0.0 and self._put_off is None:
            self._put_off = request
            self._patience = asyncio.get_running_loop().call_later(wait_s, self._wait_no_more)
            return True
        return False

    def _wait_no_more(self) -> None:
        """A manager has not fetched the map for long: go on without it."""
        self.session.renewal.due = 0
        self._catch_up()

    def _catch_up(self) -> None:
        """Answer the tick that was put off, once nothing is in its way."""
        request = self._put_off
        if request is None or self.session.renewal.wait_s(time.monotonic()) > 0.0 or self._transport.is_closing():
            return
        self._forget_put_off()
        self._answer(request, ticks=True)

    def _forget_put_off(self) -> None:
        self._put_off = None
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _answer(self, request: Request, ticks: bool) -> None:
        if ticks and self.session.simulation.world.settings.synchronous:
            self._server.faults.before_tick()
        self._transport.write(answer(METHODS, self.session, request))
        if ticks:
            self._server.ticked(late=self._after_batch)
        if request.method == "apply_batch":
            self._after_batch |= self.session.scripted_batch
        elif request.method not in _UNASKED:
            self._after_batch = False

    def resume(self) -> None:
        """What the held request waited for is there, or late; or what another waited for, then it waits on."""
        request, self._held = self._held, None
        if request is None or self._transport.is_closing():
            return
        method = METHODS.get(request.method)
        ticks = method is not None and method.ticks(request.arguments)
        if self._server.must_wait(self, ticks):
            self._held = request
            return
        try:
            self._answer(request, ticks)
            self._answer_waiting()
        except WireError as error:
            log.warning("client: %s; connection closed", error)
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone."""
        self._held = None
        self._forget_put_off()
        self._server.connections.discard(self)
        self._server.departed(self.session)

    def close(self) -> None:
        """Close the connection."""
        self._transport.abort()


class Server:
    """The simulator as a process sees it.

    Args:
        simulation: what clients act on.

    Attributes:
        connections: the clients.
        most_connections: how many there may be, and as many streams.
        faults: what it does wrong when it is told to.
    """

    def __init__(self, simulation: Simulation) -> None:
        self.simulation = simulation
        self.most_connections = simulation.streams.most_connections = most_connections()
        self.faults = Faults((), simulation.streams.tear)
        self.connections: set[Connection] = set()
        self._waiting: list[Connection] = []
        self._emits_late = False
        self._orphans: set[int] = set()
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
        """A client has gone: forget its Traffic Managers; leave synchronous mode if nobody is left to tick.

        Then also what those spawned who went in that mode is destroyed.
        """
        for port in session.traffic_manager_ports:
            self.simulation.traffic_managers.pop(port, None)
        if not self.simulation.world.settings.synchronous:
            return
        self._orphans |= session.spawned
        if not self.connections:
            self.simulation.abandoned(self._orphans)
            self._orphans = set()

    async def _cue_managers(self) -> None:
        """Watch the Traffic Managers, for ever; see traffic_managers.py."""
        while True:
            await asyncio.sleep(GRACE_S / 4)
            for session in [connection.session for connection in self.connections]:
                # with several managers in one client nobody can tell which one hangs
                if len(session.traffic_manager_ports) != 1 or not session.cues.stuck(time.monotonic()):
                    continue
                session.cues.cured = session.cues.ticked
                await cue_again(session.host, next(iter(session.traffic_manager_ports)))

    async def serve(
        self, rpc: socket.socket, streaming: socket.socket, ready: Callable[[Callable[[], object]], None]
    ) -> None:
        """Serve until told to stop.

        Args:
            rpc: listening socket for calls.
            streaming: listening socket for streams.
            ready: called once clients are served, with what stops the server; that may be called from a signal.
        """
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        self.simulation.streams.serve(streaming, loop)
        listener = await loop.create_server(lambda: Connection(self), sock=rpc)
        self.simulation.step()
        running = [loop.create_task(self.simulation.run_freely()), loop.create_task(self._cue_managers())]
        gc.collect()
        gc.freeze()
        stopped = loop.create_task(stop.wait())
        ready(lambda: None if loop.is_closed() else loop.call_soon_threadsafe(stop.set))
        try:
            done, _ = await asyncio.wait((*running, stopped), return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in (*running, stopped):
                task.cancel()
            listener.close()
            self.simulation.tape.stop()
            for connection in tuple(self.connections):
                connection.close()
            self.simulation.streams.close()


def most_connections() -> int:
    """How many clients, and how many streams, this process has open files for; it asks for as many as it may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < files:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    return max(1, (files - _SPARE_FILES) // 2)


def build(maps: MapShelf, world: World, streaming_port: int, release: Release) -> Server:
    """A server of a world; it listens once `Server.serve` runs."""
    return Server(Simulation(world, StreamBoard(streaming_port), maps, release))
