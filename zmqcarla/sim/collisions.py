"""Oriented boxes that hit each other: who touches whom, and what impulse parts them.

Boxes stand upright, so the test is two-dimensional (separating axes of two rectangles) plus an overlap in height. The
response is one sequential-impulse pass (Catto, Iterative Dynamics with Temporal Coherence, 2005) with a little
restitution and friction, and a push apart by the penetration.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Pairs = NDArray[np.int64]

RESTITUTION = 0.15
FRICTION = 0.4
_QUIET_MPS = 0.02
_CONTACT_M = 0.02


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


def overlap(a: Rectangle, b: Rectangle, travel_x: float = 0.0, travel_y: float = 0.0) -> Overlap | None:
    """How to part two rectangles that touch now or have passed through each other on the way here.

    Args:
        a: where the first is now.
        b: where the second is now.
        travel_x: how far the second came, as seen from the first, since both were last looked at; x, m.
        travel_y: likewise y.

    Returns:
        The way back along the side by which they met, or, if they overlapped all the time, the shortest way apart;
        None when they did not meet.
    """
    dx, dy = b.x - a.x, b.y - a.y
    cos = abs(a.cos * b.cos + a.sin * b.sin)
    sin = abs(a.cos * b.sin - a.sin * b.cos)
    shallow = way_back = Overlap(math.inf, 0.0, 0.0)
    enters, leaves = -math.inf, math.inf  # share of the way at which all axes overlap
    for axis_x, axis_y, reach in (
        (a.cos, a.sin, a.length + b.length * cos + b.width * sin),
        (-a.sin, a.cos, a.width + b.length * sin + b.width * cos),
        (b.cos, b.sin, b.length + a.length * cos + a.width * sin),
        (-b.sin, b.cos, b.width + a.length * sin + a.width * cos),
    ):
        end = dx * axis_x + dy * axis_y
        travel = travel_x * axis_x + travel_y * axis_y
        start = end - travel
        depth = reach - abs(end)
        if depth <= 0.0 and abs(start + end) >= 2 * reach + abs(travel) - 1e-12:
            return None
        if depth < shallow.depth_m:
            sign = 1.0 if end >= 0.0 else -1.0
            shallow = Overlap(depth, axis_x * sign, axis_y * sign)
        if travel != 0.0:
            side = 1.0 if start >= 0.0 else -1.0
            outward = side if travel * side > 0.0 else -side
            leaves = min(leaves, (outward * reach - start) / travel)
            enter = (-outward * reach - start) / travel
            if enter > enters:
                enters = enter
                way_back = Overlap(reach - side * end, axis_x * side, axis_y * side)
    if enters >= leaves or enters > 1.0 or leaves <= 0.0:
        return None
    if enters > 0.0:
        return way_back
    return shallow if shallow.depth_m > 0.0 else None


def corners(r: Rectangle) -> list[tuple[float, float]]:
    """The four corners of a rectangle, round it."""
    return [
        (
            r.x + along * r.length * r.cos - across * r.width * r.sin,
            r.y + along * r.length * r.sin + across * r.width * r.cos,
        )
        for along, across in ((1, 1), (1, -1), (-1, -1), (-1, 1))
    ]


def _inside(r: Rectangle, point: tuple[float, float]) -> bool:
    dx, dy = point[0] - r.x, point[1] - r.y
    along, across = abs(dx * r.cos + dy * r.sin), abs(dy * r.cos - dx * r.sin)
    return along <= r.length + _CONTACT_M and across <= r.width + _CONTACT_M


def contact_point(a: Rectangle, b: Rectangle) -> tuple[float, float]:
    """Mean of the corners of each that lie in or on the other."""
    points = [p for p in corners(a) if _inside(b, p)] + [p for p in corners(b) if _inside(a, p)]
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
        travel_x, travel_y: how far it came in this tick, m.
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
    travel_x: float = 0.0
    travel_y: float = 0.0
    moved: bool = False


class Hit(NamedTuple):
    """Two bodies by index and the impulse (N s, world frame) on the first."""

    first: int
    second: int
    impulse_x: float
    impulse_y: float


def near_pairs(xy_m: Floats, radii_m: Floats) -> Pairs:
    """Pairs whose circles overlap.

    Sweeps along x, so that its cost grows with crowding and not with the square of the number.

    Args:
        xy_m: float64 (n, 2), centres.
        radii_m: float64 (n,).

    Returns:
        int64 (m, 2), the smaller index first, in order.
    """
    left = xy_m[:, 0] - radii_m
    order = np.argsort(left, kind="stable")
    left = left[order]
    x, y, radius = xy_m[order, 0], xy_m[order, 1], radii_m[order]
    # the partners of each lie behind it in the order, up to the first that begins where it ends
    each = np.arange(len(order))
    partners = np.searchsorted(left, x + radius) - each - 1
    first = np.repeat(each, np.maximum(partners, 0))
    if not len(first):
        return np.empty((0, 2), np.int64)
    second = np.arange(len(first)) - (np.cumsum(partners) - partners - each - 1)[first]
    dx, dy, reach = x[second] - x[first], y[second] - y[first], radius[first] + radius[second]
    met = dx * dx + dy * dy < reach * reach
    one, other = order[first[met]], order[second[met]]
    pairs = np.empty((len(one), 2), np.int64)
    keys = np.sort(np.minimum(one, other) * len(order) + np.maximum(one, other))
    pairs[:, 0], pairs[:, 1] = np.divmod(keys, len(order))
    return pairs


def touching(boxes: Floats, travel_m: Floats, pairs: Pairs) -> Pairs:
    """Those of the pairs that `overlap` is to look at: no axis parts them, neither now nor before nor between.

    Args:
        boxes: float64 (6, n), the fields of `Rectangle`.
        travel_m: float64 (2, n), how far each came.
        pairs: int64 (m, 2).
    """
    ax, ay, a_cos, a_sin, a_long, a_wide = boxes[:, pairs[:, 0]]
    bx, by, b_cos, b_sin, b_long, b_wide = boxes[:, pairs[:, 1]]
    half_x, half_y = (travel_m[:, pairs[:, 1]] - travel_m[:, pairs[:, 0]]) / 2
    dx, dy = bx - ax - half_x, by - ay - half_y
    cos, sin = abs(a_cos * b_cos + a_sin * b_sin), abs(a_cos * b_sin - a_sin * b_cos)
    apart = np.zeros(len(pairs), np.bool_)
    for axis_x, axis_y, reach in (
        (a_cos, a_sin, a_long + b_long * cos + b_wide * sin),
        (-a_sin, a_cos, a_wide + b_long * sin + b_wide * cos),
        (b_cos, b_sin, b_long + a_long * cos + a_wide * sin),
        (-b_sin, b_cos, b_wide + a_long * sin + a_wide * cos),
    ):
        apart |= abs(dx * axis_x + dy * axis_y) >= reach + abs(half_x * axis_x + half_y * axis_y)
    met: Pairs = pairs[~apart]
    return met


def resolve(bodies: Sequence[Body], pairs: Iterable[tuple[int, int]]) -> list[Hit]:
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
        found = overlap(a.rectangle, b.rectangle, b.travel_x - a.travel_x, b.travel_y - a.travel_y)
        if found is None:
            continue
        impulse = _exchange(a, b, found)
        if impulse is not None:
            hits.append(Hit(i, j, -impulse[0], -impulse[1]))
    return hits


def _exchange(a: Body, b: Body, found: Overlap) -> tuple[float, float] | None:
    """Impulse on b (and its opposite on a); None when they were parting already."""
    nx, ny = found.normal_x, found.normal_y
    _part(a, b, found)
    px, py = contact_point(a.rectangle, b.rectangle)
    ax, ay = px - a.rectangle.x, py - a.rectangle.y
    bx, by = px - b.rectangle.x, py - b.rectangle.y
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
