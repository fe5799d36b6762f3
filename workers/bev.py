"""Paints bird's-eye views from the map and the newest tick, without any camera.

What stands still is looked up in the raster of `bev_ground`. What moves is painted by points: each actor has a lattice
over its footprint, made once; a step turns the lattices of all that are near into the ego's frame together and sets
their pixels. A pixel is painted when a point of the lattice lies in it: every pixel whose centre the footprint covers,
and those that its border touches.

Frames: world is CARLA's (x forward, y right, yaw clockwise from above); the view has the ego's heading up.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import carla
import numpy as np
from numpy.typing import NDArray

from zmqcarla.workers.bev_config import BevConfig
from zmqcarla.workers.bev_ground import BROKEN, LATTICE_PX, ROAD, SOLID, STOP_LINE, Ground, RoadLines, across
from zmqcarla.workers.ego import EgoState
from zmqcarla.workers.navigation import Route

_LARGEST_M: Final = 12.0  # from the middle of a vehicle to its corner, at most
_LIGHT_VALUE: Final = {"Green": 80, "Yellow": 170, "Red": 255}
_LIGHT_CODE: Final = {"Green": 1, "Yellow": 2, "Red": 3}
_KINDS: Final = {"vehicle": "vehicles", "walker": "walkers"}

Points = NDArray[np.float32]
"""float32 (n, 2), metres."""


@dataclass(frozen=True, slots=True, eq=False)
class _Figure:
    """An actor's footprint: layer, lattice in the actor's own frame, and how far it reaches."""

    layer: str
    points_m: Points
    radius_m: float


@dataclass(frozen=True, slots=True, eq=False)
class _Past:
    """What moved at one moment: figures with their poses (x m, y m, cos yaw, sin yaw) by layer, and lights' states."""

    figures: dict[str, list[_Figure]]
    poses: dict[str, list[tuple[float, float, float, float]]]
    lights: NDArray[np.uint8]


