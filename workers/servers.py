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
from zmqcarla.workers import ports

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
    """

    def __init__(
        self, spec: ServerSpec, log_path: Path, guard: subprocess.Popen[bytes], lifeline: socket.socket
    ) -> None:
        self.spec = spec
        self.log_path = log_path
        self.pid = guard.pid
        self._guard = guard
        self._lifeline = lifeline
        self._server_pid: int | None = None
        _LIFELINES.add(lifeline)

    def poll(self) -> int | None:
        """Return the server's exit status (128 + signal when killed), or None while it runs."""
        return self._guard.poll()

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

    def wait_ready(self, timeout_s: float) -> None:
        """Wait until the server listens on its RPC port.

        Raises:
            SimulatorStartError: it ended, or did not listen within `timeout_s`.
            PortInUseError: somebody else listens there.
        """
        port = self.spec.port
        if not ports.is_listening(port):
            self._wait_listening(timeout_s)
        listener = ports.listener_pid(port)
        if listener is None or not self._owns(listener):
            raise PortInUseError(
                f"expected our {self.spec.simulator} simulator (session {self.pid}) on port {port}, found "
                f"{ports.port_owner(port)}; choose another --port or end that process",
                port,
            )

    def _wait_listening(self, timeout_s: float) -> None:
        # Asked before its pid is used: that of a guard that has been reaped is nobody's.
        if self.poll() is not None:
            raise self.ended_error()
        deadline = time.monotonic() + timeout_s
        port = self.spec.port
        ended = os.pidfd_open(self.pid)
        try:
            while not ports.is_listening(port):
                if time.monotonic() > deadline:
                    raise self._start_error(f"did not listen on port {port} within {timeout_s:g} s")
                select.select([ended], [], [], _POLL_S)
                if self.poll() is not None:
                    raise self.ended_error()
        finally:
            os.close(ended)

    def close(self) -> None:
        """End the server within about eight seconds; a second call does nothing."""
        self._lifeline.close()
        try:
            self._guard.wait(_CLOSE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            # The guard itself is stuck (stopped, or starved): end the session's groups without it.
            for pid in (self._server_pid, self.pid):
                if pid is not None:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(pid, signal.SIGKILL)
            self._guard.wait(_CLOSE_TIMEOUT_S)

    def ended_error(self) -> SimulatorStartError:
        """Return the error that says with which status the server ended, and what it wrote last."""
        return self._start_error(f"ended with status {self.poll()}")

    def _owns(self, pid: int) -> bool:
        try:
            return os.getsid(pid) == self.pid
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
