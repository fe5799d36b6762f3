"""What the sensors of an end-to-end agent cost a tick: six cameras of 1600 x 900, lidar, radar, imu, gnss, speedometer.

    python tools/bench_suite.py [--map Town10HD.xodr] [--ticks 40] [--vehicles 30]

One env in this process on an embedded simulator of its own, ticked with nothing, with the suite, and with parts of it.
Beside the rate stands the CPU time of a tick, of the server and of this process, which other jobs on the machine
disturb less. A rate far below what one core's share of that allows was lost to others, or to waiting.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import psutil

from zmqcarla.workers.carla_env import CarlaEnv
from zmqcarla.workers.presets import leaderboard_sensors

WARM_TICKS = 5
ACTION = np.array([0.0, 0.3, 0.0], dtype=np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--map", help="OpenDRIVE file; default: the generated town")
    parser.add_argument("--ticks", type=int, default=40)
    parser.add_argument("--vehicles", type=int, default=0, help="other vehicles")
    options = parser.parse_args()
    suite = leaderboard_sensors()
    cameras = [sensor for sensor in suite if sensor["type"] == "sensor.camera.rgb"]
    work: dict[str, tuple[list[dict[str, Any]], str]] = {
        "no sensors": ([], "CHW"),
        "one camera": (cameras[:1], "CHW"),
        "six cameras": (cameras, "CHW"),
        "six cameras, as CARLA sends them": (cameras, "BGRA"),
        "the lidar": ([sensor for sensor in suite if "lidar" in sensor["type"]], "CHW"),
        "the suite": (suite, "CHW"),
        "the suite, as CARLA sends it": (suite, "BGRA"),
    }
    print(f"{'':34}{'ticks/s':>9}{'wall ms':>9}{'server CPU ms':>15}{'env CPU ms':>12}")
    for name, (sensors, layout) in work.items():
        env = CarlaEnv(
            simulator="embedded",
            map=options.map,
            sensors=sensors,
            image_layout=layout,
            terminate_on_collision=False,
            max_steps=10_000,
            traffic_vehicles=options.vehicles,
        )
        try:
            print(f"{name:34}{measured(env, options.ticks)}", flush=True)
        finally:
            env.close()


def measured(env: CarlaEnv, ticks: int) -> str:
    """Drive, and return the figures of a tick."""
    env.reset(seed=0)
    out = env.observation_space.sample()
    for _ in range(WARM_TICKS):
        env.step(ACTION)
    assert env.server is not None
    server = psutil.Process(env.server.pid)
    before_s, mine_s, began_s = cpu_s(server), time.process_time(), time.perf_counter()
    for _ in range(ticks):
        env.bind_out(out)  # as in a pool, whose ring is there already
        env.step(ACTION)
    wall_ms, server_ms, mine_ms = (
        1e3 * (after - before) / ticks
        for after, before in (
            (time.perf_counter(), began_s),
            (cpu_s(server), before_s),
            (time.process_time(), mine_s),
        )
    )
    return f"{1e3 / wall_ms:9.2f}{wall_ms:9.1f}{server_ms:15.1f}{mine_ms:12.1f}"


def cpu_s(process: psutil.Process) -> float:
    """CPU time of a process and its children, seconds."""
    family = [process, *process.children(recursive=True)]
    return sum(sum(each.cpu_times()[:2]) for each in family)


if __name__ == "__main__":
    main()
