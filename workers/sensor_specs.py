"""The sensors that a caller asks for, checked, and what each one becomes in the observation.

A sensor is a dict as the CARLA Leaderboard writes it: `{"type": "sensor.camera.rgb", "id": "Center", "x": 1.3,
"z": 2.3, "width": 800, "height": 600, "fov": 100}`. Position is in metres and rotation in degrees, in the vehicle's
frame. A key that is not listed in `KINDS` is an attribute of CARLA's blueprint, checked against it at the spawn.

    sensor.camera.rgb       uint8 (3, height, width), RGB; (height, width, 3) with image_layout "HWC";
                            (height, width, 4) as CARLA sends it with "BGRA"
    sensor.camera.depth     float32 (height, width), metres along the optical axis, 0 to 1000
    sensor.camera.semantic_segmentation  uint8 (height, width), CARLA's semantic tags
    sensor.camera.instance_segmentation  Dict: "label" uint8 (height, width), "id" uint16 (height, width), the actor's
                            id modulo 65536
    sensor.lidar.ray_cast   Dict: "points" float32 (max_points, 4) = x, y, z in metres in the sensor's frame, intensity;
                            "count" int32 (1,)
    sensor.other.radar      Dict: "points" float32 (max_points, 4) = depth m, altitude rad, azimuth rad, velocity m/s
                            (the Leaderboard's order); "count" int32 (1,)
    sensor.other.imu        float64 (7,): accelerometer m/s2, gyroscope rad/s, compass rad
    sensor.other.gnss       float64 (3,): latitude deg, longitude deg, altitude m
    sensor.speedometer      float32 (1,): forward speed m/s

Rows of "points" from "count" on are zero.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import gymnasium
import numpy as np
from gymnasium import spaces

ImageLayout = Literal["CHW", "HWC", "BGRA"]
IMAGE_LAYOUTS: Final = get_args(ImageLayout)
FARTHEST_M: Final = 1000.0
"""What a depth camera says of the sky."""

SPEEDOMETER: Final = "sensor.speedometer"
_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_POSE = ("x", "y", "z", "roll", "pitch", "yaw")
_NO_NUMBER = float("nan")


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a sensor dict.

    Attributes:
        attribute: of CARLA's blueprint; "" for what only the observation needs.
        low: least value.
        high: greatest value.
        default: NaN for what the caller must give.
        whole: whether it is a whole number.
    """

    attribute: str
    low: float
    high: float
    default: float = _NO_NUMBER
    whole: bool = False


_TICK = {"sensor_tick": Key("sensor_tick", 0.0, 60.0, 0.0)}
_LENS = {
    "width": Key("image_size_x", 16, 8192, whole=True),
    "height": Key("image_size_y", 16, 8192, whole=True),
    "fov": Key("fov", 1.0, 179.0, 90.0),
    **_TICK,
}
_LIDAR = {
    "range": Key("range", 0.1, 1000.0, 85.0),
    "rotation_frequency": Key("rotation_frequency", 0.1, 200.0, 10.0),
    "channels": Key("channels", 1, 1024, 64, whole=True),
    "points_per_second": Key("points_per_second", 1, 50_000_000, 600_000, whole=True),
    "upper_fov": Key("upper_fov", -90.0, 90.0, 10.0),
    "lower_fov": Key("lower_fov", -90.0, 90.0, -30.0),
    "max_points": Key("", 1, 5_000_000, 0, whole=True),
    **_TICK,
}
_RADAR = {
    "range": Key("range", 0.1, 1000.0, 100.0),
    "horizontal_fov": Key("horizontal_fov", 0.1, 179.0, 30.0),
    "vertical_fov": Key("vertical_fov", 0.1, 179.0, 30.0),
    "points_per_second": Key("points_per_second", 1, 1_000_000, 1500, whole=True),
    "max_points": Key("", 1, 1_000_000, 0, whole=True),
    **_TICK,
}

KINDS: Final[dict[str, dict[str, Key]]] = {
    "sensor.camera.rgb": _LENS,
    "sensor.camera.depth": _LENS,
    "sensor.camera.semantic_segmentation": _LENS,
    "sensor.camera.instance_segmentation": _LENS,
    "sensor.lidar.ray_cast": _LIDAR,
    "sensor.other.radar": _RADAR,
    "sensor.other.imu": _TICK,
    "sensor.other.gnss": _TICK,
    SPEEDOMETER: {},
}
"""The keys of each type beside type, id, the pose and `reading_frequency`, with the Leaderboard's defaults."""


