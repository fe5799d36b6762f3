"""The messages between client, broker and worker: one frozen dataclass each, and the numbers that all agree on.

`KINDS` lists every message; docs/protocol.md is the same list as a table with directions, and a test holds the two
together. Bump `PROTOCOL` with any change that an older peer would misread. Their form on the wire is in
`zmqcarla.broker.protocol` and, for steps, in `zmqcarla.broker.step_frames`.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Final

PROTOCOL: Final = 2

MAX_HEADER_BYTES: Final = 1 << 20
MAX_PAYLOAD_BYTES: Final = 64 << 20
MAX_ROWS: Final = 4096
"""Of a lease, and the longest list in a header."""
MAX_FRAMES: Final = 1 + MAX_ROWS
MAX_TEXT_BYTES: Final = 1 << 16
"""Of one text in a header."""
MAX_ID_BYTES: Final = 64
MAX_INT: Final = (1 << 63) - 1
"""Of an int in a header."""

HEARTBEAT_S: Final = 1.0
"""How often clients renew their leases, supervisors report their workers and idle env processes announce themselves."""
DEFAULT_TTL_S: Final = 30.0
"""A peer that has been silent for this long is dead."""


@dataclasses.dataclass(frozen=True, slots=True)
class Message:
    """Base of all messages; `kind` is the first element of the header."""

    kind: ClassVar[str] = ""


# --- client to broker ---


@dataclasses.dataclass(frozen=True, slots=True)
class LeaseRequest(Message):
    """Ask for `num_envs` workers that may run `env_id`."""

    kind: ClassVar[str] = "lease_request"
    protocol: int
    request_id: bytes
    num_envs: int
    env_id: str
    timeout_s: float
    """How long the request may wait in the queue."""
    ttl_s: float
    """The lease ends when it has not been renewed for this long."""
    simulator: str | None
    """Only workers with this simulator ("embedded", "carla", "none"); None for any."""
    gpu: int | None
    """Only workers on this GPU; None for any."""


@dataclasses.dataclass(frozen=True, slots=True)
class Renew(Message):
    """The client of the lease lives; says all that a broker which was restarted has to know."""

    kind: ClassVar[str] = "renew"
    lease_id: bytes
    env_id: str
    ttl_s: float
    workers: tuple[str, ...]
    """As the last Leased or Renewed said."""
    simulator: str | None
    """As in the LeaseRequest."""
    gpu: int | None
    step_times_ms: tuple[float, ...]
    """As STEP_TIMES names them, of the latest steps; empty before the first."""


@dataclasses.dataclass(frozen=True, slots=True)
class Command(Message):
    """One command to some rows of a lease; payload frame i belongs to rows[i]."""

    kind: ClassVar[str] = "command"
    lease_id: bytes
    seq: int
    """Grows by one with every command of the lease; a worker never does one (row, seq) twice."""
    rows: tuple[int, ...]
    ops: tuple[str, ...]
    """One of OPS for each row."""


@dataclasses.dataclass(frozen=True, slots=True)
class Release(Message):
    """The client is done with the lease."""

    kind: ClassVar[str] = "release"
    lease_id: bytes


@dataclasses.dataclass(frozen=True, slots=True)
class Probe(Message):
    """Rows that step over the board are late: does the broker know of a death that their supervisor could not tell?"""

    kind: ClassVar[str] = "probe"
    lease_id: bytes


@dataclasses.dataclass(frozen=True, slots=True)
class StatusRequest(Message):
    """Ask for the state of the pool."""

    kind: ClassVar[str] = "status_request"
    protocol: int
    request_id: bytes


# --- broker to client ---


@dataclasses.dataclass(frozen=True, slots=True)
class Queued(Message):
    """The request waits; sent once a second so that the client can show progress."""

    kind: ClassVar[str] = "queued"
    request_id: bytes
    position: int
    """0 for the next to be served."""
    suitable_free: int
    suitable_total: int


@dataclasses.dataclass(frozen=True, slots=True)
class Leased(Message):
    """The request is served: row i is worker workers[i]."""

    kind: ClassVar[str] = "leased"
    request_id: bytes
    lease_id: bytes
    boot_id: bytes
    workers: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Renewed(Message):
    """The broker knows the lease; with another boot_id than before, the client sends its pending command again."""

    kind: ClassVar[str] = "renewed"
    lease_id: bytes
    boot_id: bytes
    workers: tuple[str, ...]
    """Of each row now: the row of a worker that is gone passes to a free one."""


@dataclasses.dataclass(frozen=True, slots=True)
class Refused(Message):
    """The request ends without a lease."""

    kind: ClassVar[str] = "refused"
    request_id: bytes
    reason: str
    """"timeout", "impossible" or "protocol"."""
    text: str


@dataclasses.dataclass(frozen=True, slots=True)
class CommandReply(Message):
    """All rows of a command are settled; payload frame i belongs to rows[i]."""

    kind: ClassVar[str] = "command_reply"
    lease_id: bytes
    seq: int
    rows: tuple[int, ...]
    outcomes: tuple[str, ...]
    """One of OUTCOMES for each row."""


@dataclasses.dataclass(frozen=True, slots=True)
class ProbeReply(Message):
    """Rows that are lost or gone, with what is known in payload frame i; told until it is rebuilt."""

    kind: ClassVar[str] = "probe_reply"
    lease_id: bytes
    rows: tuple[int, ...]
    outcomes: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class LeaseLost(Message):
    """The broker does not know the lease, or has ended it."""

    kind: ClassVar[str] = "lease_lost"
    lease_id: bytes
    text: str


@dataclasses.dataclass(frozen=True, slots=True)
class StatusReply(Message):
    """The state of the pool; the payload frame is a packed dict, see `LeaseTable.statistics`."""

    kind: ClassVar[str] = "status_reply"
    request_id: bytes


# --- administrator to broker and back, over the admin socket ---


@dataclasses.dataclass(frozen=True, slots=True)
class AdminRequest(Message):
    """Restart workers, scale the pool, or drain it."""

    kind: ClassVar[str] = "admin_request"
    protocol: int
    request_id: bytes
    order: str
    """"restart", "scale" or "drain"."""
    workers: tuple[str, ...]
    """Whom to restart; empty for all."""
    count: int
    """How many workers the pool is to have, for "scale"."""


@dataclasses.dataclass(frozen=True, slots=True)
class AdminReply(Message):
    """What the order means; it is under way, not done."""

    kind: ClassVar[str] = "admin_reply"
    request_id: bytes
    refused: bool
    text: str
    workers: tuple[str, ...]
    """Those whom it concerns."""


# --- worker to broker ---


@dataclasses.dataclass(frozen=True, slots=True)
class Register(Message):
    """A supervisor offers a worker."""

    kind: ClassVar[str] = "register"
    protocol: int
    worker_id: str
    host: str
    supervisor_pid: int
    simulator: str
    """"embedded", "carla" or "none"."""
    gpu: int | None
    port: int | None
    """The RPC port of its CARLA server."""
    env_patterns: tuple[str, ...]
    """fnmatch patterns of the env ids that it may run."""
    ttl_s: float
    """The worker is lost when its supervisor has been silent for this long."""
    retiring: bool = False
    """It gets no new lease, and stops when the one that it has ends."""


@dataclasses.dataclass(frozen=True, slots=True)
class Heartbeat(Message):
    """The supervisor of these workers lives; what it sees of each, in the order of `worker_ids`."""

    kind: ClassVar[str] = "heartbeat"
    worker_ids: tuple[str, ...]
    phases: tuple[str, ...]
    """What the env process does, "absent" while there is none."""
    steps: tuple[int, ...]
    """Done since the supervisor started."""
    restarts: tuple[int, ...]
    """Since the supervisor started."""
    env_rss_bytes: tuple[int, ...]
    """Resident memory of the env process and its children."""
    server_rss_bytes: tuple[int, ...]
    """Resident memory of the CARLA server; 0 where it is not the supervisor's."""
    server_vram_bytes: tuple[int, ...]
    """GPU memory of the CARLA server; 0 where nobody can tell."""
    growth_bytes_per_h: tuple[float, ...]
    """Of both in main memory, over the last hour; 0 while nothing can be said."""
    leaks: tuple[str, ...]
    """What grows without end: "env process", "server", "server's GPU memory", several with commas, or empty."""
    tick_ms: tuple[float, ...]
    """Control and ticks of the world: mean of the steps between the last two looks; 0 where the env does not tell."""
    render_ms: tuple[float, ...]
    """The same, waiting for the sensors."""
    observe_ms: tuple[float, ...]
    """The same, observation, reward and criteria."""


