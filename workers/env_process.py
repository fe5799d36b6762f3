"""The process that runs one env for the pool: `python -m zmqcarla.workers.env_process '<json>'`.

A DEALER loop: announce, take a command, do it, answer. The supervisor starts it, watches it through the status page,
and kills it when a command takes too long; nothing here has to be quick-witted, because the carla client can hold the
GIL for whole calls and can abort the process.

A process that has grown begins anew between two episodes (`renewal`), and takes up lease, env and row again.

Every command is done exactly once: its (lease, row, seq) and its reply are remembered, a repeated command is answered
from there, and an older one is ignored.
"""

from __future__ import annotations

import contextlib
import dataclasses
import faulthandler
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

import zmq

from zmqcarla.broker import protocol
from zmqcarla.broker.errors import ProtocolError, SimulatorStartError, SimulatorTimeoutError
from zmqcarla.broker.protocol import pack, step_frames, unpack
from zmqcarla.shm.board import Op
from zmqcarla.shm.board_row import BoardRow
from zmqcarla.shm.status_page import Phase, StatusPage
from zmqcarla.workers import renewal
from zmqcarla.workers.broker_link import Caller, dealer
from zmqcarla.workers.parent_death import die_with
from zmqcarla.workers.served_env import ServedEnv, pack_note, pack_reply
from zmqcarla.workers.worker_config import EnvProcessConfig

_LAST_WORDS_BYTES: Final = 4000  # below PIPE_BUF, so that the write never blocks
_SEND_QUEUE: Final = 16
_PACKED: Final = bytes([step_frames.MARK])
_STEP: Final = bytes([step_frames.MARK, step_frames.ROW_COMMAND])
_LOOK_MS: Final = 20
_ERROR_CHARACTERS: Final = 20_000


class _Stop(BaseException):
    """SIGTERM came."""


