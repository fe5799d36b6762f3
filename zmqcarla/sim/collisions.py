"""Oriented boxes that hit each other: who touches whom, and what impulse parts them.

Boxes stand upright, so the test is two-dimensional (separating axes of two rectangles) plus an overlap in height. The
response is one sequential-impulse pass (Catto, Iterative Dynamics with Temporal Coherence, 2005) with a little
restitution and friction, and a push apart by the penetration.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

RESTITUTION = 0.15
FRICTION = 0.4
_QUIET_MPS = 0.02


class Rectangle(NamedTuple):
    """A box seen from above: centre (m), direction of its length, half length and half width (m)."""

    x: float
    y: float
    cos: float
    sin: float
    length: float
    width: float


class Overlap(NamedTuple):
    """How deep (m) two rectangles overlap, and the unit normal from the first to the second."""

    depth_m: float
    normal_x: float
    normal_y: float


def overlap(a: Rectangle, b: Rectangle) -> Overlap | None:
    """The least translation that parts two rectangles, None when they are apart."""
    dx, dy = b.x - a.x, b.y - a.y
    cos = abs(a.cos * b.cos + a.sin * b.sin)
    sin = abs(a.cos * b.sin - a.sin * b.cos)
    best = math.inf
    normal_x = normal_y = 0.0
    for axis_x, axis_y, reach in (
        (a.cos, a.sin, a.length + b.length * cos + b.width * sin),
        (-a.sin, a.cos, a.width + b.length * sin + b.width * cos),
        (b.cos, b.sin, b.length + a.length * cos + a.width * sin),
        (-b.sin, b.cos, b.width + a.length * sin + a.width * cos),
    ):
        apart = dx * axis_x + dy * axis_y
        depth = reach - abs(apart)
        if depth <= 0.0:
            return None
        if depth < best:
            best = depth
            sign = 1.0 if apart >= 0.0 else -1.0
            normal_x, normal_y = axis_x * sign, axis_y * sign
    return Overlap(best, normal_x, normal_y)


def _corners(r: Rectangle) -> list[tuple[float, float]]:
    return [
        (
            r.x + along * r.length * r.cos - across * r.width * r.sin,
            r.y + along * r.length * r.sin + across * r.width * r.cos,
        )
        for along, across in ((1, 1), (1, -1), (-1, -1), (-1, 1))
    ]


def _inside(r: Rectangle, point: tuple[float, float]) -> bool:
    dx, dy = point[0] - r.x, point[1] - r.y
    return abs(dx * r.cos + dy * r.sin) <= r.length and abs(dy * r.cos - dx * r.sin) <= r.width


def contact_point(a: Rectangle, b: Rectangle) -> tuple[float, float]:
    """Mean of the corners of each that lie in the other."""
    points = [p for p in _corners(a) if _inside(b, p)] + [p for p in _corners(b) if _inside(a, p)]
    if not points:
        return (a.x + b.x) / 2, (a.y + b.y) / 2
    return sum(p[0] for p in points) / len(points), sum(p[1] for p in points) / len(points)


@dataclass(slots=True)
class Body:
    """What the response needs of one partner; `resolve` changes its place and velocity.

    Attributes:
        rectangle: where it is.
        low_m, high_m: height of its underside and top.
        vx, vy, rate: world velocity (m/s) and yaw rate (rad/s).
        inverse_mass: 1/kg, 0 for what cannot be moved; `inverse_inertia` 1/(kg m2).
        moved: whether `resolve` changed it.
    """

    rectangle: Rectangle
    low_m: float
    high_m: float
    vx: float
    vy: float
    rate: float
    inverse_mass: float
    inverse_inertia: float
    moved: bool = False


class Hit(NamedTuple):
    """Two bodies by index and the impulse (N s, world frame) on the first."""

    first: int
    second: int
    impulse_x: float
    impulse_y: float


def near_pairs(xy_m: Sequence[tuple[float, float]], radii_m: Sequence[float]) -> list[tuple[int, int]]:
    """Pairs (i < j) whose circles overlap, in order.

    Sweeps along x, so that its cost grows with crowding and not with the square of the number.
    """
    if len(xy_m) < 2:
        return []
    order = sorted(range(len(xy_m)), key=lambda i: xy_m[i][0] - radii_m[i])
    pairs: list[tuple[int, int]] = []
    open_ones: list[int] = []
    for i in order:
        x, y = xy_m[i]
        left = x - radii_m[i]
        open_ones = [j for j in open_ones if xy_m[j][0] + radii_m[j] >= left]
        for j in open_ones:
            reach = radii_m[i] + radii_m[j]
            dx, dy = xy_m[j][0] - x, xy_m[j][1] - y
            if dx * dx + dy * dy < reach * reach:
                pairs.append((i, j) if i < j else (j, i))
        open_ones.append(i)
    pairs.sort()
    return pairs


def resolve(bodies: Sequence[Body], pairs: Sequence[tuple[int, int]]) -> list[Hit]:
    """Part the bodies of each pair that overlap and exchange momentum.

    Args:
        bodies: changed in place.
        pairs: candidates, from `near_pairs`.

    Returns:
        One hit for each pair that came together, in the order of ``pairs``.
    """
    hits: list[Hit] = []
    for i, j in pairs:
        a, b = bodies[i], bodies[j]
        if a.low_m > b.high_m or b.low_m > a.high_m or a.inverse_mass + b.inverse_mass == 0.0:
            continue
        found = overlap(a.rectangle, b.rectangle)
        if found is None:
            continue
        impulse = _exchange(a, b, found)
        if impulse is not None:
            hits.append(Hit(i, j, -impulse[0], -impulse[1]))
    return hits


def _exchange(a: Body, b: Body, found: Overlap) -> tuple[float, float] | None:
    """Impulse on b (and its opposite on a); None when they were parting already."""
    nx, ny = found.normal_x, found.normal_y
    px, py = contact_point(a.rectangle, b.rectangle)
    ax, ay = px - a.rectangle.x, py - a.rectangle.y
    bx, by = px - b.rectangle.x, py - b.rectangle.y
    _part(a, b, found)
    wx = (b.vx - b.rate * by) - (a.vx - a.rate * ay)
    wy = (b.vy + b.rate * bx) - (a.vy + a.rate * ax)
    closing = wx * nx + wy * ny
    if closing > -_QUIET_MPS:
        return None
    size = -(1 + RESTITUTION) * closing / _softness(a, b, ax, ay, bx, by, nx, ny)
    tx, ty = -ny, nx
    sliding = wx * tx + wy * ty
    rub = -sliding / _softness(a, b, ax, ay, bx, by, tx, ty)
    rub = max(-FRICTION * size, min(FRICTION * size, rub))
    jx, jy = nx * size + tx * rub, ny * size + ty * rub
    a.vx -= jx * a.inverse_mass
    a.vy -= jy * a.inverse_mass
    a.rate -= (ax * jy - ay * jx) * a.inverse_inertia
    b.vx += jx * b.inverse_mass
    b.vy += jy * b.inverse_mass
    b.rate += (bx * jy - by * jx) * b.inverse_inertia
    return jx, jy


def _softness(a: Body, b: Body, ax: float, ay: float, bx: float, by: float, x: float, y: float) -> float:
    """Velocity change at the contact along (x, y) by a unit impulse."""
    arm_a, arm_b = ax * y - ay * x, bx * y - by * x
    return a.inverse_mass + b.inverse_mass + arm_a * arm_a * a.inverse_inertia + arm_b * arm_b * b.inverse_inertia


def _part(a: Body, b: Body, found: Overlap) -> None:
    share = found.depth_m / (a.inverse_mass + b.inverse_mass)
    for body, sign in ((a, -1.0), (b, 1.0)):
        if body.inverse_mass:
            step = sign * share * body.inverse_mass
            r = body.rectangle
            body.rectangle = r._replace(x=r.x + found.normal_x * step, y=r.y + found.normal_y * step)
            body.moved = True
