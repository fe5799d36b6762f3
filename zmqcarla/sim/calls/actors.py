"""Calls about any actor: spawn, destroy, look up, place, push."""

import math
from typing import Any

from zmqcarla.sim.actors import Actor, Prop, Sensor, Sign, Vehicle, Walker
from zmqcarla.sim.geometry import Pose, Vector, compose, pose_from_wire, rotation, turn
from zmqcarla.sim.rpc import Session, value, void
from zmqcarla.sim.sensors import SENSORS
from zmqcarla.sim.world import SimError, World

# carla.AttachmentType; the third is the ghost, a spring arm that passes through walls
_RIGID, _SPRING_ARM = 0, 1
_ARM_LIFT_M = 0.3
# float32 records would overflow some ticks after larger numbers
_LARGEST = 1e9
# sensors that live in the client and are plain actors here
_CLIENT_SENSORS = ("sensor.other.lane_invasion",)


def _world(session: Session) -> World:
    return session.simulation.world


def finite(numbers: list[float]) -> Vector:
    """A carla.Vector3D.

    Raises:
        SimError: not three finite numbers of a size that motion can bear.
    """
    if len(numbers) != 3 or not all(abs(number) < _LARGEST for number in numbers):
        raise SimError(f"expected three numbers below {_LARGEST:.0e}, found {numbers}")
    return (float(numbers[0]), float(numbers[1]), float(numbers[2]))


def spawn_at(session: Session, description: list[Any], pose: Pose, parent_id: int, recorded_id: int = 0) -> Actor:
    """Spawn an actor; see `World.spawn`."""
    simulation = session.simulation
    _, type_id, attributes = description
    kind = SENSORS.get(type_id)
    if kind is None and type_id.startswith("sensor.") and type_id not in _CLIENT_SENSORS:
        raise SimError(f"not supported by the embedded simulator: {type_id}")
    parent = simulation.world.actors.get(parent_id)
    if parent_id and parent is None:
        raise SimError("unable to attach actor: parent actor not found")
    actor = simulation.world.spawn(type_id, attributes, pose, parent, kind, recorded_id)
    if isinstance(actor, Sensor):
        actor.stream_id = simulation.streams.new_stream()
        actor.token = simulation.streams.token(actor.stream_id)
    if session.episode_id != simulation.world.episode_id:
        session.episode_id = simulation.world.episode_id
        session.spawned.clear()
    session.spawned.add(actor.id)
    return actor


def spawn(session: Session, description: list[Any], transform: list[Any]) -> list[Any]:
    """Spawn an actor."""
    return spawn_at(session, description, pose_from_wire(transform), 0).wire()


def spawn_attached(
    session: Session,
    description: list[Any],
    transform: list[Any],
    parent: int,
    attachment: int,
    _socket: str = "",
) -> list[Any]:
    """Spawn an actor on another, rigidly or on a spring arm."""
    pose = pose_from_wire(transform)
    if attachment == _RIGID:
        return spawn_at(session, description, pose, parent).wire()
    world = _world(session)
    lift_m = _ARM_LIFT_M if attachment == _SPRING_ARM else 0.0
    actor = spawn_at(session, description, _on_arm(pose, lift_m), parent)
    actor.arm_yaw_deg = world.table.pose(world.get(parent).row)[4]
    world.place_attached([actor])
    return actor.wire()


def _on_arm(pose: Pose, lift_m: float) -> Pose:
    """Where a spring arm holds what is attached at a pose: at the same place, turned to look at the parent.

    The actor's own rotation comes on top. The arm does not collide, and so never gets shorter.
    """
    x, y, z = pose[:3]
    look = (math.degrees(math.atan2(-z, math.hypot(x, y))), math.degrees(math.atan2(-y, -x)), 0.0)
    return compose((x, y, z + lift_m, *look), (0.0, 0.0, 0.0, *pose[3:]))


def destroy(session: Session, actor_id: int) -> bool:
    """Destroy an actor and what is attached to it."""
    session.spawned.discard(actor_id)
    return _world(session).destroy(actor_id)


def actors_by_id(session: Session, ids: list[int]) -> list[Any]:
    """Those of the actors that live."""
    actors = _world(session).actors
    return [actors[actor_id].wire() for actor_id in ids if actor_id in actors]


