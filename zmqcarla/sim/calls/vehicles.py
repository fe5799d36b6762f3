"""Calls about vehicles: control, physics, lights, telemetry."""

import math
from typing import Any

from zmqcarla.sim import wire
from zmqcarla.sim.actors import Vehicle
from zmqcarla.sim.dynamics import Pedals
from zmqcarla.sim.rpc import Session, value, void
from zmqcarla.sim.vehicle_physics import SPEED_BIN_MPS, SPEED_BINS
from zmqcarla.sim.world import SimError


def _vehicle(session: Session, actor_id: int) -> Vehicle:
    return session.simulation.world.get_kind(actor_id, Vehicle)


def _at(vehicle: Vehicle) -> int:
    return vehicle.row * wire.RECORD_BYTES + wire.SPECIFIC_AT


def apply_control(session: Session, actor_id: int, control: list[Any]) -> None:
    """Set a vehicle's pedals and wheel; out of range is clipped, what is not a number becomes 0."""
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
    return max(low, min(float(number), 1.0)) if math.isfinite(number) else 0.0


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
    """VehiclePhysicsControl."""
    return _vehicle(session, actor_id).control


def set_physics(session: Session, actor_id: int, control: list[Any]) -> None:
    """Change a VehiclePhysicsControl."""
    if len(control) != 17 or not control[10] or not control[15]:
        raise SimError("expected a VehiclePhysicsControl with forward gears and wheels")
    _vehicle(session, actor_id).set_control(control)


def light_state(session: Session, actor_id: int) -> list[int]:
    """The vehicle's own lights."""
    return [_vehicle(session, actor_id).lights]


def set_light_state(session: Session, actor_id: int, state: list[int]) -> None:
    """Switch the vehicle's own lights."""
    _vehicle(session, actor_id).lights = int(state[0])


def light_states(session: Session) -> list[list[int]]:
    """The own lights of all vehicles; what a Traffic Manager asks for in every step."""
    session.cues.ask(session.simulation.world.frame)
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


def ignore(_session: Session, *_arguments: object) -> None:
    """For calls that show nothing here."""


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
    "open_vehicle_door": void(ignore),
    "close_vehicle_door": void(ignore),
    "show_vehicle_debug_telemetry": void(ignore),
}
