"""A state of vehicles that no call can read or set, on demand: `--hidden-state`.

Real simulators have such states; here nobody has one, which makes it easy to set a vehicle's state and hard to see
whether who does it notices what is left. With this option bodies ride on springs: a body sinks when the vehicle speeds
up or brakes and swings out afterwards, and who is put somewhere takes the swing along.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from zmqcarla.sim.actors import ActorTable, Vehicle

_SPRING_PER_S2 = 40.0
_DAMPING_PER_S = 2.0
_SINKS_PER_MPS2 = 0.15
_STEP_S = 0.01


class Suspension:
    """The springs of all vehicles of an episode.

    Args:
        table: whose heights (z, m) are those of the bodies.
    """

    def __init__(self, table: ActorTable) -> None:
        self._table = table
        self._swing: dict[int, tuple[float, float]] = {}  # by id: travel (m, up) and its rate (m/s)
        self._shown: dict[int, float] = {}

    def put_down(self, vehicles: Sequence[Vehicle]) -> None:
        """Before vehicles move: let them stand on the road, without springs."""
        for vehicle in vehicles:
            x, y, z, *angles = self._table.pose(vehicle.row)
            if self._shown.get(vehicle.id) == z:
                self._set_height(vehicle, (x, y, z - self._swing[vehicle.id][0], *angles))

    def lift(self, vehicles: Sequence[Vehicle], delta_s: float) -> None:
        """After they have moved: let the springs swing for a while, and put the bodies on them."""
        for vehicle in vehicles:
            travel, rate = self._swing.get(vehicle.id, (0.0, 0.0))
            pull = _SINKS_PER_MPS2 * math.hypot(*self._table.motion(vehicle.row)[6:8])
            for _ in range(round(delta_s / _STEP_S)):
                rate -= (_SPRING_PER_S2 * travel + _DAMPING_PER_S * rate + pull) * _STEP_S
                travel += rate * _STEP_S
            self._swing[vehicle.id] = travel, rate
            self._put_on_spring(vehicle)

    def settle(self, vehicles: Sequence[Vehicle]) -> None:
        """Put bodies on their springs that were put elsewhere since."""
        for vehicle in vehicles:
            if self._shown.get(vehicle.id) != self._table.pose(vehicle.row)[2]:
                self._put_on_spring(vehicle)

    def _put_on_spring(self, vehicle: Vehicle) -> None:
        x, y, z, *angles = self._table.pose(vehicle.row)
        self._set_height(vehicle, (x, y, z + self._swing.setdefault(vehicle.id, (0.0, 0.0))[0], *angles))
        self._shown[vehicle.id] = self._table.pose(vehicle.row)[2]

    def _set_height(self, vehicle: Vehicle, pose: tuple[float, ...]) -> None:
        x, y, z, pitch, yaw, roll = pose
        self._table.set_pose(vehicle.row, (x, y, z, pitch, yaw, roll))
