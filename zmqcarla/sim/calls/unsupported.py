"""Calls of the client that this simulator refuses in words, each in the reply shape that the client expects."""

from collections.abc import Callable

from zmqcarla.sim.rpc import Method, Session, value, void
from zmqcarla.sim.world import SimError

_VALUE = """
request_file get_gbuffer_token
"""
_VOID = """
set_ignored_vehicles enable_gbuffers send enable_carsim use_carsim_road enable_chrono_physics restore_physx_physics
"""


def _refusal(name: str) -> Callable[..., object]:
    def refuse(_session: Session, *_arguments: object) -> object:
        raise SimError(f"not supported by the embedded simulator: {name}")

    return refuse


UNSUPPORTED_CALLS: dict[str, Method] = {
    **{name: value(_refusal(name)) for name in _VALUE.split()},
    **{name: void(_refusal(name)) for name in _VOID.split()},
}
