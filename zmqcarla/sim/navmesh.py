"""The pedestrian navigation mesh that a client downloads: polygons in the binary form of Detour, as Recast writes it.

CARLA's client steers AI walkers itself, over this mesh. A polygon is one cell of `walkable.py`, or two of the same area
side by side along the pavement, because the client's routes have at most 256 polygons. It shares each corner with its
neighbours, so a pair has six. Big maps are cut into tiles; what crosses the border between two of them is a portal edge
that the client links when it loads the mesh.

Layout of the file, little endian, packed (see docs/simulator.md): a set header; a tile reference, a size and the tile's
bytes for each tile; a zero reference ends it. A tile is a header, vertices, polygons, room for links (the client fills
it), detail meshes, detail triangles and the nodes of a bounding-volume tree. The tree has two levels: blocks of cells,
and cells. Detour's x, y, z are CARLA's x, z, y.
"""

from __future__ import annotations

import hashlib
import struct
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from zmqcarla.sim.walkable import CELL_M, Area, find_walkable, square_corners_m

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from zmqcarla.sim.roads import RoadMap
    from zmqcarla.sim.walkable import Walkable

    Floats = NDArray[np.float64]
    Integers = NDArray[np.int64]

VERSION = 2
"""Of the way the mesh is made: clients keep a mesh on disk under a name that contains it."""

_SET = struct.Struct("<Iii5fii")
_SET_MAGIC, _SET_VERSION = 0x4D534554, 1
_TILE_REFERENCE = struct.Struct("<Ii")
_TILE = struct.Struct("<iiiiiI9i10f")
_TILE_MAGIC, _TILE_VERSION = 0x444E4156, 7
_LINK_BYTES = 12

_CORNERS = 6  # room for corners in a polygon
_POLYGON = np.dtype(
    [
        ("first_link", "<u4"),
        ("corners", "<u2", _CORNERS),
        ("neighbours", "<u2", _CORNERS),
        ("flags", "<u2"),
        ("count", "u1"),
        ("area", "u1"),
    ]
)
_DETAIL_MESH = np.dtype([("first", "<u4", 2), ("count", "u1", 2), ("pad", "<u2")])
_DETAIL_TRIANGLE = np.dtype([("corners", "u1", 3), ("edges", "u1")])
_TREE_NODE = np.dtype([("low", "<u2", 3), ("high", "<u2", 3), ("index", "<i4")])


class _Shape(NamedTuple):
    """A form of polygons, in cells (down, right) from its first one.

    Attributes:
        cells: which it covers.
        corners: in the order that Detour needs; the first is such that the fan of triangles from it has no flat one.
        edges: for each corner the cell that the edge after it belongs to, and the side (`_SIDES`) it is on.
    """

    cells: tuple[tuple[int, int], ...]
    corners: tuple[tuple[int, int], ...]
    edges: tuple[tuple[tuple[int, int], str], ...]


# what lies beyond a side of a cell, and how Detour writes it when it is a portal
_SIDES = {"left": (0, -1, 0x8004), "below": (1, 0, 0x8002), "right": (0, 1, 0x8000), "above": (-1, 0, 0x8006)}
_A, _BESIDE, _UNDER = (0, 0), (0, 1), (1, 0)
_SHAPES = (
    _Shape((_A,), ((0, 0), (1, 0), (1, 1), (0, 1)), ((_A, "left"), (_A, "below"), (_A, "right"), (_A, "above"))),
    _Shape(
        (_A, _BESIDE),
        ((0, 1), (0, 0), (1, 0), (1, 1), (1, 2), (0, 2)),
        (
            *((_A, "above"), (_A, "left"), (_A, "below")),
            *((_BESIDE, "below"), (_BESIDE, "right"), (_BESIDE, "above")),
        ),
    ),
    _Shape(
        (_A, _UNDER),
        ((1, 0), (2, 0), (2, 1), (1, 1), (0, 1), (0, 0)),
        (
            *((_UNDER, "left"), (_UNDER, "below"), (_UNDER, "right")),
            *((_A, "right"), (_A, "above"), (_A, "left")),
        ),
    ),
)
_SINGLE, _ACROSS, _DOWN = range(len(_SHAPES))
# a pair may be this much hollow where the pavement bends, m2 by the cross product of two edges
_HOLLOW_M2 = 0.05

