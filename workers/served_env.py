"""The one env that an env process serves: what each command does, without sockets.

`ServedEnv.perform` takes the op and the decoded payload of a RowCommand and returns the value of its reply; payloads
are drawn in `zmqcarla.broker.protocol`. Errors of the env pass through as they are.
"""

from __future__ import annotations

import fnmatch
import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import gymnasium
from gymnasium import wrappers

from zmqcarla.broker.errors import LeaseRefusedError, ProtocolError, SimulatorStartError, UnserialisableError
from zmqcarla.broker.protocol import AUTORESET_SAME_STEP, pack, step_frames
from zmqcarla.shm.action_bytes import ActionBytes
from zmqcarla.shm.arena import Arena, ArenaRow
from zmqcarla.shm.board import NOTE_BYTES, Board, NoteTooLongError, Result
from zmqcarla.shm.board_row import BoardRow
from zmqcarla.shm.layout import make_flatten
from zmqcarla.shm.segment import SegmentGoneError
from zmqcarla.shm.spaces import describe
from zmqcarla.shm.status_page import Phase, StatusPage
from zmqcarla.workers.quarantine import EpisodeGate
from zmqcarla.workers.renewal import Opened
from zmqcarla.workers.step_loop import StepLoop
from zmqcarla.workers.step_parts import StepParts
from zmqcarla.workers.worker_config import RECYCLE_TIMEOUT_S

_OURS: Final = "zmqcarla/"
_WORKER_OWNS: Final = (
    "connect",
    "simulator",
    "carla_root",
    "leaderboard_root",
    "scenario_runner_root",
    "bench2drive_root",
    "agents_root",
    "agent_file",
    "agent_config",
    "snapshot_folder",
)
_NOT_CALLABLE: Final = frozenset({"close", "reset", "step"})
_TRANSPARENT_WRAPPERS: Final = (
    wrappers.OrderEnforcing,
    wrappers.PassiveEnvChecker,
    wrappers.RecordEpisodeStatistics,
    wrappers.TimeLimit,
)
_FORGETFUL_WRAPPERS: Final = (wrappers.OrderEnforcing, wrappers.PassiveEnvChecker, wrappers.TimeLimit)
"""Those that know nothing of the episodes before."""