class BevPainter:
    """The views of one episode."""

    def __init__(self, world: carla.World, lines: RoadLines, route: Route, ego_id: int, config: BevConfig) -> None:
        """Find the lights, and make the lattice of the route.

        Args:
            world: after the tick of the episode's first moment.
            lines: of its map.
            route: to be painted.
            ego_id: actor that is not painted.
            config: what to paint.
        """
        self._world: Any = world
        self._ego_id = ego_id
        self._config = config
        self._step_m = LATTICE_PX / config.pixels_per_metre
        width, height = config.size
        left, top = config.ego_at
        reach_px = math.hypot(max(left, width - left), max(top, height - top))
        self._reach_m = reach_px / config.pixels_per_metre
        self._ahead_m = (top - (np.arange(height, dtype=np.float32) + 0.5)) / config.pixels_per_metre
        self._right_m = (np.arange(width, dtype=np.float32) + 0.5 - left) / config.pixels_per_metre
        self._known: dict[int, _Figure | None] = {}
        self._past: collections.deque[_Past] = collections.deque(maxlen=max(config.history) + 1)
        self._lights, lines_m = _stop_lines(world)
        self._light_xy_m = lines_m.mean(axis=1)
        self._light_points = [_line_lattice(line, self._step_m) for line in lines_m]
        self._ground = Ground(lines, lines_m, config.pixels_per_metre, reach_px)
        self._route_s_m, self._route_points = _route_lattice(route, self._step_m)
        self._layers: dict[str, Callable[[_View, NDArray[np.uint8]], None]] = {
            "road": lambda view, out: _flagged(view, ROAD, out),
            "markings_broken": lambda view, out: _flagged(view, BROKEN, out),
            "markings_solid": lambda view, out: _flagged(view, SOLID, out),
            "markings": _both_markings,
            "stop_lines": lambda view, out: _flagged(view, STOP_LINE, out),
            "route": self._paint_route,
        }

    def paint(self, ego: EgoState, s_m: float, out: NDArray[np.uint8]) -> None:
        """Paint the view of the newest tick; call it once a step, for it remembers what moved.

        Args:
            ego: the vehicle at that tick.
            s_m: its place along the route.
            out: uint8 `BevConfig.shape`, of any strides.
        """
        x_m, y_m, _ = ego.position_m
        self._past.append(self._look(x_m, y_m))
        self.repaint(ego, s_m, out)

    def repaint(self, ego: EgoState, s_m: float, out: NDArray[np.uint8]) -> None:
        """Paint what `paint` painted last once more."""
        x_m, y_m, _ = ego.position_m
        yaw = math.radians(ego.rotation_deg[2])
        view = _View(x_m, y_m, math.cos(yaw), math.sin(yaw), s_m, self._lookup(x_m, y_m, yaw))
        channel = 0
        for layer in self._config.layers:
            paint = self._layers.get(layer)
            if paint is not None:
                paint(view, out[channel])
                channel += 1
                continue
            for steps in self._config.history:
                past = self._past[max(0, len(self._past) - 1 - steps)]
                out[channel] = 0
                if layer in past.figures:
                    self._paint_figures(view, past.figures[layer], past.poses[layer], out[channel])
                else:
                    self._paint_lights(view, past.lights, layer, out[channel])
                channel += 1

    def get_state(self) -> list[dict[str, Any]]:
        """Return what was seen moving, oldest first: ids and poses by layer, and lights' states.

        Nothing, when views show nothing but the present.
        """
        if self._past.maxlen == 1:
            return []
        id_of = {id(figure): actor_id for actor_id, figure in self._known.items() if figure is not None}
        return [
            {
                "ids": {layer: [id_of[id(each)] for each in figures] for layer, figures in past.figures.items()},
                "poses": past.poses,
                "lights": past.lights,
            }
            for past in self._past
        ]

    def set_state(self, seen: Sequence[Mapping[str, Any]], actor_of: Mapping[int, int]) -> None:
        """Go on from what was seen; of actors that are not there any more nothing is remembered.

        Args:
            seen: from `get_state`.
            actor_of: actor ids by those in there.
        """
        there = {each for past in seen for ids in past["ids"].values() for each in ids if each in actor_of}
        self._learn(sorted(actor_of[each] for each in there))
        self._past.clear()
        for past in seen:
            figures: dict[str, list[_Figure]] = {}
            poses: dict[str, list[tuple[float, float, float, float]]] = {}
            for layer, ids in past["ids"].items():
                poses_m = zip(ids, past["poses"][layer], strict=True)
                known = [(self._known[actor_of[each]], pose) for each, pose in poses_m if each in there]
                figures[layer] = [figure for figure, _ in known if figure is not None]
                poses[layer] = [pose for figure, pose in known if figure is not None]
            self._past.append(_Past(figures, poses, past["lights"]))

    def _look(self, x_m: float, y_m: float) -> _Past:
        """Note what moves at the newest tick, as far as a view may ever need it."""
        snapshot = self._world.get_snapshot()
        self._learn([actor.id for actor in snapshot])
        figures: dict[str, list[_Figure]] = {layer: [] for layer in _KINDS.values()}
        poses: dict[str, list[tuple[float, float, float, float]]] = {layer: [] for layer in _KINDS.values()}
        # The ego drives on while the past is remembered: what it may yet reach counts too.
        reach_m = self._reach_m + _LARGEST_M + 3.0 * (len(self._past) and max(self._config.history))
        known, radians, cos, sin = self._known, math.radians, math.cos, math.sin
        for actor in snapshot:
            figure = known[actor.id]
            if figure is None:
                continue
            pose = actor.get_transform()
            place = pose.location
            x, y = place.x, place.y
            if abs(x - x_m) <= reach_m and abs(y - y_m) <= reach_m:
                yaw = radians(pose.rotation.yaw)
                figures[figure.layer].append(figure)
                poses[figure.layer].append((x, y, cos(yaw), sin(yaw)))
        states = np.zeros(len(self._lights), np.uint8)
        near = (np.abs(self._light_xy_m - (x_m, y_m)) <= reach_m).all(axis=1)
        for index in np.flatnonzero(near):
            states[index] = _LIGHT_CODE.get(str(self._lights[index].get_state()), 0)
        return _Past(figures, poses, states)

    def _learn(self, ids: list[int]) -> None:
        """Ask what actors are that have not been seen before."""
        new = [actor_id for actor_id in ids if actor_id not in self._known]
        if not new:
            return
        for actor in self._world.get_actors(new):
            layer = _KINDS.get(actor.type_id.partition(".")[0])
            is_seen = actor.id != self._ego_id
            self._known[actor.id] = (
                _figure(layer, actor.bounding_box, self._step_m) if layer is not None and is_seen else None
            )
        for actor_id in new:
            self._known.setdefault(actor_id, None)

    def _lookup(self, x_m: float, y_m: float, yaw: float) -> NDArray[np.uint8]:
        """The flags of the ground under each pixel of the view."""
        ground, ppm = self._ground, self._config.pixels_per_metre
        ground.cover(x_m, y_m)
        cos, sin = np.float32(math.cos(yaw) * ppm), np.float32(math.sin(yaw) * ppm)
        column, row = np.float32(x_m * ppm - ground.corner_px[0]), np.float32(y_m * ppm - ground.corner_px[1])
        columns = np.add.outer(column + cos * self._ahead_m, -sin * self._right_m).astype(np.int32)
        rows = np.add.outer(row + sin * self._ahead_m, cos * self._right_m).astype(np.int32)
        rows *= len(ground.flags)
        rows += columns
        flags: NDArray[np.uint8] = ground.flags.reshape(-1).take(rows)
        return flags

    def _paint_route(self, view: _View, out: NDArray[np.uint8]) -> None:
        out[...] = 0
        first, last = np.searchsorted(self._route_s_m, (view.s_m, view.s_m + 2.0 * self._reach_m))
        self._set(view, self._route_points[first:last].reshape(-1, 2), out, 255)

    def _paint_figures(
        self,
        view: _View,
        figures: list[_Figure],
        poses: list[tuple[float, float, float, float]],
        out: NDArray[np.uint8],
    ) -> None:
        lattices: list[Points] = []
        in_ego: list[tuple[float, float, float, float]] = []
        front_m, back_m = self._ahead_m[0], self._ahead_m[-1]
        left_m, right_m = self._right_m[0], self._right_m[-1]
        # First into the ego's frame with four numbers an actor, then with all points together.
        for figure, (x_m, y_m, cos, sin) in zip(figures, poses, strict=True):
            dx, dy, r_m = x_m - view.x_m, y_m - view.y_m, figure.radius_m
            ahead, right = dx * view.cos + dy * view.sin, dy * view.cos - dx * view.sin
            if back_m - r_m <= ahead <= front_m + r_m and left_m - r_m <= right <= right_m + r_m:
                lattices.append(figure.points_m)
                in_ego.append((ahead, right, cos * view.cos + sin * view.sin, sin * view.cos - cos * view.sin))
        if not lattices:
            return
        own, counts = np.concatenate(lattices), [len(lattice) for lattice in lattices]
        ahead_m, right_m, c, s = np.repeat(np.array(in_ego, np.float32).T, counts, axis=1)
        ahead_m += own[:, 0] * c
        ahead_m -= own[:, 1] * s
        right_m += own[:, 0] * s
        right_m += own[:, 1] * c
        self._set_in_ego(ahead_m, right_m, out, 255)

    def _paint_lights(self, view: _View, states: NDArray[np.uint8], layer: str, out: NDArray[np.uint8]) -> None:
        for state, code in _LIGHT_CODE.items():
            if layer not in ("lights", f"lights_{state.lower()}"):
                continue
            value = _LIGHT_VALUE[state] if layer == "lights" else 255
            shown = [self._light_points[k] for k in np.flatnonzero(states == code)]
            if shown:
                self._set(view, np.concatenate(shown), out, value)

    def _set(self, view: _View, points_m: NDArray[np.float64], out: NDArray[np.uint8], value: int) -> None:
        """Set the pixels under points of the world."""
        dx = (points_m[:, 0] - view.x_m).astype(np.float32)
        dy = (points_m[:, 1] - view.y_m).astype(np.float32)
        cos, sin = np.float32(view.cos), np.float32(view.sin)
        self._set_in_ego(dx * cos + dy * sin, dy * cos - dx * sin, out, value)

    def _set_in_ego(
        self, ahead_m: NDArray[np.float32], right_m: NDArray[np.float32], out: NDArray[np.uint8], value: int
    ) -> None:
        """Set the pixels under points of the ego's frame, whose arrays are used up."""
        left, top = self._config.ego_at
        ppm = np.float32(self._config.pixels_per_metre)
        # Cutting off is quicker than `floor`, and the same for what is above 0: pixels count from 1 meanwhile.
        ahead_m *= -ppm
        ahead_m += np.float32(top + 1.0)
        right_m *= ppm
        right_m += np.float32(left + 1.0)
        rows, columns = ahead_m.astype(np.int32), right_m.astype(np.int32)
        rows -= 1
        columns -= 1
        height, width = out.shape
        inside = (rows.view(np.uint32) < height) & (columns.view(np.uint32) < width)
        out[rows[inside], columns[inside]] = value


