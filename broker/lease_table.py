"""Who may use which worker, and what is on its way to whom: every decision of the broker, without sockets or clocks.

    actions = table.handle(event, now)

An event is a received message, or the passing of time; an action is a message to send. The router loop turns one into
the other and decides nothing. Shape after dask.distributed's worker state machine: events in, instructions out.

A worker is *starting* (its supervisor registered it), *ready* (its env process announced itself), *lost* (dead, being
restarted) or
*gone* (will not come back). A command to a lost worker is held until the worker is ready again; a death is told
exactly once, as the answer to the command that was under way, else to the next one.
"""

from __future__ import annotations

import collections
import dataclasses
import fnmatch
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Literal

from zmqcarla.broker import admin
from zmqcarla.broker import protocol as p
from zmqcarla.broker.codec import pack
from zmqcarla.broker.errors import ProtocolVersionError


@dataclasses.dataclass(frozen=True, slots=True)
class Received:
    """A message came from a peer."""

    peer: bytes
    message: p.Message
    payloads: Sequence[bytes] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Clock:
    """Time passed; to be given at least once a second."""


@dataclasses.dataclass(frozen=True, slots=True)
class Send:
    """Send a message to a peer."""

    peer: bytes
    message: p.Message
    payloads: Sequence[bytes] = ()


Event = Received | Clock
_ENDED_KEPT: Final = 1024


@dataclasses.dataclass(frozen=True, slots=True)
class _Seen:
    """What a heartbeat said of a worker."""

    at: float
    phase: str
    steps: int
    env_rss_bytes: int
    server_rss_bytes: int
    server_vram_bytes: int
    growth_bytes_per_h: float
    leaks: str


@dataclasses.dataclass(slots=True)
class _Worker:
    offer: p.Register
    supervisor: bytes
    heard_at: float
    state: Literal["starting", "ready", "lost", "gone"] = "starting"
    env_process: bytes = b""
    pid: int = 0
    incarnation: int = 0
    restarts: int = 0
    lease_id: bytes = b""
    row: int = -1
    end: str = ""
    """Why it is gone."""
    seen: _Seen | None = None
    """By its supervisor, at the last heartbeat."""
    retiring: bool = False
    """Gets no new lease, and is stopped when it has none."""

    @property
    def free(self) -> bool:
        return self.state == "ready" and not self.lease_id and not self.retiring


@dataclasses.dataclass(slots=True)
class _RowCommand:
    """One row's part of a command."""

    seq: int
    op: str
    payload: bytes


@dataclasses.dataclass(slots=True)
class _Row:
    worker_id: str
    held: _RowCommand | None = None
    """Waits for the worker to come back."""
    under_way: _RowCommand | None = None
    """Was sent to the worker, which has not answered."""
    untold_loss: bytes = b""
    gone: bytes = b""
    unconfirmed: bool = False
    """An earlier life of the broker leased it, and the worker has not yet said whether it still holds it."""


@dataclasses.dataclass(slots=True)
class _Pending:
    """A command that not all rows have answered."""

    client: bytes
    rows: tuple[int, ...]
    waiting: set[int]
    outcomes: dict[int, tuple[str, bytes]]


@dataclasses.dataclass(slots=True)
class _Lease:
    lease_id: bytes
    env_id: str
    rows: list[_Row]
    ttl_s: float
    granted_at: float
    renewed_at: float
    pending: dict[int, _Pending]
    commands: int = 0


@dataclasses.dataclass(slots=True)
class _Request:
    client: bytes
    message: p.LeaseRequest
    asked_at: float
    told_at: float