class ServedEnv:
    """At most one open env, and the arena row that takes its observations.

    Args:
        env_patterns: fnmatch patterns of the env ids that may be opened, and of reward functions.
        simulator: "embedded", "carla" or "none".
        server: HOST:PORT of the CARLA server for envs of ours.
        page: says what goes on.
        rendering: whether that server can draw.
        quarantine: file with the episodes that are not begun.
        recycle_timeout_s: how long to wait for the server that replaces a worn one.
    """

    def __init__(
        self,
        env_patterns: Sequence[str],
        simulator: str,
        server: str | None,
        page: StatusPage,
        *,
        rendering: bool = True,
        quarantine: Path | None = None,
        recycle_timeout_s: float = RECYCLE_TIMEOUT_S,
    ) -> None:
        self._env_patterns = env_patterns
        self._simulator = simulator
        self._server = server
        self._rendering = rendering
        self._recycle_timeout_s = recycle_timeout_s
        self._page = page
        self._gate = EpisodeGate(page, quarantine)
        self._env_id = ""
        self._env: gymnasium.Env[Any, Any] | None = None
        self._flatten: Callable[[Any], Sequence[Any]] = make_flatten(gymnasium.spaces.Discrete(1))
        self._actions: ActionBytes | None = None
        self._arena: Arena | None = None
        self._arena_row: ArenaRow | None = None
        self._bind_out: Callable[[int], None] | None = None
        self.board: BoardRow | None = None
        self._same_step = False
        self._final_slot = 0
        self._opened_by: dict[str, Any] = {}
        self._attached_by: dict[str, Any] | None = None
        self._attributes: dict[str, Any] = {}
        self._ops: dict[str, Callable[[Any, int, int], Any]] = {
            "step": self._step,
            "reset": self._reset,
            "call": self._call,
            "set_attr": self._set_attr,
            "rebuild": self._rebuild,
            "open": self._open,
            "attach": self._attach,
        }

    def perform(self, op: str, payload: Any, row: int, seq: int) -> Any:
        """Do one command and return the value of its "ok" reply.

        Raises:
            ProtocolError: an unknown op, or a payload of another form.
            LeaseRefusedError: the env id or a keyword is not allowed on this worker.
            Exception: whatever the env raises.
        """
        perform = self._ops.get(op)
        if perform is None:
            raise ProtocolError(f"expected one of {', '.join(self._ops)}, found op {op!r}")
        return perform(payload, row, seq)

    def answer_packed_step(self, payload: bytes, row: int, seq: int) -> bytes:
        """Do a packed step, see `zmqcarla.broker.step_frames`, and return its packed answer.

        Raises:
            ProtocolError: no action of this env.
            UnserialisableError: the env returned something that has no place in a message; the text names its key.
            Exception: whatever the env raises.
        """
        began_s = time.perf_counter()
        actions = self._actions
        if actions is None or len(payload) != actions.row_bytes:
            raise ProtocolError(
                f"expected a step of {actions.row_bytes if actions else 'no'} bytes, as the action space of the env "
                f"wants it, found {len(payload)}"
            )
        actions.memory[:] = payload
        _, slot = step_frames.STEP.unpack_from(payload)
        reward, terminated, truncated, info, inline = self._advance(slot, actions.read(), row, seq)
        done = step_frames.pack_done(reward, terminated, truncated, time.perf_counter() - began_s)
        return done + pack_rest(info, inline) if info or inline else done

    def step_on_board(
        self,
        board: BoardRow,
        row: int,
        seq: int,
        idle_s: float,
        pack_info: Callable[[Any], bytes],
        pack_error: Callable[[Exception], bytes],
    ) -> tuple[int, bool]:
        """Do the steps that are asked on the board after command `seq`, see `step_loop.serve_steps`."""
        arena_row = self._arena_row
        assert arena_row is not None
        loop = StepLoop(
            self._page, self._opened(), arena_row, self._bind_out, self._start_over if self._same_step else None
        )
        return loop.run(board, row, seq, idle_s, pack_info, pack_error)

    def reset_on_board(
        self,
        board: BoardRow,
        row: int,
        pack_info: Callable[[Any], bytes],
        pack_error: Callable[[Exception], bytes],
    ) -> int:
        """Do the reset that stands on the board and answer there; what the env raises is an answer too."""
        began_s = time.perf_counter()
        seq, _, slot, bell = board.command()
        try:
            info = self._reset({"slot": slot, "seed": None, "options": None}, row, seq)["info"]
            schema, note = board.put_info(info, pack_info) if info else (0, b"")
            result = Result.NOTE if note else Result.PLAIN
        except Exception as error:  # whatever an env may raise is the client's to see
            schema, note, result = 0, pack_error(error), Result.ERROR
        self._page.enter(Phase.IDLE, row, seq)
        board.answer(seq, bell, result, note, schema, time.perf_counter() - began_s)
        return seq

    def close(self) -> None:
        """Close the env and let go of the arena, also when the env's close raises."""
        env, self._env = self._env, None
        self._page.name_episode("")
        try:
            if env is not None:
                env.close()
        finally:
            self._detach()

    @property
    def server(self) -> str | None:
        """HOST:PORT of the CARLA server, as it is now."""
        return self._server

    def hand_over(self) -> Opened | None:
        """What another process needs to go on with the env between two episodes; None where more would be lost."""
        env = self._env
        inner: Any = env
        while type(inner) in _FORGETFUL_WRAPPERS:
            inner = inner.env
        give: Callable[[], Any] | None = getattr(inner, "hand_over", None)
        if env is None or inner is not env.unwrapped or give is None:
            return None
        state = give()
        return None if state is None else Opened(self._opened_by, self._attached_by, self._attributes, state)

    def take_over(self, opened: Opened, row: int, seq: int) -> None:
        """Open the env that another process has handed over."""
        self._open(opened.open, row, seq)
        if opened.attach is not None:
            self._attach(opened.attach, row, seq)
        for name, value in opened.attributes.items():
            self._set_attr({"name": name, "value": value}, row, seq)
        self._opened().unwrapped.take_over(opened.state)  # type: ignore[attr-defined]

    # --- ops: (payload, row, seq) -> reply ---

    def _open(self, payload: Any, row: int, seq: int) -> dict[str, Any]:
        env_id, kwargs, autoreset = _fields(payload, "open", "env_id", "kwargs", "autoreset")
        kwargs = self._allowed_kwargs(env_id, kwargs)
        self._page.enter(Phase.OPENING, row, seq)
        self.close()
        # The checker would only repeat on every worker what its author should run once; vector envs skip it as well.
        env: gymnasium.Env[Any, Any] = gymnasium.make(env_id, **{"disable_env_checker": True, **kwargs})
        self._env_id = env_id
        self._opened_by, self._attributes = payload, {}
        self._adopt(env, autoreset)
        return {
            "observation_space": describe(env.observation_space),
            "action_space": describe(env.action_space),
            "metadata": {key: value for key, value in env.metadata.items() if _is_sendable(value)},
            "render_mode": env.render_mode,
        }

    def _adopt(self, env: gymnasium.Env[Any, Any], autoreset: str) -> None:
        self._env = env
        parts = getattr(env.unwrapped, "step_parts", None)
        if isinstance(parts, StepParts):
            parts.show_on(self._page)
        self._same_step = autoreset == AUTORESET_SAME_STEP
        self._flatten = make_flatten(env.observation_space)
        fixed = Board.can_hold(env.action_space)
        self._actions = ActionBytes(env.action_space, 1, step_frames.STEP.size) if fixed else None

    def _allowed_kwargs(self, env_id: Any, kwargs: Any) -> dict[str, Any]:
        if not isinstance(env_id, str) or not isinstance(kwargs, dict):
            raise ProtocolError(f"expected env_id: str and kwargs: dict, found {env_id!r} and {kwargs!r}")
        if not self._may_import(env_id):
            raise LeaseRefusedError(
                f"expected an env id that matches {' or '.join(self._env_patterns)}, found {env_id!r}; "
                f"start the worker with --env {env_id!r} to allow it"
            )
        if not env_id.rpartition(":")[2].startswith(_OURS):
            return kwargs
        reward = kwargs.get("reward_type")
        if isinstance(reward, str) and ":" in reward and not self._may_import(reward):
            raise LeaseRefusedError(
                f"expected a reward_type that imports nothing, or matches {' or '.join(self._env_patterns)}, found "
                f"{reward!r}; start the worker with --env {reward!r} to allow it"
            )
        taken = [name for name in _WORKER_OWNS if name in kwargs]
        if taken:
            raise LeaseRefusedError(
                f"expected no {', '.join(taken)} in the keyword arguments of {env_id!r}, for the worker owns the "
                "simulator; choose workers by the lease (simulator=, gpu=) or start them with other options"
            )
        if self._server is None:
            raise LeaseRefusedError(
                f"expected a worker with a simulator for {env_id!r}, found simulator {self._simulator!r}; "
                "start workers with simulator 'embedded' or 'carla'"
            )
        owned = {"connect": self._server, "simulator": self._simulator}
        return {**kwargs, **owned} if self._rendering else {**kwargs, **owned, "rendering": False}

    def _may_import(self, name: str) -> bool:
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self._env_patterns)

    def _attach(self, payload: Any, row: int, seq: int) -> dict[str, bool]:
        name, board_name, num_envs, slots = _fields(payload, "attach", "arena", "board", "num_envs", "slots")
        if not 0 <= row < num_envs:
            raise ProtocolError(f"expected a row below num_envs={num_envs}, found {row}")
        env = self._opened()
        self._detach()
        try:
            self._arena = Arena.attach(name, env.observation_space, num_envs, slots)
            self._arena_row = self._arena.row(row)
            self._bind_out = _binder(env, self._arena_row.views)
            self._final_slot = slots - 1
            if board_name is not None:
                self.board = BoardRow(board_name, env.action_space, num_envs, row)
        except (SegmentGoneError, FileNotFoundError):  # another host, or a container with its own /dev/shm
            self._detach()
        self._page.fields["board"] = b"" if self.board is None else self.board.name.encode()
        self._attached_by = payload
        return {"visible": self._arena is not None}

    def _detach(self) -> None:
        arena, self._arena = self._arena, None
        arena_row, self._arena_row = self._arena_row, None
        board, self.board = self.board, None
        self._bind_out = self._attached_by = None
        self._page.fields["board"] = b""
        if arena_row is not None:
            arena_row.close()
        if arena is not None:
            arena.close()
        if board is not None:
            board.close()

    def _reset(self, payload: Any, row: int, seq: int) -> dict[str, Any]:
        slot, seed, options = _fields(payload, "reset", "slot", "seed", "options")
        self._begin_episode(row, seq)
        self._page.enter(Phase.RESETTING, row, seq)
        if self._bind_out is not None:
            self._bind_out(slot)
        observation, info = self._gate.reset(self._opened(), self._env_id, seed, options)
        return {"info": info, "inline": self._deliver(slot, row, observation, seq)}

    def _begin_episode(self, row: int, seq: int) -> None:
        """Between two episodes: count, and leave a worn server for the one by which the supervisor replaces it."""
        page = self._page
        page.count_reset()
        connect_to: Callable[[str], None] | None = getattr(self._opened().unwrapped, "connect_to", None)
        if not page.fields["recycle"] or connect_to is None:
            return
        serial = page.fields["server_serial"].item()
        self._opened().unwrapped.close()
        page.enter(Phase.RECYCLING, row, seq)
        if not page.wait_for_server(serial, self._recycle_timeout_s):
            raise SimulatorStartError(
                f"expected a server in place of the worn one within {self._recycle_timeout_s:g} s (recycle_timeout_s), "
                "found none; the supervisor's log says why it did not come up"
            )
        self._server = page.server
        connect_to(self._server)

    def _rebuild(self, payload: Any, row: int, seq: int) -> dict[str, Any]:
        open_payload, attach_payload = _fields(payload, "rebuild", "open", "attach")
        self._open(open_payload, row, seq)
        visible = {} if attach_payload is None else self._attach(attach_payload, row, seq)
        try:
            return {**self._reset(payload, row, seq), **visible}
        except Exception:
            self._detach()  # the row is as lost as before: it must have no writer when the client asks again
            raise

    def _step(self, payload: Any, row: int, seq: int) -> list[Any]:
        began_s = time.perf_counter()
        slot, action = payload
        # A list, not a tuple: tuples are a msgpack extension, which takes ten times as long.
        return [*self._advance(slot, action, row, seq), time.perf_counter() - began_s]

    def _advance(
        self, slot: int, action: Any, row: int, seq: int
    ) -> tuple[float, bool, bool, dict[str, Any], dict[int, Any]]:
        """One step of the env: reward, terminated, truncated, info, and the leaves that travel inline."""
        page = self._page
        page.enter(Phase.STEPPING, row, seq)
        env = self._env or self._opened()
        if self._bind_out is not None:
            self._bind_out(slot)
        observation, reward, terminated, truncated, info = env.step(action)
        if self._same_step and (terminated or truncated):
            observation, info = self._start_over(slot, observation, info, row, seq)
        inline = self._deliver(slot, row, observation, seq)
        page.count_step()
        return float(reward), bool(terminated), bool(truncated), info, inline

    def _start_over(
        self, slot: int, observation: Any, info: dict[str, Any], row: int, seq: int
    ) -> tuple[Any, dict[str, Any]]:
        """Reset in the step that ended an episode (SAME_STEP): observation and info of that step."""
        # Before the reset, for envs reuse their buffers.
        final_obs = self._deliver(self._final_slot, row, observation, seq)
        self._begin_episode(row, seq)
        self._page.enter(Phase.RESETTING, row, seq)
        if self._bind_out is not None:
            self._bind_out(slot)
        observation, reset_info = self._gate.reset(self._opened(), self._env_id, None, None)
        return observation, {"final_info": info, "final_obs": final_obs, **reset_info}

    def _call(self, payload: Any, row: int, seq: int) -> Any:
        name, args, kwargs = _fields(payload, "call", "name", "args", "kwargs")
        first, *rest = str(name).split(".")
        if any(not part or part.startswith("_") for part in (first, *rest)) or name in _NOT_CALLABLE:
            raise ProtocolError(
                f"expected the public name of a method or attribute of the env, found {name!r}; "
                "reset, step and close are methods of the vector env"
            )
        env = self._opened()
        self._page.enter(Phase.CALLING, row, seq)
        found = functools.reduce(getattr, rest, env.get_wrapper_attr(first))
        if callable(found):
            return found(*args, **kwargs)
        if args or kwargs:
            raise TypeError(f"expected a method for arguments, found {name!r} = {found!r}")
        return found

    def _set_attr(self, payload: Any, row: int, seq: int) -> None:
        name, value = _fields(payload, "set_attr", "name", "value")
        env = self._opened()
        self._page.enter(Phase.CALLING, row, seq)
        env.set_wrapper_attr(name, value)
        self._attributes[name] = value

    # --- parts ---

    def _opened(self) -> gymnasium.Env[Any, Any]:
        if self._env is None:
            raise ProtocolError("expected `open` before this command: this worker has no env open")
        return self._env

    def _deliver(self, slot: int, row: int, observation: Any, seq: int) -> dict[int, Any]:
        """Write the observation into the arena; what has no place there is returned, by the index of its leaf."""
        if self._arena_row is not None:
            return self._arena_row.write(slot, observation, seq)
        return dict(enumerate(self._flatten(observation)))


def _binder(env: gymnasium.Env[Any, Any], views: Sequence[Any]) -> Callable[[int], None] | None:
    """A function that tells the env where its next observation goes, for an env that offers `bind_out(views)`.

    Not with a wrapper that may keep or change observations: a frame stack over places that are used again and again
    would show the newest frame several times.
    """
    inner: Any = env
    while type(inner) in _TRANSPARENT_WRAPPERS:
        inner = inner.env
    bind_out: Callable[[Any], None] | None = getattr(inner, "bind_out", None)
    if not views or inner is not env.unwrapped or bind_out is None:
        return None

    def bind(slot: int) -> None:
        bind_out(views[slot])

    return bind


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


def _fields(payload: Any, op: str, *names: str) -> list[Any]:
    try:
        return [payload[name] for name in names]
    except (TypeError, KeyError):
        raise ProtocolError(f"expected {{{', '.join(names)}}} in the payload of {op!r}, found {payload!r}") from None


def _is_sendable(value: Any) -> bool:
    try:
        pack(value)
    except UnserialisableError:
        return False
    return True
