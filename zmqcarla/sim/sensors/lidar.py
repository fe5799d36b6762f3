"""sensor.lidar.ray_cast: points with intensity, of which some are lost."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from zmqcarla.sim import wire
from zmqcarla.sim.sensors.base import Body, Measuring
from zmqcarla.sim.sensors.rays import Fan, cast_rays
from zmqcarla.sim.studio import Studio
from zmqcarla.sim.world import World

_KEPT_FANS = 4
"""A turn is often cut into the same few parts again and again."""


@dataclass(eq=False, slots=True)
class Spinning(Measuring):
    """A stack of lasers that turns; each measurement is the part of the turn that its time allows."""

    SLOW: ClassVar[bool] = True
    channels: int = 32
    range_m: float = 10.0
    _points_hz: float = 56000.0
    _turns_hz: float = 10.0
    _fov_deg: float = 360.0
    _angle_deg: float = 0.0
    _rise_rad: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    _fans: dict[tuple[float, int, float], Fan] = field(default_factory=dict[tuple[float, int, float], Fan])

    def __post_init__(self) -> None:
        # not super(): a slots dataclass is a new class, which super() without arguments does not know
        Measuring.__post_init__(self)
        self.channels = int(self.setting("channels", 32, 1, 1024))
        self.range_m = self.setting("range", 10.0, 0.0, 1000.0)
        self._points_hz = self.setting("points_per_second", 56000, 0.0, 50e6)
        self._turns_hz = self.setting("rotation_frequency", 10.0, 0.0, 10e3)
        self._fov_deg = self.setting("horizontal_fov", 360.0, 1e-3, 360.0)
        upper, lower = self.setting("upper_fov", 10.0, -90.0, 90.0), self.setting("lower_fov", -30.0, -90.0, 90.0)
        self._rise_rad = np.radians(np.linspace(upper, lower, self.channels))

    def fan(self) -> Fan:
        """The lasers' rays during this measurement, channel by channel: channels * n rays."""
        count = math.floor(self._points_hz * self.span_s / self.channels + 0.5)
        turn_deg = self._turns_hz * self._fov_deg * self.span_s
        start_deg = self._angle_deg
        self._angle_deg = math.fmod(start_deg + turn_deg, self._fov_deg)
        key = (round(start_deg, 3), count, round(turn_deg, 3))
        if key not in self._fans:
            if len(self._fans) >= _KEPT_FANS:
                self._fans.clear()
            self._fans[key] = self._fan(*key)
        return self._fans[key]

    def _fan(self, start_deg: float, count: int, turn_deg: float) -> Fan:
        steps = start_deg + turn_deg / max(count, 1) * np.arange(count)
        azimuth = np.radians(np.mod(steps, self._fov_deg) - self._fov_deg / 2.0)
        flat, rise = np.cos(self._rise_rad)[:, None], np.sin(self._rise_rad)[:, None]
        level = np.broadcast_to(rise, (self.channels, count))
        return Fan(np.stack([flat * np.cos(azimuth), flat * np.sin(azimuth), level]).reshape(3, -1))

    def head(self, ray: NDArray[np.intp], rays: int) -> bytes:
        """Start of the body: angle, channels, points by channel of the (n,) rays that are sent, of `rays`."""
        counts = np.bincount(ray // max(rays // self.channels, 1), minlength=self.channels)
        return wire.lidar_head(math.radians(self._angle_deg), counts.tolist())


@dataclass(eq=False, slots=True)
class Lidar(Spinning):
    """Intensity falls with distance; faint and random points are dropped, the rest may be moved along the ray."""

    KIND: ClassVar[wire.StreamType] = wire.StreamType.LIDAR
    _random: np.random.Generator = field(init=False)
    _attenuation: float = 0.004
    _lost: float = 0.45
    _bright: float = 0.8
    _lost_dark: float = 0.4
    _stddev_m: float = 0.0

    def __post_init__(self) -> None:
        # not super(): a slots dataclass is a new class, which super() without arguments does not know
        Spinning.__post_init__(self)
        self._random = np.random.default_rng(self.noise().getrandbits(63))
        self._attenuation = self.setting("atmosphere_attenuation_rate", 0.004, 0.0, 1e3)
        self._lost = self.setting("dropoff_general_rate", 0.45, 0.0, 1.0)
        self._bright = self.setting("dropoff_intensity_limit", 0.8, 0.0, 1.0)
        self._lost_dark = self.setting("dropoff_zero_intensity", 0.4, 0.0, 1.0)
        self._stddev_m = self.setting("noise_stddev", 0.0, 0.0, 1e3)

    def measure(self, world: World, studio: Studio) -> Iterable[Body]:
        """One message."""
        fan = self.fan()
        rays = fan.directions.shape[1]
        shot = np.asarray(self._random.random(rays, np.float32) >= self._lost, np.bool_)
        hits = cast_rays(world, studio, world.table.pose(self.row), fan, self.range_m, shot)
        ray, distance = hits.ray, hits.distance_m
        intensity = np.exp(np.float32(-self._attenuation) * distance)
        if self._lost_dark and self._bright:
            kept_share = 1.0 - self._lost_dark + self._lost_dark / self._bright * intensity
            kept = (intensity > self._bright) | (self._random.random(len(ray), np.float32) < kept_share)
            ray, intensity, distance = ray[kept], intensity[kept], distance[kept]
        if self._stddev_m:
            distance = distance + self._random.normal(0.0, self._stddev_m, len(ray)).astype(np.float32)
        points = np.empty((len(ray), 4), np.float32)
        points[:, :3] = (fan.directions[:, ray] * distance).T
        points[:, 3] = intensity
        yield (self.head(ray, rays), points.tobytes())
