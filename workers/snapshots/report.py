"""What a restore reached, read back from the world: `info["restore"]`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from zmqcarla.workers.navigation import wrap_deg
from zmqcarla.workers.session import Session
from zmqcarla.workers.snapshots.bodies import Body, living, numbers_of
from zmqcarla.workers.snapshots.lights import lights_match
from zmqcarla.workers.snapshots.world import World, bodies_of, read_weather


def measure(session: Session, world: World, actor_of: Mapping[int, int]) -> dict[str, Any]:
    """Compare the world as it is shown now with a snapshot's.

    Args:
        session: the server.
        world: of the snapshot.
        actor_of: actor id by body id.
    """
    bodies = bodies_of(world)
    snapshot = session.world.get_snapshot()
    pairs: list[tuple[Body, Any]] = []
    missing = 0
    for body in bodies:
        seen = snapshot.find(actor_of[body.body_id]) if body.body_id in actor_of else None
        if seen is None:
            missing += 1
        else:
            pairs.append((body, numbers_of(seen)))
    places = [math.dist(body.numbers[:3], now[:3]) for body, now in pairs]
    speeds = [math.dist(body.numbers[6:9], now[6:9]) for body, now in pairs]
    headings = [abs(wrap_deg(body.numbers[4] - now[4])) for body, now in pairs]
    return {
        "actors": len(bodies),
        **_worst("position_error", "m", places),
        **_worst("speed_error", "mps", speeds),
        **_worst("heading_error", "deg", headings),
        "missing": missing,
        "extra": len(set(living(session)) - set(actor_of.values())),
        "lights_restored": lights_match(session, world["lights"]),
        "weather_restored": read_weather(session) == world["weather"],
    }


def _worst(name: str, unit: str, errors: Sequence[float]) -> dict[str, float]:
    return {
        f"{name}_max_{unit}": max(errors, default=0.0),
        f"{name}_mean_{unit}": sum(errors) / max(len(errors), 1),
    }
