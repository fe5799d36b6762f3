"""Who may use which worker, and what is on its way to whom: every decision of the broker, without sockets or clocks.

    actions = table.handle(event, now)

An event is a received message, the passing of time, or the end of a key; an action is a message to send. The router
loop turns one into the other and decides nothing. Shape after dask.distributed's worker state machine: events in,
instructions out.

A worker is *starting* (its supervisor registered it), *ready* (its env process announced itself), *lost* (dead, being
restarted) or *gone* (will not come back). A command to a lost worker is held until the worker is ready again; a death
is told exactly once, as the answer to the command that was under way, else to the next one. The row of a worker that is
gone is given to a free one that fits, if there is any: to the client that is a death like others.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from zmqcarla.broker import admin, commands, heartbeats, matching
from zmqcarla.broker import protocol as p
from zmqcarla.broker.codec import pack
from zmqcarla.broker.errors import ProtocolVersionError
from zmqcarla.broker.lease_queue import LeaseQueue
from zmqcarla.broker.records import (
    Lease,
    Pending,
    Request,
    Row,
    RowCommand,
    Send,
    Terms,
    Worker,
    died_unseen,
    news,
)
from zmqcarla.broker.statistics import pool_values

__all__ = ["Clock", "Event", "LeaseTable", "Received", "Revoked", "Send"]


@dataclasses.dataclass(frozen=True, slots=True)
class Received:
    """A message came from a peer."""

    peer: bytes
    message: p.Message
    payloads: Sequence[bytes] = ()
    user: str = ""
    """The key that the peer's connection proved; empty where none is asked for and all peers are of one user."""


@dataclasses.dataclass(frozen=True, slots=True)
class Clock:
    """Time passed; to be given at least once a second."""


@dataclasses.dataclass(frozen=True, slots=True)
class Revoked:
    """A key is no longer allowed: what was done with it ends."""

    user: str


