"""Calls about vehicles: control, physics, lights, telemetry."""

import math
import time
from typing import Any

from zmqcarla.sim import wire
from zmqcarla.sim.actors import Vehicle
from zmqcarla.sim.doors import ALL_DOORS, DOORS
from zmqcarla.sim.dynamics import Pedals
from zmqcarla.sim.geometry import compose
from zmqcarla.sim.parts import wheels as wheels_of
from zmqcarla.sim.rpc import Session, value, void
from zmqcarla.sim.vehicle_physics import SPEED_BIN_MPS, SPEED_BINS, tyre_friction
from zmqcarla.sim.world import SimError


def _vehicle(session: Session, actor_id: int) -> Vehicle:
    return session.simulation.world.get_kind(actor_id, Vehicle)


def _at(vehicle: Vehicle) -> int:
    return vehicle.row * wire.RECORD_BYTES + wire.SPECIFIC_AT


def apply_control(session: Session, actor_id: int, control: list[Any]) -> None:
    """Set a vehicle's pedals and wheel, clipped to their ranges as by Unreal; see `_clip`."""
    vehicle = _vehicle(session, actor_id)
    vehicle.ackermann = None
    throttle, steer, brake, hand_brake, reverse, manual, gear = control
    buffer, at = session.simulation.world.table.buffer, _at(vehicle)
    old = buffer[at : at + wire.VEHICLE_CONTROL.size]
    if not manual:
        gear = wire.VEHICLE_CONTROL.unpack_from(buffer, at)[6]
    wire.VEHICLE_CONTROL.pack_into(
        buffer,
        at,
        _clip(throttle, 0.0),
        _clip(steer, -1.0),
        _clip(brake, 0.0),
        hand_brake,
        reverse,
        manual,
        max(-1, min(int(gear), 20)),
    )
    if buffer[at : at + wire.VEHICLE_CONTROL.size] != old:
        vehicle.asleep = False


def _clip(number: float, low: float) -> float:
    """Unreal's comparisons, by which what is not a number comes out as the upper limit.

    It matters: to a vehicle that is to stand, at a target speed of 0, a Traffic Manager sends "not a number" as brake.
    """
    if number < low:
        return low
    return float(number) if number < 1.0 else 1.0


def apply_ackermann(session: Session, actor_id: int, control: list[float]) -> None:
    """Let a vehicle go after a steering angle (rad) and speed (m/s)."""
    if len(control) != 5 or not all(map(math.isfinite, control)):
        raise SimError(f"expected five finite numbers, found {control}")
    vehicle = _vehicle(session, actor_id)
    vehicle.ackermann = [float(number) for number in control]
    vehicle.asleep = False


def ackermann_settings(session: Session, actor_id: int) -> list[float]:
    """Gains of the Ackermann controller."""
    return _vehicle(session, actor_id).ackermann_gains


def set_ackermann_settings(session: Session, actor_id: int, gains: list[float]) -> None:
    """Change the gains of the Ackermann controller."""
    _vehicle(session, actor_id).ackermann_gains = [float(gain) for gain in gains]


def physics(session: Session, actor_id: int) -> list[Any]:
    """VehiclePhysicsControl. Wheel positions are in the world, cm; friction is that of a trigger it stands in."""
    vehicle = _vehicle(session, actor_id)
    pose = session.simulation.world.table.pose(vehicle.row)
    greased = vehicle.model.grip_mps2 != vehicle.own_grip_mps2
    friction = [tyre_friction(vehicle.model.grip_mps2)] if greased else []
    wheels = [
        [*(friction or wheel[:1]), *wheel[1:9], [x * 100 for x in compose(pose, place)[:3]]]
        for wheel, place in zip(vehicle.control[15], wheels_of(vehicle), strict=True)
    ]
    return [*vehicle.control[:15], wheels, *vehicle.control[16:]]


def set_physics(session: Session, actor_id: int, control: list[Any]) -> None:
    """Change a VehiclePhysicsControl; where the wheels are cannot be changed."""
    if len(control) != 17 or not control[10] or not control[15]:
        raise SimError("expected a VehiclePhysicsControl with forward gears and wheels")
    vehicle = _vehicle(session, actor_id)
    if len(control[15]) != len(vehicle.control[15]):
        raise SimError(f"expected {len(vehicle.control[15])} wheels, found {len(control[15])}")
    wheels = [[*new[:9], own[9]] for new, own in zip(control[15], vehicle.control[15], strict=True)]
    vehicle.set_control([*control[:15], wheels, control[16]])


def light_state(session: Session, actor_id: int) -> list[int]:
    """The vehicle's own lights."""
    return [_vehicle(session, actor_id).lights]


def set_light_state(session: Session, actor_id: int, state: list[int]) -> None:
    """Switch the vehicle's own lights."""
    _vehicle(session, actor_id).lights = int(state[0])


def light_states(session: Session) -> list[list[int]]:
    """The own lights of all vehicles; what a Traffic Manager asks for in every step."""
    session.cues.ask(session.simulation.world.frame, time.monotonic())
    return [[vehicle.id, vehicle.lights] for vehicle in session.simulation.world.roster.vehicles]


