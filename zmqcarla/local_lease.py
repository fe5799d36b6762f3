"""Rows that are child processes of this one: what `Lease` is for a pool, for an `AsyncVectorEnv(env_fns)`.

Commands travel as pickles over one private socketpair a row. Nothing of this touches the bus: this process made the
functions, and the children are its own.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import time
import weakref
from collections.abc import Collection, Sequence
from typing import Any, Final

import cloudpickle
import numpy as np

from zmqcarla.broker.errors import CommandTimeoutError, LeaseError, LeaseLostError
from zmqcarla.lease import Outcome
from zmqcarla.local_children import Child, LocalChildren
from zmqcarla.step_times import StepTimes

_SLICE_S: Final = 0.5
_PLAIN: Final = frozenset({np.ndarray, np.float32, np.float64, np.int64, int, float, str})
_KNOWN_BY_THE_CLIENT: Final = "rebuild"
"""Only for a row whose death it knows does the client ask this."""


class LocalLease:
    """The children of one vector env, and the command that they are asked.

    Args:
        num_envs: how many.

    Attributes:
        workers: what each row is called in messages.
        step_times: of the vector env.
    """

    unpack = staticmethod(pickle.loads)

    def __init__(self, num_envs: int) -> None:
        self.num_envs = num_envs
        self.workers = tuple(f"child {row}" for row in range(num_envs))
        self._pid = os.getpid()
        self._seq = 0
        self._asked: dict[int, Child] = {}
        self._settled: list[Outcome] = []
        self._children = LocalChildren(num_envs)
        self.step_times = StepTimes()
        self._finalizer = weakref.finalize(self, _end, os.getpid(), self._children)

    @staticmethod
    def pack(value: Any) -> bytes:
        """Functions and classes of the user's own script go by value (cloudpickle), all else as in pickle."""
        if type(value) is list and type(value[-1]) in _PLAIN:  # a step: plain pickle takes a tenth of the time
            return pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
        return bytes(cloudpickle.dumps(value))

    @property
    def packed_steps(self) -> bool:
        """Children take values, whatever their type."""
        return False

    @property
    def grace_s(self) -> float:
        """How long `release` lets the children close their envs."""
        return self._children.grace_s

    @grace_s.setter
    def grace_s(self, value: float) -> None:
        self._children.grace_s = value

    def next_seq(self) -> int:
        """The number of the next command."""
        self._seq += 1
        return self._seq

    def send(self, rows: Sequence[int], ops: Sequence[str], payloads: Sequence[bytes]) -> int:
        """Send one command; the answers to an earlier one that was given up are thrown away.

        A child that still owes such an answer gets the new command after it (in `wait`): two that both send and do not
        read would wait for each other.

        Raises:
            LeaseLostError: released, or inherited by a fork.
        """
        self.check_supervised()
        seq = self.next_seq()
        owing, self._asked, self._settled = set(self._asked.values()), {}, []
        for row, op, payload in zip(rows, ops, payloads, strict=True):
            if op == "attach":
                self._watch_board(self.unpack(payload)["board"])
            child = self._children.living(row, told=op == _KNOWN_BY_THE_CLIENT)
            if isinstance(child, dict):
                self._settled.append(_lost(row, child))
                continue
            self._asked[row] = child
            child.deferred = pickle.dumps((seq, op, payload))
            if child not in owing:
                _send_deferred(child)
        return seq

    def _watch_board(self, name: str | None) -> None:
        if name is not None:
            self._children.declare_on(name)

    def wait(self, seq: int, timeout_s: float) -> list[Outcome]:
        """The outcomes of the latest command, in the order of rows.

        Raises:
            CommandTimeoutError: not all rows answered in time.
        """
        deadline = time.monotonic() + timeout_s
        asked, wake_fd = self._asked, self._children.wake_fd
        rows = {child.connection.fileno(): row for row, child in asked.items()}
        poller = select.poll()
        for fd in (wake_fd, *rows):
            poller.register(fd, select.POLLIN)
        while asked:
            self.check_supervised()
            remaining_s = deadline - time.monotonic()
            ready = {fd for fd, _ in poller.poll(max(0.0, min(remaining_s, _SLICE_S)) * 1000)}
            if wake_fd in ready or not ready:
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(wake_fd)
                looked_at = {fd: fd in ready for fd, row in rows.items() if row in asked}  # a death: look at all
            else:
                looked_at = dict.fromkeys(ready, True)
            for fd, readable in looked_at.items():
                row = rows[fd]
                outcome = self._heard(row, asked[row], seq, readable)
                if outcome is not None:
                    self._settled.append(outcome)
                    del asked[row]
                if outcome is not None or asked[row].silent:
                    with contextlib.suppress(KeyError):
                        poller.unregister(fd)
            if asked and remaining_s <= 0.0:
                raise CommandTimeoutError(
                    f"expected the answers of {self.num_envs} envs within {timeout_s:g} s, found none of rows "
                    f"{sorted(asked)}",
                    timeout_s,
                )
        return sorted(self._settled, key=lambda outcome: outcome.row)

    def _heard(self, row: int, child: Child, seq: int, readable: bool) -> Outcome | None:
        dead = child.news  # before the look at the socket: whatever a dead child said is there by now
        try:
            while not child.silent and (readable or child.connection.poll(0)):
                readable = False
                found, kind, payload = pickle.loads(child.connection.recv_bytes())
                if found == seq:
                    return Outcome(row, kind, payload)
                _send_deferred(child)  # that was the answer it owed
        except (EOFError, OSError):
            child.silent = True
        if dead is None:
            return None
        self._children.tell(row, child)
        return _lost(row, dead)

    def wait_steps(self, seq: int, timeout_s: float) -> list[Outcome]:
        """What `wait` returns: steps of children are never packed."""
        return self.wait(seq, timeout_s)

    def wait_any(self, seqs: Collection[int], timeout_s: float) -> tuple[int, list[Outcome]] | None:
        """Not for children, which answer one command at a time; `AsyncVectorEnv` refuses first-k before it comes here.

        Raises:
            LeaseError: always.
        """
        raise LeaseError("expected a lease of a pool, found child processes, which answer one command at a time")

    def probe(self) -> list[Outcome]:
        """Deaths that the client has not heard of."""
        self.check_supervised()
        return [_lost(row, news) for row, news in self._children.untold().items()]

    def after_the_end(self, row: int, news: dict[str, Any]) -> Outcome:
        """A child that will not come back has no successor."""
        return Outcome(row, "gone", news)

    def check_supervised(self) -> None:
        """Raise LeaseLostError when the children have ended, or are another process's."""
        if not self._finalizer.alive:
            raise LeaseLostError("expected living child processes, found them released")
        if os.getpid() != self._pid:
            raise LeaseLostError(
                f"expected process {self._pid}, which made this vector env, found its fork {os.getpid()}; make the "
                "vector env in the process that steps it"
            )

    def pool_died(self) -> None:
        """There is no pool: the children are this process's own."""

    def release(self) -> None:
        """End the children; safe to call twice, and without effect in a forked child."""
        self._finalizer()


def _send_deferred(child: Child) -> None:
    frame, child.deferred = child.deferred, b""
    if frame:
        with contextlib.suppress(OSError):  # it is dying: `wait` hears of it
            child.connection.send_bytes(frame)


def _end(pid: int, children: LocalChildren) -> None:
    if os.getpid() == pid:
        children.end()


def _lost(row: int, news: dict[str, Any]) -> Outcome:
    payload = {key: value for key, value in news.items() if key != "final"}
    return Outcome(row, "gone" if news["final"] else "lost", payload)
