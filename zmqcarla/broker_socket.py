"""A client's socket to the broker, and the news that the other end refuses it.

A refused connection looks like a broker that is not there: ZeroMQ knocks again for ever and says nothing. What its
monitor tells makes a named error of it.
"""

from __future__ import annotations

import time
from typing import Final

import zmq
from zmq.utils.monitor import recv_monitor_message

from zmqcarla.broker import protocol as p
from zmqcarla.broker.errors import BrokerUnavailableError, KeyRefusedError

_NO_DETAILS: Final = 3
"""The other end closed the connection while hands were shaken: a restart does that once, a refusal every time."""
_RECONNECT_MAX_MS: Final = 1000
_FAILURES: Final = (
    zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
)


def dealer(context: zmq.Context[zmq.Socket[bytes]]) -> zmq.Socket[bytes]:
    """A socket that never blocks its process at exit; to be connected."""
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.MAXMSGSIZE, p.MAX_PAYLOAD_BYTES)
    socket.setsockopt(zmq.HEARTBEAT_IVL, 5_000)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 30_000)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, _RECONNECT_MAX_MS)
    return socket


class Handshakes:
    """Connects a socket, and watches its handshakes for as long as the context lasts.

    Args:
        socket: made by `dealer`.
        address: of the broker.

    Raises:
        KeysError: the address wants keys, and they are missing, or open to others.
    """

    def __init__(self, socket: zmq.Socket[bytes], address: str) -> None:
        self._socket = socket
        self._address = address
        self._no_details = 0

    def __enter__(self) -> Handshakes:
        self._monitor = self._socket.get_monitor_socket(_FAILURES)  # first: a refusal is told once
        try:
            p.connect_to_broker(self._socket, self._address)
        except BaseException:
            self.__exit__()
            raise
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(self._monitor, zmq.POLLIN)
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.disable_monitor()
        self._monitor.close(linger=0)

    def first_answer(self, timeout_s: float) -> list[bytes]:
        """The frames of the next message.

        Raises:
            BrokerUnavailableError: nothing came in time.
            KeyRefusedError: the other end does not accept our key, or we not its.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            ready = dict(self._poller.poll(max(0, int((deadline - time.monotonic()) * 1000))))
            if self._socket in ready:
                return self._socket.recv_multipart()
            if not ready:
                raise BrokerUnavailableError(self._address, timeout_s)
            self._note(int(recv_monitor_message(self._monitor)["event"]))

    def _note(self, event: int) -> None:
        self._no_details += event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
        if event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL and self._no_details < _NO_DETAILS:
            return
        keys = p.keys_for(self._address)
        if keys is None:
            found = (
                "one that wants other than a plain connection: if it serves beyond its host, name your keys "
                f"({p.KEYS_VARIABLE}), and do not say --insecure"
            )
        elif event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            found = f"one that does not: run `zmqcarla authorize {keys.client_key} NAME` on its host"
        else:
            found = (
                f"one that is not the trusted broker {keys.broker_key}, or that serves without keys: compare with "
                "`zmqcarla keygen` on its host"
            )
        raise KeyRefusedError(f"expected a broker at {self._address} that accepts this connection, found {found}")
