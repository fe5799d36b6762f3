"""sensor.lidar.ray_cast_semantic: points that know what they met; none is lost."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from zmqcarla.sim import wire
from zmqcarla.sim.sensors.base import Body
from zmqcarla.sim.sensors.lidar import Spinning
from zmqcarla.sim.studio import Studio
from zmqcarla.sim.world import World


@dataclass(eq=False, slots=True)
class SemanticLidar(Spinning):
    """Each point with the cosine of its angle of incidence, the actor's id (0: the map's) and CARLA's tag."""

    KIND: ClassVar[wire.StreamType] = wire.StreamType.SEMANTIC_LIDAR

    def measure(self, world: World, studio: Studio) -> Iterable[Body]:
        """One message."""
        rays = self.rays()
        count = rays.shape[2]
        rays = rays.reshape(3, -1)
        hits = self.cast(world, studio, rays)
        points = np.empty(len(hits.ray), wire.SEMANTIC_POINT)
        points["place"] = (rays[:, hits.ray] * hits.distance_m).T
        points["cosine"], points["actor"], points["label"] = hits.cosine, hits.actor, hits.label
        yield (self.head(hits.ray // max(count, 1)), points.tobytes())
