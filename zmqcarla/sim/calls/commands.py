"""Batches: apply_batch and its commands, each of which is one of the other calls."""

from collections.abc import Callable
from typing import Any

from zmqcarla.sim.calls import actors, lights, vehicles, walkers
from zmqcarla.sim.geometry import pose_from_wire
from zmqcarla.sim.rpc import Method, Reply, Session
from zmqcarla.sim.wire import WireError
from zmqcarla.sim.world import SimError

_SPAWN, _CONSOLE = 0, 20


def _destroy(session: Session, actor_id: int) -> None:
    if not actors.destroy(session, actor_id):
        raise SimError(f"unable to destroy actor: not found: {actor_id}")


def _light_state(session: Session, actor_id: int, state: int) -> None:
    vehicles.set_light_state(session, actor_id, [state])


def _console(_session: Session, text: str) -> None:
    raise SimError(f"not supported by the embedded simulator: console command {text!r}")


# by command index; each takes (session, *fields)
_COMMANDS: dict[int, Callable[..., None]] = {
    1: _destroy,
    2: vehicles.apply_control,
    3: vehicles.apply_ackermann,
    4: walkers.apply_control,
    5: vehicles.set_physics,
    6: actors.set_transform,
    7: walkers.apply_state,
    8: actors.set_velocity,
    9: actors.set_angular_velocity,
    10: actors.add_impulse,
    11: actors.add_force,
    12: actors.add_angular_impulse,
    13: actors.add_torque,
    14: actors.set_physics,
    15: actors.set_gravity,
    16: vehicles.set_autopilot,
    17: vehicles.ignore,
    18: _light_state,
    19: actors.set_location,
    _CONSOLE: _console,
    21: lights.set_state,
}


def apply_batch(session: Session, commands: list[Any], do_tick: bool) -> list[Any]:
    """Do the commands in order; one response each, an actor id or an error."""
    responses = [_respond(session, command) for command in commands]
    if do_tick and session.simulation.world.settings.synchronous:
        session.simulation.step()
    return responses


def _respond(session: Session, command: list[Any]) -> list[Any]:
    try:
        return [[1, _run(session, command)]]
    except (SimError, TypeError, ValueError, IndexError, OverflowError, WireError) as error:
        return [[0, [str(error)]]]


def _run(session: Session, command: list[Any]) -> int:
    index, fields = command[0]
    if index == _SPAWN:
        return _spawn(session, fields)
    function = _COMMANDS.get(index)
    if function is None:
        raise SimError(f"not supported by the embedded simulator: command {index}")
    function(session, *fields)
    return 0 if index == _CONSOLE else int(fields[0])


def _spawn(session: Session, fields: list[Any]) -> int:
    description, transform, parent, _attachment, _socket, do_after = fields
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
