"""The commands of one lease on their way: handed to workers, held for a worker that restarts, settled, answered.

The latest replies are kept until later ones cover as many rows as the lease has: a client whose link was cut asks
again, and no answer, nor the news of a death, which is told once, may be lost with the link.
"""

from __future__ import annotations

from typing import Final

from zmqcarla.broker import protocol as p
from zmqcarla.broker.records import Lease, RowCommand, Send, Told, Worker

_PENDING_A_ROW: Final = 4
"""Commands that a client may have under way for each row; our own has one, and one that it gave up."""


def flaw(lease: Lease, message: p.Command, payloads: int) -> str:
    """What is wrong with a new command, in words; empty when nothing is."""
    num_rows = len(lease.rows)
    if not len(message.rows) == len(message.ops) == payloads > 0:
        return f"expected as many rows as ops and payloads, found {len(message.rows)}, {len(message.ops)}, {payloads}"
    if len(set(message.rows)) != len(message.rows) or not all(0 <= row < num_rows for row in message.rows):
        return f"expected different rows from 0 to {num_rows - 1}, found {list(message.rows)[:20]}"
    unknown = set(message.ops) - p.OPS
    if unknown:
        return f"expected ops from {sorted(p.OPS)}, found {sorted(unknown)[:20]}"
    newest = max(lease.rows[row].settled_seq for row in message.rows)
    if message.seq <= newest:
        return f"expected a seq above {newest}, which these rows have done, found {message.seq}"
    if len(lease.pending) >= _PENDING_A_ROW * num_rows:
        return f"expected at most {_PENDING_A_ROW} unanswered commands a row, found {len(lease.pending)} in all"
    return ""


def repeated(lease: Lease, seq: int, client: bytes) -> list[Send] | None:
    """What a client gets that asks a command again; None for one that was never heard of."""
    pending = lease.pending.get(seq)
    if pending is not None:
        pending.client = client
        return []
    for told in lease.told:
        if told.reply.seq == seq:
            return [Send(client, told.reply, told.payloads)]
    return None


def dispatch(lease: Lease, row: int, command: RowCommand, worker: Worker | None) -> list[Send]:
    """Hand one row's part of a command to its worker, hold it for a worker that restarts, or settle it at once."""
    entry = lease.rows[row]
    if command.op == "rebuild":  # the client knows of the death: its supervisor told it on the board
        entry.untold_loss = b""
    if entry.gone:
        settle(lease, row, command.seq, "gone", entry.gone)
    elif entry.untold_loss:
        settle(lease, row, command.seq, "lost", entry.untold_loss)
        entry.untold_loss = b""
    elif worker is not None and worker.state == "ready":
        entry.under_way = command
        message = p.RowCommand(lease.lease_id, row, command.seq, command.op)
        return [Send(worker.env_process, message, (command.payload,))]
    else:
        entry.held = command
    return []


def settle(lease: Lease, row: int, seq: int, outcome: str, payload: bytes) -> bool:
    """Note the outcome of one row; whether it was awaited."""
    pending = lease.pending.get(seq)
    if pending is None or row not in pending.waiting:
        return False
    pending.waiting.remove(row)
    entry = lease.rows[row]
    entry.under_way, entry.settled_seq = None, max(entry.settled_seq, seq)
    pending.outcomes[row] = (outcome, payload)
    return True


def finish(lease: Lease, seq: int) -> list[Send]:
    """Answer a command when all its rows are settled."""
    pending = lease.pending.get(seq)
    if pending is None or pending.waiting:
        return []
    del lease.pending[seq]
    settled = [pending.outcomes[row] for row in pending.rows]
    reply = p.CommandReply(lease.lease_id, seq, pending.rows, tuple([outcome for outcome, _ in settled]))
    told = Told(reply, [payload for _, payload in settled])
    lease.told.append(told)
    while sum(len(one.reply.rows) for one in lease.told) > len(lease.rows):
        lease.told.popleft()
    return [Send(pending.client, reply, told.payloads)]


def owed(lease: Lease, row: int) -> list[int]:
    """Commands that a row has not answered and that are not held for its next worker."""
    held = lease.rows[row].held
    return [seq for seq, pending in lease.pending.items() if row in pending.waiting and (not held or seq != held.seq)]
