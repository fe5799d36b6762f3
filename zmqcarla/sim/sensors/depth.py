"""sensor.camera.depth: forward distance at each pixel."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from zmqcarla.sim import wire
from zmqcarla.sim.sensors.camera import Camera
from zmqcarla.sim.view import FARTHEST_M, View


@dataclass(eq=False, slots=True)
class DepthCamera(Camera):
    """Depth as a share of 1000 m in 24 bits: red holds the lowest eight, blue the highest."""

    KIND: ClassVar[wire.StreamType] = wire.StreamType.DEPTH

    def draw(self, view: View, out: NDArray[np.uint8]) -> None:
        """See `Camera`."""
        steps = (view.depths_m * np.float32((2**24 - 1) / FARTHEST_M)).astype(np.uint32)
        np.minimum(steps, 2**24 - 1, out=steps)
        words = out.view(np.uint32)[:, :, 0]
        np.left_shift(steps & 0xFF, 16, out=words)
        words |= steps & 0xFF00
        words |= steps >> 16
        words |= np.uint32(0xFF000000)
