"""Rows of a pool as one `gymnasium.vector.VectorEnv`, with the contract of gymnasium's AsyncVectorEnv.

Each worker writes its observation straight into its row of the shared-memory arena; the batch that the caller gets is
a view of it and stays valid and unchanged for as long as the caller holds it. How actions go out and results come
back: `zmqcarla.rows`.

A worker that dies is a truncated row: last observation, reward 0, info["worker_lost"]; the next step rebuilds
and resets it.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import gymnasium
import numpy as np
from gymnasium import logger
from gymnasium.error import AlreadyPendingCallError, ClosedEnvironmentError, NoAsyncCallError
from gymnasium.vector import AutoresetMode
from gymnasium.vector.async_vector_env import AsyncState
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from zmqcarla.abandoned import AbandonedCall
from zmqcarla.actions import action_checker, action_reader
from zmqcarla.batch import Batch
from zmqcarla.broker.errors import CommandTimeoutError, WorkerLostError
from zmqcarla.contract import (
    UpstreamTimeout,
    check_call_name,
    chosen_rows,
    gone_error,
    masked_rows,
    remote_error,
    seed_list,
    value_a_row,
)
from zmqcarla.first_k import FirstK, Received
from zmqcarla.infos import batch_infos, joined
from zmqcarla.lease import Outcome, RowLease
from zmqcarla.opening import open_all, open_payloads
from zmqcarla.row_ends import RowEnds
from zmqcarla.row_states import RowStates
from zmqcarla.rows import Rows, Transport
from zmqcarla.shm.arena import DEFAULT_SLOTS, Arena
from zmqcarla.shm.ring import SlotRing
from zmqcarla.shm.spaces import build
from zmqcarla.snapshots import SnapshotCalls

DEFAULT_TIMEOUT_S: Final = 600.0
"""A bound above the workers' own limits, which cut a hang earlier and truncate its row."""
_ATTEMPTS: Final = 3
_IDLE: Final = AsyncState.DEFAULT
_STEPPING: Final = AsyncState.WAITING_STEP  # a look at an enum takes its time

StepResult = tuple[Any, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]


