"""Rows of a pool as one `gymnasium.vector.VectorEnv`, with the contract of gymnasium's AsyncVectorEnv.

Each worker writes its observation straight into its row of the shared-memory arena; the batch that the caller gets is
a view of it and stays valid and unchanged for as long as the caller holds it. How actions go out and results come
back: `zmqcarla.rows`.

A worker that dies is a truncated row: last observation, reward 0, info["worker_lost"]; the next step rebuilds
and resets it.
"""

from __future__ import annotations

import builtins
import collections
import multiprocessing
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Literal

import gymnasium
import numpy as np
from gymnasium import logger
from gymnasium.error import AlreadyPendingCallError, ClosedEnvironmentError, NoAsyncCallError
from gymnasium.vector import AutoresetMode
from gymnasium.vector.async_vector_env import AsyncState
from gymnasium.vector.utils import batch_space, iterate
from numpy.typing import NDArray

from zmqcarla.actions import checked_actions
from zmqcarla.broker import errors
from zmqcarla.broker.errors import CommandTimeoutError, RemoteEnvError, SpaceMismatchError, WorkerLostError
from zmqcarla.broker.protocol import pack
from zmqcarla.infos import batch_infos
from zmqcarla.lease import Outcome, RowLease
from zmqcarla.rows import Batch, Rows, Transport
from zmqcarla.shm.arena import DEFAULT_SLOTS, Arena
from zmqcarla.shm.ring import SlotRing
from zmqcarla.shm.spaces import build

DEFAULT_TIMEOUT_S: Final = 600.0
"""A bound above the workers' own limits, which cut a hang earlier and truncate its row."""
_ATTEMPTS: Final = 3
_TIMED_STEPS: Final = 4096
_RAISED_AS_THEY_ARE: Final = {
    f"{module.__name__}.{name}": value
    for module in (builtins, gymnasium.error, errors)
    for name, value in vars(module).items()
    if isinstance(value, type) and issubclass(value, Exception)
}

StepResult = tuple[Any, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]


