"""What a vehicle is made of: CARLA's VehiclePhysicsControl, and the motion model's parameters compiled from it.

A script reads and writes the physics control (torque curve, gears, wheels, mass, drag). The motion model wants a few
numbers and two tables over speed. `Model.compile` goes from one to the other, so a changed mass, gear, brake or
friction changes the motion.
"""

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zmqcarla.sim.blueprints import Blueprint

GRAVITY_MPS2 = 9.81
# CARLA gives a car's tyres friction 3.5. They hold better than real ones: Traffic Managers and agents take bends at
# speeds at which tyres of 1 g would leave the lane. (Tuned by tools/soak_traffic.py: 100 vehicles on Town01 for 110 s
# collide twelve times with 1.3 g, once with 2 g.) Lorries and buses get the steering lock that their turns need.
STANDARD_TYRE_FRICTION = 3.5
STANDARD_GRIP_MPS2 = 2.0 * GRAVITY_MPS2
SPEED_BIN_MPS = 0.5
SPEED_BINS = 201
ROLLING_MPS2 = 0.13
AIR_KG_M3 = 1.2
# Cornering stiffness over axle load, 1/rad; the rear is stiffer, so the car understeers.
FRONT_STIFFNESS = 11.7
REAR_STIFFNESS = 13.6


@dataclass(frozen=True, slots=True)
class _Class:
    """What differs between a car, a lorry, a bicycle."""

    acceleration_mps2: float
    wheel_radius_m: float
    wheelbase_share: float
    max_rpm: float = 6000.0
    steer_deg: float = 45.0


_CLASSES = {
    "car": _Class(5.5, 0.35, 0.60),
    "van": _Class(4.0, 0.36, 0.62),
    "truck": _Class(2.5, 0.48, 0.62, 4500.0, 65.0),
    "bus": _Class(2.2, 0.50, 0.60, 4500.0, 65.0),
    "motorcycle": _Class(6.5, 0.31, 0.70, 9000.0, 35.0),
    "bicycle": _Class(2.5, 0.34, 0.68, 1800.0, 35.0),
}
_GEAR_RATIOS = (3.6, 2.2, 1.5, 1.1, 0.85, 0.7)
_FINAL_RATIO = 3.5


def default_control(blueprint: Blueprint) -> list[Any]:
    """VehiclePhysicsControl (17 fields, as on the wire) of a vehicle as it leaves the factory."""
    values = {attribute.id: attribute.recommended[0] for attribute in blueprint.attributes}
    kind = _CLASSES.get(values["base_type"], _CLASSES["car"])
    mass, radius = blueprint.mass_kg, kind.wheel_radius_m
    torque = mass * kind.acceleration_mps2 * radius / (_GEAR_RATIOS[0] * _FINAL_RATIO)
    curve = [[0.0, torque * 0.95], [kind.max_rpm * 0.4, torque], [kind.max_rpm, torque * 0.8]]
    steering = [[0.0, 1.0], [20.0, 0.9], [60.0, 0.8], [120.0, 0.7]]
    gears = [[ratio, 0.5, 0.75] for ratio in _GEAR_RATIOS]
    half_base_cm = blueprint.shape.extent_m[0] * kind.wheelbase_share * 100
    half_track_cm = blueprint.shape.extent_m[1] * 75
    # as in CARLA a two-wheeler stands on four wheels, each pair in one place, and only says that it has two
    corners = [(1, -1), (1, 1), (-1, -1), (-1, 1)]
    count = len(corners)
    if values["number_of_wheels"] == "2":
        half_track_cm = 0.0
    wheels: list[Any] = []
    for front, side in corners:
        position = [front * half_base_cm, side * half_track_cm, radius * 100]
        wheels.append(
            [
                STANDARD_TYRE_FRICTION,
                0.25,
                kind.steer_deg if front > 0 else 0.0,
                radius * 100,
                mass * 9.0 * radius / count,
                0.0 if front > 0 else mass * 5.0 * radius / (count / 2),
                2.0,
                17.0,
                1000.0,
                position,
            ]
        )
    head = [curve, kind.max_rpm, 1.0, 0.15, 0.15, 0.35, True, 0.3, 10.0, _FINAL_RATIO, gears]
    return [*head, mass, 0.3, [0.0, 0.0, 0.0], steering, wheels, False]


def grip_mps2(tyre_friction: float) -> float:
    """What tyres of a friction carry."""
    return tyre_friction / STANDARD_TYRE_FRICTION * STANDARD_GRIP_MPS2


def tyre_friction(grip: float) -> float:
    """The inverse of `grip_mps2`."""
    return grip / STANDARD_GRIP_MPS2 * STANDARD_TYRE_FRICTION


