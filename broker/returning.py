"""Leases of the broker's life before, which come back by renewals: which workers still have their rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from zmqcarla.broker import commands
from zmqcarla.broker.records import Lease, Row, Send, Worker, died_unseen, news


def take_rows(lease: Lease, workers: Mapping[str, Worker]) -> None:
    """Give a lease that has come back its rows, as far as their workers are known."""
    for row, entry in enumerate(lease.rows):
        worker = workers.get(entry.worker_id)
        if worker is None:
            entry.unconfirmed = True
        elif worker.lease_id in (b"", lease.lease_id):
            entry.unconfirmed = worker.state != "ready"
            if worker.state == "ready" and not worker.lease_id:  # a new process: the one with the env has died
                entry.untold_loss = died_unseen(worker)
            worker.serve(lease.lease_id, row)
        else:
            entry.gone = news(entry.worker_id, "it was leased to another client", 0, worker.restarts)


def tell_unseen_death(lease: Lease, entry: Row, worker: Worker) -> Iterator[Send]:
    """A worker that held the row before the broker restarted comes without it: its env process has died since."""
    held = entry.held
    if held is None:
        entry.untold_loss = died_unseen(worker)
    elif held.op != "rebuild":  # of which the client sends none unless it knows
        entry.held = None
        commands.settle(lease, worker.row, held.seq, "lost", died_unseen(worker))
        yield from commands.finish(lease, held.seq)


def give_up_unconfirmed(lease: Lease, workers: Mapping[str, Worker]) -> Iterator[Send]:
    """The time to come back is over: rows whose worker has not are gone."""
    for row, entry in enumerate(lease.rows):
        if not entry.unconfirmed or entry.worker_id in workers:
            continue
        entry.unconfirmed, entry.held = False, None
        entry.gone = news(entry.worker_id, "it has not come back since the broker restarted", 0, 0)
        for seq in list(lease.pending):
            if commands.settle(lease, row, seq, "gone", entry.gone):
                yield from commands.finish(lease, seq)
