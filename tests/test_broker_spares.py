"""The broker's decisions when a worker is gone and another one is free, and when a client asks again."""

from __future__ import annotations

from typing import Any

import pytest
from test_broker_lease_table import CLIENT, Pool

from zmqcarla.broker import protocol as p
from zmqcarla.broker.codec import unpack
from zmqcarla.broker.lease_table import Received, Revoked, Send


def _replies(actions: list[Send]) -> list[tuple[tuple[str, ...], list[Any]]]:
    return [
        (action.message.outcomes, [unpack(payload) for payload in action.payloads])
        for action in actions
        if isinstance(action.message, p.CommandReply)
    ]


def _rebuild(pool: Pool, lease_id: bytes, seq: int) -> list[Send]:
    return pool.tell(CLIENT, p.Command(lease_id, seq, (0,), ("rebuild",)), b"all")


def _lose_finally(pool: Pool, how: str) -> list[Send]:
    if how == "budget":
        return pool.lose(0, final=True)
    if how == "stopped":
        return pool.tell(b"s", p.Unregister("w0"))
    pool.clock(20)
    pool.register(1)
    (lease_id,) = [bytes([number]) * 16 for number in range(1, pool.leases + 1)]
    pool.renew(lease_id)
    return pool.clock(10)


@pytest.mark.parametrize("how", ["budget", "stopped", "silent"])
def test_the_row_of_a_worker_that_is_gone_passes_to_a_free_one(how: str) -> None:
    pool = Pool(workers=2)
    lease_id = pool.lease(1)
    pool.step(lease_id, 1, (0,))
    ((outcomes, (news,)),) = _replies(_lose_finally(pool, how))
    assert outcomes == ("lost",)
    assert news["worker_id"] == "w0"
    assert _rebuild(pool, lease_id, 2) == [Send(b"e1", p.RowCommand(lease_id, 0, 2, "rebuild"), (b"all",))]
    assert _replies(pool.reply(lease_id, 2, 0, peer=b"e0")) == []
    (answered,) = pool.reply(lease_id, 2, 0, peer=b"e1")
    assert isinstance(answered.message, p.CommandReply)
    (renewed,) = pool.renew(lease_id)
    assert renewed.message == p.Renewed(lease_id, b"boot", ("w1",))


def test_a_rebuild_that_waits_for_the_old_worker_goes_to_the_new_one() -> None:
    pool = Pool(workers=2)
    lease_id = pool.lease(1)
    pool.step(lease_id, 1, (0,))
    pool.lose(0)
    assert _rebuild(pool, lease_id, 2) == []
    assert pool.lose(0, final=True) == [Send(b"e1", p.RowCommand(lease_id, 0, 2, "rebuild"), (b"all",))]


def test_a_death_that_nobody_waits_for_is_told_when_the_row_has_moved() -> None:
    pool = Pool(workers=2)
    lease_id = pool.lease(1)
    pool.lose(0, final=True)
    (probed,) = pool.tell(CLIENT, p.Probe(lease_id))
    assert probed.message == p.ProbeReply(lease_id, (0,), ("lost",))
    assert _replies(pool.step(lease_id, 1, (0,)))[0][0] == ("lost",)
    assert [action.peer for action in _rebuild(pool, lease_id, 2)] == [b"e1"]


def test_a_worker_that_comes_back_finds_its_row_given_away() -> None:
    pool = Pool(workers=2, booted_at=100.0)  # so young that leases of an earlier life might still come back
    lease_id = pool.lease(1)
    _lose_finally(pool, "stopped")
    pool.register(0)
    assert Send(b"e0", p.LeaseEnded(lease_id)) in pool.ready(0, lease_id=lease_id)
    assert [action.peer for action in pool.step(lease_id, 1, (0,))] == [CLIENT]  # the loss
    assert [action.peer for action in _rebuild(pool, lease_id, 2)] == [b"e1"]
    grant = pool.request(1)[0].message
    assert isinstance(grant, p.Leased)
    assert grant.workers == ("w0",)


def test_workers_that_vanish_together_are_no_spares_of_each_other() -> None:
    pool = Pool(workers=3)
    lease_id = pool.lease(1)
    pool.step(lease_id, 1, (0,))
    pool.clock(20)
    pool.renew(lease_id)
    ((outcomes, _),) = _replies(pool.clock(10))
    assert outcomes == ("gone",)


def test_a_spare_has_the_same_simulator_and_what_the_lease_asked_for() -> None:
    pool = Pool(workers=1)
    others = [("none", None, "zmqcarla/*"), ("embedded", None, "other/*"), ("embedded", 1, "zmqcarla/*")]
    for index, (simulator, gpu, pattern) in enumerate(others, start=1):
        offer = p.Register(p.PROTOCOL, f"w{index}", "host", 1, simulator, gpu, None, (pattern,), 30.0)
        pool.tell(b"s", offer)
        pool.ready(index)
    (grant,) = pool.request(1)
    assert isinstance(grant.message, p.Leased)
    pool.lose(0, final=True)
    (renewed,) = pool.renew(grant.message.lease_id)
    assert isinstance(renewed.message, p.Renewed)
    assert renewed.message.workers == ("w3",)  # any GPU was allowed


