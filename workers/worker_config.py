"""What a supervisor and its processes are told: frozen, checked on construction, carried as JSON on a command line."""

from __future__ import annotations

import dataclasses
import json
import re
import secrets
import socket
from typing import Any, Final, Literal

from zmqcarla.broker.protocol import DEFAULT_TTL_S
from zmqcarla.workers.servers import QUALITY_LEVELS, QualityLevel

RECYCLE_TIMEOUT_S: Final = 540.0
"""Room for three starts at their limit, and less than clients wait for a reset."""

WorkerSimulator = Literal["embedded", "carla", "none"]

_SAFE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


def new_worker_id(port: int | None) -> str:
    """<host>-<port>, or a random ending where no port tells two workers of one host apart."""
    host = re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname())[:40] or "host"
    return f"{host}-{secrets.token_hex(4) if port is None else port}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class WorkerConfig:
    """One worker: a CARLA server (unless simulator is "none" or connect is given) and one env process."""

    worker_id: str
    """Unique in the pool; also the name of the log file, so letters, digits, '.', '_' and '-' only."""

    simulator: WorkerSimulator = "embedded"
    """Which server belongs to the worker; "none" for ordinary Gymnasium envs that need no server."""

    gpu: int | None = None
    """GPU of the server as nvidia-smi counts; a label for leases, and the adapter where `adapter` does not say."""

    adapter: int | None = None
    """The same GPU as Vulkan counts, which is what CarlaUE4 goes by; None takes the number `gpu`, or the first."""

    port: int | None = None
    """First port of the server's block, which then never moves; None takes a free block."""

    map: str | None = None
    """OpenDRIVE file or town that the embedded simulator starts with; None for its default."""

    carla_root: str | None = None
    """Folder that holds CarlaUE4.sh; only for simulator "carla"."""

    connect: str | None = None
    """HOST:PORT of a server that somebody else runs: it is neither started nor ended here."""

    quality: QualityLevel = "Low"
    """How CarlaUE4 draws: "Low" or "Epic"."""

    rendering: bool = True
    """False starts CarlaUE4 with -nullrhi, without a GPU: envs with a camera are then refused."""

    env_patterns: tuple[str, ...] = ("zmqcarla/*",)
    """fnmatch patterns of the env ids that clients may open, and of the reward functions ("module:name") that they may
    name; both can import code, so keep them narrow."""

    seed: int | None = None
    """Seed of the embedded simulator's own random choices; None for its default. Episodes are seeded by reset."""

    faults: tuple[str, ...] = ()
    """Faults that the embedded simulator commits (`zmqcarla sim --fault`), to try what a training loop does."""

    step_timeout_s: float = 60.0
    """A step that takes longer is cut: env process and server are killed and restarted. So is a server that answers
    nothing for this long while its worker idles."""

    reset_timeout_s: float = 180.0
    """The same for a reset, a call, and the end of a lease."""

    open_timeout_s: float = 180.0
    """The same for gymnasium.make."""

    restart_timeout_s: float = 180.0
    """How long a server may take until it listens, and an env process until it announces itself."""

    max_restarts: int = 5
    """With this many restarts within restart_window_s the budget is spent, and the worker stays down."""

    restart_window_s: float = 600.0
    """Restarts that are older than this no longer count."""

    stable_start_s: float = 5.0
    """A process that dies younger than this counts as a failed start: the next one waits longer."""

    start_delay_s: float = 0.0
    """The first start waits so long, so that the servers of a host do not all load their map at once."""

    quarantine_deaths: int = 3
    """A seed or route in which so many workers died within quarantine_window_s is not driven any more; 0 for never."""

    quarantine_window_s: float = 3600.0
    """Deaths that are older than this no longer count."""

    recycle_episodes: int | None = None
    """Episodes after which the server is replaced, before the next one begins; 0 for never, None for 500 with CarlaUE4
    and never with the embedded simulator."""

    recycle_rss_growth_mib: int = 4096
    """Growth of the server's main memory, in MiB since its third episode, at which it is replaced likewise; 0 for
    never."""

    recycle_vram_growth_mib: int = 2048
    """The same of its GPU memory, where the driver tells it a process."""

    recycle_timeout_s: float = RECYCLE_TIMEOUT_S
    """How long an env process waits for the server that replaces one; then it ends, and both are started anew."""

    renew_env_growth_mib: int = 3
    """Growth of the env process's own memory, in MiB since its twentieth episode, at which it begins anew before the
    next one, on the same server; 0 for never."""

    def __post_init__(self) -> None:
        _expect("worker_id", self.worker_id, _SAFE_ID.fullmatch(self.worker_id), "1 to 128 of A-Z a-z 0-9 . _ -")
        choices = ("embedded", "carla", "none")
        _expect("simulator", self.simulator, self.simulator in choices, f"one of {', '.join(choices)}")
        _expect("env_patterns", self.env_patterns, self.env_patterns, "at least one pattern")
        for name in ("step", "reset", "open", "restart", "recycle"):
            value = getattr(self, f"{name}_timeout_s")
            _expect(f"{name}_timeout_s", value, value > 0.0, "a number above 0")
        _expect("quality", self.quality, self.quality in QUALITY_LEVELS, f"one of {', '.join(QUALITY_LEVELS)}")
        growths = ("recycle_rss_growth_mib", "recycle_vram_growth_mib", "renew_env_growth_mib")
        for name in ("recycle_episodes", *growths):
            _expect(name, getattr(self, name), (getattr(self, name) or 0) >= 0, "0 or more")
        _expect("max_restarts", self.max_restarts, self.max_restarts >= 0, "0 or more")
        _expect("quarantine_deaths", self.quarantine_deaths, self.quarantine_deaths >= 0, "0 or more")
        if self.connect is not None:
            host, _, port = self.connect.rpartition(":")
            _expect("connect", self.connect, host and port.isdigit() and 0 < int(port) < 65536, "HOST:PORT")
            _expect("connect", self.connect, self.simulator != "none", 'None with simulator="none"')

        embedded = self.simulator == "embedded" and self.connect is None
        _expect("faults", self.faults, embedded or not self.faults, "none but for an embedded simulator of its own")

    @property
    def owns_server(self) -> bool:
        """Whether a server is started, watched and restarted for this worker."""
        return self.simulator != "none" and self.connect is None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SupervisorConfig:
    """What one supervisor process looks after."""

    broker: str
    """ZeroMQ address of the broker."""

    workers: tuple[WorkerConfig, ...]
    """The workers; their ids differ."""

    log_directory: str
    """Takes <worker_id>.log (env process) and <worker_id>.server.log; made when absent."""

    ttl_s: float = DEFAULT_TTL_S
    """The broker calls the workers lost when this supervisor has been silent for so long."""

    log_format: Literal["text", "json"] = "text"
    """How the supervisor writes its own log."""

    log_max_bytes: int = 16 << 20
    """A log file in log_directory that is larger is put aside."""

    logs_kept: int = 3
    """How many old ones of each log file stay."""

    roster: str | None = None
    """File that keeps the workers as they were scaled and drained; when it exists, it counts instead of `workers`."""

    lifeline_fd: int | None = None
    """Inherited read end of a pipe; end of file on it means that the starter is gone, and everything is stopped."""

    def __post_init__(self) -> None:
        ids = [worker.worker_id for worker in self.workers]
        _expect("workers", ids, ids and len(set(ids)) == len(ids), "at least one worker, and different worker_ids")

    def to_json(self) -> str:
        """The text that `from_json` reads."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> SupervisorConfig:
        """The config of a JSON text.

        Raises:
            ValueError: not JSON, an unknown field, or a value that is not allowed.
        """
        fields = _object(text)
        try:
            fields["workers"] = tuple([worker_of_fields(worker) for worker in fields["workers"]])
            return cls(**fields)
        except (TypeError, KeyError) as error:
            raise ValueError(f"expected the fields of SupervisorConfig, found {text[:200]}: {error}") from None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EnvProcessConfig:
    """What a supervisor tells an env process."""

    worker_id: str
    """Of the worker that it serves."""

    incarnation: int
    """1 for the first env process of the worker, one more for each restart."""

    broker: str
    """ZeroMQ address of the broker."""

    page_fd: int
    """Its status page, inherited."""

    supervisor_pid: int
    """Its parent; it ends when that is gone."""

    last_words_fd: int
    """Inherited write end of a pipe for the reason of a sudden end."""

    simulator: WorkerSimulator
    """As in WorkerConfig."""

    server: str | None
    """HOST:PORT of the worker's CARLA server."""

    rendering: bool
    """As in WorkerConfig."""

    env_patterns: tuple[str, ...]
    """As in WorkerConfig."""

    quarantine: str | None = None
    """File with the episodes that are not begun."""

    recycle_timeout_s: float = RECYCLE_TIMEOUT_S
    """As in WorkerConfig."""

    renew_growth_mib: int = 0
    """As renew_env_growth_mib in WorkerConfig."""

    carried_fd: int | None = None
    """Inherited memfd with what the process's life before has left to this one; None in its first."""

    def to_json(self) -> str:
        """The text that `from_json` reads."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> EnvProcessConfig:
        """The config of a JSON text.

        Raises:
            ValueError: not JSON, or other fields than these.
        """
        fields = _object(text)
        try:
            return cls(**_with_tuples(fields))
        except (TypeError, KeyError) as error:
            raise ValueError(f"expected the fields of EnvProcessConfig, found {text[:200]}: {error}") from None


def worker_of_fields(fields: dict[str, Any]) -> WorkerConfig:
    """A worker of the fields that JSON carried.

    Raises:
        TypeError: an unknown field.
        ValueError: a value that is not allowed.
    """
    return WorkerConfig(**_with_tuples(fields))


def _with_tuples(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields with JSON's lists as the tuples that they were."""
    return {name: tuple(value) if name in ("env_patterns", "faults") else value for name, value in fields.items()}


def _object(text: str) -> dict[str, Any]:
    fields = json.loads(text)
    if not isinstance(fields, dict):
        raise ValueError(f"expected a JSON object, found {text[:200]}")
    return fields


def _expect(name: str, value: object, good: object, expected: str) -> None:
    if not good:
        raise ValueError(f"{name}: expected {expected}, found {value!r}")
