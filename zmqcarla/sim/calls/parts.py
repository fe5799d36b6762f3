"""Calls about components, bones and sockets."""

from typing import Any

from zmqcarla.sim import parts, skeleton
from zmqcarla.sim.actors import Actor, Vehicle, Walker
from zmqcarla.sim.geometry import Pose, compose, pose_from_wire, pose_to_wire
from zmqcarla.sim.rpc import Session, value, void
from zmqcarla.sim.world import ActorError

_NO_SKELETON = "Component could not be found in this actor.  Component Name: SkinnedMeshComponent "


def _actor(session: Session, actor_id: int) -> Actor:
    return session.simulation.world.get(actor_id)


def _world_pose(session: Session, actor: Actor, pose: Pose) -> list[list[float]]:
    return pose_to_wire(compose(session.simulation.world.table.pose(actor.row), pose))


def _component(actor: Actor, name: str) -> Pose:
    found = parts.components(actor).get(name)
    if found is None:
        raise ActorError(f"Component could not be found in this actor.  Component Name: {name}")
    return found


def component_world_transform(session: Session, actor_id: int, name: str) -> list[Any]:
    """World pose of a component."""
    actor = _actor(session, actor_id)
    return _world_pose(session, actor, _component(actor, name))


def component_relative_transform(session: Session, actor_id: int, name: str) -> list[Any]:
    """Pose of a component on its actor."""
    return pose_to_wire(_component(_actor(session, actor_id), name))


def component_names(session: Session, actor_id: int) -> list[str]:
    """Names of an actor's components."""
    return list(parts.components(_actor(session, actor_id)))


def _bones(session: Session, actor_id: int) -> tuple[Actor, dict[str, Pose]]:
    actor = _actor(session, actor_id)
    found = parts.bones(actor)
    if not found:
        raise ActorError(_NO_SKELETON)
    return actor, found


def bone_names(session: Session, actor_id: int) -> list[str]:
    """Names of an actor's bones."""
    return list(_bones(session, actor_id)[1])


def bone_world_transforms(session: Session, actor_id: int) -> list[Any]:
    """World poses of an actor's bones, in the order of their names."""
    actor, found = _bones(session, actor_id)
    return [_world_pose(session, actor, pose) for pose in found.values()]


def bone_relative_transforms(session: Session, actor_id: int) -> list[Any]:
    """Poses on the actor of its bones, in the order of their names."""
    return [pose_to_wire(pose) for pose in _bones(session, actor_id)[1].values()]


def vehicle_bone_world_transforms(session: Session, actor_id: int) -> list[Any]:
    """World poses of a vehicle's bones."""
    session.simulation.world.get_kind(actor_id, Vehicle)
    return bone_world_transforms(session, actor_id)


def _no_sockets(session: Session, actor_id: int) -> list[Any]:
    """No mesh here has sockets."""
    _actor(session, actor_id)
    return []


def walker_bones(session: Session, actor_id: int) -> list[Any]:
    """WalkerBoneControlOut: each bone's pose in the world, on the mesh and on its parent."""
    walker = session.simulation.world.get_kind(actor_id, Walker)
    relative = parts.relative_bones(walker)
    on_mesh = skeleton.chained(relative, parts.ORIGIN)
    on_actor = parts.bones(walker)
    return [
        [
            [name, _world_pose(session, walker, on_actor[name]), pose_to_wire(on_mesh[name]), pose_to_wire(pose)]
            for name, pose in relative.items()
        ]
    ]


def set_walker_bones(session: Session, actor_id: int, bones: list[Any]) -> None:
    """Give some bones of a pedestrian a pose on their parent; `blend_pose` says how far it shows."""
    walker = session.simulation.world.get_kind(actor_id, Walker)
    walker.bones |= {name: pose_from_wire(transform) for name, transform in bones[0]}


def blend_pose(session: Session, actor_id: int, share: float) -> None:
    """Show a pedestrian's own pose (1), the one a script set (0 hides it), or something between."""
    session.simulation.world.get_kind(actor_id, Walker).blend = max(0.0, min(float(share), 1.0))


def pose_from_animation(session: Session, actor_id: int) -> None:
    """Take the pedestrian's own pose as the one that a script then changes."""
    walker = session.simulation.world.get_kind(actor_id, Walker)
    walker.bones = skeleton.rest(2 * walker.shape.extent_m[2])


PART_CALLS = {
    "get_actor_component_world_transform": value(component_world_transform),
    "get_actor_component_relative_transform": value(component_relative_transform),
    "get_actor_component_names": value(component_names),
    "get_actor_bone_names": value(bone_names),
    "get_actor_bone_world_transforms": value(bone_world_transforms),
    "get_actor_bone_relative_transforms": value(bone_relative_transforms),
    "get_vehicle_bone_world_transforms": value(vehicle_bone_world_transforms),
    "get_actor_socket_names": value(_no_sockets),
    "get_actor_socket_world_transforms": value(_no_sockets),
    "get_actor_socket_relative_transforms": value(_no_sockets),
    "get_bones_transform": value(walker_bones),
    "set_bones_transform": void(set_walker_bones),
    "blend_pose": void(blend_pose),
    "get_pose_from_animation": void(pose_from_animation),
}
