"""How the client's own Traffic Manager gets on with many vehicles on the embedded simulator for a long time.

    python tools/soak_traffic.py --map Town01.xodr --vehicles 100 --seconds 600

Everything is asked of the real carla client: every vehicle type of the library takes part, and each carries a collision
sensor. Told are vehicles that stood for two minutes (or that the Traffic Manager took out because they stood), the
distance from the middle of the nearest lane, lights that were passed while they had been red all the time, and
collisions. Of whoever stands for a minute it is told whose box lies in the way of its own box along its lane: a Traffic
Manager lets nobody go whose box does not get through. `--without TYPE` leaves a vehicle type out.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import carla as _carla
import numpy as np
from numpy.typing import NDArray

carla = cast(Any, _carla)

DELTA_S = 0.05
STUCK_S = 120.0
STANDS_MPS = 0.1
LOOK_EVERY = 10
# A light may turn red when a vehicle can no longer stop before it.
RED_GRACE_S = 2.0
RED_PASS_MPS = 2.0
SAME_HIT_S = 3.0
EXPLAIN_S = 60.0
AHEAD_M = 12.0
STEP_M = 0.5
# A Traffic Manager holds two vehicles back whose ways come nearer than this.
TOUCHES_M = 0.1

Corners = NDArray[np.float64]


def start(port: int, map_path: str) -> subprocess.Popen[str]:
    """Start the simulator and wait for its banner."""
    command = [sys.executable, "-m", "zmqcarla.sim", "--port", str(port), "--map", map_path]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    if not process.stdout.readline():
        raise SystemExit(f"the simulator did not start (exit code {process.wait(timeout=10)})")
    return process


def corners(box: Any, transform: Any) -> Corners:
    """Corners of an actor's bounding box from above, with the actor at a place: float64 (4, 2)."""
    ahead, aside = transform.get_forward_vector(), transform.get_right_vector()
    along, across = np.array([ahead.x, ahead.y]), np.array([aside.x, aside.y])
    middle = (transform.location.x, transform.location.y) + along * box.location.x + across * box.location.y
    long, wide = along * box.extent.x, across * box.extent.y
    around: Corners = np.array([long + wide, long - wide, -long - wide, wide - long])
    around += middle
    return around


def gap_m(first: Corners, second: Corners) -> float:
    """How far two rectangles are apart along the axis that parts them best; negative when they overlap."""
    best = -np.inf
    for shape in (first, second):
        for edge in (shape[1] - shape[0], shape[2] - shape[1]):
            axis = np.array([-edge[1], edge[0]]) / np.hypot(*edge)
            one, two = first @ axis, second @ axis
            best = max(best, one.min() - two.max(), two.min() - one.max())
    return float(best)


@dataclass(slots=True)
class Watch:
    """What is kept of one vehicle, and of all together in the counters."""

    actor: Any
    kind: str
    stood_s: float = 0.0
    longest_s: float = 0.0
    travelled_m: float = 0.0
    worst_offset_m: float = 0.0
    looks_off_lane: int = 0
    place: Any = None
    light: Any = None
    red_since_s: float = 0.0
    saw_green: bool = False


