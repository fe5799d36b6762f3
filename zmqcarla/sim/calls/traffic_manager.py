"""Calls by which Traffic Managers (which live in client processes) find each other."""

from typing import Any

from zmqcarla.sim.rpc import Session, value, void


def is_running(session: Session, port: int) -> bool:
    """Whether a Traffic Manager has registered under a port."""
    return port in session.simulation.traffic_managers


def running(session: Session, port: int) -> list[Any]:
    """Address of a registered Traffic Manager, ["", 0] when there is none."""
    host = session.simulation.traffic_managers.get(port)
    return ["", 0] if host is None else [host, port]


def register(session: Session, address: list[Any]) -> bool:
    """Register a Traffic Manager; False when its port is taken."""
    host, port = str(address[0]), int(address[1])
    if port in session.simulation.traffic_managers:
        return False
    session.simulation.traffic_managers[port] = host
    session.traffic_manager_ports.add(port)
    session.cues.join()
    return True


def forget(session: Session, port: int) -> None:
    """A Traffic Manager has shut down."""
    session.simulation.traffic_managers.pop(port, None)
    session.traffic_manager_ports.discard(port)
    session.renewal.fetched()


TRAFFIC_MANAGER_CALLS = {
    "is_traffic_manager_running": value(is_running),
    "get_traffic_manager_running": value(running),
    "add_traffic_manager_running": value(register),
    "destroy_traffic_manager": void(forget),
}
