"""Kills, stops and continues processes at random times; used by the soaks, which say whom and how often."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import psutil

from zmqcarla.broker.errors import ZmqCarlaError

Order = Callable[[random.Random], "dict[str, Any] | None"]


class Target(Protocol):
    """What is troubled."""

    def victims(self, kind: str) -> list[psutil.Process]:
        """The processes of a kind that live now."""
        ...

    def describe(self, kind: str, victim: psutil.Process) -> dict[str, Any]:
        """What is to be noted of one of them before it is struck."""
        ...

    def tend(self) -> None:
        """Called all the while, for what the target itself must do to live on."""
        ...


class Trouble(threading.Thread):
    """A thread that strikes until it is told to end.

    Args:
        target: whom.
        weights: "kill KIND", "stop KIND", or a key of `orders`: how often each is chosen, relative to the others.
        seed: of what is chosen; when it strikes is the machine's.
        mean_s: mean time between two faults.
        stop_s: draws for how long a process of a kind is stopped.
        orders: deeds that are no signals; each returns what to note, or None when it could not be done.

    Attributes:
        done: every fault: `at` (time.time, just before it struck), `fault`, `until` (when what was
            stopped was continued, or when an order was obeyed), and what the target or the order told of it.
    """

    def __init__(
        self,
        target: Target,
        weights: Mapping[str, int],
        seed: int,
        mean_s: float,
        stop_s: Callable[[str, random.Random], float],
        orders: Mapping[str, Order] | None = None,
    ) -> None:
        super().__init__(name="trouble", daemon=True)
        self.done: list[dict[str, Any]] = []
        self._target, self._weights, self._mean_s, self._stop_s = target, weights, mean_s, stop_s
        self._orders = orders or {}
        self._draw = random.Random(seed)
        self._end = threading.Event()
        self._stopped: list[tuple[psutil.Process, dict[str, Any]]] = []

    def run(self) -> None:
        """Trouble, until the end."""
        next_at = time.time() + self._mean_s
        while not self._end.wait(0.01):
            self._continue(time.time())
            self._target.tend()
            if time.time() >= next_at:
                next_at = time.time() + self._draw.expovariate(1 / self._mean_s)
                with contextlib.suppress(psutil.Error, ZmqCarlaError, OSError):
                    self._do(self._draw.choices(list(self._weights), list(self._weights.values()))[0])
        self._continue(float("inf"))
        self._target.tend()

    def end(self) -> None:
        """Continue what is stopped, and end."""
        self._end.set()
        self.join()

    def _do(self, fault: str) -> None:
        noted: dict[str, Any] = {"at": time.time(), "fault": fault}
        if fault in self._orders:
            told = self._orders[fault](self._draw)
            if told is not None:
                self.done.append(noted | told | {"until": time.time()})
            return
        deed, _, kind = fault.partition(" ")
        victims = self._target.victims(kind)
        if not victims:
            return
        victim = self._draw.choice(victims)
        noted |= {"pid": victim.pid, **self._target.describe(kind, victim), "at": time.time()}
        if deed == "kill":
            victim.kill()
        else:
            noted["until"] = noted["at"] + self._stop_s(kind, self._draw)
            victim.suspend()
            self._stopped.append((victim, noted))
        self.done.append(noted)

    def _continue(self, now: float) -> None:
        due = [(victim, noted) for victim, noted in self._stopped if noted["until"] <= now]
        due = self._stopped if now == float("inf") else due
        for victim, noted in due:
            with contextlib.suppress(psutil.Error):
                victim.resume()
            noted["until"] = time.time()
        self._stopped = [one for one in self._stopped if one not in due]
