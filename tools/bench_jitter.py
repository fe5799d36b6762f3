"""Envs whose steps take different times: everybody waits for the slowest (`step`), or whoever is done goes on (`recv`).

A step sleeps for a lognormal time with a mean of 20 ms and sigma 0.5 (bench_envs.JitterEnv): the spread of a simulator
whose slowest steps take some three times the mean. With it a lockstep of 16 waits 2.22 means and one of 64 waits 2.92,
and no first-k can be faster by more than that than a lockstep that costs nothing itself; a wider spread would flatter
first-k. A `recv(n/4)` cannot be even that fast, for rows that are done wait until a quarter of all is:

    python tools/bench_jitter.py        what step() and recv(k) reach where nothing costs anything but the envs' sleep
"""

from __future__ import annotations

import heapq
import math
import time
from typing import Any

import numpy as np
from bench_contenders import Contender, Turn, VectorEnvContender, Work, cpu_ns
from bench_envs import ECHO_STEPS, MEAN_SLEEP_S, SIGMA
from numpy.typing import NDArray

_Rows = NDArray[np.int64]
_Record = tuple[_Rows, _Rows, NDArray[np.float32]]


class Jitter(Contender):
    """One way of stepping a vector env; several share it, for each turn begins with a reset.

    Args:
        name: as in the results.
        owner: of the vector env.
        k: how many rows a `recv` brings; None for `step`.
    """

    def __init__(self, name: str, owner: VectorEnvContender, k: int | None) -> None:
        super().__init__(name, owner.num_envs)
        self.pids = owner.pids
        self._vec = owner.vec
        self._k = k
        self._turns = 0

    def take_turn(self, work: Work, steps: int) -> Turn:
        """Each contender's turn of a round sleeps the same: the seed is the turn's number."""
        self._turns += 1
        self._vec.reset(seed=1000 * self._turns)
        records: list[_Record] = []
        used_ns = cpu_ns(self.pids) + time.process_time_ns()
        call_us, rate = self._lockstep(steps, records) if self._k is None else self._first_k(self._k, steps, records)
        used_ns = cpu_ns(self.pids) + time.process_time_ns() - used_ns
        for rows, counts, observations in records:
            if not (
                (observations[:, 0] == counts).all() and (observations[:, 1] == _actions(rows, counts)[:, 0]).all()
            ):
                raise SystemExit(f"{self.name} delivered a wrong row: expected steps {counts} of rows {rows}")
        return Turn(call_us, used_ns / 1e3 / sum(len(rows) for rows, _, _ in records), rate)

    def _lockstep(self, steps: int, records: list[_Record]) -> tuple[NDArray[np.float64], float]:
        rows = np.arange(self.num_envs)
        call_us = np.zeros(steps)
        for index in range(steps):
            counts = np.full(self.num_envs, index + 1)
            actions = _actions(rows, counts)
            began_ns = time.perf_counter_ns()
            observations = self._vec.step(actions)[0]
            call_us[index] = (time.perf_counter_ns() - began_ns) / 1e3
            records.append((rows, counts, np.array(observations)))
        return call_us, steps * self.num_envs / call_us.sum() * 1e6

    def _first_k(self, k: int, steps: int, records: list[_Record]) -> tuple[NDArray[np.float64], float]:
        """The clock starts when n rows have come, so that the rows are out of step, and stops after steps * n more."""
        n, vec = self.num_envs, self._vec
        counts = np.ones(n, np.int64)
        vec.send(_actions(np.arange(n), counts))
        call_us: list[float] = []
        received = timed_from = began_ns = 0
        while received < (steps + 1) * n:
            if not began_ns and received >= n:
                began_ns, timed_from = time.perf_counter_ns(), received
            call_began_ns = time.perf_counter_ns()
            observations, *_, infos = vec.recv(k)
            rows = infos["env_id"]
            records.append((rows, counts[rows], observations))
            counts[rows] += 1
            vec.send(_actions(rows, counts[rows]), rows)
            received += len(rows)
            if began_ns:
                call_us.append((time.perf_counter_ns() - call_began_ns) / 1e3)
        seconds = (time.perf_counter_ns() - began_ns) / 1e9
        observations, *_, infos = vec.recv(n)
        records.append((infos["env_id"], counts[infos["env_id"]], observations))
        return np.array(call_us), (received - timed_from) / seconds

    def close(self) -> None:
        """The owner closes."""


def _actions(rows: Any, counts: Any) -> NDArray[np.float32]:
    actions = np.zeros((len(rows), 3), np.float32)
    actions[:, 0] = (rows + counts) % ECHO_STEPS / ECHO_STEPS
    return actions


def free_rate(n: int, k: int, steps: int = 1000) -> float:
    """Env-steps/s of a `recv(k)`, or with k = n of a lockstep, that costs nothing, over so many steps of each row."""
    sleeps = np.random.default_rng(0).lognormal(math.log(MEAN_SLEEP_S) - SIGMA**2 / 2, SIGMA, (steps + 1) * n).tolist()
    wakes_s = sorted(sleeps.pop() for _ in range(n))
    now_s = 0.0
    while sleeps:
        now_s = [heapq.heappop(wakes_s) for _ in range(k)][-1]
        for _ in range(k):
            heapq.heappush(wakes_s, now_s + sleeps.pop())
    return steps * n / now_s


if __name__ == "__main__":
    for num_envs in (16, 64):
        rates = {k: free_rate(num_envs, k) for k in (num_envs, num_envs // 4, 1)}
        told = ", ".join(f"recv({k}) {rate:.0f}/s ({rate / rates[num_envs]:.2f}x)" for k, rate in rates.items())
        print(f"n={num_envs}: {told}; recv({num_envs}) is a lockstep")
