"""Orders to a pool: what the broker decides, by events with the time given."""

from __future__ import annotations

import re

import pytest
from test_broker_lease_table import Pool

from zmqcarla.broker import protocol as p
from zmqcarla.broker.lease_table import Send


def order(pool: Pool, order: str, *workers: str, count: int = 0) -> tuple[p.AdminReply, list[p.Message]]:
    request = p.AdminRequest(p.PROTOCOL, b"a", order, workers, count)
    reply, sends = pool.table.administer(request, pool.now)
    return reply, [send.message for send in sends]


def orders_in(sends: list[Send]) -> list[tuple[str, str]]:
    return [
        (send.message.order, send.message.worker_id) for send in sends if isinstance(send.message, p.SupervisorOrder)
    ]


def test_drain_lets_leases_end_and_then_stops_their_workers() -> None:
    pool = Pool(2)
    lease_id = pool.lease(1)
    reply, told = order(pool, "drain")
    assert reply.workers == ("w0", "w1")
    assert told == [p.SupervisorOrder("retire", "w0"), p.SupervisorOrder("retire", "w1")]
    assert orders_in(pool.clock(0.25)) == [("retire", "w0"), ("retire", "w1"), ("stop", "w1")]  # until it is done
    (command,) = pool.step(lease_id, 1, (0,))
    assert isinstance(command.message, p.RowCommand)
    (refused,) = pool.request(1)
    assert isinstance(refused.message, p.Refused)
    assert (refused.message.reason, "being drained" in refused.message.text) == ("impossible", True)
    pool.tell(b"client", p.Release(lease_id))
    assert orders_in(pool.clock(0.25))[1::2] == [("stop", "w0"), ("stop", "w1")]
    assert [worker["retiring"] for worker in pool.table.statistics(pool.now)["workers"]] == [True, True]


def test_a_queued_request_is_refused_when_the_pool_is_drained() -> None:
    pool = Pool(1)
    pool.lease(1)
    pool.request(1, client=b"other")
    _, told = order(pool, "drain")
    assert [message.reason for message in told if isinstance(message, p.Refused)] == ["impossible"]


def test_a_restarted_broker_knows_who_retires_and_waits_for_leases_to_come_back() -> None:
    pool = Pool(booted_at=100.0)
    register = p.Register(p.PROTOCOL, "w0", "host", 1, "embedded", None, None, ("zmqcarla/*",), 30.0, True)
    pool.tell(b"s", register)
    assert orders_in(pool.clock(0.25)) == []  # its client may renew the lease yet
    pool.ready(0)
    assert orders_in(pool.clock(0.25)) == [("stop", "w0")]  # it serves nobody
    pool.tell(b"s", p.Unregister("w0"))
    assert pool.table.statistics(pool.now)["workers"] == []


def test_scale_takes_the_free_and_youngest_and_adds_where_there_are_fewest() -> None:
    pool = Pool(4)
    pool.lease(1)
    assert order(pool, "scale", count=2)[0].workers == ("w3", "w2")
    assert order(pool, "scale", count=2)[0].workers == ()
    assert order(pool, "scale", count=1)[0].workers == ("w1",)
    reply, told = order(pool, "scale", count=3)
    assert told == [p.SupervisorOrder("add", "")] * 2
    assert not reply.refused
    other = p.Register(p.PROTOCOL, "x0", "host2", 2, "embedded", None, None, ("zmqcarla/*",), 30.0)
    pool.tell(b"s2", other)
    _, sends = pool.table.administer(p.AdminRequest(p.PROTOCOL, b"a", "scale", (), 4), pool.now)
    assert [send.peer for send in sends] == [b"s2", b"s2"]  # 4 there, 1 here: both go to the smaller one


def test_restart_without_names_means_all() -> None:
    pool = Pool(2)
    reply, told = order(pool, "restart")
    assert reply.workers == ("w0", "w1")
    assert told == [p.SupervisorOrder("restart", "w0"), p.SupervisorOrder("restart", "w1")]


def test_a_worker_that_is_gone_can_be_restarted() -> None:
    pool = Pool(1)
    lease_id = pool.lease(1)
    pool.lose(0, final=True)
    assert order(pool, "restart", "w0")[1] == [p.SupervisorOrder("restart", "w0")]
    pool.register(0)
    pool.ready(0, incarnation=2)
    assert [worker["state"] for worker in pool.table.statistics(pool.now)["workers"]] == ["ready"]
    (answer,) = pool.step(lease_id, 1, (0,))  # whose row it had is told that it is gone
    assert isinstance(answer.message, p.CommandReply)
    assert answer.message.outcomes == ("gone",)
    (grant,) = pool.request(1, client=b"other")
    assert isinstance(grant.message, p.Leased)


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (p.AdminRequest(p.PROTOCOL, b"a", "explode", (), 0), "expected one of restart, scale, drain, found order"),
        (p.AdminRequest(p.PROTOCOL + 1, b"a", "drain", (), 0), "the administrator speaks protocol"),
        (p.AdminRequest(p.PROTOCOL, b"a", "restart", ("w0", "w7"), 0), r"workers of this pool \(w0\), found w7"),
        (p.AdminRequest(p.PROTOCOL, b"a", "scale", (), 0), "expected 1 to 1024 workers, found 0"),
    ],
)
def test_a_wrong_order_is_refused_with_what_was_expected(request_: p.AdminRequest, text: str) -> None:
    pool = Pool(1)
    reply, sends = pool.table.administer(request_, pool.now)
    assert (reply.refused, sends) == (True, [])
    assert re.search(text, reply.text)


def test_clients_and_workers_may_not_give_orders() -> None:
    pool = Pool(1)
    (answer,) = pool.tell(b"client", p.AdminRequest(p.PROTOCOL, b"a", "drain", (), 0))
    assert isinstance(answer.message, p.Rejected)
