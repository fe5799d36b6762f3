"""Calls about pedestrians."""

import math
from typing import Any

from zmqcarla.sim import wire
from zmqcarla.sim.actors import Walker
from zmqcarla.sim.calls.actors import finite, forward, place
from zmqcarla.sim.geometry import pose_from_wire
from zmqcarla.sim.rpc import Session, void
from zmqcarla.sim.world import SimError


def apply_control(session: Session, actor_id: int, control: list[Any]) -> None:
    """Say where a pedestrian walks."""
    world = session.simulation.world
    walker = world.get_kind(actor_id, Walker)
    direction, speed, jump = control
    if not math.isfinite(speed):
        raise SimError(f"expected a finite speed, found {speed}")
    at = walker.row * wire.RECORD_BYTES + wire.SPECIFIC_AT
    wire.WALKER_CONTROL.pack_into(world.table.buffer, at, *finite(direction), float(speed), jump)


def apply_state(session: Session, actor_id: int, transform: list[Any], speed: float) -> None:
    """Place a pedestrian whose feet an AI controller has put at a transform, walking at a speed (m/s)."""
    world = session.simulation.world
    walker = world.get_kind(actor_id, Walker)
    x, y, z, *angles = pose_from_wire(transform)
    place(session, actor_id, (x, y, z + walker.shape.extent_m[2], angles[0], angles[1], angles[2]))
    ahead = forward(world, walker)
    motion = world.table.motion(walker.row)
    velocity = [component * speed for component in ahead]
    world.table.set_motion(walker.row, (*velocity, *motion[3:]))


WALKER_CALLS = {
    "apply_control_to_walker": void(apply_control),
    "set_walker_state": void(apply_state),
}