def spectator(session: Session) -> list[Any]:
    """The spectator."""
    return _world(session).spectator.wire()


def place(session: Session, actor_id: int, pose: Pose) -> None:
    """Move an actor to a pose."""
    world = _world(session)
    actor = world.get(actor_id)
    if not all(abs(number) < _LARGEST for number in pose):
        raise SimError(f"expected a finite transform of numbers below {_LARGEST:.0e}, found {pose}")
    if isinstance(actor, Sign):
        return
    if actor.parent is not None:
        actor.relative = pose
        world.place_attached([actor])
    else:
        world.table.set_pose(actor.row, pose)
    if isinstance(actor, Vehicle):
        actor.fresh = actor.asleep = False
    elif isinstance(actor, Walker):
        actor.grounded = None
    world.place_attached(actor.children)


def set_transform(session: Session, actor_id: int, transform: list[Any]) -> None:
    """Move an actor; one that is attached moves on its parent."""
    place(session, actor_id, pose_from_wire(transform))


def set_location(session: Session, actor_id: int, location: list[float]) -> None:
    """Move an actor without turning it."""
    world = _world(session)
    actor = world.get(actor_id)
    old = actor.relative if actor.parent is not None else world.table.pose(actor.row)
    place(session, actor_id, (*finite(location), *old[3:]))


def set_velocity(session: Session, actor_id: int, velocity: list[float]) -> None:
    """Give an actor a world velocity (m/s)."""
    world = _world(session)
    actor = world.get(actor_id)
    v = finite(velocity)
    if isinstance(actor, Vehicle | Walker | Prop) and actor.physics:
        world.table.set_motion(actor.row, (*v, *world.table.motion(actor.row)[3:]))
        wake(actor)


def set_angular_velocity(session: Session, actor_id: int, velocity: list[float]) -> None:
    """Give an actor an angular velocity (deg/s)."""
    world = _world(session)
    actor = world.get(actor_id)
    w = finite(velocity)
    if isinstance(actor, Vehicle) and actor.physics:
        motion = world.table.motion(actor.row)
        world.table.set_motion(actor.row, (*motion[:3], *w, *motion[6:]))
        wake(actor)


def wake(actor: Actor) -> None:
    """Something acts on an actor: let it move at the next tick."""
    if isinstance(actor, Vehicle):
        actor.fresh = actor.asleep = False


def hold_velocity(session: Session, actor_id: int, velocity: list[float]) -> None:
    """Hold a vehicle at a velocity in its own frame (m/s)."""
    vehicle = _world(session).get_kind(actor_id, Vehicle)
    vehicle.constant_mps = finite(velocity)
    wake(vehicle)


def release_velocity(session: Session, actor_id: int) -> None:
    """End `hold_velocity`."""
    vehicle = _world(session).get_kind(actor_id, Vehicle)
    vehicle.constant_mps = None
    wake(vehicle)


def push(session: Session, actor_id: int, impulse: Vector, point: Vector | None = None) -> None:
    """Add an impulse (N s, world frame) to a vehicle, at its centre or at a world point; or to a prop as a whole."""
    world = _world(session)
    actor = world.get(actor_id)
    if isinstance(actor, Prop) and actor.physics:
        mass, motion = actor.blueprint.mass_kg, world.table.motion(actor.row)
        pushed = [motion[axis] + impulse[axis] / mass for axis in range(3)]
        world.table.set_motion(actor.row, (*pushed, *motion[3:]))
    if not isinstance(actor, Vehicle) or not actor.physics:
        return
    mass, old = actor.model.mass_kg, actor.push_mps
    actor.push_mps = (old[0] + impulse[0] / mass, old[1] + impulse[1] / mass, old[2] + impulse[2] / mass)
    if point is not None:
        x, y = world.table.pose(actor.row)[:2]
        torque = (point[0] - x) * impulse[1] - (point[1] - y) * impulse[0]
        actor.spin_rad_s += torque / mass / actor.model.gyration_m2
    wake(actor)


def _tick_s(session: Session) -> float:
    """How long a force acts: the tick to come."""
    world = _world(session)
    return world.settings.fixed_delta_s or world.delta_s or 0.05


def add_impulse(session: Session, actor_id: int, impulse: list[float]) -> None:
    """Add an impulse (N s)."""
    push(session, actor_id, finite(impulse))


