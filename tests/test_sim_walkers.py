"""Pedestrians: the navigation mesh, AI walkers that the unmodified client steers over it, and jumps."""

from __future__ import annotations

import math
import queue
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sim_process import DELTA_S, carla, connect, make_synchronous, running_sim

from zmqcarla.sim import navmesh
from zmqcarla.sim.roads import RoadMap
from zmqcarla.sim.town import generate_town
from zmqcarla.sim.walkable import CELL_M, Area, Walkable, find_walkable

POLYGON = np.dtype(
    [
        ("link", "<u4"),
        ("corners", "<u2", 6),
        ("neighbours", "<u2", 6),
        ("flags", "<u2"),
        ("count", "u1"),
        ("area", "u1"),
    ]
)


@pytest.fixture(scope="module")
def town() -> RoadMap:
    return RoadMap.load("ZmqTown", generate_town())


@pytest.fixture(scope="module")
def ground(town: RoadMap) -> Walkable:
    found = find_walkable(town)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with running_sim() as port:
        yield port


@pytest.fixture
def client(port: int, tmp_path: Path) -> Iterator[Any]:
    client, world = connect(port)
    client.set_files_base_folder(str(tmp_path))
    make_synchronous(world)
    client.reload_world(False)
    yield client
    world = client.reload_world(False)
    world.apply_settings(carla.WorldSettings(synchronous_mode=False, fixed_delta_seconds=0.0))


def area_at(ground: Walkable, x: float, y: float, within_m: float = 0.5) -> set[Area]:
    """The areas within a distance of a point."""
    points = [(x + dx, y + dy) for dx in (-within_m, 0, within_m) for dy in (-within_m, 0, within_m)]
    cells = [((px - ground.origin_m[0]) / CELL_M, (py - ground.origin_m[1]) / CELL_M) for px, py in points]
    return {Area(int(ground.areas[int(row), int(column)])) for column, row in cells}


# ----------------------------------------------------------------------------------------------------------- the mesh


def tiles_of(mesh: bytes) -> list[tuple[NDArray[np.float32], NDArray[np.void]]]:
    """(vertices, polygons) of each tile, with the sizes checked on the way."""
    magic, version, count = struct.unpack_from("<Iii", mesh)
    assert (mesh[:4], magic, version) == (b"TESM", 0x4D534554, 1)
    at, tiles = 40, []
    for _ in range(count):
        reference, size = struct.unpack_from("<Ii", mesh, at)
        assert reference > 0
        numbers = struct.unpack_from("<iiiiiI9i10f", mesh, at + 8)
        polygons, vertices, links, meshes, detail_vertices, triangles, nodes, off_mesh = numbers[6:14]
        assert size == 100 + 12 * vertices + 32 * polygons + 12 * links + 12 * meshes + 4 * triangles + 16 * nodes
        assert (meshes, detail_vertices, triangles, off_mesh) == (polygons, 0, triangles, 0)
        body = mesh[at + 108 : at + 8 + size]
        corners = np.frombuffer(body, "<f4", 3 * vertices).reshape(-1, 3)
        found = np.frombuffer(body, POLYGON, polygons, 12 * vertices)
        assert triangles == (found["count"].astype(int) - 2).sum()
        tiles.append((corners, found))
        at += 8 + size
    assert mesh[at:] == bytes(8)
    return tiles


def assert_sound(vertices: NDArray[np.float32], polygons: NDArray[np.void]) -> None:
    """Every polygon is convex and turns the way that Detour expects, and neighbours share the edge between them."""
    owners: dict[tuple[int, int], int] = {}
    beyond: dict[tuple[int, int], int] = {}
    for count in (4, 6):
        numbers = np.flatnonzero(polygons["count"] == count)
        corners = polygons["corners"][numbers, :count].astype(int)
        ring = vertices[corners][:, :, [0, 2]].astype(np.float64)
        edges = np.roll(ring, -1, axis=1) - ring
        following = np.roll(edges, -1, axis=1)
        turns = edges[..., 0] * following[..., 1] - edges[..., 1] * following[..., 0]
        assert turns.max(initial=-1.0) < (0.0 if count == 4 else 0.06)
        rows = zip(numbers.tolist(), corners.tolist(), polygons["neighbours"][numbers].tolist(), strict=True)
        for number, around, neighbours in rows:
            for edge in range(count):
                ends = (around[edge], around[(edge + 1) % count])
                owners[ends] = number + 1
                beyond[ends] = neighbours[edge]
    assert len(owners) == polygons["count"].sum()
    for (start, end), neighbour in beyond.items():
        if neighbour < 0x8000:
            assert neighbour == owners.get((end, start), 0)


