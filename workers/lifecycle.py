"""When the processes of one worker are started, ended, reported and restarted: decisions only.

    actions = lifecycle.handle(event, now)

No socket, process or clock inside; the supervisor feeds what it saw and does what comes back. Two things are tracked,
the server and the env process, each absent, coming, up or ending; `_advance` then takes the next step towards what is
wanted. A restart budget over a sliding window, and a start that counts only after the process lived a while, are the
rules of OTP's supervisors and of ipyparallel's launchers.
"""

from __future__ import annotations

import dataclasses
import enum
import signal
from collections.abc import Iterator
from typing import Final

from zmqcarla.broker.protocol import EXIT_SIMULATOR_FAILED
from zmqcarla.shm.status_page import Phase
from zmqcarla.workers.worker_config import WorkerConfig

TERM_GRACE_S: Final = 3.0
"""Between SIGTERM and SIGKILL of an env process."""
SERVER_GRACE_S: Final = 4.5
"""What a guard gets to end its server before both are killed; its own grace is three seconds."""
_FIRST_BACKOFF_S: Final = 0.5
_LONGEST_BACKOFF_S: Final = 30.0


# --- events ---


@dataclasses.dataclass(frozen=True, slots=True)
class Tick:
    """Time passed."""


@dataclasses.dataclass(frozen=True, slots=True)
class ServerReady:
    """The server listens, and it is ours."""


@dataclasses.dataclass(frozen=True, slots=True)
class ServerFailed:
    """The server could not be started; `hopeless` when trying again cannot help. What was started may still run."""

    reason: str
    hopeless: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class ServerExited:
    """The server's process group is gone."""

    status: int


@dataclasses.dataclass(frozen=True, slots=True)
class EnvExited:
    """The env process is dead and reaped; `exit_code` as Popen.returncode."""

    exit_code: int
    last_words: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Observed:
    """What the status page says."""

    phase: Phase
    age_s: float
    seq: int


@dataclasses.dataclass(frozen=True, slots=True)
class EnvStopped:
    """A signal has stopped the env process, so long ago, and none has continued it."""

    age_s: float


@dataclasses.dataclass(frozen=True, slots=True)
class ServerSilent:
    """The server of an idle worker has not answered a question for so long."""

    age_s: float


@dataclasses.dataclass(frozen=True, slots=True)
class Restart:
    """Somebody asked for new processes; it costs no budget, and one that was spent is full again."""


@dataclasses.dataclass(frozen=True, slots=True)
class ServerWorn:
    """The server should be replaced before the next episode."""

    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class Stop:
    """The worker is no longer wanted."""


Event = (
    Tick
    | ServerReady
    | ServerFailed
    | ServerExited
    | EnvExited
    | Observed
    | EnvStopped
    | ServerWorn
    | ServerSilent
    | Restart
    | Stop
)


# --- actions ---


@dataclasses.dataclass(frozen=True, slots=True)
class StartServer:
    """Start the server; the answer is ServerReady or ServerFailed."""


@dataclasses.dataclass(frozen=True, slots=True)
class EndServer:
    """End the server without waiting; the answer is ServerExited. With `force`, kill what is left."""

    force: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class StartEnv:
    """Start the env process."""

    incarnation: int


@dataclasses.dataclass(frozen=True, slots=True)
class SignalEnv:
    """Signal the env process's group."""

    number: signal.Signals


@dataclasses.dataclass(frozen=True, slots=True)
class ReportLost:
    """Tell the broker."""

    incarnation: int
    reason: str
    exit_code: int
    restarts: int
    final: bool


@dataclasses.dataclass(frozen=True, slots=True)
class NoteServerFailed:
    """Keep in mind why a server did not come up for a worker that the broker knows to be lost."""

    incarnation: int
    reason: str
    restarts: int


@dataclasses.dataclass(frozen=True, slots=True)
class AskToRecycle:
    """Ask the env process to leave the server before its next episode, and to wait for another one."""


@dataclasses.dataclass(frozen=True, slots=True)
class NoteRecycled:
    """Keep in mind that a worn server is being replaced; nobody lost anything."""

    reason: str
    restarts: int


Action = StartServer | EndServer | StartEnv | SignalEnv | ReportLost | NoteServerFailed | AskToRecycle | NoteRecycled


class _Part(enum.Enum):
    ABSENT = enum.auto()
    STARTING = enum.auto()
    UP = enum.auto()
    ENDING = enum.auto()


class _Goal(enum.Enum):
    RUN = enum.auto()
    DOWN = enum.auto()
    """The restart budget is spent."""
    STOP = enum.auto()


