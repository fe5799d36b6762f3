"""One worker as its supervisor sees it: decisions and processes side by side, and what is told to whom."""

from __future__ import annotations

import collections
import dataclasses
import logging
import os
import socket
import time
from pathlib import Path

from zmqcarla.broker import protocol
from zmqcarla.workers import ledger, lifecycle
from zmqcarla.workers.broker_link import BrokerLink
from zmqcarla.workers.children import Children
from zmqcarla.workers.quarantine import Quarantine, write_episodes
from zmqcarla.workers.trend import INTERVAL_S, Trend
from zmqcarla.workers.vitals import Vitals
from zmqcarla.workers.worker_config import SupervisorConfig, WorkerConfig

_LOG = logging.getLogger(__name__)


class WatchedWorker:
    """One worker.

    Args:
        config: the worker.
        supervisor: of its supervisor.
        link: to the broker.
        quarantine: of all workers of the supervisor.

    Attributes:
        retiring: stops when its lease ends.
        final_loss: the report by which the broker knows that it is down; None while it is not.
    """

    def __init__(
        self, config: WorkerConfig, supervisor: SupervisorConfig, link: BrokerLink, quarantine: Quarantine
    ) -> None:
        self.config = config
        self.children = Children(config, supervisor.broker, Path(supervisor.log_directory))
        self._logs = (str(self.children.env_log), *([str(self.children.server_log)] if config.owns_server else []))
        self.lifecycle = lifecycle.Lifecycle(config, " and ".join(self._logs))
        self._ledger = ledger.Ledger(ledger.ledger_path())
        self._ttl_s = supervisor.ttl_s
        self._link = link
        self._quarantine = quarantine
        self._trends = {"env process": Trend(), "server": Trend(), "server's GPU memory": Trend()}
        self._vram_bytes, self._vram_due_at = 0, 0.0
        self._causes = 0
        self._asked = False
        self.retiring = False
        self.final_loss: protocol.WorkerLost | None = None

    def feed(self, event: lifecycle.Event) -> None:
        """Let the state machine answer an event, and the events that follow from its answers."""
        events = collections.deque([event])
        self._causes += 1
        noted = {"worker": self.config.worker_id, "cause": f"{type(event).__name__}-{self._causes}"}
        while events:
            for action in self.lifecycle.handle(events.popleft(), time.monotonic()):
                events.extend(self._do(action, noted))

    def _do(self, action: lifecycle.Action, noted: dict[str, str]) -> list[lifecycle.Event]:
        if not isinstance(action, lifecycle.ReportLost):
            _LOG.info("worker %s: %s", self.config.worker_id, action, extra=noted)
        match action:
            case lifecycle.StartServer():
                return self.children.start_server()
            case lifecycle.EndServer(force):
                return self.children.end_server(force=force)
            case lifecycle.StartEnv(incarnation):
                if incarnation > 1:
                    self.note("restarted")
                return self.children.start_env(incarnation)
            case lifecycle.SignalEnv(number):
                return self.children.signal_env(number)
            case lifecycle.ReportLost(incarnation, reason, exit_code, restarts, final):
                _LOG.warning("worker %s is lost: %s", self.config.worker_id, reason, extra=noted)
                # The ledger first, so that what a client is told of stands there. The broker before the board: a client
                # that learns of it there asks the broker for a new process at once.
                code = exit_code if incarnation else None
                self.note("gone" if final else "lost", reason, code, restarts, incarnation)
                loss = protocol.WorkerLost(self.config.worker_id, incarnation, reason, exit_code, restarts, final)
                self.final_loss = loss if final else None
                self._link.report(loss)
                self.children.declare_lost(reason, exit_code, restarts, final=final)
                if not self._asked:
                    self._blame_episode()
                self._asked = False
                return []
            case lifecycle.NoteServerFailed(incarnation, reason, restarts):
                self.note("server_failed", reason, restarts=restarts, incarnation=incarnation)
                return []
            case lifecycle.AskToRecycle():
                return self.children.ask_to_recycle()
            case lifecycle.NoteRecycled(reason, restarts):
                self.note("recycled", reason, restarts=restarts)
                return []

    def _blame_episode(self) -> None:
        episode, limits = self.children.episode, self.config
        deaths, window_s = limits.quarantine_deaths, limits.quarantine_window_s
        if self._quarantine.died(episode, time.monotonic(), deaths, window_s):
            write_episodes(self.children.quarantine, self._quarantine.episodes)
            text = f"{episode}: {deaths} workers died in it within {window_s:g} s; it is not begun any more"
            _LOG.warning("quarantine: %s", text)
            self.note("quarantined", text)

    def note(
        self,
        what: ledger.What,
        reason: str = "",
        exit_code: int | None = None,
        restarts: int | None = None,
        incarnation: int | None = None,
    ) -> None:
        """Write into the ledger what became of the worker; `restarts` and `incarnation` as they are now, unless given.

        Of what has ended both must be given: when it is noted, the state machine may have its successor in mind.
        """
        counted = self.lifecycle.restarts if restarts is None else restarts
        which = self.lifecycle.incarnation if incarnation is None else incarnation
        self._ledger.append(ledger.Entry(self.config.worker_id, what, reason, exit_code, counted, which, self._logs))

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
            retiring=self.retiring,
        )

    def vitals(self) -> Vitals:
        """How it does; measured now, and noted once when its memory grows without end."""
        now = time.monotonic()
        seen = self.children.vitals(self.lifecycle.restarts)
        if self.config.owns_server and now >= self._vram_due_at:
            self._vram_bytes, self._vram_due_at = self.children.server_vram_bytes(), now + INTERVAL_S
        sizes = (seen.env_rss_bytes, seen.server_rss_bytes, self._vram_bytes)
        pids = self.children.pids
        for (name, trend), pid, size in zip(self._trends.items(), (*pids, pids[-1]), sizes, strict=True):
            leak = trend.take(pid, size, now)
            if leak:
                self.note("leak", f"its {name} {leak}")
        known = {name: trend.growth for name, trend in self._trends.items() if trend.growth is not None}
        return dataclasses.replace(
            seen,
            server_vram_bytes=self._vram_bytes,
            growth_bytes_per_h=sum(known[name].bytes_per_h for name in ("env process", "server") if name in known),
            leaks=", ".join([name for name, growth in known.items() if growth.leaking]),
        )

    def restart(self) -> None:
        """New processes, also for one that is down; the broker is to forget that it was."""
        if self.lifecycle.down:
            self.final_loss = None
            self._link.forget(self.config.worker_id)
        self._asked = True
        self.feed(lifecycle.Restart())

    def retire(self) -> None:
        """Take no new lease; one that is down can have none and stops at once."""
        if not self.retiring:
            self.retiring = True
            self.note("retired")
        if self.lifecycle.down:
            self.feed(lifecycle.Stop())

    def stop(self) -> None:
        """End the processes."""
        self.feed(lifecycle.Stop())
