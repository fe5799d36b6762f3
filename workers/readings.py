"""Writes what a sensor measured into its part of the observation; the parts are drawn in `sensor_specs`.

Everything is written into arrays that are there already (the ring of a pool, of any strides), and nothing is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from zmqcarla.workers.sensor_specs import FARTHEST_M, SPEEDOMETER, ImageLayout, SensorSpec

_DEPTH_SCALE_M: Final = np.float32(FARTHEST_M / (2**24 - 1))


def write_reading(spec: SensorSpec, measured: Any, layout: ImageLayout, out: Any) -> None:
    """Write one measurement.

    Args:
        spec: of the sensor.
        measured: what the client gave: a `carla.Image`, `carla.LidarMeasurement` and so on; metres a second for the
            speedometer.
        layout: of an RGB picture.
        out: the array, or dict of arrays, of the sensor.
    """
    if spec.type == "sensor.camera.rgb":
        _PICTURES[layout](measured, out, spec.shrink)
    else:
        _WRITERS[spec.type](spec, measured, out)


def write_rgb(image: Any, out: NDArray[np.uint8], shrink: int = 1) -> None:
    """Write a CARLA image (BGRA rows) as RGB into `out`, uint8 (3, height, width), of any strides.

    With `shrink`, each pixel is the mean of a square of so many in each direction.
    """
    if shrink == 1:
        # Half the time of copying every fourth byte.
        bgra = np.frombuffer(image.raw_data, dtype="<u4").reshape(image.height, image.width)
        for channel in range(3):
            np.right_shift(bgra, np.uint32(16 - 8 * channel), out=out[channel], casting="unsafe")
        return
    height, width = out.shape[1:]
    squares = _pixels(image).reshape(height, shrink, width, shrink, 4)
    sums = squares.sum(axis=1, dtype=np.uint32).sum(axis=2)
    for channel in range(3):
        out[channel] = (sums[:, :, 2 - channel] + shrink * shrink // 2) // (shrink * shrink)


def _write_bgra(image: Any, out: NDArray[np.uint8], shrink: int) -> None:
    """Write a CARLA image as it is into `out`, uint8 (height, width, 4); `shrink` as for `write_rgb`."""
    if shrink == 1:
        out[...] = _pixels(image)
        return
    height, width = out.shape[:2]
    sums = _pixels(image).reshape(height, shrink, width, shrink, 4).sum(axis=(1, 3), dtype=np.uint32)
    out[...] = (sums + shrink * shrink // 2) // (shrink * shrink)


_PICTURES: Final[dict[ImageLayout, Callable[[Any, NDArray[np.uint8], int], None]]] = {
    "CHW": write_rgb,
    "HWC": lambda image, out, shrink: write_rgb(image, out.transpose(2, 0, 1), shrink),
    "BGRA": _write_bgra,
}


def _write_depth(spec: SensorSpec, image: Any, out: NDArray[np.float32]) -> None:
    pixels = _middles(np.frombuffer(image.raw_data, dtype=">u4").reshape(image.height, image.width), spec)
    # Bytes B, G, R, A; the number is R + 256 G + 65536 B.
    np.multiply(pixels >> np.uint32(8), _DEPTH_SCALE_M, out=out, casting="same_kind")


def _write_labels(spec: SensorSpec, image: Any, out: NDArray[np.uint8]) -> None:
    out[...] = _middles(_pixels(image), spec)[:, :, 2]


def _write_instances(spec: SensorSpec, image: Any, out: dict[str, NDArray[Any]]) -> None:
    pixels = _middles(_pixels(image), spec)
    out["label"][...] = pixels[:, :, 2]
    out["id"][...] = pixels[:, :, 0]
    out["id"] <<= 8
    out["id"] |= pixels[:, :, 1]


def _write_lidar(spec: SensorSpec, scan: Any, out: dict[str, NDArray[Any]]) -> None:
    _write_points(np.frombuffer(scan.raw_data, dtype=np.float32).reshape(-1, 4), out)


def _write_radar(spec: SensorSpec, scan: Any, out: dict[str, NDArray[Any]]) -> None:
    # CARLA sends velocity, azimuth, altitude, depth.
    _write_points(np.frombuffer(scan.raw_data, dtype=np.float32).reshape(-1, 4)[:, ::-1], out)


def _write_points(points: NDArray[np.float32], out: dict[str, NDArray[Any]]) -> None:
    count = min(len(points), len(out["points"]))
    out["points"][:count] = points[:count]
    out["points"][count:] = 0.0
    out["count"][0] = count


def _write_imu(spec: SensorSpec, imu: Any, out: NDArray[np.float64]) -> None:
    accelerometer, gyroscope = imu.accelerometer, imu.gyroscope
    values = (accelerometer.x, accelerometer.y, accelerometer.z, gyroscope.x, gyroscope.y, gyroscope.z, imu.compass)
    out[...] = np.nan_to_num(values)


def _write_gnss(spec: SensorSpec, gnss: Any, out: NDArray[np.float64]) -> None:
    out[...] = np.nan_to_num((gnss.latitude, gnss.longitude, gnss.altitude))


def _write_speed(spec: SensorSpec, forward_mps: Any, out: NDArray[np.float32]) -> None:
    out[0] = min(max(float(np.nan_to_num(forward_mps)), -1000.0), 1000.0)


_WRITERS: Final[dict[str, Callable[[SensorSpec, Any, Any], None]]] = {
    "sensor.camera.depth": _write_depth,
    "sensor.camera.semantic_segmentation": _write_labels,
    "sensor.camera.instance_segmentation": _write_instances,
    "sensor.lidar.ray_cast": _write_lidar,
    "sensor.other.radar": _write_radar,
    "sensor.other.imu": _write_imu,
    "sensor.other.gnss": _write_gnss,
    SPEEDOMETER: _write_speed,
}


def _pixels(image: Any) -> NDArray[np.uint8]:
    return np.frombuffer(image.raw_data, dtype=np.uint8).reshape(image.height, image.width, 4)


def _middles(pixels: NDArray[Any], spec: SensorSpec) -> NDArray[Any]:
    """Labels and distances have no mean: each square gives its middle pixel."""
    shrink = spec.shrink
    return pixels if shrink == 1 else pixels[shrink // 2 :: shrink, shrink // 2 :: shrink]
