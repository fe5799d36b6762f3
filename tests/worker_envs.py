"""Ordinary Gymnasium envs for the worker tests; opened as "worker_envs:<id>" in env processes."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from zmqcarla.broker.errors import SimulatorTimeoutError

Observation = dict[str, Any]


class CountingEnv(gymnasium.Env[Observation, Any]):
    """Counts its steps; the action chooses what else happens."""

    def __init__(self, size: int = 3, render_mode: str | None = None) -> None:
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": 20, "odd": object()}
        self.render_mode = render_mode
        self.size = size
        self.count = 0
        self.observation_space = spaces.Dict(
            {
                "image": spaces.Box(0, 255, (3, size, size), np.uint8),
                "count": spaces.Box(-np.inf, np.inf, (1,), np.float32),
                "note": spaces.Text(32),
            }
        )
        self.action_space = spaces.Discrete(8)

    def _observe(self) -> Observation:
        image = np.full((3, self.size, self.size), self.count % 256, np.uint8)
        return {"image": image, "count": np.array([self.count], np.float32), "note": f"n{self.count}"}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, Any]:
        super().reset(seed=seed)
        self.count = 0
        return self._observe(), {"seed": seed, "options": options}

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        self.count += 1
        _DEEDS.get(int(action), _nothing)()
        info: dict[str, Any] = {"bad_key": object()} if int(action) == BAD_INFO else {"count": self.count}
        return self._observe(), float(self.count), self.count == 100, False, info

    def add(self, first: int, second: int = 0) -> int:
        return first + second + self.count

    def stop_myself(self) -> None:
        os.kill(os.getpid(), signal.SIGSTOP)

    def spawn(self) -> int:
        self.child = subprocess.Popen(["sleep", "600"])
        return self.child.pid

    def close(self) -> None:
        print("CountingEnv closed", flush=True)


def _nothing() -> None:
    pass


def _fail() -> None:
    raise LookupError("the env says no")


def _hang() -> None:
    time.sleep(3600)


def _lose_simulator() -> None:
    raise SimulatorTimeoutError("no answer from the test", 1.0)


def _exit() -> None:
    os._exit(3)


FAIL, HANG, LOSE_SIMULATOR, EXIT, BAD_INFO = 1, 2, 3, 4, 5
_DEEDS = {FAIL: _fail, HANG: _hang, LOSE_SIMULATOR: _lose_simulator, EXIT: _exit}

gymnasium.register(id="Counting-v0", entry_point="worker_envs:CountingEnv")
