"""The connection to one CARLA server: a checked version, the wanted map, synchronous mode, ticks with a time-out.

The order of the first calls matters: a client of another release crashes in `get_world`, so the versions are compared
before it. `get_world` holds the interpreter while it blocks, so whether anybody listens is tried with a plain socket.
"""

from __future__ import annotations

import contextlib
import functools
import socket
import time
import zlib
from collections.abc import Generator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import carla

from zmqcarla.broker.errors import (
    MapNotFoundError,
    SimulatorStartError,
    SimulatorTimeoutError,
    SimulatorVersionError,
)
from zmqcarla.workers.bev_ground import RoadLines
from zmqcarla.workers.lane_graph import LaneGraph
from zmqcarla.workers.routes import same_town
from zmqcarla.workers.simulator_calls import SimulatorCalls
from zmqcarla.workers.surroundings import Surroundings

_PROBE_TIMEOUT_S = 5.0
_POLL_S = 0.0002


class Session:
    """One client that owns the clock of one server.

    Attributes:
        world: the loaded world.
        map: its road network.
        town: name of the map, or stem of its OpenDRIVE file.
        graph: the lanes of that map.
        surroundings: its lights and signs.
        calls: of the embedded simulator, None for a server that has none of its own.
        lost: whether the server once failed to answer; such a session is to be thrown away.
    """

    def __init__(self, host: str, port: int, timeout_s: float, delta_s: float, map_wanted: str | None) -> None:
        """Connect, load `map_wanted` unless the server has it, and take over the clock.

        Raises:
            SimulatorStartError: nobody listens there.
            SimulatorVersionError: the server is of another release.
            MapNotFoundError: the map does not exist.
            SimulatorTimeoutError: the server did not answer in time.
        """
        self._where = f"{host}:{port}"
        self._timeout_s = timeout_s
        self._delta_s = delta_s
        self.lost = False
        _probe(host, port, min(timeout_s, _PROBE_TIMEOUT_S))
        self._client: Any = carla.Client(host, port, worker_threads=1)
        self._client.set_timeout(timeout_s)
        with self.answers("get_server_version"):
            _check_version(self._client.get_client_version(), self._client.get_server_version(), self._where)
        with self.answers("get_world"):
            self.world: Any = self._client.get_world()
            self.map: Any = self.world.get_map()
        self._address = host, port
        self.calls: SimulatorCalls | None = None
        self._traffic_manager: Any = None
        self._load(map_wanted)
        # A world made from an OpenDRIVE text has a name of the server's own.
        by_file = map_wanted is not None and is_opendrive_path(map_wanted)
        self.town = Path(map_wanted).stem if map_wanted is not None and by_file else town_name(self.map.name)
        self._read_map()
        self._take_clock()

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the server."""
        return self._address

    @property
    def client(self) -> Any:
        """The `carla.Client`, for code that makes calls of its own."""
        return self._client

    @functools.cached_property
    def road_lines(self) -> RoadLines:
        """The lanes of the map, for bird's-eye views."""
        return RoadLines(self.map)

    @functools.cached_property
    def blueprints(self) -> Any:
        """The `carla.BlueprintLibrary`, asked for once: it is the server's, and takes 5 ms to come over."""
        with self.answers("get_actor_definitions"):
            return self.world.get_blueprint_library()

    @functools.cached_property
    def spawn_lanes(self) -> list[int]:
        """The point of the graph at each spawn point of the map."""
        places = [place.location for place in self.map.get_spawn_points()]
        return [self.graph.locate(place.x, place.y, place.z) for place in places]

    def enter(self, town: str) -> None:
        """Load the map of a town unless it is there.

        Raises:
            MapNotFoundError: the server does not have it.
        """
        if same_town(self.town, town):
            return
        self.end_traffic()
        self._load_town(town)
        self.town = town_name(self.map.name)
        self._read_map()
        self._take_clock()

    def load_anew(self, town: str) -> None:
        """Load the map of a town, also when it is there: nothing that was done to the world remains.

        Raises:
            MapNotFoundError: the server does not have it.
        """
        self.end_traffic()
        self._load_town(town)
        if not same_town(self.town, town):
            self.town = town_name(self.map.name)
            self._read_map()
        else:  # the roads are the same; lights and signs are new actors
            self._read_surroundings()
        self._take_clock()

    def traffic_manager(self, port: int | None) -> Any:
        """Return the Traffic Manager of this client, in synchronous mode; it is started by the first call.

        Args:
            port: where it listens; None takes the server's port + 3.

        Raises:
            SimulatorStartError: the port is taken.
        """
        if self._traffic_manager is None:
            chosen = self._address[1] + 3 if port is None else port
            try:
                self._traffic_manager = self._client.get_trafficmanager(chosen)
                self._traffic_manager.set_synchronous_mode(True)
            except RuntimeError as error:
                raise SimulatorStartError(
                    f"expected port {chosen} to be free for the Traffic Manager, found {error}; "
                    "choose another `traffic_manager_port`"
                ) from error
        return self._traffic_manager

    def end_traffic(self) -> None:
        """Shut the Traffic Manager down; it must not outlive its world."""
        manager, self._traffic_manager = self._traffic_manager, None
        if manager is not None and not self.lost:
            manager.shut_down()

    def batch(self, commands: list[Any]) -> list[int | None]:
        """Run commands in one round trip; return the actor id of each, None where it failed."""
        with self.answers("apply_batch_sync"):
            answers = self._client.apply_batch_sync(commands, False)
        return [None if answer.error else int(answer.actor_id) for answer in answers]

    @contextlib.contextmanager
    def answers(self, call: str) -> Generator[None]:
        """Turn the client's time-out during `call` into a `SimulatorTimeoutError` that says where and how long."""
        try:
            yield
        except RuntimeError as error:
            if "time-out" not in str(error):
                raise
            self.lost = True
            raise SimulatorTimeoutError(
                f"expected an answer to {call} from the CARLA server at {self._where} within {self._timeout_s:g} s, "
                "found none; it hangs or has ended: look at its log, restart it, or raise `timeout`",
                self._timeout_s,
            ) from error

    def tick(self) -> int:
        """Advance the world by one step and return the number of the frame that this made."""
        with self.answers("tick"):
            return int(self.world.tick(self._timeout_s))

    def wait_for_frame(self, frame: int) -> None:
        """Wait until the client has seen a frame that the server has made.

        Raises:
            SimulatorTimeoutError: it does not come in time.
        """
        deadline = time.monotonic() + self._timeout_s
        while self.world.get_snapshot().frame < frame:
            if time.monotonic() > deadline:
                self.lost = True
                raise SimulatorTimeoutError(
                    f"expected frame {frame} from the server at {self._where} within {self._timeout_s:g} s, found "
                    f"frame {self.world.get_snapshot().frame}; restart it",
                    self._timeout_s,
                )
            time.sleep(_POLL_S)

    @functools.cached_property
    def map_mark(self) -> int:
        """Checksum of the map's OpenDRIVE text: equal for worlds in which a place means the same."""
        return zlib.crc32(self.map.to_opendrive().encode())

    def restart_lights(self) -> None:
        """Set every traffic light to the beginning of its cycle.

        This and new actors make a reset; the loaded world is kept, because loading costs seconds and leaks on Unreal.
        """
        with self.answers("reset_all_traffic_lights"):
            self.world.reset_all_traffic_lights()

    def destroy(self, actor_ids: list[int]) -> None:
        """Destroy actors in one batch; ids that no longer live are ignored."""
        if not self.lost:
            with self.answers("apply_batch_sync"):
                self._client.apply_batch_sync([carla.command.DestroyActor(each) for each in actor_ids], False)

    def keep_up(self) -> None:
        """Notice that somebody else has loaded the world anew since, and take that one over.

        A client learns of it by a message, a while later; the embedded simulator can be asked.
        """
        wanted = None if self.calls is None else self.calls.episode_id()
        with self.answers("get_world"):
            world: Any = self._client.get_world()
        deadline = time.monotonic() + self._timeout_s
        while wanted is not None and world.id != wanted and time.monotonic() < deadline:
            time.sleep(_POLL_S)
            world = self._client.get_world()
        if world.id == self.world.id:
            return
        self.end_traffic()
        mark = self.map_mark
        self.world, self.map = world, world.get_map()
        self._read_map()
        if self.map_mark != mark:
            self.town = town_name(self.map.name)
        self._take_clock()

    def close(self) -> None:
        """Give the clock back: the server runs on by itself. Does nothing on a server that stopped answering."""
        if self.lost:
            return
        self.end_traffic()
        with contextlib.suppress(SimulatorTimeoutError), self.answers("apply_settings"):
            settings = self.world.get_settings()
            settings.synchronous_mode = False
            settings.fixed_delta_seconds = None
            self.world.apply_settings(settings)

    def _read_map(self) -> None:
        self.graph = LaneGraph(self.map)
        for name in ("road_lines", "map_mark", "spawn_lanes"):  # of the map before
            self.__dict__.pop(name, None)
        self._read_surroundings()

    def _read_surroundings(self) -> None:
        with self.answers("get_actors"):
            self.surroundings = Surroundings(self.world, self.map)

    def _take_clock(self) -> None:
        settings = self.world.get_settings()
        settings.synchronous_mode = True
        settings.fixed_delta_seconds = self._delta_s
        settings.deterministic_ragdolls = True
        with self.answers("apply_settings"):
            self.world.apply_settings(settings)

    def _load(self, wanted: str | None) -> None:
        if wanted is None:
            return
        if is_opendrive_path(wanted):
            self._load_opendrive(read_opendrive(wanted))
        elif town_name(self.map.name) != town_name(wanted):
            self._load_town(wanted)

    def _load_opendrive(self, text: str) -> None:
        if self.map.to_opendrive() == text:
            return
        with self.answers("generate_opendrive_world"):
            self.world = self._client.generate_opendrive_world(text, carla.OpendriveGenerationParameters())
            self.map = self.world.get_map()

    def _load_town(self, wanted: str) -> None:
        with self.answers("get_available_maps"):
            towns = sorted(town_name(name) for name in self._client.get_available_maps())
        if town_name(wanted) not in towns:
            raise MapNotFoundError(
                f"expected one of the maps of the server at {self._where} ({', '.join(towns)}), found {wanted!r}; "
                "pass one of them or the path of a .xodr file"
            )
        with self.answers("load_world"):
            self.world = self._client.load_world(wanted, False)
            self.map = self.world.get_map()


