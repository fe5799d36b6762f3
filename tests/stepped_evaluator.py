"""Runs an evaluator of the Leaderboard with its two threads in step, as `zmqcarla/Leaderboard-v0` has them.

python stepped_evaluator.py SEED EVALUATOR ARGUMENTS...

All of the evaluator's code runs, unchanged. What it takes from outside is another: the thread that builds scenarios
runs only while the one that ticks the world waits for it, and sleeps for 20 ticks instead of a second; and the
generators of Python and numpy are seeded. So a run does not depend on the wall clock, and can be compared with one of
the env tick for tick.
"""

from __future__ import annotations

import importlib
import random
import sys
import threading
import types
from pathlib import Path
from typing import Any

import carla
import numpy as np

# Their Python has what they need, and not all that the package itself imports.
sys.modules["zmqcarla"] = types.ModuleType("zmqcarla")
sys.modules["zmqcarla"].__path__ = [str(Path(__file__).parents[1] / "zmqcarla")]

from zmqcarla.workers.leaderboard import old_python  # noqa: E402
from zmqcarla.workers.leaderboard.lockstep import Lockstep, LockstepWorld  # noqa: E402

LOCKSTEP = Lockstep(120.0)
_TICKS_A_SECOND = 20


class _Thread(threading.Thread):
    """A thread that runs in step: the one that their scenario manager makes."""

    def start(self) -> None:
        """Run until it waits for a tick."""
        LOCKSTEP.begin(self.run)

    def join(self, timeout: float | None = None) -> None:
        """End it where it sleeps, as theirs ends when the route does."""
        del timeout
        LOCKSTEP.cancel()


def _sleep(seconds: float) -> None:
    for _ in range(round(seconds * _TICKS_A_SECOND)):
        LOCKSTEP.wait_for_tick()


def main(seed: str, *arguments: str) -> None:
    """See the module."""
    old_python.prepare()
    client: Any = carla.Client
    load_world = client.load_world
    client.load_world = lambda *given, **named: LockstepWorld(load_world(*given, **named), LOCKSTEP)
    manager: Any = importlib.import_module("leaderboard.scenarios.scenario_manager")
    manager.threading = types.SimpleNamespace(Thread=_Thread)
    manager.time = types.SimpleNamespace(time=manager.time.time, sleep=_sleep)
    provider: Any = importlib.import_module("srunner.scenariomanager.carla_data_provider").CarlaDataProvider
    on_carla_tick = provider.on_carla_tick

    def then_step() -> None:
        on_carla_tick()
        LOCKSTEP.after_tick()

    provider.on_carla_tick = staticmethod(then_step)
    draws = np.random.default_rng(int(seed))  # as reset(seed=) makes it
    random.seed(int(draws.integers(2**32)))
    np.random.seed(int(draws.integers(2**32)))
    old_python.main(list(arguments))


if __name__ == "__main__":
    main(*sys.argv[1:])
