"""Traffic lights as they can be read through CARLA's API, and as they can be put back.

Lights are told from each other by their place in the order of birth, which is the map's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import carla

from zmqcarla.workers.session import Session
from zmqcarla.workers.simulator_calls import SimulatorCalls

_TIMES: Final = (("green", 1), ("yellow", 2), ("red", 3))
_FROZEN: Final = 5
_SAME_S: Final = 1e-3

LightState = list[Any]
"""Colour (a number of `carla.TrafficLightState`), green, yellow and red time (s), elapsed time (s), frozen."""


def read_lights(session: Session, calls: SimulatorCalls | None) -> dict[str, Any]:
    """Return the lights as of the last tick: "states", and "cycles" from a simulator that tells them, else None."""
    return {
        "states": [_state_of(light) for light in session.surroundings.light_actors],
        "cycles": None if calls is None else calls.light_cycles(),
    }


def _state_of(light: Any) -> LightState:
    times = light.get_green_time(), light.get_yellow_time(), light.get_red_time(), light.get_elapsed_time()
    return [int(light.get_state()), *times, bool(light.is_frozen())]


def write_lights(session: Session, wanted: Mapping[str, Any], calls: SimulatorCalls | None) -> None:
    """Put the lights back, as far as the server lets.

    With `calls` they go on exactly where they were. Without, each shows its colour again until its cycle, which keeps
    the place it had, changes it.
    """
    for light, state in zip(session.surroundings.light_actors, wanted["states"], strict=True):
        now = _state_of(light)
        for name, place in _TIMES:
            if now[place] != state[place]:
                getattr(light, f"set_{name}_time")(state[place])
        if now[_FROZEN] != state[_FROZEN]:
            light.freeze(state[_FROZEN])
        if calls is None:
            light.set_state(_colour(state))
    # Setters are sent without waiting for an answer; this call waits for them.
    session.batch([])
    if calls is not None and wanted["cycles"] is not None:
        calls.light_cycles(wanted["cycles"])


def paint_over(session: Session, wanted: Mapping[str, Any]) -> bool:
    """Show the colours that a script had set against the cycle, once the cycles are seen; say whether there are any."""
    others = [
        (light, state)
        for light, state in zip(session.surroundings.light_actors, wanted["states"], strict=True)
        if int(light.get_state()) != state[0]
    ]
    for light, state in others:
        light.set_state(_colour(state))
    if others:
        session.batch([])
    return bool(others)


def lights_match(session: Session, wanted: Mapping[str, Any]) -> bool:
    """Return whether all lights show what they should, as long as they should."""
    for light, state in zip(session.surroundings.light_actors, wanted["states"], strict=True):
        now = _state_of(light)
        if now[0] != state[0] or now[_FROZEN] != state[_FROZEN]:
            return False
        if any(abs(a - b) > _SAME_S for a, b in zip(now[1:_FROZEN], state[1:_FROZEN], strict=True)):
            return False
    return True


def same_town_lights(session: Session, wanted: Mapping[str, Any]) -> bool:
    """Return whether a snapshot is of a world with as many lights."""
    states: Sequence[LightState] = wanted["states"]
    return len(states) == len(session.surroundings.light_actors)


def _colour(state: LightState) -> Any:
    return carla.TrafficLightState.values[state[0]]
