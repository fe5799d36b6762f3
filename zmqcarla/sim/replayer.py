"""The replayer: before each tick it puts the actors of a recording where they were.

Actors that still live under the same id and are of the same type are taken over, others are brought into the world, and
forces move none of them. Between two frames of the recording their poses are interpolated. Traffic lights stand still
but for what the recording says. At the end everyone is free to move again.
"""

from collections.abc import Callable
from dataclasses import dataclass

from zmqcarla.sim import wire
from zmqcarla.sim.actors import Actor, Sign, TrafficLight, Vehicle
from zmqcarla.sim.geometry import Pose, compose, wrap_deg
from zmqcarla.sim.recording import Birth, Frame, RecordingError, RecordingReader
from zmqcarla.sim.world import SimError, World

BEHIND: Pose = (-10.0, 0.0, 5.0, -25.0, 0.0, 0.0)
"""Where CARLA's client wants the spectator who follows an actor: behind it, above it, looking down on it."""

_COLOURS = frozenset(int(colour) for colour in wire.LightColour)
# Times this near to a frame's are the frame's.
_SAME_S = 1e-6

Spawn = Callable[[Birth, int], Actor]
"""Brings a recorded actor into the world, attached to a live actor unless that id is 0; SimError when it cannot."""


@dataclass(slots=True)
class ReplaySettings:
    """What a client may set before or during a replay.

    Attributes:
        time_factor: recorded seconds that pass in a second.
        ignore_hero: leave the vehicles out whose role is hero.
        ignore_spectator: leave the spectator where it is.
    """

    time_factor: float = 1.0
    ignore_hero: bool = False
    ignore_spectator: bool = False


@dataclass(frozen=True, slots=True)
class Part:
    """Which part of a recording is replayed, and how.

    Attributes:
        start_s: from when.
        stop_s: until when.
        follow: recorded id of an actor that the spectator follows, 0 for none.
        seat: where on that actor.
        sensors: whether sensors are replayed too.
    """

    start_s: float
    stop_s: float
    follow: int
    seat: Pose
    sensors: bool


@dataclass(slots=True)
class _Role:
    """A live actor that plays a recorded one; `own` if it was there before, and whether forces moved it then."""

    actor: Actor
    own: bool
    physics: bool