def test_the_mesh_is_sound_and_its_pavements_are_joined_by_crossings(town: RoadMap) -> None:
    ((vertices, polygons),) = tiles_of(navmesh.encode_mesh(town))
    assert_sound(vertices, polygons)
    assert set(polygons["area"].tolist()) == {1, 2, 3}
    assert (polygons["flags"] == 1 << polygons["area"].astype(np.uint16)).all()
    walked = polygons["area"] < Area.ROAD
    todo = [int(np.flatnonzero(walked)[0])]
    seen = set(todo)
    while todo:
        for number in polygons["neighbours"][todo.pop()].astype(int).tolist():
            if 0 < number < 0x8000 and number - 1 not in seen and walked[number - 1]:
                seen.add(number - 1)
                todo.append(number - 1)
    assert len(seen) == walked.sum()


def test_a_mesh_too_large_for_one_tile_is_cut_at_straight_borders(
    town: RoadMap, monkeypatch: pytest.MonkeyPatch
) -> None:
    (whole,) = tiles_of(navmesh.encode_mesh(town))
    monkeypatch.setattr(navmesh, "_MOST_CELLS", 4000)
    tiles = tiles_of(navmesh.encode_mesh(town))
    assert len(tiles) > 1
    assert sum(cells_of(polygons) for _, polygons in tiles) == cells_of(whole[1])
    for vertices, polygons in tiles:
        assert cells_of(polygons) <= 4000
        assert_sound(vertices, polygons)
        for mine, edge in zip(*np.nonzero(polygons["neighbours"] >= 0x8000), strict=True):
            ends = vertices[polygons["corners"][mine, [edge, (edge + 1) % polygons["count"][mine]]]]
            assert (ends[0] == ends[1])[[0, 2]].any()


