"""The processes of one worker, as the supervisor starts, signals and reaps them; it decides nothing.

The env process leads a session of its own and is killed by group; it also asks the kernel to die with the supervisor.
The server runs under a guard (`zmqcarla.workers.servers`). Nothing here waits, except `close` for what is stuck.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from zmqcarla.broker.errors import PortInUseError, SimulatorStartError
from zmqcarla.broker.protocol import pack
from zmqcarla.shm.address_layout import same_address_layout
from zmqcarla.shm.board import declare_lost
from zmqcarla.shm.status_page import Phase, StatusPage
from zmqcarla.workers import lifecycle, ports, servers
from zmqcarla.workers.health import ServerProbe
from zmqcarla.workers.recycling import RecycleLimits, ServerWear
from zmqcarla.workers.step_parts import LatestParts
from zmqcarla.workers.vitals import Vitals, tree_pids, tree_rss_bytes
from zmqcarla.workers.vram import VramGauge
from zmqcarla.workers.worker_config import EnvProcessConfig, WorkerConfig

_LAST_WORDS_BYTES: Final = 4096
_CLOSE_TIMEOUT_S: Final = 5.0


class Children:
    """Server, env process, port claim and status page of one worker.

    Args:
        config: the worker.
        broker: address for the env process.
        log_directory: takes the output of both processes.

    Attributes:
        env_log: file that takes the env process's output.
        server_log: file that takes the server's output.
        quarantine: file with the episodes that env processes do not begin.
    """

    def __init__(self, config: WorkerConfig, broker: str, log_directory: Path) -> None:
        self.env_log = log_directory / f"{config.worker_id}.log"
        self.server_log = log_directory / f"{config.worker_id}.server.log"
        self.quarantine = log_directory / "quarantine.json"
        self._config = config
        self._broker = broker
        self._page = StatusPage.create()
        self._parts = LatestParts()
        self._probe = ServerProbe(config.step_timeout_s)
        self._claim: ports.PortClaim | None = None
        self._server: servers.Server | None = None
        self._server_settled = False
        """Whether it came up or failed to."""
        self._server_served = False
        self._refused_ports: set[int] = set()
        self._limits = RecycleLimits.of(config, config.simulator)
        self._wear, self._vram = ServerWear(self._limits), VramGauge()
        self._resets_before = 0
        self._resets_seen = 0
        self._env: subprocess.Popen[bytes] | None = None
        self._env_fd = -1
        self._env_stopped_at: float | None = None
        self._words_fd = -1

    @property
    def port(self) -> int | None:
        """RPC port of the worker's server, as far as it is known."""
        if self._claim is not None:
            return self._claim.block.rpc
        if self._config.connect is not None:
            return int(self._config.connect.rpartition(":")[2])
        return self._config.port

    @property
    def pids(self) -> tuple[int, int]:
        """Of env process and server; 0 while there is none."""
        return 0 if self._env is None else self._env.pid, 0 if self._server is None else self._server.pid

    def server_vram_bytes(self) -> int:
        """GPU memory of the server; 0 where nobody can tell. Asks the driver."""
        return 0 if self._server is None else self._vram.read(tree_pids(self._server.pid)) or 0

    @property
    def episode(self) -> str:
        """The name of the episode that the env process runs, or ran when it died."""
        return self._page.episode

    @property
    def exit_fds(self) -> set[int]:
        """pidfds, readable when a process of this worker has ended."""
        server_fd = -1 if self._server is None else self._server.news_fd
        return {fd for fd in (server_fd, self._env_fd) if fd >= 0}

    # --- what the state machine wants done ---

    def start_server(self) -> list[lifecycle.Event]:
        """Claim the ports and start the server under its guard."""
        config = self._config
        assert config.simulator != "none"
        try:
            if self._claim is None:
                self._claim = self._claim_ports()
            seed = () if config.seed is None or config.simulator != "embedded" else ("--seed", str(config.seed))
            faults = [argument for fault in config.faults for argument in ("--fault", fault)]
            spec = servers.ServerSpec(
                *(config.simulator, self._claim.block.rpc, self._adapter(), config.map),
                *(config.carla_root, config.quality, config.rendering),
                extra=(*seed, *faults),
            )
            self._server = servers.launch(spec, self.server_log)
            self._server_settled = self._server_served = False
        except SimulatorStartError as error:
            return [lifecycle.ServerFailed(str(error), hopeless=True)]
        except (PortInUseError, OSError) as error:
            return [lifecycle.ServerFailed(str(error))]
        return []

    def _adapter(self) -> int:
        config = self._config
        return config.adapter if config.adapter is not None else config.gpu or 0

    def _claim_ports(self) -> ports.PortClaim:
        """The block of the settings, or else a free one where no server of this worker has failed to come up.

        A clash with a stranger's port shows in many ways, of which a refused bind is only the plainest.
        """
        port = self._config.port
        return ports.claim_free(avoid=self._refused_ports) if port is None else ports.claim(port)

    def ask_to_recycle(self) -> list[lifecycle.Event]:
        """Ask the env process to leave the server before its next episode."""
        self._page.fields["recycle"] = 1
        return []

    def end_server(self, *, force: bool) -> list[lifecycle.Event]:
        """Ask the guard to end the server, or kill both."""
        if self._server is None:
            return [lifecycle.ServerExited(0)]
        self._server_settled = True  # one that comes up after all is not announced
        if force:
            self._server.kill()
        else:
            self._server.ask_to_end()
        return []

    def start_env(self, incarnation: int) -> list[lifecycle.Event]:
        """Start an env process."""
        config = self._config
        server = config.connect
        if self._claim is not None:
            server = f"127.0.0.1:{self._claim.block.rpc}"
        self._words_fd, words_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        told = EnvProcessConfig(
            worker_id=config.worker_id,
            incarnation=incarnation,
            broker=self._broker,
            page_fd=self._page.fd,
            supervisor_pid=os.getpid(),
            last_words_fd=words_end,
            simulator=config.simulator,
            server=server,
            rendering=config.rendering,
            env_patterns=config.env_patterns,
            quarantine=str(self.quarantine),
            recycle_timeout_s=config.recycle_timeout_s,
            renew_growth_mib=config.renew_env_growth_mib,
        )
        self._page.fields["incarnation"] = incarnation
        self._page.enter(Phase.STARTING)
        self._page.name_episode("")
        try:
            with self.env_log.open("ab") as log, same_address_layout():
                self._env = subprocess.Popen(
                    [sys.executable, "-u", "-m", "zmqcarla.workers.env_process", told.to_json()],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=(words_end, self._page.fd),
                    start_new_session=True,
                )
            self._env_fd = os.pidfd_open(self._env.pid)
        except OSError as error:
            os.close(self._words_fd)
            return [lifecycle.EnvExited(127, str(error))]
        finally:
            os.close(words_end)
        return []

    def signal_env(self, number: signal.Signals) -> list[lifecycle.Event]:
        """Signal the env process's group; its leader is not reaped yet, so the number is still its own."""
        if self._env is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._env.pid, number)
        return []

    def declare_lost(self, reason: str, exit_code: int, restarts: int, *, final: bool) -> None:
        """Tell the client of the dead env process on its board, where it waits, without the broker."""
        board, row = self._page.fields["board"].item().decode(), int(self._page.fields["row"])
        if not board or row < 0:
            return
        news = {"worker_id": self._config.worker_id, "reason": reason, "exit_code": exit_code}
        with contextlib.suppress(OSError):  # the board is gone, and with it the client
            declare_lost(board, row, pack({**news, "restarts": restarts, "final": final}))
        self._page.fields["board"] = b""

    # --- what has happened ---

    def vitals(self, restarts: int) -> Vitals:
        """How the worker does, which has been restarted so often."""
        look = self._page.look()
        return Vitals(
            phase="absent" if self._env is None else look.phase.name.lower(),
            steps=look.steps,
            restarts=restarts,
            env_rss_bytes=0 if self._env is None else tree_rss_bytes(self._env.pid),
            server_rss_bytes=0 if self._server is None else tree_rss_bytes(self._server.pid),
            parts_ms=self._parts.look(self._page),
        )

    def events(self) -> list[lifecycle.Event]:
        """What has changed since the last call; a dead server comes first, for it explains a dead env process."""
        return [*self._server_events(), *self._env_events()]

    def _env_events(self) -> list[lifecycle.Event]:
        env = self._env
        if env is None:
            return []
        # Look without reaping: as long as its leader is a zombie, the group's number cannot pass to strangers.
        if os.waitid(os.P_PID, env.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            look = self._page.look()
            return [lifecycle.Observed(look.phase, look.age_s, look.seq), *self._env_stopped_events(env.pid)]
        self.signal_env(signal.SIGKILL)
        exit_code = env.wait()
        try:
            words = os.read(self._words_fd, _LAST_WORDS_BYTES).decode("utf-8", "replace")
        except BlockingIOError:  # a process that left the group holds the other end
            words = ""
        os.close(self._words_fd)
        os.close(self._env_fd)
        self._env, self._env_fd, self._env_stopped_at = None, -1, None
        return [lifecycle.EnvExited(exit_code, words)]

    def _env_stopped_events(self, pid: int) -> list[lifecycle.Event]:
        """One that was stopped between commands has nothing on its page that grows old."""
        if os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT) is None:
            self._env_stopped_at = None
            return []
        self._env_stopped_at = self._env_stopped_at or time.monotonic()
        return [lifecycle.EnvStopped(time.monotonic() - self._env_stopped_at)]

    def _server_events(self) -> list[lifecycle.Event]:
        server = self._server
        if server is None:
            return []
        if not self._server_settled:
            try:
                if not server.is_ready():
                    return []
            except (SimulatorStartError, PortInUseError) as error:
                self._server_settled = True
                return [lifecycle.ServerFailed(str(error))]
            self._begin_service(server)
            return [lifecycle.ServerReady()]
        status = server.poll()
        if status is None:
            return [*self._wear_events(server), *self._silence_events(server)]
        self._forget_server(server)
        return [lifecycle.ServerExited(status)]

    def _begin_service(self, server: servers.Server) -> None:
        """The server has come up."""
        self._server_settled = self._server_served = True
        self._wear, self._vram = ServerWear(self._limits), VramGauge()
        self._resets_before = self._resets_seen = int(self._page.fields["resets"])
        self._page.offer_server(f"127.0.0.1:{server.spec.port}")

    def _wear_events(self, server: servers.Server) -> list[lifecycle.Event]:
        """Look at the server once an episode."""
        resets = int(self._page.fields["resets"])
        if resets == self._resets_seen:
            return []
        self._resets_seen = resets
        pids = tree_pids(server.pid)
        why = self._wear.look(resets - self._resets_before, tree_rss_bytes(server.pid), self._vram.read(pids))
        return [lifecycle.ServerWorn(why)] if why else []

    def _silence_events(self, server: servers.Server) -> list[lifecycle.Event]:
        """Between commands the server is asked whether it lives; a command has its own time limit."""
        if not self._server_settled or self._env is None or self._page.look().phase is not Phase.IDLE:
            self._probe.forget()
            return []
        silent_s = self._probe.look(server.spec.port, time.monotonic())
        if not silent_s:
            return []
        self._probe.forget()
        return [lifecycle.ServerSilent(silent_s)]

    def _forget_server(self, server: servers.Server) -> None:
        self._probe.forget()
        server.close()
        self._server = None
        if self._config.port is None and self._claim is not None:
            if not self._server_served:
                self._refused_ports.add(server.spec.port)
            self._claim.release()
            self._claim = None

    def close(self) -> None:
        """End and reap whatever is left, and give back ports and status page."""
        if self._env is not None:
            self.signal_env(signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._env.wait(_CLOSE_TIMEOUT_S)
            os.close(self._words_fd)
            os.close(self._env_fd)
            self._env, self._env_fd = None, -1
        if self._server is not None:
            self._forget_server(self._server)
        if self._claim is not None:
            self._claim.release()
            self._claim = None
        self._page.close()
