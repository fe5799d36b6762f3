"""Actors and the table that holds their published state.

Every live actor owns one 119-byte record of `ActorTable`; the records in a row are the body of the world-observer
message. Position, velocity and control live nowhere else, so what is published is what the simulator computes with.
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zmqcarla.sim import wire
from zmqcarla.sim.blueprints import Blueprint, Shape
from zmqcarla.sim.geometry import Pose, Vector
from zmqcarla.sim.signals import Box
from zmqcarla.sim.vehicle_physics import Model, as_built

_FIRST_CAPACITY = 256


@dataclass(eq=False, slots=True)
class Actor:
    """One thing in the world.

    Attributes:
        id: never reused.
        blueprint: its type.
        attributes: [id, type, value] as the client sent them.
        shape: bounding box in its own frame.
        row: index of its record; changes when others are destroyed.
        parent: whom it is attached to; `relative` is its pose on the parent.
        arm_yaw_deg: yaw of the spring arm that it hangs on, None when it sits on its parent rigidly.
        children: who is attached to it.
        stream_id: stream of its measurements, 0 for none.
        spawn_frame: frame after which it came to be.
        physics: whether forces move it; `gravity` whether it falls; `collides` whether others hit it.
    """

    id: int
    blueprint: Blueprint
    attributes: list[list[Any]]
    shape: Shape
    spawn_frame: int
    row: int = -1
    parent: "Actor | None" = None
    relative: Pose = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    arm_yaw_deg: float | None = None
    children: "list[Actor]" = field(default_factory=list["Actor"])
    stream_id: int = 0
    token: bytes = b""
    physics: bool = True
    gravity: bool = True
    collides: bool = True

    @property
    def type_id(self) -> str:
        """Blueprint id, as vehicle.audi.tt."""
        return self.blueprint.type_id

    def attribute(self, name: str, default: str) -> str:
        """Value of an attribute, ``default`` when it has none of that name."""
        for entry in self.attributes:
            if entry[0] == name:
                return str(entry[2])
        return default

    def number(self, name: str, default: float) -> float:
        """Value of a numeric attribute."""
        return float(self.attribute(name, str(default)))

    def box_wire(self) -> list[Any]:
        """BoundingBox in the actor's frame."""
        return [list(self.shape.centre_m), list(self.shape.extent_m), [0.0, 0.0, 0.0], self.id]

    def wire(self) -> list[Any]:
        """The actor as the client expects it."""
        return [
            self.id,
            self.parent.id if self.parent else 0,
            [self.blueprint.uid, self.type_id, self.attributes],
            self.box_wire(),
            bytes([self.blueprint.label]) if self.blueprint.label else b"",
            self.token,
        ]


@dataclass(eq=False, slots=True)
class Vehicle(Actor):
    """A vehicle.

    Attributes:
        control: VehiclePhysicsControl as on the wire; `model` is compiled from it.
        own_grip_mps2: grip of its tyres where no friction trigger says otherwise.
        light: the traffic light that it stands before.
        lights: carla.VehicleLightState bits.
        autopilot: whether a Traffic Manager said that it drives this one.
        fresh: born since the last tick and left alone: it shows its spawn pose for one tick before it settles.
        asleep: at rest with nothing acting on it: its record stays as it is.
        stood: where its last tick ended (a record's pose) and the ground found there, so as not to ask again.
        constant_mps: velocity in its own frame that it is held at.
        push_mps: velocity change still to be applied, world frame; `spin_rad_s` likewise for the yaw rate.
        ackermann: target of the Ackermann controller, None while pedals are used.
        wheel_deg: steering angles of wheels that a script turned by hand, by wheel; `wheel_pitch_deg` likewise.
        sticky: whether a control stays until the next one.
        doors: those that are open, by carla.VehicleDoor's numbers.
    """

    control: list[Any] = field(default_factory=list[Any])
    model: Model = field(init=False)
    own_grip_mps2: float = 0.0
    lights: int = 0
    autopilot: bool = False
    fresh: bool = True
    asleep: bool = False
    stood: tuple[Pose, Vector] | None = None
    constant_mps: Vector | None = None
    push_mps: Vector = (0.0, 0.0, 0.0)
    spin_rad_s: float = 0.0
    ackermann: list[float] | None = None
    ackermann_gains: list[float] = field(default_factory=lambda: [0.15, 0.0, 0.25, 0.01, 0.0, 0.01])
    wheel_deg: dict[int, float] = field(default_factory=dict[int, float])
    wheel_pitch_deg: dict[int, float] = field(default_factory=dict[int, float])
    sticky: bool = True
    doors: frozenset[int] = frozenset()
    light: "TrafficLight | None" = None

    def __post_init__(self) -> None:
        if self.control:
            self.set_control(self.control)
        else:
            control, model = as_built(self.blueprint)
            self._fit(control, copy(model))  # grip changes; the tables are the same for all
        self.sticky = self.attribute("sticky_control", "true").lower() != "false"

    def set_control(self, control: list[Any]) -> None:
        """Give it another VehiclePhysicsControl."""
        self._fit(control, Model.compile(control, self.blueprint))

    def _fit(self, control: list[Any], model: Model) -> None:
        self.model = model
        self.own_grip_mps2 = self.model.grip_mps2
        self.control = control
        self.asleep = False


