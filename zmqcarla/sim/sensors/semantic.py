"""sensor.camera.semantic_segmentation: what kind of thing each pixel shows."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from zmqcarla.sim import wire
from zmqcarla.sim.sensors.camera import Camera
from zmqcarla.sim.view import View


@dataclass(eq=False, slots=True)
class SemanticCamera(Camera):
    """CARLA's tag (carla.CityObjectLabel) in the red channel."""

    KIND: ClassVar[wire.StreamType] = wire.StreamType.SEMANTIC

    def draw(self, view: View, out: NDArray[np.uint8]) -> None:
        """See `Camera`."""
        words = out.view(np.uint32)[:, :, 0]
        np.left_shift(view.labels, 16, out=words, dtype=np.uint32)
        words |= np.uint32(0xFF000000)