class LeaseTable:
    """The broker's state machine.

    Args:
        boot_id: differs in every life of the broker.
        new_lease_id: makes random lease ids of 16 bytes.
        booted_at: when this life began, on the clock of `handle`. For one ttl from then on, leases of the life before
            may come back by their clients' renewals.
    """

    def __init__(self, boot_id: bytes, new_lease_id: Callable[[], bytes], booted_at: float) -> None:
        self._boot_id = boot_id
        self._new_lease_id = new_lease_id
        self._returns_until = booted_at + p.DEFAULT_TTL_S
        self._ended: collections.deque[bytes] = collections.deque(maxlen=_ENDED_KEPT)
        self._workers: dict[str, _Worker] = {}
        self._leases: dict[bytes, _Lease] = {}
        self._queue: list[_Request] = []
        self._handlers: dict[type[p.Message], Callable[[Any, Received, float], Iterator[Send]]] = {
            p.RowReply: self._row_reply,
            p.Command: self._command,
            p.Renew: self._renew,
            p.Heartbeat: self._heartbeat,
            p.Ready: self._ready,
            p.Register: self._register,
            p.WorkerLost: self._worker_lost,
            p.Unregister: self._unregister,
            p.LeaseRequest: self._lease_request,
            p.Release: self._release,
            p.Probe: self._probe,
            p.StatusRequest: self._status_request,
        }

    def handle(self, event: Event, now: float) -> list[Send]:
        """What to send because of `event`; `now` in seconds of any steady clock."""
        if isinstance(event, Clock):
            return list(self._clock(now))
        handler = self._handlers.get(type(event.message))
        if handler is None:
            return [Send(event.peer, p.Rejected(f"expected a message to the broker, found {event.message.kind!r}"))]
        return list(handler(event.message, event, now))

    def administer(self, request: p.AdminRequest, now: float) -> tuple[p.AdminReply, list[Send]]:
        """The answer to an order of the administrator, and what to send because of it."""
        reply, orders = admin.decide(request, self._workers.values())
        return reply, [*(Send(peer, order) for peer, order in orders), *self._serve_queue(now)]

    # --- clients ---

    def _lease_request(self, message: p.LeaseRequest, event: Received, now: float) -> Iterator[Send]:
        try:
            p.check_protocol(message.protocol, "client")
        except ProtocolVersionError as error:
            yield Send(event.peer, p.Refused(message.request_id, "protocol", str(error)))
            return
        if message.num_envs < 1:
            text = f"expected at least 1 env, found num_envs={message.num_envs}"
            yield Send(event.peer, p.Refused(message.request_id, "impossible", text))
            return
        self._queue.append(_Request(event.peer, message, now, now - p.HEARTBEAT_S))
        yield from self._serve_queue(now)

    def _serve_queue(self, now: float) -> Iterator[Send]:
        spoken_for: set[str] = set()  # what an earlier request waits for is not given to a later one
        waiting: list[_Request] = []
        for request in self._queue:
            message = request.message
            suitable = self._suitable(message)
            free = [worker for worker in suitable if worker.free and worker.offer.worker_id not in spoken_for]
            refusal = self._refusal(request, len(free), len(suitable), now)
            if len(free) >= message.num_envs:
                yield self._grant(request, free[: message.num_envs], now)
            elif refusal is not None:
                yield Send(request.client, refusal)
            else:
                spoken_for.update(worker.offer.worker_id for worker in free)
                if now - request.told_at >= p.HEARTBEAT_S:
                    request.told_at = now
                    queued = p.Queued(message.request_id, len(waiting), len(free), len(suitable))
                    yield Send(request.client, queued)
                waiting.append(request)
        self._queue = waiting

    def _suitable(self, message: p.LeaseRequest) -> list[_Worker]:
        return [worker for worker in self._able(message) if worker.state != "gone" and not worker.retiring]

    def _able(self, message: p.LeaseRequest) -> list[_Worker]:
        return [
            worker
            for worker in self._workers.values()
            if message.simulator in (None, worker.offer.simulator)
            and message.gpu in (None, worker.offer.gpu)
            and any(fnmatch.fnmatchcase(message.env_id, pattern) for pattern in worker.offer.env_patterns)
        ]

    def _refusal(self, request: _Request, free: int, suitable: int, now: float) -> p.Refused | None:
        message = request.message
        living = [worker for worker in self._workers.values() if worker.state != "gone"]
        staying = [worker for worker in living if not worker.retiring]
        wanted = f"{message.num_envs} x {message.env_id!r}"
        if message.simulator is not None:
            wanted += f" on simulator {message.simulator!r}"
        if message.gpu is not None:
            wanted += f" on GPU {message.gpu}"
        ended = [worker for worker in self._able(message) if worker.state == "gone"]
        if ended and not suitable:
            last = ended[-1]
            text = (
                f"expected workers for {wanted}, found that all {len(ended)} of them have ended and will not come "
                f"back; worker {last.offer.worker_id}: {last.end}"
            )
            return p.Refused(message.request_id, "impossible", text)
        if living and not staying:
            text = f"expected workers for {wanted}, found a pool that is being drained: start another one"
            return p.Refused(message.request_id, "impossible", text)
        if staying and not suitable:
            patterns = sorted({pattern for worker in staying for pattern in worker.offer.env_patterns})
            simulators = ", ".join(sorted({worker.offer.simulator for worker in staying}))
            text = (
                f"expected workers for {wanted}, found {len(staying)} workers that allow {', '.join(patterns)} on "
                f"{simulators}: check env id, simulator and gpu, "
                "or start workers that allow them (--env, --simulator, --gpu)"
            )
            return p.Refused(message.request_id, "impossible", text)
        if now - request.asked_at >= message.timeout_s:
            text = (
                f"expected {wanted} within {message.timeout_s:g} s, found {suitable} suitable workers of which {free} "
                f"are free: start more (`zmqcarla worker`, `zmqcarla up --workers N`), ask for fewer, or wait longer"
            )
            return p.Refused(message.request_id, "timeout", text)
        return None

    def _grant(self, request: _Request, workers: list[_Worker], now: float) -> Send:
        lease_id = self._new_lease_id()
        for row, worker in enumerate(workers):
            worker.lease_id, worker.row = lease_id, row
        names = tuple([worker.offer.worker_id for worker in workers])
        rows = [_Row(name) for name in names]
        message = request.message
        self._leases[lease_id] = _Lease(lease_id, message.env_id, rows, message.ttl_s, now, now, {})
        return Send(request.client, p.Leased(message.request_id, lease_id, self._boot_id, names))

    def _renew(self, message: p.Renew, event: Received, now: float) -> Iterator[Send]:
        lease = self._leases.get(message.lease_id)
        if lease is None and self._may_return(message.lease_id, now):
            lease = self._adopt(message, now)
        if lease is None:
            yield from self._unknown_lease(event.peer, message.lease_id, now)
        else:
            lease.renewed_at = now
            yield Send(event.peer, p.Renewed(message.lease_id, self._boot_id))

    def _may_return(self, lease_id: bytes, now: float) -> bool:
        return now < self._returns_until and lease_id not in self._ended

    def _adopt(self, message: p.Renew, now: float) -> _Lease:
        """A lease that an earlier life of the broker granted."""
        rows = [_Row(name) for name in message.workers]
        lease = _Lease(message.lease_id, message.env_id, rows, message.ttl_s, now, now, {})
        self._leases[message.lease_id] = lease
        for row, entry in enumerate(rows):
            worker = self._workers.get(entry.worker_id)
            if worker is None:
                entry.unconfirmed = True
            elif worker.lease_id in (b"", message.lease_id):
                entry.unconfirmed = worker.state != "ready"
                if worker.state == "ready" and not worker.lease_id:  # a new process: the one with the env has died
                    entry.untold_loss = _died_unseen(worker)
                worker.lease_id, worker.row = message.lease_id, row
            else:
                entry.gone = _news(entry.worker_id, "it was leased to another client", 0, worker.restarts)
        return lease

    def _rows_of(self, worker_id: str) -> Iterator[tuple[_Lease, int]]:
        for lease in self._leases.values():
            for row, entry in enumerate(lease.rows):
                if entry.worker_id == worker_id and not entry.gone:
                    yield lease, row

    def _release(self, message: p.Release, event: Received, now: float) -> Iterator[Send]:
        lease = self._leases.get(message.lease_id)
        if lease is not None:
            yield from self._end_lease(lease)
            yield from self._serve_queue(now)

    def _end_lease(self, lease: _Lease) -> Iterator[Send]:
        del self._leases[lease.lease_id]
        self._ended.append(lease.lease_id)
        for row in lease.rows:
            worker = self._workers.get(row.worker_id)
            if worker is None or worker.lease_id != lease.lease_id:
                continue
            worker.lease_id, worker.row = b"", -1
            if worker.state == "ready":
                yield Send(worker.env_process, p.LeaseEnded(lease.lease_id))
            yield Send(worker.supervisor, p.LeaseEnded(lease.lease_id))

    def _command(self, message: p.Command, event: Received, now: float) -> Iterator[Send]:
        lease = self._leases.get(message.lease_id)
        if lease is None:
            yield from self._unknown_lease(event.peer, message.lease_id, now)
            return
        flaw = _command_flaw(message, len(event.payloads), len(lease.rows))
        if flaw:
            yield Send(event.peer, p.Rejected(flaw))
            return
        lease.renewed_at = now
        lease.commands += 1
        pending = _Pending(event.peer, message.rows, set(message.rows), {})
        lease.pending[message.seq] = pending
        for row, op, payload in zip(message.rows, message.ops, event.payloads, strict=True):
            yield from self._dispatch(lease, row, _RowCommand(message.seq, op, payload))
        yield from self._finish(lease, message.seq)

    def _dispatch(self, lease: _Lease, row: int, command: _RowCommand) -> Iterator[Send]:
        entry = lease.rows[row]
        worker = self._workers.get(entry.worker_id)
        if command.op == "rebuild":  # the client knows of the death: its supervisor told it on the board
            entry.untold_loss = b""
        if entry.gone:
            self._settle(lease, row, command.seq, "gone", entry.gone)
        elif entry.untold_loss:
            self._settle(lease, row, command.seq, "lost", entry.untold_loss)
            entry.untold_loss = b""
        elif worker is not None and worker.state == "ready":
            entry.under_way = command
            message = p.RowCommand(lease.lease_id, row, command.seq, command.op)
            yield Send(worker.env_process, message, (command.payload,))
        else:
            entry.held = command

    def _settle(self, lease: _Lease, row: int, seq: int, outcome: str, payload: bytes) -> bool:
        """Note the outcome of one row; whether it was awaited."""
        pending = lease.pending.get(seq)
        if pending is None or row not in pending.waiting:
            return False
        pending.waiting.remove(row)
        lease.rows[row].under_way = None
        pending.outcomes[row] = (outcome, payload)
        return True

    def _finish(self, lease: _Lease, seq: int) -> Iterator[Send]:
        pending = lease.pending.get(seq)
        if pending is None or pending.waiting:
            return
        del lease.pending[seq]
        settled = [pending.outcomes[row] for row in pending.rows]
        outcomes = tuple([outcome for outcome, _ in settled])
        reply = p.CommandReply(lease.lease_id, seq, pending.rows, outcomes)
        yield Send(pending.client, reply, [payload for _, payload in settled])

    def _probe(self, message: p.Probe, event: Received, now: float) -> Iterator[Send]:
        # Told again until the row is rebuilt: the client drops the news of a row that was done before its process died.
        lease = self._leases.get(message.lease_id)
        if lease is None:
            yield from self._unknown_lease(event.peer, message.lease_id, now)
            return
        rows, outcomes, payloads = [], [], []
        for row, entry in enumerate(lease.rows):
            if entry.gone or entry.untold_loss:
                rows.append(row)
                outcomes.append("gone" if entry.gone else "lost")
                payloads.append(entry.gone or entry.untold_loss)
        yield Send(event.peer, p.ProbeReply(lease.lease_id, tuple(rows), tuple(outcomes)), payloads)

    def _unknown_lease(self, client: bytes, lease_id: bytes, now: float) -> Iterator[Send]:
        if self._may_return(lease_id, now):
            return  # its renewal is on the way, and the client asks again
        text = (
            "the broker does not know this lease: it ended (released, or not renewed in time), or the broker restarted"
        )
        yield Send(client, p.LeaseLost(lease_id, text))

    # --- workers ---

    def _register(self, message: p.Register, event: Received, now: float) -> Iterator[Send]:
        try:
            p.check_protocol(message.protocol, "worker")
        except ProtocolVersionError as error:
            yield Send(event.peer, p.Rejected(str(error)))
            return
        worker = self._workers.get(message.worker_id)
        same_life = worker is not None and worker.offer.supervisor_pid == message.supervisor_pid
        if worker is not None and same_life and worker.state != "gone":
            worker.offer, worker.supervisor, worker.heard_at = message, event.peer, now
            worker.retiring |= message.retiring
        else:
            retiring = message.retiring or (worker is not None and worker.retiring)
            successor = _Worker(message, event.peer, now, retiring=retiring)
            if worker is not None and worker.lease_id and worker.state != "gone":
                yield from self._lose(worker, "its supervisor was replaced", -1, final=False)
                successor.state, successor.lease_id, successor.row = "lost", worker.lease_id, worker.row
            self._workers[message.worker_id] = successor
            for lease, row in self._rows_of(message.worker_id):
                successor.lease_id, successor.row = lease.lease_id, row
        yield Send(event.peer, p.Welcome(message.worker_id, self._boot_id))

    def _heartbeat(self, message: p.Heartbeat, event: Received, now: float) -> Iterator[Send]:
        columns = (
            message.phases, message.steps, message.restarts, message.env_rss_bytes, message.server_rss_bytes,
            message.server_vram_bytes, message.growth_bytes_per_h, message.leaks,
        )  # fmt: skip
        if any(len(column) != len(message.worker_ids) for column in columns):
            text = f"expected {len(message.worker_ids)} values in each column of a heartbeat, found other numbers"
            yield Send(event.peer, p.Rejected(text))
            return
        for index, worker_id in enumerate(message.worker_ids):
            worker = self._workers.get(worker_id)
            if worker is None or worker.supervisor != event.peer:  # the peer reconnected: its old route is dead
                yield Send(event.peer, p.UnknownWorker(worker_id))
            else:
                worker.heard_at, worker.restarts = now, message.restarts[index]
                worker.seen = _Seen(
                    now,
                    message.phases[index],
                    message.steps[index],
                    message.env_rss_bytes[index],
                    message.server_rss_bytes[index],
                    message.server_vram_bytes[index],
                    message.growth_bytes_per_h[index],
                    message.leaks[index],
                )

    def _ready(self, message: p.Ready, event: Received, now: float) -> Iterator[Send]:
        worker = self._workers.get(message.worker_id)
        if worker is None or message.incarnation < worker.incarnation or worker.state == "gone":
            return  # its supervisor will register it, and it announces itself again
        if message.incarnation > worker.incarnation and worker.state == "ready":
            yield from self._lose(worker, "its env process was replaced", 0, final=False)
        if not message.lease_id and worker.lease_id not in self._leases:
            worker.lease_id, worker.row = b"", -1  # what was kept for a client that has not come back died with its env
        if message.lease_id and message.lease_id != worker.lease_id:
            if not worker.lease_id and self._may_return(message.lease_id, now):
                worker.lease_id, worker.row = message.lease_id, message.row  # kept for its client until then
            else:
                yield Send(event.peer, p.LeaseEnded(message.lease_id))
        if worker.state == "ready" and worker.env_process == event.peer:
            return
        worker.state, worker.env_process = "ready", event.peer
        worker.incarnation, worker.pid = message.incarnation, message.pid
        lease = self._leases.get(worker.lease_id)
        if lease is None:
            yield from self._serve_queue(now)
            return
        entry = lease.rows[worker.row]
        if entry.unconfirmed and message.lease_id != lease.lease_id:
            yield from self._tell_unseen_death(lease, worker)
        entry.unconfirmed = False
        held, entry.held = entry.held, None
        # A command under way to the same process was lost with its connection; one that it has done it answers again.
        command = held or entry.under_way
        if command is not None:
            yield from self._dispatch(lease, worker.row, command)

    def _row_reply(self, message: p.RowReply, event: Received, now: float) -> Iterator[Send]:
        lease = self._leases.get(message.lease_id)
        if lease is None or not 0 <= message.row < len(lease.rows) or len(event.payloads) != 1:
            return
        worker = self._workers.get(lease.rows[message.row].worker_id)
        if worker is None or worker.env_process != event.peer:
            return  # a peer that does not own the row
        outcome = "ok" if message.outcome == "ok" else "error"
        if self._settle(lease, message.row, message.seq, outcome, event.payloads[0]):
            yield from self._finish(lease, message.seq)

    def _worker_lost(self, message: p.WorkerLost, event: Received, now: float) -> Iterator[Send]:
        worker = self._workers.get(message.worker_id)
        if worker is None or message.incarnation < worker.incarnation:
            return
        worker.heard_at = now
        worker.restarts = message.restarts
        yield from self._lose(worker, message.reason, message.exit_code, final=message.final)
        if message.final:
            yield from self._serve_queue(now)

    def _unregister(self, message: p.Unregister, event: Received, now: float) -> Iterator[Send]:
        worker = self._workers.get(message.worker_id)
        if worker is not None and worker.supervisor == event.peer:
            yield from self._lose(worker, "its supervisor stopped", 0, final=True)
            del self._workers[message.worker_id]
            yield from self._serve_queue(now)

    def _lose(self, worker: _Worker, reason: str, exit_code: int, *, final: bool) -> Iterator[Send]:
        """The worker's env process is dead: settle what it owed, or keep the news for the next command."""
        was_ready = worker.state == "ready"
        worker.state, worker.end = ("gone", reason) if final else ("lost", "")
        worker.env_process = b""
        lease = self._leases.get(worker.lease_id)
        if lease is None:
            return
        entry = lease.rows[worker.row]
        payload = _news(worker.offer.worker_id, reason, exit_code, worker.restarts)
        if final:
            entry.gone, entry.held = payload, None
        elif entry.under_way is not None and entry.under_way.op == "rebuild":
            # The client knows of a death, and it may be this one: the board told it before the supervisor told us.
            entry.held, entry.under_way = entry.under_way, None
        outcome = "gone" if final else "lost"
        held_seq = None if entry.held is None else entry.held.seq
        owed = [seq for seq, pending in lease.pending.items() if worker.row in pending.waiting and seq != held_seq]
        for seq in owed:
            self._settle(lease, worker.row, seq, outcome, payload)
            yield from self._finish(lease, seq)
        if not owed and was_ready and not final and entry.held is None:
            entry.untold_loss = payload

    def _tell_unseen_death(self, lease: _Lease, worker: _Worker) -> Iterator[Send]:
        """A worker that held the row before the broker restarted comes without it: its env process has died since."""
        entry = lease.rows[worker.row]
        held = entry.held
        if held is None:
            entry.untold_loss = _died_unseen(worker)
        elif held.op != "rebuild":  # of which the client sends none unless it knows
            entry.held = None
            self._settle(lease, worker.row, held.seq, "lost", _died_unseen(worker))
            yield from self._finish(lease, held.seq)

    # --- time ---

    def _clock(self, now: float) -> Iterator[Send]:
        for lease in [lease for lease in self._leases.values() if now - lease.renewed_at >= lease.ttl_s]:
            yield from self._end_lease(lease)
        if now >= self._returns_until:
            for lease in self._leases.values():
                yield from self._give_up_unconfirmed(lease)
        for worker_id, worker in list(self._workers.items()):
            if worker.lease_id and worker.lease_id not in self._leases and now >= self._returns_until:
                yield Send(worker.env_process, p.LeaseEnded(worker.lease_id))
                worker.lease_id, worker.row = b"", -1
            if now - worker.heard_at >= worker.offer.ttl_s:
                text = f"its supervisor was silent for {worker.offer.ttl_s:g} s"
                yield from self._lose(worker, text, 0, final=True)
                del self._workers[worker_id]
        for peer, order in admin.pursue(self._workers.values(), settled=now >= self._returns_until):
            yield Send(peer, order)
        yield from self._serve_queue(now)

    def _give_up_unconfirmed(self, lease: _Lease) -> Iterator[Send]:
        for row, entry in enumerate(lease.rows):
            if not entry.unconfirmed or entry.worker_id in self._workers:
                continue
            entry.unconfirmed, entry.held = False, None
            entry.gone = _news(entry.worker_id, "it has not come back since the broker restarted", 0, 0)
            for seq in list(lease.pending):
                if self._settle(lease, row, seq, "gone", entry.gone):
                    yield from self._finish(lease, seq)

    # --- what others may see ---

    def _status_request(self, message: p.StatusRequest, event: Received, now: float) -> Iterator[Send]:
        yield Send(event.peer, p.StatusReply(message.request_id), (pack(self.statistics(now)),))

    def statistics(self, now: float) -> dict[str, Any]:
        """The pool as plain values: workers, leases and queue; ages in seconds.

        What supervisors see of a worker (phase, steps, memory) is as old as `seen_s`; null before the first heartbeat.
        """
        return {
            "boot_id": self._boot_id.hex(),
            "protocol": p.PROTOCOL,
            "workers": [
                {
                    "worker_id": worker.offer.worker_id,
                    "host": worker.offer.host,
                    "state": worker.state,
                    "retiring": worker.retiring,
                    "simulator": worker.offer.simulator,
                    "gpu": worker.offer.gpu,
                    "port": worker.offer.port,
                    "pid": worker.pid,
                    "supervisor_pid": worker.offer.supervisor_pid,
                    "incarnation": worker.incarnation,
                    "restarts": worker.restarts,
                    "env_patterns": list(worker.offer.env_patterns),
                    "lease": worker.lease_id.hex(),
                    "row": worker.row,
                    "silent_s": now - worker.heard_at,
                    **_seen_values(worker.seen, now),
                }
                for worker in self._workers.values()
            ],
            "leases": [
                {
                    "lease": lease.lease_id.hex(),
                    "env_id": lease.env_id,
                    "num_envs": len(lease.rows),
                    "age_s": now - lease.granted_at,
                    "silent_s": now - lease.renewed_at,
                    "commands": lease.commands,
                }
                for lease in self._leases.values()
            ],
            "queue": [
                {
                    "env_id": request.message.env_id,
                    "num_envs": request.message.num_envs,
                    "waiting_s": now - request.asked_at,
                }
                for request in self._queue
            ],
        }


