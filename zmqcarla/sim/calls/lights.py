"""Calls about traffic lights."""

import math
from collections.abc import Callable

from zmqcarla.sim.actors import TrafficLight
from zmqcarla.sim.rpc import Session, value, void
from zmqcarla.sim.wire import LightColour
from zmqcarla.sim.world import SimError


def _light(session: Session, actor_id: int) -> TrafficLight:
    return session.simulation.world.get_kind(actor_id, TrafficLight)


def set_state(session: Session, actor_id: int, colour: int) -> None:
    """Show a colour until the cycle changes it."""
    session.simulation.world.lights.set_colour(_light(session, actor_id), LightColour(colour))


def _set_time(colour: LightColour) -> Callable[[Session, int, float], None]:
    def set_time(session: Session, actor_id: int, seconds: float) -> None:
        if not (math.isfinite(seconds) and seconds >= 0.0):
            raise SimError(f"expected a time of 0 s or more, found {seconds}")
        session.simulation.world.lights.set_time(_light(session, actor_id), colour, seconds)

    return set_time


def freeze(session: Session, actor_id: int, frozen: bool) -> None:
    """Stop or continue the time of a light's junction."""
    session.simulation.world.lights.freeze([_light(session, actor_id).group], frozen)


def freeze_all(session: Session, frozen: bool) -> None:
    """Stop or continue the time of all junctions."""
    lights = session.simulation.world.lights
    lights.freeze(range(len(lights.groups)), frozen)


def reset_group(session: Session, actor_id: int) -> None:
    """Start the cycle of a light's junction again."""
    session.simulation.world.lights.reset(_light(session, actor_id).group)


def reset_all(session: Session) -> None:
    """Start all cycles again."""
    session.simulation.world.lights.reset_all()


def group(session: Session, actor_id: int) -> list[int]:
    """All lights of a light's junction."""
    lights = session.simulation.world.lights
    return [light.id for light in lights.members(_light(session, actor_id))]


LIGHT_CALLS = {
    "set_traffic_light_state": void(set_state),
    "set_traffic_light_green_time": void(_set_time(LightColour.GREEN)),
    "set_traffic_light_yellow_time": void(_set_time(LightColour.YELLOW)),
    "set_traffic_light_red_time": void(_set_time(LightColour.RED)),
    "freeze_traffic_light": void(freeze),
    "freeze_all_traffic_lights": void(freeze_all),
    "reset_traffic_light_group": void(reset_group),
    "reset_all_traffic_lights": void(reset_all),
    "get_group_traffic_lights": value(group),
}
