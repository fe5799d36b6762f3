"""Camera views of the embedded simulator: sky, ground, then everything that stands on it, far to near.

What a pixel means: road surface by clear daylight lies between ROAD_BGR_LOW and ROAD_BGR_HIGH of `raster` and is
neutral within ROAD_MAX_CHROMA.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from zmqcarla.sim.camera import Camera, Plane
from zmqcarla.sim.drawings import stroke_faces
from zmqcarla.sim.faces import Faces
from zmqcarla.sim.hills import Hills
from zmqcarla.sim.meshes import Kind
from zmqcarla.sim.moving import moving_faces
from zmqcarla.sim.raster import GroundRaster
from zmqcarla.sim.scene import Scene
from zmqcarla.sim.scenery import BOX_DTYPE
from zmqcarla.sim.sky import Weather, light_of
from zmqcarla.sim.standing import Standing, standing_faces, tree_faces
from zmqcarla.sim.terrain import Flat, GroundSeen
from zmqcarla.sim.view import View

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from zmqcarla.sim.roads import RoadMap

    Floats = NDArray[np.float64]

__all__ = ["BOX_DTYPE", "Kind", "Renderer", "Scene", "Weather"]


class Renderer:
    """Works out camera views of one map. Not thread-safe; equal calls give equal bytes.

    Attributes:
        standing: What stands beside the map's roads.
    """

    def __init__(self, road_map: RoadMap) -> None:
        # a picture is too small to share among threads, and many simulators share a machine
        cv2.setNumThreads(1)
        self._map = road_map
        self._raster = GroundRaster(road_map)
        self._flat_z = float(road_map.heights_m(road_map.spawn_points[:1, :2])[0])
        self.standing = Standing(road_map)

    def look(self, camera_pose: Floats, fov_deg: float, width: int, height: int, scene: Scene) -> View:
        """What a camera sees.

        Args:
            camera_pose: float64 (6,): x, y, z in metres, pitch, yaw, roll in degrees, world, CARLA's frame.
            fov_deg: Horizontal field of view.
            width: Of the picture, pixels.
            height: Of the picture, pixels.
            scene: Actors, lights and weather. An actor whose box holds the camera (up to 0.6 m above its roof) is left
                out: it is the car that carries the camera.
        """
        camera = Camera(camera_pose, fov_deg, width, height)
        light = light_of(scene.weather)
        near = self.standing.around(float(camera.position[0]), float(camera.position[1]))
        ground = self.ground(camera)
        standing, panes = standing_faces(near, camera, light, scene.light_states, ground)
        others = (
            moving_faces(scene.boxes, camera, light, ground),
            tree_faces(near, camera, light, ground),
            stroke_faces(scene.strokes, camera) if len(scene.strokes) else None,
        )
        faces = Faces.joined([standing, *(part for part in others if part is not None)])
        return View(camera, light, scene, ground, faces, panes)

    def ground(self, camera: Camera) -> GroundSeen:
        """The ground before a camera."""
        if self._map.ground.is_flat:
            return Flat(self._raster, camera, Plane(self._flat_z))
        return Hills(self._map, self._raster, camera)
