"""The settings of the env that an evaluation drives, by what the command was told.

`zmqcarla/Carla-v0` reads the scenarios of a route file itself and can be given more traffic; in
`zmqcarla/Leaderboard-v0` the user's checkout decides all that, and asking for it is an error.
"""

from __future__ import annotations

from typing import Any, Final

CARLA: Final = "zmqcarla/Carla-v0"
LEADERBOARD: Final = "zmqcarla/Leaderboard-v0"
_OURS: Final = {"traffic_vehicles": 0, "traffic_walkers": 0, "parked_vehicles": 0, "blocked_s": 180.0}
_OPTIONS: Final = {
    "traffic_vehicles": "--vehicles",
    "traffic_walkers": "--walkers",
    "parked_vehicles": "--parked",
    "blocked_s": "--blocked-s",
}


def env_settings(env_id: str, chosen: dict[str, Any]) -> dict[str, Any]:
    """Return the keywords of the env, the same for every town.

    Args:
        env_id: which env.
        chosen: by the env's names; None stands for an option that was not given.

    Raises:
        ValueError: there is no such env to evaluate in, or it does not take one of these.
    """
    if env_id not in (CARLA, LEADERBOARD):
        raise ValueError(f"env: expected {CARLA} or {LEADERBOARD}, found {env_id!r}")
    given = {name: value for name, value in chosen.items() if value is not None}
    if env_id == CARLA:
        return {**_OURS, **given}
    refused = [_OPTIONS[name] for name in _OURS if name in given]
    if refused:
        raise ValueError(
            f"expected no {', '.join(refused)} with {env_id}: the route file and the Leaderboard's code decide that; "
            "leave it out"
        )
    return given


def town_settings(env_id: str, town_map: str | None) -> dict[str, Any]:
    """Return the keywords that depend on the town; a checkout loads its towns by their names."""
    return {"map": town_map} if env_id == CARLA else {}
