"""sensor.lidar.ray_cast: points with intensity, of which some are lost."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from zmqcarla.sim import wire
from zmqcarla.sim.sensors.base import Body, Measuring
from zmqcarla.sim.sensors.rays import Hits, cast_rays
from zmqcarla.sim.studio import Studio
from zmqcarla.sim.world import World

Floats = NDArray[np.float64]


@dataclass(eq=False, slots=True)
class Spinning(Measuring):
    """A stack of lasers that turns; each measurement is the part of the turn that its time allows."""

    SLOW: ClassVar[bool] = True
    channels: int = 32
    _range_m: float = 10.0
    _points_hz: float = 56000.0
    _turns_hz: float = 10.0
    _fov_deg: float = 360.0
    _angle_deg: float = 0.0
    _rise_rad: Floats = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        # not super(): a slots dataclass is a new class, which super() without arguments does not know
        Measuring.__post_init__(self)
        self.channels = int(self.setting("channels", 32, 1, 1024))
        self._range_m = self.setting("range", 10.0, 0.0, 1000.0)
        self._points_hz = self.setting("points_per_second", 56000, 0.0, 50e6)
        self._turns_hz = self.setting("rotation_frequency", 10.0, 0.0, 10e3)
        self._fov_deg = self.setting("horizontal_fov", 360.0, 1e-3, 360.0)
        upper, lower = self.setting("upper_fov", 10.0, -90.0, 90.0), self.setting("lower_fov", -30.0, -90.0, 90.0)
        self._rise_rad = np.radians(np.linspace(upper, lower, self.channels))

    def rays(self) -> Floats:
        """Directions of the lasers during this measurement, channel by channel: float64 (3, channels, n)."""
        count = math.floor(self._points_hz * self.span_s / self.channels + 0.5)
        turn_deg = self._turns_hz * self._fov_deg * self.span_s
        steps = self._angle_deg + turn_deg / max(count, 1) * np.arange(count)
        azimuth = np.radians(np.mod(steps, self._fov_deg) - self._fov_deg / 2.0)
        self._angle_deg = math.fmod(self._angle_deg + turn_deg, self._fov_deg)
        flat, rise = np.cos(self._rise_rad)[:, None], np.sin(self._rise_rad)[:, None]
        return np.stack([flat * np.cos(azimuth), flat * np.sin(azimuth), np.broadcast_to(rise, (self.channels, count))])

    def cast(self, world: World, studio: Studio, rays: Floats) -> Hits:
        """What rays (3, n) meet."""
        return cast_rays(world, studio, world.table.pose(self.row), rays, self._range_m)

    def head(self, channel: NDArray[np.intp]) -> bytes:
        """Start of the body: angle, channels, points by channel of (n,) channels."""
        counts = np.bincount(channel, minlength=self.channels)
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
        rays = self.rays()
        count = rays.shape[2]
        rays = rays.reshape(3, -1)
        shot = np.flatnonzero(self._random.random(rays.shape[1]) >= self._lost) if self._lost else None
        hits = self.cast(world, studio, rays if shot is None else rays[:, shot])
        ray = hits.ray if shot is None else shot[hits.ray]
        intensity = np.exp(-self._attenuation * hits.distance_m)
        distance = hits.distance_m
        if self._lost_dark and self._bright:
            kept_share = 1.0 - self._lost_dark + self._lost_dark / self._bright * intensity
            kept = (intensity > self._bright) | (self._random.random(len(ray)) < kept_share)
            ray, intensity, distance = ray[kept], intensity[kept], distance[kept]
        if self._stddev_m:
            distance = distance + self._random.normal(0.0, self._stddev_m, len(ray))
        points = np.empty((len(ray), 4), np.float32)
        points[:, :3] = (rays[:, ray] * distance).T
        points[:, 3] = intensity
        yield (self.head(ray // max(count, 1)), points.data.cast("B") if len(ray) else b"")
