"""Where pedestrians may walk: pavements, crossings and the roads beside them, as a grid of cells.

Everything is painted into a fine picture first; a cell is what most of it is. Then the corners of the cells along a
pavement are moved onto its edge. The crossings are those of the map. A map that has pavements and no crossings gets one
where each road meets a junction, which is where pedestrians cross without any paint.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

import cv2
import numpy as np

from zmqcarla.sim.opendrive import inner

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from zmqcarla.sim.opendrive import Document, Road
    from zmqcarla.sim.roads import RoadMap

    Floats = NDArray[np.float64]
    Picture = NDArray[np.uint8]

CELL_M = 1.5
_PIXELS = 6
_PIXEL_M = CELL_M / _PIXELS
_SHIFT = 4
_MARGIN_M = 8.0
# Of a larger map the picture would need gigabytes.
_MOST_M2 = 10e6
# Joins crossings to pavements over the gutter between them.
_REACH_M = 1.0
# Roads are walkable this far from a pavement: nobody walks on a motorway.
_ROADSIDE_M = 30.0
# A crossing in front of a junction, from and to this far from it.
_MOUTH_M = (1.0, 4.0)
_FARTHEST_M = CELL_M
# Who takes a bend short walks along the rim: this far from the pavement's edge.
_INSET_M = 0.4
_FITTING_ROUNDS = 8


class Area(IntEnum):
    """What a cell is; the numbers are those of CARLA's navigation mesh."""

    NOTHING = 0
    PAVEMENT = 1
    CROSSING = 2
    ROAD = 3


@dataclass(frozen=True, slots=True)
class Walkable:
    """The grid; rows run along +y, columns along +x.

    Attributes:
        origin_m: float64 (2,), CARLA-frame x and y of the grid's first corner.
        areas: uint8 (rows, columns) of `Area`.
        corners_m: float64 (rows + 1, columns + 1, 2), CARLA-frame x and y of the cells' corners.
    """

    origin_m: Floats
    areas: Picture
    corners_m: Floats


def walkable_bounds_m(road_map: RoadMap) -> Floats | None:
    """Lowest and highest x and y, (2, 2), of where pedestrians may walk; None without pavements, or with too much."""
    edges = [strip.outer_m[:, :2] for strip in road_map.strips if strip.lane.kind == "sidewalk"]
    if not edges:
        return None
    points = np.concatenate(edges)
    low, high = points.min(axis=0) - _MARGIN_M, points.max(axis=0) + _MARGIN_M
    return np.stack([low, high]) if np.prod(high - low) < _MOST_M2 else None


def find_walkable(road_map: RoadMap) -> Walkable | None:
    """Where pedestrians may walk on a map, None when there is nothing, see `walkable_bounds_m`."""
    bounds_m = walkable_bounds_m(road_map)
    if bounds_m is None:
        return None
    origin_m = bounds_m[0]
    columns, rows = (int(side) + 1 for side in (bounds_m[1] - origin_m) / CELL_M)
    picture = _paint(road_map, origin_m, (rows * _PIXELS, columns * _PIXELS))
    cells = picture.reshape(rows, _PIXELS, columns, _PIXELS)
    areas = np.stack([(cells == area).mean(axis=(1, 3)) for area in Area]).argmax(axis=0).astype(np.uint8)
    _forget_far_roads(areas)
    return Walkable(origin_m, areas, _fit(areas, picture, origin_m))


# ------------------------------------------------------------------------------------------------------------- areas


def _paint(road_map: RoadMap, origin_m: Floats, shape: tuple[int, int]) -> Picture:
    """The areas in pixels of `_PIXEL_M`: uint8 of that shape."""

    def fill(picture: Picture, outlines: Iterator[Floats], area: int) -> None:
        for outline in outlines:
            place = ((outline[:, :2] - origin_m) / _PIXEL_M - 0.5) * (1 << _SHIFT)
            cv2.fillPoly(picture, [np.asarray(np.round(place), np.int32)], area, cv2.LINE_8, _SHIFT)

    picture, crossings = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    lanes = [strip for strip in road_map.strips if strip.lane.lane_id]
    fill(picture, (s.outline_m for s in lanes if s.lane.kind == "sidewalk"), Area.PAVEMENT)
    fill(picture, (s.outline_m for s in lanes if s.lane.kind not in ("sidewalk", "none")), Area.ROAD)
    fill(crossings, _crossings(road_map.document), 1)
    reach = 2 * round(_REACH_M / _PIXEL_M) + 1
    crossings = np.asarray(cv2.dilate(crossings, np.ones((reach, reach), np.uint8)), np.uint8)
    picture[(crossings == 1) & (picture != Area.PAVEMENT)] = Area.CROSSING
    return picture


def _crossings(document: Document) -> Iterator[Floats]:
    """Outlines (n, 2 or 3) of the crossings."""
    roads = document.roads.values()
    painted = [item.outline for road in roads for item in road.objects if item.kind == "crosswalk"]
    yield from (outline for outline in painted if len(outline) > 2)
    if not painted:
        for road in roads:
            yield from _mouths(document, road)


