"""Rows of a pool as one `gymnasium.vector.VectorEnv`.

One step is one command: the actions go out in one ZeroMQ message, the broker fans them out, each worker writes its
observation straight into its row of the shared-memory arena, and one message brings back rewards, flags and infos.
The batch that the caller gets is a view of the arena; it stays valid and unchanged for as long as the caller holds
it.

A worker that dies is a truncated row: last observation, reward 0, info["worker_lost"]; the next step rebuilds
and resets it.
"""

from __future__ import annotations

import builtins
import collections
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import gymnasium
import numpy as np
from gymnasium.error import AlreadyPendingCallError, ClosedEnvironmentError, NoAsyncCallError
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space, iterate
from numpy.typing import NDArray

from zmqcarla.broker import errors
from zmqcarla.broker.errors import (
    InvalidActionError,
    RemoteEnvError,
    SpaceMismatchError,
    StaleRowError,
    WorkerLostError,
)
from zmqcarla.broker.protocol import pack
from zmqcarla.lease import Lease, Outcome
from zmqcarla.shm.arena import DEFAULT_SLOTS, Arena
from zmqcarla.shm.ring import SlotRing
from zmqcarla.shm.spaces import build

DEFAULT_TIMEOUT_S: Final = 600.0
"""A bound above the workers' own limits, which cut a hang earlier and truncate its row."""
_RESET_ATTEMPTS: Final = 3
_TIMED_STEPS: Final = 4096
_RAISED_AS_THEY_ARE: Final = {
    f"{module.__name__}.{name}": value
    for module in (builtins, gymnasium.error, errors)
    for name, value in vars(module).items()
    if isinstance(value, type) and issubclass(value, Exception)
}


