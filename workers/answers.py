"""What an env returns, as the payload of an answer; what has no place in a message is named by its key."""

from __future__ import annotations

from typing import Any

from zmqcarla.broker.errors import UnserialisableError
from zmqcarla.broker.protocol import pack
from zmqcarla.shm.board import NOTE_BYTES, NoteTooLongError


def pack_note(info: Any) -> bytes:
    """The infos of a step or reset on the board.

    Raises:
        UnserialisableError: the text names the key.
        NoteTooLongError: they are larger than the board has room for.
    """
    try:
        note = pack(info)
    except UnserialisableError as error:
        raise UnserialisableError(str(error).replace("value", "info", 1)) from None
    if len(note) > NOTE_BYTES:
        raise NoteTooLongError(
            f"expected infos of at most {NOTE_BYTES} bytes a step, found {len(note)}: let the env return less, or make "
            'the vector env with transport="zmq"'
        )
    return note


def pack_rest(info: Any, inline: Any) -> bytes:
    """What an answer to a packed step carries beside its numbers.

    Raises:
        UnserialisableError: the text names the part and the key.
    """
    try:
        return pack([info, inline])
    except UnserialisableError:
        _name_culprit({"info": info, "observation": inline})
        raise


def pack_reply(op: str, value: Any) -> bytes:
    """The payload of an "ok" reply.

    Raises:
        UnserialisableError: the text names the part of the reply and the key.
    """
    try:
        return pack(value)
    except UnserialisableError:
        parts: dict[str, Any] = {}
        if op == "step":
            parts = {"info": value[3], "observation": value[4]}
        elif op in ("reset", "rebuild"):
            parts = {"info": value["info"], "observation": value["inline"]}
        _name_culprit(parts)
        raise


def _name_culprit(parts: dict[str, Any]) -> None:
    for name, part in parts.items():
        try:
            pack(part)
        except UnserialisableError as error:
            raise UnserialisableError(str(error).replace("value", name, 1)) from None


def is_sendable(value: Any) -> bool:
    """Whether a message can carry it."""
    try:
        pack(value)
    except UnserialisableError:
        return False
    return True
