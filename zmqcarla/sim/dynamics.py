"""How vehicles move: a bicycle model, kinematic at walking pace, dynamic with saturating tyres at speed.

Idea and source: the planar single-track model (Rajamani, Vehicle Dynamics and Control, chapter 2) with a tanh tyre
curve and a friction circle, integrated semi-implicitly in substeps of at most `SUBSTEP_S`. The dynamic model
is stiff and singular at low speed, the kinematic one is wrong at high speed, so the two are blended between
`BLEND_FROM_MPS` and `BLEND_TO_MPS`. Both are limited by the grip of the tyres, so that with no friction nothing
but inertia is left.

The whole state between two ticks is what the actor record carries (float32, CARLA's units): nothing is hidden, so that
a world rebuilt from published records moves on exactly alike.

The formulas are written once, over an `Operations` namespace: with `math` on floats for a few vehicles, with numpy
on arrays for many. Angles here are in rad, +y is to the right, so positive yaw and steering turn right.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zmqcarla.sim.vehicle_physics import (
    FRONT_STIFFNESS,
    GRAVITY_MPS2,
    REAR_STIFFNESS,
    ROLLING_MPS2,
    SPEED_BIN_MPS,
    SPEED_BINS,
    Model,
)

SUBSTEP_S = 0.0125
BLEND_FROM_MPS = 2.0
BLEND_TO_MPS = 5.0
# From this number of moving vehicles on, numpy over arrays beats math over floats (measured).
VECTOR_FROM = 17

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


SCALAR = Operations(math.sin, math.cos, math.tan, math.tanh, math.atan2, math.sqrt, min, max, math.copysign)
VECTOR = Operations(np.sin, np.cos, np.tan, np.tanh, np.arctan2, np.sqrt, np.minimum, np.maximum, np.copysign)


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


def substep(ops: Operations, u: Inputs, h: float, state: State) -> State:
    """One step of ``h`` seconds of one vehicle (floats) or of n vehicles (arrays)."""
    x, y, yaw, world_vx, world_vy, rate = state
    sin, cos = ops.sin(yaw), ops.cos(yaw)
    ahead = cos * world_vx + sin * world_vy
    side = cos * world_vy - sin * world_vx
    grip = u.grip_mps2

    # along: drive within the grip, then what resists may stop the vehicle but not turn it round
    drive = ops.maximum(ops.minimum(u.drive_mps2, grip), -grip)
    pushed = ahead + (drive + u.slope_mps2 - u.drag_per_m * ahead * abs(ahead)) * h
    slowed = abs(pushed) - ops.minimum(u.resist_mps2, grip) * h
    after = ops.copysign(ops.maximum(slowed, 0.0), pushed)
    used = ops.minimum(abs(after - ahead) / h, grip)

    # across, rolling without slip: the rear axle follows
    base = u.front_m + u.rear_m
    turn = after * ops.tan(u.steer_rad) / base
    side_limit = grip * h
    rate_limit = side_limit * base / (2 * u.gyration_m2)
    slip = turn * u.rear_m - side
    spin = turn - rate
    rolled_side = side + ops.maximum(ops.minimum(slip, side_limit), -side_limit)
    rolled_rate = rate + ops.maximum(ops.minimum(spin, rate_limit), -rate_limit)

    # across, with slip: each axle carries its share of the grip that is left
    left = ops.sqrt(ops.maximum(grip * grip - used * used, grip * grip * 0.1)) + 1e-9
    speed = ops.maximum(after, BLEND_FROM_MPS)
    front_slip = u.steer_rad - ops.arctan2(side + u.front_m * rate, speed)
    rear_slip = ops.arctan2(u.rear_m * rate - side, speed)
    front = u.rear_m / base * left * ops.tanh(FRONT_STIFFNESS * grip / left * front_slip)
    rear = u.front_m / base * left * ops.tanh(REAR_STIFFNESS * grip / left * rear_slip)
    front_side = front * ops.cos(u.steer_rad)
    slid_side = side + (front_side + rear) * h
    slid_rate = rate + (u.front_m * front_side - u.rear_m * rear) / u.gyration_m2 * h

    share = ops.maximum(ops.minimum((after - BLEND_FROM_MPS) / (BLEND_TO_MPS - BLEND_FROM_MPS), 1.0), 0.0)
    side = rolled_side + share * (slid_side - rolled_side)
    rate = rolled_rate + share * (slid_rate - rolled_rate)

    world_vx = cos * after - sin * side
    world_vy = sin * after + cos * side
    return x + world_vx * h, y + world_vy * h, yaw + rate * h, world_vx, world_vy, rate


def substeps(delta_s: float) -> tuple[int, float]:
    """Number and length (s) of the substeps of one tick."""
    count = max(1, math.ceil(delta_s / SUBSTEP_S - 1e-9))
    return count, delta_s / count


@dataclass(slots=True)
class Pedals:
    """One vehicle's control, as in carla.VehicleControl."""

    throttle: float
    steer: float
    brake: float
    hand_brake: bool
    reverse: bool
    manual: bool
    gear: int


