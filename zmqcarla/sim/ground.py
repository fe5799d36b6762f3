"""The ground as numbers: lanes as strips of points, and grids that say how high it is and how fast one may go.

A query over n points is a handful of numpy operations instead of n calls into the carla library. Where roads cross on
bridges the height grid keeps two layers, and a query takes at each grid corner the layer nearest to the asker's z.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from zmqcarla.sim.opendrive import DRIVABLE, Document, Lane, Road, Section, inner

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

DEFAULT_SPEED_KMH = 50.0
_STEP_M = 1.0
_CELL_M = 1.0
_MARGIN_M = 24.0
_LAYER_GAP_M = 2.5
_SMOOTHING_CELLS = (16.0, 8.0, 4.0, 2.0)


@dataclass(frozen=True, slots=True)
class LaneStrip:
    """One lane of one section, sampled about every metre along increasing s.

    Attributes:
        road: The road it belongs to.
        section: The section it belongs to.
        lane: The lane itself; id 0 is the centre line, whose two edges are the same line.
        s_m: float64 (k,), OpenDRIVE s.
        inner_m: float64 (k, 3), edge on the side of the reference line, CARLA frame.
        outer_m: float64 (k, 3), the other edge, CARLA frame.
        speed_kmh: Speed limit.
    """

    road: Road
    section: Section
    lane: Lane
    s_m: Floats
    inner_m: Floats
    outer_m: Floats
    speed_kmh: float

    @property
    def outline_m(self) -> Floats:
        """The strip's border as one closed polygon, float64 (2k, 3)."""
        return np.concatenate([self.inner_m, self.outer_m[::-1]])


def _speed_kmh(document: Document, road: Road, s_m: float) -> float:
    """The road's own limit, else (roads inside junctions have none) that of the road that leads into it."""
    own = road.speed_kmh_at(s_m)
    if own is not None:
        return own
    for link in (road.predecessor, road.successor):
        if link is not None and link[0] == "road" and link[1] in document.roads:
            limit = document.roads[link[1]].speed_kmh_at(0.0)
            if limit is not None:
                return limit
    return DEFAULT_SPEED_KMH


def lane_strips(document: Document) -> tuple[LaneStrip, ...]:
    """Sample every lane of every road, the centre lines included."""
    strips: list[LaneStrip] = []
    for road in document.roads.values():
        for section in road.sections:
            length_m = min(section.end_m, road.length_m) - section.start_m
            count = max(2, round(length_m / _STEP_M) + 1)
            s_m = section.start_m + np.linspace(0.0, length_m, count)
            speed = _speed_kmh(document, road, section.start_m)
            edges = {lane_id: road.points(s_m, t_m) for lane_id, t_m in road.edges(section, s_m).items()}
            for lane_id, edge in edges.items():
                if lane_id in section.lanes:
                    near = edges[inner(lane_id)] if lane_id else edge
                    strips.append(LaneStrip(road, section, section.lanes[lane_id], s_m, near, edge, speed))
    return tuple(strips)


def bounds_of(strips: tuple[LaneStrip, ...]) -> tuple[float, float, float, float]:
    """(min_x, min_y, max_x, max_y) of all lanes, metres, CARLA frame."""
    points = np.concatenate([strip.outer_m for strip in strips])
    low, high = points.min(axis=0), points.max(axis=0)
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def _surface_samples(strips: tuple[LaneStrip, ...]) -> Floats:
    """Points over all lane surfaces, about a metre apart both ways: float64 (n, 3)."""
    samples: list[Floats] = []
    for strip in strips:
        if strip.lane.lane_id:
            widest = float(np.abs(strip.outer_m - strip.inner_m)[:, :2].max())
            parts = np.linspace(0.0, 1.0, max(2, round(widest / _STEP_M) + 1))[:, None, None]
            samples.append((strip.inner_m + parts * (strip.outer_m - strip.inner_m)).reshape(-1, 3))
    return np.concatenate(samples)


