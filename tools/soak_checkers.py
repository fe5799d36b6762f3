"""What each row of a step must be, and what was wrong: for envs that count, and for cars. Used by the soaks."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from soak_envs import ECHO, EPISODE, PID, ROW, STEP


class Checker:
    """What each row must be next (NEXT_STEP), and what was wrong."""

    def __init__(self, lengths: list[int], observations: Any) -> None:
        self.violations: list[str] = []
        self.losses = self.episodes = 0
        self._lengths = lengths
        self._last = np.array(observations)
        self._due = ["step"] * len(lengths)

    def check(self, number: int, actions: Any, result: Any) -> None:
        """Compare one step's result, row by row."""
        observations, rewards, terminated, truncated, infos = result
        lost = infos.get("_worker_lost", np.zeros(len(self._due), np.bool_))
        for row, due in enumerate(self._due):
            before, found = self._last[row], np.array(observations[row])
            expected, reward, ends, steps = self._expected(row, due, before, found, float(actions[row, 0]))
            if lost[row]:
                self.losses += 1
                expected, reward, ends, steps = before, 0.0, False, 0
                if due == "rebuild":
                    self._report(number, row, due, "lost a second time", found)
            if not np.array_equal(found, expected):
                self._report(number, row, due, f"expected {expected.tolist()}", found)
            if (rewards[row], terminated[row], truncated[row]) != (reward, ends, lost[row]):
                flags = (float(rewards[row]), bool(terminated[row]), bool(truncated[row]))
                self._report(number, row, due, f"expected {(reward, ends, bool(lost[row]))}, found {flags}", found)
            told = infos["steps"][row] if infos.get("_steps", lost)[row] and "steps" in infos else 0
            if told != steps:
                self._report(number, row, due, f"expected infos of step {steps}, found {told}", found)
            self._due[row] = "rebuild" if lost[row] else "reset" if ends else "step"
            self.episodes += bool(ends)
            self._last[row] = found

    def _expected(self, row: int, due: str, before: Any, found: Any, action: float) -> tuple[Any, float, bool, int]:
        """Observation, reward, end and step in the infos (0 for none) of a row that lives."""
        expected = before.copy()
        if due == "step":
            step = int(before[STEP]) + 1
            expected[STEP], expected[ECHO] = step, action
            return expected, step + action, step >= self._lengths[row], step if step % 3 == 0 else 0
        expected[STEP] = expected[ECHO] = 0
        if due == "reset":
            expected[EPISODE] += 1
        else:
            expected[EPISODE], expected[PID] = 1, found[PID]
            if found[PID] == before[PID]:
                expected[PID] = -1  # it must be another process
        return expected, 0.0, False, 0

    def _report(self, number: int, row: int, due: str, text: str, found: Any) -> None:
        names = {"row": ROW, "pid": PID, "episode": EPISODE, "step": STEP, "echo": ECHO}
        shown = {name: float(found[index]) for name, index in names.items()}
        self.violations.append(f"step {number}, row {row}, due to {due}: {text}; observation {shown}")


class CarlaChecker:
    """Frames of each CARLA row: one more a step, the first one after a reset; the last observation after a loss."""

    def __init__(self, observations: dict[str, Any], infos: dict[str, Any]) -> None:
        self.violations: list[str] = []
        self.losses = self.episodes = 0
        self._first = int(infos["frame"][0])
        self._frames = [int(frame) for frame in infos["frame"]]
        self._due = ["step"] * len(self._frames)
        self._last = {name: np.array(values) for name, values in observations.items()}

    def check(self, number: int, actions: Any, result: Any) -> None:
        """Compare one step's result, row by row."""
        observations, rewards, terminated, truncated, infos = result
        lost = infos.get("_worker_lost", np.zeros(len(self._due), np.bool_))
        for row, due in enumerate(self._due):
            if lost[row]:
                self._check_lost(number, row, observations, (rewards[row], terminated[row], truncated[row]))
                continue
            frame = int(infos["frame"][row])
            expected = self._frames[row] + 1 if due == "step" else self._first
            if frame != expected:
                self._report(number, row, due, f"expected frame {expected}, found {frame}")
            if not all(np.isfinite(values[row]).all() for values in observations.values()):
                self._report(number, row, due, "expected finite observations")
            if due == "step" and terminated[row] | truncated[row]:
                self.episodes += 1
                self._due[row] = "reset"
            else:
                self._due[row] = "step"
            self._frames[row] = frame
        self._last = {name: np.array(values) for name, values in observations.items()}

    def _check_lost(self, number: int, row: int, observations: dict[str, Any], flags: tuple[Any, ...]) -> None:
        self.losses += 1
        if self._due[row] == "rebuild":
            self._report(number, row, "rebuild", "lost a second time")
        if flags != (0.0, False, True):
            self._report(number, row, self._due[row], f"expected a truncated row without reward, found {flags}")
        changed = [
            name for name, values in observations.items() if not np.array_equal(values[row], self._last[name][row])
        ]
        if changed:
            self._report(number, row, self._due[row], f"expected the last observation again, found other {changed}")
        self._due[row] = "rebuild"

    def _report(self, number: int, row: int, due: str, text: str) -> None:
        self.violations.append(f"step {number}, row {row}, due to {due}: {text}")


def named_segments() -> set[str]:
    """Names of the shared memory that this process maps."""
    return set(re.findall(r"/dev/shm/(zmqcarla-\S+)", Path("/proc/self/maps").read_text()))
