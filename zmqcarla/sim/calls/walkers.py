"""Calls about pedestrians."""

import math
from typing import Any

from zmqcarla.sim import wire
from zmqcarla.sim.actors import Walker
from zmqcarla.sim.calls.actors import finite, forward, place
from zmqcarla.sim.geometry import Pose, compose, pose_from_wire, pose_to_wire
from zmqcarla.sim.rpc import Session, value, void
from zmqcarla.sim.skeleton import BONES, walking
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


def bones(session: Session, actor_id: int) -> list[Any]:
    """Where a pedestrian's bones are: [name, world, component, relative transform] each."""
    walker = session.simulation.world.get_kind(actor_id, Walker)
    posed = walker.posture.bones(_feet(session, walker), _animation(session, walker))
    return [[[bone.name, *map(pose_to_wire, bone[1:])] for bone in posed]]


def set_bones(session: Session, actor_id: int, wanted: list[Any]) -> None:
    """Give bones a pose of their own, relative to their parents; `blend_pose` makes it seen."""
    walker = session.simulation.world.get_kind(actor_id, Walker)
    for name, transform in wanted[0]:
        if not walker.posture.put(name, pose_from_wire(transform)):
            raise SimError(f"a pedestrian has no bone {name!r}; expected one of {', '.join(b.name for b in BONES)}")


def blend_pose(session: Session, actor_id: int, weight: float) -> None:
    """Show the animation (0), the script's pose (1), or a mixture."""
    walker = session.simulation.world.get_kind(actor_id, Walker)
    if not 0.0 <= weight <= 1.0:
        raise SimError(f"expected a weight from 0 to 1, found {weight}")
    walker.posture.weight = float(weight)


def take_pose_from_animation(session: Session, actor_id: int) -> None:
    """Make the present pose of the animation the script's pose."""
    walker = session.simulation.world.get_kind(actor_id, Walker)
    walker.posture.relative = dict(enumerate(_animation(session, walker)))


def _feet(session: Session, walker: Walker) -> Pose:
    return compose(session.simulation.world.table.pose(walker.row), (0.0, 0.0, -walker.shape.extent_m[2], 0, 0, 0))


def _animation(session: Session, walker: Walker) -> list[Pose]:
    world = session.simulation.world
    vx, vy, _ = world.table.velocity(walker.row)
    return walking(2 * walker.shape.extent_m[2], world.elapsed_s, math.hypot(vx, vy))


WALKER_CALLS = {
    "apply_control_to_walker": void(apply_control),
    "set_walker_state": void(apply_state),
    "get_bones_transform": value(bones),
    "set_bones_transform": void(set_bones),
    "blend_pose": void(blend_pose),
    "get_pose_from_animation": void(take_pose_from_animation),
}