class VectorEnv(gymnasium.vector.VectorEnv[Any, Any, Any]):
    """N envs of one kind in the workers of a pool, with AutoresetMode.NEXT_STEP.

    Args:
        lease: the rows; the vector env owns it from now on and releases it at `close`.
        env_id: a registered Gymnasium id that the workers allow, `module:Id` to import first.
        env_kwargs: for `gymnasium.make` in the worker.
        slots: batches that the caller may hold at the same time before a batch is copied.
        timeout_s: for every command, when the call names no other.
        on_close: called once after the lease has ended.

    Raises:
        SpaceMismatchError: the envs differ in their spaces.
        SegmentSpaceError: /dev/shm has too little room for the arena.
        Exception: what the env's constructor raised in the worker.
    """

    def __init__(
        self,
        lease: Lease,
        env_id: str,
        env_kwargs: dict[str, Any] | None = None,
        *,
        slots: int = DEFAULT_SLOTS,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        self.num_envs = lease.num_envs
        self._lease = lease
        self._on_close = on_close
        self._timeout_s = timeout_s
        self._arena: Arena | None = None
        self._last_seq = 0
        self._sent_at = 0.0
        self._step_s: collections.deque[tuple[float, float]] = collections.deque(maxlen=_TIMED_STEPS)
        self._pending: tuple[int, int] | None = None  # (seq, slot) between step_async and step_wait
        self._reset_next: NDArray[np.bool_] = np.zeros(self.num_envs, np.bool_)
        self._rebuild: NDArray[np.bool_] = np.zeros(self.num_envs, np.bool_)
        self._open: dict[str, Any] = {"env_id": env_id, "kwargs": dict(env_kwargs or {})}
        try:
            self._set_up(slots)
        except BaseException:
            self.close()
            raise

    def _set_up(self, slots: int) -> None:
        first, *others = self._command_all("open", self._open)
        for row, other in enumerate(others, start=1):
            if pack(other) != pack(first):
                raise SpaceMismatchError(
                    f"expected row {row} to have the spaces of row 0, found {other} beside {first}"
                )
        self.single_observation_space = build(first["observation_space"])
        self.single_action_space = build(first["action_space"])
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self.metadata = {**first["metadata"], "autoreset_mode": AutoresetMode.NEXT_STEP}
        self.render_mode = first["render_mode"]
        total_slots = slots + 1  # the reserve
        self._arena = Arena.create(self.single_observation_space, self.num_envs, total_slots)
        self._ring = SlotRing(slots)
        self._attach = {"arena": self._arena.name, "num_envs": self.num_envs, "slots": total_slots}
        visible = self._command_all("attach", self._attach)
        self._visible = [bool(answer["visible"]) for answer in visible]

    # --- the environment ---

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Reset every row.

        Args:
            seed: row i gets seed + i, or seed[i] of a sequence.
            options: given to each env's reset.

        Returns:
            Observations, each leaf (num_envs, *shape), and the infos.
        """
        self._check_idle("reset")
        seeds = self._seeds(seed)
        slot = self._ring.take()
        infos: dict[str, Any] = {}
        rows = list(range(self.num_envs))
        outcomes: list[Outcome] = []
        try:
            for _ in range(_RESET_ATTEMPTS):
                payloads = [self._reset_payload(row, slot, seeds[row], options) for row in rows]
                outcomes = self._exchange(rows, ["reset"] * len(rows), payloads)
                for outcome in (outcome for outcome in outcomes if outcome.kind == "ok"):
                    infos = self._accept_reset(outcome, slot, infos)
                rows = [outcome.row for outcome in outcomes if outcome.kind == "lost"]
                self._rebuild[rows] = True
                if not rows:
                    break
            else:
                raise WorkerLostError(f"rows {rows} were lost {_RESET_ATTEMPTS} times during one reset: {outcomes}")
        except BaseException:
            self._ring.give_back(slot)
            raise
        self._reset_next[:] = False
        return self._batch(slot), infos

    def step_async(self, actions: Any) -> None:
        """Send one action to each row; `step_wait` brings the results.

        Raises:
            InvalidActionError: wrong shape, or NaN; no row was stepped.
        """
        self._check_idle("step_async")
        if self._ring.newest < 0:
            raise gymnasium.error.ResetNeeded("expected reset() before step(), found a vector env that was never reset")
        rows = range(self.num_envs)
        checked = self._checked_actions(actions)
        slot = self._ring.take()
        ops = ["reset" if autoreset else "step" for autoreset in self._reset_next.tolist()]
        self._sent_at = time.perf_counter()
        try:
            payloads = [
                pack([slot, action]) if op == "step" else self._reset_payload(row, slot, None, None)
                for row, op, action in zip(rows, ops, checked, strict=True)
            ]
            self._pending = (self._lease.send(rows, ops, payloads), slot)
        except BaseException:
            self._ring.give_back(slot)
            raise

    def step_wait(
        self, timeout: float | None = None
    ) -> tuple[Any, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """The results of `step_async`.

        Args:
            timeout: seconds; None for the constructor's.

        Returns:
            Observations (each leaf (num_envs, *shape)), rewards float64 (num_envs,), terminated and truncated bool
            (num_envs,), infos.
        """
        if self._pending is None:
            raise NoAsyncCallError("Calling `step_wait` without any prior call to `step_async`.", "step")
        (seq, slot), self._pending = self._pending, None
        rewards = np.zeros(self.num_envs, np.float64)
        terminated = np.zeros(self.num_envs, np.bool_)
        truncated = np.zeros(self.num_envs, np.bool_)
        infos: dict[str, Any] = {}
        slowest_s = 0.0
        try:
            outcomes = self._settled(self._lease.wait(seq, self._timeout_s if timeout is None else timeout))
            for outcome in outcomes:
                row = outcome.row
                if outcome.kind == "lost":
                    infos = self._accept_loss(outcome, slot, seq, infos)
                    truncated[row] = True
                elif self._reset_next[row]:
                    infos = self._accept_reset(outcome, slot, infos, seq)
                else:
                    reward, terminated[row], truncated[row], info, inline, busy_s = outcome.payload
                    rewards[row] = reward
                    slowest_s = max(slowest_s, busy_s)
                    self._accept_row(row, slot, seq, inline)
                    if info:
                        infos = self._add_info(infos, info, row)
        except BaseException:
            self._ring.give_back(slot)
            raise
        if not self._reset_next.any():
            self._step_s.append((time.perf_counter() - self._sent_at, slowest_s))
        self._reset_next = terminated | truncated
        return self._batch(slot), rewards, terminated, truncated, infos

    def step(
        self, actions: Any
    ) -> tuple[Any, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """`step_async` and `step_wait` in one."""
        self.step_async(actions)
        return self.step_wait()

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Call a method of every env, or read an attribute; one result a row."""
        self._check_idle("call")
        return tuple(self._command_all("call", {"name": name, "args": list(args), "kwargs": kwargs}))

    def render(self) -> tuple[Any, ...] | None:
        """Ask each env for a frame; one a row."""
        return self.call("render")

    def statistics(self) -> dict[str, Any]:
        """Rows, slots, copies because all slots were held, and where the time of the latest steps went.

        `timing` covers the last steps without a reset among them: `step_ms` from step_async to the end of step_wait,
        `worker_ms` the part of the slowest worker's env, `bus_ms` the rest (transport, broker, client, policy between
        the two calls); p50, p99 and mean of each.
        """
        step_ms = np.array(self._step_s or [(0.0, 0.0)]) * 1e3
        parts = {"step_ms": step_ms[:, 0], "worker_ms": step_ms[:, 1], "bus_ms": step_ms[:, 0] - step_ms[:, 1]}
        return {
            "timing": {name: _spread(values) for name, values in parts.items()},
            "num_envs": self.num_envs,
            "workers": list(self._lease.workers),
            "slots": self._ring.reserve,
            "reserve_used": self._ring.reserve_used,
            "rows_in_shared_memory": sum(self._visible),
        }

    def close_extras(self, **kwargs: Any) -> None:
        """Release the rows, unlink the arena, and take down a private pool."""
        self._lease.release()
        if self._arena is not None:
            self._arena.close()
        self._on_close()

    # --- rows ---

    def _reset_payload(self, row: int, slot: int, seed: int | None, options: dict[str, Any] | None) -> bytes:
        rebuild = bool(self._rebuild[row])
        return pack(
            {
                "slot": slot,
                "seed": seed,
                "options": options,
                "open": self._open if rebuild else None,
                "attach": self._attach if rebuild else None,
            }
        )

    def _accept_reset(self, outcome: Outcome, slot: int, infos: dict[str, Any], seq: int = 0) -> dict[str, Any]:
        self._rebuild[outcome.row] = False
        self._accept_row(outcome.row, slot, seq or self._last_seq, outcome.payload["inline"])
        info = outcome.payload["info"]
        return self._add_info(infos, info, outcome.row) if info else infos

    def _accept_row(self, row: int, slot: int, seq: int, inline: dict[int, Any]) -> None:
        arena = self._living_arena()
        if not self._visible[row]:
            arena.write_leaves(slot, row, inline, seq)
            return
        found = int(arena.row_seq[slot, row])
        if found != seq:
            raise StaleRowError(f"expected row {row} of slot {slot} to carry step {seq}, found {found}")
        if inline:
            arena.write_leaves(slot, row, inline, seq)

    def _accept_loss(self, outcome: Outcome, slot: int, seq: int, infos: dict[str, Any]) -> dict[str, Any]:
        self._living_arena().copy_row(self._ring.newest, slot, outcome.row, seq)
        self._rebuild[outcome.row] = True
        return self._add_info(infos, {"worker_lost": outcome.payload}, outcome.row)

    def _batch(self, slot: int) -> Any:
        return self._living_arena().hand_out(slot, self._ring)

    def _living_arena(self) -> Arena:
        assert self._arena is not None
        return self._arena

    # --- commands ---

    def _command_all(self, op: str, payload: dict[str, Any]) -> list[Any]:
        """The same command to every row; their answers.

        A row that is lost is asked again once its worker is back; with its env gone, only `open` makes sense then.
        """
        packed = pack(payload)
        answers: dict[int, Any] = {}
        rows = list(range(self.num_envs))
        outcomes: list[Outcome] = []
        for _ in range(_RESET_ATTEMPTS):
            outcomes = self._exchange(rows, [op] * len(rows), [packed] * len(rows))
            answers.update({outcome.row: outcome.payload for outcome in outcomes if outcome.kind == "ok"})
            rows = [outcome.row for outcome in outcomes if outcome.kind == "lost"]
            if not rows:
                return [answers[row] for row in range(self.num_envs)]
            if op != "open":
                self._rebuild[rows] = self._reset_next[rows] = True
                break
        raise WorkerLostError(f"expected {op!r} from all rows, lost rows {rows}: {outcomes}; reset() brings them back")

    def _exchange(self, rows: Sequence[int], ops: Sequence[str], payloads: Sequence[bytes]) -> list[Outcome]:
        self._last_seq = self._lease.send(rows, ops, payloads)
        return self._settled(self._lease.wait(self._last_seq, self._timeout_s))

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

    def _check_idle(self, name: str) -> None:
        if self.closed:
            raise ClosedEnvironmentError(f"Trying to operate on `VectorEnv`, after a call to `close()` ({name}).")
        if self._pending is not None:
            raise AlreadyPendingCallError(
                f"Calling `{name}` while waiting for a pending call to `step` to complete.", "step"
            )

    # --- arguments ---

    def _seeds(self, seed: int | Sequence[int | None] | None) -> list[int | None]:
        if seed is None:
            return [None] * self.num_envs
        if isinstance(seed, (int, np.integer)):
            return [int(seed) + row for row in range(self.num_envs)]
        if len(seed) != self.num_envs:
            raise ValueError(f"expected one seed a row ({self.num_envs}), found {len(seed)}")
        return [None if one is None else int(one) for one in seed]

    def _checked_actions(self, actions: Any) -> list[Any]:
        """One action a row.

        Raises:
            InvalidActionError: wrong number, shape or type, or NaN.
        """
        space = self.single_action_space
        if not isinstance(space, gymnasium.spaces.Box):
            return self._iterated_actions(actions)
        try:
            array = np.asarray(actions, dtype=space.dtype)
        except (TypeError, ValueError) as error:
            raise InvalidActionError(
                f"expected actions of dtype {space.dtype}, found {type(actions).__name__}: {error}"
            ) from None
        expected = (self.num_envs, *space.shape)
        if array.shape != expected:
            raise InvalidActionError(f"expected actions of shape {expected}, one row an env, found {array.shape}")
        if not np.isfinite(array).all():
            row = int(np.argwhere(~np.isfinite(array))[0][0])
            raise InvalidActionError(f"expected finite actions, found {array[row]} in row {row}; no env was stepped")
        return list(array)

    def _iterated_actions(self, actions: Any) -> list[Any]:
        try:
            rows = list(iterate(self.action_space, actions))
        except Exception as error:
            raise InvalidActionError(f"expected actions in {self.action_space}, found {actions!r}: {error}") from None
        if len(rows) != self.num_envs:
            raise InvalidActionError(f"expected {self.num_envs} actions, one an env, found {len(rows)}")
        return rows


def _spread(values: NDArray[np.float64]) -> dict[str, float]:
    p50, p99 = np.percentile(values, [50, 99])
    return {"p50": float(p50), "p99": float(p99), "mean": float(values.mean())}


def _remote_error(outcome: Outcome) -> Exception:
    """The worker's exception: its own type where this process has it, with the worker's traceback in the text."""
    kind, text, traceback = outcome.payload["type"], outcome.payload["text"], outcome.payload["traceback"]
    text = f"{text}\n\nin the env of row {outcome.row}, whose worker said:\n{traceback}"
    known = _RAISED_AS_THEY_ARE.get(kind)
    if known is not None:
        try:
            return known(text)
        except TypeError:  # a constructor with fields of its own
            pass
    return RemoteEnvError(f"{kind}: {text}", kind, traceback)
