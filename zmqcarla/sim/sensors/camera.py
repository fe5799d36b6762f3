"""sensor.camera.rgb: a picture of the world, drawn only while somebody listens."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from zmqcarla.sim import wire
from zmqcarla.sim.sensors.base import Body, Measuring
from zmqcarla.sim.studio import Studio
from zmqcarla.sim.world import World


@dataclass(eq=False, slots=True)
class RgbCamera(Measuring):
    """Draws into one buffer that it keeps: the kernel has copied it before the next frame is drawn."""

    KIND: ClassVar[wire.StreamType] = wire.StreamType.RGB
    SLOW: ClassVar[bool] = True
    _image: NDArray[np.uint8] = field(init=False)
    _head: bytes = b""
    _fov_deg: float = 90.0

    def __post_init__(self) -> None:
        # not super(): a slots dataclass is a new class, which super() without arguments does not know
        Measuring.__post_init__(self)
        width, height = int(self.number("image_size_x", 800)), int(self.number("image_size_y", 600))
        self._fov_deg = self.number("fov", 90.0)
        self._image = np.zeros((height, width, 4), np.uint8)
        self._head = wire.image_head(width, height, self._fov_deg)

    def measure(self, world: World, studio: Studio) -> Iterable[Body]:
        """One picture; black when the world is not rendered."""
        if world.settings.no_rendering:
            self._image[:] = 0, 0, 0, 255
        else:
            studio.paint(world, self._image, world.table.pose(self.row), self._fov_deg)
        yield (self._head, self._image.data.cast("B"))