@dataclass(frozen=True, slots=True, eq=False)
class _View:
    """Where the ego is, and the flags under each pixel."""

    x_m: float
    y_m: float
    cos: float
    sin: float
    s_m: float
    flags: NDArray[np.uint8]


def _flagged(view: _View, flag: int, out: NDArray[np.uint8]) -> None:
    np.multiply((view.flags & np.uint8(flag)) != 0, np.uint8(255), out=out, casting="unsafe")


def _both_markings(view: _View, out: NDArray[np.uint8]) -> None:
    out[...] = _MARKING_VALUE[view.flags]


_MARKING_VALUE: Final = np.array([255 if k & SOLID else 120 if k & BROKEN else 0 for k in range(256)], np.uint8)


def _figure(layer: str, box: Any, step_m: float) -> _Figure:
    """The footprint of a bounding box, which may stand beside the actor's origin and be turned."""
    extent, middle, yaw = box.extent, box.location, math.radians(box.rotation.yaw)
    along = np.linspace(-extent.x, extent.x, math.ceil(2.0 * extent.x / step_m) + 1)
    aside = np.linspace(-extent.y, extent.y, math.ceil(2.0 * extent.y / step_m) + 1)
    x, y = (part.ravel() for part in np.meshgrid(along, aside))
    cos, sin = math.cos(yaw), math.sin(yaw)
    points_m = np.stack([middle.x + x * cos - y * sin, middle.y + x * sin + y * cos], axis=1)
    return _Figure(layer, points_m.astype(np.float32), float(np.hypot(*points_m.T).max()))