def cells_of(polygons: NDArray[np.void]) -> int:
    return int((polygons["count"].astype(int) // 2 - 1).sum())


@pytest.mark.parametrize("name", ["Town01", "Town10HD", "Town04"])
def test_real_towns_get_a_mesh(town_maps: Path, name: str) -> None:
    town = RoadMap.load(name, (town_maps / f"{name}.xodr").read_text())
    for vertices, polygons in tiles_of(navmesh.encode_mesh(town)):
        assert_sound(vertices, polygons)
        assert {Area.PAVEMENT, Area.CROSSING} < set(polygons["area"].tolist())


def test_a_map_without_pavements_or_too_large_has_no_mesh(town: RoadMap, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = RoadMap.load("Bare", town.opendrive.replace('type="sidewalk"', 'type="none"'))
    assert navmesh.encode_mesh(bare) == b""
    monkeypatch.setattr("zmqcarla.sim.walkable._MOST_M2", 10_000.0)
    assert navmesh.encode_mesh(town) == b""


# --------------------------------------------------------------------------------------------------------- AI walkers


def let_walk(client: Any, count: int, cross_factor: float = 0.0, seed: int = 7) -> list[tuple[Any, Any]]:
    """Walkers, each with the controller that leads it, on their way to random places."""
    world = client.get_world()
    world.set_pedestrians_seed(seed)
    world.set_pedestrians_cross_factor(cross_factor)
    library = world.get_blueprint_library()
    walkers: list[Any] = []
    while len(walkers) < count:
        place = world.get_random_location_from_navigation()
        assert place is not None
        place.z += 1.0
        walker = world.try_spawn_actor(
            library.find(f"walker.pedestrian.{len(walkers) + 1:04d}"), carla.Transform(place)
        )
        if walker is not None:
            walkers.append(walker)
    world.tick()
    leader = library.find("controller.ai.walker")
    pairs = [(walker, world.spawn_actor(leader, carla.Transform(), attach_to=walker)) for walker in walkers]
    world.tick()
    for _, controller in pairs:
        controller.start()
        controller.go_to_location(world.get_random_location_from_navigation())
        controller.set_max_speed(1.4)
    return pairs


def test_ai_walkers_walk_a_minute_on_pavements_and_crossings(client: Any, ground: Walkable) -> None:
    pairs = let_walk(client, 15)
    world = client.get_world()
    distance_m = dict.fromkeys((walker.id for walker, _ in pairs), 0.0)
    good = seen = 0
    for _ in range(60):
        before = {walker.id: walker.get_location() for walker, _ in pairs}
        for _ in range(round(1.0 / DELTA_S)):
            world.tick()
        for walker, _ in pairs:
            place = walker.get_location()
            distance_m[walker.id] += place.distance(before[walker.id])
            seen += 1
            good += bool(area_at(ground, place.x, place.y) & {Area.PAVEMENT, Area.CROSSING})
            assert place.z == pytest.approx(walker.bounding_box.extent.z, abs=0.05)
    for _, controller in pairs:
        controller.stop()
    assert good / seen > 0.99
    assert min(distance_m.values()) > 20.0
    assert sorted(distance_m.values())[7] > 60.0


def test_a_walker_gets_to_where_it_is_sent(client: Any) -> None:
    ((walker, controller),) = let_walk(client, 1)
    world = client.get_world()
    start = walker.get_location()
    goal = next(
        place
        for place in (world.get_random_location_from_navigation() for _ in range(2000))
        if 15.0 < place.distance(start) < 25.0 and (abs(place.x - start.x) < 1.0 or abs(place.y - start.y) < 1.0)
    )
    controller.go_to_location(goal)
    nearest_m = math.inf
    for _ in range(600):
        world.tick()
        place = walker.get_location()
        nearest_m = min(nearest_m, math.hypot(place.x - goal.x, place.y - goal.y))
    controller.stop()
    assert nearest_m < 1.5


def test_the_pedestrians_seed_repeats_the_walk(client: Any) -> None:
    walks: list[list[tuple[float, float, float]]] = []
    for seed in (7, 7, 8):
        pairs = let_walk(client, 4, 0.3, seed)
        world = client.get_world()
        for _ in range(100):
            world.tick()
        places = [walker.get_location() for walker, _ in pairs]
        walks.append([(place.x, place.y, place.z) for place in places])
        for _, controller in pairs:
            controller.stop()
        client.reload_world(False)
    assert walks[0] == walks[1]
    assert walks[0] != walks[2]


def test_a_car_runs_an_ai_walker_over(client: Any) -> None:
    ((walker, controller),) = let_walk(client, 1)
    world = client.get_world()
    for _ in range(40):
        world.tick()
    place, way = walker.get_location(), walker.get_velocity()
    yaw = math.atan2(way.y, way.x)
    start = carla.Location(place.x - 9.0 * math.cos(yaw), place.y - 9.0 * math.sin(yaw), 0.3)
    library = world.get_blueprint_library()
    pose = carla.Transform(start, carla.Rotation(yaw=math.degrees(yaw)))
    car = world.spawn_actor(library.find("vehicle.tesla.model3"), pose)
    sensor = world.spawn_actor(library.find("sensor.other.collision"), carla.Transform(), attach_to=car)
    hits: queue.Queue[Any] = queue.Queue()
    sensor.listen(hits.put)
    car.set_target_velocity(carla.Vector3D(12.0 * math.cos(yaw), 12.0 * math.sin(yaw), 0.0))
    for _ in range(40):
        world.tick()
    assert hits.get(timeout=10.0).other_actor.id == walker.id
    car.apply_control(carla.VehicleControl(brake=1.0))
    for _ in range(80):
        world.tick()
    assert walker.get_velocity().length() == 0.0
    sensor.stop()
    sensor.destroy()
    assert controller.id not in {actor.id for actor in world.get_actors()}  # the client takes it away


# ------------------------------------------------------------------------------------------------- one walker by hand


@pytest.fixture
def walker(client: Any) -> Any:
    world = client.get_world()
    point = world.get_map().get_spawn_points()[0]
    point.location.z += 1.0
    walker = world.spawn_actor(world.get_blueprint_library().find("walker.pedestrian.0001"), point)
    for _ in range(20):
        world.tick()
    return walker


def test_a_walker_jumps_and_lands_again(walker: Any) -> None:
    world = walker.get_world()
    stands_m = walker.get_location().z
    walker.apply_control(carla.WalkerControl(carla.Vector3D(1.0, 0.0, 0.0), 1.0, True))
    world.tick()
    walker.apply_control(carla.WalkerControl(carla.Vector3D(1.0, 0.0, 0.0), 1.0, False))
    heights_m: list[float] = []
    for _ in range(30):
        world.tick()
        heights_m.append(walker.get_location().z - stands_m)
    assert 0.5 < max(heights_m) < 1.2
    assert heights_m[-5:] == pytest.approx([0.0] * 5, abs=0.01)