@dataclass(frozen=True, slots=True)
class SensorSpec:
    """One checked sensor.

    Attributes:
        type: CARLA's, or `SPEEDOMETER`.
        id: its key in the observation.
        position_m: x forward, y right, z up, in the vehicle's frame.
        rotation_deg: roll, pitch, yaw.
        attributes: name and value of each blueprint attribute.
        size: width and height in the observation; (0, 0) for what is no camera.
        shrink: the camera has so many times as many pixels in each direction as the observation.
        max_points: rows of the point tensor; 0 for what has none.
        ticks: simulator ticks from one measurement to the next.
    """

    type: str
    id: str
    position_m: tuple[float, float, float]
    rotation_deg: tuple[float, float, float]
    attributes: tuple[tuple[str, str], ...]
    size: tuple[int, int]
    shrink: int
    max_points: int
    ticks: int


def parse_sensors(wanted: Any, delta_s: float, taken: Sequence[str]) -> tuple[SensorSpec, ...]:
    """Check a list of sensor dicts.

    Args:
        wanted: a sequence of dicts, as the caller wrote it.
        delta_s: simulated seconds a tick.
        taken: keys of the observation that are not free.

    Raises:
        ValueError: something in it cannot be had; the text says what to write instead.
    """
    if isinstance(wanted, (str, Mapping)) or not all(isinstance(each, Mapping) for each in wanted):
        raise ValueError(
            f"sensors: expected a list of dicts such as {{'type': 'sensor.other.imu', 'id': 'IMU'}}, found {wanted!r}"
        )
    specs: list[SensorSpec] = []
    names = set(taken)
    for index, sensor in enumerate(wanted):
        spec = _parse(f"sensors[{index}]", dict(sensor), delta_s)
        for name in (spec.id, *([age_key(spec)] if spec.ticks > 1 else [])):
            if name in names:
                raise ValueError(
                    f"sensors[{index}]: expected an id that is not yet a key of the observation "
                    f"({', '.join(sorted(names))}), found {name!r}; give it another id"
                )
            names.add(name)
        specs.append(spec)
    return tuple(specs)


def age_key(spec: SensorSpec) -> str:
    """The key of the leaf that says how old the last measurement of a slow sensor is, float32 (1,), seconds."""
    return f"{spec.id}_age_s"


def sensor_space(spec: SensorSpec, layout: ImageLayout) -> gymnasium.Space[Any]:
    """The part of the observation space that a sensor fills."""
    return _SPACES[spec.type](spec, layout)


def _parse(where: str, sensor: dict[str, Any], delta_s: float) -> SensorSpec:
    kind = sensor.pop("type", None)
    if kind not in KINDS:
        raise ValueError(f"{where}: expected a 'type' among {', '.join(KINDS)}, found {kind!r}; correct it")
    name = sensor.pop("id", None)
    if not isinstance(name, str) or not _ID.fullmatch(name):
        raise ValueError(
            f"{where}: expected an 'id' of 1 to 64 letters, digits, '_', '.', '-', found {name!r}; give it one"
        )
    where = f"{where} ({name})"
    sensor.pop("reading_frequency", None)  # the Leaderboard's, of its own pseudo sensors: ours are read each step
    pose = [_number(where, key, sensor.pop(key, 0.0), Key("", -1000.0, 1000.0)) for key in _POSE]
    resize = sensor.pop("resize", None)
    keys = KINDS[kind]
    numbers = {key: _number(where, key, sensor.pop(key, rule.default), rule) for key, rule in keys.items()}
    ticks = _ticks(where, numbers.get("sensor_tick", 0.0), delta_s)
    attributes = {rule.attribute: _text(numbers[key], rule) for key, rule in keys.items() if rule.attribute}
    if kind == SPEEDOMETER and sensor:
        raise ValueError(
            f"{where}: expected no other keys than type, id and the pose, found {', '.join(sensor)}; leave them out"
        )
    attributes |= {key: _attribute_text(where, key, value) for key, value in sensor.items()}
    size, shrink = (0, 0), 1
    if "width" in keys:
        size, shrink = _size(where, (int(numbers["width"]), int(numbers["height"])), resize)
    elif resize is not None:
        raise ValueError(f"{where}: expected 'resize' only of a camera, found it at a {kind}; leave it out")
    return SensorSpec(
        kind,
        name,
        (pose[0], pose[1], pose[2]),
        (pose[3], pose[4], pose[5]),
        tuple(attributes.items()),
        size,
        shrink,
        _max_points(numbers, ticks * delta_s),
        ticks,
    )


