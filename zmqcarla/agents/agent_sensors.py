"""The sensors of a Leaderboard agent as an env of ours has them, and what they measured as the agent gets it.

Which sensors are allowed, and what an agent cannot choose of them, are the rules of the Leaderboard 2.0 (its
`agent_wrapper`). Its pseudo sensors are made here: the speedometer, and the map as OpenDRIVE text.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from zmqcarla.agents.agent_process import SENSORS_INVALID, AgentError, Manner

MAP: Final = "sensor.opendrive_map"
SPEEDOMETER: Final = "sensor.speedometer"
_MAP_TRACKS: Final = ("MAP", "MAP_QUALIFIER")
_MOST: Final = {
    "sensor.camera.rgb": 8,
    "sensor.lidar.ray_cast": 2,
    "sensor.other.radar": 4,
    "sensor.other.gnss": 1,
    "sensor.other.imu": 1,
    MAP: 1,
    SPEEDOMETER: 1,
}
_MOST_OF_QUALIFIERS: Final = {**_MOST, "sensor.camera.rgb": 4, "sensor.lidar.ray_cast": 1, "sensor.other.radar": 2}
_FARTHEST_M: Final = 3.0
_FARTHEST_SAVING_M: Final = 100.0
"""Where SAVE_PATH is set, as in Bench2Drive."""

_PLACE: Final = ("x", "y", "z")
_POSE: Final = (*_PLACE, "roll", "pitch", "yaw")
_CHOSEN: Final[dict[str, tuple[str, ...]]] = {
    "sensor.camera.rgb": (*_POSE, "width", "height", "fov"),
    "sensor.lidar.ray_cast": _POSE,
    "sensor.other.radar": (*_POSE, "horizontal_fov", "vertical_fov"),
    "sensor.other.gnss": _PLACE,
    "sensor.other.imu": _POSE,
    SPEEDOMETER: (),
    MAP: ("reading_frequency",),
}
"""What an agent has to say of a sensor, and all that it may."""
_GIVEN: Final[dict[str, dict[str, float]]] = {
    "sensor.lidar.ray_cast": {
        **{"range": 85.0, "rotation_frequency": 10.0, "channels": 64, "upper_fov": 10.0, "lower_fov": -30.0},
        **{"points_per_second": 600_000, "atmosphere_attenuation_rate": 0.004, "dropoff_general_rate": 0.45},
        **{"dropoff_intensity_limit": 0.8, "dropoff_zero_intensity": 0.4},
    },
    "sensor.other.radar": {"points_per_second": 1500, "range": 100.0},
    "sensor.other.gnss": {f"noise_{axis}_{kind}": size for axis in ("alt", "lat", "lon")
                          for kind, size in (("stddev", 0.000005), ("bias", 0.0))},
    "sensor.other.imu": {
        **{"noise_accel_stddev_x": 0.001, "noise_accel_stddev_y": 0.001, "noise_accel_stddev_z": 0.015},
        **{f"noise_gyro_stddev_{axis}": 0.001 for axis in "xyz"},
    },
}  # fmt: skip


def env_sensors(manner: Manner) -> list[dict[str, Any]]:
    """Return the setting `sensors` of an env, whose pictures are to have the layout "BGRA", for an agent's wishes.

    Their ids are sensor0, sensor1 and so on, for an agent may give its sensors any names.

    Raises:
        AgentError: the Leaderboard would refuse them.
    """
    _check(manner)
    return [
        {
            "type": sensor["type"],
            "id": f"sensor{index}",
            **{key: sensor[key] for key in _CHOSEN[sensor["type"]]},
            **_GIVEN.get(sensor["type"], {}),
        }
        for index, sensor in enumerate(manner.sensors)
        if sensor["type"] != MAP
    ]


class InputData:
    """Makes `input_data` of observations.

    Args:
        manner: of the agent.
        open_drive: gets the map, when it is first read.
    """

    def __init__(self, manner: Manner, open_drive: Callable[[], str]) -> None:
        self._kinds = [(f"sensor{index}", sensor["id"], sensor["type"]) for index, sensor in enumerate(manner.sensors)]
        self._map_period_s = next(
            (1.0 / each["reading_frequency"] for each in manner.sensors if each["type"] == MAP), 0
        )
        self._open_drive = open_drive
        self._map = ""
        self._map_read_s = -np.inf

    def of(self, observation: dict[str, Any], timestamp_s: float) -> dict[str, Any]:
        """Return what each sensor measured, by the agent's id; the map only when it is due."""
        measured: dict[str, Any] = {}
        for name, wanted, kind in self._kinds:
            if kind != MAP:
                measured[wanted] = _MEASURED.get(kind, np.asarray)(observation[name])
            elif timestamp_s - self._map_read_s > self._map_period_s:
                self._map = self._map or self._open_drive()
                self._map_read_s = timestamp_s
                measured[wanted] = {"opendrive": self._map}
        return measured


def _points(part: dict[str, NDArray[Any]]) -> NDArray[Any]:
    return part["points"][: int(part["count"][0])]


_MEASURED: Final[dict[str, Callable[[Any], Any]]] = {
    "sensor.lidar.ray_cast": _points,
    "sensor.other.radar": _points,
    SPEEDOMETER: lambda part: {"speed": float(part[0])},
}


def _check(manner: Manner) -> None:
    ids: set[str] = set()
    counts: Counter[str] = Counter()
    most = _MOST_OF_QUALIFIERS if manner.track.endswith("QUALIFIER") else _MOST
    farthest_m = _FARTHEST_SAVING_M if os.environ.get("SAVE_PATH") else _FARTHEST_M
    for sensor in manner.sensors:
        kind, name = str(sensor.get("type")), sensor.get("id")
        if kind not in most or (kind == MAP and manner.track not in _MAP_TRACKS):
            raise _refused(f"a sensor that is allowed on the track {manner.track}", f"{kind!r} ({name})")
        if not isinstance(name, str) or name in ids:
            raise _refused("an id of its own for each sensor", repr(name))
        missing = [key for key in _CHOSEN[kind] if not isinstance(sensor.get(key), (int, float))]
        if missing:
            raise _refused(f"numbers as {', '.join(missing)} of the {kind} {name}", repr(sensor))
        if kind == MAP and not 0.0 < sensor["reading_frequency"] < np.inf:
            raise _refused(f"a reading_frequency above 0 of {name}", repr(sensor))
        if np.linalg.norm([float(sensor.get(key, 0.0)) for key in _PLACE]) > farthest_m:
            raise _refused(f"{name} within {farthest_m:g} m of the vehicle's origin", repr(sensor))
        ids.add(name)
        counts[kind] += 1
    for kind, count in counts.items():
        if count > most[kind]:
            raise _refused(f"at most {most[kind]} {kind} on the track {manner.track}", str(count))


def _refused(expected: str, found: str) -> AgentError:
    return AgentError(f"sensors: expected {expected}, found {found}", SENSORS_INVALID)
