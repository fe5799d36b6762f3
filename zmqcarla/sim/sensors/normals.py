"""sensor.camera.normals: which way the surface at each pixel looks."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from zmqcarla.sim import wire
from zmqcarla.sim.sensors.camera import Camera
from zmqcarla.sim.view import View


@dataclass(eq=False, slots=True)
class NormalsCamera(Camera):
    """The unit normal's x, y and z in the world's frame, from -1..1 to 0..255, as red, green and blue; sky is black."""

    KIND: ClassVar[wire.StreamType] = wire.StreamType.NORMALS

    def draw(self, view: View, out: NDArray[np.uint8]) -> None:
        """See `Camera`."""
        out[:] = view.normal_colours.take(view.numbers, axis=0)