def _number(where: str, key: str, value: Any, rule: Key) -> float:
    if isinstance(value, float) and math.isnan(value) and math.isnan(rule.default) and rule.attribute:
        raise ValueError(f"{where}: expected '{key}', found none; add it, {rule.low:g} to {rule.high:g}")
    kind = "a whole number" if rule.whole else "a number"
    if isinstance(value, (bool, str)) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise ValueError(f"{where}: expected {kind} as '{key}', found {value!r}; write one")
    number = float(value)
    if number == rule.default:
        return number
    if not rule.low <= number <= rule.high or (rule.whole and number != int(number)):
        raise ValueError(
            f"{where}: expected '{key}' as {kind} from {rule.low:g} to {rule.high:g}, found {value!r}; correct it"
        )
    return number


def _text(number: float, rule: Key) -> str:
    return str(int(number)) if rule.whole else repr(number)


def _attribute_text(where: str, key: str, value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (str, int, float)):
        return str(value)
    raise ValueError(f"{where}: expected a number, text or bool as '{key}', found {value!r}; correct it")


def _ticks(where: str, sensor_tick_s: float, delta_s: float) -> int:
    ticks = round(sensor_tick_s / delta_s)
    if abs(ticks * delta_s - sensor_tick_s) > 1e-6:
        raise ValueError(
            f"{where}: expected 'sensor_tick' as a multiple of delta_s = {delta_s:g} s, found {sensor_tick_s:g}; "
            f"write {max(ticks, 1) * delta_s:g}, or 0 for every tick"
        )
    return max(ticks, 1)


def _size(where: str, size: tuple[int, int], resize: Any) -> tuple[tuple[int, int], int]:
    if resize is None:
        return size, 1
    width = height = shrink = 0
    with contextlib.suppress(TypeError, ValueError, ZeroDivisionError):
        width, height = (int(side) for side in resize)
        shrink = size[0] // width
    if shrink < 1 or (width * shrink, height * shrink) != size:
        raise ValueError(
            f"{where}: expected 'resize' as (width, height) that divides {size} by one whole number, found {resize!r}; "
            f"write for example {(size[0] // 2, size[1] // 2)} or change width and height"
        )
    return (width, height), shrink


def _max_points(numbers: Mapping[str, float], scan_s: float) -> int:
    if "max_points" not in numbers:
        return 0
    return int(numbers["max_points"]) or math.ceil(numbers["points_per_second"] * scan_s - 1e-6)


def _image_space(spec: SensorSpec, layout: ImageLayout) -> gymnasium.Space[Any]:
    width, height = spec.size
    shape = {"CHW": (3, height, width), "HWC": (height, width, 3), "BGRA": (height, width, 4)}[layout]
    return spaces.Box(0, 255, shape, np.uint8)


def _plane(spec: SensorSpec, high: float, dtype: type[Any]) -> spaces.Box:
    return spaces.Box(0, high, spec.size[::-1], dtype)  # type: ignore[arg-type, unused-ignore]


def _points_space(spec: SensorSpec, _: ImageLayout) -> gymnasium.Space[Any]:
    points = spaces.Box(-np.inf, np.inf, (spec.max_points, 4), np.float32)
    return spaces.Dict({"points": points, "count": spaces.Box(0, spec.max_points, (1,), np.int32)})


_SPACES: Final[dict[str, Callable[[SensorSpec, ImageLayout], gymnasium.Space[Any]]]] = {
    "sensor.camera.rgb": _image_space,
    "sensor.camera.depth": lambda spec, _: _plane(spec, FARTHEST_M, np.float32),
    "sensor.camera.semantic_segmentation": lambda spec, _: _plane(spec, 255, np.uint8),
    "sensor.camera.instance_segmentation": lambda spec, _: spaces.Dict(
        {"label": _plane(spec, 255, np.uint8), "id": _plane(spec, 65535, np.uint16)}
    ),
    "sensor.lidar.ray_cast": _points_space,
    "sensor.other.radar": _points_space,
    "sensor.other.imu": lambda *_: spaces.Box(-np.inf, np.inf, (7,), np.float64),
    "sensor.other.gnss": lambda *_: spaces.Box(-np.inf, np.inf, (3,), np.float64),
    SPEEDOMETER: lambda *_: spaces.Box(-1000.0, 1000.0, (1,), np.float32),
}
