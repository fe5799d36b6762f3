"""The simulated world: an episode of actors on a map, and the tick that moves it on. It knows no sockets.

Order of a tick: traffic lights, vehicles, walkers, collisions, attached actors, what each vehicle is told about limit
and light ahead. After it, `ActorTable.body` is what the client is to see, and `impacts` what collision sensors felt.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from zmqcarla.sim import wire
from zmqcarla.sim.actors import Actor, ActorTable, Prop, Sensor, Sign, TrafficLight, Vehicle, Walker
from zmqcarla.sim.blueprints import LIBRARY, Blueprint, Shape
from zmqcarla.sim.collisions import overlap
from zmqcarla.sim.contacts import Contacts, Impact, half_length_m, rectangle_of
from zmqcarla.sim.drawings import Drawings
from zmqcarla.sim.geometry import Pose, compose, wrap_deg
from zmqcarla.sim.lamps import StreetLamps
from zmqcarla.sim.lights import TrafficLights
from zmqcarla.sim.motion import VECTOR_FROM, Motion
from zmqcarla.sim.obstacles import obstacles_of
from zmqcarla.sim.roads import RoadMap
from zmqcarla.sim.suspension import Suspension
from zmqcarla.sim.vehicle_physics import GRAVITY_MPS2, grip_mps2
from zmqcarla.sim.weather import DEFAULT_WEATHER, is_night

A = TypeVar("A", bound=Actor)

ARM_SPEED_PER_S = 8.0
"""How fast a spring arm follows, as CARLA sets Unreal's camera lag."""


class SimError(Exception):
    """A call cannot be done; its text is what the script sees as RuntimeError."""


class ActorError(SimError):
    """An actor that a call names is not there, or not what the call is for; rpc.py tells it in CARLA's words."""


@dataclass(slots=True)
class Settings:
    """carla.EpisodeSettings in wire order. Only the first three mean something here; all are kept."""

    synchronous: bool = False
    no_rendering: bool = False
    fixed_delta_s: float | None = None
    substepping: bool = True
    max_substep_delta_s: float = 0.01
    max_substeps: int = 10
    max_culling_distance_m: float = 0.0
    deterministic_ragdolls: bool = True
    tile_stream_distance_m: float = 3000.0
    actor_active_distance_m: float = 2000.0
    spectator_as_ego: bool = True


@dataclass(slots=True)
class Roster:
    """Live actors of a kind, in order of birth, kept so that a tick need not sort them out."""

    vehicles: list[Vehicle] = field(default_factory=list[Vehicle])
    walkers: list[Walker] = field(default_factory=list[Walker])
    solids: list[Actor] = field(default_factory=list[Actor])
    attached: list[Actor] = field(default_factory=list[Actor])
    sensors: list[Sensor] = field(default_factory=list[Sensor])
    props: list[Actor] = field(default_factory=list[Actor])
    friction: list[Actor] = field(default_factory=list[Actor])


