"""One route, driven by one object from its first observation to its end."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from zmqcarla.broker.errors import WorkerLostError
from zmqcarla.evaluate.shots import Shots
from zmqcarla.row_infos import row_infos
from zmqcarla.vector_env import VectorEnv

_Answer = TypeVar("_Answer")


class DriverError(Exception):
    """What drives raised: its route fails, and the evaluation goes on.

    Attributes:
        status: the Leaderboard's words for it.
    """

    def __init__(self, message: str, status: str = "Agent crashed") -> None:
        super().__init__(message)
        self.status = status


class Driver(Protocol):
    """What drives one route; its own errors are `DriverError`."""

    def reset(self, env: VectorEnv, observation: dict[str, Any], info: dict[str, Any]) -> None:
        """Take the start of the route in an env that it may ask more of."""
        ...

    def act(self, observation: dict[str, Any]) -> NDArray[np.floating[Any]]:
        """Return the action of the env, (3,): steer, throttle, brake."""
        ...

    def close(self) -> None:
        """Let go of everything; called however the route ends."""
        ...


@dataclass(slots=True)
class Drive:
    """What there is of a route, also when it ends early.

    Attributes:
        states: `vehicle_state` of each step, float32 (16,) each.
        shots: some moments over the route, for pictures.
        completion_percent: of the route.
        summary: what the env said at the end; empty before.
        asked_at: monotonic time at which the driver was asked for what it has not answered yet, None while it is not.
    """

    states: list[NDArray[np.float32]] = field(default_factory=list)
    shots: Shots = field(default_factory=Shots)
    completion_percent: float = 0.0
    summary: dict[str, Any] = field(default_factory=dict)
    asked_at: float | None = None

    def ask(self, question: Callable[..., _Answer], *arguments: Any) -> _Answer:
        """Ask the driver; how long that takes can be seen from outside."""
        self.asked_at = time.monotonic()
        try:
            return question(*arguments)
        finally:
            self.asked_at = None


def drive_route(
    env: VectorEnv, seed: int, route_id: str, new_driver: Callable[[], Driver], drive: Drive, stop: Callable[[], bool]
) -> None:
    """Drive to the end, or until told to stop.

    Args:
        env: with one row and without autoreset.
        seed: of the episode.
        route_id: in the env's route file.
        new_driver: makes what drives, after the env's reset.
        drive: filled while it goes.
        stop: asked after each step.

    Raises:
        DriverError: the driver raised.
        ZmqCarlaError: the worker was lost, or the env raised.
    """
    observations, infos = env.reset(seed=seed, options={"route": route_id})
    driver = drive.ask(new_driver)
    try:
        drive.ask(driver.reset, env, _row(observations), row_infos(infos, 1)[0])
        while not drive.summary and not stop():
            action = np.asarray(drive.ask(driver.act, _row(observations)))
            observations, _, _, _, infos = env.step(action[None])
            info = row_infos(infos, 1)[0]
            if info.get("worker_lost"):
                raise WorkerLostError(f"expected the worker to drive to the end, found it lost: {info['worker_lost']}")
            drive.states.append(np.array(observations["vehicle_state"][0]))
            drive.completion_percent = float(info["route_completion"])
            drive.shots.offer(len(drive.states) - 1, _row(observations))
            drive.summary = info.get("episode_summary", {})
    finally:
        drive.ask(driver.close)


def _row(observations: Any) -> dict[str, Any]:
    """The only row of a batch."""
    return {name: _row(part) if isinstance(part, dict) else part[0] for name, part in observations.items()}
