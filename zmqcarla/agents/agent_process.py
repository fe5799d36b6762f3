"""An agent of the Leaderboard in a process of its own, with an interpreter of its own.

    process = AgentProcess(Path("team_code/agent.py"), "weights.pth", python="/envs/agent/bin/python")
    manner = process.set_up(briefing)
    control = process.step(0.05, 1, {"CAM_FRONT": picture, "SPEED": {"speed": 0.0}})
    process.close()

What its sensors measured lies in memory that both see and that has no name. The agent's process and all that it starts
form a process group, which a guard ends when the agent fails, is closed, or outlives whoever started it.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import math
import mmap
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final

import numpy as np
from numpy.typing import NDArray

from zmqcarla.agents import agent_wire

CRASHED: Final = "Agent crashed"
NOT_SET_UP: Final = "Agent couldn't be set up"
SENSORS_INVALID: Final = "Agent's sensors were invalid"

_RUNNER: Final = Path(__file__).parent / "agent_runner.py"
_END_TIMEOUT_S: Final = 10.0
_GUARD_TIMEOUT_S: Final = 15.0
_PAGE_BYTES: Final = mmap.PAGESIZE


class AgentError(Exception):
    """An agent failed.

    Attributes:
        status: the Leaderboard's words for it.
    """

    def __init__(self, message: str, status: str = CRASHED) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Manner:
    """What an agent says of itself.

    Attributes:
        track: "SENSORS", "MAP" or another of the Leaderboard.
        sensors: the Leaderboard's sensor dicts that it wants, as it wrote them.
    """

    track: str
    sensors: list[dict[str, Any]]


class AgentProcess:
    """One agent on one route; to be closed.

    Args:
        file: a Python file with `get_entry_point`.
        config: what its `setup` gets.
        python: its interpreter, with numpy, carla, and what the agent needs; None for this one.
        folders: put on its path.
        log: where what it prints goes, appended; None for nowhere.
        timeout_s: longest time for its set-up, and for one step.

    Attributes:
        timeout_s: the same; may be changed.

    Raises:
        AgentError: the process cannot be started.
    """

    def __init__(
        self,
        file: Path,
        config: str = "",
        *,
        python: str | None = None,
        folders: Sequence[str] = (),
        log: Path | None = None,
        timeout_s: float = 300.0,
    ) -> None:
        self._file = file
        self._config = config
        self._folders = list(folders)
        self.timeout_s = timeout_s
        self._memory_fd = os.memfd_create("zmqcarla-agent", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        fcntl.fcntl(self._memory_fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)  # it cannot take pages away from us
        self._memory: mmap.mmap | None = None
        self._memory_bytes = 0
        self._channel, channel = socket.socketpair()
        self._lifeline, lifeline = socket.socketpair()
        self._closed = False
        try:
            with contextlib.ExitStack() as stack:
                stack.enter_context(channel)
                stack.enter_context(lifeline)
                printed: IO[bytes] | int = stack.enter_context(log.open("ab")) if log else subprocess.DEVNULL
                guard = [sys.executable, "-I", "-S", _guard_file(), "--lifeline-fd", str(lifeline.fileno()), "--"]
                runner = [python or sys.executable, str(_RUNNER), str(channel.fileno()), str(self._memory_fd)]
                self._guard = subprocess.Popen(
                    [*guard, *runner],
                    stdin=subprocess.DEVNULL,
                    stdout=printed,
                    stderr=subprocess.STDOUT,
                    pass_fds=(lifeline.fileno(), channel.fileno(), self._memory_fd),
                )
        except OSError as error:
            self._let_go()
            raise AgentError(f"expected to start the agent's process, found {error}", NOT_SET_UP) from error

    def set_up(self, briefing: dict[str, Any]) -> Manner:
        """Have the agent made, told its plan and set up.

        Args:
            briefing: "gps", "world" and "options" of the plan, as `env.global_plan()` returns them; "frame", and
                "host" and "port" of a simulator that it may look into, "" and 0 for none.

        Raises:
            AgentError: it raised, ended, or took too long; its process is gone.
        """
        told = {name: briefing[name] for name in ("gps", "world", "options", "frame", "host", "port")}
        told |= {"file": str(self._file), "config": self._config, "folders": self._folders}
        answer = self._ask({"kind": "set_up", **told}, NOT_SET_UP, self.timeout_s)
        track, sensors = answer.get("track"), answer.get("sensors")
        if not isinstance(track, str) or not isinstance(sensors, list) or not all(isinstance(x, dict) for x in sensors):
            self._kill()
            raise AgentError(f"expected the agent's sensors as a list of dicts, found {sensors!r}", SENSORS_INVALID)
        return Manner(track, sensors)

    def step(self, timestamp_s: float, frame: int, input_data: dict[str, Any]) -> NDArray[np.float32]:
        """Ask for the control of one tick.

        Args:
            timestamp_s: simulated seconds since the start of the route.
            frame: of the world.
            input_data: by sensor id, an array or a dict of what JSON has.

        Returns:
            float32 (3,): steer (-1 to 1), throttle (-1 to 1, negative in reverse), brake (0 to 1).

        Raises:
            AgentError: it raised, ended, took too long, or returned no control; its process is gone.
        """
        self._check_alive(CRASHED)
        parts = agent_wire.write_parts(input_data, self._room(agent_wire.room_bytes(input_data)))
        told = {"timestamp_s": timestamp_s, "frame": frame, "memory_bytes": self._memory_bytes, "input": parts}
        control = self._ask({"kind": "step", **told}, CRASHED, self.timeout_s).get("control")
        if not isinstance(control, list) or len(control) != 4 or not all(_is_number(each) for each in control):
            self._kill()
            raise AgentError(f"expected a control of finite numbers, found {control!r}")
        steer, throttle, brake, reverse = control
        pedal = min(max(throttle, 0.0), 1.0)
        return np.array(
            [min(max(steer, -1.0), 1.0), -pedal if reverse else pedal, min(max(brake, 0.0), 1.0)], np.float32
        )

    def close(self) -> None:
        """Have the agent clean up, and end its process; a second call does nothing."""
        if not self._closed:
            with contextlib.suppress(AgentError):
                self._ask({"kind": "end"}, CRASHED, min(self.timeout_s, _END_TIMEOUT_S))
            self._kill()

    def __enter__(self) -> AgentProcess:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def _ask(self, message: dict[str, Any], status: str, limit_s: float) -> dict[str, Any]:
        """Send and wait; whatever goes wrong ends the process."""
        self._check_alive(status)
        deadline = time.monotonic() + limit_s
        answer: dict[str, Any] = {}
        try:
            self._channel.settimeout(limit_s)
            agent_wire.send(self._channel, message)
            answer = agent_wire.receive(self._channel, agent_wire.MAX_ANSWER_BYTES, deadline)
            failure = answer.get("error")
        except TimeoutError:
            failure = f"the agent took longer than {limit_s:g} s over {message['kind']}"
        except (EOFError, ConnectionError):
            failure = self._last_words()
        except agent_wire.WireError as error:
            failure = str(error)
        if failure is None:
            return answer
        self._kill()
        raise AgentError(str(failure), status)

    def _check_alive(self, status: str) -> None:
        if self._closed:
            raise AgentError("expected a living agent, found it ended", status)

    def _room(self, size_bytes: int) -> mmap.mmap:
        """The memory, made large enough."""
        if self._memory is None or size_bytes > self._memory_bytes:
            # A quarter more: scans are not of one length.
            self._memory_bytes = -(-max(size_bytes * 5 // 4, 1) // _PAGE_BYTES) * _PAGE_BYTES
            try:
                os.posix_fallocate(self._memory_fd, 0, self._memory_bytes)
            except OSError as error:
                self._kill()
                raise AgentError(f"expected {self._memory_bytes} bytes of memory, found {error}") from error
            self._memory = mmap.mmap(self._memory_fd, self._memory_bytes)
        return self._memory

    def _last_words(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self._guard.wait(_GUARD_TIMEOUT_S)
            how = f"exit code {code}" if code <= 128 else f"signal {code - 128}"
            return f"the agent's process ended with {how}; see its log"
        return "the agent's process closed its connection"

    def _kill(self) -> None:
        """End the process group: the guard does so when its lifeline closes."""
        if self._closed:
            return
        self._let_go()
        try:
            self._guard.wait(_GUARD_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._guard.kill()
            self._guard.wait()

    def _let_go(self) -> None:
        self._closed = True
        self._channel.close()
        self._lifeline.close()
        os.close(self._memory_fd)
        self._memory = None


def _is_number(value: Any) -> bool:
    return isinstance(value, (bool, int, float)) and math.isfinite(value)


def _guard_file() -> str:
    spec = importlib.util.find_spec("zmqcarla.workers.guard")
    assert spec is not None
    assert spec.origin is not None
    return spec.origin
