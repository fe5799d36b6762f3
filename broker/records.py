"""What the broker remembers: workers, leases with their rows, and requests that wait. Plain records without rules."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Sequence
from typing import Literal, NamedTuple

from zmqcarla.broker import protocol as p
from zmqcarla.broker.codec import pack


class Send(NamedTuple):
    """Send a message to a peer."""

    peer: bytes
    message: p.Message
    payloads: Sequence[bytes] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Seen:
    """What a heartbeat said of a worker."""

    at: float
    phase: str
    steps: int
    env_rss_bytes: int
    server_rss_bytes: int
    server_vram_bytes: int
    growth_bytes_per_h: float
    leaks: str
    tick_ms: float
    render_ms: float
    observe_ms: float


@dataclasses.dataclass(slots=True)
class Worker:
    """One worker, as its supervisor offered it."""

    offer: p.Register
    supervisor: bytes
    heard_at: float
    user: str = ""
    """Whose key offered it, see `Received.user`."""
    state: Literal["starting", "ready", "lost", "gone"] = "starting"
    env_process: bytes = b""
    pid: int = 0
    incarnation: int = 0
    restarts: int = 0
    lease_id: bytes = b""
    row: int = -1
    end: str = ""
    """Why it is gone."""
    seen: Seen | None = None
    """By its supervisor, at the last heartbeat."""
    retiring: bool = False
    """Gets no new lease, and is stopped when it has none."""

    @property
    def free(self) -> bool:
        """Whether it may be given away."""
        return self.state == "ready" and not self.lease_id and not self.retiring

    @property
    def stays(self) -> bool:
        """Whether it may be given away now or later."""
        return self.state != "gone" and not self.retiring

    def leave(self) -> None:
        """Serve no lease any more."""
        self.lease_id, self.row = b"", -1

    def serve(self, lease_id: bytes, row: int) -> None:
        """Belong to a row of a lease."""
        self.lease_id, self.row = lease_id, row


@dataclasses.dataclass(slots=True)
class RowCommand:
    """One row's part of a command."""

    seq: int
    op: str
    payload: bytes


@dataclasses.dataclass(slots=True)
class Row:
    """One row of a lease."""

    worker_id: str
    held: RowCommand | None = None
    """Waits for the worker to come back."""
    under_way: RowCommand | None = None
    """Was sent to the worker, which has not answered."""
    untold_loss: bytes = b""
    gone: bytes = b""
    settled_seq: int = 0
    """The newest command whose outcome is known."""
    unconfirmed: bool = False
    """An earlier life of the broker leased it, and the worker has not yet said whether it still holds it."""


@dataclasses.dataclass(slots=True)
class Pending:
    """A command that not all rows have answered."""

    client: bytes
    rows: tuple[int, ...]
    waiting: set[int]
    outcomes: dict[int, tuple[str, bytes]]


@dataclasses.dataclass(frozen=True, slots=True)
class Told:
    """A reply as it was sent."""

    reply: p.CommandReply
    payloads: Sequence[bytes]


@dataclasses.dataclass(frozen=True, slots=True)
class Terms:
    """Which workers a lease may have."""

    env_id: str
    simulator: str | None
    gpu: int | None


@dataclasses.dataclass(slots=True)
class Lease:
    """The right of one client to some rows."""

    lease_id: bytes
    user: str
    terms: Terms
    rows: list[Row]
    ttl_s: float
    granted_at: float
    renewed_at: float
    renewer: bytes = b""
    """The peer that renewed it last."""
    pending: dict[int, Pending] = dataclasses.field(default_factory=dict)
    told: collections.deque[Told] = dataclasses.field(default_factory=collections.deque)
    """The latest replies, should their client ask again."""
    commands: int = 0
    step_times_ms: tuple[float, ...] = ()
    """As its client told last."""

    @property
    def workers(self) -> tuple[str, ...]:
        """The worker behind each row."""
        return tuple([row.worker_id for row in self.rows])


@dataclasses.dataclass(slots=True)
class Request:
    """A client waits for a lease."""

    client: bytes
    user: str
    message: p.LeaseRequest
    asked_at: float
    told_at: float

    @property
    def terms(self) -> Terms:
        """Which workers it may be given."""
        return Terms(self.message.env_id, self.message.simulator, self.message.gpu)


def news(worker_id: str, reason: str, exit_code: int, restarts: int) -> bytes:
    """The payload of a row whose outcome is "lost" or "gone"."""
    return pack({"worker_id": worker_id, "reason": reason, "exit_code": exit_code, "restarts": restarts})


def died_unseen(worker: Worker) -> bytes:
    """The news of an env process that ended while no broker ran."""
    return news(worker.offer.worker_id, "its env process ended while the broker was away", 0, worker.restarts)
