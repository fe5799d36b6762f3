"""The world joined to its streams: what a tick publishes, the free-running loop, and who owns what.

No protocol of calls here (see rpc.py) and no motion (see world.py).
"""

import asyncio
import hashlib
import logging
import time
from collections.abc import Sequence

from zmqcarla.sim import wire
from zmqcarla.sim.level import LevelShelf
from zmqcarla.sim.maps import MapShelf
from zmqcarla.sim.roads import RoadMap
from zmqcarla.sim.sensors import Measuring
from zmqcarla.sim.streams import Part, StreamBoard, Subscriber
from zmqcarla.sim.studio import Studio
from zmqcarla.sim.tape import Tape
from zmqcarla.sim.wire import SimulationState
from zmqcarla.sim.world import SimError, World

log = logging.getLogger("zmqcarla.sim")

# Asynchronous mode without a fixed delta runs at this wall-clock rate.
FREE_PERIOD_S = 1 / 30
# A synchronous tick without a fixed delta is this long, so that it does not depend on the wall clock.
DEFAULT_DELTA_S = 0.05
# The client that loads an episode drops its observer stream at the reply and subscribes anew. A message with the new
# episode that reaches the old stream meanwhile makes it ask for street lamps from a network thread, and the two race to
# the ruin of its heap (4 of 5 runs of 200 reloads crashed). So old streams stay silent for this long; whoever is still
# there after it is another client, and is told.
ASIDE_S = 0.25
# The client that loads an episode in synchronous mode ticks once, and after the reply waits up to 50 ms for a state
# that comes then. One that is there already at the reply is missed.
FIRST_STATE_S = 0.003
_LONGEST_FREE_DELTA_S = 0.1
MAP_FOLDER = "Carla/Maps/"


