"""One tick of everything that moves: from the actor records, through the motion model, back into the records."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from zmqcarla.sim import wire
from zmqcarla.sim.actors import Actor, ActorTable, Vehicle, Walker
from zmqcarla.sim.collisions import Body, Rectangle, near_pairs, resolve
from zmqcarla.sim.dynamics import Inputs, Pedals, State, advance, gear_of, inputs_of
from zmqcarla.sim.geometry import Vector, wrap_deg
from zmqcarla.sim.vehicle_physics import GRAVITY_MPS2

Floats = NDArray[np.float64]
HeightsOf = Callable[[Floats, Floats], Floats]

# A wheel this little above the ground still touches it (springs); more the faster the ground may fall away.
_TOUCH_M = 0.05
_TOUCH_SLOPE = 0.3
# How fast a pedestrian leaves the ground who jumps.
_JUMP_MPS = 4.2
# How fast one slows down who was run over.
_SLIDE_MPS2 = 6.0
_BYTES = wire.RECORD_BYTES


class Impact(NamedTuple):
    """Two actors that hit each other and the impulse (N s, world frame) on the first."""

    actor: Actor
    other: Actor
    impulse: Vector


@dataclass(slots=True)
class _Journey:
    """One vehicle's tick under way."""

    vehicle: Vehicle
    before: tuple[float, ...]  # location, rotation, velocity, angular velocity, acceleration
    pedals: Pedals
    gear: int
    velocity: Vector
    rate: float


def half_length_m(actor: Actor) -> float:
    """Distance from the actor's centre to the corner of its box, seen from above."""
    return math.hypot(actor.shape.extent_m[0], actor.shape.extent_m[1])


def rectangle_of(actor: Actor, x: float, y: float, yaw_deg: float) -> Rectangle:
    """An actor's box seen from above, with the actor at a pose."""
    yaw = math.radians(yaw_deg)
    cos, sin = math.cos(yaw), math.sin(yaw)
    along, across = actor.shape.centre_m[:2]
    return Rectangle(
        x + along * cos - across * sin,
        y + along * sin + across * cos,
        cos,
        sin,
        actor.shape.extent_m[0],
        actor.shape.extent_m[1],
    )


