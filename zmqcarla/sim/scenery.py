"""What stands beside the road: houses and trees from a seeded generator, poles, lamps and signs from the map's signals.

Nothing is ever placed on a lane or a square: an occupancy grid of one metre cells holds all of them, and each new thing
is placed only where the grid is free. Houses line streets with pavements; faster roads get trees alone.
"""

from __future__ import annotations

import math
import random
from functools import lru_cache
from typing import TYPE_CHECKING

import cv2
import numpy as np

from zmqcarla.sim.meshes import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from zmqcarla.sim.roads import RoadMap
    from zmqcarla.sim.signals import Signal

    Floats = NDArray[np.float64]

BOX_DTYPE = np.dtype(
    [
        ("centre", np.float64, 3),
        ("half", np.float64, 3),
        ("rotation", np.float64, 3),
        ("bgr", np.uint8, 3),
        ("kind", np.uint8),
        ("lamps", np.uint8),
        ("signal", np.int16),
        ("label", np.uint8),
        ("actor", np.uint32),
        ("radius", np.float64),
    ],
    align=True,
)
"""One oriented box. centre (x, y, z) and half sizes in metres, rotation (pitch, yaw, roll) in degrees, all in CARLA's
frame; bgr is the colour of its body; kind a `Kind`; lamps the shining ones as bits of `moving.Lamp`; signal the index
of its signal in RoadMap.signals or -1; label and actor an actor's semantic tag and id, 0 for what the map brings
along; radius that of the sphere around it, which `with_radius` fills in."""


def with_radius(boxes: NDArray[np.void]) -> NDArray[np.void]:
    """The boxes, each with its radius."""
    boxes["radius"] = np.linalg.norm(boxes["half"], axis=1)
    return boxes


TREE_DTYPE = np.dtype([("foot", np.float64, 3), ("height", np.float64), ("radius", np.float64), ("bgr", np.uint8, 3)])

_MARGIN_M = 60.0
_SETBACK_M = 1.5
_SECOND_ROW_M = 20.0
_URBAN_KMH = 70.0
_FACADES = (
    (118, 148, 178), (96, 124, 162), (150, 176, 204), (82, 98, 150), (168, 152, 118), (122, 166, 190), (108, 134, 146),
    (176, 188, 214), (140, 118, 96), (92, 140, 132),
)  # fmt: skip
"""House colours, BGR; none neutral enough to pass for road, in sun or shade."""
_LEAVES = ((38, 96, 52), (44, 112, 70), (34, 84, 58), (52, 122, 84))


class _Plot:
    """The occupancy grid."""

    def __init__(self, road_map: RoadMap) -> None:
        min_x, min_y, max_x, max_y = road_map.bounds_m
        self._origin = np.array([min_x - _MARGIN_M, min_y - _MARGIN_M])
        size = np.array([max_x, max_y]) + _MARGIN_M - self._origin
        self._taken = np.zeros((int(size[1]) + 1, int(size[0]) + 1), np.uint8)
        for strip in road_map.strips:
            if strip.lane.lane_id and strip.lane.kind != "none":
                self._mark(self._taken, strip.outline_m, (0, 0))
        for left, top, right, bottom in road_map.squares_m:
            self._mark(self._taken, np.array([[left, top], [right, top], [right, bottom], [left, bottom]]), (0, 0))
        self._taken = np.asarray(cv2.dilate(self._taken, np.ones((3, 3), np.uint8)), np.uint8)

    def _mark(self, grid: NDArray[np.uint8], outline: Floats, corner: tuple[int, int]) -> None:
        cells = np.round(outline[:, :2] - self._origin).astype(np.int32) - corner
        cv2.fillPoly(grid, [cells], 1)

    def take(self, outline: Floats) -> bool:
        """Occupy the polygon (n, 2) if all of it is free and on the map."""
        cells = np.round(outline - self._origin).astype(int)
        (left, top), (right, bottom) = cells.min(axis=0), cells.max(axis=0) + 1
        if left < 0 or top < 0 or right > self._taken.shape[1] or bottom > self._taken.shape[0]:
            return False
        part = self._taken[top:bottom, left:right]
        stamp = np.zeros_like(part)
        self._mark(stamp, outline, (int(left), int(top)))
        if (part & stamp).any():
            return False
        part |= stamp
        return True


