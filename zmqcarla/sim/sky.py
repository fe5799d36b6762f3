"""Weather turned into light: colours of the sky, brightness of what stands below it, haze and fog by distance."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import cv2
import numpy as np

from zmqcarla.sim.camera import SHIFT, Camera, Plane

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Image = NDArray[np.uint8]
    Floats = NDArray[np.float64]

_SKY_STEPS = 512
_HAZE_M = 900.0

_DAY_ZENITH, _DAY_HORIZON = np.array([214.0, 148.0, 88.0]), np.array([236.0, 219.0, 200.0])
_DUSK_ZENITH, _DUSK_HORIZON = np.array([150.0, 104.0, 92.0]), np.array([88.0, 150.0, 246.0])
_NIGHT_ZENITH, _NIGHT_HORIZON = np.array([34.0, 18.0, 10.0]), np.array([62.0, 44.0, 34.0])
_OVERCAST = np.array([176.0, 170.0, 164.0])
_DUST = np.array([120.0, 164.0, 196.0])

_CLOUD_M = 500.0
_CLOUD_PIXEL_M = 6.0
_CLOUD_STEPS = 16
_CLOUDY = 0.12
_LARGE_PX = 1000
"""Pictures at least so broad have their clouds worked out for every second pixel."""


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
    puddles: float = 0.0
    dust: float = 0.0


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
        veil: Share of the horizon's colour on everything, however near: evening light, dust.
        gloss: Share of the sky that far wet ground mirrors.
        night: 0 by day to 1 by night: lamps and windows glow.
        clouds: uint8 (16,), how much a cloud of rising thickness hides of the sky, 0..255; None for a clear sky.
        cloud_bgr: Colour of the clouds.
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
    veil: float
    gloss: float
    night: float
    clouds: Floats | None
    cloud_bgr: Floats

    def fog_at(self, distance_m: Floats) -> Floats:
        """Share of fog (0 clear to 1 hidden) at each distance, same shape."""
        return 1.0 - (1.0 - self.veil) * np.exp(np.minimum(self.fog_start_m - distance_m, 0.0) * self.fog_per_m)

    def ground_haze_at(self, distance_m: Floats) -> Floats:
        """Share of the horizon's colour in the ground's at each distance: fog, and sky mirrored by wet ground."""
        fog = self.fog_at(distance_m)
        if self.gloss > 0.0:
            fog = 1.0 - (1.0 - fog) * (1.0 - self.gloss * distance_m / (distance_m + 14.0))
        return fog


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
    rain, dust, wet = weather.precipitation / 100.0, weather.dust / 100.0, weather.wetness / 100.0
    clouds = min(1.0, max(weather.cloudiness / 100.0, rain))
    fog = min(1.0, weather.fog_density / 100.0)
    # the sun low over the horizon, as far as it can be seen
    low = max(0.0, 1.0 - abs(weather.sun_altitude_deg - 4.0) / 22.0)
    dusk = low * (1.0 - 0.75 * clouds) * (1.0 - 0.6 * fog)
    grey = max(0.0, clouds - 0.35) / 0.65
    overcast = _OVERCAST * (0.12 + 0.88 * day) * (1.0 - 0.25 * low) * (1.0 - 0.3 * rain)
    zenith = _blend(_blend(_NIGHT_ZENITH, _DAY_ZENITH, day), _DUSK_ZENITH, 0.75 * dusk)
    horizon = _blend(_blend(_NIGHT_HORIZON, _DAY_HORIZON, day), _DUSK_HORIZON, 0.8 * dusk)
    zenith = _blend(zenith, overcast, 0.9 * grey)
    horizon = _blend(horizon, overcast * 1.1, 0.85 * max(grey, fog))
    zenith, horizon = (_blend(colour, _DUST * (0.1 + 0.9 * day), 0.9 * dust) for colour in (zenith, horizon))
    elevation = np.degrees(np.arcsin(np.linspace(-1.0, 1.0, _SKY_STEPS)))
    climb = np.clip(elevation / 50.0, 0.0, 1.0)[:, None] ** 0.65 * (1.0 - 0.9 * max(fog, dust))
    sky = pack_bgra(horizon + (zenith - horizon) * climb)
    sky.flags.writeable = False
    direct = max(0.0, math.sin(altitude)) ** 0.3 * (1.0 - 0.85 * clouds) * (1.0 - dust) if altitude > 0.0 else 0.0
    damp = max(wet, 0.6 * rain, 0.8 * weather.puddles / 100.0)
    return Light(
        sky=sky,
        horizon=(float(horizon[0]), float(horizon[1]), float(horizon[2])),
        sun=(math.cos(altitude) * math.cos(azimuth), math.cos(altitude) * math.sin(azimuth), math.sin(altitude)),
        sun_visible=altitude > 0.0 and clouds < 0.5 and fog < 0.3 and dust < 0.3,
        ambient=(0.27 + 0.36 * day + 0.08 * clouds * day) * (1.0 - 0.2 * rain) * (1.0 - 0.2 * low),
        diffuse=0.42 * direct,
        ground=(0.33 + 0.53 * day + 0.14 * direct) * (1.0 - 0.3 * damp) * (1.0 - 0.15 * low),
        fog_start_m=weather.fog_distance_m if fog else 0.0,
        fog_per_m=1.0 / _HAZE_M + 0.05 * fog**1.5 + 0.004 * rain + 0.03 * dust,
        veil=0.16 * dusk + 0.2 * dust,
        gloss=0.65 * damp,
        night=1.0 - day,
        clouds=_cover(clouds) if _CLOUDY < clouds < 0.97 and fog < 0.8 else None,
        cloud_bgr=_blend(overcast * (1.25 - 0.35 * clouds), _DUSK_HORIZON, 0.45 * dusk),
    )


def _cover(clouds: float) -> Floats:
    """What a cloud of each of 16 thicknesses hides when a share of the sky is cloudy: 0 to 1."""
    thickness = (np.arange(_CLOUD_STEPS) + 0.5) / _CLOUD_STEPS
    cover: Floats = np.clip((thickness - (1.0 - clouds)) * 3.5, 0.0, 1.0) * (0.95 - 0.3 * clouds)
    return cover


@lru_cache(maxsize=1)
def _cloud_map() -> Image:
    """Thickness of clouds seen from below, 0..15, that repeats itself: uint8 (512, 512)."""
    chance = np.random.default_rng(4)
    total = np.zeros((512, 512))
    for grain, weight in ((128, 1.0), (64, 0.6), (32, 0.4), (16, 0.22), (8, 0.12)):
        cells = np.pad(chance.normal(size=(512 // grain, 512 // grain)), 2, mode="wrap")
        scaled = cv2.resize(cells, None, fx=grain, fy=grain, interpolation=cv2.INTER_CUBIC)
        total += weight * scaled[2 * grain : 2 * grain + 512, 2 * grain : 2 * grain + 512]
    ranks = np.empty(total.size)
    ranks[np.argsort(total, axis=None)] = np.arange(total.size) / total.size
    # blown up, so that interpolation between the steps is smooth
    return np.asarray(ranks.reshape(total.shape) * 255.0, np.uint8)


def paint_sky(out: Image, camera: Camera, light: Light) -> None:
    """Paint the sky over the top rows of a picture, that are all of `out`: by elevation, clouds, and the sun."""
    if not len(out):
        return
    ahead, up = float(camera.axes[0, 2]), float(camera.axes[2, 2])
    across = (np.arange(len(out)) + (0.5 - camera.height / 2.0)) / camera.focal
    rise = (ahead - across * up) / np.sqrt(1.0 + across * across)
    steps = ((rise + 1.0) * (0.5 * (_SKY_STEPS - 1))).astype(np.intp)
    colours = np.take(light.sky, steps, mode="clip")
    if light.clouds is None:
        out.view(np.uint32)[:, :, 0] = colours[:, None]
    else:
        _paint_clouds(out, camera, light, colours, rise)
    x, y, z = (camera.axes @ light.sun).tolist()
    if light.sun_visible and x > 0.2 and abs(y) < 2.0 * x:
        column, row = camera.to_pixels(np.array([x, y, z]) * 1000.0).tolist()
        cv2.circle(out, (column, row), int(camera.focal * 0.03 * 16), (214, 244, 255, 255), -1, cv2.LINE_AA, SHIFT)


def _paint_clouds(out: Image, camera: Camera, light: Light, colours: NDArray[np.uint32], rise: Floats) -> None:
    """Clouds on a plane high over the camera, thinner near the horizon; `colours` of the sky and `rise` are by row."""
    assert light.clouds is not None
    plane = Plane(float(camera.position[2]) + _CLOUD_M)
    matrix = camera.ground_homography(plane, (0.0, 0.0), _CLOUD_PIXEL_M)
    width, height = out.shape[1], len(out)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    if width < _LARGE_PX:
        seen = cv2.warpPerspective(_cloud_map(), matrix, (width, height), flags=flags, borderMode=cv2.BORDER_WRAP)
    else:
        # Clouds are soft, and a quarter of the points takes a quarter of the time.
        few = (-(-width // 2), -(-height // 2))
        matrix = matrix @ np.array([[2.0, 0.0, 0.5], [0.0, 2.0, 0.5], [0.0, 0.0, 1.0]])
        seen = cv2.warpPerspective(_cloud_map(), matrix, few, flags=flags, borderMode=cv2.BORDER_WRAP)
        seen = cv2.resize(seen, (width, height), interpolation=cv2.INTER_LINEAR)
    hidden = light.clouds * np.clip(rise * 5.0, 0.0, 1.0)[:, None]
    sky = colours.view(np.uint8).reshape(-1, 1, 4)[:, :, :3]
    mixed = sky + (light.cloud_bgr - sky) * hidden[:, :, None]
    words = pack_bgra(mixed.reshape(-1, 3))
    index = (np.asarray(seen, np.uint8) >> 4).astype(np.intp)
    index += (_CLOUD_STEPS * np.arange(len(out)))[:, None]
    np.take(words, index, out=out.view(np.uint32)[:, :, 0], mode="clip")


def paint_rain(out: Image, weather: Weather, moment: int) -> None:
    """Streaks of rain over a finished picture, others at each moment."""
    height, width = out.shape[:2]
    chance = np.random.default_rng((int(weather.precipitation), moment))
    drops = chance.random((int(weather.precipitation * 1.2), 3))
    grey = (
        np.array([150.0, 145.0, 140.0]) * (0.4 + 0.6 * min(1.0, max(0.0, weather.sun_altitude_deg / 10.0)))
    ).tolist()
    for x, y, size in (drops * (width, height, 0.06 * height) + (0, 0, 3)).tolist():
        start = (int(x), int(y))
        cv2.line(out, start, (int(x - 0.15 * size), int(y + size)), (*grey, 255.0), 1)