class Soak:
    """A run of traffic: populate, drive, report."""

    def __init__(self, client: Any, vehicles: int, seed: int, manager_port: int, without: Sequence[str] = ()) -> None:
        self.client = client
        world = client.get_world()
        world.apply_settings(carla.WorldSettings(synchronous_mode=True, fixed_delta_seconds=DELTA_S))
        self.world = client.reload_world(False)
        self.map = self.world.get_map()
        self.manager = client.get_trafficmanager(manager_port)
        self.manager.set_synchronous_mode(True)
        self.manager.set_random_device_seed(seed)
        self.collisions: Counter[str] = Counter()
        self.last_hits: dict[tuple[int, int], float] = {}
        self.reds: list[str] = []
        self.removed: list[str] = []
        self.jams: list[str] = []
        self.looks = 0
        self.now_s = 0.0
        library = [kind for kind in self.world.get_blueprint_library().filter("vehicle.*") if kind.id not in without]
        points = self.world.get_map().get_spawn_points()
        self.watches: list[Watch] = []
        for index in range(min(vehicles, len(points))):
            blueprint = library[index % len(library)]
            actor = self.world.spawn_actor(blueprint, points[index * len(points) // min(vehicles, len(points))])
            self.watches.append(Watch(actor, blueprint.id))
        lens = self.world.get_blueprint_library().find("sensor.other.collision")
        self.sensors: list[Any] = []
        for watch in self.watches:
            sensor = self.world.spawn_actor(lens, carla.Transform(), attach_to=watch.actor)
            sensor.listen(lambda event, watch=watch: self._hit(watch, event))
            self.sensors.append(sensor)
            watch.actor.set_autopilot(True, self.manager.get_port())

    def _hit(self, watch: Watch, event: Any) -> None:
        other = event.other_actor
        # both partners report; a lasting touch is one collision
        pair = (min(watch.actor.id, other.id), max(watch.actor.id, other.id))
        if event.timestamp - self.last_hits.get(pair, -SAME_HIT_S) >= SAME_HIT_S:
            self.collisions[f"{watch.kind} - {other.type_id}"] += 1
        self.last_hits[pair] = event.timestamp

    def drive(self, seconds: float) -> float:
        """Let time pass; ticks a second of wall time."""
        ticks = round(seconds / DELTA_S)
        began = time.perf_counter()
        for tick in range(ticks):
            self.world.tick(60.0)
            self.now_s += DELTA_S
            self._miss()
            for watch in self.watches:
                self._watch_light(watch)
            if tick % LOOK_EVERY == 0:
                self.looks += 1
                for watch in self.watches:
                    self._look(watch)
        return ticks / (time.perf_counter() - began)

    def _miss(self) -> None:
        """Vehicles that the Traffic Manager took out of the world because they stood for too long (about 90 s)."""
        gone = [watch for watch in self.watches if not watch.actor.is_alive]
        if gone:
            self.watches = [watch for watch in self.watches if watch.actor.is_alive]
            self.removed += [f"{watch.kind} {watch.actor.id} at {watch.place}, {self.now_s:.1f} s" for watch in gone]

    def _watch_light(self, watch: Watch) -> None:
        light = watch.actor.get_traffic_light() if watch.actor.is_at_traffic_light() else None
        if light is None:
            old, watch.light = watch.light, None
            if old is not None and old.get_state() == carla.TrafficLightState.Red:
                waited = self.now_s - watch.red_since_s
                passes = watch.actor.get_velocity().length() > RED_PASS_MPS
                # a Traffic Manager lets whoever was once shown green at the line go, however late that is
                if waited > RED_GRACE_S and passes and not watch.saw_green:
                    self.reds.append(f"{watch.kind} {watch.actor.id} at {self.now_s:.1f} s, light {old.id}")
            return
        colour = light.get_state()
        if colour != carla.TrafficLightState.Red or watch.light is None:
            watch.red_since_s = self.now_s
        watch.saw_green = (watch.saw_green and watch.light is not None) or colour == carla.TrafficLightState.Green
        watch.light = light

    def _look(self, watch: Watch) -> None:
        place = watch.actor.get_location()
        if watch.place is not None:
            watch.travelled_m += place.distance(watch.place)
        watch.place = place
        stands = watch.actor.get_velocity().length() < STANDS_MPS
        watch.stood_s = watch.stood_s + LOOK_EVERY * DELTA_S if stands else 0.0
        if watch.stood_s == EXPLAIN_S:
            self.jams.append(self._why(watch))
        watch.longest_s = max(watch.longest_s, watch.stood_s)
        lane = self.map.get_waypoint(place)
        middle = lane.transform.location
        aside = ((place.x - middle.x) ** 2 + (place.y - middle.y) ** 2) ** 0.5
        watch.worst_offset_m = max(watch.worst_offset_m, aside)
        watch.looks_off_lane += aside > lane.lane_width / 2

    def _why(self, watch: Watch) -> str:
        """Who is in the way of a vehicle that stands: whose box its own meets along its lane."""
        actor = watch.actor
        box, here = actor.bounding_box, self.map.get_waypoint(actor.get_location())
        ways = [[here]]
        for _ in range(round(AHEAD_M / STEP_M)):
            ways = [[*way, follower] for way in ways for follower in way[-1].next(STEP_M)][:6]
        places = [corners(box, waypoint.transform) for way in ways for waypoint in way]
        found: list[str] = []
        for other in self.watches:
            if other is watch or other.actor.get_location().distance(watch.place) > 2 * AHEAD_M:
                continue
            shape = corners(other.actor.bounding_box, other.actor.get_transform())
            gap = min(gap_m(place, shape) for place in places)
            if gap < TOUCHES_M:
                found.append(f"{other.kind} {other.actor.id} ({gap:.2f} m)")
        light = f"at a light, {actor.get_traffic_light_state()}, " if actor.is_at_traffic_light() else ""
        width = f"{2 * box.extent.y:.2f} m wide on a lane of {here.lane_width:.2f} m"
        return f"{watch.kind} {actor.id}, {width}, stands {light}at {self.now_s:.0f} s; in the way: {', '.join(found)}"

    def report(self) -> dict[str, Any]:
        """The figures of the run so far."""
        looks = self.looks * len(self.watches)
        worst = max(self.watches, key=lambda watch: watch.worst_offset_m)
        return {
            "vehicles": len(self.watches),
            "sim_s": round(self.now_s, 1),
            "stuck": sum(watch.longest_s >= STUCK_S for watch in self.watches) + len(self.removed),
            "longest_stand_s": max(watch.longest_s for watch in self.watches),
            "km": round(sum(watch.travelled_m for watch in self.watches) / 1000, 2),
            "lane_offset_worst_m": round(worst.worst_offset_m, 2),
            "lane_offset_worst_of": worst.kind,
            "off_lane_share": round(sum(watch.looks_off_lane for watch in self.watches) / looks, 5),
            "reds_run": len(self.reds),
            "collisions": sum(self.collisions.values()),
        }

    def details(self) -> list[str]:
        """Who stood, who left the lane, who hit whom."""
        lines = [f"stood {w.longest_s:.0f} s: {w.kind} at {w.place}" for w in self.watches if w.longest_s >= STUCK_S]
        off = sorted(self.watches, key=lambda watch: -watch.looks_off_lane)[:10]
        lines += [f"off lane {w.looks_off_lane} looks, worst {w.worst_offset_m:.2f} m: {w.kind}" for w in off]
        lines += [f"taken out by the Traffic Manager: {vehicle}" for vehicle in self.removed]
        lines += self.jams
        return [*lines, *self.reds, *(f"{count} x {pair}" for pair, count in self.collisions.most_common(20))]

    def close(self) -> None:
        """Take everything down, the Traffic Manager first."""
        for sensor in self.sensors:
            if sensor.is_alive:
                sensor.stop()
        self.manager.set_synchronous_mode(False)
        self.manager.shut_down()
        gone = [sensor.id for sensor in self.sensors if sensor.is_alive]
        gone += [watch.actor.id for watch in self.watches if watch.actor.is_alive]
        self.client.apply_batch_sync([carla.command.DestroyActor(number) for number in gone])
        self.world.apply_settings(carla.WorldSettings(synchronous_mode=False, fixed_delta_seconds=0.0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--map", default="default", help="path of an .xodr file, or the generated town")
    parser.add_argument("--vehicles", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=600.0, help="simulated")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--without", action="append", default=[], metavar="TYPE", help="a vehicle type to leave out")
    parser.add_argument("--port", type=int, default=22970)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    process = start(options.port, options.map)
    try:
        client = carla.Client("127.0.0.1", options.port)
        client.set_timeout(60.0)
        soak = Soak(client, options.vehicles, options.seed, options.port + 7, options.without)
        rate = soak.drive(options.seconds)
        result = {"map": soak.map.name.rsplit("/", 1)[-1], "ticks_per_s": round(rate, 1), **soak.report()}
        details = soak.details()
        soak.close()
    finally:
        process.terminate()
        process.wait(timeout=10)
    if options.json:
        print(json.dumps(result))
        return
    for name, figure in result.items():
        print(f"{name:22} {figure}")
    print("\n".join(details))


if __name__ == "__main__":
    main()