class Lifecycle:
    """The state machine of one worker.

    Args:
        config: what to run, and its limits.
        log_name: where a user finds the worker's output; named in the last report.

    Attributes:
        incarnation: of the present or last env process; 0 before the first.
        restarts: how often the worker has been restarted.
        recycled: how often a worn server has been replaced between two episodes.
    """

    def __init__(self, config: WorkerConfig, log_name: str) -> None:
        self.incarnation = 0
        self.restarts = 0
        self.recycled = 0
        self._config = config
        self._log_name = log_name
        self._limits_s = {
            Phase.STARTING: config.restart_timeout_s,
            Phase.OPENING: config.open_timeout_s,
            Phase.RESETTING: config.reset_timeout_s,
            Phase.STEPPING: config.step_timeout_s,
            Phase.CALLING: config.reset_timeout_s,
            Phase.CLOSING: config.reset_timeout_s,
        }
        self._goal = _Goal.RUN
        self._server = _Part.ABSENT
        self._server_deadline = 0.0
        self._renew_server = False
        self._worn_because = ""
        self._env_waits = False
        """For a fresh server, between two episodes."""
        self._env = _Part.ABSENT
        self._env_started_at = 0.0
        self._kill_env_at = 0.0
        self._killed_because = ""
        self._asked = False
        self._failed_starts = 0
        self._restarted_at: list[float] = []
        self._resume_at: float | None = None

    @property
    def down(self) -> bool:
        """Whether the restart budget is spent."""
        return self._goal is _Goal.DOWN

    @property
    def stopped(self) -> bool:
        """Whether everything has ended after a Stop."""
        return self._goal is _Goal.STOP and self._server is _Part.ABSENT and self._env is _Part.ABSENT

    @property
    def hurried(self) -> bool:
        """Whether something is expected to happen soon that only polling shows."""
        return _Part.ENDING in (self._server, self._env) or self._server is _Part.STARTING

    def handle(self, event: Event, now: float) -> list[Action]:
        """What to do because of `event`; `now` in seconds of any steady clock."""
        if self._resume_at is None:
            self._resume_at = now + self._config.start_delay_s
        return [*self._respond(event, now), *self._advance(now)]

    def _respond(self, event: Event, now: float) -> Iterator[Action]:
        match event:
            case Tick():
                yield from self._overdue(now)
            case ServerReady() if self._server is _Part.STARTING:
                self._server, self._env_waits, self._worn_because = _Part.UP, False, ""
            case ServerFailed(reason, hopeless) if self._server is _Part.STARTING:
                self._renew_server = True
                if self._env is _Part.UP and (hopeless or len(self._recent_restarts(now)) >= self._config.max_restarts):
                    yield from self._kill_env(reason)
                else:
                    reported = self.incarnation > 0
                    yield from self._lose(reason, -1, now, stable=False, hopeless=hopeless, reported=reported)
            case ServerExited(status):
                unasked = self._server is _Part.UP
                self._server, self._renew_server = _Part.ABSENT, False
                if unasked and self._env is _Part.UP:
                    yield from self._kill_env(f"its {self._config.simulator} simulator ended with status {status}")
            case EnvExited(exit_code, last_words):
                yield from self._env_exited(exit_code, last_words, now)
            case ServerWorn(reason) if self._server is _Part.UP and not self._worn_because:
                self._worn_because = reason
                yield AskToRecycle()
            case Observed(Phase.RECYCLING) if self._env is _Part.UP and self._worn_because:
                if not self._env_waits:
                    self._env_waits = self._renew_server = True
                    self.recycled += 1
                    yield NoteRecycled(self._worn_because, self.restarts)
            case Observed(phase, age_s, seq) if self._env is _Part.UP:
                limit_s = self._limits_s.get(phase)
                if limit_s is not None and age_s > limit_s:
                    self._renew_server = True
                    yield from self._kill_env(
                        f"cut after {age_s:.1f} s of {phase.name.lower()} (command {seq}); the limit is {limit_s:g} s"
                    )
            case EnvStopped(age_s) if self._env is _Part.UP and age_s > self._config.step_timeout_s:
                limit_s = self._config.step_timeout_s
                yield from self._kill_env(
                    f"cut after {age_s:.1f} s of being stopped by a signal; the limit is {limit_s:g} s"
                )
            case ServerSilent(age_s) if self._server is _Part.UP and self._env is _Part.UP:
                self._renew_server = True
                yield from self._kill_env(f"its {self._config.simulator} simulator has not answered for {age_s:.0f} s")
            case Restart() if self._goal is not _Goal.STOP:
                self._goal, self._restarted_at, self._resume_at = _Goal.RUN, [], now
                if self._env is _Part.UP:
                    self._renew_server = self._asked = True
                    yield from self._kill_env("restarted on request")
            case Stop():
                self._goal = _Goal.STOP
                if self._env is _Part.UP:
                    self._env, self._kill_env_at = _Part.ENDING, now + TERM_GRACE_S
                    yield SignalEnv(signal.SIGTERM)
            case _:
                pass  # an answer to a question that no longer stands

    def _overdue(self, now: float) -> Iterator[Action]:
        if self._env is _Part.ENDING and now >= self._kill_env_at:
            self._kill_env_at = now + TERM_GRACE_S
            yield SignalEnv(signal.SIGKILL)
        if self._server is _Part.ENDING and now >= self._server_deadline:
            self._server_deadline = now + SERVER_GRACE_S
            yield EndServer(force=True)
        if self._server is _Part.STARTING and now >= self._server_deadline:
            limit_s = self._config.restart_timeout_s
            text = f"the {self._config.simulator} simulator did not listen within {limit_s:g} s"
            yield from self._respond(ServerFailed(text), now)

    def _env_exited(self, exit_code: int, last_words: str, now: float) -> Iterator[Action]:
        self._env, self._env_waits = _Part.ABSENT, False
        self._renew_server |= exit_code == EXIT_SIMULATOR_FAILED
        reason = self._killed_because or _describe_exit(exit_code)
        self._killed_because = ""
        if last_words:
            reason += f": {last_words}"
        stable = now - self._env_started_at >= self._config.stable_start_s
        yield from self._lose(reason, exit_code, now, stable=stable)

    def _kill_env(self, reason: str) -> Iterator[Action]:
        self._env, self._killed_because = _Part.ENDING, reason
        # SIGKILL needs no second signal, but a process in uninterruptible sleep may take its time.
        self._kill_env_at = float("inf")
        yield SignalEnv(signal.SIGKILL)

    def _lose(
        self, reason: str, exit_code: int, now: float, *, stable: bool, hopeless: bool = False, reported: bool = False
    ) -> Iterator[Action]:
        """One life of the worker is over: report it, and plan the next life or give up.

        Args:
            reason: why.
            exit_code: of the env process; -1 when there was none.
            now: the time.
            stable: whether it had lived for a while.
            hopeless: do not try again.
            reported: the broker knows already that this incarnation is dead.
        """
        if self._goal is not _Goal.RUN:
            return
        config = self._config
        asked, self._asked = self._asked, False
        recent = self._recent_restarts(now)
        final = hopeless or (not asked and len(recent) >= config.max_restarts)
        if final:
            self._goal = _Goal.DOWN
            if not hopeless:
                reason += f"; it was restarted {len(recent)} times within {config.restart_window_s:g} s and stays down"
            reason += f"; its output is in {self._log_name}"
        if final or not reported:
            yield ReportLost(self.incarnation, reason, exit_code, self.restarts, final)
        else:
            yield NoteServerFailed(self.incarnation, reason, self.restarts)
        if not final:
            self._failed_starts = 0 if stable or asked else self._failed_starts + 1
            self._resume_at = now + _backoff_s(self._failed_starts)
            self._restarted_at = recent if asked else [*recent, now]
            self.restarts += 1

    def _recent_restarts(self, now: float) -> list[float]:
        return [moment for moment in self._restarted_at if now - moment < self._config.restart_window_s]

    def _advance(self, now: float) -> Iterator[Action]:
        """The next step towards the goal; nothing while something is still ending, or in use."""
        if self._env is not _Part.ABSENT and not (self._env is _Part.UP and self._env_waits):
            return
        wanted = self._goal is _Goal.RUN
        if self._server in (_Part.STARTING, _Part.UP) and (self._renew_server or not wanted):
            self._server, self._server_deadline = _Part.ENDING, now + SERVER_GRACE_S
            yield EndServer()
        if self._server in (_Part.STARTING, _Part.ENDING) or not wanted or now < (self._resume_at or now):
            return
        self._renew_server = False
        if self._config.owns_server and self._server is _Part.ABSENT:
            self._server, self._server_deadline = _Part.STARTING, now + self._config.restart_timeout_s
            yield StartServer()
            return
        if self._env is _Part.UP:
            return
        self.incarnation += 1
        self._env, self._env_started_at = _Part.UP, now
        yield StartEnv(self.incarnation)


def _backoff_s(failed_starts: int) -> float:
    """0 after a life of decent length, then 0.5, 1, 2 ... 30 seconds."""
    if failed_starts == 0:
        return 0.0
    return min(_FIRST_BACKOFF_S * 2.0 ** (failed_starts - 1), _LONGEST_BACKOFF_S)


def _describe_exit(exit_code: int) -> str:
    if exit_code >= 0:
        return f"exited with code {exit_code}"
    try:
        return f"killed by {signal.Signals(-exit_code).name}"
    except ValueError:  # real-time signals have no names
        return f"killed by signal {-exit_code}"