def _seen_values(seen: _Seen | None, now: float) -> dict[str, Any]:
    names = ("phase", "steps", "env_rss_bytes", "server_rss_bytes", "server_vram_bytes", "growth_bytes_per_h", "leaks")
    return {
        "seen_s": None if seen is None else now - seen.at,
        **{name: None if seen is None else getattr(seen, name) for name in names},
    }


def _news(worker_id: str, reason: str, exit_code: int, restarts: int) -> bytes:
    """The payload of a row whose outcome is "lost" or "gone"."""
    return pack({"worker_id": worker_id, "reason": reason, "exit_code": exit_code, "restarts": restarts})


def _died_unseen(worker: _Worker) -> bytes:
    return _news(worker.offer.worker_id, "its env process ended while the broker was away", 0, worker.restarts)


def _command_flaw(message: p.Command, payloads: int, num_rows: int) -> str:
    """What is wrong with a command, in words; empty when nothing is."""
    if not len(message.rows) == len(message.ops) == payloads > 0:
        return f"expected as many rows as ops and payloads, found {len(message.rows)}, {len(message.ops)}, {payloads}"
    if len(set(message.rows)) != len(message.rows) or not all(0 <= row < num_rows for row in message.rows):
        return f"expected different rows from 0 to {num_rows - 1}, found {list(message.rows)}"
    unknown = set(message.ops) - p.OPS
    return f"expected ops from {sorted(p.OPS)}, found {sorted(unknown)}" if unknown else ""
