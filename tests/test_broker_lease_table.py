"""The broker's decisions, event by event, with the time given."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from zmqcarla.broker import protocol as p
from zmqcarla.broker.lease_table import Clock, LeaseTable, Received, Send

CLIENT = b"client"


class Pool:
    """A table with workers w0, w1, ... whose supervisor is b"s" and whose env processes are b"e0", b"e1", ..."""

    def __init__(
        self, workers: int = 0, env_patterns: tuple[str, ...] = ("zmqcarla/*",), booted_at: float = 0.0
    ) -> None:
        self.now = 100.0
        self.leases = 0
        self.table = LeaseTable(b"boot", self._new_lease_id, booted_at)
        for index in range(workers):
            self.register(index, env_patterns)
            self.ready(index)

    def _new_lease_id(self) -> bytes:
        self.leases += 1
        return bytes([self.leases]) * 16

    def tell(self, peer: bytes, message: p.Message, *payloads: bytes) -> list[Send]:
        return self.table.handle(Received(peer, message, payloads), self.now)

    def clock(self, seconds: float) -> list[Send]:
        self.now += seconds
        return self.table.handle(Clock(), self.now)

    def register(self, index: int, env_patterns: tuple[str, ...] = ("zmqcarla/*",), pid: int = 1) -> list[Send]:
        offer = p.Register(p.PROTOCOL, f"w{index}", "host", pid, "embedded", None, 2000 + 4 * index, env_patterns, 30.0)
        return self.tell(b"s", offer)

    def ready(self, index: int, incarnation: int = 1, lease_id: bytes = b"") -> list[Send]:
        peer = f"e{index}".encode() if incarnation == 1 else f"e{index}.{incarnation}".encode()
        return self.tell(peer, p.Ready(p.PROTOCOL, f"w{index}", incarnation, 4000 + index, lease_id, -1, 0))

    def request(self, num_envs: int, env_id: str = "zmqcarla/Carla-v0", **changes: Any) -> list[Send]:
        request = p.LeaseRequest(p.PROTOCOL, b"r", num_envs, env_id, 10.0, 30.0, None, None)
        return self.tell(changes.pop("client", CLIENT), dataclasses.replace(request, **changes))

    def lease(self, num_envs: int) -> bytes:
        (grant,) = self.request(num_envs)
        assert isinstance(grant.message, p.Leased)
        return grant.message.lease_id

    def step(self, lease_id: bytes, seq: int, rows: tuple[int, ...]) -> list[Send]:
        command = p.Command(lease_id, seq, rows, ("step",) * len(rows))
        return self.tell(CLIENT, command, *[f"action{row}".encode() for row in rows])

    def renew(self, lease_id: bytes, workers: tuple[str, ...] = ("w0",)) -> list[Send]:
        return self.tell(CLIENT, p.Renew(lease_id, "zmqcarla/Carla-v0", 30.0, workers, None, None, ()))

    def reply(self, lease_id: bytes, seq: int, row: int, peer: bytes | None = None) -> list[Send]:
        return self.tell(peer or f"e{row}".encode(), p.RowReply(lease_id, row, seq, "ok"), f"obs{row}".encode())

    def lose(self, index: int, incarnation: int = 1, *, final: bool = False) -> list[Send]:
        return self.tell(b"s", p.WorkerLost(f"w{index}", incarnation, "killed by SIGKILL", -9, 1, final))


def _only(actions: list[Send], kind: type[p.Message]) -> Any:
    (action,) = actions
    assert isinstance(action.message, kind), action
    return action.message


def test_a_lease_gives_free_workers_and_release_returns_them() -> None:
    pool = Pool(workers=3)
    grant = _only(pool.request(2), p.Leased)
    assert grant.workers == ("w0", "w1")
    assert grant.boot_id == b"boot"
    assert _only(pool.request(2), p.Queued).suitable_free == 1
    ended = pool.tell(CLIENT, p.Release(grant.lease_id))
    told = {(action.peer, action.message.kind) for action in ended}
    assert told == {(b"e0", "lease_ended"), (b"e1", "lease_ended"), (b"s", "lease_ended"), (CLIENT, "leased")}


def test_a_command_fans_out_and_comes_back_as_one_reply() -> None:
    pool = Pool(workers=2)
    lease_id = pool.lease(2)
    sent = pool.step(lease_id, 1, (0, 1))
    assert sent == [
        Send(b"e0", p.RowCommand(lease_id, 0, 1, "step"), (b"action0",)),
        Send(b"e1", p.RowCommand(lease_id, 1, 1, "step"), (b"action1",)),
    ]
    assert pool.reply(lease_id, 1, 1) == []
    (done,) = pool.reply(lease_id, 1, 0)
    assert done == Send(CLIENT, p.CommandReply(lease_id, 1, (0, 1), ("ok", "ok")), [b"obs0", b"obs1"])
    assert pool.reply(lease_id, 1, 0) == []  # a second answer changes nothing


def test_only_the_rows_own_worker_may_answer() -> None:
    pool = Pool(workers=2)
    lease_id = pool.lease(1)
    pool.step(lease_id, 1, (0,))
    assert pool.reply(lease_id, 1, 0, peer=b"e1") == []
    assert _only(pool.reply(lease_id, 1, 0), p.CommandReply).outcomes == ("ok",)


def test_a_rebuild_that_overtakes_the_news_of_the_death_waits_for_the_successor() -> None:
    """The client reads of a death on the board, so its rebuild can be here before the supervisor's report."""
    pool = Pool(workers=1)
    lease_id = pool.lease(1)
    pool.tell(CLIENT, p.Command(lease_id, 1, (0,), ("rebuild",)), b"open")
    assert pool.lose(0) == []
    (forwarded,) = pool.ready(0, incarnation=2)
    assert forwarded == Send(b"e0.2", p.RowCommand(lease_id, 0, 1, "rebuild"), (b"open",))
    assert _only(pool.reply(lease_id, 1, 0, peer=b"e0.2"), p.CommandReply).outcomes == ("ok",)
    pool.step(lease_id, 2, (0,))
    assert _only(pool.reply(lease_id, 2, 0, peer=b"e0.2"), p.CommandReply).outcomes == ("ok",)


