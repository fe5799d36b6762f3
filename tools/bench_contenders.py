"""What the benchmark compares: vector envs behind one small interface, with the CPU time of all their processes.

A contender takes turns. In a turn it does some steps; each is timed from handing over the actions to holding the
batch, and what came is checked after the clock has stopped.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
import importlib
import importlib.util
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import psutil
from bench_envs import ECHO_STEPS, IMAGE_SHAPE, VECTOR_LENGTH, image_value, scalar_infos
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv
from numpy.typing import NDArray

import zmqcarla
from zmqcarla.rows import Transport

ROLLOUT_STEPS = 8
"""Length of the rollout buffer; the benchmark goes round it."""
_STRIDES = (slice(None), slice(None, None, 2), slice(None, None, 223), slice(None, None, 399))
"""Corners of the first and last channel of each image: enough to see a row that is stale or torn."""


@dataclasses.dataclass(frozen=True, slots=True)
class Work:
    """What is timed."""

    name: str
    envs: str
    """"image" or "vector"."""
    infos: bool = False
    """Each step returns 8 scalars a row."""
    rollout: bool = False
    """The batch is copied into a rollout buffer, within the time."""


@dataclasses.dataclass(frozen=True, slots=True)
class Turn:
    """What a turn took."""

    step_us: NDArray[np.float64]
    """Each vector step (lockstep), or each call that brought rows."""
    cpu_us: float
    """CPU time of all processes of the contender for one step of one env."""
    env_steps_per_s: float


class NotInstalledError(Exception):
    """The contender's package is not there; the text says which."""


def descendants() -> set[int]:
    """Pids of all processes below this one."""
    return {process.pid for process in psutil.Process().children(recursive=True)}


def cpu_ns(pids: set[int]) -> int:
    """CPU time that the processes have used so far, all threads (schedstat counts nanoseconds, stat only 10 ms)."""
    return sum(
        int(path.read_bytes().split()[0]) for pid in pids for path in Path(f"/proc/{pid}/task").glob("*/schedstat")
    )


def step_actions(num_envs: int, step: int) -> NDArray[np.float32]:
    """Actions whose first value differs in every row and from step to step."""
    actions = np.zeros((num_envs, 3), np.float32)
    actions[:, 0] = (np.arange(num_envs) + step) % ECHO_STEPS / ECHO_STEPS
    return actions


class Contender(abc.ABC):
    """Something that takes turns; whatever processes its constructor starts are its own."""

    def __init__(self, name: str, num_envs: int) -> None:
        self.name = name
        self.num_envs = num_envs
        self.pids: set[int] = set()

    @abc.abstractmethod
    def take_turn(self, work: Work, steps: int) -> Turn:
        """Do some steps of a work; raises SystemExit when a row is wrong."""

    @abc.abstractmethod
    def close(self) -> None:
        """End every process."""


class Lockstep(Contender):
    """A contender with a `step` in this process."""

    def __init__(self, name: str, num_envs: int) -> None:
        super().__init__(name, num_envs)
        self._count = 0
        self._rollout: dict[str, NDArray[Any]] = {}

    @abc.abstractmethod
    def step(self, actions: NDArray[np.float32]) -> tuple[Any, Any]:
        """Observations and infos."""

    @abc.abstractmethod
    def is_right(self, work: Work, count: int, actions: NDArray[np.float32], observations: Any, infos: Any) -> bool:
        """Whether every row is the one of this step and of these actions."""

    def prepare(self, work: Work) -> None:
        """Get ready for the turns of a work."""

    def take_turn(self, work: Work, steps: int) -> Turn:
        self.prepare(work)
        keep = self._keep if work.rollout else None
        step_us = np.zeros(steps)
        own_ns, children_ns = 0, cpu_ns(self.pids)
        for index in range(steps):
            self._count += 1
            actions = step_actions(self.num_envs, self._count)
            own_began_ns = time.process_time_ns()
            began_ns = time.perf_counter_ns()
            observations, infos = self.step(actions)
            if keep is not None:
                keep(observations)
            step_us[index] = (time.perf_counter_ns() - began_ns) / 1e3
            own_ns += time.process_time_ns() - own_began_ns
            if not self.is_right(work, self._count, actions, observations, infos):
                raise SystemExit(f"{self.name} delivered a wrong row at step {self._count} of {work.name}")
        all_ns = own_ns + cpu_ns(self.pids) - children_ns
        env_steps = steps * self.num_envs
        return Turn(step_us, all_ns / 1e3 / env_steps, env_steps / step_us.sum() * 1e6)

    def _keep(self, observations: dict[str, NDArray[Any]]) -> None:
        if not self._rollout:
            shape = (ROLLOUT_STEPS, self.num_envs)
            self._rollout = {
                "image": np.ones((*shape, *IMAGE_SHAPE), np.uint8),
                "vector": np.ones((*shape, VECTOR_LENGTH), np.float32),
            }
        for name, buffer in self._rollout.items():
            buffer[self._count % ROLLOUT_STEPS] = observations[name]


