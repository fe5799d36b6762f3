"""Sensors that the server measures, by blueprint id."""

from zmqcarla.sim.sensors.base import Measuring
from zmqcarla.sim.sensors.camera import RgbCamera
from zmqcarla.sim.sensors.collision import CollisionSensor
from zmqcarla.sim.sensors.gnss import GnssSensor
from zmqcarla.sim.sensors.imu import ImuSensor

SENSORS: dict[str, type[Measuring]] = {
    "sensor.camera.rgb": RgbCamera,
    "sensor.other.collision": CollisionSensor,
    "sensor.other.gnss": GnssSensor,
    "sensor.other.imu": ImuSensor,
}

__all__ = ["SENSORS", "Measuring"]