# Of a tile: neighbours are numbered in 15 bits. A reference has 22 bits for tile and polygon.
_MOST_CELLS = 30_000
_POLYGON_BITS = 15
_MOST_TILES = 1 << (22 - _POLYGON_BITS)
_BLOCK = 16
_QUANTA_PER_M = 4.0
# Of CARLA's walkers.
_AGENT_HEIGHT_M, _AGENT_RADIUS_M, _AGENT_CLIMB_M = 1.8, 0.3, 0.6


def mesh_name(road_map: RoadMap) -> str:
    """Name of a map's mesh. Another map, or another way of making meshes, gives another name."""
    mark = hashlib.sha256(road_map.opendrive.encode()).hexdigest()[:12]
    return f"{road_map.name}_{mark}_{VERSION}.bin"


def encode_mesh(road_map: RoadMap) -> bytes:
    """The mesh of a map, empty when nobody can walk there."""
    ground = find_walkable(road_map)
    if ground is None:
        return b""
    side = _tile_side(ground.areas)
    corners_m = _straight_borders(ground, side)
    flat = corners_m.reshape(-1, 2)
    heights_m = road_map.heights_m(flat).reshape(corners_m.shape[:2])
    # Detour's axes
    corners = np.stack([corners_m[..., 0], heights_m, corners_m[..., 1]], axis=-1).astype("<f4")
    low = corners.reshape(-1, 3).min(axis=0)
    tiles = list(_tiles(ground.areas, corners, side))
    origin = (float(ground.origin_m[0]), float(low[1]), float(ground.origin_m[1]))
    head = _SET.pack(
        *(_SET_MAGIC, _SET_VERSION, len(tiles), *origin, side * CELL_M, side * CELL_M),
        *(_MOST_TILES, 1 << _POLYGON_BITS),
    )
    parts = [head]
    for number, tile in enumerate(tiles):
        reference = 1 << 22 | number << _POLYGON_BITS  # the first bit that is neither tile nor polygon counts reuse
        parts += [_TILE_REFERENCE.pack(reference, len(tile)), tile]
    return b"".join([*parts, _TILE_REFERENCE.pack(0, 0)])


def _tile_side(areas: NDArray[np.uint8]) -> int:
    """Cells along a tile's side: as large as can be, for random places are sought tile by tile, whatever is in them."""
    side: int = max(areas.shape)
    while any(np.count_nonzero(part) > _MOST_CELLS for _, _, part in _parts(areas, side)):
        side = (side + 1) // 2
    return side


def _parts(areas: NDArray[np.uint8], side: int) -> Iterator[tuple[int, int, NDArray[np.uint8]]]:
    """The tiles' (first row, first column, areas)."""
    for row in range(0, areas.shape[0], side):
        for column in range(0, areas.shape[1], side):
            yield row, column, areas[row : row + side, column : column + side]


def _straight_borders(ground: Walkable, side: int) -> Floats:
    """The corners, with those between two tiles back in line: a portal has to be straight."""
    rows, columns = ground.areas.shape
    square = square_corners_m(ground.origin_m, rows, columns)
    corners_m: Floats = ground.corners_m.copy()
    corners_m[side:rows:side] = square[side:rows:side]
    corners_m[:, side:columns:side] = square[:, side:columns:side]
    return corners_m


