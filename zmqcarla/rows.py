"""How the rows of a vector env are asked and how they answer: over the board, over the bus, or both in one batch.

    board   the worker sees the client's /dev/shm: actions, results and bells in shared memory, no socket on the step
    path bus     one ZeroMQ message out, one back; for workers elsewhere, and for spaces without a fixed size

Control commands (open, attach, reset with a seed, call) always take the bus. Every command has a number of one
sequence a lease; a worker never does one twice, and a result counts only when it carries the number that was asked
for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Final, Literal

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from zmqcarla.batch import Batch
from zmqcarla.broker.errors import CommandTimeoutError, StaleRowError, WorkerLostError
from zmqcarla.client_board import ANY_BELL, OWN_BELL, ClientBoard
from zmqcarla.lease import Outcome, RowLease
from zmqcarla.packed_steps import StepPacker
from zmqcarla.shm.arena import Arena
from zmqcarla.shm.board import Board, Op, Result
from zmqcarla.shm.ring import SlotRing
from zmqcarla.shm.segment import SegmentGoneError

Transport = Literal["auto", "shm", "zmq"]

_LAST_BREATH_S: Final = 5.0
"""How long a process that was killed may take to end."""
_STILL_LIVES: Final = (
    "its old process still lives and might write into the batch: end it (`zmqcarla status` names its host), and make a "
    "new vector env"
)

_OP: Final = {"step": Op.STEP, "reset": Op.RESET}


class Rows:
    """The rows of one lease, their arena and their board.

    Args:
        lease: owned from now on.
        arena: takes the observations.
        action_space: of one env.
        transport: "auto" takes the board where it can be used.
        open_payloads: what `open` sent to each row, to rebuild one whose worker died.

    Attributes:
        on_board: bool (num_envs,), which rows step without a socket.
        all_on_board: whether all do.
        visible: bool (num_envs,), which rows write into the arena.
    """

    def __init__(
        self,
        lease: RowLease,
        arena: Arena,
        action_space: spaces.Space[Any],
        transport: Transport,
        open_payloads: Sequence[dict[str, Any]],
    ) -> None:
        self.num_envs = lease.num_envs
        self.on_board: NDArray[np.bool_] = np.zeros(self.num_envs, np.bool_)
        self.visible: NDArray[np.bool_] = np.zeros(self.num_envs, np.bool_)
        self._lease = lease
        self._arena = arena
        self._open_payloads = open_payloads
        self._board: ClientBoard | None = None
        self._bus_seq = 0
        self._everyone = list(range(self.num_envs))
        self._asked: list[int] = []
        self.all_on_board = False
        self._told: dict[int, Outcome] = {}  # what the broker knew when a row was late
        self._fixed = not any(leaf.inline for leaf in arena.layout.leaves) and Board.can_hold(action_space)
        packs = lease.packed_steps and Board.can_hold(action_space)
        self._packer = StepPacker(action_space, self.num_envs) if packs else None
        if transport == "shm" and not self._fixed:
            raise ValueError(
                'expected spaces of fixed sizes for transport="shm", found one with Text, Sequence or Graph; use "auto"'
            )
        if transport != "zmq" and self._fixed:
            self._board = ClientBoard(action_space, self.num_envs, lease.unpack)
        self._attach = {
            "arena": arena.name,
            "board": None if self._board is None else self._board.name,
            "num_envs": self.num_envs,
            "slots": arena.layout.slots,
        }
        self._transport = transport
        self._attach_all()

    def _attach_all(self) -> None:
        for outcome in self.ask(range(self.num_envs), "attach", [self._lease.pack(self._attach)] * self.num_envs):
            self.visible[outcome.row] = outcome.kind == "ok" and outcome.payload["visible"]
        self.on_board[:] = self.visible if self._board is not None else False
        self.all_on_board = bool(self.on_board.all())
        self._check_transport()

    def _check_transport(self) -> None:
        if self._transport == "shm" and not self.visible.all():
            raise SegmentGoneError(
                f'expected workers that see this /dev/shm for transport="shm", found rows '
                f'{np.flatnonzero(~self.visible)} elsewhere (another host or container); use "auto"'
            )

    # --- the bus ---

    def ask(self, rows: Iterable[int], op: str, payloads: Sequence[bytes], timeout_s: float = 600.0) -> list[Outcome]:
        """Send a command over the bus and wait for its outcomes; see `collect` for errors."""
        return self.collect(self.send(list(rows), [op] * len(payloads), payloads), timeout_s)

    def send(self, rows: Sequence[int], ops: Sequence[str], payloads: Sequence[bytes]) -> int:
        """Send a command over the bus; rows that listen to their bell are told to look at their socket."""
        seq = self._lease.send(rows, ops, payloads)
        if self._board is not None:
            for row in rows:
                if self.on_board[row]:
                    self._board.look(row)
        return seq

    def collect(self, seq: int, timeout_s: float) -> list[Outcome]:
        """The outcomes of a command that was sent over the bus."""
        return self._lease.wait(seq, timeout_s)

    def send_resets(
        self,
        rows: Sequence[int],
        rebuild: NDArray[np.bool_],
        slot: int,
        seeds: Sequence[int | None],
        options: dict[str, Any] | None,
    ) -> int:
        """Ask rows for a reset over the bus, those of `rebuild` (a mask) for a new env first; seeds one an env."""
        ops = ["rebuild" if rebuild[row] else "reset" for row in rows]
        payloads = [
            self._rebuild_payload(row, slot, seeds[row], options)
            if op == "rebuild"
            else self._lease.pack({"slot": slot, "seed": seeds[row], "options": options})
            for row, op in zip(rows, ops, strict=True)
        ]
        return self.send(rows, ops, payloads)

    def _rebuild_payload(self, row: int, slot: int, seed: int | None, options: dict[str, Any] | None) -> bytes:
        """Payload of `rebuild`: open, attach and reset a row in a new process.

        Raises:
            WorkerLostError: the old process still lives.
        """
        if not self._is_abandoned(row):
            raise WorkerLostError(f"row {row} (worker {self._lease.workers[row]}) cannot be rebuilt: {_STILL_LIVES}")
        reset = {"slot": slot, "seed": seed, "options": options}
        return self._lease.pack({"open": self._open_payloads[row], "attach": self._attach, **reset})

    # --- a step ---

    def begin_all(self, slot: int, actions: Any) -> int:
        """Ask every row for one step; all stand on the board."""
        assert self._board is not None
        self._bus_seq = 0
        self._asked = self._everyone
        seq = self._lease.next_seq()
        self._board.step_all(actions, slot, seq)
        return seq

    def begin(self, slot: int, actions: Any, ops: Sequence[str], read_action: Callable[[int], Any]) -> int:
        """Ask the rows for one step each.

        Args:
            slot: of the arena, for the observations.
            actions: the batch, the tree of the batched action space.
            ops: "step", "reset", "rebuild" or "" (not asked) for each row.
            read_action: one row's action, for rows on the bus.

        Returns:
            The number of this step.
        """
        on_bus = [row for row, op in enumerate(ops) if op and (op == "rebuild" or not self.on_board[row])]
        if on_bus and self._packer is not None:
            self._packer.write_all(actions, slot)
        self._bus_seq = self._send_step(on_bus, ops, slot, read_action) if on_bus else 0
        seq = self._bus_seq or self._lease.next_seq()
        self._asked = [row for row, op in enumerate(ops) if op and row not in on_bus]
        if self._asked and self._board is not None:
            self._board.write_actions(actions)
            for row in self._asked:
                self._board.ask(row, _OP[ops[row]], slot, seq, OWN_BELL)
        return seq

    def _send_step(
        self, rows: list[int], ops: Sequence[str] | Mapping[int, str], slot: int, read_action: Callable[[int], Any]
    ) -> int:
        packer = self._packer
        payloads = [
            (packer.payload(row) if packer is not None else self._lease.pack([slot, read_action(row)]))
            if ops[row] == "step"
            else self._rebuild_payload(row, slot, None, None)
            if ops[row] == "rebuild"
            else self._lease.pack({"slot": slot, "seed": None, "options": None})
            for row in rows
        ]
        # A worker that is being rebuilt starts at its socket, so no bell has to ring for it.
        return self._lease.send(rows, [ops[row] for row in rows], payloads)

    def finish(self, seq: int, slot: int, timeout_s: float) -> tuple[Batch, list[Outcome]]:
        """Wait for all rows of `begin`.

        Returns:
            The batch, and the outcomes that are errors or the end of a worker.

        Raises:
            CommandTimeoutError: not all rows were done in time.
            LeaseLostError: the broker ended the lease.
            StaleRowError: a row does not carry this step's number.
        """
        deadline_s = time.monotonic() + timeout_s
        board = self._board
        if board is not None and self._asked is self._everyone:
            if not board.wait_all(seq, timeout_s):
                self._wait_rows(board, seq, deadline_s, timeout_s)
            batch = None if self._told else board.read_all(seq)
            if batch is not None:
                self._check_stamps(slot, seq)
                return batch, []
        elif board is not None and self._asked:
            self._wait_rows(board, seq, deadline_s, timeout_s)
        # All waiting comes before all reading, so that a wait that timed out can be taken up again.
        outcomes: list[Outcome] = []
        if self._bus_seq:
            answers = self._lease.wait_steps(self._bus_seq, max(deadline_s - time.monotonic(), 0.0))
            if not isinstance(answers, list):
                return self._read_answers(answers, slot, seq), []
            outcomes = answers
        batch = Batch.empty(self.num_envs)
        failed: list[Outcome] = []
        for row in self._asked:
            _, outcome = self.read_row(row, seq, slot, batch)
            if outcome is not None:
                failed.append(outcome)
        failed += self.read_bus(outcomes, seq, slot, batch)
        return batch, failed

    def _read_answers(self, answers: NDArray[Any], slot: int, seq: int) -> Batch:
        """The batch of a step in which every row came over the bus and said nothing but numbers."""
        self._check_stamps(slot, seq)
        return Batch(
            rewards=answers["reward"].copy(),
            terminated=answers["terminated"] != 0,
            truncated=answers["truncated"] != 0,
            infos=[],
            losses={},
            slowest_s=float(answers["busy_s"].max()),
        )

    def _wait_rows(self, board: ClientBoard, seq: int, deadline_s: float, timeout_s: float) -> None:
        late = board.wait_rows(self._asked, seq, deadline_s, self._is_told)
        if late is not None:
            raise CommandTimeoutError(
                f"expected step {seq} of row {late} (worker {self._lease.workers[late]}) within {timeout_s:g} s; "
                "look at `zmqcarla status` and the worker's log",
                timeout_s,
            )

    def _is_told(self, row: int) -> bool:
        if row not in self._told:
            self.probe()
        return row in self._told

    def read_row(self, row: int, seq: int, slot: int, batch: Batch) -> tuple[int, Outcome | None]:
        """Put one row of the board that is done into the batch; when it was done, and an outcome that is a failure."""
        board = self._board
        assert board is not None
        told = self._told.pop(row, None)
        if told is not None and int(board.done_seq[row]) != seq:
            return time.monotonic_ns(), self._lost(told, batch)
        done_ns = board.done_ns(row)
        result = board.result(row)
        if result is Result.ERROR:
            return done_ns, Outcome(row, "error", board.read_note(row))
        if result is Result.LOST:
            note = board.read_note(row)
            final = note.pop("final")  # of this worker; the broker may have another one
            outcome = self._lease.after_the_end(row, note) if final else Outcome(row, "lost", note)
            return done_ns, self._lost(outcome, batch)
        self._check_stamp(row, slot, seq)
        reward, terminated, truncated, info, busy_s = board.read_row(row)
        batch.rewards[row], batch.terminated[row], batch.truncated[row] = reward, terminated, truncated
        batch.infos[row] = info
        batch.slowest_s = max(batch.slowest_s, busy_s)
        return done_ns, None

    def _lost(self, outcome: Outcome, batch: Batch) -> Outcome | None:
        """Note the loss of a row; the outcome when it will not come back."""
        self._set_on_board(outcome.row, False)
        if outcome.kind == "lost" and not self._is_abandoned(outcome.row):
            reason = f"{outcome.payload['reason']}, and {_STILL_LIVES}"
            outcome = Outcome(outcome.row, "gone", {**outcome.payload, "reason": reason})
        if outcome.kind == "gone":
            return outcome
        batch.losses[outcome.row] = outcome.payload
        return None

    def _is_abandoned(self, row: int) -> bool:
        """Whether no process can write into a row any more.

        Supervisors tell of a death after waitpid, but a broker that heard nothing of a supervisor for too long cannot
        know: the processes of one that died end at once, those of one that is stopped do not.
        """
        deadline_s = time.monotonic() + _LAST_BREATH_S
        while self.visible[row] and self._arena.has_writer(row):
            if time.monotonic() > deadline_s:
                return False
            time.sleep(_LAST_BREATH_S / 100)
        return True

    def read_bus(self, outcomes: list[Outcome], seq: int, slot: int, batch: Batch) -> list[Outcome]:
        """Put answers that came over the bus into the batch; the outcomes that are failures."""
        failed: list[Outcome] = []
        for outcome in outcomes:
            row, payload = outcome.row, outcome.payload
            if outcome.kind == "lost":
                failure = self._lost(outcome, batch)
                failed += [failure] if failure else []
            elif outcome.kind != "ok":
                failed.append(outcome)
            elif isinstance(payload, dict):
                self.accept_reset(outcome, slot, seq)
                batch.infos[row] = payload["info"]
            else:
                batch.rewards[row], batch.terminated[row], batch.truncated[row] = payload[:3]
                batch.infos[row] = payload[3]
                batch.slowest_s = max(batch.slowest_s, payload[5])
                self._accept_leaves(row, slot, seq, payload[4])
        return failed

    # --- one row at a time ---

    def begin_row(self, row: int, op: str, slot: int, action: Any) -> tuple[int, bool]:
        """Ask one row for one step, "reset" or "rebuild": the number of the command, and whether it is on the board."""
        if op == "rebuild" or not self.on_board[row]:
            ops = {row: op}
            if op == "step" and self._packer is not None:
                self._packer.write(row, action, slot)
            return self._send_step([row], ops, slot, lambda _: action), False
        assert self._board is not None
        self._board.write_action(row, action)
        seq = self._lease.next_seq()
        self._board.ask(row, _OP[op], slot, seq, ANY_BELL)
        return seq, True

    def done_on_board(self, seqs: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Which rows are done with their command of these numbers, or known to be lost; bool (num_envs,)."""
        if self._board is None:
            return np.zeros(self.num_envs, np.bool_)
        done: NDArray[np.bool_] = self._board.done_seq == seqs
        done[list(self._told)] = True
        return done

    def drain_any_bell(self) -> None:
        """Forget the rings of rows that were done meanwhile."""
        while self._board is not None and self._board.wait_any(0):
            pass

    def wait_any_bell(self, timeout_s: float) -> bool:
        """Whether a row that was asked by `begin_row` rang in time."""
        return self._board is not None and self._board.wait_any(timeout_s)

    def wait_any_answer(self, seqs: Collection[int], timeout_s: float) -> tuple[int, list[Outcome]] | None:
        """The first answer over the bus, see `Lease.wait_any`."""
        return self._lease.wait_any(seqs, timeout_s)

    def probe(self) -> None:
        """Ask the broker for deaths of rows on the board that their supervisor could not tell."""
        self._told.update({outcome.row: outcome for outcome in self._lease.probe() if self.on_board[outcome.row]})

    def gather(self, slots: NDArray[np.intp], rows: NDArray[np.intp]) -> Any:
        """A private batch of some rows, each from its slot; see `Arena.gather`."""
        return self._arena.gather(slots, rows)

    # --- observations ---

    def accept_reset(self, outcome: Outcome, slot: int, seq: int) -> None:
        """Take the observation of a reset or rebuild; a rebuilt row listens to its bell from now on.

        Raises:
            SegmentGoneError: the row moved to a worker elsewhere, and transport="shm" forbids that.
        """
        row = outcome.row
        self.visible[row] = outcome.payload.get("visible", self.visible[row])  # a rebuild may be on another host
        self._check_transport()
        self._accept_leaves(row, slot, seq, outcome.payload["inline"])
        self._set_on_board(row, bool(self.visible[row]) and self._board is not None)

    def _set_on_board(self, row: int, on_board: bool) -> None:
        self.on_board[row] = on_board
        self.all_on_board = bool(self.on_board.all())

    def _accept_leaves(self, row: int, slot: int, seq: int, inline: dict[int, Any]) -> None:
        if not self.visible[row]:
            self._arena.write_leaves(slot, row, inline, seq)
            return
        self._check_stamp(row, slot, seq)
        if inline:
            self._arena.write_leaves(slot, row, inline, seq)

    def _check_stamp(self, row: int, slot: int, seq: int) -> None:
        found = int(self._arena.row_seq[slot, row])
        if found != seq:
            raise StaleRowError(f"expected row {row} of slot {slot} to carry step {seq}, found {found}")

    def _check_stamps(self, slot: int, seq: int) -> None:
        if not self._arena.all_carry(slot, seq):
            found = self._arena.row_seq[slot].tolist()
            raise StaleRowError(f"expected all rows of slot {slot} to carry step {seq}, found {found}")

    def repeat(self, newest: int, slot: int, row: int, seq: int) -> None:
        """Give a row that was not stepped the observation of the newest batch."""
        self._arena.copy_row(newest, slot, row, seq)

    def hand_out(self, slot: int, ring: SlotRing) -> Any:
        """The batch of a slot; see `Arena.hand_out`."""
        return self._arena.hand_out(slot, ring)

    def final_observation(self, row: int, inline: dict[int, Any]) -> Any:
        """A private copy of the last observation of an episode that was reset in the same step."""
        return self._arena.copy_out(self._arena.layout.slots - 1, row, inline)

    def observation(self, slot: int, row: int) -> Any:
        """A private copy of one row of a slot."""
        return self._arena.copy_out(slot, row, {})

    def close(self) -> None:
        """Release the lease, wake the workers so that they hear of it, and remove board and arena."""
        self._lease.release()
        if self._board is not None:
            for row in np.flatnonzero(self.on_board).tolist():
                self._board.look(row)
            self._board.close()
        self._arena.close()
