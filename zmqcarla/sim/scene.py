"""What changes from frame to frame before the cameras: actors, lights, weather."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from zmqcarla.sim.drawings import STROKE_DTYPE
from zmqcarla.sim.sky import Weather

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Scene:
    """What changes from frame to frame.

    Attributes:
        boxes: BOX_DTYPE (n,), one per actor; `half` are half sizes. `signal` means nothing there.
        light_states: uint8 (len(RoadMap.signals),): 0 red, 1 yellow, 2 green, 3 off, 4 unknown; entries of signs are
            ignored.
        weather: The weather.
        moment: Time of the episode, ms; rain falls elsewhere at each.
        strokes: STROKE_DTYPE (n,), what scripts have drawn into the world.
    """

    boxes: NDArray[np.void]
    light_states: NDArray[np.uint8]
    weather: Weather = field(default_factory=Weather)
    moment: int = 0
    strokes: NDArray[np.void] = field(default_factory=lambda: np.empty(0, STROKE_DTYPE))
