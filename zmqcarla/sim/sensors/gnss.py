"""sensor.other.gnss: latitude, longitude and altitude through the map's georeference."""

import math
import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

import carla

from zmqcarla.sim import wire
from zmqcarla.sim.geometry import Vector
from zmqcarla.sim.sensors.base import Body, Measuring
from zmqcarla.sim.studio import Studio
from zmqcarla.sim.world import World

_location = cast(Any, carla).Location
_MOST = 1e9
_EARTH_M = 6378137.0


@dataclass(eq=False, slots=True)
class GnssSensor(Measuring):
    """Measures where it is. Bias and noise are in degrees and metres; noise_seed seeds them at the spawn."""

    KIND: ClassVar[wire.StreamType] = wire.StreamType.GNSS
    _random: random.Random = field(init=False)
    _bias: Vector = (0.0, 0.0, 0.0)
    _stddev: Vector = (0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        # not super(): a slots dataclass is a new class, which super() without arguments does not know
        Measuring.__post_init__(self)
        self._random = self.noise()
        self._bias = self._triple("bias")
        self._stddev = self._triple("stddev")

    def _triple(self, what: str) -> Vector:
        latitude, longitude = (
            self.setting(f"noise_lat_{what}", 0.0, -_MOST, _MOST),
            self.setting(f"noise_lon_{what}", 0.0, -_MOST, _MOST),
        )
        return (latitude, longitude, self.setting(f"noise_alt_{what}", 0.0, -_MOST, _MOST))

    def measure(self, world: World, studio: Studio) -> Iterable[Body]:
        """One message."""
        place_m = world.table.pose(self.row)[:3]
        # the same conversion that scripts call on the map, so that the two agree; the library here may be a newer one
        if world.north_is_up:
            exact = by_mercator(world.road_map.georeference, place_m)
        else:
            place = world.road_map.carla_map.transform_to_geolocation(_location(*place_m))
            exact = (place.latitude, place.longitude, place.altitude)
        wrong = [
            bias + (self._random.gauss(0.0, sigma) if sigma else 0.0)
            for bias, sigma in zip(self._bias, self._stddev, strict=True)
        ]
        yield (wire.gnss_body(*(value + error for value, error in zip(exact, wrong, strict=True))),)


def by_mercator(origin_deg: tuple[float, float], place_m: Vector) -> Vector:
    """Where a place is, as CARLA up to 0.9.15 says it: spherical Mercator, at the scale of the map's origin.

    Args:
        origin_deg: latitude and longitude of the world's (0, 0).
        place_m: in the world.

    Returns:
        Latitude and longitude (deg) and altitude (m).
    """
    latitude, longitude = map(math.radians, origin_deg)
    x, y, z = place_m
    reach_m = _EARTH_M * math.cos(latitude)
    north = math.asinh(math.tan(latitude)) - y / reach_m
    return (math.degrees(math.atan(math.sinh(north))), math.degrees(longitude + x / reach_m), z)