def gear_of(model: Model, pedals: Pedals, ahead_mps: float) -> int:
    """The gear that is engaged: by hand, reverse (-1), or the automatic's choice."""
    if pedals.manual:
        return max(-1, min(pedals.gear, len(model.ratio) - 1))
    if pedals.reverse:
        return -1
    return model.gear_row[min(int(abs(ahead_mps) / SPEED_BIN_MPS), SPEED_BINS - 1)]


def inputs_of(model: Model, pedals: Pedals, gear: int, ahead_mps: float, grounded: bool, pitch: float) -> Inputs:
    """What acts on one vehicle during a tick.

    Args:
        model: its parameters.
        pedals: its control.
        gear: from `gear_of`.
        ahead_mps: speed along its x.
        grounded: whether its wheels touch the ground and gravity presses them.
        pitch: rad, nose up positive.
    """
    place = min(abs(ahead_mps) / SPEED_BIN_MPS, SPEED_BINS - 1.001)
    index = int(place)
    part = place - index
    row = max(gear, 1) if (pedals.manual or gear < 0) else 0
    drives = model.drive_rows[row]
    drive = (drives[index] + part * (drives[index + 1] - drives[index])) * pedals.throttle
    brakes = model.engine_brake_rows[row]
    engine = (brakes[index] + part * (brakes[index + 1] - brakes[index])) * (1 - pedals.throttle)
    if gear == 0:
        drive = engine = 0.0
    elif gear < 0:
        drive = -drive
    locks = model.steer_row
    lock = locks[index] + part * (locks[index + 1] - locks[index])
    hand = model.hand_brake_mps2 if pedals.hand_brake else 0.0
    return Inputs(
        drive_mps2=drive,
        resist_mps2=ROLLING_MPS2 + engine + model.brake_mps2 * pedals.brake + hand,
        steer_rad=lock * pedals.steer,
        slope_mps2=-GRAVITY_MPS2 * math.sin(pitch) if grounded else 0.0,
        grip_mps2=model.grip_mps2 if grounded else 0.0,
        drag_per_m=model.drag_per_m,
        front_m=model.front_m,
        rear_m=model.rear_m,
        gyration_m2=model.gyration_m2,
    )


_INPUT_NAMES = tuple(Inputs.__dataclass_fields__)


def advance(inputs: list[Inputs], states: list[State], delta_s: float) -> list[State]:
    """Move n vehicles through one tick, over floats or over arrays, whichever is faster.

    Args:
        inputs: n of them.
        states: n of them.
        delta_s: length of the tick.
    """
    count, h = substeps(delta_s)
    if len(states) < VECTOR_FROM:
        moved: list[State] = []
        for u, state in zip(inputs, states, strict=True):
            for _ in range(count):
                state = substep(SCALAR, u, h, state)  # noqa: PLW2901 (the loop's own accumulator)
            moved.append(state)
        return moved
    table = np.array([[getattr(u, name) for name in _INPUT_NAMES] for u in inputs])
    stacked = Inputs(*table.T.copy())
    columns: NDArray[np.float64] = np.array(states).T
    state = tuple(columns)
    for _ in range(count):
        state = substep(VECTOR, stacked, h, state)
    return list(zip(*(column.tolist() for column in state), strict=True))
