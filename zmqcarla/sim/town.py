"""The default map: a small town of square blocks, written as an OpenDRIVE 1.4 document.

The plan is a grid of streets. Where a street meets another there is a junction; the four outer corners are curves of
the ring road. One avenue each way has two lanes per direction.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

from zmqcarla.sim.streets import JUNCTION_M, STEP, Arm, Network, ahead_of, street_lanes, write_road

TOWN_NAME = "ZmqTown"

_CORNER_RADIUS_M = 20.0
_SHORTEST_BLOCK_M = 80
_LONGEST_BLOCK_M = 110

Node = tuple[int, int]


@dataclass(slots=True)
class _Plan:
    """The grid: street positions, lanes per direction of each street, and the arms of each crossing so far."""

    columns_m: list[float]
    rows_m: list[float]
    column_lanes: list[int]
    row_lanes: list[int]
    net: Network
    arms: dict[Node, dict[int, Arm]] = field(default_factory=dict[Node, dict[int, Arm]])

    def is_corner(self, node: Node) -> bool:
        return node[0] in (0, len(self.columns_m) - 1) and node[1] in (0, len(self.rows_m) - 1)

    def place(self, node: Node) -> tuple[float, float]:
        return self.columns_m[node[0]], self.rows_m[node[1]]

    def street(self, node: Node, direction: int) -> tuple[int, int]:
        """(lanes per direction, speed limit km/h) of the street that passes the node in this direction."""
        lanes = self.row_lanes[node[1]] if direction % 2 == 0 else self.column_lanes[node[0]]
        index, last = (node[1], len(self.rows_m) - 1) if direction % 2 == 0 else (node[0], len(self.columns_m) - 1)
        return lanes, 50 if lanes > 1 or index in (0, last) else (30, 40)[index % 2]


def _streets(plan: _Plan) -> None:
    """Write every road between two junctions; a road that meets a corner of the ring bends there."""
    for column in range(len(plan.columns_m)):
        for row in range(len(plan.rows_m)):
            for direction, step in enumerate(STEP):
                node, end = (column, row), (column + step[0], row + step[1])
                inside = 0 <= end[0] < len(plan.columns_m) and 0 <= end[1] < len(plan.rows_m)
                if inside and not plan.is_corner(node) and direction not in plan.arms.setdefault(node, {}):
                    _street(plan, node, end, direction)


def _street(plan: _Plan, node: Node, end: Node, direction: int) -> None:
    lanes, speed = plan.street(node, direction)
    (x, y), (end_x, end_y) = plan.place(node), plan.place(end)
    pieces, arrival = [(abs(end_x - x) + abs(end_y - y) - 2 * JUNCTION_M, 0)], direction
    if plan.is_corner(end):
        left = (direction + 1) % 4
        turn = 1 if plan.is_corner(node) or 0 <= end[left % 2] + STEP[left][left % 2] < _count(plan, left) else -1
        arrival = (direction + turn) % 4
        beyond = (end[0] + STEP[arrival][0], end[1] + STEP[arrival][1])
        straight = pieces[0][0] + JUNCTION_M - _CORNER_RADIUS_M
        far_x, far_y = plan.place(beyond)
        rest = abs(far_x - end_x) + abs(far_y - end_y) - JUNCTION_M - _CORNER_RADIUS_M
        pieces = [(straight, 0), (_CORNER_RADIUS_M * math.pi / 2, turn), (rest, 0)]
        end, end_x, end_y = beyond, far_x, far_y
    start = ahead_of(x, y, direction, JUNCTION_M)
    road_id = write_road(plan.net, start, direction, pieces, -1, speed)
    street_lanes(plan.net.roads[road_id], lanes)
    back = (arrival + 2) % 4
    plan.arms[node][direction] = Arm(road_id, False, direction, lanes, speed, *start)
    finish = ahead_of(end_x, end_y, back, JUNCTION_M)
    plan.arms.setdefault(end, {})[back] = Arm(road_id, True, back, lanes, speed, *finish)


def _count(plan: _Plan, direction: int) -> int:
    return len(plan.columns_m) if direction % 2 == 0 else len(plan.rows_m)


def generate_town(blocks: int = 3, seed: int = 0) -> str:
    """Write the town.

    Args:
        blocks: Blocks along each side, at least 2; three make a town of about 300 m by 300 m.
        seed: Chooses block sizes, the avenues and where signs stand in place of lights.

    Returns:
        An OpenDRIVE 1.4 document; equal arguments give equal text.

    Raises:
        ValueError: `blocks` is below 2.
    """
    if blocks < 2:
        raise ValueError(
            f"expected blocks >= 2 (a single block has no junction), found {blocks}; pass blocks=2 or more"
        )
    chance = random.Random(seed)
    sides = [[0.0], [0.0]]
    for side in sides:
        for _ in range(blocks):
            side.append(side[-1] + float(chance.randrange(_SHORTEST_BLOCK_M, _LONGEST_BLOCK_M + 1, 5)))
    avenues = [chance.randrange(1, blocks) for _ in sides]
    lanes = [[2 if street == avenue else 1 for street in range(blocks + 1)] for avenue in avenues]
    net = Network(TOWN_NAME, (0.0, 0.0, sides[0][-1], sides[1][-1]))
    plan = _Plan(sides[0], sides[1], lanes[0], lanes[1], net)
    _streets(plan)
    nodes = sorted(node for node in plan.arms if not plan.is_corner(node))
    ends = [node for node in nodes if len(plan.arms[node]) == 3]
    signed = dict(zip(chance.sample(ends, 3), ("206", "206", "205"), strict=True))
    for node in nodes:
        net.crossing(dict(sorted(plan.arms[node].items())), signed.get(node, "1000001"))
    return net.text()
