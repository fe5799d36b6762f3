"""Headlights by night: the road before each vehicle that has them on is lit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from zmqcarla.sim.camera import SHIFT, Camera, clip_near, rotations
from zmqcarla.sim.moving import Lamp

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Image = NDArray[np.uint8]

_FAR_M = 70.0
# reach and half width in metres at the far end, and brightness: dim and wide first
_POOLS = ((30.0, 5.5, 60), (19.0, 3.8, 120), (11.0, 2.6, 190), (6.0, 1.8, 255))


def paint_beams(out: Image, boxes: NDArray[np.void], camera: Camera) -> None:
    """Brighten the ground of a picture that has nothing else in it yet, before vehicles (BOX_DTYPE) with lights on."""
    away = np.linalg.norm(boxes["centre"] - camera.position, axis=1)
    boxes = boxes[(boxes["lamps"] & int(Lamp.HEAD) > 0) & (away < _FAR_M)]
    if not len(boxes):
        return
    axes = rotations(boxes["rotation"])
    glow = np.zeros((camera.height // 2 + 1, camera.width // 2 + 1), np.uint8)
    for reach, wide, bright in _POOLS:
        local = np.array([(0.4, -0.7), (0.4, 0.7), (reach, wide), (reach, -wide)])
        for box, turn in zip(boxes, axes, strict=True):
            half = box["half"]
            ahead = np.column_stack([local[:, 0] + half[0], local[:, 1], np.full(4, -half[2])])
            seen = clip_near(camera.to_camera(ahead @ turn.T + box["centre"]).tolist())
            if seen:
                # one bit more of fraction: the glow has half the picture's resolution
                cv2.fillConvexPoly(glow, camera.to_pixels(np.array(seen)), bright, cv2.LINE_8, SHIFT + 1)
    rows = np.flatnonzero(glow.any(axis=1))
    if not len(rows):
        return
    soft = cv2.resize(cv2.blur(glow, (9, 9)), (camera.width, camera.height), interpolation=cv2.INTER_LINEAR)
    part = slice(max(0, 2 * int(rows[0]) - 10), camera.height)
    # up to four times as bright, in steps of 1/64
    gain = 64 + ((np.asarray(soft[part], np.uint16) * 3) >> 2)
    lifted = (out[part].astype(np.uint16) * gain[:, :, None]) >> 6
    np.copyto(out[part], np.minimum(lifted, 255), casting="unsafe")
