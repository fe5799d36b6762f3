"""The weather: fourteen numbers that scripts set and cameras look at."""

# carla.WeatherParameters in wire order, CARLA's default sky at noon
DEFAULT_WEATHER = [
    5.0,  # cloudiness, %
    0.0,  # precipitation, %
    0.0,  # precipitation deposits, %
    10.0,  # wind intensity, %
    -1.0,  # sun azimuth, deg
    45.0,  # sun altitude, deg
    2.0,  # fog density, %
    0.75,  # fog distance, m
    0.1,  # fog falloff
    0.0,  # wetness, %
    1.0,  # scattering intensity
    0.03,  # mie scattering scale
    0.0331,  # rayleigh scattering scale
    0.0,  # dust storm, %
]
CLOUDINESS, PRECIPITATION, PUDDLES = 0, 1, 2
SUN_AZIMUTH, SUN_ALTITUDE, FOG_DENSITY, FOG_DISTANCE, WETNESS, DUST_STORM = 4, 5, 6, 7, 9, 13


def is_night(weather: list[float]) -> bool:
    """Whether the sun is below the horizon."""
    return weather[SUN_ALTITUDE] < 0.0