def _line_lattice(line_m: NDArray[np.float64], step_m: float) -> NDArray[np.float64]:
    """Points on a line, three pixels broad, float64 (n, 2), world frame."""
    length_m = float(np.linalg.norm(line_m[1] - line_m[0]))
    along = np.linspace(0.0, 1.0, math.ceil(length_m / step_m) + 1)[:, None]
    direction = (line_m[1] - line_m[0]) / max(length_m, 1e-6)
    aside = np.array([-direction[1], direction[0]]) * step_m
    points = line_m[0] + along * (line_m[1] - line_m[0])
    return np.concatenate([points + aside * k for k in (-2, -1, 0, 1, 2)])


def _route_lattice(route: Route, step_m: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rows of points across the route: the place of each row along it, and float64 (rows, points, 2), world frame."""
    s_m = np.linspace(0.0, route.length_m, math.ceil(route.length_m / step_m) + 1)
    x, y = (np.interp(s_m, route.s_m, route.xy_m[:, axis]) for axis in (0, 1))
    half_m = np.interp(s_m, route.s_m, route.lane_width_m) / 2.0
    direction = np.stack([np.gradient(x, s_m), np.gradient(y, s_m)], axis=1)
    direction /= np.maximum(np.linalg.norm(direction, axis=1), 1e-6)[:, None]
    aside = np.stack([-direction[:, 1], direction[:, 0]], axis=1) * half_m[:, None]
    share = np.linspace(-1.0, 1.0, math.ceil(2.0 * float(half_m.max()) / step_m) + 1)
    return s_m, np.stack([x, y], axis=1)[:, None, :] + share[:, None] * aside[:, None, :]


def _stop_lines(world: Any) -> tuple[list[Any], NDArray[np.float64]]:
    """The lights, one entry for each of their stop lines, and the lines: float64 (n, 2, 2), world frame."""
    lights: list[Any] = []
    lines: list[NDArray[np.float64]] = []
    for light in sorted(world.get_actors().filter("traffic.traffic_light"), key=lambda light: light.id):
        for waypoint in light.get_stop_waypoints():
            lights.append(light)
            lines.append(across(waypoint))
    return lights, np.array(lines).reshape(-1, 2, 2)
