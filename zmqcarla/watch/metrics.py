"""The pool for Prometheus: text at http://127.0.0.1:PORT/metrics, asked from the broker at each scrape.

The standard library serves it: the text format is a line a number, all numbers are the broker's already, and so a
client library would only bring a registry to copy them into. It listens on the loopback interface alone.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from zmqcarla.broker.errors import AddressInUseError, ZmqCarlaError
from zmqcarla.broker.protocol import STEP_TIMES
from zmqcarla.lease import ask_status

_HOST: Final = "127.0.0.1"
_ANSWER_S: Final = 2.0
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_STATES: Final = ("starting", "ready", "lost", "gone")
_ENV_PARTS: Final = {
    "tick_ms": "control and ticks of the world",
    "render_ms": "waiting for the sensors",
    "observe_ms": "observation, reward and criteria",
}

_Samples = Iterable[tuple[Mapping[str, Any], float]]
"""Labels and value."""


def metrics_text(pool: Mapping[str, Any] | None) -> str:
    """The pool in Prometheus' text format.

    Args:
        pool: as `zmqcarla.lease.ask_status` returns it; None when no broker answers.
    """
    lines: list[str] = []

    def add(name: str, kind: str, meaning: str, samples: _Samples) -> None:
        lines.extend([f"# HELP zmqcarla_{name} {meaning}", f"# TYPE zmqcarla_{name} {kind}"])
        lines.extend([f"zmqcarla_{name}{_labels(labels)} {value:.17g}" for labels, value in samples])

    add("up", "gauge", "Whether the broker answers.", [({}, pool is not None)])
    if pool is not None:
        _add_workers(add, pool["workers"])
        leases = [({"lease": one["lease"][:8], "env_id": one["env_id"]}, one) for one in pool["leases"]]
        add("lease_rows", "gauge", "Rows of each lease.", [(labels, one["num_envs"]) for labels, one in leases])
        text = "Commands over the broker; steps over shared memory are not among them."
        add("lease_commands_total", "counter", text, [(labels, one["commands"]) for labels, one in leases])
        text = "Seconds since the client was heard."
        add("lease_silent_seconds", "gauge", text, [(labels, one["silent_s"]) for labels, one in leases])
        for name in STEP_TIMES:
            text = "Milliseconds of the latest steps, as the client measures them."
            told = [(labels, one[name]) for labels, one in leases if one[name] is not None]
            add(f"lease_{name}", "gauge", text, told)
        for name, meaning in _ENV_PARTS.items():
            text = f"Milliseconds of the latest steps of the lease's slowest env: {meaning}."
            told = [(labels, one[name]) for labels, one in leases if one[name] is not None]
            add(f"lease_{name}", "gauge", text, told)
        add("queued_requests", "gauge", "Requests for a lease that wait.", [({}, len(pool["queue"]))])
        waited = max([one["waiting_s"] for one in pool["queue"]], default=0.0)
        add("queue_wait_seconds", "gauge", "Of the request that waits longest.", [({}, waited)])
    return "\n".join(lines) + "\n"


def _add_workers(add: Callable[[str, str, str, _Samples], None], workers: list[Mapping[str, Any]]) -> None:
    states = Counter(worker["state"] for worker in workers)
    add("workers", "gauge", "Workers by state.", [({"state": state}, states[state]) for state in _STATES])
    spare = sum(worker["state"] == "ready" and not worker["lease"] and not worker["retiring"] for worker in workers)
    add("workers_free", "gauge", "Ready workers that nobody leases.", [({}, spare)])
    labelled = [({"worker": worker["worker_id"], "host": worker["host"]}, worker) for worker in workers]
    add("worker_leased", "gauge", "Whether it serves a lease.", [(who, bool(one["lease"])) for who, one in labelled])
    add(
        "worker_leaking",
        "gauge",
        "Whether its memory grows without end.",
        [(w, bool(one["leaks"])) for w, one in labelled],
    )
    for key, name, kind, meaning in (
        ("steps", "worker_steps_total", "counter", "Steps since its supervisor started."),
        ("restarts", "worker_restarts_total", "counter", "Restarts since its supervisor started."),
        ("env_rss_bytes", "worker_env_rss_bytes", "gauge", "Resident memory of the env process."),
        ("server_rss_bytes", "worker_server_rss_bytes", "gauge", "Resident memory of the CARLA server."),
        ("server_vram_bytes", "worker_server_vram_bytes", "gauge", "GPU memory of the CARLA server; 0 for unknown."),
        ("growth_bytes_per_h", "worker_growth_bytes_per_hour", "gauge", "Growth of both; 0 while nothing can be said."),
        *((name, f"worker_{name}", "gauge", f"Of its latest steps: {text}.") for name, text in _ENV_PARTS.items()),
        ("seen_s", "worker_seen_seconds", "gauge", "Seconds since its supervisor's last heartbeat."),
    ):
        add(name, kind, meaning, [(who, one[key]) for who, one in labelled if one[key] is not None])


def _labels(labels: Mapping[str, Any]) -> str:
    if not labels:
        return ""
    quoted = [f'{name}="{_escaped(str(value))}"' for name, value in labels.items()]
    return "{" + ",".join(quoted) + "}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


@contextlib.contextmanager
def serving_metrics(address: str, port: int) -> Generator[int]:
    """Serve the metrics of a pool from a thread; gives the port.

    Args:
        address: of the broker.
        port: on the loopback interface; 0 for any free one.

    Raises:
        AddressInUseError: the port is taken.
    """

    class Answer(BaseHTTPRequestHandler):
        timeout = 10.0

        def do_GET(self) -> None:
            """Answer one scrape."""
            found = self.path.partition("?")[0] == "/metrics"
            body = (metrics_text(_ask(address)) if found else "expected /metrics\n").encode()
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", CONTENT_TYPE)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Scrapes are not worth a line."""

    try:
        server = ThreadingHTTPServer((_HOST, port), Answer)
    except OSError as error:
        text = f"cannot serve metrics at {_HOST}:{port}: {error.strerror}; pass another --metrics PORT"
        raise AddressInUseError(error.errno, text) from None
    thread = threading.Thread(target=server.serve_forever, name="zmqcarla-metrics", daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _ask(address: str) -> dict[str, Any] | None:
    try:
        return ask_status(address, _ANSWER_S)
    except ZmqCarlaError:
        return None
