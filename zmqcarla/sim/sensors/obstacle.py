"""sensor.other.obstacle: what lies ahead of its parent, swept by a bar of some thickness."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from zmqcarla.sim import wire
from zmqcarla.sim.blueprints import Label
from zmqcarla.sim.camera import rotations
from zmqcarla.sim.looks import FACE_LABELS
from zmqcarla.sim.sensors.base import Body, Measuring
from zmqcarla.sim.studio import Studio
from zmqcarla.sim.world import World

Floats = NDArray[np.float64]


@dataclass(eq=False, slots=True)
class ObstacleSensor(Measuring):
    """One message a tick while something solid is within `distance`; the ground is no obstacle."""

    KIND: ClassVar[wire.StreamType] = wire.StreamType.OBSTACLE
    _distance_m: float = 5.0
    _radius_m: float = 0.5
    _only_dynamics: bool = False

    def __post_init__(self) -> None:
        # not super(): a slots dataclass is a new class, which super() without arguments does not know
        Measuring.__post_init__(self)
        self._distance_m = self.setting("distance", 5.0, 0.0, 1000.0)
        self._radius_m = self.setting("hit_radius", 0.5, 0.0, 100.0)
        self._only_dynamics = self.flag("only_dynamics")

    def measure(self, world: World, studio: Studio) -> Iterable[Body]:
        """The nearest obstacle, if there is any."""
        pose = np.array(world.table.pose(self.row))
        axis = rotations(pose[None, 3:])[0, :, 0]
        boxes = studio.boxes(world)
        boxes = boxes[boxes["actor"] != (self.parent.id if self.parent else 0)]
        parts = [boxes] if self._only_dynamics else [boxes, studio.standing(world).boxes]
        reach = self._distance_m + self._radius_m
        near = [part[np.linalg.norm(part["centre"] - pose[:3], axis=1) < part["radius"] + reach] for part in parts]
        boxes = np.concatenate(near)
        if not len(boxes):
            return
        distance = _swept(boxes, pose[:3], axis, self._radius_m)
        first = int(np.argmin(distance))
        if distance[first] > self._distance_m:
            return
        other = _actor_of(world, boxes[first])
        own = self.parent or self
        yield (wire.obstacle_body(own.wire(), other, float(distance[first])),)


def _actor_of(world: World, box: np.void) -> list[Any]:
    """The actor as the client expects it; a thing of the map has id 0 and is named by its tag."""
    actor = world.actors.get(int(box["actor"]))
    if actor is not None:
        return actor.wire()
    label = Label(int(FACE_LABELS[int(box["kind"])]))
    shape = [[0.0, 0.0, 0.0], box["half"].tolist(), [0.0, 0.0, 0.0], 0]
    return [0, 0, [0, f"static.{label.name.lower().replace('_', '')}", []], shape, bytes([label]), b""]


def _swept(boxes: NDArray[np.void], start: Floats, axis: Floats, radius_m: float) -> Floats:
    """Distance from `start` along `axis` to each box made thicker by a radius; infinite where it is missed."""
    turn = rotations(boxes["rotation"])
    begin = np.einsum("nji,nj->ni", turn, start - boxes["centre"])
    step = np.einsum("nji,j->ni", turn, axis)
    half = boxes["half"] + radius_m
    inverse = 1.0 / np.where(np.abs(step) < 1e-9, 1e-9, step)
    one, two = (-half - begin) * inverse, (half - begin) * inverse
    enter, leave = np.minimum(one, two).max(axis=1), np.maximum(one, two).min(axis=1)
    distance: Floats = np.where((enter <= leave) & (leave >= 0.0), np.maximum(enter, 0.0), np.inf)
    return distance
