"""A policy of the training process that drives the unmodified Leaderboard evaluator, over a socket of this host."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol

import numpy as np
import zmq
from numpy.typing import NDArray

from zmqcarla.agents.policy_frames import VERSION, FramesError, pack_message, unpack_head, unpack_step
from zmqcarla.broker.errors import AddressError

BUS_AGENT: Final = Path(__file__).parent / "bus_agent.py"
"""What the evaluator gets as `--agent`."""

TRACKS: Final = ("SENSORS", "MAP", "SENSORS_QUALIFIER", "MAP_QUALIFIER")
_LOOK_MS: Final = 200
_CLOSE_TIMEOUT_S: Final = 10.0
_MAX_ROUTES: Final = 64
_MAX_FRAME_BYTES: Final = 2**30


@dataclass(frozen=True, slots=True)
class Route:
    """What the evaluator says of a route before it begins; CARLA's frame, left-handed.

    Attributes:
        gps: float64 (k, 4): latitude deg, longitude deg, altitude m, CARLA's RoadOption.
        world: float64 (k, 7): x, y, z m; roll, pitch, yaw deg; RoadOption.
    """

    gps: NDArray[np.float64]
    world: NDArray[np.float64]


class Policy(Protocol):
    """One object of it drives one route."""

    def __call__(self, input_data: dict[str, tuple[int, Any]], timestamp_s: float, /) -> Sequence[float]:
        """Return steer (-1 to 1), throttle (-1 to 1, negative in reverse) and brake (0 to 1).

        Args:
            input_data: as the Leaderboard's `run_step` gets it, {id: (frame, measured)}; arrays are read-only.
            timestamp_s: simulated seconds since the start of the route.
        """
        ...


class PolicyServer:
    """Answers the agents of any number of evaluators on this host, from a thread of its own.

    Args:
        new_policy: makes the policy of one route.
        sensors: Leaderboard sensor dicts that the policy wants.
        track: of the Leaderboard, `TRACKS`.
        address: ipc:///absolute/path, or tcp://127.0.0.1:PORT; None for a socket in a new folder, which
            only this user can enter.

    Raises:
        AddressError: the address is open to other hosts, or taken.
        ValueError: there is no such track.

    Evaluators get `BUS_AGENT` as `--agent` and `address` as `--agent-config`. A policy that raises fails its route.
    """

    def __init__(
        self,
        new_policy: Callable[[Route], Policy],
        sensors: Sequence[dict[str, Any]],
        *,
        track: str = "SENSORS",
        address: str | None = None,
    ) -> None:
        if track not in TRACKS:
            raise ValueError(f"track: expected one of {', '.join(TRACKS)}, found {track!r}")
        self._folder = None if address else tempfile.mkdtemp(prefix="zmqcarla-policy-")
        self.address = address or f"ipc://{self._folder}/policy.sock"
        if not self.address.startswith(("ipc:///", "tcp://127.0.0.1:")):
            raise AddressError(
                f"expected ipc:///absolute/path or tcp://127.0.0.1:PORT, found {self.address!r}: these messages have "
                "no keys and stay on one host"
            )
        self._new_policy = new_policy
        self._manner = {"track": track, "sensors": [dict(sensor) for sensor in sensors]}
        pack_message(self._manner)  # an error belongs here and not into the thread
        self._policies: dict[bytes, Policy] = {}
        self._stop = threading.Event()
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.MAXMSGSIZE, _MAX_FRAME_BYTES)
        try:
            self._socket.bind(self.address)
        except zmq.ZMQError as error:
            self._context.destroy(0)
            raise AddressError(f"expected a free address, found {self.address}: {error}") from error
        self._thread = threading.Thread(target=self._serve, name="zmqcarla-policy-server", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop answering; a second call does nothing."""
        self._stop.set()
        self._thread.join(_CLOSE_TIMEOUT_S)
        if self.address.startswith("ipc://"):
            Path(self.address.removeprefix("ipc://")).unlink(missing_ok=True)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> PolicyServer:
        """Return the server, which serves already."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def _serve(self) -> None:
        try:
            while not self._stop.is_set():
                if self._socket.poll(_LOOK_MS):
                    who, _, *frames = [frame.buffer for frame in self._socket.recv_multipart(copy=False)]
                    answer = self._answer(bytes(who), frames)
                    with contextlib.suppress(zmq.ZMQError):  # whoever asked is gone
                        self._socket.send_multipart([bytes(who), b"", *pack_message(answer)], zmq.NOBLOCK)
        finally:
            self._policies.clear()
            self._context.destroy(0)

    def _answer(self, who: bytes, frames: list[Any]) -> dict[str, Any]:
        try:
            head = unpack_head(frames)
            ask = {"route": self._begin, "step": self._step, "end": self._end}.get(str(head.get("kind")))
            if ask is None:
                raise FramesError(f"expected kind route, step or end, found {head.get('kind')!r}")
            return ask(who, head, frames)
        except FramesError as error:
            return {"error": f"the policy server does not understand: {error}"}
        except Exception as error:  # whatever a policy raises fails its route, not the server
            return {"error": f"the policy raised {error!r}\n{traceback.format_exc()}"}

    def _begin(self, who: bytes, head: dict[str, Any], frames: list[Any]) -> dict[str, Any]:
        if head.get("version") != VERSION:
            raise FramesError(
                f"expected version {VERSION}, found {head.get('version')!r}; is bus_agent.py of this release?"
            )
        if len(self._policies) >= _MAX_ROUTES:
            # The oldest is of an evaluator that was killed: a living one says when its route ends.
            del self._policies[next(iter(self._policies))]
        self._policies[who] = self._new_policy(Route(_table(head, "gps", 4), _table(head, "world", 7)))
        return self._manner

    def _step(self, who: bytes, head: dict[str, Any], frames: list[Any]) -> dict[str, Any]:
        if who not in self._policies:
            raise FramesError("expected a route before its steps, found none; was the training process restarted?")
        timestamp_s, input_data = unpack_step(head, frames)
        control = np.asarray(self._policies[who](input_data, timestamp_s), np.float32)
        if control.shape != (3,) or not np.isfinite(control).all():
            raise ValueError(f"expected steer, throttle and brake, 3 finite numbers, found {control!r}")
        return {"control": np.clip(control, (-1.0, -1.0, 0.0), 1.0).tolist()}

    def _end(self, who: bytes, head: dict[str, Any], frames: list[Any]) -> dict[str, Any]:
        self._policies.pop(who, None)
        return {}


def _table(head: dict[str, Any], name: str, columns: int) -> NDArray[np.float64]:
    try:
        return np.asarray(head[name], np.float64).reshape(-1, columns)
    except (KeyError, TypeError, ValueError) as error:
        raise FramesError(f"expected {name} as rows of {columns} numbers, found {error!r}") from None
