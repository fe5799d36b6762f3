"""When a Traffic Manager counts as having missed its cue, and what is sent to it then."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import msgpack
import pytest

from zmqcarla.sim import wire
from zmqcarla.sim.actors import Actor
from zmqcarla.sim.calls.commands import apply_batch
from zmqcarla.sim.calls.vehicles import light_states
from zmqcarla.sim.maps import MapShelf
from zmqcarla.sim.roads import RoadMap
from zmqcarla.sim.rpc import Session
from zmqcarla.sim.simulation import Simulation
from zmqcarla.sim.streams import StreamBoard
from zmqcarla.sim.town import generate_town
from zmqcarla.sim.traffic_managers import GRACE_S, GRACE_WAITS, NEW_GRACE_S, CueWatch, cue_again
from zmqcarla.sim.world import World


@pytest.fixture
def session() -> Session:
    world = World(RoadMap.load("Town", generate_town()))
    return Session(Simulation(world, StreamBoard(0), MapShelf([]), wire.LATEST))


def ticked(*asked: bool, wait_s: float = 0.0) -> CueWatch:
    """A watch after one tick for each argument, which says whether the manager took part, that long after the tick."""
    watch = CueWatch()
    for frame, took_part in enumerate(asked, start=10):
        watch.tick(frame, now_s=float(frame))
        if took_part:
            watch.ask(frame, now_s=frame + wait_s)
    return watch


def test_a_manager_that_misses_one_tick_is_stuck_after_the_grace_time() -> None:
    watch = ticked(True, True, False)
    assert not watch.stuck(watch.ticked_s + GRACE_S / 2)
    assert watch.stuck(watch.ticked_s + GRACE_S)


def test_a_slow_manager_is_given_many_times_as_long() -> None:
    watch = ticked(True, True, False, wait_s=0.5)
    assert not watch.stuck(watch.ticked_s + 0.9 * GRACE_WAITS * 0.5)
    assert watch.stuck(watch.ticked_s + GRACE_WAITS * 0.5)
    watch.cured = watch.ticked
    watch.ask(watch.ticked, watch.ticked_s + 60.0)
    assert watch.wait_s == 0.5, "the time until the cure is not the manager's"
    for frame in range(20, 2000):
        watch.tick(frame, float(frame))
        watch.ask(frame, frame + 0.001)
    assert watch.grace_s == GRACE_S, "a busy hour is forgotten"


def test_it_is_cured_once_a_tick() -> None:
    watch = ticked(True, False)
    watch.cured = watch.ticked
    assert not watch.stuck(watch.ticked_s + 10)


def test_who_takes_part_or_never_did_is_left_alone() -> None:
    assert not ticked(True, True).stuck(1e9)
    assert not ticked(False, False, False).stuck(1e9)
    assert not ticked(True, False, False).stuck(1e9)
    assert not ticked().stuck(1e9)
    assert not ticked(False).stuck(1e9)


def test_a_new_manager_may_miss_the_first_tick() -> None:
    for watch in (ticked(), ticked(False)):
        watch.join()
        assert not watch.stuck(1e9)
        watch.tick(20, now_s=20.0)
        assert not watch.stuck(20.0 + NEW_GRACE_S / 2)
        assert watch.stuck(20.0 + NEW_GRACE_S)
        watch.ask(20, now_s=20.1)
        assert not watch.stuck(1e9)


def test_a_managers_batch_is_the_first_after_its_question() -> None:
    watch = ticked(True)
    assert watch.drive()
    assert not watch.drive(), "a script's, which follows"
    watch.tick(20, now_s=20.0)
    assert not watch.drive()
    watch.ask(20, now_s=20.1)
    assert not watch.drive(), "a manager asks first"


def test_the_server_knows_a_scripts_batch_from_what_the_client_sends_by_itself(session: Session) -> None:
    """After a script's batch a tick's sensors are late (server.py): no other batch may cost that time."""
    world = session.simulation.world
    points: list[Any] = [tuple(point) for point in world.road_map.spawn_points[:3].tolist()]
    led, free = (world.spawn("walker.pedestrian.0001", [], point) for point in points[:2])
    world.spawn("controller.ai.walker", [], (0.0,) * 6, led)
    car = world.spawn("vehicle.audi.tt", [], points[2])

    def walks(*walkers: Actor) -> list[Any]:
        return [[[7, [each.id, [[*points[0][:3]], [0.0, 0.0, 0.0]], 1.0]]] for each in walkers]

    drives = [[[2, [car.id, [0.5, 0.0, 0.0, False, False, False, 0]]]]]

    def scripted(commands: list[Any]) -> bool:
        apply_batch(session, commands, False)
        return session.scripted_batch

    assert scripted(drives)
    assert scripted(walks(free))
    assert scripted(walks(led, free))
    assert not scripted(walks(led))
    assert scripted([])

    light_states(session)
    assert scripted(drives), "who asks for lights is no manager"
    session.traffic_manager_ports.add(8000)
    session.cues.tick(1, 0.0)
    session.cues.ask(1, 0.1)
    assert not scripted(drives)
    assert scripted(drives)


def test_the_cue_is_one_write_of_two_requests() -> None:
    received: list[Any] = []

    async def scenario() -> None:
        def on_client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            async def read() -> None:
                unpacker = cast("Any", msgpack.Unpacker(raw=False))
                unpacker.feed(await reader.read(1000))
                received.extend(unpacker)
                writer.close()

            tasks.append(asyncio.ensure_future(read()))

        tasks: list[asyncio.Future[None]] = []
        server = await asyncio.start_server(on_client, "127.0.0.1", 0)
        await cue_again("127.0.0.1", server.sockets[0].getsockname()[1])
        await asyncio.gather(*tasks)
        server.close()
        await server.wait_closed()

    asyncio.run(scenario())
    assert received == [[0, 1, "set_synchronous_mode", [False]], [0, 2, "set_synchronous_mode", [True]]]


def test_a_manager_that_is_gone_is_no_error() -> None:
    asyncio.run(cue_again("127.0.0.1", 1))
