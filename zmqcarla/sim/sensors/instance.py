"""sensor.camera.instance_segmentation: which thing each pixel shows."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from zmqcarla.sim import wire
from zmqcarla.sim.sensors.camera import Camera
from zmqcarla.sim.view import View


@dataclass(eq=False, slots=True)
class InstanceCamera(Camera):
    """CARLA's tag in red, the lowest 16 bits of a number in green and blue.

    The number is the actor's id; things of the map have 32768 and up, ground and sky 0.
    """

    KIND: ClassVar[wire.StreamType] = wire.StreamType.INSTANCE

    def draw(self, view: View, out: NDArray[np.uint8]) -> None:
        """See `Camera`."""
        words, number = out.view(np.uint32)[:, :, 0], view.instances
        np.left_shift(view.labels, 16, out=words, dtype=np.uint32)
        words |= (number & 0xFF) << 8
        words |= (number >> 8) & 0xFF
        words |= np.uint32(0xFF000000)
