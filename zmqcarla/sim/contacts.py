"""Who hits whom in a tick: vehicles, walkers and props each other, and what stands beside the road.

Broad to narrow: pairs whose circles are near (kept over ticks), those that no axis parts (arrays), then one by one the
exact test along the way of the tick and the exchange of momentum (collisions.py).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from zmqcarla.sim.actors import Actor, ActorTable, Prop, Vehicle, Walker
from zmqcarla.sim.collisions import Body, Floats, Pairs, Rectangle, near_pairs, overlap, resolve, touching
from zmqcarla.sim.geometry import Pose, Vector
from zmqcarla.sim.obstacles import Obstacle, Obstacles

_PAIR_MARGIN_M = 6.0
# No vehicle's body is wider; what the box of a bus or lorry has beyond it are mirrors, which fold.
_WIDEST_BODY_M = 2.6


class Impact(NamedTuple):
    """Two actors that hit each other and the impulse (N s, world frame) on the first."""

    actor: Actor
    other: Actor
    impulse: Vector


def half_width_m(actor: Actor) -> float:
    """Half the width of what can be hit of an actor."""
    across = actor.shape.extent_m[1]
    return min(across, _WIDEST_BODY_M / 2) if isinstance(actor, Vehicle) else across


def half_length_m(actor: Actor) -> float:
    """Distance from the actor's centre to the corner of its box, seen from above."""
    return math.hypot(actor.shape.extent_m[0], actor.shape.extent_m[1])


def rectangle_of(actor: Actor, x: float, y: float, yaw_deg: float) -> Rectangle:
    """An actor's box seen from above, with the actor at a pose."""
    yaw = math.radians(yaw_deg)
    cos, sin = math.cos(yaw), math.sin(yaw)
    along, across = actor.shape.centre_m[:2]
    return Rectangle(
        x + along * cos - across * sin,
        y + along * sin + across * cos,
        cos,
        sin,
        actor.shape.extent_m[0],
        half_width_m(actor),
    )


