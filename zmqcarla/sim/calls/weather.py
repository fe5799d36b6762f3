"""Calls about the weather and what follows the sun: street lamps."""

from typing import Any

from zmqcarla.sim.rpc import Session, value, void
from zmqcarla.sim.weather import is_night
from zmqcarla.sim.world import SimError


def weather(session: Session) -> list[float]:
    """Weather parameters."""
    return session.simulation.world.weather


def set_weather(session: Session, parameters: list[float]) -> None:
    """Change the weather."""
    world = session.simulation.world
    if len(parameters) != 14:
        raise SimError(f"expected 14 weather parameters, found {len(parameters)}")
    world.weather = [float(number) for number in parameters]
    world.lamps.sun(is_night(world.weather))


def lamps(session: Session, _client: str) -> list[Any]:
    """All street lamps, as carla.LightState."""
    return session.simulation.world.lamps.wire()


def set_lamps(session: Session, _client: str, states: list[Any], _discard_client: bool) -> None:
    """Change street lamps."""
    session.simulation.world.lamps.set(states)


def set_day_night_cycle(session: Session, _client: str, active: bool) -> None:
    """Let the sun switch the lamps, or only scripts."""
    session.simulation.world.lamps.cycle(bool(active))


WEATHER_CALLS = {
    "get_weather_parameters": value(weather),
    "set_weather_parameters": void(set_weather),
    "query_lights_state": value(lamps),
    "update_lights_state": void(set_lamps),
    "update_day_night_cycle": void(set_day_night_cycle),
}
