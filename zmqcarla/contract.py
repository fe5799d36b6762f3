"""What gymnasium's AsyncVectorEnv promises about arguments and errors: its checks, its exception types, its words.

Training loops catch these errors and some match their text, so both are kept as they are upstream (Gymnasium 1.x,
vector/async_vector_env.py); `tests/test_contract_vector_env.py` holds the two against each other.
"""

from __future__ import annotations

import builtins
import multiprocessing
import operator
from collections.abc import Sequence
from typing import Any, Final, Literal

import gymnasium
import numpy as np

from zmqcarla.broker import errors
from zmqcarla.broker.errors import CommandTimeoutError, RemoteEnvError, SpaceMismatchError, WorkerLostError
from zmqcarla.broker.protocol import pack
from zmqcarla.lease import Outcome
from zmqcarla.shm.spaces import build

_RAISED_AS_THEY_ARE: Final = {
    f"{module.__name__}.{name}": value
    for module in (builtins, gymnasium.error, errors)
    for name, value in vars(module).items()
    if isinstance(value, type) and issubclass(value, Exception)
}
_NOT_FOR_CALL: Final = frozenset({"reset", "step", "close", "_setattr", "_check_spaces"})


class UpstreamTimeout:
    """Turn our time-out into the one that gymnasium's callers catch, where they gave the limit."""

    def __init__(self, name: str, timeout: float | None) -> None:
        self._name = name
        self._timeout = timeout

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> Literal[False]:
        if self._timeout is not None and isinstance(error, CommandTimeoutError):
            raise multiprocessing.TimeoutError(
                f"The call to `{self._name}` has timed out after {self._timeout} second(s)."
            ) from error
        return False


def seed_list(seed: int | Sequence[int | None] | None, num_envs: int) -> list[int | None]:
    """One seed a row: seed + row of an integer, the items of a sequence.

    Raises:
        ValueError: a sequence of another length.
    """
    if seed is None:
        return [None] * num_envs
    if isinstance(seed, (int, np.integer)):
        return [int(seed) + row for row in range(num_envs)]
    if len(seed) != num_envs:
        raise ValueError(
            f"If seeds are passed as a list the length must match num_envs={num_envs} but got length={len(seed)}."
        )
    return [None if one is None else int(one) for one in seed]


def masked_rows(options: dict[str, Any] | None, num_envs: int) -> list[int]:
    """The rows that a reset is for; takes "reset_mask" out of the options.

    Raises:
        TypeError: the mask is no bool array.
        ValueError: it has another shape, or names no row.
    """
    if options is None or "reset_mask" not in options:
        return list(range(num_envs))
    mask = options.pop("reset_mask")
    if not isinstance(mask, np.ndarray):
        raise TypeError(f"`options['reset_mask']` must be a numpy array, got {type(mask)}")
    if mask.shape != (num_envs,):
        raise ValueError(f"`options['reset_mask']` must have shape `({num_envs},)`, got {mask.shape}")
    if mask.dtype != np.bool_:
        raise TypeError(f"`options['reset_mask']` must have `dtype=np.bool_`, got {mask.dtype}")
    if not mask.any():
        raise ValueError(
            f"`options['reset_mask']` must contain a boolean array with at least one True value, got reset_mask={mask}"
        )
    return [int(row) for row in np.flatnonzero(mask)]


def chosen_rows(rows: Sequence[int] | None, num_envs: int) -> list[int]:
    """The rows that a caller names, None for all.

    Raises:
        ValueError: no row, one twice, or one that is none.
    """
    if rows is None:
        return list(range(num_envs))
    found = [operator.index(row) for row in rows]
    if not found or len(set(found)) != len(found) or min(found) < 0 or max(found) >= num_envs:
        raise ValueError(f"expected rows that differ, from 0 to {num_envs - 1}, found {found}")
    return found


def value_a_row(values: Any, num_envs: int) -> Sequence[Any]:
    """What `set_attr` gives each row.

    Raises:
        ValueError: a list or tuple of another length.
    """
    each = values if isinstance(values, (list, tuple)) else [values] * num_envs
    if len(each) != num_envs:
        raise ValueError(
            "Values must be a list or tuple with length equal to the number of environments. "
            f"Got `{len(each)}` values for {num_envs} environments."
        )
    return each


def check_call_name(name: str) -> None:
    """Raise ValueError for the methods that are the vector env's own."""
    if name in _NOT_FOR_CALL:
        raise ValueError(f"Trying to call function `{name}` with `call`, use `{name}` directly instead.")


def generator(state: dict[str, Any]) -> np.random.Generator:
    """A random generator in the state of another process's one."""
    bits = getattr(np.random, state["bit_generator"])()
    bits.state = state
    return np.random.Generator(bits)


def check_same_spaces(answers: Sequence[dict[str, Any]]) -> None:
    """Check what the rows said of their spaces when they were opened.

    Raises:
        SpaceMismatchError: a row differs from row 0.
    """
    first, *others = answers
    for row, other in enumerate(others, start=1):
        for space in ("observation_space", "action_space"):
            if pack(other[space]) != pack(first[space]):
                ours, theirs = build(first[space]), build(other[space])
                raise SpaceMismatchError(f"expected row {row} to have the {space} of row 0, {ours}, found {theirs}")


def gone_error(outcome: Outcome) -> WorkerLostError:
    """Says that a worker will not come back."""
    news = outcome.payload
    return WorkerLostError(
        f"row {outcome.row} (worker {news['worker_id']}) will not come back: {news['reason']}; exit code "
        f"{news['exit_code']}, {news['restarts']} restarts before"
    )


def remote_error(outcome: Outcome) -> Exception:
    """The worker's exception: its own type where this process has it, with the worker's traceback in the text."""
    kind, text, traceback = outcome.payload["type"], outcome.payload["text"], outcome.payload["traceback"]
    text = f"{text}\n\nin the env of row {outcome.row}, whose worker said:\n{traceback}"
    original = outcome.payload.get("exception")
    if isinstance(original, Exception):  # only from a child process of ours: it keeps type and message
        original.__cause__ = RemoteEnvError(text, kind, traceback)
        return original
    known = _RAISED_AS_THEY_ARE.get(kind)
    if known is not None:
        try:
            return known(text)
        except TypeError:  # a constructor with fields of its own
            pass
    return RemoteEnvError(f"{kind}: {text}", kind, traceback)
