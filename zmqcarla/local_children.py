"""The child processes of an `AsyncVectorEnv(env_fns)`: started, watched, restarted and ended by one thread.

One thread starts all of them and lives as long as they do, because PR_SET_PDEATHSIG kills a process when the thread
that started it ends. It waits on their pidfds; after a death it reaps the process, writes LOST on the board (exactly
what a supervisor does in a pool, so the training loop wakes at once) and starts the next incarnation.

If this process is killed, the kernel kills the children, and a guard (`workers/child_guard.py`) ends what they
started and unlinks the shared memory.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import importlib.util
import json
import os
import pickle
import select
import signal
import subprocess
import sys
import threading
import time
from multiprocessing.connection import Connection, Pipe
from typing import IO, Any, Final

from zmqcarla.broker.errors import WorkerLostError
from zmqcarla.shm.address_layout import same_address_layout
from zmqcarla.shm.board import Board

MAX_RESTARTS: Final = 5
RESTART_WINDOW_S: Final = 600.0
"""With MAX_RESTARTS restarts of one row within this time it is not restarted again, as in a pool."""
GRACE_S: Final = 30.0
"""How long the children may take to close their envs."""
_POLL_MS: Final = 1000
_UNTOLD_POLL_MS: Final = 20
_START_TIMEOUT_S: Final = 60.0
_BOOT: Final = (
    "import json, sys; sys.path[:], sys.argv[:], arguments = json.loads(sys.argv[1]); "
    "from zmqcarla.workers.child_process import main; sys.exit(main(arguments))"
)
_MPI_VARIABLES: Final = ("OMPI_", "PMI_")
"""An MPI job's children must not take themselves for ranks of it."""


@dataclasses.dataclass(eq=False, slots=True)
class Child:
    """One incarnation of a row's process.

    Attributes:
        news: {worker_id, reason, exit_code, restarts, final} after its death.
        silent: nothing more will come over its connection.
        deferred: a command that it gets as soon as it has answered the one before.
    """

    process: subprocess.Popen[bytes]
    connection: Connection[Any, Any]
    pidfd: int
    news: dict[str, Any] | None = None
    silent: bool = False
    deferred: bytes = b""


@dataclasses.dataclass(slots=True)
class _Row:
    child: Child | None = None
    untold: Child | None = None
    """Its death has not reached the client yet."""
    restarts: collections.deque[float] = dataclasses.field(default_factory=collections.deque[float])
    total_restarts: int = 0