@dataclass(eq=False, slots=True)
class Walker(Actor):
    """A pedestrian; its record's control says where it walks.

    Attributes:
        bones: poses on their parents that a script gave to bones, by bone; `blend` (0 to 1) says how far they show.
    """

    grounded: bool | None = None
    dead: bool = False
    bones: dict[str, Pose] = field(default_factory=dict[str, Pose])
    blend: float = 0.0


@dataclass(eq=False, slots=True)
class Prop(Actor):
    """A thing that stands about. It moves only once a script has switched its physics on."""


@dataclass(eq=False, slots=True)
class Sign(Actor):
    """A traffic sign or light of the map, with the boxes on the road that it rules (world frame)."""

    opendrive_id: str = ""
    trigger_boxes: tuple[Box, ...] = ()


@dataclass(eq=False, slots=True)
class TrafficLight(Sign):
    """A traffic light: its colour and times are in its record, its cycle in its group."""

    group: int = -1


@dataclass(eq=False, slots=True)
class Sensor(Actor):
    """A sensor that the server measures.

    Attributes:
        seed: mixed into its own noise_seed.
        tick_s: time between measurements, 0 for every tick.
        since_s: time since the spawn; `due_s` is that of the next measurement.
    """

    seed: int = 0
    tick_s: float = 0.0
    since_s: float = 0.0
    due_s: float = 0.0


class ActorTable:
    """The records of all live actors, in order of birth.

    Attributes:
        records: (capacity,) of dtype `wire.RECORD`; the first `len(self)` are in use. Replaced when it grows.
        bytes_by_row: the same as uint8 (capacity, 119).
        actors: the actor of each row in use.
    """

    def __init__(self) -> None:
        self.actors: list[Actor] = []
        self._allocate(_FIRST_CAPACITY)

    def _allocate(self, capacity: int) -> None:
        self.buffer = bytearray(capacity * wire.RECORD_BYTES)
        self.records = np.frombuffer(self.buffer, dtype=wire.RECORD)
        self.bytes_by_row = np.frombuffer(self.buffer, np.uint8).reshape(-1, wire.RECORD_BYTES)

    def __len__(self) -> int:
        return len(self.actors)

    def body(self) -> memoryview:
        """The records in use; valid until the next actor is added or removed."""
        return memoryview(self.buffer)[: len(self.actors) * wire.RECORD_BYTES]

    def add(self, actor: Actor, pose: Pose) -> None:
        """Give an actor a record that holds its id and pose, else zeros."""
        row = len(self.actors)
        if row == len(self.records):
            old = self.buffer
            self._allocate(2 * row)
            self.buffer[: len(old)] = old
        self.actors.append(actor)
        actor.row = row
        base = row * wire.RECORD_BYTES
        self.buffer[base : base + wire.RECORD_BYTES] = bytes(wire.RECORD_BYTES)
        wire.HEAD.pack_into(self.buffer, base, actor.id, wire.STATE_ACTIVE)
        self.set_pose(row, pose)

    def remove(self, actor: Actor) -> None:
        """Take an actor's record out; those behind it move up."""
        row, last = actor.row, len(self.actors) - 1
        self.records[row:last] = self.records[row + 1 : last + 1].copy()
        del self.actors[row]
        for moved in self.actors[row:]:
            moved.row -= 1
        actor.row = -1

    def pose(self, row: int) -> Pose:
        """World pose of a row."""
        return wire.POSE.unpack_from(self.buffer, row * wire.RECORD_BYTES + wire.POSE_AT)

    def set_pose(self, row: int, pose: Pose) -> None:
        """Write a world pose."""
        wire.POSE.pack_into(self.buffer, row * wire.RECORD_BYTES + wire.POSE_AT, *pose)

    def motion(self, row: int) -> tuple[float, ...]:
        """Velocity (m/s), angular velocity (deg/s), acceleration (m/s2), world frame: 9 numbers."""
        return wire.MOTION.unpack_from(self.buffer, row * wire.RECORD_BYTES + wire.MOTION_AT)

    def set_motion(self, row: int, motion: tuple[float, ...]) -> None:
        """Write velocity, angular velocity and acceleration."""
        wire.MOTION.pack_into(self.buffer, row * wire.RECORD_BYTES + wire.MOTION_AT, *motion)

    def columns(self, rows: Sequence[int]) -> NDArray[np.float64]:
        """Pose and motion of n rows: float64 (15, n), in the order of `wire.POSE_AND_MOTION`."""
        taken = self.bytes_by_row[np.array(rows)][:, wire.POSE_AT : wire.POSE_AT + wire.POSE_AND_MOTION.size]
        columns: NDArray[np.float64] = taken.view("<f4").T.astype(np.float64, order="C")
        return columns

    def velocity(self, row: int) -> Vector:
        """World velocity, m/s."""
        vx, vy, vz = self.motion(row)[:3]
        return vx, vy, vz
