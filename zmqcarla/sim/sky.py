"""Weather turned into light: colours of the sky, brightness of what stands below it, haze and fog by distance."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import cv2
import numpy as np

from zmqcarla.sim.camera import SHIFT, Camera

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Image = NDArray[np.uint8]
    Floats = NDArray[np.float64]

_SKY_STEPS = 512
_HAZE_M = 900.0

_DAY_ZENITH, _DAY_HORIZON = np.array([214.0, 148.0, 88.0]), np.array([236.0, 219.0, 200.0])
_NIGHT_ZENITH, _NIGHT_HORIZON = np.array([34.0, 18.0, 10.0]), np.array([62.0, 44.0, 34.0])
_DUSK_HORIZON = np.array([96.0, 150.0, 238.0])
_OVERCAST = np.array([176.0, 170.0, 164.0])


@dataclass(frozen=True, slots=True)
class Weather:
    """The part of `carla.WeatherParameters` that a camera sees; 0..100 except angles and distance."""

    cloudiness: float = 10.0
    precipitation: float = 0.0
    sun_azimuth_deg: float = 0.0
    sun_altitude_deg: float = 60.0
    fog_density: float = 0.0
    fog_distance_m: float = 0.0
    wetness: float = 0.0


@dataclass(frozen=True, slots=True)
class Light:
    """What the painter needs of a weather. Colours are BGR, 0..255.

    Attributes:
        sky: uint32 (512,), packed BGRA by the sine of the elevation from -1 to 1.
        horizon: Colour of haze and fog.
        sun: Unit vector to the sun, CARLA frame.
        sun_visible: Whether to paint the sun's disc.
        ambient: Brightness of a face in shade; 1.0 is full.
        diffuse: What direct sun adds to a face that looks at it.
        ground: Factor on the ground's colours.
        fog_start_m: Distance of the first fog.
        fog_per_m: Extinction beyond it.
        night: 0 by day to 1 by night: lamps and windows glow.
    """

    sky: NDArray[np.uint32]
    horizon: tuple[float, float, float]
    sun: tuple[float, float, float]
    sun_visible: bool
    ambient: float
    diffuse: float
    ground: float
    fog_start_m: float
    fog_per_m: float
    night: float

    def fog_at(self, distance_m: Floats) -> Floats:
        """Share of fog (0 clear to 1 hidden) at each distance, same shape."""
        return 1.0 - np.exp(-np.maximum(distance_m - self.fog_start_m, 0.0) * self.fog_per_m)


def pack_bgra(bgr: Floats) -> NDArray[np.uint32]:
    """BGR colours (n, 3), not negative, as one BGRA word each: uint32 (n,)."""
    bgra = np.full((len(bgr), 4), 255, np.uint8)
    bgra[:, :3] = np.minimum(bgr, 255.0)
    return bgra.view(np.uint32)[:, 0]


def _blend(first: Floats, second: Floats, share: float) -> Floats:
    return first + (second - first) * share


@lru_cache(maxsize=16)
def light_of(weather: Weather) -> Light:
    """Work out the light of a weather; kept for the last few weathers, since it is asked every frame."""
    altitude, azimuth = math.radians(weather.sun_altitude_deg), math.radians(weather.sun_azimuth_deg)
    day = min(1.0, max(0.0, (weather.sun_altitude_deg + 6.0) / 16.0))
    clouds = min(1.0, max(weather.cloudiness, weather.precipitation) / 100.0)
    fog = min(1.0, weather.fog_density / 100.0)
    dusk = max(0.0, 1.0 - abs(weather.sun_altitude_deg - 2.0) / 12.0) * (1.0 - clouds)
    overcast = _OVERCAST * (0.18 + 0.82 * day) * (1.0 - 0.2 * weather.precipitation / 100.0)
    zenith = _blend(_blend(_NIGHT_ZENITH, _DAY_ZENITH, day), overcast, 0.85 * clouds)
    horizon = _blend(_blend(_NIGHT_HORIZON, _DAY_HORIZON, day), _DUSK_HORIZON, 0.5 * dusk)
    horizon = _blend(horizon, overcast * 1.12, 0.85 * max(clouds, fog))
    elevation = np.degrees(np.arcsin(np.linspace(-1.0, 1.0, _SKY_STEPS)))
    climb = np.clip(elevation / 50.0, 0.0, 1.0)[:, None] ** 0.65 * (1.0 - 0.9 * fog)
    sky = pack_bgra(horizon + (zenith - horizon) * climb)
    sky.flags.writeable = False
    direct = max(0.0, math.sin(altitude)) ** 0.3 * (1.0 - 0.8 * clouds) if altitude > 0.0 else 0.0
    rain = weather.precipitation / 100.0
    return Light(
        sky=sky,
        horizon=(float(horizon[0]), float(horizon[1]), float(horizon[2])),
        sun=(math.cos(altitude) * math.cos(azimuth), math.cos(altitude) * math.sin(azimuth), math.sin(altitude)),
        sun_visible=altitude > 0.0 and clouds < 0.5 and fog < 0.3,
        ambient=0.26 + 0.36 * day + 0.1 * clouds * day,
        diffuse=0.42 * direct,
        ground=(0.34 + 0.52 * day + 0.14 * direct) * (1.0 - 0.22 * max(weather.wetness / 100.0, rain)),
        fog_start_m=weather.fog_distance_m if fog else 0.0,
        fog_per_m=1.0 / _HAZE_M + 0.05 * fog**1.5 + 0.004 * rain,
        night=1.0 - day,
    )


def paint_sky(out: Image, camera: Camera, light: Light) -> None:
    """Paint the sky over the top rows of a picture, that are all of `out`: by elevation, and the sun."""
    if not len(out):
        return
    ahead, up = float(camera.axes[0, 2]), float(camera.axes[2, 2])
    across = (np.arange(len(out)) + (0.5 - camera.height / 2.0)) / camera.focal
    rise = (ahead - across * up) / np.sqrt(1.0 + across * across)
    steps = ((rise + 1.0) * (0.5 * (_SKY_STEPS - 1))).astype(np.intp)
    out.view(np.uint32)[:, :, 0] = np.take(light.sky, steps, mode="clip")[:, None]
    x, y, z = (camera.axes @ light.sun).tolist()
    if light.sun_visible and x > 0.2 and abs(y) < 2.0 * x:
        column, row = camera.to_pixels(np.array([x, y, z]) * 1000.0).tolist()
        cv2.circle(out, (column, row), int(camera.focal * 0.03 * 16), (214, 244, 255, 255), -1, cv2.LINE_AA, SHIFT)


def paint_rain(out: Image, weather: Weather) -> None:
    """Streaks of rain over a finished picture."""
    height, width = out.shape[:2]
    chance = np.random.default_rng(int(weather.precipitation))
    drops = chance.random((int(weather.precipitation * 0.6), 3))
    for x, y, size in (drops * (width, height, 0.05 * height) + (0, 0, 3)).tolist():
        start = (int(x), int(y))
        cv2.line(out, start, (int(x - 0.15 * size), int(y + size)), (196, 190, 184, 255), 1)