class LocalChildren:
    """The children of one vector env; ended by `end`.

    Args:
        num_envs: how many.

    Attributes:
        wake_fd: an eventfd that becomes readable after a death.

    Raises:
        OSError: a process could not be started.
    """

    def __init__(self, num_envs: int) -> None:
        self._board: Board | None = None
        self.wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.grace_s = GRACE_S
        self._rows = [_Row() for _ in range(num_envs)]
        self._changed = threading.Condition()
        self._stop_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._stopped = False
        self._guard: subprocess.Popen[bytes] | None = None
        self._failure: BaseException | None = None
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, name="zmqcarla-children", daemon=True)
        self._thread.start()
        self._started.wait(_START_TIMEOUT_S)
        if self._failure is not None:
            self.end()
            raise self._failure

    # --- for the stepping thread ---

    def declare_on(self, board_name: str) -> None:
        """Write deaths on this board from now on."""
        with self._changed:
            if self._board is None:
                self._board = Board.attach_rows(board_name)

    def living(self, row: int, *, told: bool) -> Child | dict[str, Any]:
        """The child of a row, once it is there; or the news of a death that the client has not heard.

        Args:
            row: which.
            told: the client has read the death from the board.
        """
        with self._changed:
            slot = self._rows[row]
            untold, slot.untold = slot.untold, None
            if untold is not None and untold.news is not None and not told:
                return untold.news
            if not self._changed.wait_for(
                lambda: slot.child is not None and (slot.child.news is None or slot.child.news["final"]),
                _START_TIMEOUT_S,
            ):
                raise WorkerLostError(f"expected the process of row {row} within {_START_TIMEOUT_S:g} s, found none")
            assert slot.child is not None
            return slot.child.news or slot.child

    def tell(self, row: int, child: Child) -> None:
        """The client has heard of this death."""
        with self._changed:
            if self._rows[row].untold is child:
                self._rows[row].untold = None

    def untold(self) -> dict[int, dict[str, Any]]:
        """News of deaths that the client has not heard, by row; heard from now on."""
        news: dict[int, dict[str, Any]] = {}
        with self._changed:
            for row, slot in enumerate(self._rows):
                if slot.untold is not None and slot.untold.news is not None:
                    news[row], slot.untold = slot.untold.news, None
        return news

    def end(self) -> None:
        """Close the sockets, so that the children close their envs; after `grace_s` kill what is left."""
        if self._stopped:
            return
        self._stopped = True
        os.eventfd_write(self._stop_fd, 1)
        self._thread.join()
        os.close(self._stop_fd)
        os.close(self.wake_fd)

    # --- the thread ---

    def _run(self) -> None:
        try:
            self._start_guard()
            for row in range(len(self._rows)):
                self._start(row)
        except BaseException as error:
            self._failure = error
        finally:
            self._started.set()
        while not self._turn():
            pass
        self._end_all()

    def _start_guard(self) -> None:
        spec = importlib.util.find_spec("zmqcarla.workers.child_guard")
        assert spec is not None
        assert spec.origin is not None
        read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
        try:
            self._guard = subprocess.Popen(
                [sys.executable, "-I", "-S", spec.origin, str(read_fd)],
                stdin=subprocess.DEVNULL,
                pass_fds=(read_fd,),
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            )
        except BaseException:
            os.close(write_fd)
            raise
        finally:
            os.close(read_fd)
        self._lifeline: IO[str] = os.fdopen(write_fd, "w", encoding="ascii", buffering=1)

    def _start(self, row: int) -> None:
        ours, theirs = Pipe()
        fd = theirs.fileno()
        told = json.dumps([sys.path, sys.argv, [str(fd), str(row), str(os.getpid())]])
        environment = {name: value for name, value in os.environ.items() if not name.startswith(_MPI_VARIABLES)}
        try:
            with same_address_layout():
                process = subprocess.Popen(
                    [sys.executable, "-c", _BOOT, told],
                    stdin=subprocess.DEVNULL,
                    pass_fds=(fd,),
                    start_new_session=True,
                    env=environment,
                )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self._tell_guard(process.pid)
        with self._changed:
            self._rows[row].child = Child(process, ours, os.pidfd_open(process.pid))
            self._changed.notify_all()

    def _tell_guard(self, number: int) -> None:
        with contextlib.suppress(OSError):  # without a guard only the cleaning after a kill -9 of this process suffers
            self._lifeline.write(f"{number}\n")

    def _alive(self) -> dict[int, int]:
        """Rows by the pidfd of their child."""
        return {
            slot.child.pidfd: row
            for row, slot in enumerate(self._rows)
            if slot.child is not None and slot.child.news is None
        }

    def _turn(self) -> bool:
        """Wait for a death or the stop, and answer it; True for the stop."""
        alive = self._alive()
        poller = select.poll()
        for fd in (self._stop_fd, *alive):
            poller.register(fd, select.POLLIN)
        untold = any(slot.untold is not None for slot in self._rows)
        ready = dict(poller.poll(_UNTOLD_POLL_MS if untold else _POLL_MS))
        for fd, row in alive.items():
            if fd in ready:
                self._bury(row)
        if untold:
            self._declare_untold()
        for fd, row in alive.items():
            if fd in ready and self._stop_fd not in ready:
                self._restart(row)
        return self._stop_fd in ready

    def _bury(self, row: int) -> None:
        """Reap a dead child and say so, on the board and to whoever waits on its socket."""
        slot = self._rows[row]
        child = slot.child
        assert child is not None
        exit_code = self._reap(child)
        now = time.monotonic()
        while slot.restarts and now - slot.restarts[0] > RESTART_WINDOW_S:
            slot.restarts.popleft()
        with self._changed:
            child.news = {
                "worker_id": f"child {row} (pid {child.process.pid})",
                "reason": _reason(exit_code),
                "exit_code": exit_code,
                "restarts": slot.total_restarts,
                "final": len(slot.restarts) >= MAX_RESTARTS,
            }
            slot.untold = child
            self._changed.notify_all()
        self._declare_untold()
        os.eventfd_write(self.wake_fd, 1)

    def _declare_untold(self) -> None:
        """Write deaths on the board where the client waits, also when it asked only after the death."""
        with self._changed:
            for row, slot in enumerate(self._rows):
                if self._board is not None and slot.untold is not None and self._board.waits(row):
                    with contextlib.suppress(OSError):  # the bells are gone, and with them the client
                        self._board.declare_lost(row, pickle.dumps(slot.untold.news))

    def _restart(self, row: int) -> None:
        slot = self._rows[row]
        assert slot.child is not None
        assert slot.child.news is not None
        if slot.child.news["final"]:
            return
        slot.restarts.append(time.monotonic())
        slot.total_restarts += 1
        try:
            self._start(row)
        except OSError as error:
            with self._changed:
                slot.child.news |= {"final": True, "reason": f"{slot.child.news['reason']}; no restart: {error}"}
                self._changed.notify_all()

    def _reap(self, child: Child) -> int:
        """End what is left of the group, then reap its leader, whose number could pass to strangers only then."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.process.pid, signal.SIGKILL)
        self._tell_guard(-child.process.pid)
        exit_code = child.process.wait()
        os.close(child.pidfd)
        return exit_code

    def _end_all(self) -> None:
        left = {slot.child.pidfd: slot.child for slot in self._rows if slot.child is not None}
        for child in left.values():
            child.connection.close()
        left = {fd: child for fd, child in left.items() if child.news is None}
        deadline = time.monotonic() + self.grace_s
        while left:
            poller = select.poll()
            for fd in left:
                poller.register(fd, select.POLLIN)
            ready = poller.poll(max(0.0, deadline - time.monotonic()) * 1000)
            for fd in [fd for fd, _ in ready] or list(left):  # nobody in time: all that are left
                self._reap(left.pop(fd))
        if self._board is not None:
            self._board.close()
        if self._guard is not None:
            with contextlib.suppress(OSError):
                self._lifeline.write("end\n")
                self._lifeline.close()
            self._guard.wait()


def _reason(exit_code: int) -> str:
    if exit_code < 0:
        return f"the env's process was killed by {signal.Signals(-exit_code).name}"
    return f"the env's process ended with exit code {exit_code}"
