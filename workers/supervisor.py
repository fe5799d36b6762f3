"""The loop that keeps workers alive: it sees what happened, asks their state machines, and does what they say.

It never blocks: processes are watched by pidfds, the broker by its socket, the starter by a pipe and signals by a
wake-up socket, all in one poll. It does not import carla, so nothing can hold it up, and the heartbeat lives here.
"""

from __future__ import annotations

import collections
import logging
import os
import signal
import socket
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import zmq

from zmqcarla.broker import protocol
from zmqcarla.shm.segment import sweep
from zmqcarla.workers import ledger, lifecycle
from zmqcarla.workers.broker_link import BrokerLink
from zmqcarla.workers.children import Children
from zmqcarla.workers.vitals import Vitals
from zmqcarla.workers.worker_config import SupervisorConfig, WorkerConfig

_LOG = logging.getLogger(__name__)

_POLL_S: Final = 0.2
"""How often hangs and timers are looked at."""
_HURRIED_POLL_S: Final = 0.03
"""The same while a server is coming or something is ending."""
_STOP_WITHIN_S: Final = 9.0


class _Worker:
    """One worker: decisions and processes side by side."""

    def __init__(self, config: WorkerConfig, supervisor: SupervisorConfig, link: BrokerLink) -> None:
        self.config = config
        self.children = Children(config, supervisor.broker, Path(supervisor.log_directory))
        self._logs = (str(self.children.env_log), *([str(self.children.server_log)] if config.owns_server else []))
        self.lifecycle = lifecycle.Lifecycle(config, " and ".join(self._logs))
        self._ledger = ledger.Ledger(ledger.ledger_path())
        self._ttl_s = supervisor.ttl_s
        self._link = link

    def feed(self, event: lifecycle.Event) -> None:
        """Let the state machine answer an event, and the events that follow from its answers."""
        events = collections.deque([event])
        while events:
            for action in self.lifecycle.handle(events.popleft(), time.monotonic()):
                events.extend(self._do(action))

    def _do(self, action: lifecycle.Action) -> list[lifecycle.Event]:
        if not isinstance(action, lifecycle.ReportLost):
            _LOG.info("worker %s: %s", self.config.worker_id, action)
        match action:
            case lifecycle.StartServer():
                return self.children.start_server()
            case lifecycle.EndServer(force):
                return self.children.end_server(force=force)
            case lifecycle.StartEnv(incarnation):
                if incarnation > 1:
                    self._note("restarted", "", None, self.lifecycle.restarts)
                return self.children.start_env(incarnation)
            case lifecycle.SignalEnv(number):
                return self.children.signal_env(number)
            case lifecycle.ReportLost(incarnation, reason, exit_code, restarts, final):
                _LOG.warning("worker %s is lost: %s", self.config.worker_id, reason)
                # The broker first: a client that learns of it on the board asks the broker for a new process at once.
                self._link.report(
                    protocol.WorkerLost(self.config.worker_id, incarnation, reason, exit_code, restarts, final)
                )
                self.children.declare_lost(reason, exit_code, restarts, final=final)
                self._note("gone" if final else "lost", reason, exit_code if incarnation else None, restarts)
                return []
            case lifecycle.NoteServerFailed(reason, restarts):
                self._note("server_failed", reason, None, restarts)
                return []
            case lifecycle.AskToRecycle():
                return self.children.ask_to_recycle()
            case lifecycle.NoteRecycled(reason, restarts):
                self._note("recycled", reason, None, restarts)
                return []

    def _note(self, what: ledger.What, reason: str, exit_code: int | None, restarts: int) -> None:
        incarnation = self.lifecycle.incarnation
        self._ledger.append(
            ledger.Entry(self.config.worker_id, what, reason, exit_code, restarts, incarnation, self._logs)
        )

    def offer(self) -> protocol.Register:
        """The worker as the broker is to know it."""
        config = self.config
        return protocol.Register(
            protocol=protocol.PROTOCOL,
            worker_id=config.worker_id,
            host=socket.gethostname(),
            supervisor_pid=os.getpid(),
            simulator=config.simulator,
            gpu=config.gpu,
            port=self.children.port,
            env_patterns=config.env_patterns,
            ttl_s=self._ttl_s,
        )


