"""Whatever the world, and whenever it is saved and restored: what follows is the same to the bit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import carla
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from snapshot_runs import assert_exact, assert_same, connected, driven, running_servers, some_actions

from zmqcarla.workers.carla_env import CarlaEnv

FIRST_PORT = 20700
MODELS = ("vehicle.audi.tt", "vehicle.yamaha.yzf", "vehicle.carlamotors.european_hgv", "vehicle.bh.crossbike")

# At a desk: raise `max_examples`, drop `derandomize`, and add Phase.shrink, which takes minutes.
SETTINGS = settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CarlaEnv]:
    with running_servers(FIRST_PORT, tmp_path_factory.mktemp("server"), {"town": None}) as servers:
        one = connected(servers["town"], terminate_on_collision=False, off_route_m=1000.0)
        yield one
        one.close()


@st.composite
def worlds(draw: st.DrawFn) -> dict[str, Any]:
    """Who is there, and what they do."""
    return {
        "seed": draw(st.integers(0, 10_000)),
        "cars": draw(st.lists(st.tuples(st.integers(0, 30), st.sampled_from(MODELS)), max_size=12)),
        "walkers": draw(st.integers(0, 3)),
        "boxes": draw(st.integers(0, 2)),
        "driving": draw(st.integers(0, 10_000)),
        "lit": draw(st.booleans()),
    }


def clear(env: CarlaEnv) -> None:
    """Take everybody away that an example before this one has brought."""
    if env.session is not None:
        found = env.session.world.get_actors()
        env.session.destroy(
            [actor.id for actor in found if actor.type_id.startswith(("vehicle.", "walker.", "static."))]
        )


def populate(env: CarlaEnv, world: dict[str, Any]) -> None:
    """Bring everybody in, each with a control that it keeps."""
    assert env.session is not None
    assert env.episode is not None
    server = env.session.world
    library, places = server.get_blueprint_library(), env.session.map.get_spawn_points()
    rng = np.random.default_rng(world["driving"])
    cars = [server.try_spawn_actor(library.find(model), places[k % len(places)]) for k, model in world["cars"]]
    ego = env.episode.vehicle.get_transform()
    for k in range(world["walkers"]):
        place = carla.Transform(ego.location + carla.Location(4.0 + 3.0 * k, 6.0, 1.0), ego.rotation)
        walker = server.try_spawn_actor(library.find("walker.pedestrian.0002"), place)
        if walker is not None:
            x, y = rng.uniform(-1.0, 1.0, 2)
            walker.apply_control(carla.WalkerControl(carla.Vector3D(x, y, 0.0), float(rng.uniform(0.0, 2.0))))
    for k in range(world["boxes"]):
        place = carla.Transform(ego.location + carla.Location(9.0, -6.0 + 12.0 * k, 0.2))
        server.try_spawn_actor(library.find("static.prop.trashcan01"), place)
    for car in filter(None, cars):
        throttle, steer = rng.uniform(0.2, 1.0), rng.uniform(-0.3, 0.3)
        car.apply_control(carla.VehicleControl(throttle, steer, reverse=bool(rng.integers(2))))
        if world["lit"]:
            car.set_light_state(carla.VehicleLightState(int(rng.integers(1, 64))))


def moving(env: CarlaEnv) -> list[tuple[float, ...]]:
    """Where everybody is, in order of birth, without their ids."""
    assert env.session is not None
    snapshot = env.session.world.get_snapshot()
    found: list[tuple[float, ...]] = []
    for actor in sorted(env.session.world.get_actors(), key=lambda actor: actor.id):
        if actor.type_id.startswith(("vehicle.", "walker.", "static.")):
            seen = snapshot.find(actor.id)
            pose, velocity = seen.get_transform(), seen.get_velocity()
            place, turn = pose.location, pose.rotation
            found.append((place.x, place.y, place.z, turn.pitch, turn.yaw, turn.roll, velocity.x, velocity.y))
    return found


@SETTINGS
@given(
    world=worlds(),
    before=st.integers(1, 60),  # who was born since the last tick is not in a snapshot
    between=st.integers(0, 40),
    after=st.integers(1, 40),
    elsewhere=st.booleans(),
)
def test_save_and_restore_is_the_identity(
    env: CarlaEnv, world: dict[str, Any], before: int, between: int, after: int, elsewhere: bool
) -> None:
    clear(env)
    env.reset(seed=world["seed"])
    populate(env, world)
    driven(env, some_actions(before, world["driving"]))
    saved = env.save_snapshot("moment")
    actions = some_actions(after, world["driving"] + 1)
    wanted, there = driven(env, actions), moving(env)
    driven(env, some_actions(between, world["driving"] + 2))
    if elsewhere:
        env.reset()
    assert_exact(env.restore_snapshot(saved)[1]["restore"])
    assert_same(driven(env, actions), wanted)
    assert moving(env) == there
