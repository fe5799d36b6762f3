"""A supervisor's side of the conversation with the broker: register, heartbeat, report; it never blocks.

ZMQ_IMMEDIATE is on: without a broker nothing piles up. Registrations and heartbeats are simply repeated; reports of a
death, which are told once, wait in a queue of our own.
"""

from __future__ import annotations

import collections
import logging
import math
from collections.abc import Callable, Sequence
from typing import Final

import zmq

from zmqcarla.broker import protocol
from zmqcarla.broker.errors import ProtocolError
from zmqcarla.workers.vitals import Vitals

_LOG = logging.getLogger(__name__)

_HEARTBEAT_MS: Final = 2000
_HEARTBEAT_TIMEOUT_MS: Final = 10_000
_RECONNECT_MAX_MS: Final = 1000
_LAST_MESSAGES_MS: Final = 500
_COMPLAIN_AFTER_S: Final = 5.0


def dealer() -> zmq.Socket[bytes]:
    """A socket for a broker that may come, go and come back; to be connected."""
    made: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
    made.setsockopt(zmq.LINGER, 0)
    made.setsockopt(zmq.MAXMSGSIZE, protocol.MAX_PAYLOAD_BYTES)
    made.setsockopt(zmq.HEARTBEAT_IVL, _HEARTBEAT_MS)
    made.setsockopt(zmq.HEARTBEAT_TIMEOUT, _HEARTBEAT_TIMEOUT_MS)
    made.setsockopt(zmq.RECONNECT_IVL_MAX, _RECONNECT_MAX_MS)
    return made


class Caller:
    """Connects a socket to the broker, and again after the broker has refused its key: ZeroMQ itself gives up then.

    Args:
        socket: made by `dealer`.
        address: of the broker.

    Raises:
        KeysError: the address wants keys, and they are missing, or open to others.
    """

    def __init__(self, socket: zmq.Socket[bytes], address: str) -> None:
        self._socket = socket
        self._refusals: zmq.Socket[bytes] | None = None
        if protocol.keys_for(address) is not None:
            self._refusals = socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_FAILED_AUTH)
        self._endpoint = protocol.connect_to_broker(socket, address)

    def look(self) -> None:
        """Knock again if the last time was refused: the key may be on the list by now."""
        if self._refusals is not None and self._refusals.poll(0):
            self._refusals.recv_multipart()
            self._socket.disconnect(self._endpoint)
            self._socket.connect(self._endpoint)

    def close(self) -> None:
        """Stop looking; the socket stays."""
        if self._refusals is not None:
            self._socket.disable_monitor()
            self._refusals.close(linger=0)
            self._refusals = None