def is_opendrive_path(map_wanted: str) -> bool:
    """Return whether a map setting names an OpenDRIVE file and not a town."""
    return map_wanted.endswith(".xodr")


def read_opendrive(path: str) -> str:
    """Return the text of an OpenDRIVE file.

    Raises:
        MapNotFoundError: there is no such file, or it holds something else.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise MapNotFoundError(
            f"expected an OpenDRIVE file at {path}, found {error}; pass the path of a .xodr file or a town's name"
        ) from error
    try:
        root = ElementTree.fromstring(text).tag
    except ElementTree.ParseError as error:
        raise MapNotFoundError(f"expected an OpenDRIVE file at {path}, found text that is not XML: {error}") from None
    if root != "OpenDRIVE":
        raise MapNotFoundError(f"expected an OpenDRIVE file at {path}, found a document with the root <{root}>")
    return text


def town_name(map_name: str) -> str:
    """Return "Town01" for "Carla/Maps/Town01"."""
    return map_name.rpartition("/")[2]


def _probe(host: str, port: int, timeout_s: float) -> None:
    try:
        socket.create_connection((host, port), timeout_s).close()
    except OSError as error:
        raise SimulatorStartError(
            f"expected a CARLA server at {host}:{port}, found {error}; start one there, correct `connect`, or leave "
            "`connect` out to let the env start its own"
        ) from error


def _check_version(client: str, server: str, where: str) -> None:
    # Both may carry a suffix such as "0.9.16-dirty".
    if client.partition("-")[0] != server.partition("-")[0]:
        raise SimulatorVersionError(
            f"expected a CARLA server of release {client} at {where}, found {server}; install the `carla` wheel of "
            f"{server}, or start a server of {client}"
        )
