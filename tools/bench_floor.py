"""The least that n processes can take for a vector step: one semaphore each, one for "done", a memset of each row.

No actions, rewards, infos, checks or autoreset: nothing that is a vector env can be as fast. In Python with posix_ipc,
and in C (bench_floor.c) where a compiler is found.
"""

from __future__ import annotations

import mmap
import multiprocessing
import os
import secrets
import select
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import posix_ipc
from bench_contenders import Contender, Lockstep, NotInstalledError, Turn, Work, cpu_ns, descendants
from bench_envs import IMAGE_SHAPE, VECTOR_LENGTH
from numpy.typing import NDArray

_SLOTS = 4
_PATIENCE_S = 5.0
_TURN_LIMIT_S = 120.0


def row_bytes(envs: str) -> int:
    """Size of one env's observation."""
    return 4 * VECTOR_LENGTH + (int(np.prod(IMAGE_SHAPE)) if envs == "image" else 0)


def _semaphore() -> Any:
    semaphore = posix_ipc.Semaphore(f"/bench-{os.getpid()}-{secrets.token_hex(4)}", posix_ipc.O_CREX)
    semaphore.unlink()  # only forks of this process use it
    return semaphore


class PythonFloor(Lockstep):
    """The floor with Python on both sides."""

    def __init__(self, name: str, num_envs: int, envs: str) -> None:
        super().__init__(name, num_envs)
        memory = mmap.mmap(-1, _SLOTS * num_envs * row_bytes(envs))
        self._rows: NDArray[np.uint8] = np.frombuffer(memory, np.uint8).reshape(_SLOTS, num_envs, -1)
        self._rows.fill(0)
        self._done = _semaphore()
        self._go = [_semaphore() for _ in range(num_envs)]
        fork = multiprocessing.get_context("fork")
        before = descendants()
        self._processes = [fork.Process(target=self._serve, args=(row, os.getpid())) for row in range(num_envs)]
        for process in self._processes:
            process.daemon = True
            process.start()
        self.pids = descendants() - before

    def _serve(self, row: int, parent: int) -> None:
        count, rows, go = 0, [self._rows[slot, row] for slot in range(_SLOTS)], self._go[row]
        while os.getppid() == parent:
            try:
                while True:
                    go.acquire(_PATIENCE_S)
                    count += 1
                    rows[count % _SLOTS].fill((count + row) % 256)
                    self._done.release()
            except posix_ipc.BusyError:  # nobody asked for a while: is the parent alive?
                continue

    def step(self, actions: NDArray[np.float32]) -> tuple[Any, Any]:
        for semaphore in self._go:
            semaphore.release()
        for _ in self._go:
            self._done.acquire(_PATIENCE_S)
        return self._rows[self._count % _SLOTS], {}

    def is_right(self, work: Work, count: int, actions: NDArray[np.float32], observations: Any, infos: Any) -> bool:
        size = observations.shape[1]
        values = (count + np.arange(self.num_envs)) % 256
        return bool((observations[:, [0, size // 2, size - 1]] == values[:, None]).all())

    def close(self) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.join()


class CFloor(Contender):
    """The floor in C; checks its rows itself."""

    def __init__(self, name: str, num_envs: int, envs: str) -> None:
        super().__init__(name, num_envs)
        compiler = shutil.which("cc") or shutil.which("gcc")
        if compiler is None:
            raise NotInstalledError("no C compiler found (cc or gcc)")
        with tempfile.TemporaryDirectory() as directory:
            program, source = Path(directory, "floor"), Path(__file__).with_name("bench_floor.c")
            subprocess.run([compiler, "-O2", "-pthread", "-o", program, source], check=True, timeout=60)
            before = descendants()
            self._process = subprocess.Popen(
                [program, str(num_envs), str(row_bytes(envs))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            self._ask(1)  # all processes are there
        self.pids = descendants() - before

    def _ask(self, steps: int) -> NDArray[np.float64]:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        print(steps, file=stdin, flush=True)
        if not select.select([stdout], [], [], _TURN_LIMIT_S)[0]:
            raise SystemExit(f"{self.name} took more than {_TURN_LIMIT_S:g} s for {steps} steps")
        step_ns = np.array(stdout.readline().split(), np.float64)
        if len(step_ns) != steps:
            raise SystemExit(f"{self.name} ended (exit code {self._process.wait(10)}); its error is above")
        return step_ns

    def take_turn(self, work: Work, steps: int) -> Turn:
        children_ns = cpu_ns(self.pids)
        step_ns = self._ask(steps)
        env_steps = steps * self.num_envs
        return Turn(step_ns / 1e3, (cpu_ns(self.pids) - children_ns) / 1e3 / env_steps, env_steps / step_ns.sum() * 1e9)

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        try:
            self._process.wait(10)
        finally:
            self._process.kill()