class EnvProcess:
    """The loop, and the memory of the last command.

    Args:
        config: from the supervisor.
        page: its status page.
    """

    def __init__(self, config: EnvProcessConfig, page: StatusPage) -> None:
        self._config = config
        self._page = page
        self._served = ServedEnv(
            config.env_patterns,
            config.simulator,
            config.server,
            page,
            rendering=config.rendering,
            recycle_timeout_s=config.recycle_timeout_s,
            quarantine=None if config.quarantine is None else Path(config.quarantine),
        )
        self._lease_id = b""
        self._row = -1
        self._seq = 0
        self._reply: list[bytes] = []
        self._socket = dealer()
        self._socket.setsockopt(zmq.SNDHWM, _SEND_QUEUE)
        self._socket.setsockopt(zmq.RCVTIMEO, int(protocol.HEARTBEAT_S * 1000))
        self._caller = Caller(self._socket, config.broker)
        self._wear = renewal.EnvWear(config.renew_growth_mib)
        if config.carried_fd is not None:
            self._take_up(renewal.take(config.carried_fd))

    def run(self) -> NoReturn:
        """Serve until SIGTERM."""
        while True:
            self._page.enter(Phase.IDLE, self._row, self._seq)
            self._caller.look()
            self._announce()
            if self._served.board is None:
                self._serve_socket()
            else:
                self._serve_board(self._served.board)

    def _serve_socket(self) -> None:
        """Do what comes until nothing came for HEARTBEAT_S, or commands come over a board from now on."""
        with contextlib.suppress(zmq.Again):
            while self._served.board is None:
                self._serve(protocol.receive_from_broker(self._socket))

    def _serve_board(self, board: BoardRow) -> None:
        """Do what stands on the board for HEARTBEAT_S, or until it is gone; then look at the socket.

        However fast the steps follow each other: a broker that was restarted knows nobody before he announces himself.
        """
        until_s = time.monotonic() + protocol.HEARTBEAT_S
        while self._step_on(board):
            seq, op, _, _ = board.command()
            if op == Op.LOOK:
                self._look(board)
            elif op == Op.RESET and seq > self._seq:
                self._renew_if_worn(seq)
                self._seq = self._served.reset_on_board(board, self._row, pack_note, self._error_note)
                self._reply = []
            if self._served.board is not board:
                return
            if time.monotonic() >= until_s:
                break
        with contextlib.suppress(zmq.Again):
            while self._served.board is board:
                self._serve(protocol.receive_from_broker(self._socket, protocol.NO_WAIT))

    def _step_on(self, board: BoardRow) -> bool:
        """Do steps until something else is asked; False when nothing is, or the socket has waited for long enough."""
        seq, rang = self._served.step_on_board(
            board, self._row, self._seq, protocol.HEARTBEAT_S, pack_note, self._error_note
        )
        if seq != self._seq:
            self._seq, self._reply = seq, []
        return rang

    def _look(self, board: BoardRow) -> None:
        """A command comes over the socket; give up when another one stands on the board instead."""
        deadline = time.monotonic() + protocol.HEARTBEAT_S
        before = self._seq
        while self._seq == before and self._served.board is board and time.monotonic() < deadline:
            if board.command()[1] != Op.LOOK:
                return
            if self._socket.poll(_LOOK_MS):
                self._serve(protocol.receive_from_broker(self._socket))

    def _error_note(self, error: Exception) -> bytes:
        if isinstance(error, (SimulatorStartError, SimulatorTimeoutError)):
            self._abandon(error)
        return _describe(error)

    def _renew_if_worn(self, seq: int) -> None:
        """Before the reset of this number: begin anew when this process has grown too much and its env allows it."""
        why = self._wear.look()
        opened = self._served.hand_over() if why else None
        if opened is None:
            return
        _log(f"begins anew before the next episode: {why}")
        self._page.enter(Phase.RESETTING, self._row, seq)
        board = self._page.fields["board"].item()
        self._served.close()
        self._page.fields["board"] = board  # where the client waits, should this end badly
        config = dataclasses.replace(self._config, server=self._served.server)
        renewal.begin_anew(config, renewal.Carried(self._lease_id, self._row, self._seq, opened))

    def _take_up(self, carried: renewal.Carried) -> None:
        """Go on where the life before stopped."""
        self._lease_id, self._row, self._seq = carried.lease_id, carried.row, carried.seq
        self._served.take_over(carried.opened, carried.row, carried.seq)
        if self._served.board is not None:
            self._served.board.wake()  # for the reset that stands there, whose bell has rung

    def close(self) -> None:
        """Close the env, as at the end of a lease, and the socket."""
        self._end_lease()
        self._caller.close()
        self._socket.close()

    def _announce(self) -> None:
        config = self._config
        ready = protocol.Ready(
            protocol.PROTOCOL,
            config.worker_id,
            config.incarnation,
            os.getpid(),
            self._lease_id,
            self._row,
            self._seq,
        )
        self._send([protocol.encode(ready)])

    def _send(self, frames: list[bytes]) -> None:
        """Never blocks: with no broker for long, announcements are dropped; a lost reply is asked for again."""
        if not frames:
            return
        with contextlib.suppress(zmq.Again):
            protocol.send_frames(self._socket, frames, protocol.NO_WAIT)

    def _serve(self, frames: list[bytes]) -> None:
        try:
            if frames[0][:2] == _STEP:
                self._command(*step_frames.read_row_frame(frames[0]))
                return
            message, payloads = protocol.from_frames(frames)
        except ProtocolError as error:
            _log(f"ignored a message: {error}")
            return
        match message:
            case protocol.RowCommand(lease_id, row, seq, op) if len(payloads) == 1 and row >= 0:
                self._command(lease_id, row, seq, payloads[0], op)
            case protocol.LeaseEnded(lease_id):
                if lease_id == self._lease_id:
                    self._end_lease()
                    self._page.enter(Phase.IDLE)
                    self._announce()
            case protocol.Rejected(text):
                _log(f"the broker rejected a message: {text}")
            case protocol.UnknownWorker():
                pass  # the supervisor registers it
            case _:
                _log(f"ignored a {message.kind!r} with {len(frames)} frames")

    def _command(self, lease_id: bytes, row: int, seq: int, payload: bytes, op: str = "step") -> None:
        if seq <= 0:
            return
        if lease_id != self._lease_id or row != self._row:
            self._end_lease()
            self._lease_id, self._row = lease_id, row
            self._page.fields["lease_id"] = list(lease_id.ljust(16, b"\0")[:16])
        elif seq == self._seq:
            self._send(self._reply)
            return
        elif seq < self._seq:
            return
        if op == "reset":
            self._renew_if_worn(seq)
        outcome, answer = self._perform(row, seq, op, payload)
        self._seq = seq
        frame = step_frames.row_frame(step_frames.ROW_REPLY, lease_id, row, seq, answer) if outcome == "ok" else None
        self._reply = (
            [protocol.encode(protocol.RowReply(lease_id, row, seq, outcome)), answer] if frame is None else [frame]
        )
        self._page.enter(Phase.IDLE, row, seq)
        self._send(self._reply)

    def _perform(self, row: int, seq: int, op: str, payload: bytes) -> tuple[str, bytes]:
        """The outcome of one command and the payload of its reply."""
        try:
            if op == "step" and payload[:1] == _PACKED:
                reply = self._served.answer_packed_step(payload, row, seq)
            else:
                reply = pack_reply(op, self._served.perform(op, unpack(payload), row, seq))
            if len(reply) > protocol.MAX_PAYLOAD_BYTES:
                raise ProtocolError(
                    f"expected a reply of at most {protocol.MAX_PAYLOAD_BYTES} bytes to {op!r}, found "
                    f"{len(reply)}; let the env return less, or run the worker where it sees the client's /dev/shm"
                )
            return "ok", reply
        except (SimulatorStartError, SimulatorTimeoutError) as error:
            self._abandon(error)
        except Exception as error:  # whatever an env may raise is the client's to see
            return "error", _describe(error)

    def _end_lease(self) -> None:
        if not self._lease_id:
            return
        self._lease_id, self._row, self._seq, self._reply = b"", -1, 0, []
        self._page.enter(Phase.CLOSING)
        self._page.fields["lease_id"] = 0
        try:
            self._served.close()
        except (SimulatorStartError, SimulatorTimeoutError) as error:
            self._abandon(error)
        except Exception:  # nobody is left to be told but the log
            _log(f"closing the env failed:\n{traceback.format_exc()}")

    def _abandon(self, error: Exception) -> NoReturn:
        """The simulator does not answer: only a new one helps, so nothing is tidied up here."""
        _log(traceback.format_exc())
        say_last_words(self._config.last_words_fd, error)
        os._exit(protocol.EXIT_SIMULATOR_FAILED)