def test_a_command_is_answered_again_and_done_once() -> None:
    pool = Pool(workers=2)
    lease_id = pool.lease(2)
    command = p.Command(lease_id, 1, (0, 1), ("step", "step"))
    assert len(pool.step(lease_id, 1, (0, 1))) == 2
    pool.reply(lease_id, 1, 0)
    assert pool.tell(b"client again", command, b"a", b"b") == []  # its link was cut: the answer goes to the new one
    (answer,) = pool.reply(lease_id, 1, 1)
    assert answer.peer == b"client again"
    assert pool.tell(b"and again", command, b"a", b"b") == [Send(b"and again", answer.message, answer.payloads)]


def test_the_news_of_a_death_survives_a_cut_link() -> None:
    pool = Pool(workers=2)
    lease_id = pool.lease(1)
    pool.step(lease_id, 1, (0,))
    told = pool.lose(0, final=True)
    assert _replies(pool.step(lease_id, 1, (0,))) == _replies(told)


def test_answers_are_kept_for_as_many_rows_as_the_lease_has() -> None:
    pool = Pool(workers=2)
    lease_id = pool.lease(2)
    for seq, row in enumerate((0, 1, 0), start=1):
        pool.step(lease_id, seq, (row,))
        pool.reply(lease_id, seq, row)
    (again,) = pool.step(lease_id, 2, (1,))
    assert again == Send(CLIENT, p.CommandReply(lease_id, 2, (1,), ("ok",)), [b"obs1"])
    (refused,) = pool.step(lease_id, 1, (0,))
    assert isinstance(refused.message, p.Rejected)
    assert "seq above 3" in refused.message.text


def test_a_revoked_key_ends_what_was_done_with_it() -> None:
    """Its lease, its request in the queue and its worker; the lease of another key goes on with the spare."""
    pool = Pool()
    offer = p.Register(p.PROTOCOL, "w0", "host", 1, "embedded", None, None, ("zmqcarla/*",), 30.0)
    for name, user in (("w0", "eve"), ("w1", "bob"), ("w2", "bob")):
        as_named = p.Register(p.PROTOCOL, name, *[getattr(offer, field) for field in _AFTER_THE_NAME])
        pool.table.handle(Received(b"s" + name.encode(), as_named, (), user), pool.now)
        ready = p.Ready(p.PROTOCOL, name, 1, 7, b"", -1, 0)
        pool.table.handle(Received(name.encode(), ready, (), user), pool.now)

    def ask(user: str, num_envs: int) -> p.Message:
        request = p.LeaseRequest(p.PROTOCOL, b"r", num_envs, "zmqcarla/Carla-v0", 10.0, 30.0, None, None)
        return pool.table.handle(Received(user.encode(), request, (), user), pool.now)[0].message

    bobs, eves = ask("bob", 1), ask("eve", 1)
    assert isinstance(bobs, p.Leased)
    assert isinstance(eves, p.Leased)
    assert (bobs.workers, eves.workers) == (("w0",), ("w1",))
    ask("eve", 2)
    told = pool.table.handle(Revoked("eve"), pool.now)
    kinds = {(action.peer, action.message.kind) for action in told}
    assert {(b"eve", "lease_lost"), (b"w1", "lease_ended"), (b"eve", "refused")} <= kinds
    renew = p.Renew(bobs.lease_id, "zmqcarla/Carla-v0", 30.0, ("w0",), None, None, ())
    (renewed,) = pool.table.handle(Received(b"bob", renew, (), "bob"), pool.now)
    assert isinstance(renewed.message, p.Renewed)
    assert renewed.message.workers[0] in {"w1", "w2"}
    assert [worker["worker_id"] for worker in pool.table.statistics(pool.now)["workers"]] == ["w1", "w2"]


_AFTER_THE_NAME = ("host", "supervisor_pid", "simulator", "gpu", "port", "env_patterns", "ttl_s")


def test_a_key_does_nothing_in_the_name_of_another() -> None:
    """To others a lease does not exist, and a worker says nothing."""
    pool = Pool(workers=1)
    lease_id = pool.lease(1)
    pool.step(lease_id, 1, (0,))
    forged: list[p.Message] = [
        p.Command(lease_id, 2, (0,), ("step",)),
        p.Renew(lease_id, "zmqcarla/Carla-v0", 30.0, ("w0",), None, None, ()),
        p.Release(lease_id),
        p.Probe(lease_id),
        p.Ready(p.PROTOCOL, "w0", 9, 666, b"", -1, 0),
        p.WorkerLost("w0", 9, "a lie", 0, 0, True),
        p.Unregister("w0"),
        p.RowReply(lease_id, 0, 1, "ok"),
        p.Register(p.PROTOCOL, "w0", "host", 666, "embedded", None, None, ("*",), 30.0),
    ]
    for message in forged:
        told = pool.table.handle(Received(b"eve", message, (b"payload",), "eve"), pool.now)
        assert {action.peer for action in told} <= {b"eve"}
        assert {action.message.kind for action in told} <= {"lease_lost", "rejected"}
    (worker,) = pool.table.statistics(pool.now)["workers"]
    assert (worker["state"], worker["incarnation"], worker["supervisor_pid"]) == ("ready", 1, 1)
    assert [action.peer for action in pool.step(lease_id, 2, (0,))] == [b"e0"]
