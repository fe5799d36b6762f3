"""Calls about the server, the episode, its settings, its map, and the tick."""

import math
import time
from typing import Any

from zmqcarla.sim import wire
from zmqcarla.sim.blueprints import LIBRARY
from zmqcarla.sim.calls.surroundings import unload_layers
from zmqcarla.sim.geometry import pose_to_wire
from zmqcarla.sim.roads import MapError, RoadMap
from zmqcarla.sim.rpc import Method, Reply, Session, value, void
from zmqcarla.sim.world import Settings, SimError


def version(session: Session) -> str:
    """Version that client and server must share."""
    return session.simulation.release.version


def available_maps(session: Session) -> list[str]:
    """All maps that `load_new_episode` takes, as asset paths."""
    return [f"/Game/Carla/Maps/{name}" for name in session.simulation.maps.names()]


def episode_info(session: Session) -> list[Any]:
    """Episode id and the token of the world-observer stream."""
    simulation = session.simulation
    return [session.renewal.tell(simulation.world.episode_id), [simulation.streams.token(wire.OBSERVER_STREAM_ID)]]


def sensor_token(session: Session, stream_id: int) -> list[bytes]:
    """Token of a stream; the next tick waits a little for the subscription that follows."""
    session.simulation.streams.announce(stream_id)
    return [session.simulation.streams.token(stream_id)]


def settings(session: Session) -> list[Any]:
    """EpisodeSettings."""
    s = session.simulation.world.settings
    fixed = [False] if s.fixed_delta_s is None else [True, s.fixed_delta_s]
    return [
        s.synchronous,
        s.no_rendering,
        fixed,
        s.substepping,
        s.max_substep_delta_s,
        s.max_substeps,
        s.max_culling_distance_m,
        s.deterministic_ragdolls,
        s.tile_stream_distance_m,
        s.actor_active_distance_m,
        s.spectator_as_ego,
    ]


def set_settings(session: Session, wanted: list[Any]) -> int:
    """Take over settings; the frame that is already published."""
    synchronous, no_rendering, fixed, *rest = wanted
    delta_s = float(fixed[1]) if fixed[0] else None
    if delta_s is not None and not (math.isfinite(delta_s) and delta_s >= 0.0):
        raise SimError(f"expected fixed_delta_seconds of 0 or more, found {delta_s}")
    simulation = session.simulation
    simulation.world.settings = Settings(bool(synchronous), bool(no_rendering), delta_s or None, *rest)
    simulation.settings_changed()
    return simulation.world.frame


def tick(session: Session) -> int:
    """Tick the world in synchronous mode; the frame to wait for."""
    simulation = session.simulation
    if simulation.world.settings.synchronous:
        frame = simulation.step()
        session.cues.tick(frame, time.monotonic())
        return frame
    return simulation.world.frame + 1


def load_episode(session: Session, name: str, reset_settings: bool, layers: int) -> None:
    """Start a new episode, without what belongs to missing map layers."""
    before = session.simulation.world.episode_id
    try:
        session.simulation.load(name, reset_settings)
    except MapError as error:
        raise SimError(str(error)) from error
    session.renewal.begin(before, len(session.traffic_manager_ports), time.monotonic())
    unload_layers(session, ~layers)


def upload_map(session: Session, opendrive: str, _parameters: list[Any]) -> None:
    """Keep an OpenDRIVE document for the episode "OpenDriveMap" that is about to be loaded."""
    try:
        RoadMap.load("OpenDriveMap", opendrive)
    except MapError as error:
        raise SimError(f"opendrive could not be correctly parsed: {error}") from error
    session.simulation.uploaded = opendrive


def map_info(session: Session) -> list[Any]:
    """Map name and spawn points."""
    points = session.simulation.world.road_map.spawn_points.tolist()
    return [session.simulation.map_name(), [pose_to_wire(tuple(point)) for point in points]]


def map_document(session: Session) -> str:
    """The OpenDRIVE text of the current map."""
    return session.simulation.world.road_map.opendrive


def definitions(session: Session) -> list[Any]:
    """The blueprint library."""
    return LIBRARY.wire(session.simulation.release.first_attribute_type)


def imu_gravity(session: Session) -> float:
    """Gravity that accelerometers feel, m/s2."""
    return session.simulation.world.imu_gravity_mps2


def set_imu_gravity(session: Session, gravity_mps2: float) -> None:
    """Change the gravity that accelerometers feel; nothing falls differently."""
    if not math.isfinite(gravity_mps2):
        raise SimError(f"expected a finite gravity, found {gravity_mps2}")
    session.simulation.world.imu_gravity_mps2 = float(gravity_mps2)


def ignore(_session: Session, *_arguments: object) -> None:
    """For calls that change nothing here."""


EPISODE_CALLS = {
    "version": value(version),
    "get_available_maps": value(available_maps),
    "get_episode_info": value(episode_info),
    "get_sensor_token": value(sensor_token),
    "get_episode_settings": value(settings),
    "set_episode_settings": value(set_settings),
    "tick_cue": Method(tick, Reply.VALUE, lambda _arguments: True),
    "load_new_episode": void(load_episode),
    "copy_opendrive_to_file": void(upload_map),
    "get_map_info": value(map_info),
    "get_map_data": value(map_document),
    "get_imui_gravity": value(imu_gravity),
    "set_imui_gravity": void(set_imu_gravity),
    # no ROS bridge is built in
    "enable_sensor_for_ros": void(ignore),
    "disable_sensor_for_ros": void(ignore),
    "is_sensor_enabled_for_ros": value(lambda _session, _stream: False),
    "are_gbuffers_enabled": value(lambda _session, _camera: False),
    "get_actor_definitions": value(definitions),
}
