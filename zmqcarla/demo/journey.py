"""What the demo's envs did: paths, infractions, finished routes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_BREAK = (np.nan, np.nan)


class Journey:
    """Collects, step by step, what `run_demo` reports.

    Attributes:
        collisions: episodes that ended with a collision, by env.
        lane_departures: steps further from the lane's centre than half a lane's width, by env.
        routes_completed: by env.
        lost: how often a worker was lost.
        driven_m: by env.
        goals: world frame, metres, by env, one for each episode.
    """

    def __init__(self, num_envs: int) -> None:
        self.collisions = [0] * num_envs
        self.lane_departures = [0] * num_envs
        self.routes_completed = [0] * num_envs
        self.worst_lane_offset_m = [0.0] * num_envs
        self.driven_m = [0.0] * num_envs
        self.lost = 0
        self.goals: list[list[tuple[float, float]]] = [[] for _ in range(num_envs)]
        self._paths: list[list[tuple[float, float]]] = [[] for _ in range(num_envs)]

    def begin(self, observations: dict[str, Any], infos: dict[str, Any]) -> None:
        """Note the first observations."""
        self._note_goals(infos)
        self._extend(observations)

    def note(self, observations: dict[str, Any], infos: dict[str, Any]) -> None:
        """Note one vector step."""
        fresh = infos.get("_goal_x_m", np.zeros(len(self._paths), np.bool_))
        for row in np.flatnonzero(fresh):
            self._paths[row].append(_BREAK)
        self._note_goals(infos)
        self.lost += int(np.sum(infos.get("_worker_lost", 0)))
        self._extend(observations)
        for row in np.flatnonzero(infos.get("_lane_offset_m", [])):
            offset_m = abs(float(infos["lane_offset_m"][row]))
            self.worst_lane_offset_m[row] = max(self.worst_lane_offset_m[row], offset_m)
            self.lane_departures[row] += offset_m > float(infos["lane_width_m"][row]) / 2
            self.collisions[row] += bool(infos["collided_with"][row])
            self.routes_completed[row] += infos["terminated_by"][row] == "route_completed"

    def paths(self) -> list[NDArray[np.float64]]:
        """Where each env drove: (k, 2) metres in the world frame, NaN between two episodes."""
        return [np.array(path, np.float64) for path in self._paths]

    @property
    def flawless(self) -> bool:
        """No collision, and no env left its lane by more than half a lane."""
        return not any(self.collisions) and not any(self.lane_departures)

    def _note_goals(self, infos: dict[str, Any]) -> None:
        for row in np.flatnonzero(infos.get("_goal_x_m", [])):
            self.goals[row].append((float(infos["goal_x_m"][row]), float(infos["goal_y_m"][row])))

    def _extend(self, observations: dict[str, Any]) -> None:
        for row, path in enumerate(self._paths):
            x_m, y_m = (float(value) for value in observations["vehicle_state"][row, :2])
            if path and path[-1] is not _BREAK:
                self.driven_m[row] += float(np.hypot(x_m - path[-1][0], y_m - path[-1][1]))
            path.append((x_m, y_m))
