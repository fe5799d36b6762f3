"""sensor.other.collision: one message for each hit of the actor that carries it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from zmqcarla.sim import wire
from zmqcarla.sim.sensors.base import Body, Measuring
from zmqcarla.sim.studio import Studio
from zmqcarla.sim.world import World


@dataclass(eq=False, slots=True)
class CollisionSensor(Measuring):
    """Reports impacts of its parent, with the impulse on the parent."""

    KIND: ClassVar[wire.StreamType] = wire.StreamType.COLLISION

    def measure(self, world: World, studio: Studio) -> Iterable[Body]:
        """A message for each impact of the parent."""
        for impact in world.impacts:
            x, y, z = impact.impulse
            if impact.actor is self.parent:
                yield (wire.collision_body(impact.actor.wire(), impact.other.wire(), (x, y, z)),)
            elif impact.other is self.parent:
                yield (wire.collision_body(impact.other.wire(), impact.actor.wire(), (-x, -y, -z)),)
