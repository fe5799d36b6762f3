"""Steps over the bus as the client packs and reads them; the form is drawn in `zmqcarla.broker.step_frames`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from zmqcarla.broker import protocol as p
from zmqcarla.broker.protocol import step_frames
from zmqcarla.shm.action_bytes import ActionBytes

_STEP_HEAD: Final = np.dtype([("mark", "u1"), ("slot", "<u4")])
"""step_frames.STEP."""
ANSWER: Final = np.dtype(
    [("mark", "u1"), ("terminated", "u1"), ("truncated", "u1"), ("reward", "<f8"), ("busy_s", "<f8")]
)
"""step_frames.DONE."""
_MARK: Final = bytes([step_frames.MARK])


class StepPacker:
    """Packs one step after the other, for any of the rows.

    Args:
        action_space: of one env; every leaf of a fixed size.
        num_envs: rows.
    """

    def __init__(self, action_space: spaces.Space[Any], num_envs: int) -> None:
        self._actions = actions = ActionBytes(action_space, num_envs, step_frames.STEP.size)
        heads = np.ndarray((num_envs,), _STEP_HEAD, actions.memory, 0, (actions.row_bytes,))
        heads["mark"] = step_frames.MARK
        self._slots: NDArray[np.uint32] = heads["slot"]

    def write_all(self, actions: Any, slot: int) -> None:
        """Take the actions of all rows, the tree of the batched action space."""
        self._actions.write_all(actions)
        self._slots[:] = slot

    def write(self, row: int, action: Any, slot: int) -> None:
        """Take one row's action."""
        self._actions.write(row, action)
        self._slots[row] = slot

    def payload(self, row: int) -> bytes:
        """What was taken for a row."""
        return self._actions.row(row)


def read_plain(payloads: Sequence[bytes]) -> NDArray[Any] | None:
    """The answers to packed steps as one array of ANSWER; None when some carry more than numbers."""
    if set(map(len, payloads)) != {ANSWER.itemsize}:
        return None
    answers: NDArray[Any] = np.frombuffer(b"".join(payloads), ANSWER)
    return answers if (answers["mark"] == step_frames.MARK).all() else None


def unpack_answer(payload: bytes) -> Any:
    """The value of an answer over the bus; of a packed step [reward, terminated, truncated, info, inline, busy_s].

    Raises:
        ProtocolError: the payload is no value of ours.
    """
    if payload[:1] != _MARK:
        return p.unpack(payload)
    reward, terminated, truncated, busy_s, rest = step_frames.read_done(payload)
    info, inline = p.unpack(rest) if rest else ({}, {})
    return [reward, terminated, truncated, info, inline, busy_s]