def test_death_during_a_command_is_its_outcome_and_the_next_waits_for_the_successor() -> None:
    pool = Pool(workers=2)
    lease_id = pool.lease(2)
    pool.step(lease_id, 1, (0, 1))
    pool.reply(lease_id, 1, 0)
    (done,) = pool.lose(1)
    assert isinstance(done.message, p.CommandReply)
    assert done.message.outcomes == ("ok", "lost")
    assert p.unpack(done.payloads[1]) == {
        "worker_id": "w1",
        "reason": "killed by SIGKILL",
        "exit_code": -9,
        "restarts": 1,
    }
    sent = pool.step(lease_id, 2, (0, 1))
    assert [action.peer for action in sent] == [b"e0"]
    (forwarded,) = pool.ready(1, incarnation=2)
    assert forwarded == Send(b"e1.2", p.RowCommand(lease_id, 1, 2, "step"), (b"action1",))
    pool.reply(lease_id, 2, 0)
    assert _only(pool.reply(lease_id, 2, 1, peer=b"e1.2"), p.CommandReply).outcomes == ("ok", "ok")


def test_death_between_commands_is_told_by_the_next_one() -> None:
    pool = Pool(workers=1)
    lease_id = pool.lease(1)
    assert pool.lose(0) == []
    pool.ready(0, incarnation=2)
    assert _only(pool.step(lease_id, 1, (0,)), p.CommandReply).outcomes == ("lost",)
    assert pool.step(lease_id, 2, (0,))[0].peer == b"e0.2"


def test_a_worker_that_dies_again_while_it_restarts_keeps_the_command() -> None:
    pool = Pool(workers=1)
    lease_id = pool.lease(1)
    pool.step(lease_id, 1, (0,))
    pool.lose(0)
    assert pool.step(lease_id, 2, (0,)) == []
    assert pool.lose(0, incarnation=2) == []
    assert pool.ready(0, incarnation=3)[0].message == p.RowCommand(lease_id, 0, 2, "step")


