"""Vehicles, walkers and props as they can be read through CARLA's API, and the commands that put them back.

A body's numbers are those of the API: metres, degrees, metres and degrees a second, world frame, all of them float32
there and therefore here.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import carla

from zmqcarla.workers.session import Session

FAMILIES: Final = ("vehicle", "walker", "static")
"""First parts of the type ids of what a snapshot holds."""

_NUMBERS: Final = struct.Struct("<12f")
# New bodies are born high above each other, where nothing is in the way, and then put in their places.
_BIRTH_HEIGHT_M: Final = 500.0
_BIRTH_SPACING_M: Final = 30.0

Numbers = tuple[float, ...]
Look = tuple[str, tuple[tuple[str, str], ...]]
"""Type id, and the attributes that can be chosen: bodies that look alike can take each other's place."""


@dataclass(frozen=True, slots=True)
class Body:
    """One actor at one moment.

    Attributes:
        body_id: its actor id.
        look: what it is.
        numbers: x, y, z; pitch, yaw, roll; velocity; angular velocity: twelve numbers.
        control: of a vehicle throttle, steer, brake, hand_brake, reverse, manual_gear_shift, gear; of a walker x, y, z
            of the direction, speed, jump; of anything else nothing.
        lights: bits of a vehicle's own lights.
    """

    body_id: int
    look: Look
    numbers: Numbers
    control: tuple[Any, ...]
    lights: int

    @property
    def family(self) -> str:
        """One of `FAMILIES`."""
        return self.look[0].partition(".")[0]

    def to_plain(self) -> list[Any]:
        """As it lies in a snapshot."""
        type_id, attributes = self.look
        packed = _NUMBERS.pack(*self.numbers)
        return [self.body_id, type_id, dict(attributes), packed, list(self.control), self.lights]

    @classmethod
    def from_plain(cls, plain: Sequence[Any]) -> Body:
        """The other way round."""
        body_id, type_id, attributes, packed, control, lights = plain
        look = str(type_id), tuple((str(name), str(value)) for name, value in attributes.items())
        return cls(int(body_id), look, _NUMBERS.unpack(packed), tuple(control), int(lights))


class Wardrobe:
    """Blueprints of a server, and how actors look."""

    def __init__(self, session: Session) -> None:
        self._library: Any = session.world.get_blueprint_library()
        self._chosen: dict[str, frozenset[str]] = {}

    def look_of(self, actor: Any) -> Look:
        """Return how an actor looks."""
        type_id = str(actor.type_id)
        chosen = self._chosen.get(type_id)
        if chosen is None:
            blueprint = self._library.find(type_id)
            chosen = frozenset(str(each.id) for each in blueprint if each.is_modifiable)
            self._chosen[type_id] = chosen
        return type_id, tuple(sorted((name, value) for name, value in actor.attributes.items() if name in chosen))

    def blueprint(self, look: Look) -> Any:
        """Return a blueprint of what looks like this."""
        type_id, attributes = look
        blueprint = self._library.find(type_id)
        for name, value in attributes:
            blueprint.set_attribute(name, value)
        return blueprint


def living(session: Session) -> dict[int, Any]:
    """Return the actors of the `FAMILIES` that live, by id, in order of birth; they are as of the last tick."""
    with session.answers("get_actors"):
        actors = session.world.get_actors()
    found = {int(actor.id): actor for actor in actors if str(actor.type_id).partition(".")[0] in FAMILIES}
    return dict(sorted(found.items()))


def read_bodies(session: Session, actors: Mapping[int, Any], wardrobe: Wardrobe) -> list[Body]:
    """Return the bodies of actors, in their order, as of the last tick."""
    snapshot = session.world.get_snapshot()
    lights: dict[int, Any] = {}
    if any(str(actor.type_id).startswith("vehicle.") for actor in actors.values()):
        with session.answers("get_vehicle_light_states"):
            lights = session.world.get_vehicles_light_states()
    bodies: list[Body] = []
    for actor_id, actor in actors.items():
        seen = snapshot.find(actor_id)
        if seen is None:
            continue
        look = wardrobe.look_of(actor)
        bodies.append(Body(actor_id, look, numbers_of(seen), _control_of(actor, look), int(lights.get(actor_id, 0))))
    return bodies


