"""The process behind one row of an `AsyncVectorEnv(env_fns)`: a child of the training process, not of a pool.

Commands come over a private socketpair as pickles, steps over the board of the lease, as in a pool. As soon as there
is a board, a thread reads the socket and rings the row's own bell, because one cannot wait for a socket and a bell at
once. The end of the socket (the parent closed it) is the end of the child. The parent is who made the pickles: this is
the one place where some are loaded.
"""

from __future__ import annotations

import faulthandler
import os
import pickle
import queue
import signal
import sys
import threading
import traceback
from multiprocessing.connection import Connection
from typing import Any, Final

import cloudpickle

from zmqcarla.shm.board import NOTE_BYTES, NoteTooLongError, Op
from zmqcarla.shm.board_row import BoardRow
from zmqcarla.shm.status_page import StatusPage
from zmqcarla.workers.parent_death import die_with
from zmqcarla.workers.served_env import ServedEnv

_BELL_S: Final = 1.0
_NOT_CALLABLE: Final = frozenset({"reset", "step", "close", "_setattr", "_check_spaces"})
_ERROR_CHARACTERS: Final = 20_000


class FactoryEnv(ServedEnv):
    """A ServedEnv that opens what a function returns, and hides nothing of it from its own parent."""

    def __init__(self) -> None:
        super().__init__((), "none", None, StatusPage.create())
        self._shared_memory = True

    def _open(self, payload: Any, row: int, seq: int) -> dict[str, Any]:
        self.close()
        self._shared_memory = payload["shared_memory"]
        env = payload["env_fn"]()
        self._adopt(env, payload["autoreset"])
        return {
            "observation_space": env.observation_space,
            "action_space": env.action_space,
            "metadata": dict(env.metadata),
            "render_mode": env.render_mode,
        }

    def _attach(self, payload: Any, row: int, seq: int) -> dict[str, bool]:
        return super()._attach(payload, row, seq) if self._shared_memory else {"visible": False}

    def _call(self, payload: Any, row: int, seq: int) -> Any:
        name = payload["name"]
        if name in _NOT_CALLABLE:
            raise ValueError(f"Trying to call function `{name}` with `call`, use `{name}` directly instead.")
        found = self._opened().get_wrapper_attr(name)
        return found(*payload["args"], **payload["kwargs"]) if callable(found) else found


class ChildProcess:
    """The loop of a child.

    Args:
        connection: to the parent.
        row: ours.
    """

    def __init__(self, connection: Connection, row: int) -> None:
        self._connection = connection
        self._row = row
        self._seq = 0
        self._served = FactoryEnv()
        self._frames: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._reader: threading.Thread | None = None

    def run(self) -> None:
        """Serve until the parent closes the socket; then close the env."""
        try:
            while self._serve_one():
                pass
        finally:
            self._served.close()

    def _receive(self) -> bytes | None:
        try:
            return self._connection.recv_bytes()
        except (EOFError, OSError):
            return None

    def _read(self) -> None:
        frame: bytes | None = b""
        while frame is not None:
            frame = self._receive()
            self._frames.put(frame)
            board = self._served.board
            if board is not None:
                board.wake()

    def _serve_one(self) -> bool:
        """Wait for one thing to do and do it; False at the end of the socket."""
        board = self._served.board
        if board is not None and self._reader is None:
            self._reader = threading.Thread(target=self._read, name="zmqcarla-commands", daemon=True)
            self._reader.start()
        if board is not None and self._frames.empty():
            self._serve_board(board)
            return True
        frame = self._receive() if self._reader is None else self._frames.get()
        if frame is None:
            return False
        self._command(frame)
        return True

    def _serve_board(self, board: BoardRow) -> None:
        """Do what stands on the board, until a frame may have come."""
        self._seq, rang = self._served.step_on_board(board, self._row, self._seq, _BELL_S, _info_note, _error_note)
        seq, op, _, _ = board.command()
        if rang and op == Op.RESET and seq > self._seq:
            self._seq = self._served.reset_on_board(board, self._row, _info_note, _error_note)

    def _command(self, frame: bytes) -> None:
        seq, op, payload = pickle.loads(frame)
        try:
            reply = _dumps((seq, "ok", self._served.perform(op, pickle.loads(payload), self._row, seq)))
        except Exception as error:  # whatever an env may raise is the parent's to see
            reply = _dumps((seq, "error", _described(error)))
        self._seq = max(self._seq, seq)
        self._connection.send_bytes(reply)


def _dumps(value: Any) -> bytes:
    """Plain pickle, ten times as fast, unless something in it belongs to the parent's own script."""
    try:
        return pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    except Exception:  # what cannot be pickled raises PicklingError, TypeError or AttributeError
        return bytes(cloudpickle.dumps(value))


def _info_note(info: Any) -> bytes:
    note = _dumps(info)
    if len(note) > NOTE_BYTES:
        raise NoteTooLongError(
            f"expected infos of at most {NOTE_BYTES} bytes a step, found {len(note)}: let the env return less, or make "
            "the vector env with shared_memory=False"
        )
    return note


def _error_note(error: Exception) -> bytes:
    described = _described(error)
    note = _dumps(described)
    return note if len(note) <= NOTE_BYTES else _dumps({**described, "exception": None})


def _described(error: Exception) -> dict[str, Any]:
    kind = type(error)
    text, trace = str(error)[:_ERROR_CHARACTERS], traceback.format_exc()[-_ERROR_CHARACTERS:]
    try:
        pickle.loads(_dumps(error))
        exception: Exception | None = error
    except Exception:  # some exceptions pickle but do not come back
        exception = None
    return {
        "type": f"{kind.__module__}.{kind.__qualname__}",
        "text": text,
        "traceback": trace,
        "exception": exception,
    }


def main(arguments: list[str]) -> int:
    """`SOCKET_FD ROW PARENT_PID`: serve until the parent closes the socket."""
    fd, row, parent_pid = map(int, arguments)
    die_with(parent_pid)
    os.set_inheritable(fd, False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    faulthandler.enable()
    ChildProcess(Connection(fd), row).run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