@dataclass(eq=False, slots=True)
class Model:
    """Parameters of the motion model. Accelerations are forces over the vehicle's mass.

    Attributes:
        mass_kg: mass.
        grip_mps2: largest acceleration that the tyres carry on level ground.
        front_m: centre of mass to front axle; `rear_m` likewise.
        gyration_m2: yaw inertia over mass.
        drag_per_m: air drag, 1/m: deceleration is drag times speed squared.
        brake_mps2: deceleration of the full foot brake; `hand_brake_mps2` of the hand brake.
        drive_mps2: (gears + 1, SPEED_BINS) acceleration at full throttle; row 0 automatic, row g gear g.
        engine_brake_mps2: (gears + 1, SPEED_BINS) deceleration at closed throttle.
        steer_rad: (SPEED_BINS,) angle of the front wheels at full lock.
        gear: (SPEED_BINS,) the automatic gear.
        ratio: (gears + 1,) engine over wheel speed, row 0 unused.
        drive_rows: the tables again as lists, which are faster to read one by one; so are the three that follow.
        top_gear: the highest forward gear.
    """

    mass_kg: float
    grip_mps2: float
    front_m: float
    rear_m: float
    gyration_m2: float
    drag_per_m: float
    brake_mps2: float
    hand_brake_mps2: float
    wheel_radius_m: float
    max_rpm: float
    drive_mps2: NDArray[np.float64]
    engine_brake_mps2: NDArray[np.float64]
    steer_rad: NDArray[np.float64]
    gear: NDArray[np.int64]
    ratio: NDArray[np.float64]
    drive_rows: list[list[float]]
    engine_brake_rows: list[list[float]]
    steer_row: list[float]
    gear_row: list[int]
    top_gear: int

    def automatic_gear(self, speed_mps: float) -> int:
        """The gear that the automatic would engage."""
        return self.gear_row[min(int(abs(speed_mps) / SPEED_BIN_MPS), SPEED_BINS - 1)]

    def powertrain(self, row: int, speed_mps: float) -> tuple[float, float, float]:
        """Full drive (m/s2), engine brake (m/s2) and full lock (rad) at a speed, in a row of the gear tables."""
        place = min(abs(speed_mps) / SPEED_BIN_MPS, SPEED_BINS - 1.001)
        index = int(place)
        part = place - index
        drives, brakes, locks = self.drive_rows[row], self.engine_brake_rows[row], self.steer_row
        return (
            drives[index] + part * (drives[index + 1] - drives[index]),
            brakes[index] + part * (brakes[index + 1] - brakes[index]),
            locks[index] + part * (locks[index + 1] - locks[index]),
        )

    @classmethod
    def compile(cls, control: list[Any], blueprint: Blueprint) -> "Model":
        """The model of a physics control.

        Args:
            control: VehiclePhysicsControl as on the wire.
            blueprint: for the shape.
        """
        (curve, max_rpm, _, _, engaged_damping, _, _, _, _, final_ratio, gears) = control[:11]
        mass, drag, _, steering, wheels, _ = control[11:]
        mass = max(float(mass), 1.0)
        radius = max(float(wheels[0][3]) / 100, 0.05)
        speeds = np.arange(SPEED_BINS) * SPEED_BIN_MPS
        ratios = np.array([float(gear[0]) for gear in gears]) * float(final_ratio)
        torque = np.array(curve, dtype=np.float64)
        wheel_rpm = speeds / radius * 60 / math.tau
        rpm = wheel_rpm[None, :] * ratios[:, None]
        force = np.interp(rpm, torque[:, 0], torque[:, 1]) * (rpm <= max_rpm) * ratios[:, None] / radius
        damping = float(engaged_damping) * rpm * math.tau / 60 * ratios[:, None] / radius
        # the automatic gear: the lowest whose engine turns below its shift-up point
        shift_up = np.array([float(gear[2]) for gear in gears])[:, None] * max_rpm
        below = rpm < shift_up
        below[-1] = True
        automatic = np.argmax(below, axis=0)
        columns = np.arange(SPEED_BINS)
        drive = np.vstack([force[automatic, columns], force]) / mass
        engine_brake = np.vstack([damping[automatic, columns], damping]) / mass
        curve_kmh = np.array(steering, dtype=np.float64)
        gain = np.interp(speeds * 3.6, curve_kmh[:, 0], curve_kmh[:, 1])
        lock = math.radians(max(float(wheel[2]) for wheel in wheels))
        axles = [float(wheel[9][0]) / 100 for wheel in wheels]
        front, rear = max(axles), -min(axles)
        # wheel positions come back from clients in other frames; the shape is what the box says
        half_base = blueprint.shape.extent_m[0] * 0.6
        if not 0.2 < (front + rear) < 2 * blueprint.shape.extent_m[0]:
            front = rear = half_base
        area = 4 * blueprint.shape.extent_m[1] * blueprint.shape.extent_m[2] * 0.8
        friction = sum(float(wheel[0]) for wheel in wheels) / len(wheels)
        return cls(
            mass_kg=mass,
            grip_mps2=grip_mps2(friction),
            front_m=front,
            rear_m=rear,
            gyration_m2=front * rear,
            drag_per_m=0.5 * AIR_KG_M3 * float(drag) * area / mass,
            brake_mps2=sum(float(wheel[4]) for wheel in wheels) / radius / mass,
            hand_brake_mps2=sum(float(wheel[5]) for wheel in wheels) / radius / mass,
            wheel_radius_m=radius,
            max_rpm=float(max_rpm),
            drive_mps2=drive,
            engine_brake_mps2=engine_brake,
            steer_rad=gain * lock,
            gear=automatic + 1,
            ratio=np.concatenate([[0.0], ratios]),
            drive_rows=drive.tolist(),
            engine_brake_rows=engine_brake.tolist(),
            steer_row=(gain * lock).tolist(),
            gear_row=(automatic + 1).tolist(),
            top_gear=len(gears),
        )


@cache
def as_built(blueprint: Blueprint) -> tuple[list[Any], Model]:
    """Control and model of a vehicle as it leaves the factory, made once a blueprint; not to be changed."""
    control = default_control(blueprint)
    return control, Model.compile(control, blueprint)