def test_a_spent_budget_is_final() -> None:
    pool = Pool(workers=1)
    lease_id = pool.lease(1)
    pool.step(lease_id, 1, (0,))
    assert _only(pool.lose(0, final=True), p.CommandReply).outcomes == ("gone",)
    assert _only(pool.step(lease_id, 2, (0,)), p.CommandReply).outcomes == ("gone",)
    pool.tell(CLIENT, p.Release(lease_id))
    refused = _only(pool.request(1), p.Refused)
    assert refused.reason == "impossible"
    assert "worker w0: killed by SIGKILL" in refused.text


def test_a_request_that_waits_for_a_worker_which_never_comes_up_is_refused_with_the_reason() -> None:
    pool = Pool()
    pool.register(0)
    _only(pool.request(1), p.Queued)
    lost = p.WorkerLost("w0", 0, "the map is not OpenDRIVE; see w0.log", 2, 5, True)
    refused = _only(pool.tell(b"s", lost), p.Refused)
    assert "the map is not OpenDRIVE; see w0.log" in refused.text


def heartbeat(*worker_ids: str, steps: int = 0, restarts: int = 0) -> p.Heartbeat:
    each = len(worker_ids)
    numbers = ((steps,) * each, (restarts,) * each, (3 << 20,) * each, (5 << 20,) * each)
    parts = ((8.0,) * each, (2.0,) * each, (0.5,) * each)
    memory = ((7 << 20,) * each, (60.0,) * each, ("server",) * each)
    return p.Heartbeat(worker_ids, ("idle",) * each, *numbers, *memory, *parts)


def test_a_silent_supervisor_is_a_lost_worker() -> None:
    pool = Pool(workers=1)
    lease_id = pool.lease(1)
    pool.step(lease_id, 1, (0,))
    assert pool.clock(29) == []
    pool.renew(lease_id)
    assert _only(pool.clock(2), p.CommandReply).outcomes == ("gone",)


def test_a_heartbeat_keeps_the_worker_and_an_unknown_one_is_asked_to_register() -> None:
    pool = Pool(workers=1)
    pool.clock(20)
    assert pool.tell(b"s", heartbeat("w0")) == []
    pool.clock(20)
    assert _only(pool.request(1), p.Leased).workers == ("w0",)
    assert _only(pool.tell(b"s", heartbeat("other")), p.UnknownWorker).worker_id == "other"


def test_a_heartbeat_says_how_the_worker_does() -> None:
    pool = Pool(workers=1)
    (worker,) = pool.table.statistics(pool.now)["workers"]
    assert (worker["seen_s"], worker["steps"]) == (None, None)
    pool.tell(b"s", heartbeat("w0", steps=7, restarts=2))
    pool.clock(3)
    (worker,) = pool.table.statistics(pool.now)["workers"]
    assert worker["restarts"] == 2
    assert [worker[name] for name in ("seen_s", "phase", "steps", "env_rss_bytes", "server_rss_bytes")] == [
        *(3, "idle", 7, 3 << 20, 5 << 20)
    ]
    assert pool.table.statistics(pool.now)["leases"] == []
    assert (worker["tick_ms"], worker["render_ms"], worker["observe_ms"]) == (8.0, 2.0, 0.5)
    assert (worker["server_vram_bytes"], worker["growth_bytes_per_h"], worker["leaks"]) == (7 << 20, 60.0, "server")


def test_a_heartbeat_with_a_short_column_is_rejected() -> None:
    pool = Pool(workers=2)
    beat = p.Heartbeat(
        ("w0", "w1"), ("idle",), (1, 2), (0, 0), (3, 4), (5, 6), (7, 8), (0.0, 0.0), ("", ""), *((0.0, 0.0),) * 3
    )
    text = _only(pool.tell(b"s", beat), p.Rejected).text
    assert "expected 2 values in each column" in text


def test_a_supervisor_that_reconnected_is_asked_to_register_again() -> None:
    pool = Pool(workers=1)
    assert _only(pool.tell(b"s again", heartbeat("w0")), p.UnknownWorker).worker_id == "w0"


