"""Traffic lights: the cycle of each junction, and which vehicle stands before which light.

As in CARLA, one group a junction runs its phases one after the other; each phase is a full green, yellow, red
cycle of its lights while all others are red. Freezing one light freezes its group.
"""

import math
from collections import defaultdict
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from zmqcarla.sim.actors import ActorTable, TrafficLight
from zmqcarla.sim.collisions import Rectangle, overlap
from zmqcarla.sim.signals import Box
from zmqcarla.sim.wire import LightColour

GREEN_S, YELLOW_S, RED_S = 10.0, 3.0, 2.0
_STAGES = (LightColour.GREEN, LightColour.YELLOW, LightColour.RED)
_TIME_FIELD = {
    LightColour.GREEN: "green_s",
    LightColour.YELLOW: "yellow_s",
    LightColour.RED: "red_s",
}
_CELL_M = 4.0
_REACH_M = 8.0  # half length of the longest vehicle plus half a trigger box


class TrafficLights:
    """All lights of a map.

    Args:
        table: holds the lights' records.
        groups: for each group its phases, each a list of lights that are green together.

    Attributes:
        halted: whether the lights' time stands still, as in a replay.
    """

    def __init__(self, table: ActorTable, groups: list[list[list[TrafficLight]]]) -> None:
        self._table = table
        self.groups = groups
        self.halted = False
        self._lights = [light for phases in groups for phase in phases for light in phase]
        for index, phases in enumerate(groups):
            for phase in phases:
                for light in phase:
                    light.group = index
        self._group_of = np.array([light.group for light in self._lights], dtype=np.int64)
        self._phase = [0] * len(groups)
        self._stage = [0] * len(groups)
        self._elapsed_s: NDArray[np.float32] = np.zeros(len(groups), np.float32)
        self._limit_s: NDArray[np.float32] = np.zeros(len(groups), np.float32)
        self._running: NDArray[np.float32] = np.ones(len(groups), np.float32)
        self._before = _Boxes((box, light) for light in self._lights for box in light.trigger_boxes)
        # lights are born with the episode and outlive all others, so their rows never change
        self._rows = np.array([light.row for light in self._lights], dtype=np.int64)
        table.records["green_s"][self._rows] = GREEN_S
        table.records["yellow_s"][self._rows] = YELLOW_S
        table.records["red_s"][self._rows] = RED_S
        self.reset_all()

    def tick(self, delta_s: float) -> None:
        """Let the lights' time pass."""
        if self.halted or not self._lights:
            return
        self._elapsed_s += self._running * np.float32(delta_s)
        due = self._elapsed_s >= self._limit_s - np.float32(1e-4)
        if True in due.tolist():
            for group in np.flatnonzero(due & (self._running > 0)):
                self._next_stage(int(group))
        self._table.records["elapsed_s"][self._rows] = self._elapsed_s[self._group_of]

    def _next_stage(self, group: int) -> None:
        if self._stage[group] == len(_STAGES) - 1:
            self._phase[group] = (self._phase[group] + 1) % len(self.groups[group])
        self._stage[group] = (self._stage[group] + 1) % len(_STAGES)
        self._show(group)

    def _show(self, group: int) -> None:
        """Write the group's colours and start the time of its stage."""
        records, colour = self._table.records, _STAGES[self._stage[group]]
        for number, phase in enumerate(self.groups[group]):
            shown = colour if number == self._phase[group] else LightColour.RED
            for light in phase:
                records["colour"][light.row] = shown
        leader = self.groups[group][self._phase[group]][0]
        self._elapsed_s[group] = 0.0
        self._limit_s[group] = records[_TIME_FIELD[colour]][leader.row]

    def reset(self, group: int) -> None:
        """Start the cycle of one group again."""
        self._phase[group] = self._stage[group] = 0
        self._show(group)

    def reset_all(self) -> None:
        """Start all cycles again."""
        for group in range(len(self.groups)):
            self.reset(group)
        self._table.records["elapsed_s"][self._rows] = 0.0

    def cycles(self) -> list[tuple[int, int, float]]:
        """Where each group is: number of its phase, of the phase's stage, and time (s) since the stage began."""
        return list(zip(self._phase, self._stage, self._elapsed_s.tolist(), strict=True))

    def set_cycles(self, cycles: Iterable[tuple[int, int, float]]) -> None:
        """Put each group where it is to be; see `cycles`."""
        for group, (phase, stage, elapsed_s) in enumerate(cycles):
            self._phase[group], self._stage[group] = phase, stage
            self._show(group)
            self._elapsed_s[group] = elapsed_s
        if self._lights:
            self._table.records["elapsed_s"][self._rows] = self._elapsed_s[self._group_of]

    def set_time(self, light: TrafficLight, colour: LightColour, seconds: float) -> None:
        """Set how long a colour lasts, for all lights of this light's phase."""
        records = self._table.records
        for number, phase in enumerate(self.groups[light.group]):
            if light in phase:
                for member in phase:
                    records[_TIME_FIELD[colour]][member.row] = seconds
                if number == self._phase[light.group] and _STAGES[self._stage[light.group]] == colour:
                    self._limit_s[light.group] = seconds

    def set_colour(self, light: TrafficLight, colour: int) -> None:
        """Show a colour until the cycle changes it."""
        self._table.records["colour"][light.row] = colour

    def freeze(self, groups: Iterable[int], frozen: bool) -> None:
        """Stop or continue the time of groups."""
        for group in groups:
            self._running[group] = 0.0 if frozen else 1.0
            for phase in self.groups[group]:
                for light in phase:
                    self._table.records["frozen"][light.row] = frozen

    def members(self, light: TrafficLight) -> list[TrafficLight]:
        """All lights of a light's group."""
        return [member for phase in self.groups[light.group] for member in phase]

    def near(self, x_m: float, y_m: float) -> bool:
        """Whether a vehicle there might touch a trigger box at all."""
        return self._before.cell(x_m, y_m) is not None

    def any_near(self, xy_m: NDArray[np.float64]) -> NDArray[np.bool_]:
        """The same for points (n, 2)."""
        return self._before.occupied(xy_m)

    def before(self, rectangle: Rectangle, z_m: float) -> TrafficLight | None:
        """The light whose trigger box a vehicle touches that does not come towards it."""
        return self._before.touched(rectangle, z_m)