def _fill_from_nearest(layer: Floats, known: NDArray[np.bool_]) -> Floats:
    """Give each unknown cell the value of the nearest known one."""
    holes = np.where(known, 0, 255).astype(np.uint8)
    _, nearest = cv2.distanceTransformWithLabels(holes, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    labels = np.asarray(nearest, np.intp)
    by_label = np.zeros(int(labels.max()) + 1)
    by_label[labels[known]] = layer[known]
    filled: Floats = by_label[labels]
    return filled


def _smooth_beside(layer: Floats, known: NDArray[np.bool_]) -> Floats:
    """Even out the unknown cells from coarse to fine, the known ones held: slopes between roads, no cliffs."""
    smooth = layer.astype(np.float32)
    for sigma in _SMOOTHING_CELLS:
        blurred = np.asarray(cv2.GaussianBlur(smooth, (0, 0), sigma), np.float32)
        smooth = np.where(known, smooth, blurred)
    evened: Floats = np.where(known, layer, smooth)
    return evened


class Ground:
    """Heights and speed limits over the map.

    Attributes:
        is_flat: Whether all lanes lie within 5 cm of one height.
        flat_m: That height, None where it is not flat.

    The grids reach 24 m beyond the outermost lane; a query outside answers with the nearest border cell. Off the road
    the ground slopes gently from lane to lane, beginning at the kerb.
    """

    def __init__(self, strips: tuple[LaneStrip, ...]) -> None:
        min_x, min_y, max_x, max_y = bounds_of(strips)
        self._origin = np.array([min_x - _MARGIN_M, min_y - _MARGIN_M])
        self._left, self._top = self._origin.tolist()
        self._columns = int((max_x - min_x + 2 * _MARGIN_M) / _CELL_M) + 2
        self._rows = int((max_y - min_y + 2 * _MARGIN_M) / _CELL_M) + 2
        self._upper, self._lower = self._height_layers(_surface_samples(strips))
        self._speeds = self._speed_grid(strips)
        self.is_flat = bool(np.ptp(self._upper) < 0.05) and self._lower is None
        self.flat_m = float(np.median(self._upper)) if self.is_flat else None

    @property
    def has_bridges(self) -> bool:
        """Whether somewhere one road passes over another."""
        return self._lower is not None

    def _height_layers(self, samples: Floats) -> tuple[Floats, Floats | None]:
        """Flattened grids (rows * columns,) of the highest surface, and of the one below it if there is any."""
        size = self._rows * self._columns
        corners = self._corners(samples[:, :2])
        top = np.full(size, -np.inf)
        for cell, _ in corners:
            np.maximum.at(top, cell, samples[:, 2])
        sums = np.zeros((4, size))
        for cell, share in corners:
            # at the edge of a bridge one cell gets samples of both roads: each counts for its own layer
            below = samples[:, 2] < top[cell] - _LAYER_GAP_M
            for layer, weight in ((0, share * ~below), (2, share * below)):
                sums[layer] += np.bincount(cell, weight * samples[:, 2], size)
                sums[layer + 1] += np.bincount(cell, weight, size)
        upper, lower = (
            np.divide(total, weight, out=np.full(size, np.nan), where=weight > 1e-3)
            for total, weight in (sums[:2], sums[2:])
        )
        if np.isnan(lower).all():
            return self._filled(upper), None
        return self._filled(upper), self._filled(np.where(np.isnan(lower), upper, lower))

    def _filled(self, layer: Floats) -> Floats:
        grid = layer.reshape(self._rows, self._columns)
        known = ~np.isnan(grid)
        return _smooth_beside(_fill_from_nearest(grid, known), known).ravel()

    def _speed_grid(self, strips: tuple[LaneStrip, ...]) -> Floats:
        grid = np.zeros((self._rows, self._columns), np.float32)
        for strip in strips:
            if strip.lane.kind in DRIVABLE:
                outline = np.round((strip.outline_m[:, :2] - self._origin) / _CELL_M).astype(np.int32)
                cv2.fillPoly(grid, [outline], strip.speed_kmh)
        return _fill_from_nearest(grid.astype(np.float64), grid > 0.0).ravel()

    def _corners(self, xy_m: Floats) -> list[tuple[NDArray[np.int64], Floats]]:
        """The four grid points around each point and their bilinear weights."""
        place = (xy_m - self._origin) / _CELL_M
        x: Floats = np.minimum(np.maximum(place[:, 0], 0.0), self._columns - 1.001)
        y: Floats = np.minimum(np.maximum(place[:, 1], 0.0), self._rows - 1.001)
        column, row = x.astype(np.int64), y.astype(np.int64)
        right, down = x - column, y - row
        first = row * self._columns + column
        return [
            (first, (1 - right) * (1 - down)),
            (first + 1, right * (1 - down)),
            (first + self._columns, (1 - right) * down),
            (first + self._columns + 1, right * down),
        ]

    def _nearest_cells(self, xy_m: Floats) -> NDArray[np.int64]:
        place = ((xy_m - self._origin) / _CELL_M + 0.5).astype(np.int64)
        column = np.minimum(np.maximum(place[:, 0], 0), self._columns - 1)
        row = np.minimum(np.maximum(place[:, 1], 0), self._rows - 1)
        cells: NDArray[np.int64] = row * self._columns + column
        return cells

    def heights_m(self, xy_m: Floats, near_z_m: Floats | None = None) -> Floats:
        """Height of the ground.

        Args:
            xy_m: float64 (n, 2), CARLA frame.
            near_z_m: float64 (n,), present heights of the askers; picks the road under or on a bridge. Without it the
                highest road answers.

        Returns:
            float64 (n,), metres.
        """
        height = np.zeros(len(xy_m))
        if near_z_m is None:
            near_z_m = np.full(len(xy_m), np.inf) if self._lower is None else self._upper[self._nearest_cells(xy_m)]
        for cell, share in self._corners(xy_m):
            value = self._upper[cell]
            if self._lower is not None:
                below = self._lower[cell]
                value = np.where(np.abs(below - near_z_m) < np.abs(value - near_z_m), below, value)
            height += share * value
        return height

    def height_m(self, x_m: float, y_m: float, near_z_m: float) -> float:
        """The same at one point, without the cost of arrays."""
        x = min(max((x_m - self._left) / _CELL_M, 0.0), self._columns - 1.001)
        y = min(max((y_m - self._top) / _CELL_M, 0.0), self._rows - 1.001)
        column, row = int(x), int(y)
        right, down = x - column, y - row
        cell = row * self._columns + column
        below = cell + self._columns
        height: float = (
            (1 - right) * (1 - down) * self._level(cell, near_z_m)
            + right * (1 - down) * self._level(cell + 1, near_z_m)
            + (1 - right) * down * self._level(below, near_z_m)
            + right * down * self._level(below + 1, near_z_m)
        )
        return height

    def _level(self, cell: int, near_z_m: float) -> float:
        upper = float(self._upper[cell])
        if self._lower is None:
            return upper
        lower = float(self._lower[cell])
        return lower if abs(lower - near_z_m) < abs(upper - near_z_m) else upper

    def surface(self, xy_m: Floats, near_z_m: Floats | None = None) -> tuple[Floats, Floats]:
        """Heights (n,) as `heights_m`, and the unit normals of the ground there, float64 (n, 3), pointing up."""
        sides = np.array([(0.0, 0.0), (0.5, 0.0), (-0.5, 0.0), (0.0, 0.5), (0.0, -0.5)])
        points = (xy_m[None, :, :] + sides[:, None, :]).reshape(-1, 2)
        near = None if near_z_m is None else np.tile(near_z_m, len(sides))
        here, east, west, south, north = self.heights_m(points, near).reshape(len(sides), -1)
        normals = np.stack([west - east, north - south, np.ones(len(here))], axis=1)
        return here, normals / np.linalg.norm(normals, axis=1, keepdims=True)

    def speed_limits_kmh(self, xy_m: Floats) -> Floats:
        """Speed limit at each point, off the road that of the nearest lane: float64 (n,) from float64 (n, 2)."""
        return self._speeds[self._nearest_cells(xy_m)]

    def speed_limit_kmh(self, x_m: float, y_m: float) -> float:
        """The same at one point."""
        column = min(max(int((x_m - self._left) / _CELL_M + 0.5), 0), self._columns - 1)
        row = min(max(int((y_m - self._top) / _CELL_M + 0.5), 0), self._rows - 1)
        return float(self._speeds[row * self._columns + column])
