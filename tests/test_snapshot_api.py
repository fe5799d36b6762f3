"""Names, limits, files and damaged bytes of snapshots; replay; and a server without calls of our own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import gymnasium
import msgpack
import numpy as np
import pytest
from snapshot_runs import Step, assert_exact, assert_same, connected, differences, driven, running_servers, some_actions

import zmqcarla  # registers the env
from zmqcarla.broker.errors import SimulatorError, SnapshotError
from zmqcarla.workers.carla_env import CarlaEnv
from zmqcarla.workers.servers import Server
from zmqcarla.workers.simulator_calls import SimulatorCalls
from zmqcarla.workers.snapshots.format import VERSION
from zmqcarla.workers.snapshots.store import SnapshotStore

FIRST_PORT = 20400
STRAIGHT_ON = np.array([0.0, 1.0, 0.0], np.float32)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_servers(FIRST_PORT, tmp_path_factory.mktemp("server"), {"town": None}) as servers:
        yield servers["town"]


@pytest.fixture
def env(server: Server) -> Iterator[CarlaEnv]:
    one = connected(server)
    yield one
    one.close()


@pytest.fixture
def saved(env: CarlaEnv) -> bytes:
    """Bytes of a snapshot that is called "one"."""
    env.reset(seed=1)
    driven(env, some_actions(5))
    return env.export_snapshot(env.save_snapshot("one"))


# ------------------------------------------------------------------------------------------------------------ the API


def test_snapshots_have_ids_are_listed_replaced_and_deleted(env: CarlaEnv) -> None:
    with pytest.raises(gymnasium.error.ResetNeeded, match="save_snapshot"):
        env.save_snapshot()
    env.reset(seed=1)
    first = env.save_snapshot()
    assert env.save_snapshot("mine") == "mine"
    driven(env, some_actions(3))
    assert env.save_snapshot("mine") == "mine"
    rows = {row["id"]: row for row in env.list_snapshots()}
    assert rows.keys() == {first, "mine"}
    assert (rows[first]["step"], rows["mine"]["step"], rows["mine"]["frame"]) == (0, 3, 3)
    assert rows["mine"]["size_bytes"] == len(env.export_snapshot("mine")) < 64 * 1024
    assert rows["mine"]["town"] == "ZmqTown"
    env.delete_snapshot(first)
    for gone in (env.restore_snapshot, env.delete_snapshot, env.export_snapshot):
        with pytest.raises(SnapshotError, match=rf"\(mine\), found '{first}'"):
            gone(first)
    for bad in ("", "a b", "../x", "x" * 65):
        with pytest.raises(SnapshotError, match="1 to 64 letters"):
            env.save_snapshot(bad)


def test_a_restore_is_a_reset_and_takes_no_other_orders(env: CarlaEnv, saved: bytes) -> None:
    wrapped = gymnasium.wrappers.TimeLimit(gymnasium.wrappers.OrderEnforcing(env), 3)
    seen, info = wrapped.reset(options={"snapshot": "one"})
    assert_exact(info["restore"])
    assert env.observation_space.contains(seen)
    assert [wrapped.step(STRAIGHT_ON)[3] for _ in range(3)] == [False, False, True]
    for options, seed, text in (
        ({"snapshot": "one"}, 3, "without a seed"),
        ({"snapshot": "one", "spawn_point": 2}, None, "without other options"),
        ({"snapshot": "one", "level": "nearly"}, None, "state, replay"),
        ({"snapshot": "two"}, None, "found 'two'"),
    ):
        with pytest.raises(SnapshotError, match=text):
            env.reset(seed=seed, options=options)
    env.step(STRAIGHT_ON)  # what was refused has not touched the episode


def test_the_observation_goes_where_it_was_told_to_go(env: CarlaEnv, saved: bytes) -> None:
    spaces: dict[str, Any] = dict(env.observation_space.items())  # type: ignore[attr-defined]
    views = {name: np.full(space.shape, 9.0, space.dtype) for name, space in spaces.items()}
    env.bind_out(views)
    seen, _ = env.restore_snapshot("one")
    assert all(seen[name] is views[name] for name in views)
    fresh, _ = env.restore_snapshot("one")
    assert differences(fresh, views) == []
    assert not any(fresh[name] is views[name] for name in views)


class Agent:
    """Counts; what it counts is a state."""

    def __init__(self) -> None:
        self.counted = {"frames": [1, 2], "memory": np.arange(3.0)}

    def get_state(self) -> dict[str, Any]:
        return self.counted

    def set_state(self, state: dict[str, Any]) -> None:
        self.counted = state


def test_the_state_of_an_agent_in_the_worker_travels_along(env: CarlaEnv) -> None:
    env.agent = Agent()
    env.reset(seed=1)
    saved = env.save_snapshot()
    wanted, env.agent.counted = env.agent.counted, {"frames": [], "memory": np.zeros(1)}
    env.restore_snapshot(saved)
    assert differences(env.agent.counted, wanted) == []
    env.agent.counted = {"unfit": object()}
    with pytest.raises(SnapshotError, match="plain values"):
        env.save_snapshot()


# ---------------------------------------------------------------------------------------------------------- the bytes


def packed(parts: list[Any]) -> bytes:
    return cast("bytes", msgpack.packb(parts))


def test_bytes_that_are_no_snapshot_are_refused_and_nothing_is_lost(env: CarlaEnv, saved: bytes) -> None:
    env.save_snapshot("other")
    parts = msgpack.unpackb(saved)
    other_version = packed([parts[0], VERSION + 1, *parts[2:]])
    other_kind = packed([*parts[:2], {**parts[2], "env": {**parts[2]["env"], "frame_skip": "4"}}, *parts[3:]])
    damaged = bytearray(saved)
    damaged[len(saved) // 2] ^= 1
    texts = {
        saved[: len(saved) // 2]: "end early",
        saved[:-1]: "end early",
        saved + b"\x00": "end early or are none",
        b"": "end early",
        b"\x93\x01\x02\x03": "something else",
        bytes(damaged): "checksum",
        other_version: f"version {VERSION}, found version {VERSION + 1}",
        other_kind: "frame_skip 1, found 4",
    }
    before = env.list_snapshots()
    for data, text in texts.items():
        with pytest.raises(SnapshotError, match=text):
            env.import_snapshot(data)
    assert env.list_snapshots() == before
    assert_exact(env.restore_snapshot("one")[1]["restore"])


def test_a_store_forgets_what_was_used_longest_ago_and_says_so(saved: bytes) -> None:
    parts = msgpack.unpackb(saved)

    def named(name: str) -> bytes:
        return packed([*parts[:2], {**parts[2], "id": name}, *parts[3:]])

    store = SnapshotStore(3 * len(saved) + 100)
    for name in ("a", "b", "c"):
        store.put(named(name))
    store.get("a")
    store.put(named("d"))
    assert [row["id"] for row in store.list()] == ["c", "a", "d"]
    with pytest.raises(SnapshotError, match="make room"):
        store.get("b")
    with pytest.raises(SnapshotError, match="found 'e'"):
        store.get("e")
    with pytest.raises(SnapshotError, match="snapshot_memory_mb"):
        SnapshotStore(len(saved) - 1).put(saved)


def test_a_folder_keeps_what_memory_has_no_room_for(saved: bytes, tmp_path: Path) -> None:
    store = SnapshotStore(len(saved) + 10, lambda: tmp_path / "kept")
    store.put(saved)
    parts = msgpack.unpackb(saved)
    store.put(packed([*parts[:2], {**parts[2], "id": "two"}, *parts[3:]]))
    assert [(row["id"], row["in_memory"]) for row in store.list()] == [("one", False), ("two", True)]
    assert store.get("one") == saved
    again = SnapshotStore(len(saved) + 10, lambda: tmp_path / "kept")
    assert again.get("one") == saved
    again.delete("one")
    again.delete("two")
    assert not [*(tmp_path / "kept").iterdir(), *again.list()]
    with pytest.raises(SnapshotError, match=r"found '\.\./one'"):
        again.get("../one")


def test_an_env_finds_the_snapshots_of_its_folder_again(server: Server, tmp_path: Path) -> None:
    folder = str(tmp_path / "{port}")
    first = connected(server, snapshot_folder=folder)
    first.reset(seed=1)
    first.save_snapshot("kept")
    wanted = driven(first, some_actions(5))
    first.close()
    assert (tmp_path / str(server.spec.port) / "kept.snapshot").is_file()
    second = connected(server, snapshot_folder=folder)
    assert_exact(second.restore_snapshot("kept")[1]["restore"])
    assert_same(driven(second, some_actions(5)), wanted)
    second.close()


# --------------------------------------------------------------------------------------------------------- the levels


def without_actor_ids(steps: list[Step]) -> list[Step]:
    """Frames and ids are of a world, and a replay makes another one."""
    plain: list[Step] = []
    for seen, reward, terminated, truncated, info in steps:
        charged = [
            {name: value for name, value in each.items() if name not in ("frame", "message")}
            for each in info["infractions"]
        ]
        summary = {name: value for name, value in info.items() if name not in ("episode_summary", "infractions")}
        plain.append((seen, reward, terminated, truncated, {**summary, "infractions": charged}))
    return plain


def test_a_replay_is_exact_among_the_traffic_managers_vehicles(server: Server) -> None:
    env = connected(server, traffic_vehicles=8, traffic_walkers=4, terminate_on_collision=False)
    env.reset(seed=3)
    driven(env, some_actions(25))
    saved = env.save_snapshot()
    wanted = driven(env, some_actions(25, seed=2))
    env.reset(seed=8)
    _, info = env.restore_snapshot(saved, level="replay")
    report = info["restore"]
    assert (report["level"], report["missing"], report["extra"]) == ("replay", 0, 0)
    assert report["actors"] == 13
    assert report["ticks_used"] >= 25
    assert not any(value for name, value in report.items() if "_error_" in name), report
    assert report["lights_restored"]
    assert report["weather_restored"]
    assert report["rng_restored"]
    assert_same(without_actor_ids(driven(env, some_actions(25, seed=2))), without_actor_ids(wanted))
    # A state restore of the same puts everybody in place; who drives on is the Traffic Manager's affair.
    assert_exact(env.restore_snapshot(saved)[1]["restore"])
    assert len(driven(env, some_actions(5))) == 5
    assert env.episode is not None
    assert (env.episode.traffic.counts.vehicles, env.episode.traffic.counts.walkers) == (8, 4)
    env.close()


def test_a_server_without_our_calls_costs_a_tick_and_the_report_says_what_is_wrong(server: Server) -> None:
    env = connected(server, simulator="carla")
    env.reset(seed=1)
    driven(env, some_actions(30))
    observation = env.step(STRAIGHT_ON)[0]
    saved = env.save_snapshot()
    wanted = driven(env, some_actions(30, seed=2))
    seen, info = env.restore_snapshot(saved)
    report = info["restore"]
    assert differences(observation, seen) == []
    assert (report["ticks_used"], report["missing"], report["extra"]) == (1, 0, 0)
    assert 0.0 < report["position_error_max_m"] < 1.0
    assert 0.0 < report["position_error_mean_m"] <= report["position_error_max_m"]
    assert not report["lights_restored"]
    assert report["criteria_restored"]
    # The errors are those of the tick; the world itself goes on from where it was.
    assert_same(driven(env, some_actions(30, seed=2)), wanted)
    env.close()


def test_the_calls_of_the_simulator_say_what_they_cannot_do(server: Server) -> None:
    calls = SimulatorCalls("127.0.0.1", server.spec.port, 5.0)
    cycles = calls.light_cycles()
    assert cycles
    assert calls.light_cycles(cycles) is not None
    for bad in ([[0, 7, 0.0]] * len(cycles), cycles[:-1], [[0, 0, float("nan")]] * len(cycles)):
        with pytest.raises(SimulatorError, match="expected"):
            calls.light_cycles(bad)
    with pytest.raises(SimulatorError, match="0 s or more"):
        calls.publish_state(-1.0)
    assert calls.publish_state(2.0) + 1 == calls.publish_state(2.0)
    calls.close()
    nobody = SimulatorCalls("127.0.0.1", FIRST_PORT + 399, 1.0)
    with pytest.raises(SimulatorError, match="refused"):
        nobody.light_cycles()


def test_the_report_notices_a_state_that_nobody_can_set(tmp_path: Path) -> None:
    with running_servers(FIRST_PORT, tmp_path, {"town": None}, "--hidden-state") as servers:
        env = connected(servers["town"])
        env.reset(seed=1)
        driven(env, some_actions(20))
        saved = env.save_snapshot()
        first = env.restore_snapshot(saved)[1]["restore"]
        driven(env, [STRAIGHT_ON] * 10)
        report = env.restore_snapshot(saved)[1]["restore"]
        env.close()
    # At once the springs are as they were; ten steps later the body swings otherwise.
    assert first["position_error_max_m"] == 0.0
    assert report["position_error_max_m"] > 1e-3
    assert report["ticks_used"] == report["missing"] == report["extra"] == 0
    assert report["speed_error_max_mps"] == report["heading_error_max_deg"] == 0.0


def test_the_env_is_registered_with_the_methods() -> None:
    assert zmqcarla.__name__ == "zmqcarla"
    env = gymnasium.make("zmqcarla/Carla-v0", simulator="embedded")
    assert env.get_wrapper_attr("list_snapshots")() == []
    env.close()
