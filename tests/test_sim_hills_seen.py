"""Hills and bridges before cameras: what is seen lies where the map says, on a real town."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from zmqcarla.sim.blueprints import Label
from zmqcarla.sim.bridges import decks, over
from zmqcarla.sim.meshes import Kind
from zmqcarla.sim.render import Renderer
from zmqcarla.sim.roads import RoadMap
from zmqcarla.sim.scene import Scene
from zmqcarla.sim.scenery import BOX_DTYPE
from zmqcarla.sim.view import View

Floats = NDArray[np.float64]
WIDTH, HEIGHT, FOV = 320, 180, 90.0


@lru_cache(maxsize=1)
def loaded(path: Path) -> tuple[RoadMap, Renderer]:
    road_map = RoadMap.load(path.stem, path.read_text())
    return road_map, Renderer(road_map)


@pytest.fixture
def town(town_maps: Path) -> tuple[RoadMap, Renderer]:
    return loaded(town_maps / "Town04.xodr")


def look(town: tuple[RoadMap, Renderer], pose: Floats) -> View:
    road_map, renderer = town
    scene = Scene(np.zeros(0, BOX_DTYPE), np.zeros(len(road_map.signals), np.uint8))
    return renderer.look(pose, FOV, WIDTH, HEIGHT, scene)


def moved(pose: Floats, up: float = 0.0, pitch: float = 0.0) -> Floats:
    return np.add(pose, (0.0, 0.0, up, pitch, 0.0, 0.0))


def places(view: View) -> Floats:
    """World position of what each pixel shows: float64 (height, width, 3)."""
    camera = view.camera
    across = (np.arange(WIDTH) - WIDTH / 2 + 0.5) / camera.focal
    upward = (HEIGHT / 2 - 0.5 - np.arange(HEIGHT)) / camera.focal
    rays = np.stack(np.broadcast_arrays(1.0, across[None, :], upward[:, None]), axis=-1)
    points: Floats = (rays * view.depths_m[:, :, None]) @ camera.axes + camera.position
    return points


def test_roads_on_hills_are_seen_at_their_height(town: tuple[RoadMap, Renderer]) -> None:
    road_map, _ = town
    assert not road_map.ground.is_flat
    steep = road_map.spawn_points[np.argsort(-np.abs(road_map.spawn_points[:, 3]))[:200:40]]
    for start in steep:
        view = look(town, moved(start, up=1.2))
        road = (view.labels == Label.ROADS) & (view.depths_m < 40.0)
        assert road.mean() > 0.1
        seen = places(view)[road]
        off = np.abs(road_map.heights_m(seen[:, :2], seen[:, 2]) - seen[:, 2])
        assert np.median(off) < 0.1
        assert np.quantile(off, 0.9) < 0.5


def crossing(road_map: RoadMap) -> tuple[Floats, Floats]:
    """Poses on a bridge, and on the road below it, that look along their roads."""
    for strip in road_map.strips:
        found = over(road_map, strip) if strip.lane.kind == "driving" else None
        if found is None or len(found) < 60:
            continue
        index = int(np.flatnonzero(found).mean())
        middle = (strip.inner_m + strip.outer_m) / 2
        along = middle[index] - middle[index - 10]
        turn = np.degrees(np.arctan2(along[1], along[0]))
        low = float(road_map.heights_m(middle[index : index + 1, :2], np.array([-1e4]))[0])
        upper = moved(np.array([*middle[index], 0.0, turn, 0.0]), up=1.7)
        lower = np.array([middle[index, 0], middle[index, 1], low + 1.7, 0.0, turn + 90.0, 0.0])
        return upper, lower
    raise AssertionError("the town has no bridge")


def test_a_bridge_carries_and_covers(town: tuple[RoadMap, Renderer]) -> None:
    road_map, _ = town
    slabs = decks(road_map)
    assert {int(kind) for kind in slabs["kind"]} == {int(Kind.DECK), int(Kind.DECK_LINE)}
    upper, lower = crossing(road_map)
    on_top = look(town, moved(upper, pitch=-30.0))
    bottom = slice(HEIGHT - 40, HEIGHT)
    assert np.isin(on_top.labels[bottom], (Label.ROADS, Label.ROAD_LINES)).mean() > 0.9
    z = places(on_top)[bottom][..., 2]
    assert np.median(z) == pytest.approx(upper[2] - 1.7, abs=0.15)
    below = look(town, moved(lower, pitch=60.0))
    assert (below.labels == Label.ROADS).mean() > 0.4, "the deck is overhead"
    assert np.median(places(below)[below.labels == Label.ROADS][:, 2]) > lower[2] + 1.0


def test_what_stands_behind_a_hill_is_not_painted(town: tuple[RoadMap, Renderer]) -> None:
    road_map, renderer = town
    pose = moved(road_map.spawn_points[0], up=1.2)
    ground = renderer.ground(look(town, pose).camera)
    ahead = pose[:2] + 60.0 * look(town, pose).camera.axes[0, :2]
    z = float(road_map.heights_m(ahead[None], np.array([-1e4]))[0])
    spots = np.array([[*ahead, z + 1.0], [*ahead, z - 30.0]])
    assert ground.may_show(np.array([True, True]), spots, np.array([1.0, 1.0])).tolist() == [True, False]
    assert ground.may_show(np.array([False, True]), spots, np.array([1.0, 40.0])).tolist() == [False, True]