def set_autopilot(session: Session, actor_id: int, enabled: bool) -> None:
    """Note that a Traffic Manager drives a vehicle; the driving is done in the client."""
    _vehicle(session, actor_id).autopilot = enabled


def _speed_mps(session: Session, vehicle: Vehicle) -> float:
    table = session.simulation.world.table
    vx, vy, _ = table.velocity(vehicle.row)
    yaw = math.radians(table.pose(vehicle.row)[4])
    return math.cos(yaw) * vx + math.sin(yaw) * vy


def _steer_deg(session: Session, vehicle: Vehicle, pedals: Pedals) -> float:
    place = min(int(abs(_speed_mps(session, vehicle)) / SPEED_BIN_MPS), SPEED_BINS - 1)
    return math.degrees(vehicle.model.steer_row[place]) * float(pedals.steer)


def wheel_angle(session: Session, actor_id: int, wheel: int) -> float:
    """Steering angle of a wheel, deg."""
    vehicle = _vehicle(session, actor_id)
    if wheel in vehicle.wheel_deg:
        return vehicle.wheel_deg[wheel]
    pedals = Pedals(*wire.VEHICLE_CONTROL.unpack_from(session.simulation.world.table.buffer, _at(vehicle)))
    return _steer_deg(session, vehicle, pedals) if wheel in (0, 1) else 0.0


def turn_wheel(session: Session, actor_id: int, wheel: int, angle_deg: float) -> None:
    """Show a wheel at an angle; the motion does not follow it."""
    _vehicle(session, actor_id).wheel_deg[int(wheel)] = float(angle_deg)


def wheel_pitch(session: Session, actor_id: int, wheel: int) -> float:
    """Pitch at which a script shows a wheel, deg."""
    return _vehicle(session, actor_id).wheel_pitch_deg.get(int(wheel), 0.0)


def set_wheel_pitch(session: Session, actor_id: int, wheel: int, angle_deg: float) -> None:
    """Show a wheel at a pitch; the motion does not follow it."""
    _vehicle(session, actor_id).wheel_pitch_deg[int(wheel)] = float(angle_deg)


def telemetry(session: Session, actor_id: int) -> list[Any]:
    """VehicleTelemetryData; of the wheels only friction and speed are known."""
    vehicle = _vehicle(session, actor_id)
    pedals = Pedals(*wire.VEHICLE_CONTROL.unpack_from(session.simulation.world.table.buffer, _at(vehicle)))
    speed, model = _speed_mps(session, vehicle), vehicle.model
    turns = speed / model.wheel_radius_m
    ratio = float(model.ratio[max(pedals.gear, 0)])
    wheel = [float(vehicle.control[15][0][0]), 0.0, 0.0, turns] + [0.0] * 7
    drag = model.drag_per_m * model.mass_kg * speed * speed
    rpm = abs(turns) * ratio * 60 / math.tau
    controls = [speed, pedals.steer, pedals.throttle, pedals.brake]
    return [*controls, rpm, pedals.gear, drag, [list(wheel) for _ in vehicle.control[15]]]


def open_door(session: Session, actor_id: int, door: int) -> None:
    """Open a door, or all, of a vehicle whose doors can be opened."""
    _move_door(session, actor_id, door, opened=True)


def close_door(session: Session, actor_id: int, door: int) -> None:
    """Close a door, or all."""
    _move_door(session, actor_id, door, opened=False)


def _move_door(session: Session, actor_id: int, door: int, opened: bool) -> None:
    vehicle = _vehicle(session, actor_id)
    if vehicle.attribute("has_dynamic_doors", "false") != "true":
        return
    moved = frozenset(DOORS) if door == ALL_DOORS else frozenset([door]) & frozenset(DOORS)
    vehicle.doors = vehicle.doors | moved if opened else vehicle.doors - moved


def show_telemetry(session: Session, actor_id: int, _shown: bool) -> None:
    """There is no window to show it in: only the vehicle has to be there."""
    _vehicle(session, actor_id)


VEHICLE_CALLS = {
    "apply_control_to_vehicle": void(apply_control),
    "apply_ackermann_control_to_vehicle": void(apply_ackermann),
    "get_ackermann_controller_settings": value(ackermann_settings),
    "apply_ackermann_controller_settings": void(set_ackermann_settings),
    "get_physics_control": value(physics),
    "apply_physics_control": void(set_physics),
    "get_vehicle_light_state": value(light_state),
    "set_vehicle_light_state": void(set_light_state),
    "get_vehicle_light_states": value(light_states),
    "set_actor_autopilot": void(set_autopilot),
    "get_wheel_steer_angle": value(wheel_angle),
    "set_wheel_steer_direction": void(turn_wheel),
    "get_telemetry_data": value(telemetry),
    "get_wheel_pitch_angle": value(wheel_pitch),
    "set_wheel_pitch_angle": void(set_wheel_pitch),
    "open_vehicle_door": void(open_door),
    "close_vehicle_door": void(close_door),
    "show_vehicle_debug_telemetry": void(show_telemetry),
}
