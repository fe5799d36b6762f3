"""Calls of the client that this simulator refuses in words, each in the reply shape that the client expects."""

from collections.abc import Callable

from zmqcarla.sim.rpc import Method, Session, value, void
from zmqcarla.sim.world import SimError

_VALUE = """
console_command get_bones_transform get_gbuffer_token is_sensor_enabled_for_ros
"""
_VOID = """
apply_color_texture_to_objects apply_float_color_texture_to_objects set_ignored_vehicles enable_gbuffers
enable_sensor_for_ros disable_sensor_for_ros send enable_carsim use_carsim_road enable_chrono_physics
restore_physx_physics set_wheel_pitch
"""


def _refusal(name: str) -> Callable[..., object]:
    def refuse(_session: Session, *_arguments: object) -> object:
        raise SimError(f"not supported by the embedded simulator: {name}")

    return refuse


UNSUPPORTED_CALLS: dict[str, Method] = {
    **{name: value(_refusal(name)) for name in _VALUE.split()},
    **{name: void(_refusal(name)) for name in _VOID.split()},
}
