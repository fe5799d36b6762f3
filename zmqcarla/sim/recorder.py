"""The recorder: after each tick it writes down what has changed."""

import contextlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zmqcarla.sim import wire
from zmqcarla.sim.actors import Actor, Vehicle
from zmqcarla.sim.recording import Birth, Frame, RecordingWriter
from zmqcarla.sim.world import World

# a light's running time changes in every tick and follows from the rest
_UNRECORDED = slice(109, 113)


class Recorder:
    """Records the episode of a world.

    Args:
        world: which.
        path: the file.
        date: as texts about the recording show it.

    Raises:
        OSError: the file cannot be written.
        RecordingError: a file is there that is no recording.
    """

    def __init__(self, world: World, path: Path, date: str) -> None:
        self._writer = RecordingWriter(path, world.road_map.name, date)
        self.path = path
        self._world = world
        self._start_s: float | None = None
        self._population = -1
        self._known: dict[int, Actor] = {}
        self._lamps: dict[int, int] = {}
        self._before: NDArray[np.uint8] = np.empty((0, wire.RECORD_BYTES), np.uint8)

    def write(self) -> None:
        """Write down the tick that has just been.

        Raises:
            OSError: the file cannot be written to.
        """
        world = self._world
        if self._start_s is None:
            self._start_s = world.elapsed_s
        births: list[Birth] = []
        deaths: list[int] = []
        now = np.frombuffer(world.table.body(), np.uint8).reshape(-1, wire.RECORD_BYTES).copy()
        now[:, _UNRECORDED] = 0
        if world.population != self._population:
            births, deaths = self._census()
            changed = now
        else:
            changed = now[(now != self._before).any(axis=1)]
        self._before = now
        collisions = [(impact.actor.id, impact.other.id) for impact in world.impacts]
        elapsed_s = world.elapsed_s - self._start_s
        self._writer.write(Frame(elapsed_s, births, deaths, collisions, self._changed_lamps(), changed.tobytes()))

    def _census(self) -> tuple[list[Birth], list[int]]:
        """Who came and who went since the last time."""
        world = self._world
        births = [
            Birth(
                actor.id,
                actor.type_id,
                actor.attributes,
                actor.parent.id if actor.parent else 0,
                actor.relative if actor.parent else world.table.pose(actor.row),
            )
            for number, actor in world.actors.items()
            if number not in self._known
        ]
        deaths = [number for number in self._known if number not in world.actors]
        for number in deaths:
            self._lamps.pop(number, None)
        self._known = dict(world.actors)
        self._population = world.population
        return births, deaths

    def _changed_lamps(self) -> list[tuple[int, int]]:
        vehicles: list[Vehicle] = self._world.roster.vehicles
        changed = [(v.id, v.lights) for v in vehicles if v.lights != self._lamps.get(v.id, 0)]
        self._lamps.update(changed)
        return changed

    def close(self) -> None:
        """Finish the file."""
        with contextlib.suppress(OSError):  # a full disk was told when it was found
            self._writer.close()
