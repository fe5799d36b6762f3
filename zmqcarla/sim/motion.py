"""One tick of everything that moves: from the actor records, through the motion model, back into the records."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from zmqcarla.sim import wire
from zmqcarla.sim.actors import Actor, ActorTable, Vehicle, Walker
from zmqcarla.sim.dynamics import SCALAR, Pedals, Plane, advance, gear_of, inputs_of, land, rests, touches
from zmqcarla.sim.fleet import Fleet
from zmqcarla.sim.geometry import Pose, Vector, wrap_deg
from zmqcarla.sim.ground import Ground
from zmqcarla.sim.vehicle_physics import GRAVITY_MPS2

Floats = NDArray[np.float64]

# From this number of vehicles on, numpy over arrays beats math over floats (measured).
VECTOR_FROM = 10
# How fast a pedestrian leaves the ground who jumps.
_JUMP_MPS = 4.2
# How fast one slows down who was run over.
_SLIDE_MPS2 = 6.0
_BYTES = wire.RECORD_BYTES
_TOUCH_M = 0.05
_SLIDING_FRICTION = 0.6
_NO_PUSH = (0.0, 0.0, 0.0)
_NO_PEDALS = Pedals(0.0, 0.0, 0.0, False, False, False, 0)


class Motion:
    """Moves the actors of a table over the ground.

    Args:
        table: whose records are read and written.
        ground: what they stand on.
    """

    def __init__(self, table: ActorTable, ground: Ground) -> None:
        self._table = table
        self._ground = ground
        self._flat_m = ground.flat_m
        self._fleet: Fleet | None = None

    # ------------------------------------------------------------------------------------------------ vehicles

    def move_vehicles(self, vehicles: Sequence[Vehicle], delta_s: float) -> None:
        """Drive all vehicles that are free to move.

        How many there are decides between floats and arrays, not how many are awake: the two differ in the last bit,
        and whether one sleeps is not to be seen from outside.
        """
        free = [index for index, v in enumerate(vehicles) if v.physics and v.parent is None]
        many = len(free) >= VECTOR_FROM
        together: list[int] = []
        for index in free:
            vehicle = vehicles[index]
            if vehicle.asleep:
                continue
            if many and _is_plain(vehicle):
                together.append(index)
            else:
                self._move(vehicle, delta_s)
        if together:
            if self._fleet is None or not self._fleet.is_of(vehicles):
                self._fleet = Fleet(vehicles, self._flat_m)
            self._fleet.squad(together).move(self._table, self._ground_under, delta_s)

    def _ground_under(self, pose: Floats, front_m: Floats, half_width_m: Floats) -> Plane:
        """Height (m), pitch and roll (deg), each (n,), of the plane under wheels, on a map that is not flat.

        Args:
            pose: float64 (6, n), as in a record.
            front_m: from the middle to the front axle, (n,).
            half_width_m: (n,).
        """
        x, y, z, _, yaw_deg, _ = pose
        yaw = np.radians(yaw_deg)
        cos, sin = np.cos(yaw), np.sin(yaw)
        along_x, along_y, wide_x, wide_y = front_m * cos, front_m * sin, half_width_m * sin, half_width_m * cos
        points = np.empty((4 * len(x), 2))
        points[:, 0] = np.concatenate([x + along_x, x - along_x, x - wide_x, x + wide_x])
        points[:, 1] = np.concatenate([y + along_y, y - along_y, y + wide_y, y - wide_y])
        front, rear, right, left = self._ground.heights_m(points, np.tile(z, 4)).reshape(4, -1)
        pitch = np.degrees(np.arctan2(front - rear, 2 * front_m))
        return (front + rear) / 2, pitch, np.degrees(np.arctan2(left - right, 2 * half_width_m))

    def _ground_at(self, vehicle: Vehicle, pose: Pose) -> Vector:
        """The same for one vehicle, on a map that is not flat."""
        if vehicle.stood is not None and vehicle.stood[0] == pose:
            return vehicle.stood[1]
        x, y, z, _, yaw_deg, _ = pose
        yaw = math.radians(yaw_deg)
        cos, sin, height = math.cos(yaw), math.sin(yaw), self._ground.height_m
        long, wide = vehicle.model.front_m, vehicle.shape.extent_m[1]
        front, rear = height(x + long * cos, y + long * sin, z), height(x - long * cos, y - long * sin, z)
        right, left = height(x - wide * sin, y + wide * cos, z), height(x + wide * sin, y - wide * cos, z)
        pitch = math.degrees(math.atan2(front - rear, 2 * long))
        return (front + rear) / 2, pitch, math.degrees(math.atan2(left - right, 2 * wide))

    def _move(self, vehicle: Vehicle, delta_s: float) -> None:
        """Drive one vehicle through one tick; also if a script holds, pushes or lifts it."""
        base, buffer = vehicle.row * _BYTES, self._table.buffer
        before = wire.POSE_AND_MOTION.unpack_from(buffer, base + wire.POSE_AT)
        pedals = Pedals(*wire.VEHICLE_CONTROL.unpack_from(buffer, base + wire.SPECIFIC_AT))
        x, y, z, pitch, yaw_deg, roll, vx, vy, vz = before[:9]
        push = vehicle.push_mps
        vx, vy, vz = vx + push[0], vy + push[1], vz + push[2]
        rate = math.radians(before[11]) + vehicle.spin_rad_s
        yaw = math.radians(yaw_deg)
        cos, sin = math.cos(yaw), math.sin(yaw)
        ahead = cos * vx + sin * vy
        if vehicle.ackermann is not None:
            _ackermann(vehicle, vehicle.ackermann, pedals, ahead, delta_s)
        gear = gear_of(SCALAR, vehicle.model, pedals, ahead)
        held = vehicle.constant_mps
        if held is not None:
            vx, vy, vz = cos * held[0] - sin * held[1], sin * held[0] + cos * held[1], held[2]
        flat_m = self._flat_m
        ground = (flat_m, 0.0, 0.0) if flat_m is not None else self._ground_at(vehicle, before[:6])
        grounded = vehicle.gravity and touches(SCALAR, ground[0], z, vz, ahead, math.radians(ground[1]))
        grips = grounded and held is None
        u = inputs_of(SCALAR, vehicle.model, pedals, gear, ahead, grips, math.radians(pitch))
        if held is not None:
            u.drag_per_m = 0.0
        x, y, yaw, vx, vy, rate = advance(SCALAR, u, (x, y, yaw, vx, vy, rate), delta_s)
        yaw_deg = wrap_deg(math.degrees(yaw))
        carried = False
        if vehicle.fresh:
            vz = 0.0
        else:
            if flat_m is None:
                ground = self._ground_at(vehicle, _rounded((x, y, z, 0.0, yaw_deg, 0.0)))
            vertical = (z, vz, pitch, roll)
            speeds = math.hypot(vx, vy), math.cos(yaw) * vx + math.sin(yaw) * vy
            pull = GRAVITY_MPS2 if vehicle.gravity and held is None else 0.0
            z, vz, pitch, roll, carried = land(SCALAR, ground, vertical, speeds, grounded, delta_s, pull)
            if flat_m is None and carried:
                vehicle.stood = (_rounded((x, y, z, pitch, yaw_deg, roll)), ground)
        still = rests(vx, vy, rate, carried, z - before[2])
        if still:
            z, vz = before[2], 0.0
        acceleration = ((vx - before[6]) / delta_s, (vy - before[7]) / delta_s, (vz - before[8]) / delta_s)
        spin_deg = math.degrees(rate)
        end = (x, y, z, pitch, yaw_deg, roll, vx, vy, vz, 0.0, 0.0, spin_deg, *acceleration)
        wire.POSE_AND_MOTION.pack_into(buffer, base + wire.POSE_AT, *end)
        shown = pedals if vehicle.sticky else _NO_PEDALS
        wire.VEHICLE_CONTROL.pack_into(
            buffer,
            base + wire.SPECIFIC_AT,
            shown.throttle,
            shown.steer,
            shown.brake,
            shown.hand_brake,
            shown.reverse,
            shown.manual,
            gear,
        )
        vehicle.fresh, vehicle.push_mps, vehicle.spin_rad_s = False, _NO_PUSH, 0.0
        acts = shown.throttle != 0.0 or vehicle.ackermann is not None or held is not None
        vehicle.asleep = still and acceleration == _NO_PUSH and not acts

    # ------------------------------------------------------------------------------------------------- walkers

    def move_walkers(self, walkers: Sequence[Walker], delta_s: float) -> None:
        """Let pedestrians walk where their control says."""
        going: list[tuple[Walker, list[float], Vector]] = []
        buffer = self._table.buffer
        for walker in walkers:
            if not walker.physics or walker.parent is not None:
                continue
            base = walker.row * _BYTES
            dx, dy, dz, speed, jump = wire.WALKER_CONTROL.unpack_from(buffer, base + wire.SPECIFIC_AT)
            before = wire.POSE_AND_MOTION.unpack_from(buffer, base + wire.POSE_AT)
            length = math.sqrt(dx * dx + dy * dy + dz * dz)
            vx = vy = 0.0
            yaw = before[4]
            if walker.dead:
                pace = math.hypot(before[6], before[7])
                if pace > 0.0:
                    left = max(0.0, 1.0 - _SLIDE_MPS2 * delta_s / pace)
                    vx, vy = before[6] * left, before[7] * left
            elif speed != 0.0 and length > 0.0:
                vx, vy = dx / length * speed, dy / length * speed
                if vx or vy:
                    yaw = math.degrees(math.atan2(vy, vx))
            if walker.grounded and not (jump or vx or vy) and before[6] == before[7] == before[8] == 0.0:
                continue
            rise = _JUMP_MPS if jump and walker.grounded and not walker.dead else before[8]
            going.append((walker, [before[0] + vx * delta_s, before[1] + vy * delta_s, before[2], yaw], (vx, vy, rise)))
        if not going:
            return
        # rounded as in the record, so that whoever starts from it finds the same ground
        xy = np.array([place[:2] for _, place, _ in going], np.float32).astype(np.float64)
        heights = self._ground.heights_m(xy, np.array([place[2] for _, place, _ in going])).tolist()
        for (walker, (x, y, z, yaw), (vx, vy, vz)), ground in zip(going, heights, strict=True):
            stand = ground + walker.shape.extent_m[2]
            down, fall = z, vz
            if walker.gravity:
                fall = vz - GRAVITY_MPS2 * delta_s
                down = z + fall * delta_s
                near = z - stand < _TOUCH_M + abs(vx) * delta_s + abs(vy) * delta_s
                walker.grounded = down <= stand or (near and vz <= 0.0)
                if walker.grounded:
                    down, fall = stand, 0.0
            row = walker.row
            old = self._table.motion(row)
            self._table.set_pose(row, (x, y, down, 0.0, wrap_deg(yaw), 0.0))
            change = ((vx - old[0]) / delta_s, (vy - old[1]) / delta_s, (fall - old[2]) / delta_s)
            self._table.set_motion(row, (vx, vy, fall, 0.0, 0.0, 0.0, *change))

    # --------------------------------------------------------------------------------------------------- props

    def move_props(self, props: Sequence[Actor], delta_s: float) -> None:
        """Let things slide until friction stops them, or fall."""
        for prop in props:
            x, y, z, pitch, yaw, roll = self._table.pose(prop.row)
            vx, vy, vz, _, _, spin, *_ = old = self._table.motion(prop.row)
            pull = GRAVITY_MPS2 * delta_s if prop.gravity else 0.0
            x, y, z, down = x + vx * delta_s, y + vy * delta_s, z + (vz - pull) * delta_s, vz - pull
            ground = self._flat_m if self._flat_m is not None else self._ground.height_m(x, y, z)
            if z <= ground:
                z, down = ground, 0.0
                speed = math.hypot(vx, vy)
                left = max(0.0, 1.0 - _SLIDING_FRICTION * pull / speed) if speed > 0.0 else 0.0
                vx, vy, spin = vx * left, vy * left, spin * left
            self._table.set_pose(prop.row, (x, y, z, pitch, wrap_deg(yaw + spin * delta_s), roll))
            change = ((vx - old[0]) / delta_s, (vy - old[1]) / delta_s, (down - old[2]) / delta_s)
            self._table.set_motion(prop.row, (vx, vy, down, 0.0, 0.0, spin, *change))


def _is_plain(vehicle: Vehicle) -> bool:
    """Whether nothing but its control moves a vehicle."""
    return not (
        vehicle.fresh
        or vehicle.constant_mps is not None
        or vehicle.ackermann is not None
        or vehicle.spin_rad_s
        or vehicle.push_mps != _NO_PUSH
        or not vehicle.gravity
        or not vehicle.sticky
    )


def _rounded(pose: Pose) -> Pose:
    """A pose as a record holds it. The ground is asked for that, so that whoever starts from it finds the same."""
    return wire.POSE.unpack(wire.POSE.pack(*pose))


def _ackermann(vehicle: Vehicle, target: list[float], pedals: Pedals, speed_mps: float, delta_s: float) -> None:
    """Pedals that go after a target, from the pedals of the last tick.

    Args:
        vehicle: whose gains and limits count.
        target: steering angle (rad), its rate (rad/s, 0: at once), speed (m/s), acceleration (m/s2, 0: any), jerk.
        pedals: changed in place.
        speed_mps: along the vehicle.
        delta_s: length of the tick.
    """
    steer, steer_rate, speed, limit, _ = target
    gain = vehicle.ackermann_gains[0] + vehicle.ackermann_gains[2]
    wanted = (speed - speed_mps) * 10 * gain
    if limit > 0.0:
        wanted = max(-limit, min(limit, wanted))
    full, _, lock = vehicle.model.powertrain(0, speed_mps)
    backwards = speed < 0.0 and speed_mps < 0.1
    push = -wanted if backwards else wanted
    pedals.reverse = backwards
    pedals.manual = False
    pedals.throttle = max(0.0, min(1.0, push / max(full, 0.1)))
    pedals.brake = max(0.0, min(1.0, -push / max(vehicle.model.brake_mps2, 0.1)))
    pedals.hand_brake = False
    wheel = max(-1.0, min(1.0, steer / max(lock, 1e-3)))
    if steer_rate > 0.0:
        step = steer_rate * delta_s / max(lock, 1e-3)
        wheel = max(pedals.steer - step, min(pedals.steer + step, wheel))
    pedals.steer = wheel