@dataclasses.dataclass(frozen=True, slots=True)
class Unregister(Message):
    """The supervisor takes the worker away in good order."""

    kind: ClassVar[str] = "unregister"
    worker_id: str


@dataclasses.dataclass(frozen=True, slots=True)
class WorkerLost(Message):
    """The env process of this incarnation is dead (after waitpid)."""

    kind: ClassVar[str] = "worker_lost"
    worker_id: str
    incarnation: int
    reason: str
    exit_code: int
    """As subprocess.Popen.returncode: negative for a signal."""
    restarts: int
    """How often the worker has been restarted so far."""
    final: bool
    """The restart budget is spent: the worker will not come back."""


@dataclasses.dataclass(frozen=True, slots=True)
class Ready(Message):
    """The env process waits for commands; announced at the start and about every HEARTBEAT_S."""

    kind: ClassVar[str] = "ready"
    protocol: int
    worker_id: str
    incarnation: int
    """1 for the first env process of the worker, one more for each restart."""
    pid: int
    lease_id: bytes
    """Empty when it serves none."""
    row: int
    seq: int


@dataclasses.dataclass(frozen=True, slots=True)
class RowReply(Message):
    """The answer to one RowCommand; one payload frame."""

    kind: ClassVar[str] = "row_reply"
    lease_id: bytes
    row: int
    seq: int
    outcome: str
    """"ok" or "error"."""


