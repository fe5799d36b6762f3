"""`python -m zmqcarla.sim`: start the embedded simulator and serve until told to stop."""

import argparse
import asyncio
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import psutil

from zmqcarla.sim import wire
from zmqcarla.sim.faults import FORMS, Fault, Faults, crash, parse_fault
from zmqcarla.sim.launcher import InstallError, install
from zmqcarla.sim.maps import MapShelf, folders_of
from zmqcarla.sim.roads import MapError, RoadMap
from zmqcarla.sim.server import build
from zmqcarla.sim.town import TOWN_NAME
from zmqcarla.sim.world import World

BAD_START = 2


class StartError(Exception):
    """The simulator cannot start; the text says why and what to do."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m zmqcarla.sim", description=__doc__)
    p.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    p.add_argument("--port", type=int, default=2000, help="RPC port (%(default)s)")
    p.add_argument(
        "--map", default="default", help="path of an .xodr file, name of a map, or 'default' for a generated town"
    )
    p.add_argument(
        "--maps",
        action="append",
        default=[],
        metavar="DIR",
        help="folder of .xodr files, found by name; may be repeated; also ZMQCARLA_MAPS and CARLA_ROOT",
    )
    p.add_argument("--streaming-port", type=int, help="port of the streams (default: the one after --port)")
    p.add_argument(
        "--install-launcher",
        metavar="DIR",
        help="write DIR/CarlaUE4.sh, which starts this simulator with CARLA's arguments, and end",
    )
    p.add_argument("--seed", type=int, default=0, help="mixed into the noise seeds of sensors (%(default)s)")
    p.add_argument(
        "--fault",
        type=_fault,
        action="append",
        default=[],
        metavar="FAULT",
        help=f"commit a fault, to try what stands around a simulator; may be repeated: {FORMS}",
    )
    p.add_argument(
        "--protocol",
        default=wire.LATEST.version,
        choices=tuple(wire.RELEASES),
        help="release of CARLA whose client connects (%(default)s)",
    )
    p.add_argument(
        "--hidden-state",
        action="store_true",
        help="let bodies ride on springs that no call can read or set, to try whether who restores a state notices",
    )
    p.add_argument("--log-level", default="warning", choices=("debug", "info", "warning", "error"))
    return p


def _fault(text: str) -> Fault:
    try:
        return parse_fault(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def load_map(maps: MapShelf, choice: str) -> RoadMap:
    """The map that the command line names, as a path or by name.

    Raises:
        StartError: there is no such file or map, or it is no OpenDRIVE document.
    """
    name = TOWN_NAME if choice == "default" else choice.rsplit("/", 1)[-1]
    if choice.endswith(".xodr") or Path(choice).is_file():
        name = maps.add_file(Path(choice))
    try:
        road_map = maps.get(name)
    except MapError as error:
        raise StartError(
            f"{choice}: {error}; pass --map with the path of an .xodr file or the name of a map, or leave it out"
        ) from error
    if road_map is None:
        raise StartError(
            f"there is no map {choice!r}; pass --map with the path of an .xodr file or one of: "
            + ", ".join(maps.names())
        )
    return road_map


def bind(host: str, port: int) -> socket.socket:
    """A socket that has its address and does not listen yet.

    Raises:
        StartError: the address cannot be had; names the owner of the port where it is readable.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
    except (OSError, OverflowError) as error:
        sock.close()
        raise _no_port(host, port, error) from error
    return sock


def listen(sock: socket.socket) -> None:
    """Let clients connect.

    Raises:
        StartError: another process was quicker.
    """
    host, port = sock.getsockname()[:2]
    try:
        sock.listen(1024)
    except OSError as error:
        sock.close()
        raise _no_port(host, port, error) from error


def _no_port(host: str, port: int, error: Exception) -> StartError:
    return StartError(
        f"cannot listen on {host} port {port}: {error}{_owner(port)}; "
        "stop that process or pass another --port (this one and the next must be free)"
    )


def _owner(port: int) -> str:
    try:
        for connection in psutil.net_connections("tcp"):
            listens = connection.status == psutil.CONN_LISTEN and tuple(connection.laddr)[1:2] == (port,)
            if listens and connection.pid:
                return f" (in use by pid {connection.pid}, {psutil.Process(connection.pid).name()})"
    except (psutil.Error, OSError):
        pass
    return ""


def main(arguments: list[str] | None = None) -> int:
    """Run the simulator; returns the exit code."""
    options = parser().parse_args(arguments)
    _on_signal(lambda: os._exit(0))  # nothing to tidy up before it serves
    logging.basicConfig(level=options.log_level.upper(), format="%(asctime)s %(name)s %(levelname)s %(message)s")
    if Fault("crash-at-start") in options.fault:
        crash("at its start")
    streaming_port: int = options.streaming_port or options.port + 1
    try:
        if options.install_launcher:
            folder = Path(options.install_launcher)
            print(f"wrote {install(folder)}; CARLA_ROOT={folder.absolute()} makes programs start it")
            return 0
        rpc, streaming = bind(options.host, options.port), bind(options.host, streaming_port)
        maps = MapShelf(folders_of(options.maps, os.environ))
        road_map = load_map(maps, options.map)
        release = wire.RELEASES[options.protocol]
        world = World(road_map, options.seed, options.hidden_state, release.north_is_up)
        server = build(maps, world, streaming_port, release)
        # Only now: who finds the port open may expect an answer within its time-out.
        listen(streaming)
        listen(rpc)
    except (StartError, InstallError) as error:
        print(f"zmqcarla sim: {error}", file=sys.stderr)
        return BAD_START
    server.faults = Faults(options.fault, server.simulation.streams.tear)
    gc.freeze()  # the map lives as long as the process: no collection has to walk it

    def ready(stop: Callable[[], object]) -> None:
        _on_signal(stop)
        print(
            f"zmqcarla embedded simulator (not CarlaUE4), speaks CARLA {options.protocol}: map {road_map.name}, "
            f"{len(road_map.spawn_points)} spawn points, {options.host} port {options.port} (rpc), "
            f"{streaming_port} (streams)",
            flush=True,
        )

    asyncio.run(server.serve(rpc, streaming, ready))
    return 0


def _on_signal(action: Callable[[], object]) -> None:
    """Let SIGTERM and SIGINT do something."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: action())


if __name__ == "__main__":
    sys.exit(main())
