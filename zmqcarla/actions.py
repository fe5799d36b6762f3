"""Checks of a batch of actions before anything is sent: a bad batch steps no env."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector.utils import iterate

from zmqcarla.broker.errors import InvalidActionError


def checked_actions(
    actions: Any, single_space: spaces.Space[Any], batch_space: spaces.Space[Any], num_envs: int
) -> Any:
    """The batch in the form of the batched action space.

    Raises:
        InvalidActionError: wrong number, shape or type, or NaN.
    """
    if isinstance(single_space, spaces.Box):
        return _checked_box(actions, single_space, num_envs)
    if isinstance(single_space, (spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)):
        return _checked_array(actions, single_space, num_envs)
    try:
        found = len(list(iterate(batch_space, actions)))
    except Exception as error:
        raise InvalidActionError(f"expected actions in {batch_space}, found {actions!r}: {error}") from None
    if found != num_envs:
        raise InvalidActionError(f"expected {num_envs} actions, one an env, found {found}")
    return actions


def _checked_array(actions: Any, space: spaces.Space[Any], num_envs: int) -> np.ndarray[Any, Any]:
    try:
        found = np.asarray(actions)
        array = found.astype(space.dtype, copy=False)
    except (TypeError, ValueError) as error:
        raise InvalidActionError(
            f"expected actions of dtype {space.dtype}, found {type(actions).__name__}: {error}"
        ) from None
    expected = (num_envs, *(space.shape or ()))
    if array.shape != expected:
        raise InvalidActionError(f"expected actions of shape {expected}, one row an env, found {array.shape}")
    if array.dtype.kind in "iub" and found.dtype != array.dtype and (array != found).any():
        row = int(np.argwhere(array != found)[0][0])
        raise InvalidActionError(f"expected actions of dtype {space.dtype}, found {found[row]} in row {row}")
    return array


def _checked_box(actions: Any, space: spaces.Box, num_envs: int) -> np.ndarray[Any, Any]:
    array = _checked_array(actions, space, num_envs)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        row = int(np.argwhere(~np.isfinite(array))[0][0])
        raise InvalidActionError(f"expected finite actions, found {array[row]} in row {row}; no env was stepped")
    return array


def action_checker(
    single_space: spaces.Space[Any], batch_space: spaces.Space[Any], num_envs: int
) -> Callable[[Any], Any]:
    """`checked_actions` for batches of one space, quick where a batch is as it should be."""

    def check(actions: Any) -> Any:
        return checked_actions(actions, single_space, batch_space, num_envs)

    if not isinstance(single_space, spaces.Box) or single_space.dtype.kind != "f":
        return check
    dtype, shape = single_space.dtype, (num_envs, *single_space.shape)
    zeros = np.zeros(math.prod(shape), dtype)

    def check_floats(actions: Any) -> Any:
        fits = type(actions) is np.ndarray and actions.dtype == dtype and actions.shape == shape
        # A product with 0 is NaN for NaN and infinity: one sum says that there is none.
        return actions if fits and np.vdot(actions, zeros) == 0 else check(actions)

    return check_floats


def action_reader(actions: Any, batch_space: spaces.Space[Any]) -> Callable[[int], Any]:
    """A function from a row to its action in a checked batch."""
    if isinstance(actions, np.ndarray):
        return lambda row: actions[row]
    return lambda row: list(iterate(batch_space, actions))[row]
