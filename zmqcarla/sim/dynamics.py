"""How vehicles move: a bicycle model, kinematic at walking pace, dynamic with saturating tyres at speed.

Idea and source: the planar single-track model (Rajamani, Vehicle Dynamics and Control, chapter 2) with a tanh tyre
curve and a friction circle, integrated semi-implicitly in substeps of at most `SUBSTEP_S`. The dynamic model
is stiff and singular at low speed, the kinematic one is wrong at high speed, so the two are blended over
`BLEND_SPAN_MPS` from `BLEND_FROM_MPS` on, or from where a substep is short enough for the stiffness. Both are
limited by the grip of the tyres, so that with no friction nothing but inertia is left.

The whole state between two ticks is what the actor record carries (float32, CARLA's units): nothing is hidden, so that
a world rebuilt from published records moves on exactly alike.

The formulas are written once, over an `Operations` namespace: with `math` on floats for a few vehicles, with numpy
on arrays for many. Angles here are in rad, +y is to the right, so positive yaw and steering turn right.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from zmqcarla.sim.vehicle_physics import FRONT_STIFFNESS, GRAVITY_MPS2, REAR_STIFFNESS, ROLLING_MPS2

SUBSTEP_S = 0.025
BLEND_FROM_MPS = 2.0
BLEND_SPAN_MPS = 3.0
# Slip answers within tyre stiffness over speed; a step must stay below twice that time, or it would overshoot for ever.
_LONGEST_STEP = 1.9
# A wheel this little above the ground still touches it (springs); more the faster the ground may fall away.
TOUCH_M = 0.05
TOUCH_SLOPE = 0.3
# Rising faster than the ground does by this, and more the faster the vehicle is, lifts the wheels off it.
LIFT_OFF_MPS = 0.5
LIFT_OFF_SHARE = 0.05
STILL_M = 1e-4
_RAD = math.pi / 180.0

Number = Any  # float or NDArray[np.float64]; the formulas do not care


@dataclass(frozen=True, slots=True)
class Operations:
    """The functions that the formulas need, for one kind of number."""

    sin: Callable[[Number], Number]
    cos: Callable[[Number], Number]
    tan: Callable[[Number], Number]
    tanh: Callable[[Number], Number]
    arctan2: Callable[[Number, Number], Number]
    sqrt: Callable[[Number], Number]
    minimum: Callable[[Number, Number], Number]
    maximum: Callable[[Number, Number], Number]
    copysign: Callable[[Number, Number], Number]
    where: Callable[[Number, Number, Number], Number]


def _choose(condition: Number, yes: Number, no: Number) -> Number:
    return yes if condition else no


SCALAR = Operations(math.sin, math.cos, math.tan, math.tanh, math.atan2, math.sqrt, min, max, math.copysign, _choose)
VECTOR = Operations(np.sin, np.cos, np.tan, np.tanh, np.arctan2, np.sqrt, np.minimum, np.maximum, np.copysign, np.where)


class Chassis(Protocol):
    """What the formulas need of one vehicle (`vehicle_physics.Model`) or of n (`fleet.Fleet`)."""

    top_gear: Number
    brake_mps2: Number
    hand_brake_mps2: Number
    drag_per_m: Number
    front_m: Number
    rear_m: Number
    gyration_m2: Number
    grip_mps2: Number

    def automatic_gear(self, speed_mps: Number) -> Number:
        """The gear that the automatic would engage."""
        ...

    def powertrain(self, row: Number, speed_mps: Number) -> tuple[Number, Number, Number]:
        """Full drive (m/s2), engine brake (m/s2) and full lock (rad) at a speed, in a row of the gear tables."""
        ...


@dataclass(slots=True)
class Inputs:
    """What acts on the vehicles during one tick; floats or (n,) arrays.

    Attributes:
        drive_mps2: acceleration asked of the driven wheels, negative backwards.
        resist_mps2: deceleration by brakes, rolling and engine, never more than stops the vehicle.
        steer_rad: angle of the front wheels.
        slope_mps2: gravity along the vehicle's x.
        grip_mps2: what the tyres carry now (0 in the air).
        drag_per_m: air drag over speed squared.
        front_m: centre of mass to front axle; `rear_m` likewise.
        gyration_m2: yaw inertia over mass.
    """

    drive_mps2: Number
    resist_mps2: Number
    steer_rad: Number
    slope_mps2: Number
    grip_mps2: Number
    drag_per_m: Number
    front_m: Number
    rear_m: Number
    gyration_m2: Number


State = tuple[Number, Number, Number, Number, Number, Number]  # x, y, yaw, world vx, world vy, yaw rate


@dataclass(slots=True)
class _Terms:
    """What stays the same over all substeps of a tick, worked out once; floats or (n,) arrays."""

    push: Number
    drag: Number
    resist: Number
    grip: Number
    grip_step: Number
    grip_squared: Number
    least: Number
    steer: Number
    steer_tan: Number
    turn_per_m: Number
    front_m: Number
    rear_m: Number
    rate_limit: Number
    least_mps: Number
    front_stiff: Number
    rear_stiff: Number
    front_load: Number
    rear_load: Number
    front_arm: Number
    rear_arm: Number


def _terms(ops: Operations, u: Inputs, h: float) -> _Terms:
    grip, base = u.grip_mps2, u.front_m + u.rear_m
    drive = ops.maximum(ops.minimum(u.drive_mps2, grip), -grip)
    squared, steer_cos, steer_tan = grip * grip, ops.cos(u.steer_rad), ops.tan(u.steer_rad)
    return _Terms(
        push=(drive + u.slope_mps2) * h,
        drag=u.drag_per_m * h,
        resist=ops.minimum(u.resist_mps2, grip) * h,
        grip=grip,
        grip_step=grip * h,
        grip_squared=squared,
        least=squared * 0.1 + 1e-18,
        steer=u.steer_rad,
        steer_tan=steer_tan,
        turn_per_m=steer_tan / base,
        front_m=u.front_m,
        rear_m=u.rear_m,
        rate_limit=grip * h * base / (2 * u.gyration_m2),
        least_mps=ops.maximum((FRONT_STIFFNESS + REAR_STIFFNESS) / 2 * h / _LONGEST_STEP * grip, BLEND_FROM_MPS),
        front_stiff=FRONT_STIFFNESS * grip,
        rear_stiff=REAR_STIFFNESS * grip,
        front_load=u.rear_m / base * h * steer_cos,
        rear_load=u.front_m / base * h,
        front_arm=u.front_m / u.gyration_m2,
        rear_arm=u.rear_m / u.gyration_m2,
    )


def _substep(ops: Operations, t: _Terms, h: float, state: State) -> State:
    """One step of ``h`` seconds of one vehicle (floats) or of n vehicles (arrays)."""
    x, y, yaw, world_vx, world_vy, rate = state
    sin, cos = ops.sin(yaw), ops.cos(yaw)
    ahead = cos * world_vx + sin * world_vy
    side = cos * world_vy - sin * world_vx

    # along: drive within the grip, then what resists may stop the vehicle but not turn it round
    pushed = (ahead + t.push) / (1.0 + t.drag * abs(ahead))
    after = ops.copysign(ops.maximum(abs(pushed) - t.resist, 0.0), pushed)
    used = (after - ahead) / h

    # across, rolling without slip: the rear axle follows
    turn = after * t.turn_per_m
    slip = turn * t.rear_m - side
    spin = turn - rate
    rolled_side = side + ops.maximum(ops.minimum(slip, t.grip_step), -t.grip_step)
    rolled_rate = rate + ops.maximum(ops.minimum(spin, t.rate_limit), -t.rate_limit)

    # across, with slip: each axle carries its share of the grip that is left
    left = ops.sqrt(ops.maximum(t.grip_squared - used * used, t.least))
    speed = ops.maximum(after, t.least_mps)
    front_slip = t.steer - ops.arctan2(side + t.front_m * rate, speed)
    rear_slip = ops.arctan2(t.rear_m * rate - side, speed)
    front = t.front_load * left * ops.tanh(t.front_stiff / left * front_slip)
    rear = t.rear_load * left * ops.tanh(t.rear_stiff / left * rear_slip)
    slid_side = side + front + rear
    slid_rate = rate + t.front_arm * front - t.rear_arm * rear

    share = ops.maximum(ops.minimum((after - t.least_mps) / BLEND_SPAN_MPS, 1.0), 0.0)
    side = rolled_side + share * (slid_side - rolled_side)
    rate = rolled_rate + share * (slid_rate - rolled_rate)
    # turned wheels push back as well as sideways
    after = after - share * front * t.steer_tan

    world_vx = cos * after - sin * side
    world_vy = sin * after + cos * side
    return x + world_vx * h, y + world_vy * h, yaw + rate * h, world_vx, world_vy, rate


def advance(ops: Operations, u: Inputs, state: State, delta_s: float) -> State:
    """Move one vehicle (floats) or n (arrays) through one tick."""
    count, h = substeps(delta_s)
    terms = _terms(ops, u, h)
    for _ in range(count):
        state = _substep(ops, terms, h, state)
    return state


def substeps(delta_s: float) -> tuple[int, float]:
    """Number and length (s) of the substeps of one tick."""
    count = max(1, math.ceil(delta_s / SUBSTEP_S - 1e-9))
    return count, delta_s / count


@dataclass(slots=True)
class Pedals:
    """The control of one vehicle, as in carla.VehicleControl, or of n (arrays)."""

    throttle: Number
    steer: Number
    brake: Number
    hand_brake: Number
    reverse: Number
    manual: Number
    gear: Number


def gear_of(ops: Operations, model: Chassis, pedals: Pedals, ahead_mps: Number) -> Number:
    """The gear that is engaged: by hand, reverse (-1), or the automatic's choice."""
    by_hand = ops.maximum(ops.minimum(pedals.gear, model.top_gear), -1)
    return ops.where(pedals.manual, by_hand, ops.where(pedals.reverse, -1, model.automatic_gear(ahead_mps)))


