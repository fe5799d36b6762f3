"""Collisions, each counted once.

A contact sends a message every tick that it lasts. What is hit again within 5 s, or anything within 5 m of the last
counted collision, is the same one; a vehicle that stands is not at fault.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from zmqcarla.workers.criteria.base import Criterion, Hit, Infraction, Kind, Tick, Vector, place_text

_SAME_PLACE_M: Final = 5.0
_SAME_ACTOR_S: Final = 5.0
_STANDING_MPS: Final = 0.1


@dataclass(slots=True)
class Collisions(Criterion):
    """Counts collisions by what was hit: walkers, vehicles, or anything else."""

    reads_hits = True
    _actor: tuple[int, float] | None = field(default=None, init=False)
    _place_m: Vector | None = field(default=None, init=False)

    def update(self, tick: Tick) -> None:
        """Take the tick's messages, then forget a collision that lies behind."""
        for hit in tick.hits:
            self._count(hit, tick)
        if self._place_m is not None and tick.distance_m(self._place_m) > _SAME_PLACE_M:
            self._place_m = None
        if self._actor is not None and tick.time_s - self._actor[1] > _SAME_ACTOR_S:
            self._actor = None

    def _count(self, hit: Hit, tick: Tick) -> None:
        if self._actor is not None and self._actor[0] == hit.actor_id:
            return
        if self._place_m is not None and tick.distance_m(self._place_m) <= _SAME_PLACE_M:
            return
        if tick.speed_mps < _STANDING_MPS:
            return
        self._place_m = tick.position_m
        if hit.actor_id != 0:
            self._actor = (hit.actor_id, tick.time_s)
        kind = kind_of(hit.actor_type)
        if kind is not None:
            text = f"Agent collided against object with type={hit.actor_type} and id={hit.actor_id} at "
            self.infractions.append(Infraction(kind, tick, text + place_text(tick.position_m)))


def kind_of(actor_type: str) -> Kind | None:
    """Return what an actor counts as when hit, None for what is not counted, such as a kerb."""
    if ("static" in actor_type or "traffic" in actor_type) and "sidewalk" not in actor_type:
        return Kind.COLLISION_LAYOUT
    if "vehicle" in actor_type:
        return Kind.COLLISION_VEHICLE
    return Kind.COLLISION_PEDESTRIAN if "walker" in actor_type else None
