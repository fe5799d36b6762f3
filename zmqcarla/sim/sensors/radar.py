"""sensor.other.radar: points in a cone, with how fast they come or go."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from zmqcarla.sim import wire
from zmqcarla.sim.camera import rotations
from zmqcarla.sim.sensors.base import Body, Measuring
from zmqcarla.sim.sensors.rays import Fan, Hits, cast_rays
from zmqcarla.sim.studio import Studio
from zmqcarla.sim.world import World

Floats = NDArray[np.float64]


@dataclass(eq=False, slots=True)
class Radar(Measuring):
    """Rays scattered over an elliptic cone at random, seeded by noise_seed at the spawn."""

    KIND: ClassVar[wire.StreamType] = wire.StreamType.RADAR
    SLOW: ClassVar[bool] = True
    _random: np.random.Generator = field(init=False)
    _range_m: float = 100.0
    _points_hz: float = 1500.0
    _wide: float = 0.27
    _high: float = 0.27

    def __post_init__(self) -> None:
        # not super(): a slots dataclass is a new class, which super() without arguments does not know
        Measuring.__post_init__(self)
        self._random = np.random.default_rng(self.noise().getrandbits(63))
        self._range_m = self.setting("range", 100.0, 0.0, 1000.0)
        self._points_hz = self.setting("points_per_second", 1500, 0.0, 10e6)
        self._wide, self._high = (
            math.tan(math.radians(self.setting(f"{name}_fov", 30.0, 0.0, 170.0)) / 2.0)
            for name in ("horizontal", "vertical")
        )

    def measure(self, world: World, studio: Studio) -> Iterable[Body]:
        """One message."""
        count = int(self._points_hz * self.span_s + 1e-6)
        radius, turn = self._random.random(count), 2.0 * math.pi * self._random.random(count)
        rays = np.ones((3, count))
        rays[1], rays[2] = self._wide * radius * np.cos(turn), self._high * radius * np.sin(turn)
        rays /= np.linalg.norm(rays, axis=0)
        pose = world.table.pose(self.row)
        hits = cast_rays(world, studio, pose, Fan(rays), self._range_m)
        met = rays[:, hits.ray]
        detections = np.empty((len(hits.ray), 4), np.float32)
        detections[:, 0] = self._speeds(world, hits, rotations(np.array([pose[3:]]))[0] @ met)
        detections[:, 1] = np.arctan2(met[1], met[0])
        detections[:, 2] = np.arcsin(met[2])
        detections[:, 3] = hits.distance_m
        yield (detections.tobytes(),)

    def _speeds(self, world: World, hits: Hits, away: Floats) -> Floats:
        """How fast each thing that was met goes away, along world directions (3, n): float64 (n,), m/s."""
        numbers, which = np.unique(hits.actor, return_inverse=True)
        velocities = np.zeros((len(numbers), 3))
        for index, number in enumerate(numbers.tolist()):
            actor = world.actors.get(number)
            if actor is not None:
                velocities[index] = world.table.velocity(actor.row)
        own = np.array(world.table.velocity(self.row))
        speeds: Floats = np.einsum("ni,in->n", (velocities - own)[which], away)
        return speeds
