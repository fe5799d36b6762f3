"""Street lamps, as carla.LightManager sees them: where they stand, what they shine like, who switches them.

CARLA's lamps are things of its levels. Here they stand along both sides of streets, at a distance that towns use. With
the day-night cycle, which is on at first, they burn while the sun is below the horizon; a script's own switching holds
until the sun next rises or sets.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from zmqcarla.sim.roads import RoadMap

STREET = 2
"""carla.LightGroup.Street."""

_SPACING_M = 30.0
_HEIGHT_M = 6.0
_SETBACK_M = 0.5
_INTENSITY_LM = 5000.0
_COLOUR = (255, 214, 170)


@dataclass(frozen=True, slots=True)
class Lamp:
    """One lamp; its fields are those of carla.Light."""

    place_m: tuple[float, float, float]
    intensity: float = _INTENSITY_LM
    group: int = STREET
    colour: tuple[int, int, int] = _COLOUR
    burns: bool = False


class StreetLamps:
    """The lamps of a map by id.

    Args:
        road_map: along whose streets they stand.
        night: whether they burn at first.
    """

    def __init__(self, road_map: RoadMap, night: bool) -> None:
        self.lamps = {number: Lamp(place, burns=night) for number, place in enumerate(_places(road_map), start=1)}
        self.day_night_cycle = True
        self._night = night

    def sun(self, night: bool) -> None:
        """The weather has changed: switch the lamps if the sun has risen or set since."""
        if night != self._night:
            self._night = night
            if self.day_night_cycle:
                self._switch(night)

    def cycle(self, active: bool) -> None:
        """Let the sun switch the lamps, or only scripts."""
        self.day_night_cycle = active
        if active:
            self._switch(self._night)

    def _switch(self, burn: bool) -> None:
        self.lamps = {number: replace(lamp, burns=burn) for number, lamp in self.lamps.items()}

    def set(self, states: list[Any]) -> None:
        """Take over carla.LightState entries; lamps stay where they are, and unknown ids are passed over."""
        for number, _, intensity, group, colour, burns in states:
            if number in self.lamps:
                red, green, blue = (int(part) for part in colour[:3])
                place = self.lamps[number].place_m
                self.lamps[number] = Lamp(place, float(intensity), int(group), (red, green, blue), bool(burns))

    def wire(self) -> list[Any]:
        """All lamps as carla.LightState."""
        return [
            [number, list(lamp.place_m), lamp.intensity, lamp.group, list(lamp.colour), lamp.burns]
            for number, lamp in self.lamps.items()
        ]


def _places(road_map: RoadMap) -> list[tuple[float, float, float]]:
    """Places of lamps: on the outer border of streets with pavements, outside junctions."""
    places: list[tuple[float, float, float]] = []
    for strip in road_map.strips:
        if strip.lane.kind != "sidewalk" or strip.road.junction_id >= 0:
            continue
        along = strip.s_m - strip.s_m[0]
        for distance in np.arange(_SPACING_M / 2, float(along[-1]), _SPACING_M):
            index = int(np.searchsorted(along, distance))
            inner, outer = strip.inner_m[index], strip.outer_m[index]
            out = (outer - inner) / max(float(np.linalg.norm(outer - inner)), 1e-6)
            x, y, z = (outer - _SETBACK_M * out).tolist()
            places.append((x, y, z + _HEIGHT_M))
    return places