class _Boxes:
    """Trigger boxes, found by a grid over the map."""

    def __init__(self, boxes: Iterable[tuple[Box, TrafficLight]]) -> None:
        self._cells: dict[tuple[int, int], list[tuple[Rectangle, float, TrafficLight]]] = defaultdict(list)
        for box, light in boxes:
            x, y, z = box.centre
            yaw = math.radians(box.yaw_deg)
            rectangle = Rectangle(x, y, math.cos(yaw), math.sin(yaw), box.extent[0], box.extent[1])
            for column in range(math.floor((x - _REACH_M) / _CELL_M), math.floor((x + _REACH_M) / _CELL_M) + 1):
                for row in range(math.floor((y - _REACH_M) / _CELL_M), math.floor((y + _REACH_M) / _CELL_M) + 1):
                    self._cells[column, row].append((rectangle, z, light))
        self._keys = np.sort(_key(np.array(list(self._cells)).reshape(-1, 2)))

    def occupied(self, xy_m: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Whether `cell` has anything at points (n, 2)."""
        if not len(self._keys):
            return np.zeros(len(xy_m), np.bool_)
        wanted = _key(np.floor(xy_m / _CELL_M).astype(np.int64))
        found: NDArray[np.bool_] = self._keys.take(np.searchsorted(self._keys, wanted), mode="clip") == wanted
        return found

    def cell(self, x_m: float, y_m: float) -> list[tuple[Rectangle, float, TrafficLight]] | None:
        return self._cells.get((int(x_m // _CELL_M), int(y_m // _CELL_M)))

    def touched(self, rectangle: Rectangle, z_m: float) -> TrafficLight | None:
        for box, z, light in self.cell(rectangle.x, rectangle.y) or ():
            # a long vehicle that leaves the junction sweeps over the box of those who come the other way
            along = box.cos * rectangle.cos + box.sin * rectangle.sin > 0.0
            if along and abs(z - z_m) < 4.0 and overlap(rectangle, box) is not None:
                return light
        return None


def _key(cells: NDArray[np.int64]) -> NDArray[np.int64]:
    keys: NDArray[np.int64] = cells[:, 0] * (1 << 32) + cells[:, 1]
    return keys
