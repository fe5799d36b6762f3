"""A policy of this process as the driver of the Leaderboard's own evaluator, which runs in another one.

server = PolicyServer(policy, sensors=[{"type": "sensor.speedometer", "reading_frequency": 20, "id": "SPEED"}])
server.write_config("policy.json")
subprocess.run([python, evaluator, "--agent", str(BUS_AGENT), "--agent-config", "policy.json", ...])
server.close()
"""

from __future__ import annotations

import hmac
import secrets
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import numpy as np
import zmq

from zmqcarla.agents.policy_wire import MAX_BYTES, WireError, pack, unpack, write_place

BUS_AGENT: Final = Path(__file__).with_name("bus_agent.py")
"""What the evaluator is given as its `--agent`."""
_LOOK_EVERY_MS: Final = 50
_CLOSE_TIMEOUT_S: Final = 10.0


class AgentError(RuntimeError):
    """What drives raised; the text is its traceback."""


class PolicyServer:
    """Answers one evaluator at a time, in a thread of its own, until it is closed.

    Args:
        policy: called with (input_data, time_s) and returns [steer, throttle, brake] as an action of the envs does:
            negative throttle drives in reverse. `input_data` is the Leaderboard's {id: (frame, value)}: camera uint8
            (height, width, 4) BGRA, lidar and radar float32 (n, 4), gnss float64 (3,), imu float64 (7,), the
            speedometer {"speed": m/s}, the map {"opendrive": text}. If it has `reset(plan)`, that is called at the
            start of each route (the plan is drawn in `policy_wire`), and `end()` at its end.
        sensors: the Leaderboard's sensor dicts.
        track: "SENSORS" or "MAP"; the evaluator's `--track` must say the same.

    Attributes:
        error: the traceback of the newest exception of the policy, "" for none. The evaluator then ends the route.
    """

    def __init__(self, policy: Callable[[dict[str, Any], float], Any], sensors: Sequence[Mapping[str, Any]],
                 track: str = "SENSORS") -> None:  # fmt: skip
        self.error = ""
        self._policy = policy
        self._greeting = {"sensors": [dict(each) for each in sensors], "track": track}
        pack(self._greeting, {})  # what cannot travel is an error here
        self._address = f"ipc://@zmqcarla-policy-{secrets.token_hex(8)}"
        self._token = secrets.token_bytes(32)
        self._answers: dict[str, Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]]] = {
            "setup": self._set_up,
            "step": self._step,
            "end": self._end,
        }
        self._closing = threading.Event()
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.REP)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_BYTES)
        self._socket.bind(self._address)
        self._thread = threading.Thread(target=self._serve, name="zmqcarla-policy", daemon=True)
        self._thread.start()

    def write_config(self, path: str | Path) -> None:
        """Write the file for the evaluator's `--agent-config`; only this user can read it."""
        write_place(Path(path), self._address, self._token)

    def close(self) -> None:
        """Stop answering; a second call does nothing.

        Raises:
            TimeoutError: the policy does not return.
        """
        self._closing.set()
        self._thread.join(_CLOSE_TIMEOUT_S)
        if self._thread.is_alive():
            raise TimeoutError(f"expected the policy to return within {_CLOSE_TIMEOUT_S:g} s, found it busy")

    def __enter__(self) -> PolicyServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _serve(self) -> None:
        try:
            while not self._closing.is_set():
                if self._socket.poll(_LOOK_EVERY_MS):
                    self._socket.send_multipart(pack(self._answer(self._socket.recv_multipart()), {}))
        finally:
            self._socket.close(0)

    def _answer(self, frames: list[bytes]) -> dict[str, Any]:
        if not hmac.compare_digest(frames[0], self._token):
            return {"error": "expected the token of this server: use the file that write_config wrote last"}
        try:
            question, arrays = unpack(frames[1:])
            return self._answers[question["ask"]](question, arrays)
        except (WireError, KeyError, TypeError) as error:
            if not isinstance(error, WireError):
                self.error = traceback.format_exc()
            return {"error": traceback.format_exc()}
        except Exception:
            self.error = traceback.format_exc()
            return {"error": self.error}

    def _set_up(self, question: dict[str, Any], arrays: dict[str, Any]) -> dict[str, Any]:
        reset = getattr(self._policy, "reset", None)
        if reset is not None:
            reset(question["plan"])
        return self._greeting

    def _step(self, question: dict[str, Any], arrays: dict[str, Any]) -> dict[str, Any]:
        values = {**arrays, **question["plain"]}
        seen = {name: (frame, values[name]) for name, frame in question["frames"].items()}
        control = np.asarray(self._policy(seen, float(question["time_s"])), np.float64)
        if control.shape != (3,) or not np.isfinite(control).all():
            raise AgentError(f"expected [steer, throttle, brake] of the policy, finite, found {control!r}")
        return {"control": np.clip(control, [-1.0, -1.0, 0.0], 1.0).tolist()}

    def _end(self, question: dict[str, Any], arrays: dict[str, Any]) -> dict[str, Any]:
        end = getattr(self._policy, "end", None)
        if end is not None:
            end()
        return {}