class BrokerLink:
    """One DEALER socket for all workers of a supervisor.

    Args:
        address: of the broker.

    Attributes:
        socket: to be polled for reading.
        sweep_wanted: a lease has ended since this was last set to False.
        orders: of an administrator; to be taken from the left.
        broker_restarts: how often another broker has answered than before.
        newly_welcomed: workers that the broker has come to know; to be emptied by the reader.
    """

    def __init__(self, address: str) -> None:
        self.sweep_wanted = False
        self.orders: collections.deque[protocol.SupervisorOrder] = collections.deque()
        self.broker_restarts = 0
        self.newly_welcomed: list[str] = []
        self._boot_id = b""
        self.socket = dealer()
        self.socket.setsockopt(zmq.IMMEDIATE, 1)
        self._caller = Caller(self.socket, address)
        self._address = address
        self._complain_at: float | None = None
        self._sent: dict[str, protocol.Register] = {}
        self._welcomed: dict[str, protocol.Register] = {}
        self._reports: collections.deque[protocol.Message] = collections.deque()
        self._due_at = 0.0
        self._rejection = ""

    def report(self, message: protocol.WorkerLost | protocol.Unregister) -> None:
        """Send, now or when the broker is back."""
        if isinstance(message, protocol.Unregister):
            self.forget(message.worker_id)
        self._reports.append(message)
        self._flush()

    def forget(self, worker_id: str) -> None:
        """Register the worker anew, if it is still offered."""
        self._sent.pop(worker_id, None)
        self._welcomed.pop(worker_id, None)

    def tick(self, offers: Sequence[protocol.Register], now: float, vitals_of: Callable[[str], Vitals]) -> None:
        """Send what is due: heartbeats and unanswered registrations once per HEARTBEAT_S, new ones at once.

        Args:
            offers: the workers.
            now: the time.
            vitals_of: tells how the worker of an id does; asked when a heartbeat is due.
        """
        self._complain(offers, now)
        self._caller.look()
        if not self._flush():
            return
        due = now >= self._due_at
        for offer in offers:
            known = self._sent if not due else self._welcomed
            if known.get(offer.worker_id) != offer and self._send(offer):
                self._sent[offer.worker_id] = offer
        if due:
            known_ids = tuple([offer.worker_id for offer in offers if offer.worker_id in self._welcomed])
            vitals = [vitals_of(worker_id) for worker_id in known_ids]
            tick_ms, render_ms, observe_ms = (
                zip(*[one.parts_ms for one in vitals], strict=True) if vitals else ((),) * 3
            )
            beat = protocol.Heartbeat(
                known_ids,
                tuple([one.phase for one in vitals]),
                tuple([one.steps for one in vitals]),
                tuple([one.restarts for one in vitals]),
                tuple([one.env_rss_bytes for one in vitals]),
                tuple([one.server_rss_bytes for one in vitals]),
                tuple([one.server_vram_bytes for one in vitals]),
                tuple([one.growth_bytes_per_h for one in vitals]),
                tuple([one.leaks for one in vitals]),
                *(tick_ms, render_ms, observe_ms),
            )
            if self._send(beat):
                self._due_at = now + protocol.HEARTBEAT_S

    def read(self) -> None:
        """Take in all messages that have come."""
        while True:
            try:
                frames = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                self._take(protocol.decode(frames[0]))
            except ProtocolError as error:
                _LOG.warning("ignored a message of the broker: %s", error)

    def close(self) -> None:
        """Send what is still queued, for a moment, and let go."""
        self._flush()
        self._caller.close()
        self.socket.close(linger=_LAST_MESSAGES_MS)

    def _take(self, message: protocol.Message) -> None:
        match message:
            case protocol.Welcome(worker_id, boot_id) if worker_id in self._sent:
                self.broker_restarts += self._boot_id not in (b"", boot_id)
                self._boot_id = boot_id
                if worker_id not in self._welcomed:
                    self.newly_welcomed.append(worker_id)
                    _LOG.info("worker %s is registered", worker_id)
                self._welcomed[worker_id] = self._sent[worker_id]
            case protocol.UnknownWorker(worker_id):
                self.forget(worker_id)
            case protocol.LeaseEnded():
                self.sweep_wanted = True
            case protocol.SupervisorOrder():
                self.orders.append(message)
            case protocol.Rejected(text) if text != self._rejection:
                self._rejection = text
                _LOG.error("the broker rejected a message: %s", text)
            case _:
                pass

    def _complain(self, offers: Sequence[protocol.Register], now: float) -> None:
        """Say once that no broker has answered yet: a worker without one looks as if all were well."""
        if self._welcomed or not offers:
            return
        if self._complain_at is None:
            self._complain_at = now + _COMPLAIN_AFTER_S
        elif now >= self._complain_at:
            self._complain_at = math.inf
            _LOG.warning(
                "expected a broker at %s, found none that answers; start one with `zmqcarla broker`, correct "
                "--address, or authorise this host's key there (docs/security.md). Still trying",
                self._address,
            )

    def _flush(self) -> bool:
        """Send the reports that wait; whether all have gone."""
        while self._reports:
            if not self._send(self._reports[0]):
                return False
            self._reports.popleft()
        return True

    def _send(self, message: protocol.Message) -> bool:
        try:
            self.socket.send(protocol.encode(message), zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True
