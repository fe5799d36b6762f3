"""The three forms of an action, and what each means for the vehicle.

    control        Box float32 (3,): steer -1 (left) to 1, throttle -1 to 1 (negative drives in reverse), brake 0 to 1
    acceleration   Box float32 (2,): steer -1 to 1, acceleration -1 to 1 (positive is throttle, negative is brake)
    discrete       Discrete(n): row n of a table of [steer, throttle, brake]

Numbers out of range are clipped; NaN, infinity, another shape, and a row that is none are errors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal, get_args

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from zmqcarla.broker.errors import InvalidActionError

ActionType = Literal["control", "acceleration", "discrete"]
ACTION_TYPES: Final = get_args(ActionType)

Control = NDArray[np.float32]
"""float32 (3,): steer, throttle, brake within their bounds."""

_LOW: Final = np.array([-1.0, -1.0, 0.0], dtype=np.float32)
_HIGH: Final = np.array([1.0, 1.0, 1.0], dtype=np.float32)

DEFAULT_TABLE: Final[tuple[tuple[float, float, float], ...]] = (
    (0.0, 0.0, 1.0),
    *((steer, throttle, 0.0) for throttle in (0.0, 0.6) for steer in (-0.6, -0.2, 0.0, 0.2, 0.6)),
)
"""Row 0 brakes; rows 1 to 5 roll, and 6 to 10 drive, with the steering from left to right."""


def action_space(action_type: ActionType, table: NDArray[np.float32]) -> spaces.Space[Any]:
    """Return the action space of a form."""
    return {
        "control": spaces.Box(_LOW, _HIGH, dtype=np.float32),
        "acceleration": spaces.Box(-1.0, 1.0, (2,), np.float32),
        "discrete": spaces.Discrete(len(table)),
    }[action_type]


def checked_table(rows: Any) -> NDArray[np.float32]:
    """Return a table of discrete actions as float32 (n, 3); None means the default one.

    Raises:
        ValueError: it is something else, or a number is out of range.
    """
    expected = "action_table: expected rows of [steer -1 to 1, throttle -1 to 1, brake 0 to 1]"
    try:
        table = np.asarray(DEFAULT_TABLE if rows is None else rows, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{expected}, found {rows!r} ({error}); correct it") from None
    if table.ndim != 2 or table.shape[1] != 3 or not len(table) or not ((table >= _LOW) & (table <= _HIGH)).all():
        raise ValueError(f"{expected}, found {table.tolist()}; correct it")
    return table


def make_control(action_type: ActionType, table: NDArray[np.float32]) -> Callable[[Any], Control]:
    """Return the function from an action to steer, throttle and brake; it raises `InvalidActionError`."""

    def accelerate(action: Any) -> Control:
        steer, acceleration = _finite(action, "[steer, acceleration]", 2)
        return np.clip(np.array([steer, max(acceleration, 0.0), max(-acceleration, 0.0)], np.float32), _LOW, _HIGH)

    def choose(action: Any) -> Control:
        row = np.asarray(action)
        if row.shape != () or row.dtype.kind not in "iu" or not 0 <= int(row) < len(table):
            raise InvalidActionError(
                f"expected a whole number from 0 to {len(table) - 1} as the action, found {action!r}; "
                "pass a row of the action table"
            )
        control: Control = table[int(row)]
        return control

    return {"control": checked_action, "acceleration": accelerate, "discrete": choose}[action_type]


def checked_action(action: Any) -> Control:
    """Return `action` as float32 (3,) within its bounds.

    Raises:
        InvalidActionError: it has another shape, is not numeric, or holds NaN or infinity.
    """
    return np.clip(_finite(action, "[steer, throttle, brake]", 3), _LOW, _HIGH)


def _finite(action: Any, meaning: str, length: int) -> NDArray[np.float32]:
    expected = f"expected an action of {length} finite numbers, {meaning}"
    try:
        array = np.asarray(action, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise InvalidActionError(
            f"{expected}, found {action!r} ({error}); pass a float32 array of shape ({length},)"
        ) from error
    if array.shape != (length,):
        raise InvalidActionError(f"{expected}, found an array of shape {array.shape}; pass one of shape ({length},)")
    if not np.isfinite(array).all():
        raise InvalidActionError(f"{expected}, found {array.tolist()}; look for a division by zero in the policy")
    return array
