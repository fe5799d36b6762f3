"""Calls about recordings: make one, replay one, tell what is in one."""

import logging
import math
import time
from typing import Any

from zmqcarla.sim import recording_texts
from zmqcarla.sim.actors import Actor
from zmqcarla.sim.calls.actors import set_physics, spawn_at
from zmqcarla.sim.geometry import pose_from_wire
from zmqcarla.sim.recording import Birth, RecordingError, RecordingReader, path_of
from zmqcarla.sim.recording_texts import open_recording
from zmqcarla.sim.replayer import BEHIND, Part, Replayer
from zmqcarla.sim.roads import MapError
from zmqcarla.sim.rpc import Session, value, void
from zmqcarla.sim.world import SimError

log = logging.getLogger("zmqcarla.sim")


def start_recorder(session: Session, name: str, _additional: bool = False) -> str:
    """Record from the next tick on; the file's path, or "" if it cannot be written."""
    path = path_of(name)
    try:
        session.simulation.tape.record(path, time.strftime("%x %X"))
    except RecordingError as error:
        raise SimError(str(error)) from error
    except OSError as error:
        log.warning("cannot record: %s", error)
        return ""
    return str(path)


def stop_recorder(session: Session) -> None:
    """End the recording."""
    session.simulation.tape.stop_recorder()


def file_info(_session: Session, name: str, show_all: bool) -> str:
    """What happens in a recording."""
    return recording_texts.file_info(name, show_all)


def collisions(_session: Session, name: str, first: int, second: int) -> str:
    """Collisions between actors of two kinds, whose letters come as numbers."""
    return recording_texts.collisions(name, chr(first), chr(second))


def blocked(_session: Session, name: str, min_time_s: float, min_distance_cm: float) -> str:
    """Actors that stood still."""
    return recording_texts.blocked(name, min_time_s, min_distance_cm / 100.0)


def replay(
    session: Session,
    name: str,
    start_s: float,
    duration_s: float,
    follow: int,
    sensors: bool = False,
    offset: list[Any] | None = None,
) -> str:
    """Replay a recording, on its map; a text that says from when to when."""
    simulation = session.simulation
    simulation.tape.stop_replayer(keep_actors=False)
    if not (math.isfinite(start_s) and math.isfinite(duration_s)):
        raise SimError(f"expected a finite start and duration, found {start_s} and {duration_s}")
    seat = pose_from_wire(offset) if offset else BEHIND
    if not all(map(math.isfinite, seat)):
        raise SimError(f"expected a finite offset, found {offset}")
    lines = [f"Replaying File: {path_of(name)}"]
    reader, trouble = open_recording(name)
    if reader is None:
        return "\n".join([*lines, trouble])
    try:
        if reader.map_name != simulation.world.road_map.name:
            simulation.load(reader.map_name, reset_settings=False)
            lines.append(f"Loading map {reader.map_name}")
        start_s, stop_s, total_s = _times(reader, start_s, duration_s)
        part = Part(start_s, stop_s, follow, seat, sensors)
        _begin(session, reader, part)
    except (SimError, MapError):
        reader.close()
        return "\n".join([*lines, f"Could not load mapfile {reader.map_name}", ""])
    except RecordingError as error:
        reader.close()
        return "\n".join([*lines, f"File is not a CARLA recorder: {error}", ""])
    factor = simulation.tape.settings.time_factor
    lines.append(f"Total time recorded: {total_s:g}")
    lines.append(f"Replaying from {start_s:g} s - {stop_s:g} s ({total_s:g} s) at {factor:.1f}x")
    return "\n".join([*lines, ""])


def _times(reader: RecordingReader, start_s: float, duration_s: float) -> tuple[float, float, float]:
    """Start, end and total time of a replay. A start before zero counts from the end, no duration is all of it."""
    total_s = reader.survey()[1]
    if start_s < 0.0:
        start_s = max(0.0, total_s + start_s)
    stop_s = min(start_s + duration_s, total_s) if duration_s > 0.0 else total_s
    return start_s, stop_s, total_s


def _begin(session: Session, reader: RecordingReader, part: Part) -> None:
    """Start the replay of an open recording."""

    def spawn(birth: Birth, parent: int) -> Actor:
        return spawn_at(session, [0, birth.type_id, birth.attributes], birth.pose, parent, birth.id)

    def switch_physics(actor: Actor, enabled: bool) -> None:
        set_physics(session, actor.id, enabled)

    tape = session.simulation.tape
    tape.replay(Replayer(session.simulation.world, reader, part, tape.settings, spawn, switch_physics))


def stop_replayer(session: Session, keep_actors: bool) -> None:
    """End the replay; its actors stay or go."""
    session.simulation.tape.stop_replayer(keep_actors)


def set_time_factor(session: Session, factor: float) -> None:
    """How fast replays run."""
    if not (math.isfinite(factor) and factor >= 0.0):
        raise SimError(f"expected a time factor of 0 or more, found {factor}")
    session.simulation.tape.settings.time_factor = factor


def set_ignore_hero(session: Session, ignore: bool) -> None:
    """Whether replays leave out vehicles whose role is hero."""
    session.simulation.tape.settings.ignore_hero = ignore


def set_ignore_spectator(session: Session, ignore: bool) -> None:
    """Whether replays leave the spectator where it is."""
    session.simulation.tape.settings.ignore_spectator = ignore


RECORDER_CALLS = {
    "start_recorder": value(start_recorder),
    "stop_recorder": void(stop_recorder),
    "show_recorder_file_info": value(file_info),
    "show_recorder_collisions": value(collisions),
    "show_recorder_actors_blocked": value(blocked),
    "replay_file": value(replay),
    "stop_replayer": void(stop_replayer),
    "set_replayer_time_factor": void(set_time_factor),
    "set_replayer_ignore_hero": void(set_ignore_hero),
    "set_replayer_ignore_spectator": void(set_ignore_spectator),
}
