"""A supervisor without a broker says so, once, and goes on trying."""

from __future__ import annotations

from pathlib import Path

import pytest

from zmqcarla.broker import protocol
from zmqcarla.workers.broker_link import BrokerLink
from zmqcarla.workers.vitals import Vitals

OFFER = protocol.Register(
    protocol=protocol.PROTOCOL,
    worker_id="w0",
    host="here",
    supervisor_pid=1,
    simulator="embedded",
    gpu=None,
    port=2000,
    env_patterns=("zmqcarla/*",),
    ttl_s=30.0,
)


def test_a_missing_broker_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    address = f"ipc://{tmp_path}/nobody.sock"
    link = BrokerLink(address)
    for now in (0.0, 1.0, 4.9):
        link.tick([OFFER], now, lambda _: Vitals("idle", 0, 0, 0, 0))
    assert not caplog.records
    for now in (5.0, 6.0, 100.0):
        link.tick([OFFER], now, lambda _: Vitals("idle", 0, 0, 0, 0))
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert f"expected a broker at {address}" in caplog.text
    link.close()