class VectorEnv(SnapshotCalls):
    """N envs in the workers of a pool.

    Args:
        lease: the rows; the vector env owns it from now on and releases it at `close`.
        env_id: a registered Gymnasium id that the workers allow, `module:Id` to import first.
        env_kwargs: for `gymnasium.make` in the worker; a sequence gives each row its own.
        autoreset_mode: as for AsyncVectorEnv.
        transport: "shm" steps through shared memory alone, "zmq" over the bus, "auto" the first where a worker can.
        slots: batches that the caller may hold at the same time before a batch is copied.
        timeout_s: for every command, when the call names no other.
        on_close: called once after the lease has ended.

    Raises:
        SpaceMismatchError: the envs differ in their spaces.
        SegmentSpaceError: /dev/shm has too little room.
        Exception: what the env's constructor raised in the worker.
    """

    def __init__(
        self,
        lease: RowLease,
        env_id: str,
        env_kwargs: dict[str, Any] | Sequence[dict[str, Any]] | None = None,
        *,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        transport: Transport = "auto",
        slots: int = DEFAULT_SLOTS,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        self.num_envs = lease.num_envs
        self._lease = lease
        self._rows: Rows | None = None
        self._on_close = on_close
        self._timeout_s = timeout_s
        self._state = AsyncState.DEFAULT
        self._pending: tuple[int, int, list[int]] = (0, 0, [])  # (seq, slot, rows) of the call that is under way
        self._resets_pending = False
        self._sent_at = 0.0
        self._times = lease.step_times
        try:
            self.autoreset_mode = AutoresetMode(autoreset_mode)
            self._states = RowStates(self.num_envs, self.autoreset_mode)
            self._set_up(open_payloads(env_id, env_kwargs, self.num_envs, self.autoreset_mode), transport, slots)
        except BaseException:
            self.close()
            raise

    def _set_up(self, payloads: list[dict[str, Any]], transport: Transport, slots: int) -> None:
        answers = open_all(self._lease, payloads, self._timeout_s, self._settled)
        self._take_spaces(answers)
        self._check_actions = action_checker(self.single_action_space, self.action_space, self.num_envs)
        self.metadata = {**answers[0]["metadata"], "autoreset_mode": self.autoreset_mode}
        self.render_mode = answers[0]["render_mode"]
        reserves = 2 if self.autoreset_mode is AutoresetMode.SAME_STEP else 1  # the second one for final observations
        arena = Arena.create(self.single_observation_space, self.num_envs, slots + reserves)
        self._ring = SlotRing(slots)
        self._rows = Rows(self._lease, arena, self.single_action_space, transport, payloads)
        self._ends = RowEnds(self._rows, self.autoreset_mode)
        self._first_k = FirstK(self._rows, self._ring, self.single_action_space, self._states, self._ends)
        self._abandoned = AbandonedCall(self._rows, self._states, self._ring)

    def _take_spaces(self, answers: list[dict[str, Any]]) -> None:
        self.single_observation_space = build(answers[0]["observation_space"])
        self.single_action_space = build(answers[0]["action_space"])
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

    # --- reset ---

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Reset every row, or those of options["reset_mask"].

        Args:
            seed: row i gets seed + i, or seed[i] of a sequence.
            options: given to each env's reset; "reset_mask", bool (num_envs,), is taken out and chooses rows.

        Returns:
            Observations, each leaf (num_envs, *shape), and the infos.
        """
        self.reset_async(seed=seed, options=options)
        return self.reset_wait()

    def reset_async(
        self, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> None:
        """Send resets; `reset_wait` brings the observations."""
        self._assert_is_running()
        seeds = seed_list(seed, self.num_envs)
        self._assert_idle("reset_async")
        options = None if options is None else dict(options)
        rows = masked_rows(options, self.num_envs)
        self._take_over()
        self._seeds, self._options = seeds, options
        slot = self._ring.take()
        try:
            self._pending = (self._send_resets(rows, slot, options), slot, rows)
        except BaseException:
            self._ring.give_back(slot)
            raise
        self._state = AsyncState.WAITING_RESET

    def reset_wait(self, timeout: float | None = None) -> tuple[Any, dict[str, Any]]:
        """The observations of `reset_async`.

        Raises:
            multiprocessing.TimeoutError: not all rows answered within `timeout` seconds.
        """
        self._assert_waiting(AsyncState.WAITING_RESET)
        (seq, slot, rows), everything = self._pending, range(self.num_envs)
        infos: list[dict[str, Any]] = [{} for _ in everything]
        left = rows
        try:
            for _ in range(_ATTEMPTS):
                outcomes = self._collect(seq, timeout, "reset_wait")
                self._states.note_loss(outcome.row for outcome in outcomes if outcome.kind == "lost")
                for outcome in (outcome for outcome in outcomes if outcome.kind == "ok"):
                    self._living_rows().accept_reset(outcome, slot, seq)
                    infos[outcome.row] = outcome.payload["info"]
                    self._states.note_reset(outcome)
                left = [outcome.row for outcome in self._settled(outcomes) if outcome.kind == "lost"]
                if not left:
                    break
                seq = self._send_resets(left, slot, self._options)
                self._pending = (seq, slot, left)
            else:
                raise WorkerLostError(f"rows {left} were lost {_ATTEMPTS} times during one reset")
            for row in set(everything) - set(rows):
                self._living_rows().repeat(self._ring.newest, slot, row, seq)
        except BaseException as error:
            self._give_up(AsyncState.WAITING_RESET, error)
            raise
        return self._hand_out(slot), batch_infos(infos, self._add_info)

    def _send_resets(self, rows: list[int], slot: int, options: dict[str, Any] | None) -> int:
        return self._living_rows().send_resets(rows, self._states.rebuild, slot, self._seeds, options)

    # --- step ---

    def step(self, actions: Any) -> StepResult:
        """`step_async` and `step_wait` in one."""
        self.step_async(actions)
        return self.step_wait()

    def step_async(self, actions: Any) -> None:
        """Send one action to each row; `step_wait` brings the results.

        Raises:
            InvalidActionError: wrong shape, or NaN; no row was stepped.
        """
        if self._state is not _IDLE or self.closed or self._ring.newest < 0 or not self._first_k.is_over:
            self._assert_is_running()
            self._assert_idle("step_async")
            self._assert_was_reset("step")
        checked = self._check_actions(actions)
        if self._abandoned.pending or not self._first_k.is_over:
            self._take_over()
        self._sent_at = time.perf_counter()
        rows = self._living_rows()
        slot = self._ring.take()
        unasked: list[int] = []
        self._resets_pending = not self._states.all_step
        try:
            if self._resets_pending or not rows.all_on_board:
                ops = self._states.ops()
                unasked = [row for row, op in enumerate(ops) if not op]
                seq = rows.begin(slot, checked, ops, action_reader(checked, self.action_space))
            else:
                seq = rows.begin_all(slot, checked)
        except BaseException:
            self._ring.give_back(slot)
            raise
        self._pending = (seq, slot, unasked)
        self._state = _STEPPING

    def step_wait(self, timeout: float | None = None) -> StepResult:
        """The results of `step_async`.

        Args:
            timeout: seconds; None for the constructor's.

        Returns:
            Observations (each leaf (num_envs, *shape)), rewards float64 (num_envs,), terminated and truncated bool
            (num_envs,), infos.

        Raises:
            multiprocessing.TimeoutError: not all rows were done in time. The results of this step are dropped; the
                next call waits for its end.
        """
        self._assert_waiting(_STEPPING)
        seq, slot, unasked = self._pending
        try:
            batch = self._finish_step(seq, slot, self._timeout_s if timeout is None else timeout)
            for row in unasked:
                self._living_rows().repeat(self._ring.newest, slot, row, seq)
                batch.truncated[row] = True
                batch.infos[row] = {"row_idle": True}
        except BaseException as error:
            self._give_up(_STEPPING, error)
            with UpstreamTimeout("step_wait", timeout):
                raise
        if not self._resets_pending:
            self._times.add(self._sent_at, time.perf_counter(), batch.slowest_s)
        infos = batch.columns
        if batch.infos:
            self._ends.add_final_observations(batch, range(self.num_envs))
            infos = joined(infos, batch_infos(batch.infos, self._add_info), batch.info_keys)
        return self._hand_out(slot), batch.rewards, batch.terminated, batch.truncated, infos

    def _finish_step(self, seq: int, slot: int, timeout_s: float) -> Batch:
        batch, failed = self._living_rows().finish(seq, slot, timeout_s)
        if batch.quiet and self._states.all_step:
            return batch
        self._states.note_step(batch, failed)  # also when another row fails: its next step is a reset all the same
        self._settled(failed)
        for row in batch.losses:
            self._living_rows().repeat(self._ring.newest, slot, row, seq)
            self._ends.add_loss(batch, row, slot)
        return batch

    # --- some rows at a time ---

    def send(self, actions: Any, env_ids: Sequence[int] | NDArray[Any] | None = None) -> None:
        """Send one action to each of some rows; `recv` brings whichever results come first.

        A row whose episode ended is reset instead (NEXT_STEP). Until every result was received, step, reset and call
        raise AlreadyPendingCallError.

        Args:
            actions: a batch with one action for each of `env_ids`.
            env_ids: row numbers; None for all rows.

        Raises:
            AlreadyPendingCallError: the result of an earlier action of one of these rows was not received.
            InvalidActionError: wrong number, shape or type, or NaN; no row was stepped.
        """
        self._assert_is_running()
        if self._state is not AsyncState.DEFAULT:
            self._assert_idle("send")
        self._assert_was_reset("send")
        self._finish_abandoned()
        self._first_k.send(actions, env_ids)

    def recv(self, k: int, timeout: float | None = None) -> Received:
        """The results of the k rows that were done first, in that order.

        Args:
            k: how many rows; at most as many as were sent an action.
            timeout: seconds; None for the constructor's.

        Returns:
            What `step` returns, for k rows, in arrays of their own; infos["env_id"], int64 (k,), says which rows.

        Raises:
            NoAsyncCallError: every result was received.
            multiprocessing.TimeoutError: fewer than k rows were done in time; nothing is lost.
        """
        self._assert_is_running()
        with UpstreamTimeout("recv", timeout):
            self._settled(self._first_k.wait(k, self._timeout_s if timeout is None else timeout))
        return self._first_k.deliver(k)

    # --- calls ---

    def call(self, name: str, *args: Any, rows: Sequence[int] | None = None, **kwargs: Any) -> tuple[Any, ...]:
        """Call a method of each env, or read an attribute.

        Args:
            name: of the method or attribute, looked for in the wrappers first.
            args: for the method.
            rows: whose envs; None for all. (An env's own keyword of this name can only be given by position.)
            kwargs: for the method.

        Returns:
            One result for each of `rows`, in their order.

        Raises:
            WorkerLostError: one of these rows has no env; reset() brings it back.
        """
        self._send_call(name, args, kwargs, rows)
        return self.call_wait()

    def call_async(self, name: str, /, *args: Any, **kwargs: Any) -> None:
        """Send a call to every env; `call_wait` brings the results."""
        self._send_call(name, args, kwargs, None)

    def _send_call(self, name: str, args: Sequence[Any], kwargs: dict[str, Any], rows: Sequence[int] | None) -> None:
        self._assert_is_running()
        self._assert_idle("call_async")
        check_call_name(name)
        asked = chosen_rows(rows, self.num_envs)
        self._finish_abandoned()
        payload = self._lease.pack({"name": name, "args": list(args), "kwargs": kwargs})
        self._send_op("call", asked, [payload] * len(asked))

    def call_wait(self, timeout: float | None = None) -> tuple[Any, ...]:
        """The results of `call_async`, one a row."""
        self._assert_waiting(AsyncState.WAITING_CALL)
        try:
            outcomes = self._collect(self._pending[0], timeout, "call_wait")
        except BaseException as error:
            self._give_up(AsyncState.WAITING_CALL, error)
            raise
        return tuple(self._answers(outcomes))

    def set_attr(self, name: str, values: Any, rows: Sequence[int] | None = None) -> None:
        """Set an attribute of each env, or of those of `rows`: one value for all, or a list or tuple with one a row."""
        self._assert_is_running()
        asked = chosen_rows(rows, self.num_envs)
        each = value_a_row(values, len(asked))
        self._assert_idle("set_attr")
        self._finish_abandoned()
        self._send_op("set_attr", asked, [self._lease.pack({"name": name, "value": value}) for value in each])
        self.call_wait()

    @property
    def lost_rows(self) -> list[int]:
        """Rows whose worker died and that have no env until a reset or restore names them."""
        return [int(row) for row in np.flatnonzero(self._states.rebuild)]

    def pool_died(self) -> None:
        """Called, from any thread, by who knows that the pool has died: a wait then raises LeaseLostError at once."""
        self._lease.pool_died()

    def statistics(self) -> dict[str, Any]:
        """Rows, slots, copies because all slots were held, and where the time of the latest steps went.

        `timing` covers the last steps without a reset among them: `step_ms` from step_async to the end of step_wait,
        `worker_ms` the part of the slowest worker's env, `bus_ms` the rest (transport, broker, client, and what the
        caller did between the two calls), `policy_ms` from there to the next step; p50, p99 and mean of each.
        """
        rows = self._living_rows()
        return {
            "timing": self._times.spread(),
            "num_envs": self.num_envs,
            "workers": list(self._lease.workers),
            "slots": self._ring.reserve,
            "reserve_used": self._ring.reserve_used,
            "rows_in_shared_memory": int(rows.visible.sum()),
            "rows_on_board": int(rows.on_board.sum()),
        }

    def close_extras(self, timeout: float | None = None, terminate: bool = False, **kwargs: Any) -> None:
        """Wait for a pending call, release the rows, unlink the shared memory, and take down a private pool."""
        if self._state is not AsyncState.DEFAULT:
            logger.warn(f"Calling `close` while waiting for a pending call to `{self._state.value}` to complete.")
            waits = {"reset": self.reset_wait, "step": self.step_wait, "call": self.call_wait}
            # Workers finish, or are cut, on their own; what an env raised is of no interest any more.
            with contextlib.suppress(Exception):
                if not terminate:
                    waits[self._state.value](timeout)
            if self.closed:  # by the wait, which found a worker that will not come back
                return
        elif self._rows is not None and self._first_k.outstanding:
            logger.warn("Calling `close` while waiting for a pending call to `recv` to complete.")
        if self._rows is not None:
            self._rows.close()
        self._lease.release()
        self._on_close()

    # --- parts ---

    def _hand_out(self, slot: int) -> Any:
        return self._living_rows().hand_out(slot, self._ring)

    def _living_rows(self) -> Rows:
        assert self._rows is not None
        return self._rows

    def _give_up(self, state: AsyncState, error: BaseException) -> None:
        """End a wait that failed; when rows are still busy, their slot must not be used before they are done."""
        seq, slot, _ = self._pending
        if isinstance(error, (multiprocessing.TimeoutError, CommandTimeoutError, KeyboardInterrupt)):
            self._abandoned.note(state, seq, slot)
        elif slot >= 0:
            self._ring.give_back(slot)

    def _take_over(self) -> None:
        """Make the rows ready for a command to all of them."""
        self._finish_abandoned()
        self._first_k.end()

    def _finish_abandoned(self) -> None:
        """Wait for the end of a call that timed out, so that no row does two things; its results are dropped."""
        self._settled(self._abandoned.finish(self._timeout_s))

    def _send_op(self, op: str, rows: list[int], payloads: list[bytes]) -> None:
        if lost := [row for row in rows if self._states.rebuild[row]]:
            raise WorkerLostError(f"rows {lost} have no env, for their worker died: reset() brings them back")
        self._pending = (self._living_rows().send(rows, [op] * len(rows), payloads), -1, [])
        self._state = AsyncState.WAITING_CALL

    def _answers(self, outcomes: list[Outcome]) -> list[Any]:
        lost = [outcome for outcome in self._settled(outcomes) if outcome.kind == "lost"]
        if lost:
            self._states.note_loss(outcome.row for outcome in lost)
            raise WorkerLostError(f"workers died during the call: {lost}; reset() brings their rows back")
        return [outcome.payload for outcome in outcomes]

    def _collect(self, seq: int, timeout: float | None, name: str) -> list[Outcome]:
        with UpstreamTimeout(name, timeout):
            return self._living_rows().collect(seq, self._timeout_s if timeout is None else timeout)

    def _settled(self, outcomes: list[Outcome]) -> list[Outcome]:
        """The outcomes, when all are ok or lost; raises what a worker raised, or that it will not come back."""
        for outcome in outcomes:
            if outcome.kind == "gone":
                self.close(terminate=True)
                raise gone_error(outcome)
        for outcome in outcomes:
            if outcome.kind == "error":
                raise remote_error(outcome)
        return outcomes

    def _assert_is_running(self) -> None:
        if self.closed:
            raise ClosedEnvironmentError(f"Trying to operate on `{type(self).__name__}`, after a call to `close()`.")

    def _assert_idle(self, name: str) -> None:
        if self._state is not AsyncState.DEFAULT:
            raise AlreadyPendingCallError(
                f"Calling `{name}` while waiting for a pending call to `{self._state.value}` to complete.",
                str(self._state.value),
            )
        self._first_k.check_idle(name)

    def _assert_was_reset(self, name: str) -> None:
        if self._ring.newest < 0:
            raise gymnasium.error.ResetNeeded(
                f"expected reset() before {name}(), found a vector env that was never reset"
            )

    def _assert_waiting(self, state: AsyncState) -> None:
        """Check that the call fits; from here on nothing is pending, whatever happens."""
        self._assert_is_running()
        if self._state is not state:
            raise NoAsyncCallError(
                f"Calling `{state.value}_wait` without any prior call to `{state.value}_async`.", state.value
            )
        self._state = _IDLE