def test_a_command_lost_with_the_connection_is_sent_again_to_the_same_process() -> None:
    pool = Pool(workers=1)
    lease_id = pool.lease(1)
    (sent,) = pool.step(lease_id, 1, (0,))
    again = pool.tell(b"e0 again", p.Ready(p.PROTOCOL, "w0", 1, 4000, lease_id, 0, 0))
    assert again == [Send(b"e0 again", sent.message, sent.payloads)]
    assert _only(pool.reply(lease_id, 1, 0, peer=b"e0 again"), p.CommandReply).outcomes == ("ok",)
    assert pool.tell(b"e0 third", p.Ready(p.PROTOCOL, "w0", 1, 4000, lease_id, 0, 1)) == []


def test_a_silent_client_loses_its_lease_and_the_queue_moves() -> None:
    pool = Pool(workers=1)
    lease_id = pool.lease(1)
    pool.request(1, client=b"second", timeout_s=100.0)
    pool.clock(20)
    pool.tell(b"s", heartbeat("w0"))
    ended = pool.clock(11)
    kinds = [(action.peer, action.message.kind) for action in ended]
    assert kinds == [(b"e0", "lease_ended"), (b"s", "lease_ended"), (b"second", "leased")]
    assert _only(pool.step(lease_id, 1, (0,)), p.LeaseLost).lease_id == lease_id


def test_renewing_keeps_the_lease() -> None:
    pool = Pool(workers=1)
    lease_id = pool.lease(1)
    for _ in range(5):
        pool.clock(10)
        pool.tell(b"s", heartbeat("w0"))
        pool.renew(lease_id)
    assert pool.step(lease_id, 1, (0,))[0].peer == b"e0"


def test_a_renewal_tells_where_the_time_of_steps_goes() -> None:
    pool = Pool(workers=1)
    lease_id = pool.lease(1)
    renew = p.Renew(lease_id, "zmqcarla/Carla-v0", 30.0, ("w0",), None, None, (9.0, 12.0, 8.0, 1.0, 3.0))
    pool.tell(CLIENT, renew)
    (lease,) = pool.table.statistics(pool.now)["leases"]
    assert [lease[name] for name in p.STEP_TIMES] == [9.0, 12.0, 8.0, 1.0, 3.0]
    pool.tell(CLIENT, dataclasses.replace(renew, step_times_ms=(1.0,) * 3))  # of another release
    assert pool.table.statistics(pool.now)["leases"][0]["step_p50_ms"] is None


def test_a_request_that_waits_too_long_says_what_there_was() -> None:
    pool = Pool(workers=2)
    assert _only(pool.request(3), p.Queued) == p.Queued(b"r", 0, 2, 2)
    told = [action.message.kind for _ in range(8) for action in pool.clock(1)]
    assert set(told) == {"queued"}
    pool.tell(b"s", heartbeat("w0", "w1"))
    refused = _only(pool.clock(2), p.Refused)
    assert refused.reason == "timeout"
    assert "expected 3 x 'zmqcarla/Carla-v0' within 10 s, found 2 suitable workers of which 2 are free" in refused.text


def test_an_env_that_no_worker_allows_is_refused_at_once() -> None:
    refused = _only(Pool(workers=1).request(1, "os:system-v0"), p.Refused)
    assert refused.reason == "impossible"
    assert "'os:system-v0'" in refused.text
    assert "zmqcarla/*" in refused.text


def test_an_empty_pool_lets_the_request_wait_for_workers() -> None:
    pool = Pool()
    assert _only(pool.request(1), p.Queued).suitable_total == 0
    pool.register(0)
    assert _only(pool.ready(0), p.Leased).workers == ("w0",)


def test_a_large_request_is_not_starved_by_small_ones() -> None:
    pool = Pool(workers=1)
    _only(pool.request(2, client=b"large"), p.Queued)
    _only([a for a in pool.request(1, client=b"small") if a.peer == b"small"], p.Queued)
    pool.register(1)
    (grant,) = [action for action in pool.ready(1) if isinstance(action.message, p.Leased)]
    assert grant.peer == b"large"


