"""What `env.step` costs beyond the simulator: its p50 less that of control, tick and waiting for the frame.

    python tools/bench_env_step.py [--steps 600] [--observation standard] [--size 400 224]

Both are measured in one process on one server, in blocks of 25 steps in turn, so that load on the machine meets both
alike and each finds its code in the caches as in use. The bare side is what any client must do: `apply_control`,
`tick`, wait for the picture of that frame.
"""

from __future__ import annotations

import argparse
import time

import carla
import numpy as np

from zmqcarla.workers.carla_env import CarlaEnv

BLOCK = 25
ACTION = np.array([0.0, 0.1, 0.0], dtype=np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--observation", default="standard", help="a preset of the env")
    parser.add_argument("--size", type=int, nargs=2, default=(400, 224), help="width and height of the picture")
    options = parser.parse_args()
    env = CarlaEnv(
        simulator="embedded",
        observation=options.observation,
        image_size=tuple(options.size),
        terminate_on_collision=False,
        max_steps=100 * options.steps,
    )
    try:
        env.reset(seed=0)
        wall_s = {"env.step": list[float](), "control + tick + frame": list[float]()}
        cpu_s = {name: list[float]() for name in wall_s}
        for step in range(2 * options.steps):
            is_bare = step // BLOCK % 2 == 0
            name = "control + tick + frame" if is_bare else "env.step"
            began_s, began_cpu_s = time.perf_counter(), time.thread_time()
            if is_bare:
                bare_step(env)
            else:
                env.step(ACTION)
            wall_s[name].append(time.perf_counter() - began_s)
            cpu_s[name].append(time.thread_time() - began_cpu_s)
    finally:
        env.close()
    for name, times_s in wall_s.items():
        print(f"{name:24} p50 {p50_ms(times_s):6.3f} ms, of which CPU {p50_ms(cpu_s[name]):6.3f} ms")
    over = [p50_ms(times["env.step"]) - p50_ms(times["control + tick + frame"]) for times in (wall_s, cpu_s)]
    print(f"{'difference':24} p50 {over[0]:6.3f} ms, of which CPU {over[1]:6.3f} ms")


def bare_step(env: CarlaEnv) -> None:
    """Drive one tick and wait for what the sensors say of it."""
    assert env.session is not None
    assert env.episode is not None
    env.episode.vehicle.apply_control(carla.VehicleControl(throttle=0.1))
    frame = env.session.world.tick(20.0)
    assert env.episode.sensors is not None
    env.episode.sensors.read(frame, 20.0)


def p50_ms(times_s: list[float]) -> float:
    return 1e3 * float(np.median(times_s[10:]))


if __name__ == "__main__":
    main()
