"""Metrics for Prometheus and structured logs, of a pool that runs."""

from __future__ import annotations

import json
import logging
import re
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from conftest import NewVecEnv, wait_until
from pools import ready_pool

from zmqcarla.broker.errors import AddressInUseError
from zmqcarla.broker.logs import JsonFormatter
from zmqcarla.broker.protocol import ENV_PARTS, STEP_TIMES
from zmqcarla.pool import LocalPool
from zmqcarla.watch.metrics import CONTENT_TYPE, metrics_text, serving_metrics

SAMPLE = re.compile(r'zmqcarla_(\w+)(?:\{(\w+="(?:[^"\\]|\\.)*",?)*\})? (\S+)')


@pytest.fixture(scope="module")
def pool() -> Iterator[LocalPool]:
    with ready_pool(2, "client_envs:*", log_format="json") as pool:
        yield pool


def _scrape(port: int, path: str = "/metrics") -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
        assert answer.headers["Content-Type"] == CONTENT_TYPE
        lines = answer.read().decode().splitlines()
    samples: dict[str, float] = {}
    for line in lines:
        if not line.startswith("#"):
            match = SAMPLE.fullmatch(line)
            assert match, line
            samples[line.rpartition(" ")[0]] = float(match[3])
    return samples


def _sum(samples: dict[str, float], name: str) -> float:
    return sum(value for key, value in samples.items() if name in key)


def test_a_scrape_shows_what_the_broker_knows(pool: LocalPool, new_vec_env: NewVecEnv) -> None:
    vec = new_vec_env(1, "client_envs:Counter-v0", None, pool.address)
    vec.reset()
    for _ in range(2):
        vec.step(vec.action_space.sample())
    with serving_metrics(pool.address, 0) as port:
        samples = _scrape(port)
        assert samples["zmqcarla_up"] == 1
        assert samples['zmqcarla_workers{state="ready"}'] == 2
        assert samples["zmqcarla_workers_free"] == 1
        assert [value for name, value in samples.items() if "lease_rows" in name] == [1]
        wait_until(lambda: _sum(_scrape(port), "worker_steps_total") == 2, "a heartbeat")
        wait_until(lambda: _sum(_scrape(port), "lease_step_p99_ms") > 0, "a renewal")
        parts = {name: _sum(_scrape(port), f"lease_{name}") for name in STEP_TIMES}
        assert parts["step_p50_ms"] >= parts["env_p50_ms"] > 0
        assert parts["policy_p50_ms"] > 0
        assert not [name for name in _scrape(port) if "tick_ms" in name]  # a plain env does not tell
        with pytest.raises(urllib.error.HTTPError, match="404"):
            _scrape(port, "/")
        with pytest.raises(AddressInUseError, match="pass another --metrics PORT"), serving_metrics(pool.address, port):
            pass


def test_without_a_broker_it_is_down_and_labels_are_escaped() -> None:
    assert metrics_text(None).endswith("zmqcarla_up 0\n")
    lease = {"lease": "ab", "env_id": 'a"b\\c\nd', "num_envs": 1, "commands": 0, "silent_s": 0.0}
    lease |= dict.fromkeys((*STEP_TIMES, *ENV_PARTS)) | {"tick_ms": 2.5}
    text = metrics_text({"workers": [], "leases": [lease], "queue": []})
    assert r'zmqcarla_lease_tick_ms{lease="ab",env_id="a\"b\\c\nd"} 2.5' in text.splitlines()
    assert r'zmqcarla_lease_rows{lease="ab",env_id="a\"b\\c\nd"} 1' in text.splitlines()


def test_logs_are_json_and_name_the_cause(pool: LocalPool, new_vec_env: NewVecEnv) -> None:
    new_vec_env(1, "client_envs:Counter-v0", None, pool.address).close()
    log = pool.log_directory / "broker.log"
    wait_until(lambda: "received Release" in log.read_text(), "the end of the lease")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    granted = next(line for line in lines if "Leased(" in line["message"])
    assert granted["cause"].startswith("lease_request-")
    assert {line["cause"] for line in lines if "received LeaseRequest" in line["message"]} >= {granted["cause"]}
    supervisor = [json.loads(line) for line in (pool.log_directory / "supervisor.log").read_text().splitlines()]
    assert {line["cause"].partition("-")[0] for line in supervisor if "StartEnv" in line["message"]} == {"Tick"}


def test_a_json_line_keeps_the_traceback_and_what_is_not_json() -> None:
    try:
        raise ValueError("wrong")
    except ValueError as error:
        record = logging.LogRecord("z", logging.ERROR, "f", 1, "%s failed", ("it",), (ValueError, error, None))
    record.peer = b"\x00"
    line = json.loads(JsonFormatter().format(record))
    assert (line["message"], line["level"], line["peer"]) == ("it failed", "ERROR", "b'\\x00'")
    assert "ValueError: wrong" in line["traceback"]