def numbers_of(seen: Any) -> Numbers:
    """Return `Body.numbers` of a `carla.ActorSnapshot`."""
    pose, velocity, spin = seen.get_transform(), seen.get_velocity(), seen.get_angular_velocity()
    place, turn = pose.location, pose.rotation
    return (
        *(place.x, place.y, place.z, turn.pitch, turn.yaw, turn.roll),
        *(velocity.x, velocity.y, velocity.z, spin.x, spin.y, spin.z),
    )


def _control_of(actor: Any, look: Look) -> tuple[Any, ...]:
    family = look[0].partition(".")[0]
    if family == "static":
        return ()
    control = actor.get_control()
    if family == "walker":
        direction = control.direction
        return direction.x, direction.y, direction.z, control.speed, control.jump
    return (
        *(control.throttle, control.steer, control.brake),
        *(control.hand_brake, control.reverse, control.manual_gear_shift, control.gear),
    )


def birth_commands(bodies: Iterable[Body], wardrobe: Wardrobe) -> list[Any]:
    """Return the commands that bring bodies into the world, above where an ego may just have been born."""
    return [
        carla.command.SpawnActor(wardrobe.blueprint(body.look), birth_place(body, number))
        for number, body in enumerate(bodies, start=1)
    ]


def birth_place(body: Body, number: int = 0) -> carla.Transform:
    """Return where a body is born."""
    x, y, z = body.numbers[:3]
    return carla.Transform(carla.Location(x, y, z + _BIRTH_HEIGHT_M + number * _BIRTH_SPACING_M))


def place_commands(bodies: Iterable[tuple[int, Body]]) -> list[Any]:
    """Return the commands that give actors, by id, the state of bodies."""
    return [command for actor_id, body in bodies for command in _PLACERS[body.family](actor_id, body)]


def _motion(actor_id: int, body: Body) -> list[Any]:
    x, y, z, pitch, yaw, roll = body.numbers[:6]
    pose = carla.Transform(carla.Location(x, y, z), carla.Rotation(pitch, yaw, roll))
    command: Any = carla.command
    return [
        command.ApplyTransform(actor_id, pose),
        command.ApplyTargetVelocity(actor_id, carla.Vector3D(*body.numbers[6:9])),
        command.ApplyTargetAngularVelocity(actor_id, carla.Vector3D(*body.numbers[9:12])),
    ]


def control_of(body: Body) -> carla.VehicleControl:
    """Return the control of a vehicle."""
    return carla.VehicleControl(*body.control)


def _vehicle(actor_id: int, body: Body) -> list[Any]:
    throttle, steer, brake, hand_brake, reverse, manual, gear = body.control
    command: Any = carla.command
    commands = _motion(actor_id, body)
    if not manual:
        # The automatic's gear can only be set by hand.
        by_hand = carla.VehicleControl(throttle, steer, brake, hand_brake, reverse, True, gear)
        commands.append(command.ApplyVehicleControl(actor_id, by_hand))
    commands.append(command.ApplyVehicleControl(actor_id, control_of(body)))
    commands.append(command.SetVehicleLightState(actor_id, carla.VehicleLightState(body.lights)))
    return commands


def _walker(actor_id: int, body: Body) -> list[Any]:
    x, y, z, speed, jump = body.control
    control = carla.WalkerControl(carla.Vector3D(x, y, z), speed, jump)
    command: Any = carla.command
    return [*_motion(actor_id, body), command.ApplyWalkerControl(actor_id, control)]


_PLACERS: Final = {"vehicle": _vehicle, "walker": _walker, "static": _motion}
