"""Camera pictures of the embedded simulator: sky, ground, then everything that stands on it, far to near.

The ground is the map's raster seen through a homography, in bands of rows that each use the mip level of their
distance. On hills the ground near the camera is taken as one tilted plane and things are moved up or down to stand on
it. Solids are meshes, painted far to near (`painter`).

What a pixel means: road surface by clear daylight lies between ROAD_BGR_LOW and ROAD_BGR_HIGH of `raster` and is
neutral within ROAD_MAX_CHROMA.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import cv2
import numpy as np

from zmqcarla.sim.camera import SHIFT, Camera, Plane
from zmqcarla.sim.meshes import Kind
from zmqcarla.sim.painter import Painter, Solids
from zmqcarla.sim.raster import GRASS, GroundRaster
from zmqcarla.sim.scenery import BOX_DTYPE, furniture, grow
from zmqcarla.sim.sky import Light, Weather, light_of, pack_bgra

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from zmqcarla.sim.roads import RoadMap

    Floats = NDArray[np.float64]
    Image = NDArray[np.uint8]

__all__ = ["BOX_DTYPE", "Kind", "Renderer", "Scene", "Weather"]

_TREES_FAR_M = 110.0
_CROWN_M = 3.0


@dataclass(frozen=True, slots=True)
class Scene:
    """What changes from frame to frame.

    Attributes:
        boxes: BOX_DTYPE (n,), one per actor; `half` are half sizes. Leave `signal` zero.
        light_states: uint8 (len(RoadMap.signals),): 0 red, 1 yellow, 2 green, 3 off, 4 unknown; entries of signs are
            ignored.
        weather: The weather.
    """

    boxes: NDArray[np.void]
    light_states: NDArray[np.uint8]
    weather: Weather = field(default_factory=Weather)


class Renderer:
    """Paints camera pictures of one map. Not thread-safe; equal calls give equal bytes."""

    def __init__(self, road_map: RoadMap) -> None:
        # a picture is too small to share among threads, and many simulators share a machine
        cv2.setNumThreads(1)
        self._map = road_map
        self._raster = GroundRaster(road_map)
        self._flat_z = float(road_map.heights_m(road_map.spawn_points[:1, :2])[0])
        houses, self._trees = grow(road_map)
        feet = self._trees["foot"]
        self._trees_z = road_map.heights_m(feet[:, :2], feet[:, 2])
        self._statics = np.concatenate([houses, furniture(road_map)])
        self._stage = Solids.room_for(0)
        ahead, aside = np.meshgrid([-2.0, 3.0, 8.0, 15.0, 25.0], [-3.0, 0.0, 3.0])
        self._probes = np.stack([ahead.ravel(), aside.ravel()], axis=-1)
        self._fit = np.asarray(np.linalg.pinv(np.column_stack([np.ones(len(self._probes)), self._probes])), np.float64)
        self._tint = np.empty((0, 0), np.uint32)

    def render(self, out: Image, camera_pose: Floats, fov_deg: float, scene: Scene) -> None:
        """Paint one picture.

        Args:
            out: uint8 (height, width, 4) BGRA, C-contiguous, overwritten whole (alpha 255); owned by the caller.
            camera_pose: float64 (6,): x, y, z in metres, pitch, yaw, roll in degrees, world, CARLA's frame.
            fov_deg: Horizontal field of view.
            scene: Actors, lights and weather. An actor whose box holds the camera (up to 0.6 m above its roof) is left
                out: it is the car that carries the camera.
        """
        height, width = out.shape[:2]
        camera = Camera(camera_pose, fov_deg, width, height)
        light = light_of(scene.weather)
        plane = self._plane(camera)
        left, right = camera.horizon_rows(plane)
        low, high = (min(height, max(0, int(row) + 1)) for row in sorted((left, right)))
        self._paint_sky(out, camera, light, high)
        if camera.position[2] > plane.height + 0.02:
            sky = out.view(np.uint32)[low:high, :, 0].copy()
            self._paint_ground(out, camera, light, plane, low)
            if len(sky):
                self._restore_lean(out, sky, low, left, right)
        self._paint_things(out, camera, light, plane, scene)
        if scene.weather.precipitation > 5.0:
            self._paint_rain(out, scene.weather)

    def _plane(self, camera: Camera) -> Plane:
        """The ground around the camera as a plane, fitted to the map's heights in front of it."""
        if self._map.ground.is_flat:
            return Plane(self._flat_z)
        forward = camera.axes[0, :2] / max(float(np.hypot(*camera.axes[0, :2])), 1e-6)
        basis = np.array([forward, [-forward[1], forward[0]]])
        points = camera.position[:2] + self._probes @ basis
        near_z = np.full(len(points), camera.position[2] - 1.5)
        height, ahead, aside = self._fit @ self._map.heights_m(points, near_z)
        slope = np.array([ahead, aside]) @ basis
        return Plane(float(height), float(slope[0]), float(slope[1]))

    def _paint_sky(self, out: Image, camera: Camera, light: Light, rows: int) -> None:
        if rows <= 0:
            return
        across = (np.arange(rows) - camera.height / 2.0 + 0.5) / camera.focal
        rise = camera.axes[0, 2] - across * camera.axes[2, 2]
        elevation = np.degrees(np.arcsin(np.clip(rise / np.sqrt(1.0 + across * across), -1.0, 1.0)))
        steps = ((elevation + 90.0) / 180.0 * (len(light.sky) - 1)).astype(np.intp)
        out.view(np.uint32)[:rows, :, 0] = light.sky[steps][:, None]
        sun = camera.axes @ np.array(light.sun)
        if light.sun_visible and sun[0] > 0.2:
            column, row = camera.to_pixels(sun * 1000.0).tolist()
            size = camera.focal * 0.03
            cv2.circle(out[:rows], (column, row), int(size * 16), (214, 244, 255, 255), -1, cv2.LINE_AA, SHIFT)

    def _paint_ground(self, out: Image, camera: Camera, light: Light, plane: Plane, first: int) -> None:
        """Rows from `first` down: warp the raster, then darken and fog."""
        if first >= camera.height:
            return
        rows = np.arange(first, camera.height, dtype=np.float64)
        depth = camera.depths(plane, rows)
        # footprint of a pixel: along the view from row to row, across it depth / focal; their mean picks the level
        along = np.abs(np.gradient(depth)) if len(rows) > 1 else depth
        print_m = np.sqrt(along * np.abs(depth) / camera.focal)
        coarse = np.log2(np.maximum(print_m / self._raster.pixel_m, 1e-3)) + 0.15
        levels = np.clip(coarse, 0, len(self._raster.levels) - 1).astype(np.intp)
        matrix = camera.ground_homography(plane, self._raster.origin_m, self._raster.pixel_m)
        border = (*GRASS[:3], 255)
        for start, end in _runs(levels):
            level = int(levels[start])
            scale = 0.5**level
            shrink = np.array([[scale, 0.0, 0.5 * scale - 0.5], [0.0, scale, 0.5 * scale - 0.5], [0.0, 0.0, 1.0]])
            shift = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, first + start], [0.0, 0.0, 1.0]])
            cv2.warpPerspective(
                self._raster.levels[level],
                shrink @ matrix @ shift,
                (camera.width, end - start),
                dst=out[first + start : first + end],
                flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                borderMode=cv2.BORDER_CONSTANT,
                borderValue=border,
            )
        self._tone(out[first:], light, depth)

    def _tone(self, ground: Image, light: Light, depth: Floats) -> None:
        """Ground colours times `light.ground`, then blended to the horizon's colour by distance."""
        fog = light.fog_at(depth)
        keep = light.ground * (1.0 - fog)
        if self._tint.shape != ground.shape[:2]:
            self._tint = np.empty(ground.shape[:2], np.uint32)
        runs = _runs(np.round(keep * 40.0).astype(np.intp))
        middles = [(start + end) // 2 for start, end in runs]
        shares = keep[middles]
        haze = fog[middles] / np.maximum(1.0 - shares, 1e-3)
        colours = pack_bgra(haze[:, None] * np.array(light.horizon))
        for (start, end), share, colour in zip(runs, shares.tolist(), colours, strict=True):
            if share < 0.97:
                part, tint = ground[start:end], self._tint[: end - start]
                tint[:] = colour
                cv2.addWeighted(part, share, tint.view(np.uint8).reshape(part.shape), 1.0 - share, 0.0, dst=part)

    def _restore_lean(self, out: Image, sky: NDArray[np.uint32], first: int, left: float, right: float) -> None:
        """A rolled camera's horizon is a slanted line: put the sky back above it, where rows of ground were painted."""
        height, width = sky.shape
        horizon = left + (right - left) * (np.arange(width) + 0.5) / width
        above = np.arange(first, first + height)[:, None] < horizon
        np.copyto(out.view(np.uint32)[first : first + height, :, 0], sky, where=above)

    def _staged(self, boxes: NDArray[np.void]) -> Solids:
        """The standing solids and behind them the actors; valid until the next call."""
        total = len(self._statics) + len(boxes)
        if total > len(self._stage.kind):
            self._stage = Solids.room_for(total * 2)
            self._stage.write(0, self._statics, self._feet_z(self._statics))
        self._stage.write(len(self._statics), boxes, self._feet_z(boxes))
        return self._stage.rows(slice(0, total))

    def _feet_z(self, boxes: NDArray[np.void]) -> Floats | float:
        """Height of the map's ground below each box."""
        if self._map.ground.is_flat:
            return self._flat_z
        return self._map.heights_m(boxes["centre"][:, :2], boxes["centre"][:, 2] - boxes["half"][:, 2])

    def _paint_things(self, out: Image, camera: Camera, light: Light, plane: Plane, scene: Scene) -> None:
        """Everything that stands on the ground, far to near."""
        solids, trees = self._staged(scene.boxes), self._trees
        painter = Painter(out, camera, light)
        kept, seen = _in_view(camera, plane, solids.centre, solids.ground_z, solids.radius, solids.far)
        painter.prepare(solids.rows(kept), seen, scene.light_states)
        kept, feet = _in_view(camera, plane, trees["foot"], self._trees_z, _CROWN_M, _TREES_FAR_M)
        kept, feet = kept[feet[:, 0] > 1.0], feet[feet[:, 0] > 1.0]
        painter.plant(feet, trees["height"][kept], trees["radius"][kept], trees["bgr"][kept].tolist())
        places = np.concatenate([seen, feet])
        for index in np.argsort(-np.einsum("ij,ij->i", places, places), kind="stable").tolist():
            if index < len(seen):
                painter.solid(index)
            else:
                painter.tree(index - len(seen))

    def _paint_rain(self, out: Image, weather: Weather) -> None:
        height, width = out.shape[:2]
        chance = np.random.default_rng(int(weather.precipitation))
        drops = chance.random((int(weather.precipitation * 0.6), 3))
        for x, y, size in (drops * (width, height, 0.05 * height) + (0, 0, 3)).tolist():
            start = (int(x), int(y))
            cv2.line(out, start, (int(x - 0.15 * size), int(y + size)), (196, 190, 184, 255), 1)


def _in_view(
    camera: Camera, plane: Plane, points: Floats, ground_z: Floats, radius: Floats | float, far: Floats | float
) -> tuple[NDArray[np.intp], Floats]:
    """Which points (n, 3), with spheres around them, may be seen; and these in camera coordinates (k, 3).

    Things stand on the painted plane: each is moved up or down by what that differs from the ground at its place.
    """
    offset = points - camera.position
    offset[:, 2] += plane.height + offset[:, 0] * plane.slope_x + offset[:, 1] * plane.slope_y - ground_z
    seen = offset @ camera.axes.T
    spread = camera.width / 2.0 / camera.focal
    depth, aside = seen[:, 0], np.abs(seen[:, 1]) - radius * math.sqrt(1.0 + spread * spread)
    kept = np.flatnonzero((depth > -radius) & (depth < far) & (aside < depth * spread))
    return kept, seen[kept]


def _runs(values: NDArray[np.intp]) -> list[tuple[int, int]]:
    """Half-open index ranges over which `values` stays the same."""
    cuts = (np.flatnonzero(np.diff(values)) + 1).tolist()
    return list(zip([0, *cuts], [*cuts, len(values)], strict=True))