class Motion:
    """Moves the actors of a table over the ground.

    Args:
        table: whose records are read and written.
        heights_of: ground height (n,) at xy (n, 2), given the z (n,) of who asks.
        flat_m: height of all ground if it is flat, so that nobody need ask.
    """

    def __init__(self, table: ActorTable, heights_of: HeightsOf, flat_m: float | None) -> None:
        self._table = table
        self._heights_of = heights_of
        self._flat_m = flat_m

    # ------------------------------------------------------------------------------------------------ vehicles

    def move_vehicles(self, vehicles: Iterable[Vehicle], frame: int, delta_s: float) -> None:
        """Drive all vehicles that are free to move and awake."""
        awake = [v for v in vehicles if v.physics and not v.asleep and v.parent is None]
        if not awake:
            return
        self._settle_unknown(awake)
        journeys: list[_Journey] = []
        inputs: list[Inputs] = []
        states: list[State] = []
        for vehicle in awake:
            journey, u, state = self._set_out(vehicle, delta_s)
            journeys.append(journey)
            inputs.append(u)
            states.append(state)
        ends = advance(inputs, states, delta_s)
        grounds = self._ground_under(awake, ends)
        for journey, end, ground in zip(journeys, ends, grounds, strict=True):
            self._arrive(journey, end, ground, frame, delta_s)

    def _settle_unknown(self, vehicles: Sequence[Vehicle]) -> None:
        """Find out whether vehicles whose pose came from outside touch the ground."""
        unknown = [v for v in vehicles if v.grounded is None]
        if not unknown:
            return
        poses = [self._table.pose(v.row) for v in unknown]
        states: list[State] = [(p[0], p[1], math.radians(p[4]), 0.0, 0.0, 0.0) for p in poses]
        for vehicle, pose, ground in zip(unknown, poses, self._ground_under(unknown, states), strict=True):
            vehicle.grounded = pose[2] <= ground[0] + _TOUCH_M

    def _set_out(self, vehicle: Vehicle, delta_s: float) -> tuple[_Journey, Inputs, State]:
        base = vehicle.row * _BYTES
        before = wire.POSE_AND_MOTION.unpack_from(self._table.buffer, base + wire.POSE_AT)
        pedals = Pedals(*wire.VEHICLE_CONTROL.unpack_from(self._table.buffer, base + wire.SPECIFIC_AT))
        x, y, _, pitch, yaw_deg = before[:5]
        push = vehicle.push_mps
        vx, vy, vz = before[6] + push[0], before[7] + push[1], before[8] + push[2]
        rate = math.radians(before[11]) + vehicle.spin_rad_s
        vehicle.push_mps, vehicle.spin_rad_s = (0.0, 0.0, 0.0), 0.0
        yaw = math.radians(yaw_deg)
        cos, sin = math.cos(yaw), math.sin(yaw)
        ahead = cos * vx + sin * vy
        if vehicle.ackermann is not None:
            _ackermann(vehicle, pedals, ahead)
        gear = gear_of(vehicle.model, pedals, ahead)
        on_ground = bool(vehicle.grounded) and vehicle.gravity
        u = inputs_of(vehicle.model, pedals, gear, ahead, on_ground, math.radians(pitch))
        if vehicle.constant_mps is not None:
            fx, fy, vz = vehicle.constant_mps
            vx, vy = cos * fx - sin * fy, sin * fx + cos * fy
            u.drive_mps2 = u.resist_mps2 = u.drag_per_m = u.grip_mps2 = u.slope_mps2 = 0.0
        return _Journey(vehicle, before, pedals, gear, (vx, vy, vz), rate), u, (x, y, yaw, vx, vy, rate)

    def _ground_under(self, vehicles: Sequence[Vehicle], states: Sequence[State]) -> list[Vector]:
        """For each vehicle the height (m), pitch and roll (deg) of the plane under its wheels."""
        if self._flat_m is not None:
            return [(self._flat_m, 0.0, 0.0)] * len(vehicles)
        points: list[tuple[float, float]] = []
        nears: list[float] = []
        for vehicle, (x, y, yaw, *_) in zip(vehicles, states, strict=True):
            cos, sin = math.cos(yaw), math.sin(yaw)
            long, wide = vehicle.model.front_m, vehicle.shape.extent_m[1]
            points += (
                (x + long * cos, y + long * sin),
                (x - long * cos, y - long * sin),
                (x - wide * sin, y + wide * cos),
                (x + wide * sin, y - wide * cos),
            )
            nears += [self._table.pose(vehicle.row)[2]] * 4
        heights: list[float] = self._heights_of(np.array(points), np.array(nears)).tolist()
        planes: list[Vector] = []
        for index, vehicle in enumerate(vehicles):
            front, rear, right, left = heights[4 * index : 4 * index + 4]
            pitch = math.degrees(math.atan2(front - rear, 2 * vehicle.model.front_m))
            roll = math.degrees(math.atan2(left - right, 2 * vehicle.shape.extent_m[1]))
            planes.append(((front + rear) / 2, pitch, roll))
        return planes

    def _arrive(self, journey: _Journey, end: State, ground: Vector, frame: int, delta_s: float) -> None:
        vehicle, before, pedals = journey.vehicle, journey.before, journey.pedals
        x, y, yaw, vx, vy, rate = end
        z, vz = before[2], journey.velocity[2]
        height, pitch, roll = ground
        fresh = vehicle.spawn_frame == frame - 1
        if not vehicle.gravity or vehicle.constant_mps is not None:
            z += vz * delta_s
            pitch, roll = before[3], before[5]
            vehicle.grounded = False
            if vehicle.constant_mps is not None and z - height < _TOUCH_M:
                z, vz, vehicle.grounded = height, 0.0, True
        elif not fresh:
            near = z - height <= _TOUCH_M + _TOUCH_SLOPE * math.hypot(vx, vy) * delta_s
            if vehicle.grounded and near:
                vz = (height - z) / delta_s
                z = height
            else:
                vz -= GRAVITY_MPS2 * delta_s
                z += vz * delta_s
                vehicle.grounded = z <= height
                if vehicle.grounded:
                    z, vz = height, 0.0
                else:
                    pitch, roll = before[3], before[5]
        else:
            z, vz, pitch, roll = before[2], 0.0, before[3], before[5]
        still = vx == 0.0 and vy == 0.0 and rate == 0.0 and bool(vehicle.grounded) and abs(z - before[2]) < 1e-4
        if still:
            z, vz = before[2], 0.0
        acceleration = ((vx - before[6]) / delta_s, (vy - before[7]) / delta_s, (vz - before[8]) / delta_s)
        record = (x, y, z, pitch, wrap_deg(math.degrees(yaw)), roll)
        motion = (vx, vy, vz, 0.0, 0.0, math.degrees(rate), *acceleration)
        base = vehicle.row * _BYTES
        buffer = self._table.buffer
        wire.POSE_AND_MOTION.pack_into(buffer, base + wire.POSE_AT, *record, *motion)
        if not vehicle.sticky:
            pedals = Pedals(0.0, 0.0, 0.0, False, False, False, 0)
        wire.VEHICLE_CONTROL.pack_into(
            buffer,
            base + wire.SPECIFIC_AT,
            pedals.throttle,
            pedals.steer,
            pedals.brake,
            pedals.hand_brake,
            pedals.reverse,
            pedals.manual,
            journey.gear,
        )
        vehicle.asleep = (
            still
            and acceleration == (0.0, 0.0, 0.0)
            and pedals.throttle == 0.0
            and vehicle.ackermann is None
            and vehicle.constant_mps is None
        )

    # ------------------------------------------------------------------------------------------------- walkers

    def move_walkers(self, walkers: Sequence[Walker], delta_s: float) -> None:
        """Let pedestrians walk where their control says."""
        going: list[tuple[Walker, list[float], Vector]] = []
        buffer = self._table.buffer
        for walker in walkers:
            if not walker.physics or walker.parent is not None:
                continue
            base = walker.row * _BYTES
            dx, dy, dz, speed, jump = wire.WALKER_CONTROL.unpack_from(buffer, base + wire.SPECIFIC_AT)
            before = wire.POSE_AND_MOTION.unpack_from(buffer, base + wire.POSE_AT)
            length = math.sqrt(dx * dx + dy * dy + dz * dz)
            vx = vy = 0.0
            yaw = before[4]
            if walker.dead:
                pace = math.hypot(before[6], before[7])
                if pace > 0.0:
                    left = max(0.0, 1.0 - _SLIDE_MPS2 * delta_s / pace)
                    vx, vy = before[6] * left, before[7] * left
            elif speed != 0.0 and length > 0.0:
                vx, vy = dx / length * speed, dy / length * speed
                if vx or vy:
                    yaw = math.degrees(math.atan2(vy, vx))
            if walker.grounded and not (jump or vx or vy) and before[6] == before[7] == before[8] == 0.0:
                continue
            rise = _JUMP_MPS if jump and walker.grounded and not walker.dead else before[8]
            going.append((walker, [before[0] + vx * delta_s, before[1] + vy * delta_s, before[2], yaw], (vx, vy, rise)))
        if not going:
            return
        xy = np.array([place[:2] for _, place, _ in going])
        heights = self._heights_of(xy, np.array([place[2] for _, place, _ in going])).tolist()
        for (walker, (x, y, z, yaw), (vx, vy, vz)), ground in zip(going, heights, strict=True):
            stand = ground + walker.shape.extent_m[2]
            down, fall = z, vz
            if walker.gravity:
                fall = vz - GRAVITY_MPS2 * delta_s
                down = z + fall * delta_s
                near = z - stand < _TOUCH_M + abs(vx) * delta_s + abs(vy) * delta_s
                walker.grounded = down <= stand or (near and vz <= 0.0)
                if walker.grounded:
                    down, fall = stand, 0.0
            row = walker.row
            old = self._table.motion(row)
            self._table.set_pose(row, (x, y, down, 0.0, wrap_deg(yaw), 0.0))
            change = ((vx - old[0]) / delta_s, (vy - old[1]) / delta_s, (fall - old[2]) / delta_s)
            self._table.set_motion(row, (vx, vy, fall, 0.0, 0.0, 0.0, *change))

    # ---------------------------------------------------------------------------------------------- collisions

    def collide(self, solids: Sequence[Actor]) -> list[Impact]:
        """Part what overlaps and exchange momentum; the impacts of this tick."""
        if len(solids) < 2:
            return []
        rows = [actor.row for actor in solids]
        places: list[tuple[float, float]] = self._table.records["location"][rows, :2].tolist()
        pairs = [
            (i, j)
            for i, j in near_pairs(places, [half_length_m(actor) for actor in solids])
            if _may_meet(solids[i], solids[j])
        ]
        if not pairs:
            return []
        wanted = sorted({index for pair in pairs for index in pair})
        place_of = {index: place for place, index in enumerate(wanted)}
        bodies = [self._body(solids[index]) for index in wanted]
        hits = resolve(bodies, [(place_of[i], place_of[j]) for i, j in pairs])
        for place, body in enumerate(bodies):
            if body.moved:
                self._put_back(solids[wanted[place]], body)
        return [
            Impact(solids[wanted[h.first]], solids[wanted[h.second]], (h.impulse_x, h.impulse_y, 0.0)) for h in hits
        ]

    def _body(self, actor: Actor) -> Body:
        x, y, z, _, yaw, _ = self._table.pose(actor.row)
        motion = self._table.motion(actor.row)
        middle, half = z + actor.shape.centre_m[2], actor.shape.extent_m[2]
        inverse_mass = inverse_inertia = 0.0
        if actor.physics:
            match actor:
                case Vehicle():
                    inverse_mass = 1.0 / actor.model.mass_kg
                    inverse_inertia = inverse_mass / actor.model.gyration_m2
                case Walker():
                    inverse_mass = 1.0 / actor.blueprint.mass_kg
                case _:
                    pass
        return Body(
            rectangle_of(actor, x, y, yaw),
            middle - half,
            middle + half,
            motion[0],
            motion[1],
            math.radians(motion[5]),
            inverse_mass,
            inverse_inertia,
        )

    def _put_back(self, actor: Actor, body: Body) -> None:
        pose, motion = self._table.pose(actor.row), self._table.motion(actor.row)
        r = body.rectangle
        along, across = actor.shape.centre_m[:2]
        x = r.x - along * r.cos + across * r.sin
        y = r.y - along * r.sin - across * r.cos
        self._table.set_pose(actor.row, (x, y, *pose[2:]))
        spin = math.degrees(body.rate)
        self._table.set_motion(actor.row, (body.vx, body.vy, motion[2], 0.0, 0.0, spin, *motion[6:]))
        if isinstance(actor, Vehicle):
            actor.asleep = False
        elif isinstance(actor, Walker):
            actor.grounded = None


