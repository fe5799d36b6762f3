"""sensor.camera.optical_flow: how far what each pixel shows has moved in the picture."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from zmqcarla.sim import wire
from zmqcarla.sim.flow import Moment, flow
from zmqcarla.sim.sensors.camera import Camera
from zmqcarla.sim.view import View


@dataclass(eq=False, slots=True)
class OpticalFlowCamera(Camera):
    """Motion since the last picture as CARLA has it: x to the right, y upwards, the whole picture is 2 wide and high.

    So pixels are flow times (width / 2, -height / 2). Nothing moves in the first picture.
    """

    KIND: ClassVar[wire.StreamType] = wire.StreamType.OPTICAL_FLOW
    NOTHING: ClassVar[tuple[int, ...]] = (0, 0)
    CHANNEL: ClassVar[type[np.generic]] = np.float32
    _before: Moment | None = None

    def draw(self, view: View, out: NDArray[np.float32]) -> None:
        """See `Camera`; float32 (height, width, 2)."""
        flow(view, self._before, out)
        self._before = Moment.of(view)