class VectorEnvContender(Lockstep):
    """Any object with gymnasium's `reset`, `step`, `call` and `close`.

    Args:
        name: as in the results.
        num_envs: how many rows.
        make: builds the vector env.
        call: the method that calls a method of every env.
    """

    def __init__(self, name: str, num_envs: int, make: Callable[[], Any], call: str = "call") -> None:
        super().__init__(name, num_envs)
        before = descendants()
        self.vec = make()
        self.pids = descendants() - before
        self._call = getattr(self.vec, call)
        self._shows_infos = False
        self.reset()

    def reset(self) -> None:
        """Reset all envs."""
        self.vec.reset(seed=0)

    def prepare(self, work: Work) -> None:
        if work.infos != self._shows_infos:
            self._call("show_infos", work.infos)
            self._shows_infos = work.infos

    def step(self, actions: NDArray[np.float32]) -> tuple[Any, Any]:
        observations, _, _, _, infos = self.vec.step(actions)
        return observations, infos

    def is_right(self, work: Work, count: int, actions: NDArray[np.float32], observations: Any, infos: Any) -> bool:
        vector = observations["vector"] if work.envs == "image" else observations
        right = bool((vector[:, 0] == count).all() and (vector[:, 1] == actions[:, 0]).all())
        if work.envs == "image":
            values = image_value(count, actions[:, 0])[:, None, None, None]
            right = right and bool((observations["image"][_STRIDES] == values).all())
        return right and (not work.infos or self._are_infos_right(count, infos))

    def _are_infos_right(self, count: int, infos: Any) -> bool:
        return all((infos[key] == value).all() and infos[f"_{key}"].all() for key, value in scalar_infos(count).items())

    def close(self) -> None:
        self.vec.close()


class StableBaselines3(VectorEnvContender):
    """Its SubprocVecEnv: four results of a step, infos as a list."""

    def __init__(self, name: str, num_envs: int, env_id: str) -> None:
        if importlib.util.find_spec("stable_baselines3") is None:
            raise NotInstalledError("stable-baselines3 is not installed")
        # The fork server loads torch once, so that n processes share its 200 MB.
        multiprocessing.set_forkserver_preload(["stable_baselines3.common.vec_env", "bench_envs"])
        module: Any = importlib.import_module("stable_baselines3.common.vec_env")
        makers = [functools.partial(gymnasium.make, env_id)] * num_envs
        super().__init__(name, num_envs, lambda: module.SubprocVecEnv(makers), "env_method")

    def reset(self) -> None:
        self.vec.reset()

    def step(self, actions: NDArray[np.float32]) -> tuple[Any, Any]:
        observations, _, _, infos = self.vec.step(actions)
        return observations, infos

    def _are_infos_right(self, count: int, infos: Any) -> bool:
        expected = scalar_infos(count).items()
        return all(info[key] == value for info in infos for key, value in expected)


def gymnasium_async(name: str, num_envs: int, env_id: str, copy: bool) -> VectorEnvContender:
    """Gymnasium's AsyncVectorEnv; copy=True is its default."""
    makers = [functools.partial(gymnasium.make, env_id)] * num_envs
    return VectorEnvContender(name, num_envs, lambda: AsyncVectorEnv(makers, copy=copy))


def gymnasium_sync(name: str, num_envs: int, env_id: str) -> VectorEnvContender:
    """Gymnasium's SyncVectorEnv: no other process."""
    makers = [functools.partial(gymnasium.make, env_id)] * num_envs
    return VectorEnvContender(name, num_envs, lambda: SyncVectorEnv(makers))


def drop_in(name: str, num_envs: int, env_id: str) -> VectorEnvContender:
    """`zmqcarla.AsyncVectorEnv(env_fns)`."""
    makers = [functools.partial(gymnasium.make, env_id)] * num_envs
    return VectorEnvContender(name, num_envs, lambda: zmqcarla.AsyncVectorEnv(makers))


def make_pool_env(num_envs: int, env_id: str, transport: Transport) -> zmqcarla.VectorEnv:
    """A vector env over a private pool without simulators."""
    options = {"simulator": "none", "env_patterns": ("bench_envs:*",)}
    return zmqcarla.make_vec_env(num_envs, env_id, transport=transport, pool_options=options)


def pool(name: str, num_envs: int, env_id: str, transport: Transport) -> VectorEnvContender:
    """`zmqcarla.make_vec_env`."""
    return VectorEnvContender(name, num_envs, lambda: make_pool_env(num_envs, env_id, transport))