@pytest.mark.parametrize(
    ("rows", "ops", "payloads"),
    [
        ((0,), ("step", "step"), 1),
        ((2,), ("step",), 1),
        ((0, 0), ("step", "step"), 2),
        ((0,), ("exec",), 1),
        ((), (), 0),
    ],
)
def test_a_bad_command_is_rejected_and_disturbs_nobody(
    rows: tuple[int, ...], ops: tuple[str, ...], payloads: int
) -> None:
    pool = Pool(workers=2)
    lease_id = pool.lease(2)
    assert "expected" in _only(pool.tell(CLIENT, p.Command(lease_id, 1, rows, ops), *[b""] * payloads), p.Rejected).text
    assert len(pool.step(lease_id, 2, (0, 1))) == 2


def test_another_protocol_is_told_which_side_to_upgrade() -> None:
    pool = Pool(workers=1)
    assert "upgrade zmqcarla on this broker's side" in _only(pool.request(1, protocol=99), p.Refused).text
    offer = p.Register(0, "w9", "host", 1, "embedded", None, None, (), 30.0)
    assert "upgrade zmqcarla on the worker's side" in _only(pool.tell(b"s", offer), p.Rejected).text


def test_a_worker_that_still_serves_an_ended_lease_is_told() -> None:
    pool = Pool(workers=1)
    assert _only(pool.ready(0, lease_id=b"old"), p.LeaseEnded).lease_id == b"old"


def test_a_replaced_supervisor_loses_the_row_and_brings_it_back() -> None:
    pool = Pool(workers=1)
    lease_id = pool.lease(1)
    pool.step(lease_id, 1, (0,))
    lost, welcome = pool.register(0, pid=2)
    assert isinstance(lost.message, p.CommandReply)
    assert lost.message.outcomes == ("lost",)
    assert isinstance(welcome.message, p.Welcome)
    assert pool.step(lease_id, 2, (0,)) == []
    assert pool.ready(0)[0].message == p.RowCommand(lease_id, 0, 2, "step")


def test_unregistering_takes_the_worker_away() -> None:
    pool = Pool(workers=1)
    lease_id = pool.lease(1)
    pool.step(lease_id, 1, (0,))
    assert _only(pool.tell(b"s", p.Unregister("w0")), p.CommandReply).outcomes == ("gone",)
    assert pool.table.statistics(pool.now)["workers"] == []


def test_statistics_are_plain_values() -> None:
    pool = Pool(workers=2)
    pool.lease(1)
    pool.request(5)
    found = p.unpack(p.pack(pool.table.statistics(pool.now)))
    assert [worker["state"] for worker in found["workers"]] == ["ready", "ready"]
    assert [worker["row"] for worker in found["workers"]] == [0, -1]
    assert found["leases"][0]["num_envs"] == 1
    assert found["leases"][0]["step_p99_ms"] is None
    assert found["leases"][0]["tick_ms"] is None
    assert found["queue"] == [{"env_id": "zmqcarla/Carla-v0", "num_envs": 5, "waiting_s": 0.0}]


RESTARTED_AT = 100.0
OLD = b"old" * 4


def test_a_restarted_broker_takes_leases_back_from_renewals() -> None:
    pool = Pool(booted_at=RESTARTED_AT)
    assert pool.step(OLD, 7, (0,)) == []  # not yet known, and not called lost
    assert _only(pool.renew(OLD), p.Renewed).boot_id == b"boot"
    pool.register(0)
    assert pool.step(OLD, 7, (0,)) == []  # held until the worker has announced itself
    (forwarded,) = pool.ready(0, lease_id=OLD)
    assert forwarded == Send(b"e0", p.RowCommand(OLD, 0, 7, "step"), (b"action0",))
    assert _only(pool.reply(OLD, 7, 0), p.CommandReply).outcomes == ("ok",)


def test_a_restarted_broker_gives_no_worker_away_that_still_serves() -> None:
    pool = Pool(booted_at=RESTARTED_AT)
    pool.register(0)
    assert pool.ready(0, lease_id=OLD) == []
    assert _only(pool.request(1, client=b"other", timeout_s=1000.0), p.Queued).suitable_free == 0
    pool.clock(20)
    pool.tell(b"s", heartbeat("w0"))
    ended, granted = (action for action in pool.clock(11) if not isinstance(action.message, p.Queued))
    assert ended == Send(b"e0", p.LeaseEnded(OLD))
    assert granted.peer == b"other"
    assert _only(pool.renew(OLD), p.LeaseLost).lease_id == OLD


