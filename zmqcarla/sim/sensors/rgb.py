"""sensor.camera.rgb: what a camera would see."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from zmqcarla.sim import wire
from zmqcarla.sim.sensors.camera import Camera
from zmqcarla.sim.view import View


@dataclass(eq=False, slots=True)
class RgbCamera(Camera):
    """Colours in the light of the weather."""

    KIND: ClassVar[wire.StreamType] = wire.StreamType.RGB

    def draw(self, view: View, out: NDArray[np.uint8]) -> None:
        """See `Camera`."""
        view.paint(out)