def _mouths(document: Document, road: Road) -> Iterator[Floats]:
    """Where pedestrians cross a road that has pavements, in front of the junctions that it leads to."""
    near, far = _MOUTH_M
    ends = ((road.predecessor, near, far), (road.successor, road.length_m - far, road.length_m - near))
    for link, start_m, end_m in ends:
        if link is None or not _is_junction(document, link) or road.junction_id >= 0 or road.length_m < far:
            continue
        s_m = np.array([start_m, end_m])
        section = road.section_at(start_m)
        pavements = [lane.lane_id for lane in section.lanes.values() if lane.kind == "sidewalk"]
        if not pavements or min(pavements) > 0 or max(pavements) < 0:
            continue
        edges = road.edges(section, s_m)
        left, right = (road.points(s_m, edges[inner(lane_id)]) for lane_id in (max(pavements), min(pavements)))
        yield np.concatenate([left, right[::-1]])


def _is_junction(document: Document, link: tuple[str, int]) -> bool:
    kind, number = link
    return kind == "junction" or (number in document.roads and document.roads[number].junction_id >= 0)


def _forget_far_roads(areas: Picture) -> None:
    """Leave out the roads that are nowhere near a pavement."""
    pavement = np.asarray(areas == Area.PAVEMENT, np.uint8)
    reach = 2 * round(_ROADSIDE_M / CELL_M) + 1
    near = cv2.dilate(pavement, np.ones((reach, reach), np.uint8))
    areas[np.asarray(near) == 0] = Area.NOTHING


# ------------------------------------------------------------------------------------------------------------ corners


def square_corners_m(origin_m: Floats, rows: int, columns: int) -> Floats:
    """Corners of a grid of squares: float64 (rows + 1, columns + 1, 2), CARLA-frame x and y."""
    x, y = np.meshgrid(np.arange(columns + 1.0) * CELL_M, np.arange(rows + 1.0) * CELL_M)
    corners: Floats = np.stack([x, y], axis=-1) + origin_m
    return corners


def _fit(areas: Picture, picture: Picture, origin_m: Floats) -> Floats:
    """Corners of the cells, with those around the pavement's cells moved onto its rim."""
    square = square_corners_m(origin_m, areas.shape[0], areas.shape[1])
    shift = _to_edge(picture == Area.PAVEMENT)
    ours = np.pad(areas == Area.PAVEMENT, 1)
    around = np.stack([ours[:-1, :-1], ours[:-1, 1:], ours[1:, :-1], ours[1:, 1:]])
    at_rim = around.any(axis=0) & ~around.all(axis=0) & (np.linalg.norm(shift, axis=-1) < _FARTHEST_M)
    shift[~at_rim] = 0.0
    for _ in range(_FITTING_ROUNDS):
        bent = _bent(square + shift) & (areas != Area.NOTHING)
        if not bent.any():
            break
        rows_bent, columns_bent = np.nonzero(bent)
        for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):
            shift[rows_bent + down, columns_bent + right] *= 0.5
    else:
        rows_bent, columns_bent = np.nonzero(_bent(square + shift))
        for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):
            shift[rows_bent + down, columns_bent + right] = 0.0
    return square + shift


def _to_edge(mask: NDArray[np.bool_]) -> Floats:
    """From each corner of the grid the way (x, y in m) to the rim of a mask of pixels, `_INSET_M` within it."""
    inside, outside = (
        np.asarray(cv2.distanceTransform(np.asarray(part, np.uint8), cv2.DIST_L2, 5), np.float64)
        for part in (mask, ~mask)
    )
    # positive inside, zero on the edge, which lies half a pixel from the pixels on either side of it
    depth = np.pad(np.where(mask, inside - 0.5, 0.5 - outside), 1, mode="edge") - _INSET_M / _PIXEL_M
    corner = depth[::_PIXELS, ::_PIXELS]  # the pixels around each corner of a cell
    right, below, across = depth[::_PIXELS, 1::_PIXELS], depth[1::_PIXELS, ::_PIXELS], depth[1::_PIXELS, 1::_PIXELS]
    middle = (corner + right + below + across) / 4
    slope_x, slope_y = (right + across - corner - below) / 2, (below + across - corner - right) / 2
    steep = np.maximum(slope_x**2 + slope_y**2, 0.25)
    way: Floats = np.stack([-middle * slope_x / steep, -middle * slope_y / steep], axis=-1) * _PIXEL_M
    return way


def _bent(corners_m: Floats) -> NDArray[np.bool_]:
    """Which cells are not convex: (rows, columns)."""
    ring = [corners_m[:-1, :-1], corners_m[:-1, 1:], corners_m[1:, 1:], corners_m[1:, :-1]]
    bent = np.zeros(ring[0].shape[:2], bool)
    for index in range(4):
        before, at, after = ring[index - 1], ring[index], ring[(index + 1) % 4]
        first, second = at - before, after - at
        bent |= first[..., 0] * second[..., 1] - first[..., 1] * second[..., 0] < 0.05 * CELL_M**2
    return bent