def test_an_ended_lease_does_not_return() -> None:
    pool = Pool(workers=1, booted_at=RESTARTED_AT)
    lease_id = pool.lease(1)
    pool.tell(CLIENT, p.Release(lease_id))
    assert isinstance(_only(pool.renew(lease_id), p.LeaseLost), p.LeaseLost)


def test_a_worker_that_was_given_away_is_gone_for_its_old_client() -> None:
    pool = Pool(workers=1, booted_at=RESTARTED_AT)
    pool.lease(1)
    pool.renew(OLD)
    assert _only(pool.step(OLD, 1, (0,)), p.CommandReply).outcomes == ("gone",)


def _reason(action: Send) -> str:
    return str(p.unpack(action.payloads[0])["reason"])


def test_an_env_process_that_died_while_the_broker_restarted_is_told_as_the_answer() -> None:
    pool = Pool(booted_at=RESTARTED_AT)
    pool.renew(OLD)
    pool.step(OLD, 7, (0,))
    pool.register(0)
    (told,) = pool.ready(0)  # without the lease: a new process
    assert isinstance(told.message, p.CommandReply)
    assert told.message.outcomes == ("lost",)
    assert _reason(told) == "its env process ended while the broker was away"
    (forwarded,) = pool.tell(CLIENT, p.Command(OLD, 8, (0,), ("rebuild",)), b"open")
    assert forwarded == Send(b"e0", p.RowCommand(OLD, 0, 8, "rebuild"), (b"open",))


@pytest.mark.parametrize("ready_first", [False, True])
def test_such_a_death_is_kept_for_a_client_that_waits_at_its_board(ready_first: bool) -> None:
    pool = Pool(booted_at=RESTARTED_AT)
    if ready_first:
        pool.register(0)
        pool.ready(0)
    pool.renew(OLD)
    if not ready_first:
        pool.register(0)
        assert pool.ready(0) == []
    assert _only(pool.tell(CLIENT, p.Probe(OLD)), p.ProbeReply).outcomes == ("lost",)
    assert pool.ready(0) == []  # announced again
    assert _only(pool.tell(CLIENT, p.Probe(OLD)), p.ProbeReply).outcomes == ("lost",)  # until it is rebuilt
    pool.tell(CLIENT, p.Command(OLD, 8, (0,), ("rebuild",)), b"open")
    assert _only(pool.tell(CLIENT, p.Probe(OLD)), p.ProbeReply).outcomes == ()


def test_a_death_before_the_client_has_come_back_is_told_too() -> None:
    pool = Pool(booted_at=RESTARTED_AT)
    pool.register(0)
    pool.ready(0, lease_id=OLD)
    pool.lose(0)
    pool.ready(0, incarnation=2)
    pool.renew(OLD)
    assert _only(pool.step(OLD, 7, (0,)), p.CommandReply).outcomes == ("lost",)
    assert _only(pool.step(OLD, 8, (0,)), p.RowCommand).op == "step"


def test_a_client_that_knows_of_such_a_death_is_not_told_again() -> None:
    pool = Pool(booted_at=RESTARTED_AT)
    pool.renew(OLD)
    pool.tell(CLIENT, p.Command(OLD, 7, (0,), ("rebuild",)), b"open")
    pool.register(0)
    (forwarded,) = pool.ready(0)
    assert forwarded.message == p.RowCommand(OLD, 0, 7, "rebuild")


def test_a_worker_that_does_not_come_back_to_a_restarted_broker_is_gone() -> None:
    pool = Pool(booted_at=RESTARTED_AT)
    pool.renew(OLD)
    pool.step(OLD, 7, (0,))
    assert pool.clock(20) == []
    pool.renew(OLD)
    (told,) = pool.clock(11)
    assert isinstance(told.message, p.CommandReply)
    assert told.message.outcomes == ("gone",)
    assert _reason(told) == "it has not come back since the broker restarted"