class VectorEnv(gymnasium.vector.VectorEnv[Any, Any, Any]):
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
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self._lease = lease
        self._rows: Rows | None = None
        self._on_close = on_close
        self._timeout_s = timeout_s
        self._state = AsyncState.DEFAULT
        self._pending: tuple[int, int, list[int]] = (0, 0, [])  # (seq, slot, rows) of the call that is under way
        self._sent_at = 0.0
        self._step_s: collections.deque[tuple[float, float]] = collections.deque(maxlen=_TIMED_STEPS)
        self._reset_next: NDArray[np.bool_] = np.zeros(self.num_envs, np.bool_)
        self._rebuild: NDArray[np.bool_] = np.zeros(self.num_envs, np.bool_)
        try:
            self._set_up(self._open_payloads(env_id, env_kwargs), transport, slots)
        except BaseException:
            self.close()
            raise

    def _open_payloads(
        self, env_id: str, env_kwargs: dict[str, Any] | Sequence[dict[str, Any]] | None
    ) -> list[dict[str, Any]]:
        each = [env_kwargs or {}] * self.num_envs if env_kwargs is None or isinstance(env_kwargs, dict) else env_kwargs
        if len(each) != self.num_envs:
            raise ValueError(f"expected one dict of env_kwargs a row ({self.num_envs}), found {len(each)}")
        mode = self.autoreset_mode.value
        return [{"env_id": env_id, "kwargs": dict(kwargs), "autoreset": mode} for kwargs in each]

    def _set_up(self, open_payloads: list[dict[str, Any]], transport: Transport, slots: int) -> None:
        answers = self._open_all(open_payloads)
        self._take_spaces(answers)
        self.metadata = {**answers[0]["metadata"], "autoreset_mode": self.autoreset_mode}
        self.render_mode = answers[0]["render_mode"]
        reserves = 2 if self.autoreset_mode is AutoresetMode.SAME_STEP else 1  # the second one for final observations
        arena = Arena.create(self.single_observation_space, self.num_envs, slots + reserves)
        self._ring = SlotRing(slots)
        self._rows = Rows(self._lease, arena, self.single_action_space, transport, open_payloads)

    def _take_spaces(self, answers: list[dict[str, Any]]) -> None:
        first, *others = answers
        for row, other in enumerate(others, start=1):
            for space in ("observation_space", "action_space"):
                if pack(other[space]) != pack(first[space]):
                    ours, theirs = build(first[space]), build(other[space])
                    raise SpaceMismatchError(f"expected row {row} to have the {space} of row 0, {ours}, found {theirs}")
        self.single_observation_space = build(first["observation_space"])
        self.single_action_space = build(first["action_space"])
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

    def _open_all(self, payloads: list[dict[str, Any]]) -> list[dict[str, Any]]:
        answers: dict[int, dict[str, Any]] = {}
        rows = list(range(self.num_envs))
        outcomes: list[Outcome] = []
        for _ in range(_ATTEMPTS):  # a worker that dies meanwhile is asked again when it is back
            seq = self._lease.send(rows, ["open"] * len(rows), [self._lease.pack(payloads[row]) for row in rows])
            outcomes = self._settled(self._lease.wait(seq, self._timeout_s))
            answers.update({outcome.row: outcome.payload for outcome in outcomes if outcome.kind == "ok"})
            rows = [outcome.row for outcome in outcomes if outcome.kind == "lost"]
            if not rows:
                return [answers[row] for row in range(self.num_envs)]
        raise WorkerLostError(f"rows {rows} were lost {_ATTEMPTS} times while their envs were made: {outcomes}")

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
        self._seeds = self._seed_list(seed)
        self._assert_idle("reset_async")
        options = None if options is None else dict(options)
        rows = _masked_rows(options, self.num_envs)
        slot = self._ring.take()
        try:
            self._pending = (self._send_resets(rows, slot, options), slot, rows)
        except BaseException:
            self._ring.give_back(slot)
            raise
        self._options = options
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
                outcomes = self._settled(self._collect(seq, timeout, "reset_wait"))
                for outcome in (outcome for outcome in outcomes if outcome.kind == "ok"):
                    self._living_rows().accept_reset(outcome, slot, seq)
                    infos[outcome.row] = outcome.payload["info"]
                    self._rebuild[outcome.row] = self._reset_next[outcome.row] = False
                left = [outcome.row for outcome in outcomes if outcome.kind == "lost"]
                if not left:
                    break
                self._note_loss(left)
                seq = self._send_resets(left, slot, self._options)
            else:
                raise WorkerLostError(f"rows {left} were lost {_ATTEMPTS} times during one reset")
            for row in set(everything) - set(rows):
                self._living_rows().repeat(self._ring.newest, slot, row, seq)
        except BaseException:
            self._ring.give_back(slot)
            raise
        return self._hand_out(slot), batch_infos(infos, self._add_info)

    def _send_resets(self, rows: list[int], slot: int, options: dict[str, Any] | None) -> int:
        living = self._living_rows()
        ops = ["rebuild" if self._rebuild[row] else "reset" for row in rows]
        payloads = [
            living.rebuild_payload(row, slot, self._seeds[row], options)
            if op == "rebuild"
            else self._lease.pack({"slot": slot, "seed": self._seeds[row], "options": options})
            for row, op in zip(rows, ops, strict=True)
        ]
        return living.send(rows, ops, payloads)

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
        self._assert_is_running()
        self._assert_idle("step_async")
        if self._ring.newest < 0:
            raise gymnasium.error.ResetNeeded("expected reset() before step(), found a vector env that was never reset")
        checked = checked_actions(actions, self.single_action_space, self.action_space, self.num_envs)
        self._sent_at = time.perf_counter()
        ops = self._step_ops()
        slot = self._ring.take()
        try:
            seq = self._living_rows().begin(slot, checked, ops, self._action_reader(checked))
        except BaseException:
            self._ring.give_back(slot)
            raise
        self._pending = (seq, slot, [row for row, op in enumerate(ops) if not op])
        self._state = AsyncState.WAITING_STEP

    def step_wait(self, timeout: float | None = None) -> StepResult:
        """The results of `step_async`.

        Args:
            timeout: seconds; None for the constructor's.

        Returns:
            Observations (each leaf (num_envs, *shape)), rewards float64 (num_envs,), terminated and truncated bool
            (num_envs,), infos.

        Raises:
            multiprocessing.TimeoutError: not all rows were done in time; the next call is refused nothing.
        """
        self._assert_waiting(AsyncState.WAITING_STEP)
        seq, slot, unasked = self._pending
        try:
            with _upstream_timeout("step_wait", timeout):
                batch, failed = self._living_rows().finish(seq, slot, self._timeout_s if timeout is None else timeout)
            self._settled(failed)
            self._add_losses(batch, slot, seq)
            for row in unasked:
                self._living_rows().repeat(self._ring.newest, slot, row, seq)
                batch.truncated[row] = True
                batch.infos[row] = {"row_idle": True}
        except BaseException:
            self._ring.give_back(slot)
            raise
        if self.autoreset_mode is AutoresetMode.SAME_STEP:
            self._add_final_observations(batch)
        if not self._reset_next.any():
            self._step_s.append((time.perf_counter() - self._sent_at, batch.slowest_s))
        self._note_endings(batch)
        infos = batch_infos(batch.infos, self._add_info)
        return self._hand_out(slot), batch.rewards, batch.terminated, batch.truncated, infos

    def _step_ops(self) -> list[str]:
        """What each row is asked: step, reset after an ended episode, rebuild after a death, "" for nothing."""
        if self.autoreset_mode is AutoresetMode.DISABLED:
            return ["" if rebuild else "step" for rebuild in self._rebuild.tolist()]
        if not self._reset_next.any():
            return ["step"] * self.num_envs
        return [
            "rebuild" if rebuild else "reset" if reset else "step"
            for rebuild, reset in zip(self._rebuild.tolist(), self._reset_next.tolist(), strict=True)
        ]

    def _action_reader(self, actions: Any) -> Callable[[int], Any]:
        if isinstance(actions, np.ndarray):
            return lambda row: actions[row]
        return lambda row: list(iterate(self.action_space, actions))[row]

    def _add_losses(self, batch: Batch, slot: int, seq: int) -> None:
        for row, news in batch.losses.items():
            self._living_rows().repeat(self._ring.newest, slot, row, seq)
            batch.truncated[row] = True
            batch.infos[row] = {"worker_lost": news}

    def _add_final_observations(self, batch: Batch) -> None:
        for row, info in enumerate(batch.infos):
            if "final_obs" in info:
                info["final_obs"] = self._living_rows().final_observation(row, info["final_obs"])

    def _note_endings(self, batch: Batch) -> None:
        self._rebuild[:] = False if self.autoreset_mode is not AutoresetMode.DISABLED else self._rebuild
        self._reset_next[:] = False
        if self.autoreset_mode is AutoresetMode.NEXT_STEP:
            np.logical_or(batch.terminated, batch.truncated, out=self._reset_next)
        self._note_loss(batch.losses)

    def _note_loss(self, rows: Iterable[int]) -> None:
        for row in rows:
            self._rebuild[row] = self._reset_next[row] = True

    # --- calls ---

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Call a method of every env, or read an attribute; one result a row."""
        self.call_async(name, *args, **kwargs)
        return self.call_wait()

    def call_async(self, name: str, /, *args: Any, **kwargs: Any) -> None:
        """Send a call; `call_wait` brings the results."""
        self._assert_is_running()
        self._assert_idle("call_async")
        payload = self._lease.pack({"name": name, "args": list(args), "kwargs": kwargs})
        self._pending = (self._send_all("call", [payload] * self.num_envs), -1, [])
        self._state = AsyncState.WAITING_CALL

    def call_wait(self, timeout: float | None = None) -> tuple[Any, ...]:
        """The results of `call_async`, one a row."""
        self._assert_waiting(AsyncState.WAITING_CALL)
        return tuple(self._answers(self._collect(self._pending[0], timeout, "call_wait")))

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """Read an attribute of every env."""
        return self.call(name)

    def set_attr(self, name: str, values: Any) -> None:
        """Set an attribute of every env: one value for all, or a list or tuple with one a row."""
        self._assert_is_running()
        each = values if isinstance(values, (list, tuple)) else [values] * self.num_envs
        if len(each) != self.num_envs:
            raise ValueError(
                "Values must be a list or tuple with length equal to the number of environments. "
                f"Got `{len(each)}` values for {self.num_envs} environments."
            )
        self._assert_idle("set_attr")
        seq = self._send_all("set_attr", [self._lease.pack({"name": name, "value": value}) for value in each])
        self._answers(self._living_rows().collect(seq, self._timeout_s))

    def render(self) -> tuple[Any, ...] | None:
        """Ask each env for a frame; one a row."""
        return self.call("render")

    @property
    def np_random_seed(self) -> tuple[int, ...]:  # type: ignore[override]
        """The seed of each env's random generator."""
        return self.get_attr("np_random_seed")

    def statistics(self) -> dict[str, Any]:
        """Rows, slots, copies because all slots were held, and where the time of the latest steps went.

        `timing` covers the last steps without a reset among them: `step_ms` from step_async to the end of step_wait,
        `worker_ms` the part of the slowest worker's env, `bus_ms` the rest (transport, broker, client, policy between
        the two calls); p50, p99 and mean of each.
        """
        step_ms = np.array(self._step_s or [(0.0, 0.0)]) * 1e3
        parts = {"step_ms": step_ms[:, 0], "worker_ms": step_ms[:, 1], "bus_ms": step_ms[:, 0] - step_ms[:, 1]}
        rows = self._living_rows()
        return {
            "timing": {name: _spread(values) for name, values in parts.items()},
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
            try:
                if not terminate:
                    waits[self._state.value](timeout)
            except multiprocessing.TimeoutError:
                pass  # the workers finish, or are cut, on their own
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

    def _send_all(self, op: str, payloads: list[bytes]) -> int:
        if self._rebuild.any():
            raise WorkerLostError(
                f"rows {np.flatnonzero(self._rebuild).tolist()} have no env: reset() brings them back"
            )
        return self._living_rows().send(range(self.num_envs), [op] * self.num_envs, payloads)

    def _answers(self, outcomes: list[Outcome]) -> list[Any]:
        lost = [outcome for outcome in self._settled(outcomes) if outcome.kind == "lost"]
        if lost:
            self._note_loss(outcome.row for outcome in lost)
            raise WorkerLostError(f"workers died during the call: {lost}; reset() brings their rows back")
        return [outcome.payload for outcome in outcomes]

    def _collect(self, seq: int, timeout: float | None, name: str) -> list[Outcome]:
        with _upstream_timeout(name, timeout):
            return self._living_rows().collect(seq, self._timeout_s if timeout is None else timeout)

    def _settled(self, outcomes: list[Outcome]) -> list[Outcome]:
        """The outcomes, when all are ok or lost; raises what a worker raised, or that it will not come back."""
        for outcome in outcomes:
            if outcome.kind == "gone":
                self.close()
                raise WorkerLostError(f"row {outcome.row} will not come back: {outcome.payload}")
        for outcome in outcomes:
            if outcome.kind == "error":
                raise _remote_error(outcome)
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

    def _assert_waiting(self, state: AsyncState) -> None:
        """Check that the call fits; from here on nothing is pending, whatever happens."""
        self._assert_is_running()
        if self._state is not state:
            raise NoAsyncCallError(
                f"Calling `{state.value}_wait` without any prior call to `{state.value}_async`.", state.value
            )
        self._state = AsyncState.DEFAULT

    def _seed_list(self, seed: int | Sequence[int | None] | None) -> list[int | None]:
        if seed is None:
            return [None] * self.num_envs
        if isinstance(seed, (int, np.integer)):
            return [int(seed) + row for row in range(self.num_envs)]
        if len(seed) != self.num_envs:
            raise ValueError(
                "If seeds are passed as a list the length must match "
                f"num_envs={self.num_envs} but got length={len(seed)}."
            )
        return [None if one is None else int(one) for one in seed]


class _upstream_timeout:  # noqa: N801 - reads as the statement that it is
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


def _masked_rows(options: dict[str, Any] | None, num_envs: int) -> list[int]:
    """The rows that a reset is for; takes "reset_mask" out of the options."""
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


def _spread(values: NDArray[np.float64]) -> dict[str, float]:
    p50, p99 = np.percentile(values, [50, 99])
    return {"p50": float(p50), "p99": float(p99), "mean": float(values.mean())}


def _remote_error(outcome: Outcome) -> Exception:
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
