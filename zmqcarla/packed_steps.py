"""Steps over the bus as the client packs and reads them; the form is drawn in `zmqcarla.broker.step_frames`."""

from __future__ import annotations

from typing import Any, Final

from gymnasium import spaces

from zmqcarla.broker import protocol as p
from zmqcarla.broker.protocol import step_frames
from zmqcarla.shm.action_bytes import ActionBytes

_MARK: Final = bytes([step_frames.MARK])


class StepPacker:
    """Packs one step after the other, for any of the rows.

    Args:
        action_space: of one env; every leaf of a fixed size.
        num_envs: rows.
    """

    def __init__(self, action_space: spaces.Space[Any], num_envs: int) -> None:
        self._num_envs = num_envs
        self._actions = ActionBytes(action_space, num_envs, step_frames.STEP.size)

    def write_all(self, actions: Any, slot: int) -> None:
        """Take the actions of all rows, the tree of the batched action space."""
        self._actions.write_all(actions)
        for row in range(self._num_envs):
            self._head(row, slot)

    def write(self, row: int, action: Any, slot: int) -> None:
        """Take one row's action."""
        self._actions.write(row, action)
        self._head(row, slot)

    def _head(self, row: int, slot: int) -> None:
        begin = row * self._actions.row_bytes
        step_frames.STEP.pack_into(self._actions.memory, begin, step_frames.MARK, slot)

    def payload(self, row: int) -> bytes:
        """What was taken for a row."""
        return self._actions.row(row)


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