def inputs_of(
    ops: Operations,
    model: Chassis,
    pedals: Pedals,
    gear: Number,
    ahead_mps: Number,
    grounded: Number,
    pitch: Number,
) -> Inputs:
    """What acts on a vehicle during a tick.

    Args:
        ops: for floats or for arrays.
        model: its parameters.
        pedals: its control.
        gear: from `gear_of`.
        ahead_mps: speed along its x.
        grounded: whether its wheels touch the ground and gravity presses them.
        pitch: rad, nose up positive.
    """
    row = ops.maximum(gear, 1) * (pedals.manual | (gear < 0))
    drive, engine, lock = model.powertrain(row, ahead_mps)
    way = ops.maximum(ops.minimum(gear, 1), -1)
    return Inputs(
        drive_mps2=drive * pedals.throttle * way,
        resist_mps2=ROLLING_MPS2
        + engine * (1 - pedals.throttle) * abs(way)
        + model.brake_mps2 * pedals.brake
        + model.hand_brake_mps2 * pedals.hand_brake,
        steer_rad=lock * pedals.steer,
        slope_mps2=-GRAVITY_MPS2 * ops.sin(pitch) * grounded,
        grip_mps2=model.grip_mps2 * grounded,
        drag_per_m=model.drag_per_m,
        front_m=model.front_m,
        rear_m=model.rear_m,
        gyration_m2=model.gyration_m2,
    )


