"""What all server-side sensors share: when they are due, their settings, and the shape of what they return."""

import math
import random
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from zmqcarla.sim.actors import Sensor
from zmqcarla.sim.studio import Studio
from zmqcarla.sim.wire import StreamType
from zmqcarla.sim.world import SimError, World

Body = Sequence[bytes | memoryview]
_SLACK_S = 1e-6


@dataclass(eq=False, slots=True)
class Measuring(Sensor, ABC):
    """A sensor that the server measures. In T seconds it sends ceil(T / sensor_tick) messages.

    Attributes:
        span_s: time that the present measurement stands for, that is since the one before.
    """

    KIND: ClassVar[StreamType]
    # Slow sensors measure after the quick ones: a script that waits for its picture then has the rest already.
    SLOW: ClassVar[bool] = False
    span_s: float = 0.0
    _measured_s: float = 0.0

    def __post_init__(self) -> None:
        self.physics = False
        self.tick_s = self.setting("sensor_tick", 0.0, 0.0, 1e6)

    def setting(self, name: str, default: float, least: float, most: float) -> float:
        """A numeric attribute.

        Raises:
            SimError: it is not a number from ``least`` to ``most``.
        """
        text = self.attribute(name, str(default))
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not least <= number <= most:
            raise SimError(f"{self.type_id}: expected {name} from {least:g} to {most:g}, found {text!r}")
        return number

    def flag(self, name: str) -> bool:
        """A bool attribute."""
        return self.attribute(name, "false").lower() in ("true", "1")

    def due(self, delta_s: float) -> bool:
        """Let ``delta_s`` pass; whether the sensor measures at its end."""
        begin = self.since_s
        self.since_s += delta_s
        if self.tick_s > 0.0:
            if begin + _SLACK_S < self.due_s:
                return False
            while self.due_s <= begin + _SLACK_S:
                self.due_s += self.tick_s
        self.span_s = self.since_s - self._measured_s
        self._measured_s = self.since_s
        return True

    def noise(self) -> random.Random:
        """A generator seeded by the sensor's noise_seed and the simulator's seed."""
        return random.Random(f"{self.seed} {int(self.setting('noise_seed', 0, -(2**63), 2**63))}")

    @abstractmethod
    def measure(self, world: World, studio: Studio) -> Iterable[Body]:
        """The bodies of the messages of this tick; each is sent before the next is asked for.

        Args:
            world: what is measured.
            studio: sees it, for cameras and rays.
        """