class Simulation:
    """One simulator: its world, its streams, its maps, and the release that its clients are of."""

    def __init__(self, world: World, streams: StreamBoard, maps: MapShelf, release: wire.Release) -> None:
        self.release = release
        self.world = world
        self.streams = streams
        self.maps = maps
        self.uploaded: str | None = None
        self.mesh: tuple[str, bytes] = ("", b"")  # name and content of the pedestrian mesh that was asked for last
        self.studio = Studio()
        self.tape = Tape(world)
        self.level = LevelShelf()
        self.traffic_managers: dict[int, str] = {}
        self._wake = asyncio.Event()
        self._news: asyncio.TimerHandle | None = None
        self._fresh = False
        self._first_state: asyncio.TimerHandle | None = None
        self._started = time.monotonic()
        streams.on_joined = self._greet

    # ----------------------------------------------------------------------------------------------- publishing

    def step(self, delta_s: float | None = None) -> int:
        """Tick the world and publish what the observer sees; `emit` is to follow. Returns the frame."""
        world = self.world
        passing_s = delta_s or world.settings.fixed_delta_s or DEFAULT_DELTA_S
        self.tape.before_tick(passing_s)
        world.tick(passing_s)
        self.tape.after_tick()
        if self._first_state is not None:
            self._first_state.cancel()
            self._first_state = None
        if self._fresh and world.settings.synchronous:
            self._first_state = asyncio.get_running_loop().call_later(FIRST_STATE_S, self._publish_state)
        else:
            self._publish_state()
        self._fresh = False
        return world.frame

    def show(self, elapsed_s: float) -> int:
        """Publish what calls have made of the world since the last tick. Returns the frame; no sensor measures it."""
        self.world.settle(elapsed_s)
        self._publish_state()
        return self.world.frame

    def _publish_state(self) -> None:
        message = self._observer_message(SimulationState.NONE)
        self.streams.publish(wire.OBSERVER_STREAM_ID, message, lossless=True)

    def _observer_message(self, state: SimulationState) -> Sequence[Part]:
        world = self.world
        head = wire.observer_head(
            self.release,
            world.frame,
            world.elapsed_s,
            world.episode_id,
            time.monotonic() - self._started,
            world.delta_s,
            state,
            len(world.table),
        )
        return (head, world.table.body())

    def _greet(self, subscriber: Subscriber) -> None:
        """A new observer sees the world before the next tick."""
        if subscriber.stream_id == wire.OBSERVER_STREAM_ID:
            subscriber.send(self._observer_message(SimulationState.NONE), lossless=True)

    def emit(self) -> None:
        """Let the sensors measure the tick that was just published."""
        world, streams = self.world, self.streams
        due = [s for s in world.roster.sensors if isinstance(s, Measuring) and s.due(world.delta_s)]
        heard = [s for s in due if streams.wanted(s.stream_id)]
        for sensor in sorted(heard, key=lambda s: s.SLOW):
            pose = world.table.pose(sensor.row)
            try:
                for body in sensor.measure(world, self.studio):
                    size = sum(map(len, body))
                    head = wire.stream_head(sensor.KIND, world.frame, world.elapsed_s, pose, size)
                    streams.publish(sensor.stream_id, (head, *body), world.settings.synchronous)
            except Exception:  # a fault of ours in one sensor must not hold the tick, for which all clients wait
                log.exception("sensor %d (%s) measured nothing at frame %d", sensor.id, sensor.type_id, world.frame)

    # --------------------------------------------------------------------------------------------- free running

    async def run_freely(self) -> None:
        """Tick by the wall clock whenever the world is in asynchronous mode, for ever."""
        loop = asyncio.get_running_loop()
        last = loop.time()
        while True:
            settings = self.world.settings
            if settings.synchronous:
                self._wake.clear()
                await self._wake.wait()
                last = loop.time()
                continue
            period = settings.fixed_delta_s or FREE_PERIOD_S
            await asyncio.sleep(max(0.0, last + period - loop.time()))
            if self.world.settings.synchronous:
                continue
            now = loop.time()
            delta = settings.fixed_delta_s or min(max(now - last, 1e-3), _LONGEST_FREE_DELTA_S)
            last = max(last + period, now - period)
            self.step(delta)
            self.emit()

    def settings_changed(self) -> None:
        """Wake the free-running loop if it is its turn."""
        if not self.world.settings.synchronous:
            self._wake.set()

    # --------------------------------------------------------------------------------------------------- episodes

    def map_name(self) -> str:
        """Name of the current map as MapInfo says it."""
        return MAP_FOLDER + self.world.road_map.name

    def load(self, name: str, reset_settings: bool) -> None:
        """Start a new episode.

        Args:
            name: a map's name or path of which the last part counts; "" is the current one, "OpenDriveMap" the one
                that a client uploaded.
            reset_settings: go back to the default settings, which are asynchronous.

        Raises:
            SimError: there is no such map.
            MapError: there is, but it cannot be used.
        """
        road_map = self._map(name)
        self.tape.stop()
        self.world.load_episode(road_map, reset_settings)
        self._fresh = True
        self.streams.set_aside(wire.OBSERVER_STREAM_ID)
        if self._news is not None:
            self._news.cancel()
        self._news = asyncio.get_running_loop().call_later(ASIDE_S, self._tell_of_new_episode)
        self.settings_changed()

    def _map(self, name: str) -> RoadMap:
        wanted = name.rsplit("/", 1)[-1]
        if wanted in ("", self.world.road_map.name):
            return self.world.road_map
        if wanted == "OpenDriveMap" and self.uploaded is not None:
            mark = hashlib.sha256(self.uploaded.encode()).hexdigest()[:8]
            return RoadMap.load(f"OpenDriveMap_{mark}", self.uploaded)
        road_map = self.maps.get(wanted)
        if road_map is None:
            raise SimError(f"Map '{name}' not found; get_available_maps() lists those that are there")
        return road_map

    def _tell_of_new_episode(self) -> None:
        """Tell the clients that did not ask for the new episode; see `ASIDE_S`."""
        self.streams.bring_back(self._observer_message(SimulationState.MAP_CHANGE))

    def abandoned(self, spawned: set[int]) -> None:
        """The last client has gone and left the world in synchronous mode: clean up and go on."""
        log.info("the client in synchronous mode has gone: %d actors destroyed, asynchronous again", len(spawned))
        for actor_id in sorted(spawned):
            self.world.destroy(actor_id)
        self.world.settings.synchronous = False
        self.settings_changed()
