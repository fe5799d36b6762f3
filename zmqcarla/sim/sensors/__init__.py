"""Sensors that the server measures, by blueprint id. sensor.other.lane_invasion lives in the client."""

from zmqcarla.sim.sensors.base import Measuring
from zmqcarla.sim.sensors.collision import CollisionSensor
from zmqcarla.sim.sensors.depth import DepthCamera
from zmqcarla.sim.sensors.dvs import DvsCamera
from zmqcarla.sim.sensors.gnss import GnssSensor
from zmqcarla.sim.sensors.imu import ImuSensor
from zmqcarla.sim.sensors.instance import InstanceCamera
from zmqcarla.sim.sensors.lidar import Lidar
from zmqcarla.sim.sensors.normals import NormalsCamera
from zmqcarla.sim.sensors.obstacle import ObstacleSensor
from zmqcarla.sim.sensors.optical_flow import OpticalFlowCamera
from zmqcarla.sim.sensors.radar import Radar
from zmqcarla.sim.sensors.rgb import RgbCamera
from zmqcarla.sim.sensors.semantic import SemanticCamera
from zmqcarla.sim.sensors.semantic_lidar import SemanticLidar

SENSORS: dict[str, type[Measuring]] = {
    "sensor.camera.depth": DepthCamera,
    "sensor.camera.dvs": DvsCamera,
    "sensor.camera.instance_segmentation": InstanceCamera,
    "sensor.camera.normals": NormalsCamera,
    "sensor.camera.optical_flow": OpticalFlowCamera,
    "sensor.camera.rgb": RgbCamera,
    "sensor.camera.semantic_segmentation": SemanticCamera,
    "sensor.lidar.ray_cast": Lidar,
    "sensor.lidar.ray_cast_semantic": SemanticLidar,
    "sensor.other.collision": CollisionSensor,
    "sensor.other.gnss": GnssSensor,
    "sensor.other.imu": ImuSensor,
    "sensor.other.obstacle": ObstacleSensor,
    "sensor.other.radar": Radar,
}

__all__ = ["SENSORS", "Measuring"]
