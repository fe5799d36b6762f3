"""The calls of CARLA's client, and two of our own, by method name; one file a group. Each translates, none decides."""

from zmqcarla.sim.calls.actors import ACTOR_CALLS
from zmqcarla.sim.calls.commands import COMMAND_CALLS
from zmqcarla.sim.calls.episode import EPISODE_CALLS
from zmqcarla.sim.calls.lights import LIGHT_CALLS
from zmqcarla.sim.calls.navigation import NAVIGATION_CALLS
from zmqcarla.sim.calls.parts import PART_CALLS
from zmqcarla.sim.calls.recorder import RECORDER_CALLS
from zmqcarla.sim.calls.snapshots import SNAPSHOT_CALLS
from zmqcarla.sim.calls.surroundings import SURROUNDINGS_CALLS
from zmqcarla.sim.calls.traffic_manager import TRAFFIC_MANAGER_CALLS
from zmqcarla.sim.calls.unsupported import UNSUPPORTED_CALLS
from zmqcarla.sim.calls.vehicles import VEHICLE_CALLS
from zmqcarla.sim.calls.walkers import WALKER_CALLS
from zmqcarla.sim.calls.weather import WEATHER_CALLS
from zmqcarla.sim.rpc import Method

METHODS: dict[str, Method] = {
    **UNSUPPORTED_CALLS,
    **EPISODE_CALLS,
    **ACTOR_CALLS,
    **PART_CALLS,
    **VEHICLE_CALLS,
    **WALKER_CALLS,
    **NAVIGATION_CALLS,
    **RECORDER_CALLS,
    **LIGHT_CALLS,
    **COMMAND_CALLS,
    **SURROUNDINGS_CALLS,
    **WEATHER_CALLS,
    **TRAFFIC_MANAGER_CALLS,
    **SNAPSHOT_CALLS,
}

__all__ = ["METHODS"]