def _may_meet(a: Actor, b: Actor) -> bool:
    """Whether a pair is worth a look: one of them may move, and they are not attached to each other."""
    if a.parent is b or b.parent is a:
        return False
    return _moves(a) or _moves(b)


def _moves(actor: Actor) -> bool:
    match actor:
        case Vehicle():
            return not actor.asleep
        case Walker():
            return True
        case _:
            return False


def _ackermann(vehicle: Vehicle, pedals: Pedals, speed: float) -> None:
    """Pedals that go after a target of steering angle (rad) and speed (m/s)."""
    assert vehicle.ackermann is not None
    steer, _, target, limit, _ = vehicle.ackermann
    gain = vehicle.ackermann_gains[0] + vehicle.ackermann_gains[2]
    wanted = (target - speed) * 10 * gain
    if limit > 0.0:
        wanted = max(-limit, min(limit, wanted))
    full = max(vehicle.model.drive_rows[0][0], 0.1)
    backwards = target < 0.0 and speed < 0.1
    push = -wanted if backwards else wanted
    pedals.reverse = backwards
    pedals.manual = False
    pedals.throttle = max(0.0, min(1.0, push / full))
    pedals.brake = max(0.0, min(1.0, -push / max(vehicle.model.brake_mps2, 0.1)))
    pedals.hand_brake = False
    pedals.steer = max(-1.0, min(1.0, steer / max(vehicle.model.steer_row[0], 1e-3)))