def _roadsides(road_map: RoadMap) -> Iterator[tuple[Floats, Floats, bool]]:
    """Outer borders of the roads outside junctions: points (n, 3), outward unit vectors (n, 2), whether urban."""
    for strip in road_map.strips:
        lane_id = strip.lane.lane_id
        step = 1 if lane_id > 0 else -1
        beyond = strip.section.lanes.get(lane_id + step)
        if not lane_id or strip.road.junction_id >= 0 or strip.lane.kind == "none" or len(strip.s_m) < 4:
            continue
        if beyond is None or beyond.kind == "none":
            out = (strip.outer_m - strip.inner_m)[:, :2]
            length = np.linalg.norm(out, axis=1, keepdims=True)
            urban = strip.lane.kind == "sidewalk" or strip.speed_kmh < _URBAN_KMH
            yield strip.outer_m, out / np.maximum(length, 1e-6), urban


def _footprint(x: float, y: float, half: tuple[float, float], out: tuple[float, float]) -> Floats:
    """Corners (4, 2) of a rectangle: half[0] along the road, half[1] away from it."""
    signs = np.array([[1, 1], [1, -1], [-1, -1], [-1, 1]]) * half
    corners: Floats = signs @ np.array([[-out[1], out[0]], [out[0], out[1]]]) + (x, y)
    return corners


def _house(
    chance: random.Random, plot: _Plot, place: Floats, out: Floats, setback_m: float
) -> tuple[object, ...] | None:
    half_along, half_deep = chance.uniform(5.0, 10.0), chance.uniform(4.5, 7.0)
    tall = chance.uniform(5.0, 13.0) if chance.random() < 0.75 else chance.uniform(13.0, 26.0)
    tall += 6.0 if setback_m > _SETBACK_M else 0.0
    away = setback_m + half_deep
    x, y = float(place[0] + out[0] * away), float(place[1] + out[1] * away)
    facing = (float(out[0]), float(out[1]))
    if not plot.take(_footprint(x, y, (half_along + 0.5, half_deep + 0.5), facing)):
        return None
    yaw = math.degrees(math.atan2(facing[1], facing[0]))
    half = (half_deep, half_along, tall / 2 + 0.5)
    centre = (x, y, float(place[2]) + tall / 2 - 0.5)
    return centre, half, (0.0, yaw, 0.0), chance.choice(_FACADES), int(Kind.HOUSE), 0, -1, 0, 0, 0.0


def _tree(chance: random.Random, plot: _Plot, place: Floats, out: Floats, urban: bool) -> tuple[object, ...] | None:
    away = chance.uniform(1.5, 3.0) if urban else chance.uniform(4.0, 22.0)
    x, y = float(place[0] + out[0] * away), float(place[1] + out[1] * away)
    tall = chance.uniform(4.5, 8.0)
    if not plot.take(_footprint(x, y, (1.0, 1.0), (float(out[0]), float(out[1])))):
        return None
    return (x, y, float(place[2])), tall, tall * chance.uniform(0.22, 0.3), chance.choice(_LEAVES)


