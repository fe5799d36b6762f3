"""What an env process answers to each command; a real supervisor and env process, a ROUTER driven by hand."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import wait_until
from gymnasium import spaces
from worker_broker import Router, running_pool
from worker_envs import BAD_INFO, FAIL

from zmqcarla.broker import protocol as p
from zmqcarla.shm.arena import Arena
from zmqcarla.shm.ring import SlotRing
from zmqcarla.shm.spaces import build

COUNTING = "worker_envs:Counting-v0"


class Lease:
    """Row 1 of a lease of three, with its numbering."""

    row = 1

    def __init__(self, router: Router) -> None:
        self.lease_id = secrets.token_bytes(16)
        self.router = router
        self.seqs = itertools.count(1)

    def do(self, op: str, payload: Any) -> tuple[str, Any]:
        return self.router.command(op, payload, next(self.seqs), self.row, self.lease_id)

    def ok(self, op: str, payload: Any) -> Any:
        outcome, value = self.do(op, payload)
        assert outcome == "ok", value["traceback"]
        return value

    def error(self, op: str, payload: Any) -> dict[str, Any]:
        outcome, value = self.do(op, payload)
        assert outcome == "error"
        assert sorted(value) == ["text", "traceback", "type"]
        return dict(value)

    def open(self, env_id: str = COUNTING, **kwargs: Any) -> Any:
        return self.ok("open", {"env_id": env_id, "kwargs": kwargs, "autoreset": "NextStep"})

    def reset(self, slot: int = 0, **fields: Any) -> Any:
        empty = {"slot": slot, "seed": None, "options": None}
        return self.ok("rebuild" if "open" in fields else "reset", {**empty, **fields})


@pytest.fixture(scope="module")
def router(tmp_path_factory: pytest.TempPathFactory) -> Generator[Router]:
    directory = tmp_path_factory.mktemp("pool")
    router = Router(directory)
    with running_pool(directory, router):
        ready = router.ready()
        assert (ready.worker_id, ready.lease_id, ready.row) == ("w0", b"", -1)
        yield router


@pytest.fixture
def lease(router: Router) -> Lease:
    return Lease(router)


def test_open_describes_the_env(lease: Lease) -> None:
    found = lease.open(size=5)
    space = build(found["observation_space"])
    assert isinstance(space, spaces.Dict)
    assert space["image"] == spaces.Box(0, 255, (3, 5, 5), np.uint8)
    assert build(found["action_space"]) == spaces.Discrete(8)
    assert found["metadata"] == {"render_modes": ["rgb_array"], "render_fps": 20}  # what cannot travel stays behind
    assert found["render_mode"] is None


def test_observations_go_into_the_arena_and_the_rest_inline(lease: Lease) -> None:
    space = build(lease.open()["observation_space"])
    arena = Arena.create(space, num_envs=3, slots=2)
    try:
        assert lease.ok("attach", {"arena": arena.name, "board": None, "num_envs": 3, "slots": 2}) == {"visible": True}
        reset = lease.reset(slot=0, seed=7, options={"a": 1})
        assert reset == {"info": {"seed": 7, "options": {"a": 1}}, "inline": {2: "n0"}}
        reward, terminated, truncated, info, inline, _ = lease.ok("step", (1, np.int64(0)))
        assert (reward, terminated, truncated, info, inline) == (1.0, False, False, {"count": 1}, {2: "n1"})
        assert type(reward) is float
        assert arena.row_seq.tolist() == [[0, 3, 0], [0, 4, 0]]
        ring = SlotRing(2)
        batch = arena.hand_out(1, ring)
        assert batch["count"][:, 0].tolist() == [0.0, 1.0, 0.0]
        assert batch["image"][1].tolist() == np.ones((3, 3, 3)).tolist()
        assert not batch["image"][[0, 2]].any()
    finally:
        arena.close()


def test_an_arena_that_is_not_visible_means_all_leaves_inline(lease: Lease) -> None:
    lease.open()
    name = "/zmqcarla-0-arena-0123456789abcdef"
    assert lease.ok("attach", {"arena": name, "board": None, "num_envs": 3, "slots": 2}) == {"visible": False}
    inline = lease.reset()["inline"]
    assert sorted(inline) == [0, 1, 2]
    assert inline[0].tolist() == [0.0]
    assert (inline[1].dtype, inline[1].shape) == (np.uint8, (3, 3, 3))
    *_, inline, _ = lease.ok("step", (0, 0))
    assert inline[2] == "n1"


def test_a_restarted_row_is_rebuilt_by_one_reset(lease: Lease) -> None:
    space = build(lease.open()["observation_space"])
    arena = Arena.create(space, num_envs=3, slots=2)
    try:
        attach = {"arena": arena.name, "board": None, "num_envs": 3, "slots": 2}
        lease.reset(slot=1, open={"env_id": COUNTING, "kwargs": {}, "autoreset": "NextStep"}, attach=attach)
        assert arena.row_seq[1, 1] == 2
    finally:
        arena.close()


def test_a_command_is_done_exactly_once(lease: Lease) -> None:
    lease.open()
    lease.reset()
    router = lease.router
    first = router.command("step", (0, 0), 10, lease.row, lease.lease_id)
    assert router.command("step", (0, 0), 10, lease.row, lease.lease_id)[1][0] == first[1][0] == 1.0
    router.post("step", (0, 0), 9, lease.row, lease.lease_id)  # ignored: no answer comes between these two
    assert router.command("step", (0, 0), 11, lease.row, lease.lease_id)[1][0] == 2.0


def test_an_error_of_the_env_comes_back_and_the_process_lives_on(lease: Lease) -> None:
    lease.open()
    lease.reset()
    error = lease.error("step", (0, FAIL))
    assert (error["type"], error["text"]) == ("builtins.LookupError", "the env says no")
    assert "worker_envs.py" in error["traceback"]
    assert lease.ok("step", (0, 0))[0] == 2.0


def test_an_info_that_cannot_travel_is_named(lease: Lease) -> None:
    lease.open()
    lease.reset()
    error = lease.error("step", (0, BAD_INFO))
    assert error["type"] == "zmqcarla.broker.errors.UnserialisableError"
    assert "info['bad_key']" in error["text"]


def test_call(lease: Lease) -> None:
    lease.open()
    lease.reset()
    assert lease.ok("call", {"name": "add", "args": [2], "kwargs": {"second": 3}}) == 5
    assert lease.ok("call", {"name": "size", "args": [], "kwargs": {}}) == 3
    assert lease.ok("call", {"name": "unwrapped.action_space.n", "args": [], "kwargs": {}}) == 8
    assert "method for arguments" in lease.error("call", {"name": "size", "args": [1], "kwargs": {}})["text"]
    assert lease.error("call", {"name": "nowhere", "args": [], "kwargs": {}})["type"] == "builtins.AttributeError"


@pytest.mark.parametrize("name", ["_observe", "unwrapped._np_random", "__class__", "step", "close", "", "a..b"])
def test_call_refuses_what_is_private_or_the_vector_envs(lease: Lease, name: str) -> None:
    lease.open()
    error = lease.error("call", {"name": name, "args": [], "kwargs": {}})
    assert error["type"] == "zmqcarla.broker.errors.ProtocolError"
    assert repr(name) in error["text"]


def test_env_ids_outside_the_patterns_are_refused(lease: Lease) -> None:
    error = lease.error("open", {"env_id": "os:CartPole-v1", "kwargs": {}, "autoreset": "NextStep"})
    assert error["type"] == "zmqcarla.broker.errors.LeaseRefusedError"
    assert "worker_envs:* or CartPole-v1" in error["text"]


def test_an_ordinary_env(lease: Lease) -> None:
    found = lease.open("CartPole-v1")
    assert build(found["observation_space"]).shape == (4,)
    lease.reset(seed=1)
    reward, terminated, truncated, info, inline, _ = lease.ok("step", (0, np.int64(1)))
    assert (reward, terminated, truncated, info) == (1.0, False, False, {})
    assert inline[0].shape == (4,)


@pytest.mark.parametrize(
    ("op", "payload", "text"),
    [
        ("step", (0, 0), "no env open"),
        ("reset", {"slot": 0}, "expected {slot, seed, options}"),
        ("fly", {}, "found op 'fly'"),
        ("open", {"env_id": 3, "kwargs": {}, "autoreset": "NextStep"}, "expected env_id: str"),
    ],
)
def test_commands_out_of_form_or_order(lease: Lease, op: str, payload: Any, text: str) -> None:
    error = lease.error(op, payload)
    assert error["type"] == "zmqcarla.broker.errors.ProtocolError"
    assert text in error["text"]


def test_garbage_does_not_disturb_it(lease: Lease) -> None:
    router = lease.router
    router._socket.send_multipart([router.env_process, b"\xc1 not msgpack"])  # pyright: ignore[reportPrivateUsage]
    router.send(router.env_process, p.RowCommand(lease.lease_id, 1, 1, "open"))  # no payload
    lease.open()


def test_the_end_of_the_lease_closes_the_env(tmp_path: Path) -> None:
    router = Router(tmp_path)
    with running_pool(tmp_path, router) as pool:
        router.ready()
        lease = Lease(router)
        lease.open()
        while router.ready().lease_id != lease.lease_id:
            pass
        router.send(router.env_process, p.LeaseEnded(b"another lease id"))
        router.send(router.env_process, p.LeaseEnded(lease.lease_id))
        wait_until(lambda: "CountingEnv closed" in pool.env_log.read_text(), "the env to be closed")
        while (ready := router.ready()).lease_id:
            pass
        assert (ready.row, ready.seq) == (-1, 0)
        # A command of another lease begins afresh, also when the end of the last one was never told.
        Lease(router).open()
        Lease(router).open()
        wait_until(lambda: pool.env_log.read_text().count("CountingEnv closed") == 2, "the second env to be closed")
