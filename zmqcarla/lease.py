"""The client's end of the bus: one lease, its commands, and the thread that keeps it alive.

Two DEALER sockets: the stepping thread owns one and talks on it alone; a background thread owns the other and renews
the lease, so that a long policy update (or a debugger) does not lose the rows. After a fork the child's copy does
nothing.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import os
import secrets
import threading
import time
import weakref
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final, NamedTuple, Protocol

import zmq
from numpy.typing import NDArray

from zmqcarla.broker import protocol as p
from zmqcarla.broker.errors import (
    CommandTimeoutError,
    LeaseLostError,
    LeaseRefusedError,
    LeaseTimeoutError,
    ProtocolError,
    ProtocolVersionError,
)
from zmqcarla.broker_socket import Handshakes, dealer
from zmqcarla.packed_steps import read_plain, unpack_answer
from zmqcarla.step_times import StepTimes

_SLICE_MS: Final = 500
"""How long a wait sleeps before it looks whether the lease still lives."""
_ANSWER_TIMEOUT_S: Final = 10.0
"""A broker that says nothing at all for this long is not there."""
_NEWS_TIMEOUT_S: Final = 5.0
"""How long the broker may take to hear of an end that stands on the board; then there is no broker."""
_REPEAT_S: Final = 5.0
"""A command without an answer is sent again after this long; nothing is done twice, and a cut link loses nothing."""


@dataclasses.dataclass(slots=True)
class _News:
    """What the renewing thread has learned; written by it, read by the stepping thread."""

    boot_id: bytes = b""
    workers: tuple[str, ...] = ()
    lost_text: str = ""
    unanswered: int = 0
    """Renewals since the broker was heard. Counted, not timed: a client that was stopped for a while is not alone."""


class Outcome(NamedTuple):
    """What became of one row of a command: `kind` from protocol.OUTCOMES, and the unpacked payload."""

    row: int
    kind: str
    payload: Any


class RowLease(Protocol):
    """What a vector env needs of its rows: `Lease` over the bus, `LocalLease` in child processes."""

    @property
    def num_envs(self) -> int:
        """How many rows."""
        ...

    @property
    def workers(self) -> Sequence[str]:
        """The worker behind each row."""
        ...

    @property
    def step_times(self) -> StepTimes:
        """Takes the times of the vector env's steps."""
        ...

    @property
    def packed_steps(self) -> bool:
        """Whether a step may travel as `zmqcarla.packed_steps` draws it, and not as a value."""
        ...

    def pack(self, value: Any, /) -> bytes:
        """A value as it travels to the rows."""
        ...

    def unpack(self, frame: bytes, /) -> Any:
        """What `pack`, or a row, made of a value."""
        ...

    def next_seq(self) -> int:
        """The number of the next command."""
        ...

    def send(self, rows: Sequence[int], ops: Sequence[str], payloads: Sequence[bytes]) -> int:
        """Send one command; returns its number."""
        ...

    def wait(self, seq: int, timeout_s: float) -> list[Outcome]:
        """The outcomes of a command, in the order of its rows."""
        ...

    def wait_steps(self, seq: int, timeout_s: float) -> NDArray[Any] | list[Outcome]:
        """What `wait` returns; of rows that answered with nothing but numbers, an array of `packed_steps.ANSWER`."""
        ...

    def wait_any(self, seqs: Collection[int], timeout_s: float) -> tuple[int, list[Outcome]] | None:
        """The first answer to one of several commands; None when none came in time."""
        ...

    def probe(self) -> list[Outcome]:
        """Deaths that do not stand on the board."""
        ...

    def after_the_end(self, row: int, news: dict[str, Any]) -> Outcome:
        """What becomes of a row whose worker will not come back, as its supervisor said."""
        ...

    def pool_died(self) -> None:
        """Called, from any thread, by who knows that the pool has died: waits end now and not after the ttl."""
        ...

    def release(self) -> None:
        """Give the rows back; safe to call twice."""
        ...


