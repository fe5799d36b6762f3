"""A small forkable env: a walk whose steps depend on its random generator and on every action so far."""

from __future__ import annotations

import copy
import json
import os
import signal
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from zmqcarla.broker.errors import SnapshotError

DIE, DIE_AT_RESTORE, DIE_AT_IMPORT, RAISE_AT_IMPORT, RAISE = 7.0, 6.0, 5.0, 4.0, 3.0


class WalkEnv(gymnasium.Env[dict[str, Any], np.ndarray[Any, Any]]):
    """Position and random number; reward is the position; action[1] can ask for a death, at once or later.

    The episode ends after `length` steps, or where the position is beyond `limit`.
    """

    def __init__(self, length: int = 1000, start: float = 0.0, text: bool = False, limit: float = np.inf) -> None:
        parts: dict[str, spaces.Space[Any]] = {
            "walk": spaces.Box(-np.inf, np.inf, (3,), np.float64),
            "count": spaces.Discrete(10_000),
        }
        if text:
            parts["text"] = spaces.Text(20)
        self.observation_space = spaces.Dict(parts)
        self.action_space = spaces.Box(-10, 10, (2,), np.float32)
        self.render_mode = None
        self.length = length
        self.start = start
        self.limit = limit
        self._snapshots: dict[str, dict[str, Any]] = {}
        self._steps, self._place, self._armed = -1, start, 0.0

    def _observe(self) -> dict[str, Any]:
        walk = np.array([self._steps, self._place, self._draw])
        observation: dict[str, Any] = {"walk": walk, "count": self._steps}
        if "text" in self.observation_space.spaces:  # type: ignore[attr-defined]
            observation["text"] = f"step {self._steps}"
        return observation

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        super().reset(seed=seed)
        if options and "snapshot" in options:
            return self._restore(options["snapshot"], options["level"])
        self._steps, self._place = 0, self.start
        self._draw = float(self.np_random.random())
        return self._observe(), {"fresh": True}

    def _restore(self, snapshot: str, level: str) -> tuple[dict[str, Any], dict[str, Any]]:
        if self._armed == DIE_AT_RESTORE:
            os.kill(os.getpid(), signal.SIGKILL)
        state = self._known(snapshot)
        self._steps, self._place, self._draw = state["steps"], state["place"], state["draw"]
        self.np_random.bit_generator.state = copy.deepcopy(state["generator"])
        return self._observe(), {"restore": {"level": level, "ended": self._ended()}}

    def step(self, action: np.ndarray[Any, Any]) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        if self._steps < 0 or self._ended():
            raise gymnasium.error.ResetNeeded("expected reset() before this step")
        self._armed = float(action[1])
        if self._armed == RAISE:
            raise KeyError("asked to raise")
        if self._armed == DIE:
            os.kill(os.getpid(), signal.SIGKILL)
        self._steps += 1
        self._draw = float(self.np_random.random())
        self._place = 0.5 * self._place + float(action[0]) + self._draw
        return self._observe(), self._place, self._ended(), False, {"steps": self._steps}

    def _ended(self) -> bool:
        return self._steps >= self.length or abs(self._place) > self.limit

    def save_snapshot(self, name: str | None = None) -> str:
        if self._steps < 0:
            raise SnapshotError("expected reset() before save_snapshot()")
        snapshot = name or f"walk-{len(self._snapshots)}"
        generator: Any = copy.deepcopy(self.np_random.bit_generator.state)
        state = {"steps": self._steps, "place": self._place, "draw": self._draw, "generator": generator}
        self._snapshots[snapshot] = state
        return snapshot

    def list_snapshots(self) -> list[dict[str, Any]]:
        return [{"id": name, "step": state["steps"]} for name, state in self._snapshots.items()]

    def delete_snapshot(self, snapshot: str) -> None:
        self._known(snapshot)
        del self._snapshots[snapshot]

    def export_snapshot(self, snapshot: str) -> bytes:
        return json.dumps([snapshot, self._known(snapshot)]).encode()

    def import_snapshot(self, data: bytes) -> str:
        if self._armed == DIE_AT_IMPORT:
            os.kill(os.getpid(), signal.SIGKILL)
        if self._armed == RAISE_AT_IMPORT:
            raise SnapshotError("asked to refuse")
        snapshot, state = json.loads(data)
        self._snapshots[snapshot] = state
        return str(snapshot)

    def _known(self, snapshot: str) -> dict[str, Any]:
        if snapshot not in self._snapshots:
            raise SnapshotError(f"expected one of {list(self._snapshots)}, found snapshot {snapshot!r}")
        return self._snapshots[snapshot]

    def pid(self) -> int:
        return os.getpid()


gymnasium.register(id="Walk-v0", entry_point="snapshot_envs:WalkEnv", disable_env_checker=True)