def _describe(error: Exception) -> bytes:
    kind = type(error)
    text, trace = str(error)[:_ERROR_CHARACTERS], traceback.format_exc()[-_ERROR_CHARACTERS:]
    return pack({"type": f"{kind.__module__}.{kind.__qualname__}", "text": text, "traceback": trace})


def say_last_words(fd: int, error: BaseException) -> None:
    """Leave the reason of a sudden end for the supervisor."""
    text = f"{type(error).__name__}: {error}"
    with contextlib.suppress(OSError):
        os.write(fd, text.encode()[:_LAST_WORDS_BYTES])


def _log(text: str) -> None:
    print(f"zmqcarla env process: {text}", file=sys.stderr, flush=True)


def _on_term(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise _Stop


def main(arguments: list[str]) -> int:
    """Serve as the command line says, until SIGTERM."""
    if len(arguments) != 1:
        _log("expected one argument, the JSON of an EnvProcessConfig; env processes are started by a supervisor")
        return 2
    config = EnvProcessConfig.from_json(arguments[0])
    die_with(config.supervisor_pid)
    for fd in (config.last_words_fd, config.page_fd):
        os.set_inheritable(fd, False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the supervisor's to handle
    signal.signal(signal.SIGTERM, _on_term)
    faulthandler.enable()
    try:
        process = EnvProcess(config, StatusPage.attach(os.dup(config.page_fd)))
        try:
            process.run()
        finally:
            process.close()
    except _Stop:
        return 0
    except BaseException as error:
        say_last_words(config.last_words_fd, error)
        raise


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
