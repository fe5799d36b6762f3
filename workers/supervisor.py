"""The loop that keeps workers alive: it sees what happened, asks their state machines, and does what they say.

It never blocks: processes are watched by pidfds, the broker by its socket, the starter by a pipe and signals by a
wake-up socket, all in one poll. It does not import carla, so nothing can hold it up, and the heartbeat lives here.
"""

from __future__ import annotations

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
from zmqcarla.workers import ledger, lifecycle, log_files
from zmqcarla.workers.broker_link import BrokerLink
from zmqcarla.workers.quarantine import Quarantine, read_episodes
from zmqcarla.workers.roster import Roster, next_worker, read_roster, write_roster
from zmqcarla.workers.vitals import Vitals
from zmqcarla.workers.watched_worker import WatchedWorker
from zmqcarla.workers.worker_config import SupervisorConfig, WorkerConfig

_LOG = logging.getLogger(__name__)

_POLL_S: Final = 0.2
"""How often hangs and timers are looked at."""
_HURRIED_POLL_S: Final = 0.03
"""The same while a server is coming or something is ending."""
_STOP_WITHIN_S: Final = 9.0


class Supervisor:
    """Keeps its workers alive until it is told to stop or has none left."""

    def __init__(self, config: SupervisorConfig) -> None:
        self._config = config
        self._poller = zmq.Poller()
        self._watched: set[int] = set()
        Path(config.log_directory).mkdir(parents=True, exist_ok=True)
        sweep()
        self._link = BrokerLink(config.broker)
        self._poller.register(self._link.socket, zmq.POLLIN)
        self._ledger = ledger.Ledger(ledger.ledger_path())
        self._brokers_noted = 0
        self._logs_due_at = 0.0
        self._roster = None if config.roster is None else Path(config.roster)
        before = None if self._roster is None else read_roster(self._roster)
        configs = config.workers if before is None else before.workers
        self._quarantine = Quarantine(read_episodes(Path(config.log_directory) / "quarantine.json"))
        self._workers = [self._new_worker(worker) for worker in configs]
        if before is not None:
            for worker in self._workers:
                worker.retiring = worker.config.worker_id in before.retiring
            self._note("supervisor_restarted", f"the one before, pid {before.pid}, has ended")
        self._keep_roster()

    def _new_worker(self, worker: WorkerConfig) -> WatchedWorker:
        return WatchedWorker(worker, self._config, self._link, self._quarantine)

    def _keep_roster(self) -> None:
        if self._roster is not None:
            retiring = frozenset([worker.config.worker_id for worker in self._workers if worker.retiring])
            write_roster(self._roster, Roster(os.getpid(), tuple([one.config for one in self._workers]), retiring))

    def _note(self, what: ledger.What, reason: str) -> None:
        self._ledger.append(ledger.Entry(ledger.SUPERVISOR, what, reason, None, 0, 0, ()))

    def run(self) -> int:
        """Supervise until told to stop or nobody is left, end everything within ten seconds; returns the exit code.

        SIGTERM, SIGINT and the end of the lifeline tell it to stop.
        """
        with _signal_wake_up() as wake_up:
            try:
                self._run_until(wake_up)
                drained = not self._workers
                self._stop()
            finally:
                for worker in self._workers:
                    worker.children.close()
                self._link.close()
                sweep()
        return protocol.EXIT_DRAINED if drained else 0

    def _run_until(self, wake_up: socket.socket) -> None:
        self._poller.register(wake_up.fileno(), zmq.POLLIN)
        stop_fds = {wake_up.fileno()}
        if self._config.lifeline_fd is not None:
            os.set_inheritable(self._config.lifeline_fd, False)
            self._poller.register(self._config.lifeline_fd, zmq.POLLIN)
            stop_fds.add(self._config.lifeline_fd)
        while self._workers and not stop_fds & self._turn():
            pass
        for fd in stop_fds:
            self._poller.unregister(fd)

    def _stop(self) -> None:
        deadline = time.monotonic() + _STOP_WITHIN_S
        for worker in self._workers:
            self._link.report(protocol.Unregister(worker.config.worker_id))
            worker.stop()
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
        if time.monotonic() >= self._logs_due_at:
            self._logs_due_at = time.monotonic() + log_files.INTERVAL_S
            log_files.cut_logs(Path(self._config.log_directory), self._config.log_max_bytes, self._config.logs_kept)
        self._link.read()
        if self._link.sweep_wanted:
            self._link.sweep_wanted = False
            sweep()
        if not stopping:
            self._obey_orders()
            self._let_go_of_stopped()
            self._repeat_what_a_new_broker_missed()
            self._link.tick([worker.offer() for worker in self._workers], time.monotonic(), self._vitals_of)
        return {fd for fd in woken if isinstance(fd, int)}

    def _obey_orders(self) -> None:
        while self._link.orders:
            order = self._link.orders.popleft()
            worker = next((one for one in self._workers if one.config.worker_id == order.worker_id), None)
            match order.order:
                case "add" if self._workers:
                    self._add()
                case "restart" if worker is not None:
                    worker.restart()
                case "retire" if worker is not None:
                    worker.retire()
                    self._keep_roster()
                case "stop" if worker is not None:
                    worker.stop()
                case _:
                    _LOG.warning("cannot obey %s", order)

    def _add(self) -> None:
        config = next_worker([worker.config for worker in self._workers])
        self._workers.append(self._new_worker(config))
        self._workers[-1].note("added")
        self._keep_roster()

    def _let_go_of_stopped(self) -> None:
        """Workers whose processes have ended on request are no longer ours."""
        stopped = [worker for worker in self._workers if worker.lifecycle.stopped]
        for worker in stopped:
            worker.children.close()
            worker.note("stopped")
            self._link.report(protocol.Unregister(worker.config.worker_id))
        if stopped:
            self._workers = [worker for worker in self._workers if worker not in stopped]
            self._keep_roster()

    def _repeat_what_a_new_broker_missed(self) -> None:
        if self._link.broker_restarts > self._brokers_noted:
            self._brokers_noted = self._link.broker_restarts
            self._note("broker_restarted", "another broker answers than before")
        for worker in self._workers:
            if worker.final_loss is not None and worker.config.worker_id in self._link.newly_welcomed:
                self._link.report(worker.final_loss)
        self._link.newly_welcomed.clear()

    def _vitals_of(self, worker_id: str) -> Vitals:
        worker = next(worker for worker in self._workers if worker.config.worker_id == worker_id)
        return worker.vitals()

    def _watch(self, fds: set[int]) -> None:
        for fd in self._watched - fds:
            self._poller.unregister(fd)
        for fd in fds - self._watched:
            self._poller.register(fd, zmq.POLLIN)
        self._watched = fds


def run(config: SupervisorConfig) -> int:
    """Supervise until told to stop (0) or until drained (EXIT_DRAINED); returns the exit code."""
    return Supervisor(config).run()


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