Plane = tuple[Number, Number, Number]  # height (m), pitch and roll (deg) of the plane under the wheels


def touches(ops: Operations, height_m: Number, z: Number, vz: Number, speed_mps: Number, pitch: Number) -> Number:
    """Whether a vehicle's wheels carry it: on the ground, and not leaving it upwards.

    Args:
        ops: for floats or for arrays.
        height_m: of the ground under it.
        z: its height.
        vz: its vertical speed, m/s.
        speed_mps: its speed along its x.
        pitch: of the ground along it, rad.
    """
    stays = vz - speed_mps * ops.sin(pitch) <= LIFT_OFF_MPS + LIFT_OFF_SHARE * abs(speed_mps)
    return (z - height_m <= TOUCH_M) & stays


def land(
    ops: Operations,
    ground: Plane,
    before: tuple[Number, ...],
    speeds: tuple[Number, Number],
    grounded: Number,
    delta_s: float,
    gravity_mps2: float = GRAVITY_MPS2,
) -> tuple[Number, Number, Number, Number, Number]:
    """How a tick ends in the vertical: carried by the ground, or in free fall.

    Args:
        ops: for floats or for arrays.
        ground: under the place where it ends.
        before: z (m), vertical speed (m/s), pitch and roll (deg) at the start.
        speeds: horizontal speed, and that along its x, m/s.
        grounded: whether it started on the ground.
        delta_s: length of the tick.
        gravity_mps2: 0 for what is kept from falling.

    Returns:
        z, vertical speed, pitch, roll, and whether the ground carries it.
    """
    height, pitch, roll = ground
    z, vz, old_pitch, old_roll = before
    flat, ahead = speeds
    follows = grounded & (abs(z - height) <= TOUCH_M + TOUCH_SLOPE * flat * delta_s)
    falling = vz - gravity_mps2 * delta_s
    fallen = z + falling * delta_s
    carried = follows | (fallen <= height)
    return (
        ops.where(carried, height, fallen),
        ops.where(follows, ahead * ops.sin(pitch * _RAD), ops.where(carried, 0.0, falling)),
        ops.where(carried, pitch, old_pitch),
        ops.where(carried, roll, old_roll),
        carried,
    )


def rests(vx: Number, vy: Number, rate: Number, carried: Number, climb_m: Number) -> Number:
    """Whether a vehicle stands still on the ground."""
    return (vx == 0.0) & (vy == 0.0) & (rate == 0.0) & carried & (abs(climb_m) < STILL_M)
