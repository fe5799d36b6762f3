"""What stands beside the road as something to hit: houses, poles and tree trunks as upright boxes.

The shapes are those of scenery.py, which the cameras show. A grid tells how far the nearest obstacle is, so that
whoever drives on a lane costs one look into it.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

from zmqcarla.sim.actors import Actor
from zmqcarla.sim.blueprints import Blueprint, Label, Shape
from zmqcarla.sim.collisions import Rectangle, corners
from zmqcarla.sim.meshes import Kind
from zmqcarla.sim.scenery import furniture, grow

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from zmqcarla.sim.roads import RoadMap

    Floats = NDArray[np.float64]

_TRUNK_HALF_M = 0.2
_TRUNK_SHARE = 0.5
# the arms of lamp posts reach over the lanes, above everybody
_FLAT_M = 0.2
_MARGIN_M = 80.0
_CELL_M = 1.0
# both the obstacle and who asks are rounded to a cell
_SLACK_M = 1.6 * _CELL_M


def _part_of_the_world(name: str, label: Label) -> Actor:
    """What a collision names as the other actor when a part of the map is hit: id 0, as in CARLA."""
    blueprint = Blueprint(0, f"static.{name}", (), Shape(), label, 0.0, True)
    return Actor(0, blueprint, [], Shape(), 0, physics=False)


_HOUSE = _part_of_the_world("building", Label.BUILDING)
_POLE = _part_of_the_world("pole", Label.POLE)
_TREE = _part_of_the_world("vegetation", Label.VEGETATION)
_SOLID_KINDS = {int(Kind.HOUSE): _HOUSE, int(Kind.POLE): _POLE}


class Obstacle(NamedTuple):
    """One upright box of the map, its underside and top, what it is called, and its `level.LevelObject.number`."""

    rectangle: Rectangle
    low_m: float
    high_m: float
    actor: Actor
    number: int


class Obstacles:
    """All obstacles of a map.

    Args:
        road_map: whose scenery they are.
    """

    def __init__(self, road_map: RoadMap) -> None:
        houses, trees = grow(road_map)
        boxes = np.concatenate([houses, furniture(road_map)])
        self.items = [*_boxes(boxes), *_trunks(trees, len(boxes))]
        self._xy: Floats = np.array([item.rectangle[:2] for item in self.items]).reshape(-1, 2)
        self._radius: Floats = np.array([math.hypot(*item.rectangle[4:6]) for item in self.items])
        min_x, min_y, max_x, max_y = road_map.bounds_m
        self._left, self._top = min_x - _MARGIN_M, min_y - _MARGIN_M
        self._columns = int((max_x - min_x + 2 * _MARGIN_M) / _CELL_M) + 1
        self._rows = int((max_y - min_y + 2 * _MARGIN_M) / _CELL_M) + 1
        self._clear_m = self._clearances()

    def _clearances(self) -> NDArray[np.float32]:
        """At least how far the nearest obstacle is from each cell, m; flattened."""
        free = np.full((self._rows, self._columns), 255, np.uint8)
        for item in self.items:
            outline = np.array(corners(item.rectangle)) - (self._left, self._top)
            cv2.fillPoly(free, [np.round(outline / _CELL_M).astype(np.int32)], 0)
        distance = np.asarray(cv2.distanceTransform(free, cv2.DIST_L2, 5), np.float32)
        return (distance * _CELL_M - _SLACK_M).ravel()

    def clear_m(self, x_m: float, y_m: float) -> float:
        """At least how far the nearest obstacle is."""
        column, row = int((x_m - self._left) / _CELL_M + 0.5), int((y_m - self._top) / _CELL_M + 0.5)
        if not (0 <= column < self._columns and 0 <= row < self._rows):
            return 0.0
        return float(self._clear_m[row * self._columns + column])

    def clearances_m(self, xy_m: Floats) -> Floats:
        """The same for points (n, 2)."""
        column = ((xy_m[:, 0] - self._left) / _CELL_M + 0.5).astype(np.int64)
        row = ((xy_m[:, 1] - self._top) / _CELL_M + 0.5).astype(np.int64)
        inside = (column >= 0) & (column < self._columns) & (row >= 0) & (row < self._rows)
        clear: Floats = np.where(inside, self._clear_m.take(row * self._columns + column, mode="clip"), 0.0)
        return clear

    def near(self, x_m: float, y_m: float, reach_m: float) -> list[Obstacle]:
        """Those whose circle comes within reach of a point."""
        dx, dy = self._xy[:, 0] - x_m, self._xy[:, 1] - y_m
        found = np.flatnonzero(dx * dx + dy * dy < (self._radius + reach_m) ** 2)
        return [self.items[index] for index in found.tolist()]


def _boxes(boxes: NDArray[np.void]) -> list[Obstacle]:
    found: list[Obstacle] = []
    for number, box in enumerate(boxes):
        actor = _SOLID_KINDS.get(int(box["kind"]))
        long, wide, high = box["half"].tolist()
        if actor is not None and high > _FLAT_M:
            x, y, z = box["centre"].tolist()
            yaw = math.radians(float(box["rotation"][1]))
            rectangle = Rectangle(x, y, math.cos(yaw), math.sin(yaw), long, wide)
            found.append(Obstacle(rectangle, z - high, z + high, actor, number))
    return found


def _trunks(trees: NDArray[np.void], first: int) -> list[Obstacle]:
    found: list[Obstacle] = []
    for number, tree in enumerate(trees, first):
        x, y, z = tree["foot"].tolist()
        rectangle = Rectangle(x, y, 1.0, 0.0, _TRUNK_HALF_M, _TRUNK_HALF_M)
        found.append(Obstacle(rectangle, z - 1.0, z + float(tree["height"]) * _TRUNK_SHARE, _TREE, number))
    return found


@lru_cache(maxsize=4)
def obstacles_of(road_map: RoadMap) -> Obstacles:
    """The obstacles of a map, made once."""
    return Obstacles(road_map)