# --- broker to worker ---


@dataclasses.dataclass(frozen=True, slots=True)
class Welcome(Message):
    """The broker knows the worker (answer to Register)."""

    kind: ClassVar[str] = "welcome"
    worker_id: str
    boot_id: bytes


@dataclasses.dataclass(frozen=True, slots=True)
class UnknownWorker(Message):
    """The broker does not know the worker (a restarted broker): register again."""

    kind: ClassVar[str] = "unknown_worker"
    worker_id: str


@dataclasses.dataclass(frozen=True, slots=True)
class RowCommand(Message):
    """One row's share of a Command; one payload frame."""

    kind: ClassVar[str] = "row_command"
    lease_id: bytes
    row: int
    seq: int
    op: str


@dataclasses.dataclass(frozen=True, slots=True)
class LeaseEnded(Message):
    """To the env process: close the env and forget the arena. To the supervisor: sweep abandoned segments."""

    kind: ClassVar[str] = "lease_ended"
    lease_id: bytes


@dataclasses.dataclass(frozen=True, slots=True)
class SupervisorOrder(Message):
    """An administrator's will, to the supervisor: restart, retire or stop a worker, or add one more."""

    kind: ClassVar[str] = "supervisor_order"
    order: str
    """"restart", "retire", "stop" or "add"."""
    worker_id: str
    """Empty for "add"."""


@dataclasses.dataclass(frozen=True, slots=True)
class Rejected(Message):
    """The last message was not accepted; the text says what was expected."""

    kind: ClassVar[str] = "rejected"
    text: str


STEP_TIMES: Final = ("step_p50_ms", "step_p99_ms", "env_p50_ms", "transport_p50_ms", "policy_p50_ms")
"""What a client tells of its latest steps: a whole step, what its slowest env took of it, what the way there and back
took, and what the client did between two steps."""
ENV_PARTS: Final = ("tick_ms", "render_ms", "observe_ms")
"""What a heartbeat tells of the time that an env takes."""
OPS: Final = frozenset({"open", "attach", "reset", "rebuild", "step", "call", "set_attr"})
AUTORESET_SAME_STEP: Final = "SameStep"
"""The value of gymnasium's AutoresetMode.SAME_STEP: the only mode in which the worker resets by itself."""
EXIT_SIMULATOR_FAILED: Final = 70
"""Exit code of an env process whose simulator stopped answering: its supervisor restarts both."""
EXIT_DRAINED: Final = 71
"""Exit code of a supervisor whose last worker was taken away: nobody is to start it again."""
OUTCOMES: Final = frozenset({"ok", "error", "lost", "gone"})
"""ok and error come from the env; lost: the worker died and restarts; gone: it will not come back."""

KINDS: Final[dict[str, type[Message]]] = {
    message.kind: message
    for message in (
        LeaseRequest, Renew, Command, Release, Probe, StatusRequest,
        Queued, Leased, Renewed, Refused, CommandReply, ProbeReply, LeaseLost, StatusReply,
        Register, Heartbeat, Unregister, WorkerLost, Ready, RowReply,
        Welcome, UnknownWorker, RowCommand, LeaseEnded, SupervisorOrder, Rejected,
        AdminRequest, AdminReply,
    )
}  # fmt: skip