class Replayer:
    """Replays a recording; starts at once with what is to be seen at the start.

    Args:
        world: where.
        reader: the recording, which this closes.
        part: which part of it.
        settings: may be changed meanwhile.
        spawn: brings actors into the world.
        set_physics: says whether forces move an actor.

    Raises:
        RecordingError: the recording is damaged.

    Attributes:
        done: whether the end is reached.
    """

    def __init__(
        self,
        world: World,
        reader: RecordingReader,
        part: Part,
        settings: ReplaySettings,
        spawn: Spawn,
        set_physics: Callable[[Actor, bool], None],
    ) -> None:
        self._world = world
        self._reader = reader
        self._part = part
        self._settings = settings
        self._spawn = spawn
        self._set_physics = set_physics
        self._roles: dict[int, _Role] = {}
        self._records: dict[int, bytes] = {}
        self._time_s = part.start_s
        self._frame_s = 0.0
        self._next: Frame | None = None
        self.done = False
        world.lights.halted = True
        try:
            self._next = next(reader, None)
            self._show()
        except RecordingError:
            self.finish(keep_actors=False)
            raise

    def tick(self, delta_s: float) -> None:
        """Go on by a tick.

        Raises:
            RecordingError: the recording is damaged.
        """
        self._time_s = min(self._time_s + delta_s * self._settings.time_factor, self._part.stop_s)
        self._show()
        self.done = self._next is None or self._time_s >= self._part.stop_s - _SAME_S

    def finish(self, keep_actors: bool) -> None:
        """End the replay; what it has brought into the world stays or goes."""
        self._reader.close()
        self._world.lights.halted = False
        for role in self._roles.values():
            if role.actor.id not in self._world.actors:
                continue
            if not role.own and not keep_actors:
                self._world.destroy(role.actor.id)
            else:
                self._set_physics(role.actor, role.physics)

    # ----------------------------------------------------------------------------------------------------- frames

    def _show(self) -> None:
        """Put the world into the state of the present time."""
        while self._next is not None and self._next.elapsed_s <= self._time_s + _SAME_S:
            self._take(self._next)
            self._next = next(self._reader, None)
        ahead: dict[int, bytes] = {}
        share = 0.0
        if self._next is not None and self._time_s > self._frame_s + _SAME_S:
            ahead = dict(self._next.rows())
            share = (self._time_s - self._frame_s) / (self._next.elapsed_s - self._frame_s)
        for number, record in self._records.items():
            role = self._roles.get(number)
            if role is not None and role.actor.id in self._world.actors:
                self._put(role.actor, record, ahead.get(number), share)
        self._world.place_attached(self._world.roster.attached)
        self._follow()

    def _take(self, frame: Frame) -> None:
        self._frame_s = frame.elapsed_s
        self._records.update(frame.rows())
        for birth in frame.births:
            self._cast(birth)
        for number in frame.deaths:
            role = self._roles.pop(number, None)
            self._records.pop(number, None)
            if role is not None:
                self._world.destroy(role.actor.id)
        for number, bits in frame.lamps:
            role = self._roles.get(number)
            if role is not None and isinstance(role.actor, Vehicle):
                role.actor.lights = bits

    def _cast(self, birth: Birth) -> None:
        """Find or make the actor that plays a recorded one; some are left out."""
        record = self._records.get(birth.id)
        if birth.type_id.startswith("traffic."):
            sign = self._sign(record)
            if sign is not None:
                self._roles[birth.id] = _Role(sign, own=True, physics=False)
            return
        if birth.type_id == "spectator":
            if not self._settings.ignore_spectator and not self._part.follow:
                self._roles[birth.id] = _Role(self._world.spectator, own=True, physics=False)
            return
        role_name = next((value for name, _, value in birth.attributes if name == "role_name"), "")
        hidden = self._settings.ignore_hero and role_name == "hero" and birth.type_id.startswith("vehicle.")
        led = birth.type_id.startswith("controller.")
        if hidden or led or (birth.type_id.startswith("sensor.") and not self._part.sensors):
            return
        actor = self._world.actors.get(birth.id)
        own = actor is not None and actor.type_id == birth.type_id
        if actor is None or not own:
            parent = self._roles.get(birth.parent)
            if birth.parent and parent is None:
                return
            try:
                actor = self._spawn(birth, parent.actor.id if parent else 0)
            except SimError:
                return  # a blueprint that this simulator does not have
        self._roles[birth.id] = _Role(actor, own, actor.physics)
        self._set_physics(actor, False)

    def _sign(self, record: bytes | None) -> Sign | None:
        """The sign or light of the map that a record is of."""
        if record is None:
            return None
        (number,) = wire.SIGN.unpack_from(record, wire.SPECIFIC_AT)
        name = number.rstrip(b"\0").decode(errors="replace")
        return next((sign for sign in self._world.signs if sign.opendrive_id == name), None)

    # ------------------------------------------------------------------------------------------------------ poses

    def _put(self, actor: Actor, record: bytes, ahead: bytes | None, share: float) -> None:
        """Give an actor the state of a record, on its way to that of the next."""
        table = self._world.table
        if isinstance(actor, TrafficLight):
            if record[-1] in _COLOURS:
                self._world.lights.set_colour(actor, record[-1])
            return
        if isinstance(actor, Sign) or actor.parent is not None:
            return
        base = actor.row * wire.RECORD_BYTES
        table.buffer[base + wire.POSE_AT : base + wire.RECORD_BYTES] = record[wire.POSE_AT :]
        if ahead is not None:
            here, there = (wire.POSE.unpack_from(part, wire.POSE_AT) for part in (record, ahead))
            table.set_pose(actor.row, _between(here, there, share))

    def _follow(self) -> None:
        role = self._roles.get(self._part.follow)
        if role is not None and role.actor.id in self._world.actors:
            table = self._world.table
            x, y, z, _, yaw, _ = table.pose(role.actor.row)
            table.set_pose(self._world.spectator.row, compose((x, y, z, 0.0, yaw, 0.0), self._part.seat))


def _between(here: Pose, there: Pose, share: float) -> Pose:
    x, y, z = (a + share * (b - a) for a, b in zip(here[:3], there[:3], strict=True))
    pitch, yaw, roll = (wrap_deg(a + share * wrap_deg(b - a)) for a, b in zip(here[3:], there[3:], strict=True))
    return (x, y, z, pitch, yaw, roll)
