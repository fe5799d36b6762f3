"""What a bird's-eye view shows: layers, their channels, and which ground each pixel covers.

A layer gives one channel; one that moves gives a channel for each entry of `history`. Masks are uint8, 0 or 255, but
for the two layers that say several things by their value.

    road              the driving lanes
    route             the lane of the route, from the ego on
    markings_broken   lane markings that may be crossed, at least from one side
    markings_solid    those that may not
    markings          both in one channel: 120 broken, 255 solid
    stop_lines        where to stop for lights and stop signs
    vehicles          footprints of all vehicles but the ego; moves
    walkers           footprints of the walkers; moves
    lights_green, lights_yellow, lights_red   the stop lines of lights in that state; move
    lights            all three in one channel: 80 green, 170 yellow, 255 red; moves
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

STILL_LAYERS: Final = ("road", "route", "markings_broken", "markings_solid", "markings", "stop_lines")
MOVING_LAYERS: Final = ("vehicles", "walkers", "lights_green", "lights_yellow", "lights_red", "lights")
_ALL_MASKS: Final = tuple(name for name in STILL_LAYERS + MOVING_LAYERS if name not in ("markings", "lights"))


@dataclass(frozen=True, slots=True)
class BevConfig:
    """Settings of the bird's-eye view: the keys of `bev={...}`."""

    size: tuple[int, int] = (192, 192)
    """Width and height in pixels."""

    pixels_per_metre: float = 5.0
    """Resolution."""

    ego_at: tuple[float, float] = (96.0, 152.0)
    """Where the vehicle's origin is: pixels from the left and from the top. The vehicle heads up."""

    layers: tuple[str, ...] = _ALL_MASKS
    """What is painted, in the order of the channels."""

    history: tuple[int, ...] = (0,)
    """How many steps ago: a channel of each moving layer for each. What was before the reset is its first moment."""

    def __post_init__(self) -> None:
        good = len(self.size) == 2 and all(_whole(side, 8, 4096) for side in self.size)
        _expect("size", self.size, good, "(width, height) of 8 to 4096 pixels")
        _expect("pixels_per_metre", self.pixels_per_metre, 0.1 <= self.pixels_per_metre <= 100.0, "0.1 to 100")
        good = len(self.ego_at) == 2 and all(-1e4 <= place <= 1e4 for place in self.ego_at)
        _expect("ego_at", self.ego_at, good, "(pixels from the left, pixels from the top)")
        known = STILL_LAYERS + MOVING_LAYERS
        good = _different(self.layers) and set(self.layers) <= set(known)
        _expect("layers", self.layers, good, f"some of {', '.join(known)}, each once")
        good = _different(self.history) and all(_whole(steps, 0, 1000) for steps in self.history)
        _expect("history", self.history, good, "different numbers of steps from 0 to 1000")

    @classmethod
    def parse(cls, settings: Any) -> BevConfig:
        """Check the keywords that a caller wrote.

        Raises:
            ValueError: a key is unknown or its value out of range.
        """
        known = [field.name for field in fields(cls)]
        if not isinstance(settings, Mapping) or not set(settings) <= set(known):
            raise ValueError(f"bev: expected a dict with keys among {', '.join(known)}, found {settings!r}; correct it")
        wanted: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in settings.items()}
        try:
            return cls(**wanted)
        except TypeError as error:
            raise ValueError(f"bev: expected numbers, and sequences of them, found {settings!r}: {error}") from None

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels in their order, such as "road" and "vehicles@5" (five steps ago)."""
        names: list[str] = []
        for layer in self.layers:
            names += [f"{layer}@{steps}" for steps in self.history] if layer in MOVING_LAYERS else [layer]
        return tuple(names)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        return len(self.channels), self.size[1], self.size[0]


def _whole(value: object, low: int, high: int) -> bool:
    return isinstance(value, int) and low <= value <= high


def _different(values: tuple[Any, ...]) -> bool:
    return 0 < len(set(values)) == len(values)


def _expect(name: str, value: object, good: bool, expected: str) -> None:
    if not good:
        raise ValueError(f"bev: {name}: expected {expected}, found {value!r}; correct it")
