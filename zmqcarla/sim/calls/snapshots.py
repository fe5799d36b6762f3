"""The two calls that CARLA does not have; a client that restores a saved state needs them, see docs/simulator.md.

Everything else of a state can be set through CARLA's own calls. What they leave out: the client's getters answer from
the last tick's message, so a state that was set is seen only after a tick, which moves it; and the place of a
junction's lights in their cycle can neither be set nor, while all of them are red, be read.
"""

import math
from typing import Any

from zmqcarla.sim.rpc import Session, value
from zmqcarla.sim.world import SimError


def publish_state(session: Session, elapsed_s: float) -> int:
    """Show all clients the world as calls have made it, at a time of the episode; returns the number of the frame.

    No time passes: nobody moves, no light changes and no sensor measures.
    """
    if not (math.isfinite(elapsed_s) and elapsed_s >= 0.0):
        raise SimError(f"expected a time of 0 s or more, found {elapsed_s}")
    return session.simulation.show(float(elapsed_s))


def light_cycles(session: Session, cycles: list[list[Any]]) -> list[list[Any]]:
    """Set where the lights of each junction are in their cycle, unless the list is empty; returns where they are.

    An entry a junction, in the map's order: number of the phase, of its stage (0 green, 1 yellow, 2 red), and seconds
    since that stage began.
    """
    lights = session.simulation.world.lights
    if cycles:
        lights.set_cycles(_checked(cycles, [len(phases) for phases in lights.groups]))
    return [list(cycle) for cycle in lights.cycles()]


def _checked(cycles: list[list[Any]], phases: list[int]) -> list[tuple[int, int, float]]:
    if len(cycles) != len(phases):
        raise SimError(f"expected the cycles of {len(phases)} junctions, found {len(cycles)}; this may be another map")
    for (phase, stage, elapsed_s), count in zip(cycles, phases, strict=True):
        if not (0 <= phase < count and 0 <= stage < 3 and math.isfinite(elapsed_s) and elapsed_s >= 0.0):
            raise SimError(f"expected phase < {count}, stage < 3 and a time, found {phase, stage, elapsed_s}")
    return [(int(phase), int(stage), float(elapsed_s)) for phase, stage, elapsed_s in cycles]


SNAPSHOT_CALLS = {
    "zmqcarla_publish_state": value(publish_state),
    "zmqcarla_light_cycles": value(light_cycles),
}