def _tiles(areas: NDArray[np.uint8], corners: NDArray[np.float32], side: int) -> Iterator[bytes]:
    """The bytes of each tile that has pavement."""
    for row, column, part in _parts(areas, side):
        if (part == Area.PAVEMENT).any():
            here = corners[row : row + part.shape[0] + 1, column : column + part.shape[1] + 1]
            yield _tile(column // side, row // side, part, here)


def _tile(x: int, y: int, areas: NDArray[np.uint8], corners: NDArray[np.float32]) -> bytes:
    """One tile.

    Args:
        x: its place among the tiles.
        y: likewise.
        areas: uint8 (rows, columns).
        corners: float32 (rows + 1, columns + 1, 3), Detour's frame.
    """
    rows, columns = areas.shape
    row, column, shape = _polygons(areas, corners)
    number = np.zeros((rows + 2, columns + 2), np.int64)  # polygon + 1 by cell, 0 for none, with a rim of none
    places = np.zeros((len(row), _CORNERS), np.int64)
    for kind, form in enumerate(_SHAPES):
        mine = np.flatnonzero(shape == kind)
        for down, right in form.cells:
            number[row[mine] + 1 + down, column[mine] + 1 + right] = mine + 1
        for index, (down, right) in enumerate(form.corners):
            places[mine, index] = (row[mine] + down) * (columns + 1) + column[mine] + right
        places[mine, len(form.corners) :] = places[mine, :1]
    used, shared = np.unique(places, return_inverse=True)
    vertices = corners.reshape(-1, 3)[used]
    ring = shared.reshape(places.shape)

    polygons = np.zeros(len(row), _POLYGON)
    for kind, form in enumerate(_SHAPES):
        mine = np.flatnonzero(shape == kind)
        polygons["count"][mine] = len(form.corners)
        polygons["corners"][mine, : len(form.corners)] = ring[mine, : len(form.corners)]
        for index, ((down, right), side) in enumerate(form.edges):
            below, beside, portal = _SIDES[side]
            there = (row[mine] + down + below, column[mine] + right + beside)
            outside = (there[0] < 0) | (there[0] >= rows) | (there[1] < 0) | (there[1] >= columns)
            polygons["neighbours"][mine, index] = np.where(outside, portal, number[there[0] + 1, there[1] + 1])
    polygons["area"] = areas[row, column]
    polygons["flags"] = 1 << areas[row, column].astype(np.uint16)
    meshes, triangles = _detail(polygons["count"].astype(np.int64))

    low, high = vertices.min(axis=0), vertices.max(axis=0)
    tree = _tree(row, column, vertices[ring], low)
    links = int(polygons["count"].sum()) + 4 * (rows + columns)
    head = _TILE.pack(
        *(_TILE_MAGIC, _TILE_VERSION, x, y, 0, 0),
        *(len(row), len(vertices), links, len(row), 0, len(triangles), len(tree), 0, len(row)),
        *(_AGENT_HEIGHT_M, _AGENT_RADIUS_M, _AGENT_CLIMB_M, *low.tolist(), *high.tolist(), _QUANTA_PER_M),
    )
    parts = (head, vertices.tobytes(), polygons.tobytes(), bytes(links * _LINK_BYTES))
    return b"".join((*parts, meshes.tobytes(), triangles.tobytes(), tree.tobytes()))


def _polygons(areas: NDArray[np.uint8], corners: NDArray[np.float32]) -> tuple[Integers, Integers, Integers]:
    """The polygons that cover all cells: row and column of their first cells, and shapes; sorted by blocks."""
    along, beneath = _runs(areas), _runs(areas.T).T
    across = along >= beneath
    paired = np.zeros(areas.shape, bool)
    shapes = np.where(areas > 0, _SINGLE, -1)
    for kind, fits in ((_ACROSS, across), (_DOWN, ~across)):
        (_, (down, right)) = _SHAPES[kind].cells
        first = np.zeros(areas.shape, bool)
        here, there = (
            (slice(0, areas.shape[0] - down), slice(0, areas.shape[1] - right)),
            (slice(down, None), slice(right, None)),
        )
        first[here] = fits[here] & fits[there] & (areas[here] == areas[there]) & (areas[here] > 0)
        first &= (np.indices(areas.shape)[1 if right else 0] % 2) == 0
        first &= _round(_SHAPES[kind], corners, first)
        shapes[first] = kind
        paired[there] |= first[here]
    shapes[paired] = -1
    row, column = np.nonzero(shapes >= 0)
    order = np.lexsort((column, row, column // _BLOCK, row // _BLOCK))
    row, column = row[order], column[order]
    return row, column, shapes[row, column]


def _runs(areas: NDArray[np.uint8]) -> Integers:
    """For each cell, how many of the same area follow each other in its row."""
    starts = np.ones(areas.shape, bool)
    starts[:, 1:] = areas[:, 1:] != areas[:, :-1]
    run = np.cumsum(starts.ravel()) - 1
    lengths: Integers = np.bincount(run)[run].reshape(areas.shape)
    return lengths


def _round(form: _Shape, corners: NDArray[np.float32], first: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which of the polygons of a form, by their first cells, are convex."""
    row, column = np.nonzero(first)
    ring = np.stack([corners[row + down, column + right][:, [0, 2]] for down, right in form.corners], axis=1)
    edge = np.roll(ring, -1, axis=1) - ring
    after = np.roll(edge, -1, axis=1)
    turns = edge[..., 0] * after[..., 1] - edge[..., 1] * after[..., 0]
    convex = np.zeros(first.shape, bool)
    convex[row, column] = (turns < _HOLLOW_M2).all(axis=1)
    return convex


def _detail(counts: Integers) -> tuple[NDArray[np.void], NDArray[np.void]]:
    """Detail meshes and triangles of polygons with so many corners: fans from the first corner."""
    meshes = np.zeros(len(counts), _DETAIL_MESH)
    meshes["first"][:, 1] = np.cumsum(counts - 2) - (counts - 2)
    meshes["count"][:, 1] = counts - 2
    polygon = np.repeat(np.arange(len(counts)), counts - 2)
    last = np.arange(len(polygon)) - meshes["first"][polygon, 1] + 2
    triangles = np.zeros(len(polygon), _DETAIL_TRIANGLE)
    triangles["corners"][:, 1], triangles["corners"][:, 2] = last - 1, last
    # two bits an edge: whether it is one of the polygon's
    triangles["edges"] = 0b00100 | (last == 2) | (last == counts[polygon] - 1) << 4
    return meshes, triangles


def _tree(row: Integers, column: Integers, cells: NDArray[np.float32], low: NDArray[np.float32]) -> NDArray[np.void]:
    """Nodes of the bounding-volume tree.

    Args:
        row: of each polygon's first cell, sorted by blocks.
        column: likewise.
        cells: float32 (n, 6, 3), corners, where there are fewer the first again.
        low: float32 (3,), the tile's lowest corner.
    """
    leaf_low = np.floor((cells.min(axis=1) - low) * _QUANTA_PER_M).astype(np.int64)
    leaf_high = np.ceil((cells.max(axis=1) - low) * _QUANTA_PER_M).astype(np.int64)
    block = row // _BLOCK * (column.max() // _BLOCK + 1) + column // _BLOCK
    starts = np.flatnonzero(np.diff(block, prepend=-1))
    sizes = np.diff(starts, append=len(row))
    tree = np.zeros(len(row) + len(starts), _TREE_NODE)
    is_block = np.zeros(len(tree), bool)
    is_block[starts + np.arange(len(starts))] = True
    tree["low"][~is_block], tree["high"][~is_block], tree["index"][~is_block] = leaf_low, leaf_high, np.arange(len(row))
    tree["low"][is_block] = np.minimum.reduceat(leaf_low, starts)
    tree["high"][is_block] = np.maximum.reduceat(leaf_high, starts)
    tree["index"][is_block] = -(sizes + 1)  # how far to go on when nothing in the block is near
    return tree
