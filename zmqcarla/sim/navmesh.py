"""The pedestrian navigation mesh that a client downloads: polygons in the binary form of Detour, as Recast writes it.

CARLA's client steers AI walkers itself, over this mesh. A polygon is one cell of `walkable.py`: four corners that it
shares with its neighbours. Big maps are cut into tiles; what crosses the border between two of them is a portal edge
that the client links when it loads the mesh.

Layout of the file, little endian, packed (see docs/simulator.md): a set header; a tile reference, a size and the tile's
bytes for each tile; a zero reference ends it. A tile is a header, vertices, polygons, room for links (the client fills
it), detail meshes, detail triangles and the nodes of a bounding-volume tree. The tree has two levels: blocks of cells,
and cells. Detour's x, y, z are CARLA's x, z, y.
"""

from __future__ import annotations

import hashlib
import struct
from typing import TYPE_CHECKING

import numpy as np

from zmqcarla.sim.walkable import CELL_M, Area, find_walkable, square_corners_m

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from zmqcarla.sim.roads import RoadMap
    from zmqcarla.sim.walkable import Walkable

    Floats = NDArray[np.float64]
    Integers = NDArray[np.int64]

VERSION = 1
"""Of the way the mesh is made: clients keep a mesh on disk under a name that contains it."""

_SET = struct.Struct("<Iii5fii")
_SET_MAGIC, _SET_VERSION = 0x4D534554, 1
_TILE_REFERENCE = struct.Struct("<Ii")
_TILE = struct.Struct("<iiiiiI9i10f")
_TILE_MAGIC, _TILE_VERSION = 0x444E4156, 7
_LINK_BYTES = 12

_CORNERS = 6  # room for corners in a polygon; ours have 4
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

# Which corners (down, right) a cell has, in the order that Detour needs, and what lies beyond the edge after each.
_RING = ((0, 0), (1, 0), (1, 1), (0, 1))
_BEYOND = ((0, -1), (1, 0), (0, 1), (-1, 0))
# an edge on the border of a tile, by the side it lies on, in the order of _BEYOND
_PORTALS = (0x8004, 0x8002, 0x8000, 0x8006)

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
    row, column = np.nonzero(areas)
    order = np.lexsort((column, row, column // _BLOCK, row // _BLOCK))
    row, column = row[order], column[order]
    number = np.zeros((rows + 2, columns + 2), np.int64)  # polygon + 1 by cell, 0 for none, with a rim of none
    number[row + 1, column + 1] = np.arange(len(row)) + 1

    places = np.stack([(row + down) * (columns + 1) + column + right for down, right in _RING], axis=-1)
    used, shared = np.unique(places, return_inverse=True)
    vertices = corners.reshape(-1, 3)[used]
    ring = shared.reshape(places.shape)

    polygons = np.zeros(len(row), _POLYGON)
    polygons["corners"][:, :4] = ring
    for edge, (down, right) in enumerate(_BEYOND):
        beyond = number[row + 1 + down, column + 1 + right]
        outside = (row + down < 0) | (row + down >= rows) | (column + right < 0) | (column + right >= columns)
        polygons["neighbours"][:, edge] = np.where(outside, _PORTALS[edge], beyond)
    polygons["area"] = areas[row, column]
    polygons["flags"] = 1 << areas[row, column].astype(np.uint16)
    polygons["count"] = 4

    meshes = np.zeros(len(row), _DETAIL_MESH)
    meshes["first"][:, 1] = 2 * np.arange(len(row))
    meshes["count"] = (0, 2)
    triangles = np.zeros((len(row), 2), _DETAIL_TRIANGLE)
    triangles["corners"] = ((0, 1, 2), (0, 2, 3))
    triangles["edges"] = (0b00101, 0b10100)  # two bits an edge: whether it is the polygon's

    low, high = vertices.min(axis=0), vertices.max(axis=0)
    tree = _tree(row, column, vertices[ring], low)
    links = 4 * len(row) + 4 * (rows + columns)
    head = _TILE.pack(
        *(_TILE_MAGIC, _TILE_VERSION, x, y, 0, 0),
        *(len(row), len(vertices), links, len(row), 0, 2 * len(row), len(tree), 0, len(row)),
        *(_AGENT_HEIGHT_M, _AGENT_RADIUS_M, _AGENT_CLIMB_M, *low.tolist(), *high.tolist(), _QUANTA_PER_M),
    )
    parts = (head, vertices.tobytes(), polygons.tobytes(), bytes(links * _LINK_BYTES))
    return b"".join((*parts, meshes.tobytes(), triangles.tobytes(), tree.tobytes()))


def _tree(row: Integers, column: Integers, cells: NDArray[np.float32], low: NDArray[np.float32]) -> NDArray[np.void]:
    """Nodes of the bounding-volume tree.

    Args:
        row: of each cell, sorted by blocks.
        column: likewise.
        cells: float32 (n, 4, 3), corners.
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
