"""Start a CARLA server, real or embedded, as a process that cannot outlive its starter.

`launch` puts the server under the guard of `guard.py`, in a session of its own. The starter keeps one end of a socket
pair; when that end closes, by `Server.close()` or by the starter's death, the guard ends the server's process group.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import select
import signal
import socket
import subprocess
import sys
import time
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from zmqcarla.broker.errors import PortInUseError, SimulatorStartError
from zmqcarla.workers import ports, session_end

SimulatorName = Literal["embedded", "carla"]
QualityLevel = Literal["Low", "Epic"]
QUALITY_LEVELS = ("Low", "Epic")
"""The two that CARLA knows."""

_OLDER_CLIENTS = ("0.9.15",)
_GUARD = Path(__file__).with_name("guard.py")
_POLL_S = 0.02
_LOG_TAIL_BYTES = 2000
# The guard's own grace, plus room for a loaded machine.
_CLOSE_TIMEOUT_S = 8.0
_LEFT_WITHIN_S = 10.0
# More than the guard's grace: the last server of a supervisor that was killed lives as long.
_STRANGER_LEAVES_WITHIN_S = 5.0


@dataclass(frozen=True, slots=True)
class ServerSpec:
    """Which server to start, and where.

    Attributes:
        simulator: "embedded" for `python -m zmqcarla.sim`, "carla" for CarlaUE4.sh under `carla_root`.
        port: RPC port; the server also takes the next ones (see `zmqcarla.workers.ports`).
        adapter: number of the graphics adapter in Vulkan's order; the embedded simulator needs none.
        map: OpenDRIVE file for the embedded simulator, None for its default town. Real CARLA starts
            with its own default town, and the env asks for another one.
        carla_root: folder that holds CarlaUE4.sh; only for "carla".
        quality: how CarlaUE4 draws; the embedded simulator draws in one way.
        rendering: whether cameras can be asked for; without, CarlaUE4 touches no GPU. The embedded simulator draws
            only what somebody listens to anyway.
        extra: further arguments for the server's command line.
    """

    simulator: SimulatorName
    port: int
    adapter: int = 0
    map: str | None = None
    carla_root: str | None = None
    quality: QualityLevel = "Low"
    rendering: bool = True
    extra: tuple[str, ...] = ()

    def command(self) -> list[str]:
        """Return the server's command line.

        Raises:
            SimulatorStartError: this user or this root cannot run real CARLA; the text says what to do.
        """
        if self.simulator == "embedded":
            map_argument = [] if self.map is None else ["--map", self.map]
            command = [sys.executable, "-m", "zmqcarla.sim", "--port", str(self.port)]
            return [*command, *_protocol_arguments(), *map_argument, *self.extra]
        return [
            str(carla_script(self.carla_root)),
            "-RenderOffScreen" if self.rendering else "-nullrhi",
            "-nosound",
            f"-carla-rpc-port={self.port}",
            f"-graphicsadapter={self.adapter}",
            f"-quality-level={self.quality}",
            *self.extra,
        ]


def _protocol_arguments() -> list[str]:
    """What lets the embedded simulator speak to the client that is installed here, where that is an older one."""
    try:
        client = importlib.metadata.version("carla")
    except importlib.metadata.PackageNotFoundError:
        return []
    return ["--protocol", client] if client in _OLDER_CLIENTS else []


def carla_script(carla_root: str | None) -> Path:
    """Return the start script of the CARLA under `carla_root`.

    Every release has a folder CarlaUE4 beside the script; without it, the script starts something else (such as the
    embedded simulator, see `zmqcarla sim --install-launcher`), which may not mind root.

    Raises:
        SimulatorStartError: there is none, or it is CarlaUE4's and this process is root.
    """
    if not carla_root:
        raise SimulatorStartError(
            "expected the folder of a CARLA release, found none; "
            "pass carla_root (--carla-root) or set CARLA_ROOT, or use simulator='embedded'"
        )
    script = Path(carla_root, "CarlaUE4.sh")
    if not script.is_file():
        raise SimulatorStartError(
            f"expected {script}, found no such file; point carla_root at the unpacked CARLA release (0.9.16)"
        )
    if os.geteuid() == 0 and script.with_name("CarlaUE4").is_dir():
        raise SimulatorStartError(
            "CarlaUE4 refuses to run as root; run as another user (for example `runuser -u carla -- ...`, in a "
            "container `USER carla`), or use simulator='embedded'"
        )
    return script


class Server:
    """One running server; use `launch` to make it, and `close` to end it.

    Attributes:
        spec: what was started.
        log_path: file that takes the server's output.
        pid: the guard, which is also the session of everything the server starts.
        news_fd: a pidfd, readable when `poll` is worth a call: the guard's, after its end that of something it left.
    """

    def __init__(
        self, spec: ServerSpec, log_path: Path, guard: subprocess.Popen[bytes], lifeline: socket.socket
    ) -> None:
        self.spec = spec
        self.log_path = log_path
        self.pid = guard.pid
        self.news_fd = os.pidfd_open(guard.pid)
        self._guard = guard
        self._guard_ended_at: float | None = None
        self._stranger_since: float | None = None
        self._lifeline = lifeline
        self._server_pid: int | None = None
        _LIFELINES.add(lifeline)

    def poll(self) -> int | None:
        """Return the server's exit status, or None while anything of it lives.

        A guard can end before all that it guarded: when it is killed itself, and when the start script ends before the
        server. What is left is killed here. The next server on the same port would meet it there, so the status is held
        back until it has ended; what does not within ten seconds hangs in the kernel, and is not waited for.

        Returns:
            128 + signal for a server that was killed; negative for a guard that was.
        """
        if self._guard.returncode is not None:
            return self._guard.returncode
        # Looked at without reaping: as long as the guard is a zombie, the session's number is not given to strangers.
        try:
            if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                return None
        except ChildProcessError:  # a forked child asks: it is the parent's to end
            return self._guard.poll()
        self._guard_ended_at = self._guard_ended_at or time.monotonic()
        left = session_end.kill(self.pid)
        if left and time.monotonic() - self._guard_ended_at < _LEFT_WITHIN_S:
            self._watch(left[0])
            return None
        return self._guard.wait()

    def ask_to_end(self) -> None:
        """Have the guard end the server; `poll` tells when it has."""
        if self._guard.returncode is None:  # Popen's own terminate() would reap it
            os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """Kill the guard and all that it guards; `poll` tells when they have ended."""
        if self._guard.returncode is None:
            session_end.kill(self.pid)

    def _watch(self, pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            fd = os.pidfd_open(pid)
            os.close(self.news_fd)
            self.news_fd = fd

    def server_pid(self, timeout_s: float = 5.0) -> int:
        """Return the pid of the server's first process, which leads its process group.

        Raises:
            SimulatorStartError: the guard did not start it within `timeout_s`.
        """
        if self._server_pid is None:
            self._lifeline.settimeout(timeout_s)
            try:
                line = self._lifeline.recv(32)
            except TimeoutError:
                line = b""
            if not line.endswith(b"\n"):
                raise self._start_error(f"did not start within {timeout_s:g} s")
            self._server_pid = int(line)
        return self._server_pid

    def is_ready(self) -> bool:
        """Whether the server listens on its RPC port: itself, and not whoever had the port before. Does not wait.

        Raises:
            SimulatorStartError: it has ended.
            PortInUseError: somebody else listens there too, or has not left within five seconds.
        """
        port = self.spec.port
        ended = self.poll() is not None
        listeners = ports.listener_pids(port) if ports.is_listening(port) else []
        strangers = [pid for pid in listeners if not self._owns(pid)]
        came_up = len(strangers) < len(listeners)
        now = time.monotonic()
        since = self._stranger_since = (self._stranger_since or now) if strangers else None
        if since is not None and (ended or came_up or now - since > _STRANGER_LEAVES_WITHIN_S):
            raise PortInUseError(
                f"expected our {self.spec.simulator} simulator (session {self.pid}) on port {port}, found "
                f"{ports.owner_name(strangers[0], port)}; choose another --port or end that process",
                port,
            )
        if ended:
            raise self.ended_error()
        return came_up

    def wait_ready(self, timeout_s: float) -> None:
        """Wait until the server listens on its RPC port.

        Raises:
            SimulatorStartError: it ended, or did not listen within `timeout_s`.
            PortInUseError: somebody else listens there.
        """
        deadline = time.monotonic() + timeout_s
        while not self.is_ready():
            if time.monotonic() > deadline:
                raise self._start_error(f"did not listen on port {self.spec.port} within {timeout_s:g} s")
            self._wait_for_news(_POLL_S)

    def close(self) -> None:
        """End the server within about eight seconds; a second call does nothing."""
        self._lifeline.close()
        if not self._wait_ended(_CLOSE_TIMEOUT_S):
            # The guard itself is stuck (stopped, or starved): end the session without it.
            self.kill()
            self._wait_ended(_CLOSE_TIMEOUT_S)
        if self.news_fd >= 0:
            os.close(self.news_fd)
            self.news_fd = -1

    def _wait_ended(self, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        while self.poll() is None:
            if time.monotonic() > deadline:
                return False
            self._wait_for_news(_POLL_S)
        return True

    def _wait_for_news(self, timeout_s: float) -> None:
        news = select.poll()
        news.register(self.news_fd, select.POLLIN)
        news.poll(1000.0 * timeout_s)

    def ended_error(self) -> SimulatorStartError:
        """Return the error that says with which status the server ended, and what it wrote last."""
        return self._start_error(f"ended with status {self.poll()}")

    def _owns(self, pid: int | None) -> bool:
        try:
            return pid is not None and os.getsid(pid) == self.pid
        except ProcessLookupError:
            return False

    def _start_error(self, what: str) -> SimulatorStartError:
        return SimulatorStartError(
            f"the {self.spec.simulator} simulator {what}; its output is in {self.log_path}, the end of it:\n"
            f"{log_tail(self.log_path)}"
        )


def launch(spec: ServerSpec, log_path: Path) -> Server:
    """Start the server of `spec` under a guard; returns at once (see `Server.wait_ready`).

    Args:
        spec: the server.
        log_path: file for its output; appended to.

    Raises:
        SimulatorStartError: this machine or user cannot run it.
    """
    command = spec.command()
    ours, theirs = socket.socketpair()
    with theirs, log_path.open("ab") as log:
        guard = subprocess.Popen(
            [
                sys.executable,
                "-I",
                "-S",
                str(_GUARD),
                "--lifeline-fd",
                str(theirs.fileno()),
                "--",
                *command,
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(theirs.fileno(),),
            start_new_session=True,
        )
    return Server(spec, log_path, guard, ours)


def log_tail(path: Path) -> str:
    """Return the last lines of a log file, or a note that it cannot be read."""
    try:
        with path.open("rb") as log:
            log.seek(0, os.SEEK_END)
            log.seek(max(0, log.tell() - _LOG_TAIL_BYTES))
            return log.read().decode("utf-8", "replace").strip() or "(empty)"
    except OSError as error:
        return f"(unreadable: {error.strerror})"


_LIFELINES: weakref.WeakSet[socket.socket] = weakref.WeakSet()


def _drop_lifelines_of_parent() -> None:
    """A forked child must not keep its parent's servers alive."""
    for lifeline in list(_LIFELINES):
        lifeline.close()


os.register_at_fork(after_in_child=_drop_lifelines_of_parent)