@lru_cache(maxsize=4)
def grow(road_map: RoadMap, seed: int = 0) -> tuple[NDArray[np.void], NDArray[np.void]]:
    """Houses (BOX_DTYPE) and trees (TREE_DTYPE) along all roads of a map, made once and read-only.

    Equal arguments give equal scenery.
    """
    chance = random.Random(seed)
    plot = _Plot(road_map)
    houses: list[tuple[object, ...]] = []
    trees: list[tuple[object, ...]] = []
    roadsides = list(_roadsides(road_map))
    for setback_m in (_SETBACK_M, _SECOND_ROW_M):
        for line, out, urban in roadsides:
            index = chance.randrange(6)
            while urban and index < len(line):
                skip = setback_m > _SETBACK_M and chance.random() < 0.4
                house = None if skip else _house(chance, plot, line[index], out[index], setback_m)
                houses += [house] if house else []
                index += chance.randrange(14, 24) if house else 4
    for line, out, urban in roadsides:
        for index in range(chance.randrange(8), len(line), 9 if urban else 14):
            tree = _tree(chance, plot, line[index], out[index], urban)
            trees += [tree] if tree else []
    grown = with_radius(np.array(houses, BOX_DTYPE)), np.array(trees, TREE_DTYPE)
    for things in grown:
        things.flags.writeable = False
    return grown


_POLE_BGR = (70, 74, 66)


def _light(signal: Signal, index: int) -> Iterator[tuple[object, ...]]:
    """A pole, an arm over the lane, a head at its end and a lower one on the pole."""
    x, y, z = signal.pole_location
    turn = math.radians(signal.pole_yaw_deg)
    right = (-math.sin(turn), math.cos(turn))
    boxes = np.array([box.centre[:2] for box in signal.trigger_boxes])
    reach = float(np.clip((boxes.mean(axis=0) - (x, y)) @ right, -7.5, 7.5))
    rotation = (0.0, signal.pole_yaw_deg, 0.0)

    def part(aside: float, up: float, half: tuple[float, float, float], kind: Kind) -> tuple[object, ...]:
        ahead = 0.25 if kind == Kind.LIGHT_HEAD else 0.0
        centre = (
            x + aside * right[0] + ahead * math.cos(turn),
            y + aside * right[1] + ahead * math.sin(turn),
            z + up,
        )
        return centre, half, rotation, _POLE_BGR, int(kind), 0, index if kind == Kind.LIGHT_HEAD else -1, 0, 0, 0.0

    yield part(0.0, 2.9, (0.09, 0.09, 2.9), Kind.POLE)
    yield part(reach / 2, 5.75, (0.06, abs(reach) / 2, 0.06), Kind.POLE)
    yield part(reach, 5.3, (0.16, 0.26, 0.62), Kind.LIGHT_HEAD)
    yield part(0.0, 3.0, (0.16, 0.22, 0.52), Kind.LIGHT_HEAD)


def _sign(signal: Signal, index: int) -> Iterator[tuple[object, ...]]:
    x, y, z = signal.pole_location
    turn = math.radians(signal.pole_yaw_deg)
    rotation = (0.0, signal.pole_yaw_deg, 0.0)
    kind = Kind.STOP_SIGN if signal.type_id == "traffic.stop" else Kind.YIELD_SIGN
    plate = (x + 0.08 * math.cos(turn), y + 0.08 * math.sin(turn), z + 2.35)
    yield (x, y, z + 1.2), (0.04, 0.04, 1.2), rotation, _POLE_BGR, int(Kind.POLE), 0, -1, 0, 0, 0.0
    yield plate, (0.02, 0.42, 0.42), rotation, _POLE_BGR, int(kind), 0, index, 0, 0, 0.0


def furniture(road_map: RoadMap) -> NDArray[np.void]:
    """Poles, light heads and sign plates of a map's signals (BOX_DTYPE)."""
    parts: list[tuple[object, ...]] = []
    for index, signal in enumerate(road_map.signals):
        if signal.type_id not in ("traffic.traffic_light", "traffic.stop", "traffic.yield"):
            continue  # speed limit signs are not drawn
        make = _light if signal.type_id == "traffic.traffic_light" else _sign
        parts.extend(make(signal, index))
    return with_radius(np.array(parts, BOX_DTYPE))
