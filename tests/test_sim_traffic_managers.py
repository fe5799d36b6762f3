"""When a Traffic Manager counts as having missed its cue, and what is sent to it then."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import msgpack

from zmqcarla.sim.traffic_managers import GRACE_S, GRACE_WAITS, NEW_GRACE_S, CueWatch, cue_again


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