class World:
    """All state of the simulator.

    Args:
        road_map: the map of the first episode.
        seed: mixed into the noise seeds of sensors.
        hidden_state: whether vehicles have a state that no call reaches; see suspension.py.
        north_is_up: as in wire.Release; also an attribute.

    Attributes:
        frame: number of the last tick; goes on across episodes.
        elapsed_s: time of the episode.
        delta_s: length of the last tick.
        impacts: collisions of the last tick.
        imu_gravity_mps2: gravity that accelerometers feel.
        lamps: the street lamps.
        drawings: what scripts draw for cameras to see.
        hidden: level objects that scripts have switched off, see `level.LevelObject.number`.
        population: counts births and deaths, for whoever keeps something by actor.
        signs: lights and signs, in the order of the map's signals.
        suspension: that state; None, as a rule.
    """

    def __init__(self, road_map: RoadMap, seed: int = 0, hidden_state: bool = False, north_is_up: bool = False) -> None:
        self.road_map = road_map
        self.north_is_up = north_is_up
        self._hidden_state = hidden_state
        self.seed = seed
        self.frame = 0
        self.episode_id = 0
        self.settings = Settings()
        self._next_id = 1
        self._begin()

    def _begin(self) -> None:
        """Start an episode on the current map: signs, lights, spectator, time zero."""
        self.episode_id += 1
        self.elapsed_s = 0.0
        self.delta_s = 0.0
        self.weather: list[float] = list(DEFAULT_WEATHER)
        self.imu_gravity_mps2 = GRAVITY_MPS2
        self.lamps = StreetLamps(self.road_map, is_night(self.weather))
        self.impacts: list[Impact] = []
        self.actors: dict[int, Actor] = {}
        self._types: dict[int, str] = {}
        self.table = ActorTable()
        self.roster = Roster()
        self.population = 0
        self.signs: list[Sign] = []
        self.motion = Motion(self.table, self.road_map.ground)
        self.suspension = Suspension(self.table) if self._hidden_state else None
        self.drawings = Drawings()
        self.hidden: set[int] = set()
        self.contacts = Contacts(self.table, obstacles_of(self.road_map), self.hidden)
        start = self.road_map.spawn_points[0].tolist()
        self.spectator = self._add(
            Actor(self._new_id(), LIBRARY["spectator"], [], Shape(), self.frame),
            (start[0], start[1], start[2] + 10.0, -20.0, start[4], 0.0),
        )
        by_id = self._add_signs()
        groups = [
            [[by_id[i] for i in phase if i in by_id] for phase in phases]
            for phases in self.road_map.light_groups.values()
        ]
        cleaned = [[phase for phase in phases if phase] for phases in groups]
        self.lights = TrafficLights(self.table, [phases for phases in cleaned if phases])

    def load_episode(self, road_map: RoadMap | None, reset_settings: bool) -> None:
        """Destroy everything and start a new episode, on another map if given."""
        if road_map is not None:
            self.road_map = road_map
        if reset_settings:
            self.settings = Settings()
        self._begin()

    # ------------------------------------------------------------------------------------------ birth and death

    def _new_id(self) -> int:
        self._next_id += 1
        return self._next_id - 1

    def _add(self, actor: A, pose: Pose) -> A:
        self.actors[actor.id] = actor
        self._types[actor.id] = actor.type_id
        self.table.add(actor, pose)
        return actor

    def _add_signs(self) -> dict[str, TrafficLight]:
        lights: dict[str, TrafficLight] = {}
        for signal in self.road_map.signals:
            kind = LIBRARY[signal.type_id]
            cls = TrafficLight if signal.type_id == "traffic.traffic_light" else Sign
            sign = cls(
                self._new_id(),
                kind,
                [],
                Shape(signal.box_extent, signal.box_location),
                self.frame,
                opendrive_id=signal.opendrive_id,
                trigger_boxes=signal.trigger_boxes,
            )
            self.signs.append(sign)
            self._add(sign, (*signal.location, 0.0, signal.yaw_deg, 0.0))
            self.table.records["sign_id"][sign.row] = signal.opendrive_id.encode()[:31]
            if isinstance(sign, TrafficLight):
                lights[signal.opendrive_id] = sign
        return lights

    def spawn(
        self,
        type_id: str,
        attributes: list[list[Any]],
        pose: Pose,
        parent: Actor | None = None,
        sensor: Callable[..., Sensor] | None = None,
        recorded_id: int = 0,
    ) -> Actor:
        """Bring an actor into the world.

        Args:
            type_id: blueprint id.
            attributes: [id, type, value] entries.
            pose: in the world, or on the parent.
            parent: what to attach it to.
            sensor: class of the actor when it is a sensor that the server measures.
            recorded_id: of an actor of a replay, which need not find room, and gets this id back if it is free.

        Raises:
            SimError: unknown blueprint, or something solid stands there.
        """
        blueprint = LIBRARY.find(type_id)
        if blueprint is None or type_id.startswith(("traffic.", "spectator")):
            raise SimError(f"Spawn failed because of invalid actor description: {type_id!r} is not a blueprint")
        world_pose = compose(self.table.pose(parent.row), pose) if parent else pose
        if not all(map(math.isfinite, world_pose)):
            raise SimError("Spawn failed because of invalid transform: not finite")
        actor = self._build(blueprint, attributes, sensor)
        if recorded_id:
            if self._may_return(recorded_id, type_id):
                actor.id = recorded_id
                self._next_id = max(self._next_id, recorded_id + 1)
        elif blueprint.solid and parent is None and self._occupied(actor, world_pose):
            self._next_id -= 1
            raise SimError("Spawn failed because of collision at spawn position")
        if parent is not None:
            actor.parent, actor.relative = parent, pose
            parent.children.append(actor)
        self._add(actor, world_pose)
        self._enrol(actor)
        self.population += 1
        return actor

    def _build(
        self,
        blueprint: Blueprint,
        attributes: list[list[Any]],
        sensor: Callable[..., Sensor] | None,
    ) -> Actor:
        number = self._new_id()
        family = blueprint.type_id.split(".")[0]
        arguments = (number, blueprint, attributes, blueprint.shape, self.frame)
        if sensor is not None:
            return sensor(*arguments, seed=self.seed)
        match family:
            case "vehicle":
                return Vehicle(*arguments)
            case "walker":
                return Walker(*arguments)
            case "static" if blueprint.type_id.startswith("static.prop."):
                return Prop(*arguments, physics=False)
            case _:
                return Actor(*arguments, physics=False)

    def _may_return(self, recorded_id: int, type_id: str) -> bool:
        """Whether an actor of a replay may have its old id: clients remember for an episode what an id was."""
        known = self._types.get(recorded_id)
        if recorded_id >= 2**31:  # the next ones have to fit in 32 bits as well
            return False
        return known is None or (known == type_id and recorded_id not in self.actors and known[:7] != "sensor.")

    def _enrol(self, actor: Actor) -> None:
        roster = self.roster
        if actor.parent is not None:
            roster.attached.append(actor)
        if actor.blueprint.solid:
            roster.solids.append(actor)
        match actor:
            case Vehicle():
                roster.vehicles.append(actor)
                self._tell_light(actor)
                self._tell_traffic([actor])
            case Walker():
                roster.walkers.append(actor)
            case Sensor():
                roster.sensors.append(actor)
            case Prop():
                roster.props.append(actor)
            case _ if actor.type_id == "static.trigger.friction":
                roster.friction.append(actor)
            case _:
                pass

    def _occupied(self, actor: Actor, pose: Pose) -> bool:
        """Whether something solid overlaps the place where an actor is to stand."""
        mine = rectangle_of(actor, pose[0], pose[1], pose[4])
        reach = half_length_m(actor)
        low = pose[2] + actor.shape.centre_m[2] - actor.shape.extent_m[2]
        high = low + 2 * actor.shape.extent_m[2]
        for other in self.roster.solids:
            x, y, z, _, yaw, _ = self.table.pose(other.row)
            span = reach + half_length_m(other)
            if abs(x - pose[0]) > span or abs(y - pose[1]) > span or not other.collides:
                continue
            other_low = z + other.shape.centre_m[2] - other.shape.extent_m[2]
            if low > other_low + 2 * other.shape.extent_m[2] or high < other_low:
                continue
            if overlap(mine, rectangle_of(other, x, y, yaw)) is not None:
                return True
        return not self.contacts.room_for(actor, pose)

    def destroy(self, actor_id: int) -> bool:
        """Take an actor and all that is attached to it out of the world; False when there is none to take."""
        actor = self.actors.get(actor_id)
        if actor is None or isinstance(actor, Sign) or actor is self.spectator:
            return False
        for child in list(actor.children):
            self.destroy(child.id)
        if actor.parent is not None:
            actor.parent.children.remove(actor)
        del self.actors[actor_id]
        self.table.remove(actor)
        self.population += 1
        roster = self.roster
        for members in (
            roster.vehicles,
            roster.walkers,
            roster.solids,
            roster.attached,
            roster.sensors,
            roster.props,
            roster.friction,
        ):
            if actor in members:
                members.remove(actor)  # type: ignore[arg-type]
                if members is roster.friction:
                    self._grease(roster.vehicles)
        return True

    def get(self, actor_id: int) -> Actor:
        """A live actor.

        Raises:
            ActorError: there is none of that id.
        """
        actor = self.actors.get(actor_id)
        if actor is None:
            raise ActorError(f"Actor could not be found in the registry.  Actor Id: {actor_id}")
        return actor

    def get_kind(self, actor_id: int, kind: type[A]) -> A:
        """A live actor of a kind.

        Raises:
            ActorError: there is none of that id, or it is something else.
        """
        actor = self.get(actor_id)
        if not isinstance(actor, kind):
            raise ActorError(f"Actor does not match the expected type.  Actor Id: {actor_id}")
        return actor

    # ----------------------------------------------------------------------------------------------------- tick

    def tick(self, delta_s: float) -> None:
        """Move the world on by ``delta_s``."""
        roster = self.roster
        self.frame += 1
        self.delta_s = delta_s
        self.elapsed_s += delta_s
        self.lights.tick(delta_s)
        if roster.friction:
            self._grease(roster.vehicles)
        if self.suspension is not None:
            self.suspension.put_down(roster.vehicles)
        self.motion.move_vehicles(roster.vehicles, delta_s)
        if roster.walkers:
            self.motion.move_walkers(roster.walkers, delta_s)
        self.motion.move_props([prop for prop in roster.props if prop.physics], delta_s)
        self.impacts = self.contacts.collide([a for a in roster.solids if a.collides], delta_s)
        if self.suspension is not None:
            self.suspension.lift(roster.vehicles, delta_s)
        self.place_attached(roster.attached)
        self._tell_traffic([v for v in roster.vehicles if not v.asleep or v.light is not None])

    def settle(self, elapsed_s: float) -> None:
        """Begin a new frame in which no time passes, at ``elapsed_s`` of the episode.

        What hangs on others goes where they are, and vehicles are told of limit and light where they stand.
        """
        self.frame += 1
        self.delta_s = 0.0
        self.elapsed_s = elapsed_s
        self.impacts = []
        if self.suspension is not None:
            self.suspension.settle(self.roster.vehicles)
        self.place_attached(self.roster.attached)
        self._tell_traffic(self.roster.vehicles)

    def place_attached(self, attached: Iterable[Actor]) -> None:
        """Move attached actors along with their parents; they move as their parents do."""
        table = self.table
        for actor in attached:
            if actor.parent is not None:
                base = table.pose(actor.parent.row)
                if actor.arm_yaw_deg is not None:
                    base = self._swing(actor, actor.arm_yaw_deg, base)
                table.set_pose(actor.row, compose(base, actor.relative))
                table.set_motion(actor.row, table.motion(actor.parent.row))

    def _swing(self, actor: Actor, arm_yaw_deg: float, base: Pose) -> Pose:
        """Let a spring arm follow its parent's yaw with delay; it takes no part in pitch and roll."""
        share = min(1.0, ARM_SPEED_PER_S * self.delta_s)
        actor.arm_yaw_deg = wrap_deg(arm_yaw_deg + share * wrap_deg(base[4] - arm_yaw_deg))
        return (*base[:3], 0.0, actor.arm_yaw_deg, 0.0)

    def _tell_traffic(self, vehicles: Sequence[Vehicle]) -> None:
        """Write the speed limit and the light ahead into the vehicles' records."""
        if len(vehicles) < VECTOR_FROM:
            for vehicle in vehicles:
                x, y = self.table.pose(vehicle.row)[:2]
                at = vehicle.row * wire.RECORD_BYTES + wire.LIMIT_AT
                wire.LIMIT.pack_into(self.table.buffer, at, self.road_map.ground.speed_limit_kmh(x, y))
                if self.lights.near(x, y) or vehicle.light is not None:
                    self._tell_light(vehicle)
            return
        rows = [vehicle.row for vehicle in vehicles]
        xy = self.table.records["location"][rows, :2].astype(np.float64)
        self.table.records["speed_limit_kmh"][rows] = self.road_map.speed_limits_kmh(xy)
        for vehicle, near in zip(vehicles, self.lights.any_near(xy).tolist(), strict=True):
            if near or vehicle.light is not None:
                self._tell_light(vehicle)

    def _tell_light(self, vehicle: Vehicle) -> None:
        """Write the light ahead into a vehicle's record."""
        x, y, z, _, yaw, _ = self.table.pose(vehicle.row)
        light = self.lights.before(rectangle_of(vehicle, x, y, yaw), z)
        vehicle.light = light
        base = vehicle.row * wire.RECORD_BYTES + wire.LIGHT_AHEAD_AT
        if light is None:
            wire.LIGHT_AHEAD.pack_into(self.table.buffer, base, wire.LightColour.GREEN, 0, 0)
        else:
            colour = int(self.table.records["colour"][light.row])
            wire.LIGHT_AHEAD.pack_into(self.table.buffer, base, colour, 1, light.id)

    def _grease(self, vehicles: Iterable[Vehicle]) -> None:
        """Give vehicles inside a friction trigger its friction, and others their own."""
        for vehicle in vehicles:
            x, y, z = self.table.pose(vehicle.row)[:3]
            grip = vehicle.own_grip_mps2
            for trigger in self.roster.friction:
                tx, ty, tz = self.table.pose(trigger.row)[:3]
                half = [trigger.number(f"extent_{axis}", 0.0) / 100 for axis in "xyz"]
                if abs(x - tx) <= half[0] and abs(y - ty) <= half[1] and abs(z - tz) <= half[2]:
                    grip = grip_mps2(trigger.number("friction", 3.5))
            if grip != vehicle.model.grip_mps2:
                vehicle.model.grip_mps2 = grip
                vehicle.asleep = False