Event = Received | Clock | Revoked
_ENDED_KEPT: Final = 1024
_MAX_WORKERS: Final = 1024
_MAX_TTL_S: Final = 86_400.0


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
        self._workers: dict[str, Worker] = {}
        self._leases: dict[bytes, Lease] = {}
        self._queue = LeaseQueue()
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
        return list(self.follow(event, now))

    def follow(self, event: Event, now: float) -> Iterator[Send]:
        """What `handle` returns, one by one; to be taken to the end."""
        if isinstance(event, Clock):
            return self._clock(now)
        if isinstance(event, Revoked):
            return self._revoked(event.user, now)
        handler = self._handlers.get(type(event.message))
        if handler is None:
            text = f"expected a message to the broker, found {event.message.kind!r}"
            return iter([Send(event.peer, p.Rejected(text))])
        return handler(event.message, event, now)

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
        flaw = ""
        if not 1 <= message.num_envs <= p.MAX_ROWS:
            flaw = f"expected at least 1 env and at most {p.MAX_ROWS}, found num_envs={message.num_envs}"
        else:
            flaw = self._queue.flaw(event.user)
        if flaw:
            yield Send(event.peer, p.Refused(message.request_id, "impossible", flaw))
            return
        self._queue.add(Request(event.peer, event.user, message, now, now - p.HEARTBEAT_S))
        yield from self._serve_queue(now)

    def _serve_queue(self, now: float) -> Iterator[Send]:
        return self._queue.serve(self._workers.values(), self._grant, now)

    def _grant(self, request: Request, workers: list[Worker], now: float) -> Send:
        message = request.message
        rows = [Row(worker.offer.worker_id) for worker in workers]
        lease = self._new_lease(self._new_lease_id(), request.user, request.terms, rows, message.ttl_s, now)
        lease.renewer = request.client
        for row, worker in enumerate(workers):
            worker.serve(lease.lease_id, row)
        return Send(request.client, p.Leased(message.request_id, lease.lease_id, self._boot_id, lease.workers))

    def _new_lease(self, lease_id: bytes, user: str, terms: Terms, rows: list[Row], ttl_s: float, now: float) -> Lease:
        lease = Lease(lease_id, user, terms, rows, min(ttl_s, _MAX_TTL_S), now, now)
        self._leases[lease_id] = lease
        return lease

    def _lease_of(self, lease_id: bytes, event: Received) -> Lease | None:
        """The lease of that id, for the user whose it is: to others it does not exist."""
        lease = self._leases.get(lease_id)
        return lease if lease is not None and lease.user == event.user else None

    def _renew(self, message: p.Renew, event: Received, now: float) -> Iterator[Send]:
        lease = self._lease_of(message.lease_id, event)
        if lease is None and message.lease_id not in self._leases and self._may_return(message.lease_id, now):
            if len(set(message.workers)) != len(message.workers):
                yield Send(event.peer, p.Rejected(f"expected different workers, found {list(message.workers)[:20]}"))
                return
            lease = self._adopt(message, event.user, now)
        if lease is None:
            yield from self._unknown_lease(event.peer, message.lease_id, now)
        else:
            lease.renewed_at, lease.renewer, lease.step_times_ms = now, event.peer, message.step_times_ms
            yield Send(event.peer, p.Renewed(message.lease_id, self._boot_id, lease.workers))

    def _may_return(self, lease_id: bytes, now: float) -> bool:
        return now < self._returns_until and lease_id not in self._ended

    def _adopt(self, message: p.Renew, user: str, now: float) -> Lease:
        """A lease that an earlier life of the broker granted."""
        rows = [Row(name) for name in message.workers]
        terms = Terms(message.env_id, message.simulator, message.gpu)
        lease = self._new_lease(message.lease_id, user, terms, rows, message.ttl_s, now)
        for row, entry in enumerate(rows):
            worker = self._workers.get(entry.worker_id)
            if worker is None:
                entry.unconfirmed = True
            elif worker.lease_id in (b"", message.lease_id):
                entry.unconfirmed = worker.state != "ready"
                if worker.state == "ready" and not worker.lease_id:  # a new process: the one with the env has died
                    entry.untold_loss = died_unseen(worker)
                worker.serve(message.lease_id, row)
            else:
                entry.gone = news(entry.worker_id, "it was leased to another client", 0, worker.restarts)
        return lease

    def _place(self, worker: Worker) -> tuple[Lease, Row] | None:
        """The lease and the row that a worker serves; None when it serves none."""
        lease = self._leases.get(worker.lease_id)
        if lease is None or not 0 <= worker.row < len(lease.rows):
            return None
        entry = lease.rows[worker.row]
        return (lease, entry) if entry.worker_id == worker.offer.worker_id else None

    def _rows_of(self, worker_id: str) -> Iterator[tuple[Lease, int]]:
        for lease in self._leases.values():
            for row, entry in enumerate(lease.rows):
                if entry.worker_id == worker_id and not entry.gone:
                    yield lease, row

    def _release(self, message: p.Release, event: Received, now: float) -> Iterator[Send]:
        lease = self._lease_of(message.lease_id, event)
        if lease is not None:
            yield from self._end_lease(lease)
            yield from self._serve_queue(now)

    def _end_lease(self, lease: Lease) -> Iterator[Send]:
        del self._leases[lease.lease_id]
        self._ended.append(lease.lease_id)
        for row in lease.rows:
            worker = self._workers.get(row.worker_id)
            if worker is None or worker.lease_id != lease.lease_id:
                continue
            worker.leave()
            if worker.state == "ready":
                yield Send(worker.env_process, p.LeaseEnded(lease.lease_id))
            yield Send(worker.supervisor, p.LeaseEnded(lease.lease_id))

    def _command(self, message: p.Command, event: Received, now: float) -> Iterator[Send]:
        lease = self._lease_of(message.lease_id, event)
        if lease is None:
            yield from self._unknown_lease(event.peer, message.lease_id, now)
            return
        again = commands.repeated(lease, message.seq, event.peer)
        flaw = "" if again is not None else commands.flaw(lease, message, len(event.payloads))
        if flaw:
            yield Send(event.peer, p.Rejected(flaw))
            return
        lease.renewed_at = now
        if again is not None:
            yield from again
            return
        lease.commands += 1
        lease.pending[message.seq] = Pending(event.peer, message.rows, set(message.rows), {})
        for row, op, payload in zip(message.rows, message.ops, event.payloads, strict=True):
            yield from self._dispatch(lease, row, RowCommand(message.seq, op, payload))
        yield from commands.finish(lease, message.seq)

    def _dispatch(self, lease: Lease, row: int, command: RowCommand) -> list[Send]:
        worker = self._workers.get(lease.rows[row].worker_id)
        return commands.dispatch(lease, row, command, worker)

    def _probe(self, message: p.Probe, event: Received, now: float) -> Iterator[Send]:
        # Told again until the row is rebuilt: the client drops the news of a row that was done before its process died.
        lease = self._lease_of(message.lease_id, event)
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
        if lease_id not in self._leases and self._may_return(lease_id, now):
            return  # its renewal is on the way, and the client asks again
        text = (
            "the broker does not know this lease: it ended (released, or not renewed in time), or the broker restarted"
        )
        yield Send(client, p.LeaseLost(lease_id, text))

    # --- workers ---

    def _register(self, message: p.Register, event: Received, now: float) -> Iterator[Send]:
        worker = self._workers.get(message.worker_id)
        flaw = self._register_flaw(message, event, worker)
        if flaw:
            yield Send(event.peer, p.Rejected(flaw))
            return
        same_life = worker is not None and worker.offer.supervisor_pid == message.supervisor_pid
        if worker is not None and same_life and worker.state != "gone":
            worker.offer, worker.supervisor, worker.heard_at = message, event.peer, now
            worker.retiring |= message.retiring
        else:
            retiring = message.retiring or (worker is not None and worker.retiring)
            successor = Worker(message, event.peer, now, event.user, retiring=retiring)
            if worker is not None and worker.lease_id and worker.state != "gone":
                yield from self._lose(worker, "its supervisor was replaced", -1, now, final=False)
                successor.state = "lost"
                successor.serve(worker.lease_id, worker.row)
            self._workers[message.worker_id] = successor
            for lease, row in self._rows_of(message.worker_id):
                successor.serve(lease.lease_id, row)
        yield Send(event.peer, p.Welcome(message.worker_id, self._boot_id))

    def _register_flaw(self, message: p.Register, event: Received, worker: Worker | None) -> str:
        try:
            p.check_protocol(message.protocol, "worker")
        except ProtocolVersionError as error:
            return str(error)
        if worker is not None and worker.user != event.user:
            return f"expected a worker id of this key's own, found {message.worker_id!r}, which another key registered"
        if worker is None and len(self._workers) >= _MAX_WORKERS:
            return f"expected at most {_MAX_WORKERS} workers in a pool, found one more"
        return ""

    def _heartbeat(self, message: p.Heartbeat, event: Received, now: float) -> Iterator[Send]:
        wrong = heartbeats.complaint(message)
        if wrong:
            yield Send(event.peer, p.Rejected(wrong))
            return
        for index, worker_id in enumerate(message.worker_ids):
            worker = self._workers.get(worker_id)
            if worker is None or worker.supervisor != event.peer:  # the peer reconnected: its old route is dead
                yield Send(event.peer, p.UnknownWorker(worker_id))
            else:
                heartbeats.take(worker, message, index, now)

    def _worker_of(self, worker_id: str, event: Received) -> Worker | None:
        """The worker of that id, for a peer with the key that registered it."""
        worker = self._workers.get(worker_id)
        return worker if worker is not None and worker.user == event.user else None

    def _ready(self, message: p.Ready, event: Received, now: float) -> Iterator[Send]:
        worker = self._worker_of(message.worker_id, event)
        if worker is None or message.incarnation < worker.incarnation or worker.state == "gone":
            return  # its supervisor will register it, and it announces itself again
        if message.incarnation > worker.incarnation and worker.state == "ready":
            yield from self._lose(worker, "its env process was replaced", 0, now, final=False)
        if not message.lease_id and worker.lease_id not in self._leases:
            worker.leave()  # what was kept for a client that has not come back died with its env
        if message.lease_id and message.lease_id != worker.lease_id:
            unknown = message.lease_id not in self._leases
            if not worker.lease_id and unknown and self._may_return(message.lease_id, now):
                worker.serve(message.lease_id, message.row)  # kept for its client until then
            else:  # one that comes back after its row went to another worker, too
                yield Send(event.peer, p.LeaseEnded(message.lease_id))
        if worker.state == "ready" and worker.env_process == event.peer:
            return
        worker.state, worker.env_process = "ready", event.peer
        worker.incarnation, worker.pid = message.incarnation, message.pid
        place = self._place(worker)
        if place is None:
            yield from self._serve_queue(now)
            return
        lease, entry = place
        if entry.unconfirmed and message.lease_id != lease.lease_id:
            yield from self._tell_unseen_death(lease, entry, worker)
        entry.unconfirmed = False
        held, entry.held = entry.held, None
        # A command under way to the same process was lost with its connection; one that it has done it answers again.
        command = held or entry.under_way
        if command is not None:
            yield from self._dispatch(lease, worker.row, command)
            yield from commands.finish(lease, command.seq)

    def _row_reply(self, message: p.RowReply, event: Received, now: float) -> Iterator[Send]:
        if len(event.payloads) == 1:
            outcome = "ok" if message.outcome == "ok" else "error"
            payload = event.payloads[0]
            yield from self.row_done(event.peer, message.lease_id, message.row, message.seq, payload, outcome)

    def row_done(
        self, peer: bytes, lease_id: bytes, row: int, seq: int, payload: bytes, outcome: str = "ok"
    ) -> list[Send]:
        """What to send because a worker has answered: the one event of which a step has n, so it takes no detour."""
        lease = self._leases.get(lease_id)
        if lease is None or not 0 <= row < len(lease.rows):
            return []
        worker = self._workers.get(lease.rows[row].worker_id)
        if worker is None or worker.env_process != peer:
            return []  # a peer that does not own the row
        return commands.finish(lease, seq) if commands.settle(lease, row, seq, outcome, payload) else []

    def _worker_lost(self, message: p.WorkerLost, event: Received, now: float) -> Iterator[Send]:
        worker = self._worker_of(message.worker_id, event)
        if worker is None or message.incarnation < worker.incarnation:
            return
        worker.heard_at = now
        worker.restarts = message.restarts
        yield from self._lose(worker, message.reason, message.exit_code, now, final=message.final)
        if message.final:
            yield from self._serve_queue(now)

    def _unregister(self, message: p.Unregister, event: Received, now: float) -> Iterator[Send]:
        worker = self._workers.get(message.worker_id)
        if worker is not None and worker.supervisor == event.peer:
            yield from self._remove([worker], "its supervisor stopped", now)

    def _remove(self, workers: Sequence[Worker], reason: str, now: float) -> Iterator[Send]:
        """Take workers out of the pool, all of them before the row of one is given to another."""
        for worker in workers:
            del self._workers[worker.offer.worker_id]
        for worker in workers:
            yield from self._lose(worker, reason, 0, now, final=True)
        yield from self._serve_queue(now)

    def _lose(self, worker: Worker, reason: str, exit_code: int, now: float, *, final: bool) -> Iterator[Send]:
        """The worker's env process is dead: settle what it owed, or keep the news for the next command."""
        was_ready = worker.state == "ready"
        worker.state, worker.end = ("gone", reason) if final else ("lost", "")
        worker.env_process = b""
        place = self._place(worker)
        if place is None:
            return
        lease, entry = place
        row = worker.row
        spare = matching.spare_for(worker, lease.terms, self._workers.values(), now) if final else None
        gone = final and spare is None
        payload = news(worker.offer.worker_id, reason, exit_code, worker.restarts)
        if gone:
            entry.gone, entry.held = payload, None
        elif entry.under_way is not None and entry.under_way.op == "rebuild":
            # The client knows of a death, and it may be this one: the board told it before the supervisor told us.
            entry.held, entry.under_way = entry.under_way, None
        owed = commands.owed(lease, row)
        for seq in owed:
            commands.settle(lease, row, seq, "gone" if gone else "lost", payload)
            yield from commands.finish(lease, seq)
        if not owed and was_ready and not gone and entry.held is None:
            entry.untold_loss = payload
        if spare is not None:
            yield from self._move(lease, row, worker, spare)

    def _move(self, lease: Lease, row: int, lost: Worker, spare: Worker) -> Iterator[Send]:
        """Give the row of a worker that is gone to another one; its client rebuilds the env there."""
        lost.leave()
        spare.serve(lease.lease_id, row)
        entry = lease.rows[row]
        entry.worker_id, entry.unconfirmed = spare.offer.worker_id, False
        held, entry.held = entry.held, None
        if held is not None:
            yield from self._dispatch(lease, row, held)

    def _tell_unseen_death(self, lease: Lease, entry: Row, worker: Worker) -> Iterator[Send]:
        """A worker that held the row before the broker restarted comes without it: its env process has died since."""
        held = entry.held
        if held is None:
            entry.untold_loss = died_unseen(worker)
        elif held.op != "rebuild":  # of which the client sends none unless it knows
            entry.held = None
            commands.settle(lease, worker.row, held.seq, "lost", died_unseen(worker))
            yield from commands.finish(lease, held.seq)

    # --- time, and keys that end ---

    def _clock(self, now: float) -> Iterator[Send]:
        for lease in [lease for lease in self._leases.values() if now - lease.renewed_at >= lease.ttl_s]:
            yield from self._end_lease(lease)
        if now >= self._returns_until:
            for lease in self._leases.values():
                yield from self._give_up_unconfirmed(lease)
        for worker in self._workers.values():
            if worker.lease_id and worker.lease_id not in self._leases and now >= self._returns_until:
                yield Send(worker.env_process, p.LeaseEnded(worker.lease_id))
                worker.leave()
        silent: dict[float, list[Worker]] = {}
        for worker in self._workers.values():
            if now - worker.heard_at >= worker.offer.ttl_s:
                silent.setdefault(worker.offer.ttl_s, []).append(worker)
        for ttl_s, workers in silent.items():
            yield from self._remove(workers, f"its supervisor was silent for {ttl_s:g} s", now)
        for peer, order in admin.pursue(self._workers.values(), settled=now >= self._returns_until):
            yield Send(peer, order)
        yield from self._serve_queue(now)

    def _give_up_unconfirmed(self, lease: Lease) -> Iterator[Send]:
        for row, entry in enumerate(lease.rows):
            if not entry.unconfirmed or entry.worker_id in self._workers:
                continue
            entry.unconfirmed, entry.held = False, None
            entry.gone = news(entry.worker_id, "it has not come back since the broker restarted", 0, 0)
            for seq in list(lease.pending):
                if commands.settle(lease, row, seq, "gone", entry.gone):
                    yield from commands.finish(lease, seq)

    def _revoked(self, user: str, now: float) -> Iterator[Send]:
        """End the leases, requests and workers of a key."""
        text = "the key of this client was revoked on the broker's host (`zmqcarla revoke`)"
        for lease in [lease for lease in self._leases.values() if lease.user == user]:
            for client in {lease.renewer, *[pending.client for pending in lease.pending.values()]}:
                yield Send(client, p.LeaseLost(lease.lease_id, text))
            yield from self._end_lease(lease)
        for request in self._queue.take_away(user):
            yield Send(request.client, p.Refused(request.message.request_id, "impossible", text))
        workers = [worker for worker in self._workers.values() if worker.user == user]
        yield from self._remove(workers, "the key of its host was revoked", now)

    # --- what others may see ---

    def _status_request(self, message: p.StatusRequest, event: Received, now: float) -> Iterator[Send]:
        yield Send(event.peer, p.StatusReply(message.request_id), (pack(self.statistics(now)),))

    def statistics(self, now: float) -> dict[str, Any]:
        """The pool as plain values: workers, leases and queue; ages in seconds.

        What supervisors see of a worker (phase, steps, memory) is as old as `seen_s`; null before the first heartbeat.
        """
        values = pool_values(self._workers.values(), self._leases.values(), self._queue.waiting, now)
        return {"boot_id": self._boot_id.hex(), "protocol": p.PROTOCOL, **values}
