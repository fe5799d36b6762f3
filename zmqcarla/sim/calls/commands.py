"""Batches: apply_batch and its commands, each of which is one of the other calls."""

from collections.abc import Callable
from typing import Any

from zmqcarla.sim.calls import actors, lights, vehicles, walkers
from zmqcarla.sim.geometry import pose_from_wire
from zmqcarla.sim.rpc import Method, Reply, Session, told
from zmqcarla.sim.wire import WireError
from zmqcarla.sim.world import SimError

_SPAWN, _WALK, _CONSOLE = 0, 7, 20


def _destroy(session: Session, actor_id: int) -> None:
    if not actors.destroy(session, actor_id):
        raise SimError("unable to destroy actor: not found")


def _light_state(session: Session, actor_id: int, state: int) -> None:
    vehicles.set_light_state(session, actor_id, [state])


def _console(_session: Session, _text: str) -> None:
    """Unreal's console is not here. As in CARLA, a command that the console does not know is no error."""


# by command index: the call that does the same, and its function, which takes (session, *fields)
_COMMANDS: dict[int, tuple[str, Callable[..., None]]] = {
    1: ("destroy_actor", _destroy),
    2: ("apply_control_to_vehicle", vehicles.apply_control),
    3: ("apply_ackermann_control_to_vehicle", vehicles.apply_ackermann),
    4: ("apply_control_to_walker", walkers.apply_control),
    5: ("apply_physics_control", vehicles.set_physics),
    6: ("set_actor_transform", actors.set_transform),
    _WALK: ("set_walker_state", walkers.apply_state),
    8: ("set_actor_target_velocity", actors.set_velocity),
    9: ("set_actor_target_angular_velocity", actors.set_angular_velocity),
    10: ("add_actor_impulse", actors.add_impulse),
    11: ("add_actor_force", actors.add_force),
    12: ("add_actor_angular_impulse", actors.add_angular_impulse),
    13: ("add_actor_torque", actors.add_torque),
    14: ("set_actor_simulate_physics", actors.set_physics),
    15: ("set_actor_enable_gravity", actors.set_gravity),
    16: ("set_actor_autopilot", vehicles.set_autopilot),
    17: ("show_vehicle_debug_telemetry", vehicles.show_telemetry),
    18: ("set_vehicle_light_state", _light_state),
    19: ("set_actor_location", actors.set_location),
    _CONSOLE: ("console_command", _console),
    21: ("set_traffic_light_state", lights.set_state),
}


def apply_batch(session: Session, commands: list[Any], do_tick: bool) -> list[Any]:
    """Do the commands in order; one response each, an actor id or an error."""
    responses = [_respond(session, command) for command in commands]
    done = all(response[0][0] for response in responses)
    session.scripted_batch = not (_by_manager(session) or (done and _by_navigation(session, commands)))
    if do_tick and session.simulation.world.settings.synchronous:
        session.simulation.step()
    return responses


def _by_manager(session: Session) -> bool:
    """Whether the batch that has come is the Traffic Manager's of the client."""
    return session.cues.drive() and bool(session.traffic_manager_ports)


def _by_navigation(session: Session, commands: list[Any]) -> bool:
    """Whether a batch that was done is what the client sends by itself with each tick, for pedestrians it leads."""
    actors_by_id = session.simulation.world.actors
    walkers_told = [actors_by_id.get(fields[0]) for index, fields in (each[0] for each in commands) if index == _WALK]
    led = [w for w in walkers_told if w and any(child.type_id == "controller.ai.walker" for child in w.children)]
    return 0 < len(commands) == len(led)


def _respond(session: Session, command: list[Any]) -> list[Any]:
    try:
        return [[1, _run(session, command)]]
    except SimError as error:
        return [[0, [told(_COMMANDS.get(command[0][0], ("spawn_actor",))[0], error)]]]
    except (TypeError, ValueError, IndexError, OverflowError, WireError) as error:
        return [[0, [str(error)]]]


def _run(session: Session, command: list[Any]) -> int:
    index, fields = command[0]
    if index == _SPAWN:
        return _spawn(session, fields)
    if index not in _COMMANDS:
        raise SimError(f"not supported by the embedded simulator: command {index}")
    _COMMANDS[index][1](session, *fields)
    return 0 if index == _CONSOLE else int(fields[0])


def _spawn(session: Session, fields: list[Any]) -> int:
    # Between parent and do_after, 0.9.16 has an attachment and a socket.
    description, transform, parent, *_, do_after = fields
    parent_id = int(parent[1]) if parent[0] else 0
    actor = actors.spawn_at(session, description, pose_from_wire(transform), parent_id)
    for command in do_after:
        index, then = command[0]
        if index not in (_SPAWN, _CONSOLE):
            _respond(session, [[index, [actor.id, *then[1:]]]])
        else:
            _respond(session, command)
    return actor.id


COMMAND_CALLS = {
    "apply_batch": Method(apply_batch, Reply.BARE, lambda arguments: bool(arguments[1:2] and arguments[1])),
}
