"""zmqcarla: N CARLA servers as one `gymnasium.vector.VectorEnv`.

    vec = zmqcarla.make_vec_env(n=16)      # N environments over the bus
    vec = gymnasium.make_vec("zmqcarla/Carla-v0", num_envs=16)  # the same
    env = gymnasium.make("zmqcarla/Carla-v0")   # one environment in this process

Importing this package registers `zmqcarla/Carla-v0` with Gymnasium. Everything else loads on first use, so that a
broker or worker process never pays for the client.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import gymnasium

if TYPE_CHECKING:
    from zmqcarla.async_vector_env import AsyncVectorEnv
    from zmqcarla.broker.errors import EmbeddedSimulatorWarning, ZmqCarlaError
    from zmqcarla.group_batch import GroupBatch
    from zmqcarla.grpo import GRPOCarlaEnv
    from zmqcarla.make import make_env, make_vec_env
    from zmqcarla.rollout_group import RolloutGroup, step_groups
    from zmqcarla.vector_env import VectorEnv
    from zmqcarla.vector_env import VectorEnv as VectorizedCarlaEnv
    from zmqcarla.workers.carla_env import CarlaEnv

__version__ = "0.1.0"

_WHERE = {
    "AsyncVectorEnv": ("zmqcarla.async_vector_env", "AsyncVectorEnv"),
    "CarlaEnv": ("zmqcarla.workers.carla_env", "CarlaEnv"),
    "EmbeddedSimulatorWarning": ("zmqcarla.broker.errors", "EmbeddedSimulatorWarning"),
    "GRPOCarlaEnv": ("zmqcarla.grpo", "GRPOCarlaEnv"),
    "GroupBatch": ("zmqcarla.group_batch", "GroupBatch"),
    "RolloutGroup": ("zmqcarla.rollout_group", "RolloutGroup"),
    "VectorEnv": ("zmqcarla.vector_env", "VectorEnv"),
    "VectorizedCarlaEnv": ("zmqcarla.vector_env", "VectorEnv"),
    "ZmqCarlaError": ("zmqcarla.broker.errors", "ZmqCarlaError"),
    "make_env": ("zmqcarla.make", "make_env"),
    "make_vec_env": ("zmqcarla.make", "make_vec_env"),
    "step_groups": ("zmqcarla.rollout_group", "step_groups"),
}

__all__ = [
    "AsyncVectorEnv",
    "CarlaEnv",
    "EmbeddedSimulatorWarning",
    "GRPOCarlaEnv",
    "GroupBatch",
    "RolloutGroup",
    "VectorEnv",
    "VectorizedCarlaEnv",
    "ZmqCarlaError",
    "__version__",
    "make_env",
    "make_vec_env",
    "step_groups",
]

for _id, _entry_point, _vector_entry_point in (
    ("zmqcarla/Carla-v0", "zmqcarla.workers.carla_env:CarlaEnv", "make_registered"),
    (
        "zmqcarla/Leaderboard-v0",
        "zmqcarla.workers.leaderboard.leaderboard_env:LeaderboardEnv",
        "make_registered_leaderboard",
    ),
):
    gymnasium.register(
        id=_id,
        entry_point=_entry_point,
        # They check actions and the order of calls themselves; gymnasium's wrappers would do it again on every step.
        order_enforce=False,
        disable_env_checker=True,
        vector_entry_point=f"zmqcarla.make:{_vector_entry_point}",
    )


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _WHERE[name]
    return getattr(importlib.import_module(module), attribute)
