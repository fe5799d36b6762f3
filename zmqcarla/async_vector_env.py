"""`gymnasium.vector.AsyncVectorEnv` for any env_fns, with the steps of zmqcarla: shared memory and semaphores.

It is the same `VectorEnv` that a pool has; only its rows are child processes of this one (`zmqcarla.local_lease`).
What differs from gymnasium's class: docs/async_vector_env.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final

import gymnasium
from gymnasium import spaces
from gymnasium.spaces.utils import is_space_dtype_shape_equiv
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_differing_spaces, batch_space

from zmqcarla.local_lease import LocalLease
from zmqcarla.shm.layout import Layout
from zmqcarla.vector_env import VectorEnv

EnvFn = Callable[[], gymnasium.Env[Any, Any]]
ObservationMode = str | tuple[spaces.Space[Any], spaces.Space[Any]]

_CONTEXTS: Final = (None, "spawn", "forkserver", "fork")
_NOT_SAME: Final = (
    "AsyncVectorEnv(..., observation_mode='same') however some of the sub-environments observation spaces are not "
    "equivalent. Expected {single}, found {found} in row {row}. If this is intentional, use "
    "`observation_mode='different'` instead."
)
_NOT_ALIKE: Final = (
    "AsyncVectorEnv(..., observation_mode='different' or custom space) however the sub-environment's observation "
    "spaces do not share a common shape and dtype: expected those of {single}, found {found} in row {row}."
)
_INLINE: Final = (spaces.Text, spaces.Sequence, spaces.Graph, spaces.OneOf)


class AsyncVectorEnv(VectorEnv):
    """N envs in child processes of this process; a drop-in for gymnasium's class of the same name.

    Args:
        env_fns: one function an env; lambdas and closures may be given (cloudpickle carries them).
        shared_memory: False sends observations and actions over a socket; for custom spaces and large infos.
        copy: either value; batches are never overwritten while they are held, so there is nothing to copy.
        context: checked, otherwise without effect: children are always fresh interpreters, as with "spawn".
        daemon: either value; children end with this process and may have children of their own.
        worker: must be None.
        observation_mode: "same", "different" (same shapes and dtypes, other bounds), or (batched, single) spaces.
        autoreset_mode: NEXT_STEP, SAME_STEP or DISABLED.
        max_concurrency: must be None.

    Raises:
        ValueError: an argument that is not supported, or a custom space with shared_memory=True.
        RuntimeError: the envs differ in their spaces in another way than observation_mode says.
        SegmentSpaceError: /dev/shm has too little room.
        Exception: what an env_fn raised.
    """

    def __init__(
        self,
        env_fns: Sequence[EnvFn],
        shared_memory: bool = True,
        copy: bool = True,
        context: str | None = None,
        daemon: bool = True,
        worker: None = None,
        observation_mode: ObservationMode = "same",
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        max_concurrency: None = None,
    ) -> None:
        _check_arguments(env_fns, context, worker, max_concurrency)
        _check_observation_mode(observation_mode)
        self.env_fns = env_fns
        self.shared_memory = shared_memory
        self.copy = copy
        self.context = context
        self.daemon = daemon
        self.worker = worker
        self.observation_mode = observation_mode
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self._children = LocalLease(len(env_fns))
        super().__init__(
            self._children,
            "",
            autoreset_mode=self.autoreset_mode,
            transport="auto" if shared_memory else "zmq",
            timeout_s=math.inf,
        )

    def _open_payloads(self, env_id: str, env_kwargs: Any) -> list[dict[str, Any]]:
        told = {"autoreset": self.autoreset_mode.value, "shared_memory": self.shared_memory}
        return [{"env_fn": env_fn, **told} for env_fn in self.env_fns]

    def _take_spaces(self, answers: list[dict[str, Any]]) -> None:
        observation_spaces = [answer["observation_space"] for answer in answers]
        mode = self.observation_mode
        self.single_action_space = answers[0]["action_space"]
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        if isinstance(mode, tuple):
            self.observation_space, self.single_observation_space = mode
        else:
            self.single_observation_space = observation_spaces[0]
        self._check_spaces(answers)
        if mode == "same":
            self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        elif mode == "different":
            self.observation_space = batch_differing_spaces(observation_spaces)
        if self.shared_memory:
            _check_leaves(self.single_observation_space)

    def _check_spaces(self, answers: list[dict[str, Any]]) -> None:
        single, same = self.single_observation_space, self.observation_mode == "same"
        for row, answer in enumerate(answers):
            found = answer["observation_space"]
            if not (single == found if same else is_space_dtype_shape_equiv(single, found)):
                raise RuntimeError((_NOT_SAME if same else _NOT_ALIKE).format(single=single, found=found, row=row))
            if answer["action_space"] != self.single_action_space:
                raise RuntimeError(
                    f"Some environments have an action space different from `{self.single_action_space}`: row {row} "
                    f"has `{answer['action_space']}`. In order to batch actions, they must be equal."
                )

    @property  # type: ignore[misc]
    def np_random(self) -> tuple[Any, ...]:  # type: ignore[override]
        """The random generator of each env, as a copy."""
        return self.get_attr("np_random")

    def send(self, actions: Any, env_ids: Any = None) -> None:
        """Not here: gymnasium's class has no such method, and child processes answer one command at a time.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(
            "expected a vector env of a pool for send() and recv(), found AsyncVectorEnv: use zmqcarla.make_vec_env"
        )

    def close_extras(self, timeout: float | None = None, terminate: bool = False, **kwargs: Any) -> None:
        """Wait for a pending call, let the children close their envs, and end them.

        Args:
            timeout: seconds for each of the two; None for as long as the call, and half a minute for closing.
            terminate: do not wait, kill.
            kwargs: ignored, as by gymnasium.
        """
        if terminate or timeout is not None:
            self._children.grace_s = 0.0 if terminate or timeout is None else timeout
        super().close_extras(timeout, terminate, **kwargs)

    def __del__(self) -> None:
        if not self.closed and hasattr(self, "_state"):
            self.close(terminate=True)


