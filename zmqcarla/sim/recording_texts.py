"""What a recording holds, as the texts that CARLA's documentation shows. Places are in cm there."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from zmqcarla.sim import wire
from zmqcarla.sim.recording import VERSION, Birth, Frame, RecordingError, RecordingReader, path_of

# number of an actor's family in texts, by the beginning of its type; anything else is 0
_FAMILIES = {"vehicle.": 1, "walker.": 2, "traffic.traffic_light": 3}
# letter of an actor in the table of collisions, by the beginning of its type; anything else is o, and a hero h
_LETTERS = {"vehicle.": "v", "walker.": "w", "traffic.traffic_light": "t"}


class Recorded(NamedTuple):
    """A recording that was found, or the text that says why not."""

    reader: RecordingReader | None
    text: str


def open_recording(name: str) -> Recorded:
    """Open a recording for reading; the caller closes it."""
    path = path_of(name)
    try:
        return Recorded(RecordingReader(path), "")
    except OSError:
        return Recorded(None, f"File {path} not found on server\n")
    except RecordingError as error:
        return Recorded(None, f"File is not a CARLA recorder: {error}\n")


def file_info(name: str, show_all: bool) -> str:
    """Births, deaths and collisions by frame; with ``show_all`` also poses, lights and controls."""
    return _told(name, lambda frames: _frames(frames, show_all))


def collisions(name: str, first: str, second: str) -> str:
    """Collisions between actors of two kinds: h hero, v vehicle, w walker, t traffic light, o other, a any."""
    return _told(name, lambda frames: _collisions(frames, first, second))


def blocked(name: str, min_time_s: float, min_distance_m: float) -> str:
    """Vehicles and walkers that moved less than a distance in more than a time, the longest first."""
    return _told(name, lambda frames: _blocked(frames, min_time_s, min_distance_m))


class _Frames:
    """The frames of a recording, and how many were seen, until when."""

    def __init__(self, reader: RecordingReader) -> None:
        self._reader = reader
        self.count = 0
        self.last_s = 0.0

    def __iter__(self) -> _Frames:
        return self

    def __next__(self) -> Frame:
        frame = next(self._reader)
        self.count, self.last_s = self.count + 1, frame.elapsed_s
        return frame


def _told(name: str, tell: Callable[[_Frames], Iterable[str]]) -> str:
    """Head, body and end of a text about a recording; damage is told where it was met."""
    reader, text = open_recording(name)
    if reader is None:
        return text
    frames = _Frames(reader)
    lines = [f"Version: {VERSION}", f"Map: {reader.map_name}", f"Date: {reader.date}", ""]
    try:
        lines += tell(frames)
    except RecordingError as error:
        lines.append(f"The rest cannot be read: {error}")
    finally:
        reader.close()
    return "\n".join([*lines, "", f"Frames: {frames.count}", f"Duration: {frames.last_s:g} seconds", ""])


# ----------------------------------------------------------------------------------------------------------- by frame


def _frames(frames: _Frames, show_all: bool) -> Iterable[str]:
    kinds: dict[int, str] = {}
    heroes: set[int] = set()
    for frame in frames:
        _learn(frame, kinds, heroes)
        lines = [line for birth in frame.births for line in _birth(birth)]
        lines += [f" Destroy {number}" for number in frame.deaths]
        for index, (one, other) in enumerate(frame.collisions):
            names = [f"{number} (hero)" if number in heroes else str(number) for number in (one, other)]
            lines.append(f" Collision id {index} between {names[0]} with {names[1]}")
        if show_all:
            lines += _states(frame, kinds)
        if lines:
            yield f"Frame {frames.count} at {frame.elapsed_s:g} seconds"
            yield from lines


def _birth(birth: Birth) -> Iterable[str]:
    family = next((number for start, number in _FAMILIES.items() if birth.type_id.startswith(start)), 0)
    yield f" Create {birth.id}: {birth.type_id} ({family}) at ({_cm(birth.pose)})"
    for name, _, value in birth.attributes:
        yield f"  {name} = {value}"
    if birth.parent:
        yield f" Parenting {birth.id} with {birth.parent} (parent)"


def _states(frame: Frame, kinds: dict[int, str]) -> Iterable[str]:
    rows = list(frame.rows())
    yield f" Positions: {len(rows)}"
    for number, record in rows:
        pose = wire.POSE.unpack_from(record, wire.POSE_AT)
        pitch, yaw, roll = pose[3:]
        yield f"  Id: {number} Location: ({_cm(pose)}) Rotation: ({roll:g}, {pitch:g}, {yaw:g})"
    lights = [row for row in rows if kinds.get(row[0]) == "traffic.traffic_light"]
    if lights:
        yield f" State traffic lights: {len(lights)}"
        for number, record in lights:
            light = wire.LIGHT.unpack_from(record, wire.SPECIFIC_AT)
            yield f"  Id: {number} state: {light[7]} frozen: {light[6]}"
    vehicles = [row for row in rows if kinds.get(row[0], "").startswith("vehicle.")]
    if vehicles:
        yield f" Vehicle animations: {len(vehicles)}"
        for number, record in vehicles:
            control = wire.VEHICLE_CONTROL.unpack_from(record, wire.SPECIFIC_AT)
            throttle, steer, brake, hand_brake, _, _, gear = control
            yield (
                f"  Id: {number} Steering: {steer:g} Throttle: {throttle:g} Brake: {brake:g} "
                f"Handbrake: {hand_brake:d} Gear: {gear}"
            )
    walkers = [row for row in rows if kinds.get(row[0], "").startswith("walker.")]
    if walkers:
        yield f" Walker animations: {len(walkers)}"
        for number, record in walkers:
            yield f"  Id: {number} speed: {wire.WALKER_CONTROL.unpack_from(record, wire.SPECIFIC_AT)[3]:g}"


def _cm(pose: tuple[float, ...]) -> str:
    return ", ".join(f"{100.0 * part:g}" for part in pose[:3])


def _learn(frame: Frame, kinds: dict[int, str], heroes: set[int]) -> None:
    """Keep what the births of a frame tell about actors."""
    for birth in frame.births:
        kinds[birth.id] = birth.type_id
        if ["role_name", "hero"] in ([name, value] for name, _, value in birth.attributes):
            heroes.add(birth.id)


# --------------------------------------------------------------------------------------------------------- collisions


def _collisions(frames: _Frames, first: str, second: str) -> Iterable[str]:
    yield f"{'Time':>8}{'Types':>7}{'Id':>8} {'Actor 1':<38}{'Id':>8} {'Actor 2':<38}".rstrip()
    kinds: dict[int, str] = {}
    heroes: set[int] = set()
    before: set[tuple[int, int]] = set()
    for frame in frames:
        _learn(frame, kinds, heroes)
        for one, other in frame.collisions:
            letters = [_letters(number, kinds, heroes) for number in (one, other)]
            wanted = any(first in mine and second in its for mine, its in (letters, letters[::-1]))
            if wanted and (one, other) not in before:
                yield (
                    f"{frame.elapsed_s:8.0f}{letters[0][0]:>4} {letters[1][0]:<2}"
                    f"{one:8d} {kinds.get(one, ''):<38}{other:8d} {kinds.get(other, ''):<38}"
                ).rstrip()
        before = set(frame.collisions)


def _letters(number: int, kinds: dict[int, str], heroes: set[int]) -> str:
    """The letters that ask for an actor, the one that shows it first."""
    kind = kinds.get(number, "")
    letter = next((letter for start, letter in _LETTERS.items() if kind.startswith(start)), "o")
    return ("h" if number in heroes else "") + letter + "a"


# ------------------------------------------------------------------------------------------------------------ blocked


class _Stay(NamedTuple):
    """Since when an actor has been at a place."""

    since_s: float
    x_m: float
    y_m: float


def _blocked(frames: _Frames, min_time_s: float, min_distance_m: float) -> Iterable[str]:
    yield f"{'Time':>8}{'Id':>8} {'Actor':<38}{'Duration':>10}"
    kinds: dict[int, str] = {}
    stays: dict[int, _Stay] = {}
    found: list[tuple[float, float, int]] = []

    def end(number: int, now_s: float) -> None:
        stay = stays.pop(number, None)
        if stay is not None and now_s - stay.since_s >= min_time_s:
            found.append((now_s - stay.since_s, stay.since_s, number))

    for frame in frames:
        _learn(frame, kinds, set())
        for number in frame.deaths:
            end(number, frame.elapsed_s)
        for number, record in frame.rows():
            if kinds.get(number, "").startswith(("vehicle.", "walker.")):
                x, y = wire.POSE.unpack_from(record, wire.POSE_AT)[:2]
                stay = stays.get(number)
                if stay is None or (x - stay.x_m) ** 2 + (y - stay.y_m) ** 2 > min_distance_m**2:
                    end(number, frame.elapsed_s)
                    stays[number] = _Stay(frame.elapsed_s, x, y)
    for number in list(stays):
        end(number, frames.last_s)
    for duration_s, since_s, number in sorted(found, key=lambda row: (-row[0], row[1:])):
        yield f"{since_s:8.0f}{number:8d} {kinds[number]:<38}{duration_s:10.0f}"
