"""Which actors of a world can stand for the bodies of a snapshot, which are missing and which are too many."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from zmqcarla.workers.snapshots.bodies import Body, Look


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do.

    Attributes:
        kept: actor id by body id.
        missing: bodies to be born, in order.
        extra: ids of actors to be destroyed.
    """

    kept: dict[int, int]
    missing: list[Body]
    extra: list[int]


def plan(bodies: Sequence[Body], actors: Mapping[int, Look], known: Mapping[int, int], ego: tuple[int, int]) -> Plan:
    """Choose actors for bodies.

    Order of birth is part of a world: it says who is looked at first when several meet. So from the first body that has
    to be born on, all others are born anew too, but for the ego. Walkers always are: that one of them has died cannot
    be read.

    Args:
        bodies: of the snapshot, in order of birth.
        actors: that live, in order of birth, without the ego.
        known: actor id by body id, of the bodies whose actors lived when the episode was last seen.
        ego: body id and actor id of the ego, which stays.
    """
    wanted = [known.get(body.body_id, body.body_id) for body in bodies]
    same = {w for w, body in zip(wanted, bodies, strict=True) if actors.get(w) == body.look}
    free: defaultdict[Look, deque[int]] = defaultdict(deque)
    for actor_id, look in actors.items():
        if actor_id not in same:
            free[look].append(actor_id)
    kept: dict[int, int] = {}
    missing: list[Body] = []
    last = 0
    for actor_id, body in zip(wanted, bodies, strict=True):
        if body.body_id == ego[0]:
            kept[body.body_id] = last = ego[1]
            continue
        found = actor_id if actor_id in same else _next(free[body.look], last)
        if missing or found is None or found <= last or body.family == "walker":
            missing.append(body)
        else:
            kept[body.body_id] = last = found
    taken = set(kept.values())
    return Plan(kept, missing, [actor_id for actor_id in actors if actor_id not in taken])


def _next(free: deque[int], last: int) -> int | None:
    while free:
        actor_id = free.popleft()
        if actor_id > last:
            return actor_id
    return None