class Lease:
    """The right to use some rows of a pool; made by `acquire`, ended by `release`, by death, or by the broker."""

    packed_steps = True
    pack = staticmethod(p.pack)
    unpack = staticmethod(p.unpack)

    def __init__(self, address: str, context: zmq.Context[zmq.Socket[bytes]], socket: zmq.Socket[bytes]) -> None:
        self.address = address
        self._lease_id = b""
        self._ttl_s = p.DEFAULT_TTL_S
        self._seq = 0
        self._socket = socket
        self._early: collections.deque[list[bytes]] = collections.deque()  # came while a probe was waited for
        self._news = _News()
        self.step_times = StepTimes()
        self._sent_to = b""  # boot_id of the broker that knows the unanswered commands
        self._unanswered: dict[int, list[bytes]] = {}
        self._sent_at = 0.0
        self._timeout_ms = -1  # of the socket's recv
        self._stop = threading.Event()
        self._context = context
        self._renewal: threading.Thread | None = None
        self._finalizer: weakref.finalize[..., Lease] | None = None

    @classmethod
    def acquire(
        cls,
        address: str,
        num_envs: int,
        env_id: str,
        *,
        timeout_s: float,
        ttl_s: float = p.DEFAULT_TTL_S,
        simulator: str | None = None,
        gpu: int | None = None,
        on_wait: Callable[[p.Queued], None] | None = None,
    ) -> Lease:
        """Wait for `num_envs` workers that may run `env_id`.

        Raises:
            BrokerUnavailableError: nobody answers at `address`.
            KeysError: the address wants keys, which are missing or refused.
            LeaseTimeoutError: too few free workers within `timeout_s`.
            LeaseRefusedError: no worker of the pool will ever serve this.
            ProtocolVersionError: client and broker are of different releases.
        """
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        lease = cls(address, context, dealer(context))
        request = p.LeaseRequest(
            p.PROTOCOL, secrets.token_bytes(8), num_envs, env_id, float(timeout_s), float(ttl_s), simulator, gpu
        )
        try:
            leased = lease._ask(request, on_wait)
        except BaseException:
            lease._close_sockets()
            raise
        lease._lease_id = leased.lease_id
        lease._news.boot_id, lease._news.workers = leased.boot_id, leased.workers
        lease._ttl_s = ttl_s
        lease._start_renewal(p.Renew(leased.lease_id, env_id, float(ttl_s), leased.workers, simulator, gpu, ()))
        return lease

    def _ask(self, request: p.LeaseRequest, on_wait: Callable[[p.Queued], None] | None) -> p.Leased:
        with Handshakes(self._socket, self.address) as handshakes:
            self._socket.send(p.encode(request))
            while True:
                message = p.decode(handshakes.first_answer(_ANSWER_TIMEOUT_S)[0])
                match message:
                    case p.Leased():
                        return message
                    case p.Queued():
                        if on_wait is not None:
                            on_wait(message)
                    case p.Refused(reason="timeout"):
                        raise LeaseTimeoutError(message.text, request.timeout_s)
                    case p.Refused(reason="protocol"):
                        raise ProtocolVersionError(message.text)
                    case p.Refused():
                        raise LeaseRefusedError(message.text)
                    case p.Rejected():
                        raise ProtocolError(message.text)
                    case _:
                        raise ProtocolError(f"expected an answer to a lease request, found {message.kind!r}")

    def _start_renewal(self, message: p.Renew) -> None:
        arguments = (self._context, self.address, message, self._stop, self._news, self.step_times)
        self._renewal = threading.Thread(target=_renew, args=arguments, name="zmqcarla-lease", daemon=True)
        self._renewal.start()
        self._finalizer = weakref.finalize(
            self, _release, os.getpid(), self._context, self._socket, self._lease_id, self._stop, self._renewal
        )

    @property
    def workers(self) -> tuple[str, ...]:
        """The worker behind each row, as of the last renewal."""
        return self._news.workers

    @property
    def num_envs(self) -> int:
        """How many rows the lease has."""
        return len(self.workers)

    def send(self, rows: Sequence[int], ops: Sequence[str], payloads: Sequence[bytes]) -> int:
        """Send one command to some rows; returns its sequence number."""
        self.check_supervised()
        self._seq += 1
        frames = p.to_frames(p.Command(self._lease_id, self._seq, tuple(rows), tuple(ops)), payloads)
        if not self._unanswered:
            self._sent_to, self._sent_at = self._news.boot_id, time.monotonic()
        self._unanswered[self._seq] = frames
        p.send_frames(self._socket, frames)
        return self._seq

    def _repeat_unanswered(self) -> None:
        """A broker that was restarted, or whose link was cut, may know nothing of the commands under way.

        Broker and workers do none of them twice; one that is done is answered again.
        """
        now = time.monotonic()
        if self._sent_to != self._news.boot_id or now - self._sent_at >= _REPEAT_S:
            self._sent_to, self._sent_at = self._news.boot_id, now
            for frames in self._unanswered.values():
                p.send_frames(self._socket, frames)

    def _receive(self, timeout_ms: int) -> list[bytes]:
        if timeout_ms != self._timeout_ms:
            self._socket.setsockopt(zmq.RCVTIMEO, timeout_ms)
            self._timeout_ms = timeout_ms
        try:
            return p.receive_from_broker(self._socket)
        except zmq.Again:
            return []

    def next_seq(self) -> int:
        """A number for a command that does not take the bus."""
        self._seq += 1
        return self._seq

    def wait(self, seq: int, timeout_s: float) -> list[Outcome]:
        """The outcome of each row of command `seq`, in the order of its rows.

        Raises:
            CommandTimeoutError: not all rows were settled in time.
            LeaseLostError: the broker ended the lease.
        """
        answer = self.wait_any((seq,), timeout_s)
        if answer is None:
            raise self._late(seq, timeout_s)
        return answer[1]

    def _late(self, seq: int, timeout_s: float) -> CommandTimeoutError:
        return CommandTimeoutError(
            f"expected the answer to command {seq} from {self.num_envs} rows within {timeout_s:g} s, found "
            "none; look at `zmqcarla status` and the workers' logs",
            timeout_s,
        )

    def wait_any(self, seqs: Collection[int], timeout_s: float) -> tuple[int, list[Outcome]] | None:
        """The first answer to one of several commands: its number and outcomes; None when none came in time.

        Raises:
            LeaseLostError: the broker ended the lease.
        """
        answer = self._await(seqs, timeout_s)
        if answer is None:
            return None
        reply, payloads = answer
        parts = zip(reply.rows, reply.outcomes, payloads, strict=True)
        return reply.seq, [Outcome(row, kind, unpack_answer(payload)) for row, kind, payload in parts]

    def wait_steps(self, seq: int, timeout_s: float) -> NDArray[Any] | list[Outcome]:
        """The answers to a packed step of all rows: an array of `packed_steps.ANSWER`, if they are but numbers.

        Raises:
            CommandTimeoutError: not all rows were settled in time.
            LeaseLostError: the broker ended the lease.
        """
        answer = self._await((seq,), timeout_s)
        if answer is None:
            raise self._late(seq, timeout_s)
        reply, payloads = answer
        if reply.rows == tuple(range(self.num_envs)) and reply.outcomes.count("ok") == self.num_envs:
            plain = read_plain(payloads)
            if plain is not None:
                return plain
        parts = zip(reply.rows, reply.outcomes, payloads, strict=True)
        return [Outcome(row, kind, unpack_answer(payload)) for row, kind, payload in parts]

    def _await(self, seqs: Collection[int], timeout_s: float) -> tuple[p.CommandReply, Sequence[bytes]] | None:
        """The first answer to one of several commands, as it came."""
        deadline = time.monotonic() + timeout_s
        while True:
            remaining_ms = max(math.ceil((deadline - time.monotonic()) * 1000), 0)
            frames = self._early.popleft() if self._early else self._receive(min(remaining_ms, _SLICE_MS))
            if not frames:
                self.check_supervised()
                self._repeat_unanswered()
                if not remaining_ms:
                    return None
                continue
            message, payloads = p.from_frames(frames)
            if isinstance(message, p.CommandReply):
                self._unanswered.pop(message.seq, None)
            match message:
                case p.CommandReply() if message.seq in seqs:
                    return message, payloads
                case p.CommandReply() | p.ProbeReply():
                    continue  # a question whose wait was given up
                case p.LeaseLost():
                    self._news.lost_text = message.text
                    self.check_supervised()
                case p.Rejected():
                    raise ProtocolError(message.text)
                case _:
                    raise ProtocolError(f"expected the answer to a command, found {message.kind!r}")

    def probe(self, timeout_s: float = 1.0) -> list[Outcome]:
        """Deaths of workers that the broker knows and has not told yet; empty when it does not answer in time.

        Raises:
            LeaseLostError: the broker ended the lease.
        """
        self.check_supervised()
        self._socket.send(p.encode(p.Probe(self._lease_id)))
        deadline = time.monotonic() + timeout_s
        while self._socket.poll(max(0, int((deadline - time.monotonic()) * 1000))):
            frames = self._socket.recv_multipart()
            message, payloads = p.from_frames(frames)
            match message:
                case p.ProbeReply():
                    parts = zip(message.rows, message.outcomes, payloads, strict=True)
                    return [Outcome(row, kind, p.unpack(payload)) for row, kind, payload in parts]
                case p.LeaseLost():
                    self._news.lost_text = message.text
                    self.check_supervised()
                case _:
                    self._early.append(frames)
        return []

    def after_the_end(self, row: int, news: dict[str, Any]) -> Outcome:
        """What becomes of a row whose worker will not come back: "lost" when the broker gives it another one.

        The broker is asked until the news of the supervisor has reached it as well.
        """
        deadline = time.monotonic() + _NEWS_TIMEOUT_S
        while time.monotonic() < deadline:
            for outcome in self.probe():
                if outcome.row == row:
                    return outcome
            self._stop.wait(_NEWS_TIMEOUT_S / 500)
        return Outcome(row, "gone", news)

    def check_supervised(self) -> None:
        """Raise LeaseLostError when the broker ended the lease or is gone, or this client released it."""
        if self._news.lost_text:
            raise LeaseLostError(self._news.lost_text)
        silent_s = self._news.unanswered * p.HEARTBEAT_S
        if silent_s >= self._ttl_s:
            raise LeaseLostError(
                f"expected an answer of the broker at {self.address} every {p.HEARTBEAT_S:g} s, found it silent for "
                f"{silent_s:g} s: the pool is gone, start it again (`zmqcarla up`) and make a new vector env"
            )
        if self._finalizer is None or not self._finalizer.alive:
            raise LeaseLostError("expected a live lease, found one that was released")

    def pool_died(self) -> None:
        """Called, from any thread, by who knows that the pool has died: waits end now and not after the ttl."""
        self._news.lost_text = f"expected a live pool at {self.address}, found that it has died; start it again"

    def release(self) -> None:
        """Give the rows back; safe to call twice, and without effect in a forked child."""
        if self._finalizer is not None:
            self._finalizer()

    def _close_sockets(self) -> None:
        self._socket.close()
        self._context.term()


