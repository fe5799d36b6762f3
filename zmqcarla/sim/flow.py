"""Optical flow: where what a pixel shows was in the picture before.

Idea: what is seen at a pixel lies in the plane of its face, and the face moved rigidly with its owner. So where it was
before the camera of then is a homography of the pixel, one for each face: with r = (1, across, upward) the ray of the
pixel and 1 / depth = (a, b, c) . r, a point r * depth was at R (r * depth) + t, which is seen where (R + t (a, b, c)) r
is. The sky is infinitely far away: t does not count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from zmqcarla.sim.camera import Camera, rotations

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from zmqcarla.sim.view import View

    Floats = NDArray[np.float64]

_MOST = 2.0


@dataclass(frozen=True, slots=True)
class Moment:
    """What has to be known of a picture to tell how the next one differs.

    Attributes:
        camera: that took it.
        actor: intp (n,), ids of the actors, rising.
        centre: float64 (n, 3), where they were.
        rotation: float64 (n, 3), pitch, yaw, roll in degrees.
    """

    camera: Camera
    actor: NDArray[np.intp]
    centre: Floats
    rotation: Floats

    @classmethod
    def of(cls, view: View) -> Moment:
        """The moment of a view."""
        boxes = view.boxes
        # the first box of an actor is its body
        actor, first = np.unique(boxes["actor"].astype(np.intp), return_index=True)
        return cls(view.camera, actor, boxes["centre"][first], boxes["rotation"][first])


def flow(view: View, before: Moment | None, out: NDArray[np.float32]) -> None:
    """Write the flow of each pixel.

    Args:
        view: what is seen now.
        before: the picture that it came from; None if there is none.
        out: float32 (height, width, 2), overwritten: right and up, each -2..2; the picture is 2 wide and 2 high.
    """
    if before is None:
        out[:] = 0.0
        return
    camera = view.camera
    numbers = view.numbers
    matrices = _homographies(view, before).astype(np.float32).reshape(-1, 9).T.copy()
    across = ((np.arange(camera.width) - camera.width / 2.0 + 0.5) / camera.focal).astype(np.float32)
    upward = ((camera.height / 2.0 - 0.5 - np.arange(camera.height)) / camera.focal).astype(np.float32)[:, None]

    def row(first: int) -> NDArray[np.float32]:
        seen: NDArray[np.float32] = matrices[first + 1].take(numbers) * across
        seen += matrices[first + 2].take(numbers) * upward
        seen += matrices[first].take(numbers)
        return seen

    depth = np.maximum(row(0), np.float32(1e-3))
    for channel, (now, size) in enumerate(((across, camera.width), (upward, camera.height))):
        moved = now - row(3 * channel + 3) / depth
        moved *= np.float32(2.0 * camera.focal / size)
        np.clip(moved, -_MOST, _MOST, out=out[:, :, channel])


def _homographies(view: View, before: Moment) -> Floats:
    """From rays of now to rays of then by number of what is seen: float64 (n, 3, 3)."""
    now, then = view.camera, before.camera
    # of what stands still: p_then = turn p_now + shift, in camera axes
    turn = then.axes @ now.axes.T
    shift = then.axes @ (now.position - then.position)
    owners = view.owners
    turns, shifts = np.repeat(turn[None], len(owners), axis=0), np.repeat(shift[None], len(owners), axis=0)
    after = Moment.of(view)
    common, mine, old = np.intersect1d(after.actor, before.actor, assume_unique=True, return_indices=True)
    for actor, new_row, old_row in zip(common.tolist(), mine.tolist(), old.tolist(), strict=True):
        faces = np.flatnonzero(owners == actor)
        if not len(faces):
            continue
        # back to the body's frame with the pose of now, out of it with that of then
        new_turn, old_turn = rotations(np.stack([after.rotation[new_row], before.rotation[old_row]]))
        body = old_turn @ new_turn.T
        turns[faces] = then.axes @ body @ now.axes.T
        shifts[faces] = then.axes @ (
            body @ (now.position - after.centre[new_row]) + before.centre[old_row] - then.position
        )
    shifts[0] = 0.0
    planes = view.planes
    homographies: Floats = turns + shifts[:, :, None] * planes[:, None, :]
    return homographies