def _check_arguments(env_fns: Sequence[EnvFn], context: str | None, worker: Any, max_concurrency: Any) -> None:
    if not env_fns:
        raise ValueError("expected at least one env_fn, found none")
    if worker is not None:
        raise ValueError(
            "expected worker=None, found a worker function: it would speak the pipe protocol of gymnasium's class, "
            "which does not exist here; put what it does into a gymnasium.Wrapper inside env_fns"
        )
    if context not in _CONTEXTS:
        raise ValueError(
            f"expected a context of {', '.join(map(repr, _CONTEXTS))}, found {context!r}; children are fresh "
            "interpreters with any of them"
        )
    if max_concurrency is not None:
        raise ValueError(
            f"expected max_concurrency=None, found {max_concurrency!r}: it is not supported; make fewer envs, or limit "
            "the threads of each (OMP_NUM_THREADS=1)"
        )


def _check_observation_mode(mode: Any) -> None:
    if isinstance(mode, tuple) and len(mode) == 2:
        if not all(isinstance(space, spaces.Space) for space in mode):
            raise TypeError(f"expected observation_mode to be two Spaces, (batched, single), found {mode!r}")
    elif mode not in ("same", "different"):
        raise ValueError(
            "Invalid `observation_mode`, expected: 'same' or 'different' or tuple of single and batch observation "
            f"space, actual got {mode}"
        )


def _check_leaves(space: spaces.Space[Any]) -> None:
    for leaf in Layout.of(space, 1, 1).leaves:
        if leaf.inline and not isinstance(leaf.space, _INLINE):
            raise ValueError(
                f"expected Gymnasium's own spaces with shared_memory=True, found {leaf.space!r}; use "
                "shared_memory=False, which is slower"
            )
