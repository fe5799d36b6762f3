"""A host's pool: one broker process and one supervisor process with its workers, kept running together.

    zmqcarla up                      runs `run_pool` in the foreground
    make_vec_env without an address  runs it as a child (`LocalPool`) that ends with its parent

The pool process only starts, watches and stops the two others. Each of them holds the read end of a pipe; when the
pool process dies, however it dies, the pipes close and they stop by themselves.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import select
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Final

from zmqcarla.broker.errors import SimulatorStartError
from zmqcarla.broker.protocol import EXIT_DRAINED, check_may_serve, is_served, runtime_directory
from zmqcarla.shm.segment import sweep
from zmqcarla.watch.gpus import adapters_of

_STOP_TIMEOUT_S: Final = 12.0
_BACKOFF_S: Final = 1.0
_PARENT_CHECK_S: Final = 1.0
_MAX_QUICK_DEATHS: Final = 5
_QUICK_S: Final = 10.0
_LOG_DIRECTORIES_KEPT: Final = 20


@dataclasses.dataclass(frozen=True, slots=True)
class PoolConfig:
    """A pool of one host."""

    address: str
    """Where the broker serves: ipc://PATH or tcp://127.0.0.1:PORT."""
    workers: int
    """How many."""
    gpus: tuple[int, ...] = ()
    """Worker i uses gpus[i mod len]; empty for none."""
    base_port: int | None = None
    """First RPC port; worker i takes the block at base_port + 4 i, and never moves. None: any free block."""
    simulator: str = "embedded"
    """"embedded", "carla", or "none" for a pool of ordinary Gymnasium envs."""
    map: str | None = None
    """OpenDRIVE file or town that the simulators start with."""
    carla_root: str | None = None
    """Folder with CarlaUE4.sh, for simulator="carla"."""
    env_patterns: tuple[str, ...] = ("zmqcarla/*",)
    """fnmatch patterns of the env ids that clients may ask for; an env id can import code."""
    step_timeout_s: float = 60.0
    """A step that takes longer is cut: the worker is restarted and its row truncated."""
    start_interval_s: float = 0.0
    """Worker i is first started i times this later, so that the servers do not all load their map at once."""
    log_format: str = "text"
    """"text" or "json", of broker and supervisor."""
    log_max_bytes: int = 16 << 20
    """A log file that is larger is put aside."""
    logs_kept: int = 3
    """How many of each are kept beside the present one."""
    worker: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Further settings of all workers, by the names of `zmqcarla.workers.worker_config.WorkerConfig`."""
    log_directory: str = ""
    """Where each process writes its log."""

    def __post_init__(self) -> None:
        if self.simulator not in ("embedded", "carla", "none"):
            raise ValueError(f"simulator: expected 'embedded', 'carla' or 'none', found {self.simulator!r}")


def new_log_directory() -> Path:
    """A fresh directory for the logs of one pool; only the latest few are kept, and those of pools that run."""
    parent = runtime_directory() / "logs"
    parent.mkdir(mode=0o700, exist_ok=True)
    path = parent / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    path.mkdir(mode=0o700, exist_ok=True)
    for old in sorted(parent.glob("*-*-*"))[:-_LOG_DIRECTORIES_KEPT]:
        if Path("/proc", old.name.rpartition("-")[2]).exists():  # its pool still runs and writes there
            continue
        with contextlib.suppress(OSError):  # another pool that starts now tidies up as well
            for file in old.iterdir():
                file.unlink(missing_ok=True)
            old.rmdir()
    return path


def run_pool(config: PoolConfig, lifeline_fd: int | None = None) -> int:
    """Keep broker and workers running until SIGTERM, SIGINT or the end of the lifeline; returns the exit code.

    A child that dies is started again. One that dies at once, again and again, ends the pool, and its log is named. A
    supervisor that was drained ends the pool too.
    """
    check_may_serve(config.address)
    wake_read, wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    for sig in (signal.SIGTERM, signal.SIGINT):
        signal.signal(sig, lambda *_: None)
    signal.set_wakeup_fd(wake_write)
    logs = Path(config.log_directory)
    children = [
        _Child(
            "broker", logs, ["-m", "zmqcarla.broker", "--address", config.address, "--log-format", config.log_format]
        ),
        _Child("supervisor", logs, ["-m", "zmqcarla.workers"], supervisor_config=_supervisor_config(config)),
    ]
    stop_fds = [wake_read] if lifeline_fd is None else [wake_read, lifeline_fd]
    try:
        return _watch(children, stop_fds, None if lifeline_fd is None else os.getppid())
    finally:
        for child in reversed(children):
            child.stop()
        sweep()
        signal.set_wakeup_fd(-1)


def _watch(children: list[_Child], stop_fds: list[int], parent_pid: int | None) -> int:
    """Restart what dies until told to stop, or until the parent is another one (a fork of it may hold the lifeline)."""
    for child in children:
        child.start()
    while True:
        ready, _, _ = select.select([*stop_fds, *[child.pidfd for child in children]], [], [], _PARENT_CHECK_S)
        if any(fd in ready for fd in stop_fds) or parent_pid not in (None, os.getppid()):
            return 0
        for child in (child for child in children if child.pidfd in ready):
            if child.exit_code() == EXIT_DRAINED:
                print("zmqcarla: drained, the last worker has stopped", file=sys.stderr, flush=True)
                return 0
            if not child.restart():
                print(f"zmqcarla: the {child.name} does not stay up; see {child.log}", file=sys.stderr, flush=True)
                return 1
            select.select(stop_fds, [], [], _BACKOFF_S)


def _supervisor_config(config: PoolConfig) -> dict[str, Any]:
    adapters = adapters_of(config.gpus) if config.simulator == "carla" else {}
    workers = [
        {
            "worker_id": f"{os.uname().nodename}-{os.getpid()}-{index}",
            "gpu": (gpu := config.gpus[index % len(config.gpus)] if config.gpus else None),
            "adapter": None if gpu is None else adapters.get(gpu),
            "port": None if config.base_port is None else config.base_port + 4 * index,
            "simulator": config.simulator,
            "map": config.map,
            "carla_root": config.carla_root,
            "env_patterns": list(config.env_patterns),
            "step_timeout_s": config.step_timeout_s,
            "start_delay_s": index * config.start_interval_s,
            **config.worker,
        }
        for index in range(config.workers)
    ]
    roster = str(Path(config.log_directory) / "workers.json")
    return {
        "broker": config.address,
        "workers": workers,
        "log_directory": config.log_directory,
        "log_format": config.log_format,
        "log_max_bytes": config.log_max_bytes,
        "logs_kept": config.logs_kept,
        "roster": roster,
    }


class _Child:
    """A process of the pool: its command, its log, and the pipe that ends it with us."""

    def __init__(
        self, name: str, logs: Path, arguments: list[str], supervisor_config: dict[str, Any] | None = None
    ) -> None:
        self.name = name
        self.log = logs / f"{name}.log"
        self.pidfd = -1
        self._arguments = arguments
        self._supervisor_config = supervisor_config
        self._process: subprocess.Popen[bytes] | None = None
        self._lifeline_write = -1
        self._started_at = 0.0
        self._quick_deaths = 0

    def start(self) -> None:
        """Start the process in a group of its own, so that Ctrl-C reaches only us."""
        lifeline_read, self._lifeline_write = os.pipe2(os.O_CLOEXEC)
        arguments = [sys.executable, *self._arguments]
        if self._supervisor_config is None:
            arguments += ["--lifeline-fd", str(lifeline_read)]
        else:
            arguments += [json.dumps({**self._supervisor_config, "lifeline_fd": lifeline_read})]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(lifeline_read,),
                start_new_session=True,
            )
        os.close(lifeline_read)
        self.pidfd = os.pidfd_open(self._process.pid)
        self._started_at = time.monotonic()

    def exit_code(self) -> int | None:
        """Of the process that has ended; None while it runs."""
        return None if self._process is None else self._process.poll()

    def restart(self) -> bool:
        """Start again after a death; False when it died too often too soon."""
        quick = time.monotonic() - self._started_at < _QUICK_S
        self._quick_deaths = self._quick_deaths + 1 if quick else 0
        self._reap()
        if self._quick_deaths >= _MAX_QUICK_DEATHS:
            return False
        self.start()
        return True

    def stop(self) -> None:
        """End the process: by its lifeline and SIGTERM, then by SIGKILL."""
        if self._process is None or self.pidfd < 0:
            return
        self._close_lifeline()
        self._process.terminate()
        try:
            self._process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._reap()

    def _reap(self) -> None:
        assert self._process is not None
        self._process.wait()
        self._close_lifeline()
        os.close(self.pidfd)
        self.pidfd = -1

    def _close_lifeline(self) -> None:
        if self._lifeline_write >= 0:
            os.close(self._lifeline_write)
            self._lifeline_write = -1


class LocalPool:
    """A private pool of this process: it ends with `close`, with this process, or with a crash of either.

    Args:
        workers: how many.
        options: further fields of `PoolConfig`.

    Attributes:
        address: of its broker.
        log_directory: of its processes.
    """

    def __init__(self, workers: int, **options: Any) -> None:
        logs = new_log_directory()
        self.log_directory = logs
        self.address = f"ipc://{runtime_directory()}/pool-{os.getpid()}-{os.urandom(3).hex()}.sock"
        config = PoolConfig(address=self.address, workers=workers, log_directory=str(logs), **options)
        lifeline_read, lifeline_write = os.pipe2(os.O_CLOEXEC)
        with (logs / "pool.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "zmqcarla.pool", json.dumps(dataclasses.asdict(config)), str(lifeline_read)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(lifeline_read,),
                start_new_session=True,
            )
        os.close(lifeline_read)
        self._process = process
        self._finalizer = weakref.finalize(self, _end_pool, os.getpid(), process, os.fdopen(lifeline_write, "wb"))
        self._wait_served()

    @property
    def runs(self) -> bool:
        """Whether its process is there."""
        return self._process.poll() is None

    def close(self) -> None:
        """Stop the pool and wait for its end; safe to call twice."""
        self._finalizer()

    def _wait_served(self, timeout_s: float = 20.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not is_served(self.address):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.close()
                raise SimulatorStartError(f"the private pool did not start; see the logs in {self.log_directory}")
            select.select([], [], [], 0.01)


def _end_pool(pid: int, process: subprocess.Popen[bytes], lifeline: IO[bytes]) -> None:
    if os.getpid() != pid:
        return
    lifeline.close()
    process.terminate()  # processes that were forked from this one hold the pipe open as well
    try:
        process.wait(2 * _STOP_TIMEOUT_S + 2)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    sweep()


def main(arguments: list[str]) -> int:
    """`python -m zmqcarla.pool CONFIG LIFELINE_FD`: the process behind `LocalPool`."""
    fields = json.loads(arguments[0])
    for name in ("gpus", "env_patterns"):
        fields[name] = tuple(fields[name])
    return run_pool(PoolConfig(**fields), int(arguments[1]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