def _renew(
    context: zmq.Context[zmq.Socket[bytes]],
    address: str,
    message: p.Renew,
    stop: threading.Event,
    news: _News,
    times: StepTimes,
) -> None:
    """Body of the background thread; holds no reference to the Lease, so that a forgotten one is collected."""
    socket = dealer(context)
    try:
        p.connect_to_broker(socket, address)
        while not stop.wait(p.HEARTBEAT_S):
            if socket.poll(0, zmq.POLLOUT):
                now = dataclasses.replace(message, workers=news.workers, step_times_ms=times.told_ms())
                socket.send(p.encode(now), zmq.NOBLOCK)
            news.unanswered += 1
            while socket.poll(0):
                answer = p.decode(socket.recv_multipart()[0])
                match answer:
                    case p.Renewed():
                        news.boot_id, news.workers = answer.boot_id, answer.workers
                        news.unanswered = 0
                    case p.LeaseLost():
                        news.lost_text = answer.text
                        return
                    case _:
                        pass
    finally:
        socket.close()


def _release(
    pid: int,
    context: zmq.Context[zmq.Socket[bytes]],
    socket: zmq.Socket[bytes],
    lease_id: bytes,
    stop: threading.Event,
    renewal: threading.Thread,
) -> None:
    if os.getpid() != pid:
        return
    stop.set()
    renewal.join(timeout=5)
    if socket.poll(0, zmq.POLLOUT):
        socket.send(p.encode(p.Release(lease_id)), zmq.NOBLOCK)
    socket.close(linger=500)
    context.term()


def ask_status(address: str, timeout_s: float = 5.0) -> dict[str, Any]:
    """The state of a pool, see `LeaseTable.statistics`.

    Raises:
        BrokerUnavailableError: nobody answers within `timeout_s`.
        KeysError: the address wants keys, which are missing or refused.
        ProtocolError: the broker does not understand the question.
    """
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = dealer(context)
    try:
        with Handshakes(socket, address) as handshakes:
            socket.send(p.encode(p.StatusRequest(p.PROTOCOL, secrets.token_bytes(8))))
            frames = handshakes.first_answer(timeout_s)
        message = p.decode(frames[0])
        if not isinstance(message, p.StatusReply) or len(frames) != 2:
            raise ProtocolError(f"expected the state of the pool, found {message}")
        status: dict[str, Any] = p.unpack(frames[1])
        return status
    finally:
        socket.close()
        context.term()
