"""Observations with a name: which sensors and vectors `observation="..."` means.

| preset      | sensors                                                                  | vectors |
| ----------- | ------------------------------------------------------------------------ | ------- |
| standard    | "rgb", a camera behind the windscreen                                    | all     |
| state       | none                                                                     | all     |
| roach       | none, but `bev` with Roach's 15 masks of 192 x 192                       | all     |
| leaderboard | 6 cameras of 1600 x 900, lidar, radar, imu, gnss, speedometer            | all     |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

ObservationName = Literal["standard", "roach", "leaderboard", "state"]
OBSERVATION_NAMES: Final = get_args(ObservationName)

VECTORS: Final = ("vehicle_state", "navigation", "measurements")
"""The vectors that an observation may have; see `zmqcarla.workers.observation`."""

SensorDict = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Preset:
    """What an observation consists of when the caller says no more.

    Attributes:
        sensors: sensor dicts.
        bev: settings of the bird's-eye view; None for none.
    """

    sensors: tuple[SensorDict, ...]
    bev: Mapping[str, Any] | None = None


def preset(name: ObservationName, image_size: tuple[int, int]) -> Preset:
    """The preset of a name; `image_size` is the picture of "standard"."""
    width, height = image_size
    return {
        "standard": Preset((drivers_view(width, height),)),
        "state": Preset(()),
        "roach": Preset((), ROACH_BEV),
        "leaderboard": Preset(tuple(leaderboard_sensors())),
    }[name]


def drivers_view(width: int, height: int) -> SensorDict:
    """A camera behind the windscreen that looks forward."""
    return {"type": "sensor.camera.rgb", "id": "rgb", "x": 1.3, "z": 2.3, "width": width, "height": height, "fov": 90.0}


def chase_view(width: int, height: int) -> SensorDict:
    """From behind and above, so that the vehicle itself is seen on its road."""
    pose = {"x": -7.0, "z": 3.4, "pitch": -12.0}
    return {"type": "sensor.camera.rgb", "id": "chase", **pose, "width": width, "height": height, "fov": 90.0}


def leaderboard_sensors(width: int = 1600, height: int = 900) -> list[SensorDict]:
    """The suite of an end-to-end agent: six cameras all around, a lidar, a radar, imu, gnss and speedometer.

    Args:
        width: of each camera in pixels.
        height: likewise.
    """
    cameras = (
        ("CAM_FRONT", 0.8, 0.0, 0.0, 70.0),
        ("CAM_FRONT_LEFT", 0.3, -0.55, -55.0, 70.0),
        ("CAM_FRONT_RIGHT", 0.3, 0.55, 55.0, 70.0),
        ("CAM_BACK", -2.0, 0.0, 180.0, 110.0),
        ("CAM_BACK_LEFT", -0.3, -0.55, -110.0, 70.0),
        ("CAM_BACK_RIGHT", -0.3, 0.55, 110.0, 70.0),
    )
    return [
        *(
            {
                "type": "sensor.camera.rgb",
                "id": name,
                **{"x": x_m, "y": y_m, "z": 1.6, "yaw": yaw_deg},
                **{"width": width, "height": height, "fov": fov_deg},
            }
            for name, x_m, y_m, yaw_deg, fov_deg in cameras
        ),
        {"type": "sensor.lidar.ray_cast", "id": "LIDAR", "z": 2.5},
        {"type": "sensor.other.radar", "id": "RADAR", "x": 2.5, "z": 1.0, "horizontal_fov": 90.0, "vertical_fov": 0.1},
        {"type": "sensor.other.imu", "id": "IMU"},
        {"type": "sensor.other.gnss", "id": "GPS"},
        {"type": "sensor.speedometer", "id": "SPEED"},
    ]


ROACH_BEV: Final[Mapping[str, Any]] = {
    "layers": ("road", "route", "markings", "vehicles", "walkers", "lights"),
    "history": (15, 10, 5, 0),
}
