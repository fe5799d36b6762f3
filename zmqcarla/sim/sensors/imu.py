"""sensor.other.imu: accelerometer (with gravity), gyroscope, compass."""

import math
import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar

from zmqcarla.sim import wire
from zmqcarla.sim.geometry import Vector, rotation, turn_back
from zmqcarla.sim.sensors.base import Body, Measuring
from zmqcarla.sim.studio import Studio
from zmqcarla.sim.world import World

_MOST = 1e9


@dataclass(eq=False, slots=True)
class ImuSensor(Measuring):
    """Measures the motion of its parent in its own frame. Noise is normal and seeded by noise_seed at the spawn."""

    KIND: ClassVar[wire.StreamType] = wire.StreamType.IMU
    _random: random.Random = field(init=False)
    _accel_stddev: Vector = (0.0, 0.0, 0.0)
    _gyro_stddev: Vector = (0.0, 0.0, 0.0)
    _gyro_bias: Vector = (0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        # not super(): a slots dataclass is a new class, which super() without arguments does not know
        Measuring.__post_init__(self)
        self._random = self.noise()
        self._accel_stddev = self._triple("noise_accel_stddev")
        self._gyro_stddev = self._triple("noise_gyro_stddev")
        self._gyro_bias = self._triple("noise_gyro_bias")

    def _triple(self, name: str) -> Vector:
        return (
            self.setting(f"{name}_x", 0.0, -_MOST, _MOST),
            self.setting(f"{name}_y", 0.0, -_MOST, _MOST),
            self.setting(f"{name}_z", 0.0, -_MOST, _MOST),
        )

    def _noise(self, stddev: Vector) -> list[float]:
        return [self._random.gauss(0.0, sigma) if sigma else 0.0 for sigma in stddev]

    def measure(self, world: World, studio: Studio) -> Iterable[Body]:
        """One message."""
        axes = rotation(*world.table.pose(self.row)[3:])
        motion = world.table.motion(self.row)
        acceleration = turn_back(axes, (motion[6], motion[7], motion[8] + world.imu_gravity_mps2))
        spin = turn_back(axes, (math.radians(motion[3]), math.radians(motion[4]), math.radians(motion[5])))
        accelerometer = [a + n for a, n in zip(acceleration, self._noise(self._accel_stddev), strict=True)]
        noise = self._noise(self._gyro_stddev)
        gyroscope = [w + b + n for w, b, n in zip(spin, self._gyro_bias, noise, strict=True)]
        # north is -y, east is +x; the compass turns clockwise from north
        compass = math.atan2(axes[0][0], -axes[1][0]) % math.tau
        yield (wire.imu_body(accelerometer, gyroscope, compass),)