def add_force(session: Session, actor_id: int, force: list[float]) -> None:
    """Let a force (N) act during the next tick."""
    x, y, z = finite(force)
    h = _tick_s(session)
    push(session, actor_id, (x * h, y * h, z * h))


def add_impulse_at(session: Session, actor_id: int, impulse: list[float], point: list[float]) -> None:
    """Add an impulse (N s) at a world point."""
    push(session, actor_id, finite(impulse), finite(point))


def add_force_at(session: Session, actor_id: int, force: list[float], point: list[float]) -> None:
    """Let a force (N) act at a world point during the next tick."""
    x, y, z = finite(force)
    h = _tick_s(session)
    push(session, actor_id, (x * h, y * h, z * h), finite(point))


def add_angular_impulse(session: Session, actor_id: int, impulse: list[float]) -> None:
    """Add an angular impulse (N m s) about the vertical axis."""
    actor = _world(session).get(actor_id)
    if isinstance(actor, Vehicle):
        actor.spin_rad_s += finite(impulse)[2] / actor.model.mass_kg / actor.model.gyration_m2
        wake(actor)


def add_torque(session: Session, actor_id: int, torque: list[float]) -> None:
    """Let a torque (N m) about the vertical axis act during the next tick."""
    add_angular_impulse(session, actor_id, [x * _tick_s(session) for x in finite(torque)])


def set_physics(session: Session, actor_id: int, enabled: bool) -> None:
    """Let forces move an actor, or only scripts."""
    world = _world(session)
    actor = world.get(actor_id)
    if not isinstance(actor, Vehicle | Walker | Prop) or not actor.blueprint.solid:
        return
    actor.physics = enabled
    if isinstance(actor, Walker):
        actor.grounded = None
    if not enabled:
        world.table.set_motion(actor.row, (0.0,) * 9)
    wake(actor)


def set_collisions(session: Session, actor_id: int, enabled: bool) -> None:
    """Let others hit an actor, or pass through it."""
    _world(session).get(actor_id).collides = enabled


def set_gravity(session: Session, actor_id: int, enabled: bool) -> None:
    """Let an actor fall, or float."""
    actor = _world(session).get(actor_id)
    actor.gravity = enabled
    wake(actor)


def set_dead(session: Session, actor_id: int) -> None:
    """A walker has died: it lies where it is, and what hits it pushes it along."""
    actor = _world(session).get(actor_id)
    if isinstance(actor, Walker):
        actor.dead = actor.physics = True


def bounding_box(session: Session, actor_id: int) -> list[Any]:
    """Box in the actor's frame; zeros for one that is gone, because an error kills a Traffic Manager's process."""
    actor = _world(session).actors.get(actor_id)
    return actor.box_wire() if actor else [[0.0] * 3, [0.0] * 3, [0.0] * 3, actor_id]


def forward(world: World, actor: Actor) -> Vector:
    """World direction of an actor's x axis."""
    return turn(rotation(*world.table.pose(actor.row)[3:]), (1.0, 0.0, 0.0))


def ignore(_session: Session, *_arguments: object) -> None:
    """For calls that change nothing here."""


ACTOR_CALLS = {
    "spawn_actor": value(spawn),
    "spawn_actor_with_parent": value(spawn_attached),
    "destroy_actor": value(destroy),
    "get_actors_by_id": value(actors_by_id),
    "get_spectator": value(spectator),
    "set_actor_transform": void(set_transform),
    "set_actor_location": void(set_location),
    "set_actor_target_velocity": void(set_velocity),
    "set_actor_target_angular_velocity": void(set_angular_velocity),
    "enable_actor_constant_velocity": void(hold_velocity),
    "disable_actor_constant_velocity": void(release_velocity),
    "add_actor_impulse": void(add_impulse),
    "add_actor_impulse_at_location": void(add_impulse_at),
    "add_actor_force": void(add_force),
    "add_actor_force_at_location": void(add_force_at),
    "add_actor_angular_impulse": void(add_angular_impulse),
    "add_actor_torque": void(add_torque),
    "set_actor_simulate_physics": void(set_physics),
    "set_actor_collisions": void(set_collisions),
    "set_actor_enable_gravity": void(set_gravity),
    "set_actor_dead": void(set_dead),
    "get_actor_bounding_box": value(bounding_box),
}
