"""What all server-side sensors share: when they are due, and the shape of what they return."""

import random
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from zmqcarla.sim.actors import Sensor
from zmqcarla.sim.studio import Studio
from zmqcarla.sim.wire import StreamType
from zmqcarla.sim.world import World

Body = Sequence[bytes | memoryview]
_SLACK_S = 1e-6


@dataclass(eq=False, slots=True)
class Measuring(Sensor, ABC):
    """A sensor that the server measures. In T seconds it sends ceil(T / sensor_tick) messages."""

    KIND: ClassVar[StreamType]
    # Slow sensors measure after the quick ones: a script that waits for its picture then has the rest already.
    SLOW: ClassVar[bool] = False

    def __post_init__(self) -> None:
        self.physics = False
        self.tick_s = self.number("sensor_tick", 0.0)

    def due(self, delta_s: float) -> bool:
        """Let ``delta_s`` pass; whether the sensor measures at its end."""
        begin = self.since_s
        self.since_s += delta_s
        if self.tick_s <= 0.0:
            return True
        if begin + _SLACK_S < self.due_s:
            return False
        while self.due_s <= begin + _SLACK_S:
            self.due_s += self.tick_s
        return True

    def noise(self) -> random.Random:
        """A generator seeded by the sensor's noise_seed and the simulator's seed."""
        return random.Random(f"{self.seed} {int(self.number('noise_seed', 0))}")

    @abstractmethod
    def measure(self, world: World, studio: Studio) -> Iterable[Body]:
        """The bodies of the messages of this tick; each is sent before the next is asked for.

        Args:
            world: what is measured.
            studio: paints, for cameras.
        """
