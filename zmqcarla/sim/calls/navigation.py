"""Calls by which clients download files of the map: the mesh that pedestrians find their way on."""

from zmqcarla.sim.navmesh import encode_mesh, mesh_name
from zmqcarla.sim.rpc import Session, value
from zmqcarla.sim.walkable import walkable_bounds_m
from zmqcarla.sim.world import SimError

FOLDER = "Carla/Maps/Nav/"


def required_files(session: Session, folder: str) -> list[str]:
    """Names of the files that a client should have: the mesh, under "Nav", if the map has pavements.

    Nothing under "TM": a Traffic Manager reads any file of that folder as its own map cache. The OpenDRIVE document
    has a call of its own.
    """
    road_map = session.simulation.world.road_map
    if folder == "TM":
        session.renewal.fetched()
    if folder.strip("/").rsplit("/", 1)[-1] != "Nav" or walkable_bounds_m(road_map) is None:
        return []
    return [FOLDER + mesh_name(road_map)]


def request_file(session: Session, name: str) -> bytes:
    """Content of one of the required files."""
    road_map = session.simulation.world.road_map
    if name != FOLDER + mesh_name(road_map):
        raise SimError(f"file not found: {name!r}; this simulator has {FOLDER + mesh_name(road_map)!r}")
    return navigation_mesh(session)


def navigation_mesh(session: Session) -> bytes:
    """The mesh of the current map, made when it is first asked for."""
    simulation = session.simulation
    name = mesh_name(simulation.world.road_map)
    if simulation.mesh[0] != name:
        simulation.mesh = (name, encode_mesh(simulation.world.road_map))
    return simulation.mesh[1]


NAVIGATION_CALLS = {
    "get_required_files": value(required_files),
    "request_file": value(request_file),
    "get_navigation_mesh": value(navigation_mesh),
}