class Supervisor:
    """Keeps the workers of `config` alive until it is told to stop."""

    def __init__(self, config: SupervisorConfig) -> None:
        self._config = config
        self._poller = zmq.Poller()
        self._watched: set[int] = set()
        Path(config.log_directory).mkdir(parents=True, exist_ok=True)
        sweep()
        self._link = BrokerLink(config.broker)
        self._poller.register(self._link.socket, zmq.POLLIN)
        self._workers = [_Worker(worker, config, self._link) for worker in config.workers]

    def run(self) -> None:
        """Supervise until SIGTERM, SIGINT or the end of the lifeline, then end everything within ten seconds."""
        with _signal_wake_up() as wake_up:
            try:
                self._run_until(wake_up)
                self._stop()
            finally:
                for worker in self._workers:
                    worker.children.close()
                self._link.close()
                sweep()

    def _run_until(self, wake_up: socket.socket) -> None:
        self._poller.register(wake_up.fileno(), zmq.POLLIN)
        stop_fds = {wake_up.fileno()}
        if self._config.lifeline_fd is not None:
            os.set_inheritable(self._config.lifeline_fd, False)
            self._poller.register(self._config.lifeline_fd, zmq.POLLIN)
            stop_fds.add(self._config.lifeline_fd)
        while not stop_fds & self._turn():
            pass
        for fd in stop_fds:
            self._poller.unregister(fd)

    def _stop(self) -> None:
        deadline = time.monotonic() + _STOP_WITHIN_S
        for worker in self._workers:
            self._link.report(protocol.Unregister(worker.config.worker_id))
            worker.feed(lifecycle.Stop())
        while time.monotonic() < deadline and not all(worker.lifecycle.stopped for worker in self._workers):
            self._turn(stopping=True)

    def _turn(self, *, stopping: bool = False) -> set[int]:
        """Wait until something happens or a while has passed, and answer it; returns the fds that woke us."""
        self._watch({fd for worker in self._workers for fd in worker.children.exit_fds})
        hurried = any(worker.lifecycle.hurried for worker in self._workers)
        woken = dict(self._poller.poll(int(1000 * (_HURRIED_POLL_S if hurried else _POLL_S))))
        for worker in self._workers:
            for event in worker.children.events():
                worker.feed(event)
            worker.feed(lifecycle.Tick())
        self._link.read()
        if self._link.sweep_wanted:
            self._link.sweep_wanted = False
            sweep()
        if not stopping:
            offers = [worker.offer() for worker in self._workers if not worker.lifecycle.down]
            self._link.tick(offers, time.monotonic(), self._vitals_of)
        return {fd for fd in woken if isinstance(fd, int)}

    def _vitals_of(self, worker_id: str) -> Vitals:
        worker = next(worker for worker in self._workers if worker.config.worker_id == worker_id)
        return worker.children.vitals(worker.lifecycle.restarts)

    def _watch(self, fds: set[int]) -> None:
        for fd in self._watched - fds:
            self._poller.unregister(fd)
        for fd in fds - self._watched:
            self._poller.register(fd, zmq.POLLIN)
        self._watched = fds


def run(config: SupervisorConfig) -> int:
    """Supervise until told to stop; returns the exit code of an orderly end."""
    Supervisor(config).run()
    return 0


@contextmanager
def _signal_wake_up() -> Generator[socket.socket]:
    """A socket that becomes readable when SIGTERM or SIGINT comes."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, lambda *_: None) for number in numbers]
    fd_before = signal.set_wakeup_fd(theirs.fileno())
    try:
        yield ours
    finally:
        signal.set_wakeup_fd(fd_before)
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
        ours.close()
        theirs.close()
