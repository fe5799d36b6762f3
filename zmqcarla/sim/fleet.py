"""Many vehicles at once: their models, records and motion as arrays, so that a tick costs a fixed number of calls.

The formulas are those of dynamics.py, over numpy. Here are only the way from the actor records (119 packed bytes each)
to columns of numbers and back, and the models of n vehicles stacked into tables.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from zmqcarla.sim import wire
from zmqcarla.sim.dynamics import VECTOR, Pedals, advance, gear_of, inputs_of, land, rests, touches
from zmqcarla.sim.vehicle_physics import SPEED_BIN_MPS, SPEED_BINS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from zmqcarla.sim.actors import ActorTable, Vehicle
    from zmqcarla.sim.dynamics import Plane

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]
    GroundUnder = Callable[[Floats, Floats, Floats], Plane]
    """Height (m), pitch and roll (deg) of the plane under wheels: from pose rows x, y, z, pitch, yaw, roll (6, n), half
    wheelbase (n,) and half width (n,), both m."""

_MOTION_END = wire.POSE_AT + wire.POSE_AND_MOTION.size
_PEDALS_END = wire.SPECIFIC_AT + 12
_GEAR_AT = wire.SPECIFIC_AT + 15
_GEAR_END = _GEAR_AT + 4
_DEG = 180.0 / np.pi
_COLUMNS = ("top_gear", "brake_mps2", "hand_brake_mps2", "drag_per_m", "front_m", "rear_m", "gyration_m2")


class Fleet:
    """The models of many vehicles, stacked once; every tick takes out those that move.

    Args:
        vehicles: in a fixed order.
        flat_m: height of all ground if it is flat, so that nobody need ask.
    """

    def __init__(self, vehicles: Sequence[Vehicle], flat_m: float | None) -> None:
        models = [vehicle.model for vehicle in vehicles]
        self.vehicles = list(vehicles)
        self.flat = None if flat_m is None else (flat_m, 0.0, 0.0)
        self._models = models
        self._squad: Squad | None = None
        self.columns = np.array(
            [*([getattr(m, name) for m in models] for name in _COLUMNS), [v.shape.extent_m[1] for v in vehicles]]
        )
        sizes = np.array([m.drive_mps2.size for m in models])
        self.table_at = np.cumsum(sizes) - sizes
        self.table = np.vstack(
            [
                np.concatenate([m.drive_mps2.ravel() for m in models]),
                np.concatenate([m.engine_brake_mps2.ravel() for m in models]),
                np.concatenate([np.broadcast_to(m.steer_rad, m.drive_mps2.shape).ravel() for m in models]),
            ]
        )
        self.gear = np.concatenate([m.gear for m in models])

    def is_of(self, vehicles: Sequence[Vehicle]) -> bool:
        """Whether these are the vehicles, and their models as they were."""
        return self.vehicles == vehicles and self._models == [vehicle.model for vehicle in vehicles]

    def squad(self, members: list[int]) -> Squad:
        """Those of the vehicles that are to move, by their place in the fleet."""
        if self._squad is None or self._squad.members != members:
            self._squad = Squad(self, members)
        return self._squad


class Squad:
    """Vehicles of a fleet that move together; its columns (n,) are those of `vehicle_physics.Model`.

    It keeps arrays of its fleet and not the fleet, which keeps it: in a ring neither is freed before the garbage
    collector's next full round, some sixty episodes later, with 2 MB of models each.
    """

    def __init__(self, fleet: Fleet, members: list[int]) -> None:
        self.members = members
        self.vehicles = [fleet.vehicles[index] for index in members]
        self._models = [vehicle.model for vehicle in self.vehicles]
        self._flat, self._gear, self._table = fleet.flat, fleet.gear, fleet.table
        taken = fleet.columns[:, members]
        self.top_gear: Ints = taken[0].astype(np.int64)
        self.brake_mps2, self.hand_brake_mps2, self.drag_per_m = taken[1], taken[2], taken[3]
        self.front_m, self.rear_m, self.gyration_m2, self._half_width_m = taken[4], taken[5], taken[6], taken[7]
        self.grip_mps2: Floats = np.zeros(len(members))
        self._table_at: Ints = fleet.table_at[members]
        self._gear_at: Ints = np.array(members) * SPEED_BINS
        self._stood_at: Floats = np.full((6, len(members)), np.nan)
        self._stood_on: Floats = np.zeros((3, len(members)))

    def automatic_gear(self, speed_mps: Floats) -> Ints:
        """The gears that the automatics would engage."""
        index = np.minimum(abs(speed_mps) * (1 / SPEED_BIN_MPS), SPEED_BINS - 1).astype(np.int64)
        gear: Ints = self._gear[self._gear_at + index]
        return gear

    def powertrain(self, row: Ints, speed_mps: Floats) -> tuple[Floats, Floats, Floats]:
        """Full drive (m/s2), engine brake (m/s2) and full lock (rad), each (n,)."""
        place = np.minimum(abs(speed_mps) * (1 / SPEED_BIN_MPS), SPEED_BINS - 1.001)
        index = place.astype(np.int64)
        at = self._table_at + row * SPEED_BINS + index
        low = self._table.take(at, axis=1)
        drive, engine, lock = low + (place - index) * (self._table.take(at + 1, axis=1) - low)
        return drive, engine, lock

    def move(self, table: ActorTable, ground_under: GroundUnder, delta_s: float) -> None:
        """Drive all of them through one tick, from their records into their records."""
        rows = np.array([vehicle.row for vehicle in self.vehicles])
        records = table.bytes_by_row
        taken = records[rows]
        before: Floats = taken[:, wire.POSE_AT : _MOTION_END].view("<f4").T.astype(np.float64, order="C")
        x, y, z, pitch, yaw_deg, roll, vx, vy, vz = before[:9]
        pedals = _pedals(taken)
        yaw = yaw_deg / _DEG
        ahead = np.cos(yaw) * vx + np.sin(yaw) * vy
        flat = self._flat
        height, slope, _ = flat or self._ground_at(before[:6], ground_under)
        grounded = touches(VECTOR, height, z, vz, ahead, slope / _DEG)
        self.grip_mps2 = np.array([model.grip_mps2 for model in self._models])
        gear = gear_of(VECTOR, self, pedals, ahead)
        u = inputs_of(VECTOR, self, pedals, gear, ahead, grounded, pitch / _DEG)
        end = advance(VECTOR, u, (x, y, yaw, vx, vy, before[11] / _DEG), delta_s)

        after: NDArray[np.float32] = np.zeros((15, len(rows)), np.float32)
        after[0], after[1], after[6], after[7] = end[0], end[1], end[3], end[4]
        after[4] = -((180.0 - end[2] * _DEG) % 360.0 - 180.0)
        after[11] = end[5] * _DEG
        ground = flat or self._ground_at_end(after, z, ground_under)
        flat_mps = np.sqrt(end[3] * end[3] + end[4] * end[4])
        speeds = flat_mps, np.cos(end[2]) * end[3] + np.sin(end[2]) * end[4]
        new_z, new_vz, after[3], after[5], carried = land(
            VECTOR, ground, (z, vz, pitch, roll), speeds, grounded, delta_s
        )
        still = rests(end[3], end[4], end[5], carried, new_z - z)
        after[2], after[8] = np.where(still, z, new_z), np.where(still, 0.0, new_vz)
        after[12:15] = (after[6:9] - before[6:9]) / delta_s
        if not flat:
            self._stood_at[:] = after[:6]
            self._stood_at[0, ~carried] = np.nan
            self._stood_on[0], self._stood_on[1], self._stood_on[2] = ground
        records[rows, wire.POSE_AT : _MOTION_END] = after.T.copy().view(np.uint8)
        records[rows, _GEAR_AT:_GEAR_END] = gear.astype("<i4")[:, None].view(np.uint8)
        asleep = still & (after[12:15] == 0.0).all(axis=0) & (pedals.throttle == 0.0)
        for index in np.flatnonzero(asleep):
            self.vehicles[index].asleep = True

    def _ground_at(self, pose: Floats, ground_under: GroundUnder) -> Floats:
        """The ground (3, n) at the start of a tick, asked anew only for those that are not where the last one ended."""
        moved = np.flatnonzero((pose != self._stood_at).any(axis=0))
        if len(moved):
            ground = ground_under(pose[:, moved], self.front_m[moved], self._half_width_m[moved])
            self._stood_on[0, moved], self._stood_on[1, moved], self._stood_on[2, moved] = ground
        return self._stood_on

    def _ground_at_end(self, after: NDArray[np.float32], near_z_m: Floats, ground_under: GroundUnder) -> Plane:
        """The ground for the poses that are written, so that whoever starts from the records finds the same."""
        place: Floats = after[:6].astype(np.float64)
        place[2] = near_z_m
        return ground_under(place, self.front_m, self._half_width_m)


def _pedals(records: NDArray[np.uint8]) -> Pedals:
    """The control (each (n,)) of records (n, 119)."""
    at = wire.SPECIFIC_AT
    numbers: Floats = records[:, at:_PEDALS_END].view("<f4").T.astype(np.float64, order="C")
    switches: NDArray[np.bool_] = records[:, _PEDALS_END:_GEAR_AT].T != 0
    gear: Ints = records[:, _GEAR_AT:_GEAR_END].view("<i4")[:, 0].astype(np.int64)
    return Pedals(numbers[0], numbers[1], numbers[2], switches[0], switches[1], switches[2], gear)