class Contacts:
    """Finds and answers the collisions of a tick.

    Args:
        table: whose records are read and written.
        obstacles: what of the map can be hit.
        hidden: numbers of those that are not there for now.
    """

    def __init__(self, table: ActorTable, obstacles: Obstacles, hidden: set[int]) -> None:
        self._table = table
        self._obstacles = obstacles
        self._hidden = hidden
        self._solids: list[Actor] = []
        self._shapes: Floats = np.empty((5, 0))
        self._pairs: Pairs = np.empty((0, 2), np.int64)
        self._paired_at: Floats = np.empty((0, 2))

    def collide(self, solids: Sequence[Actor], delta_s: float) -> list[Impact]:
        """Part what met in the last ``delta_s`` and exchange momentum.

        Args:
            solids: all that may be hit.
            delta_s: length of the tick, which gives the way that each came.

        Returns:
            The impacts, first those between actors.
        """
        met, walls = self._meetings(solids, delta_s)
        if not met and not walls:
            return []
        wanted = sorted({index for pair in met for index in pair} | {index for index, _ in walls})
        place_of = {index: place for place, index in enumerate(wanted)}
        bodies = [self._body(solids[index], delta_s) for index in wanted]
        actors = [solids[index] for index in wanted]
        pairs = [(place_of[i], place_of[j]) for i, j in met]
        for index, obstacle in walls:
            pairs.append((place_of[index], len(bodies)))
            bodies.append(Body(obstacle.rectangle, obstacle.low_m, obstacle.high_m, 0.0, 0.0, 0.0, 0.0, 0.0))
            actors.append(obstacle.actor)
        hits = resolve(bodies, pairs)
        for place, body in enumerate(bodies[: len(wanted)]):
            if body.moved:
                self._put_back(actors[place], body, delta_s)
        return [Impact(actors[h.first], actors[h.second], (h.impulse_x, h.impulse_y, 0.0)) for h in hits]

    def room_for(self, actor: Actor, pose: Pose) -> bool:
        """Whether nothing of the map stands where an actor is to be."""
        mine = rectangle_of(actor, pose[0], pose[1], pose[4])
        low = pose[2] + actor.shape.centre_m[2] - actor.shape.extent_m[2]
        high = low + 2 * actor.shape.extent_m[2]
        reach = half_length_m(actor)
        if self._obstacles.clear_m(pose[0], pose[1]) > reach:
            return True
        return all(
            low > o.high_m or high < o.low_m or overlap(mine, o.rectangle) is None
            for o in self._standing(pose[0], pose[1], reach)
        )

    def _standing(self, x_m: float, y_m: float, reach_m: float) -> list[Obstacle]:
        near = self._obstacles.near(x_m, y_m, reach_m)
        return [o for o in near if o.number not in self._hidden] if self._hidden else near

    def _meetings(
        self, solids: Sequence[Actor], delta_s: float
    ) -> tuple[list[tuple[int, int]], list[tuple[int, Obstacle]]]:
        """Pairs of actors, and of actors and obstacles, that may have met; actors by index."""
        if len(solids) == 1:
            return [], self._walls(0, solids[0], delta_s)
        if not solids:
            return [], []
        if self._solids != solids:
            self._solids = list(solids)
            shapes = [(a.shape.extent_m[0], half_width_m(a), *a.shape.centre_m[:2], half_length_m(a)) for a in solids]
            self._shapes = np.array(shapes).T
            self._paired_at = np.full((len(solids), 2), np.inf)
        motion = self._table.columns([actor.row for actor in solids])
        xy, travel = motion[:2].T, motion[6:8] * delta_s
        half_long, half_wide, ahead, aside, radius = self._shapes
        reach = radius + abs(travel[0]) + abs(travel[1])
        walls = [
            found
            for index in np.flatnonzero(self._obstacles.clearances_m(xy) < reach).tolist()
            for found in self._walls(index, solids[index], delta_s)
        ]
        # pairs that are near with a margin stay all pairs that can touch until somebody has moved half of it
        if not abs(xy - self._paired_at).max() < _PAIR_MARGIN_M / 3:
            self._pairs = near_pairs(xy, reach + _PAIR_MARGIN_M / 2)
            self._paired_at = xy
        first, second = self._pairs.T
        apart, together = xy[first] - xy[second], reach[first] + reach[second]
        near = self._pairs[(apart * apart).sum(axis=1) < together * together]
        if not len(near):
            return [], walls
        x, y = motion[:2]
        yaw = np.radians(motion[4])
        cos, sin = np.cos(yaw), np.sin(yaw)
        boxes = np.empty((6, len(solids)))
        boxes[0], boxes[1] = x + ahead * cos - aside * sin, y + ahead * sin + aside * cos
        boxes[2], boxes[3], boxes[4], boxes[5] = cos, sin, half_long, half_wide
        touched = touching(boxes, travel, near)
        return [(i, j) for i, j in touched.tolist() if _may_meet(solids[i], solids[j])], walls

    def _walls(self, index: int, actor: Actor, delta_s: float) -> list[tuple[int, Obstacle]]:
        """The obstacles near an actor."""
        if not (_moves(actor) and actor.physics):
            return []
        x, y = self._table.pose(actor.row)[:2]
        vx, vy, _ = self._table.velocity(actor.row)
        reach = half_length_m(actor) + (abs(vx) + abs(vy)) * delta_s
        if self._obstacles.clear_m(x, y) > reach:
            return []
        return [(index, obstacle) for obstacle in self._standing(x, y, reach)]

    def _body(self, actor: Actor, delta_s: float) -> Body:
        x, y, z, _, yaw, _ = self._table.pose(actor.row)
        motion = self._table.motion(actor.row)
        middle, half = z + actor.shape.centre_m[2], actor.shape.extent_m[2]
        inverse_mass = inverse_inertia = 0.0
        if actor.physics:
            match actor:
                case Vehicle():
                    inverse_mass = 1.0 / actor.model.mass_kg
                    inverse_inertia = inverse_mass / actor.model.gyration_m2
                case Walker():
                    inverse_mass = 1.0 / actor.blueprint.mass_kg
                case Prop():
                    inverse_mass = 1.0 / actor.blueprint.mass_kg
                    inverse_inertia = inverse_mass * 3 / half_length_m(actor) ** 2
                case _:
                    pass
        return Body(
            rectangle_of(actor, x, y, yaw),
            middle - half,
            middle + half,
            motion[0],
            motion[1],
            math.radians(motion[5]),
            inverse_mass,
            inverse_inertia,
            motion[0] * delta_s,
            motion[1] * delta_s,
        )

    def _put_back(self, actor: Actor, body: Body, delta_s: float) -> None:
        pose, motion = self._table.pose(actor.row), self._table.motion(actor.row)
        r = body.rectangle
        along, across = actor.shape.centre_m[:2]
        x = r.x - along * r.cos + across * r.sin
        y = r.y - along * r.sin - across * r.cos
        self._table.set_pose(actor.row, (x, y, *pose[2:]))
        ax, ay = motion[6] + (body.vx - motion[0]) / delta_s, motion[7] + (body.vy - motion[1]) / delta_s
        spin = math.degrees(body.rate)
        self._table.set_motion(actor.row, (body.vx, body.vy, motion[2], 0.0, 0.0, spin, ax, ay, motion[8]))
        if isinstance(actor, Vehicle):
            actor.asleep = False
        elif isinstance(actor, Walker):
            actor.grounded = None


def _may_meet(a: Actor, b: Actor) -> bool:
    """Whether a pair is worth a look: one of them may move, and they are not attached to each other."""
    if a.parent is b or b.parent is a:
        return False
    return _moves(a) or _moves(b)


def _moves(actor: Actor) -> bool:
    match actor:
        case Vehicle():
            return not actor.asleep
        case Walker():
            return True
        case Prop():
            return actor.physics
        case _:
            return False
