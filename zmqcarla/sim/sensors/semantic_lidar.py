"""sensor.lidar.ray_cast_semantic: points that know what they met; none is lost."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from zmqcarla.sim import wire
from zmqcarla.sim.sensors.base import Body
from zmqcarla.sim.sensors.lidar import Spinning
from zmqcarla.sim.sensors.rays import cast_rays
from zmqcarla.sim.studio import Studio
from zmqcarla.sim.world import World


@dataclass(eq=False, slots=True)
class SemanticLidar(Spinning):
    """Each point with the cosine of its angle of incidence, the actor's id (0: the map's) and CARLA's tag."""

    KIND: ClassVar[wire.StreamType] = wire.StreamType.SEMANTIC_LIDAR

    def measure(self, world: World, studio: Studio) -> Iterable[Body]:
        """One message."""
        fan = self.fan()
        hits = cast_rays(world, studio, world.table.pose(self.row), fan, self.range_m)
        points = np.empty(len(hits.ray), wire.SEMANTIC_POINT)
        points["place"] = (fan.directions[:, hits.ray] * hits.distance_m).T
        points["cosine"], points["actor"], points["label"] = hits.cosine, hits.actor, hits.label
        yield (self.head(hits.ray, fan.directions.shape[1]), points.tobytes())
