"""What all cameras share: a picture of the world, drawn only while somebody listens."""

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from zmqcarla.sim import wire
from zmqcarla.sim.sensors.base import Body, Measuring
from zmqcarla.sim.studio import Studio
from zmqcarla.sim.view import View
from zmqcarla.sim.world import World

_LARGEST_PX = 8192


@dataclass(eq=False, slots=True)
class Camera(Measuring):
    """Draws into one buffer that it keeps: the kernel has copied it before the next frame is drawn.

    Cameras at one place with one lens share what the studio has worked out, and agree pixel by pixel.

    Attributes:
        NOTHING: a pixel when the world is not rendered; the picture has its channels, of type `CHANNEL`.
    """

    SLOW: ClassVar[bool] = True
    NOTHING: ClassVar[tuple[int, ...]] = (0, 0, 0, 255)
    CHANNEL: ClassVar[type[np.generic]] = np.uint8
    _image: NDArray[Any] = field(init=False)
    _head: bytes = b""
    _fov_deg: float = 90.0

    def __post_init__(self) -> None:
        # not super(): a slots dataclass is a new class, which super() without arguments does not know
        Measuring.__post_init__(self)
        width = int(self.setting("image_size_x", 800, 1, _LARGEST_PX))
        height = int(self.setting("image_size_y", 600, 1, _LARGEST_PX))
        self._fov_deg = self.setting("fov", 90.0, 1e-3, 179.9)
        self._image = np.zeros((height, width, len(self.NOTHING)), self.CHANNEL)
        self._head = wire.image_head(width, height, self._fov_deg)

    def measure(self, world: World, studio: Studio) -> Iterable[Body]:
        """One picture; black when the world is not rendered."""
        if world.settings.no_rendering:
            self._image[:] = self.NOTHING
        else:
            self.draw(self.view(world, studio), self._image)
        yield (self._head, self._image.data.cast("B"))

    def view(self, world: World, studio: Studio) -> View:
        """What the camera sees now."""
        height, width = self._image.shape[:2]
        return studio.view(world, world.table.pose(self.row), self._fov_deg, width, height)

    @abstractmethod
    def draw(self, view: View, out: NDArray[Any]) -> None:
        """Draw a view.

        Args:
            view: what is seen.
            out: (height, width, channels), overwritten; uint8 BGRA unless the class says otherwise.
        """
