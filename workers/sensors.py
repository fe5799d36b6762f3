"""The ego's sensors: pictures matched to their tick by frame number, and collisions.

The client calls sensor callbacks on its one I/O thread (the session asks for one). They only put what they got into a
queue; the env thread takes the entry of the frame it wants, drops older ones, and waits no longer than its deadline.
"""

from __future__ import annotations

import queue
import time
from dataclasses import dataclass
from typing import Any, Final

import carla
import numpy as np
from numpy.typing import NDArray

from zmqcarla.broker.errors import SimulatorError, SimulatorTimeoutError
from zmqcarla.workers.criteria.base import Hit

_CAMERA_FOV_DEG = 90.0


@dataclass(frozen=True, slots=True)
class View:
    """Where a camera is mounted on a vehicle, and how far it looks down.

    Attributes:
        x_m: forward of the vehicle's origin.
        z_m: above it.
        pitch_deg: negative looks down.
    """

    x_m: float
    z_m: float
    pitch_deg: float = 0.0


DRIVERS_VIEW: Final = View(1.3, 2.3)
CHASE_VIEW: Final = View(-7.0, 3.4, -12.0)
"""From behind and above, so that the vehicle itself is seen on its road."""


class Camera:
    """An RGB camera that is fixed to a vehicle and looks forward."""

    def __init__(self, world: carla.World, vehicle: carla.Vehicle, image_size: tuple[int, int], view: View) -> None:
        """Attach and start the camera; its first frame is that of the next tick.

        Args:
            world: the world of the vehicle.
            vehicle: carries the camera.
            image_size: width and height in pixels.
            view: where it is mounted.
        """
        blueprint = world.get_blueprint_library().find("sensor.camera.rgb")
        width, height = image_size
        for name, value in (("image_size_x", width), ("image_size_y", height), ("fov", _CAMERA_FOV_DEG)):
            blueprint.set_attribute(name, str(value))
        pose = carla.Transform(carla.Location(x=view.x_m, z=view.z_m), carla.Rotation(pitch=view.pitch_deg))
        self._sensor: Any = world.spawn_actor(blueprint, pose, attach_to=vehicle)
        frames: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._frames = frames
        self._sensor.listen(frames.put)

    @property
    def actor_id(self) -> int:
        """The sensor's actor id."""
        return int(self._sensor.id)

    def picture(self, frame: int, timeout_s: float) -> Any:
        """Return the `carla.Image` of one tick.

        Raises:
            SimulatorTimeoutError: it did not come within `timeout_s`.
            SimulatorError: the camera sent a later frame without this one.
        """
        deadline = time.monotonic() + timeout_s
        newest: int | None = None
        while newest is None or newest < frame:
            try:
                image = self._frames.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise SimulatorTimeoutError(
                    f"expected the camera picture of frame {frame} within {timeout_s:g} s, found "
                    f"{'none at all' if newest is None else f'frame {newest} as the newest'}; "
                    "the server renders too slowly or is stuck: raise `timeout` or restart it",
                    timeout_s,
                ) from None
            newest = int(image.frame)
            if newest == frame:
                return image
        raise SimulatorError(
            f"expected the camera picture of frame {frame}, found frame {newest} after it; "
            "another client may be ticking this server: only one may"
        )

    def stop(self) -> None:
        """Stop the stream; must come before the actor is destroyed."""
        self._sensor.stop()


class CollisionLog:
    """Remembers whether a vehicle hit something."""

    def __init__(self, world: carla.World, vehicle: carla.Vehicle) -> None:
        blueprint = world.get_blueprint_library().find("sensor.other.collision")
        self._sensor: Any = world.spawn_actor(blueprint, carla.Transform(), attach_to=vehicle)
        hits: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._hits = hits
        self._sensor.listen(hits.put)

    @property
    def actor_id(self) -> int:
        """The sensor's actor id."""
        return int(self._sensor.id)

    def take(self) -> list[Hit]:
        """Return what was hit since the last call.

        A collision has no message when it does not happen, so nothing can be waited for. The simulator sends it
        before the picture of the same tick, and the client's one I/O thread keeps that order: call this after
        `Camera.picture` of a camera that was started after this log.
        """
        hits: list[Hit] = []
        while True:
            try:
                event = self._hits.get_nowait()
            except queue.Empty:
                return hits
            other = event.other_actor
            actor_id, actor_type = (0, "unknown") if other is None else (int(other.id), str(other.type_id))
            hits.append(Hit(int(event.frame), actor_id, actor_type))

    def stop(self) -> None:
        """Stop the stream; must come before the actor is destroyed."""
        self._sensor.stop()


def write_rgb(image: Any, out: NDArray[np.uint8]) -> None:
    """Write a CARLA image (BGRA rows) as RGB into `out`, uint8 (3, height, width), of any strides."""
    bgra = np.frombuffer(image.raw_data, dtype=np.uint8).reshape(image.height, image.width, 4)
    for channel in range(3):
        out[channel] = bgra[:, :, 2 - channel]
