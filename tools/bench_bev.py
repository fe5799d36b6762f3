"""What a bird's-eye view costs: CPU time of one `BevPainter.paint`, 192 x 192, with 50 actors around the ego.

python tools/bench_bev.py [--actors 50] [--picture bev.png]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import carla
import numpy as np

from zmqcarla.workers.bev import BevPainter
from zmqcarla.workers.bev_config import BevConfig
from zmqcarla.workers.carla_env import CarlaEnv
from zmqcarla.workers.presets import ROACH_BEV

_PAINTS = 300
_COLOURS = {"road": (90, 90, 90), "route": (60, 110, 60), "vehicles": (80, 140, 250), "walkers": (250, 160, 240)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--actors", type=int, default=50, help="vehicles and walkers within the view")
    parser.add_argument("--picture", type=Path, help="write what is seen as a PNG")
    options = parser.parse_args()
    env = CarlaEnv(simulator="embedded", observation="state")
    env.reset(seed=1)
    try:
        count = crowd(env, options.actors)
        print(f"{count} actors around the ego")
        for name, config in (("default", BevConfig()), ("roach", BevConfig.parse(ROACH_BEV))):
            print(f"{name:8} {len(config.channels):2} channels: {measure(env, config, options.picture)}")
    finally:
        env.close()


def crowd(env: CarlaEnv, wanted: int) -> int:
    """Put vehicles and walkers on a grid around the ego; they stand still."""
    assert env.session is not None
    assert env.episode is not None
    world: Any = env.session.world
    ego = env.episode.vehicle.get_transform()
    library = world.get_blueprint_library()
    kinds = [
        library.find(name) for name in ("vehicle.audi.tt", "vehicle.carlamotors.carlacola", "walker.pedestrian.0001")
    ]
    forward, right, count = ego.get_forward_vector(), ego.get_right_vector(), 0
    for k in range(4 * wanted):
        ahead, aside = -6.0 + 5.5 * (k // 6), -15.0 + 6.0 * (k % 6)
        x, y = (getattr(ego.location, c) + ahead * getattr(forward, c) + aside * getattr(right, c) for c in "xy")
        place = carla.Transform(
            carla.Location(x, y, ego.location.z + 1.0), carla.Rotation(yaw=ego.rotation.yaw + 20.0 * k)
        )
        actor = world.try_spawn_actor(kinds[0 if k % 3 else 2 if k % 2 else 1], place)
        if actor is not None:
            actor.set_simulate_physics(False)
            count += 1
        if count == wanted:
            break
    env.session.tick()
    return count


def measure(env: CarlaEnv, config: BevConfig, picture: Path | None) -> str:
    """CPU milliseconds of a paint, and of the first one, which also paints the ground."""
    assert env.session is not None
    assert env.episode is not None
    episode, lines = env.episode, env.session.road_lines
    painter = BevPainter(env.session.world, lines, episode.scene.route, int(episode.vehicle.id), config)
    ego, s_m = env.moment.ego, env.moment.route.s_m
    out = np.zeros(config.shape, np.uint8)
    costs_s: list[float] = []
    for _ in range(_PAINTS):
        began_s = time.thread_time()
        painter.paint(ego, s_m, out)
        costs_s.append(time.thread_time() - began_s)
    if picture is not None:
        import cv2  # noqa: PLC0415 - only for the picture

        path = picture.with_stem(f"{picture.stem}-{len(config.channels)}")
        cv2.imwrite(str(path), cv2.resize(coloured(out, config), None, fx=4, fy=4, interpolation=cv2.INTER_NEAREST))
    p50, p99 = (1e3 * float(np.percentile(costs_s[1:], q)) for q in (50, 99))
    return f"CPU p50 {p50:.2f} ms, p99 {p99:.2f} ms; the first {1e3 * costs_s[0]:.0f} ms"


def coloured(masks: np.ndarray[Any, Any], config: BevConfig) -> np.ndarray[Any, Any]:
    """One picture of all channels, BGR."""
    seen = np.zeros((*masks.shape[1:], 3), np.uint8)
    for name, mask in zip(config.channels, masks, strict=True):
        layer, _, steps = name.partition("@")
        red = {"lights_red": (0, 0, 255), "lights_green": (0, 255, 0), "lights_yellow": (0, 255, 255)}
        colour = {**_COLOURS, **red}.get(layer, (255, 255, 255))
        if steps in ("", "0"):
            seen[mask > 0] = (np.array(colour) * (mask[mask > 0, None] / 255.0)).astype(np.uint8)
    return seen


if __name__ == "__main__":
    main()
