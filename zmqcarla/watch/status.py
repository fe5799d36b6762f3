"""A pool as a table, from `LeaseTable.statistics`: what `zmqcarla status` prints once and `zmqcarla top` repeats."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from zmqcarla.broker.protocol import ENV_PARTS, STEP_TIMES

_WIDE: Final = 110
"""Terminals from here on have room for all columns."""
_NARROW_ID: Final = 16
_STATE_STYLES: Final = {"ready": "green", "starting": "cyan", "lost": "yellow", "gone": "bold red"}

Worker = Mapping[str, Any]
_Where = Literal["always", "wide", "wide or status"]
_Column = tuple[str, bool, _Where, Callable[[Worker], str]]
"""Heading, whether it holds numbers, where it is shown, the cell of a worker."""


def pool_view(pool: Mapping[str, Any], width: int, rates: Mapping[str, float] | None = None) -> RenderableType:
    """Workers, leases and queue.

    Args:
        pool: as `zmqcarla.lease.ask_status` returns it.
        width: of the terminal, in characters.
        rates: steps per second by worker id, for a column of their own; None leaves it out.
    """
    return Group(
        _workers_table(pool["workers"], width, rates),
        *[Text(_leak_line(worker), style="yellow") for worker in pool["workers"] if worker["leaks"]],
        *[Text(line) for lease in pool["leases"] for line in _lease_lines(lease)],
        *_spare_lines(pool),
        *[Text(_queue_line(request)) for request in pool["queue"]],
    )


def _workers_table(workers: list[Worker], width: int, rates: Mapping[str, float] | None) -> Table:
    wide = width >= _WIDE
    shown = (
        {"always", "wide", "wide or status"}
        if wide
        else {"always"}
        if rates is not None
        else {"always", "wide or status"}
    )
    columns = [column for column in _columns(rates, wide=wide) if column[2] in shown]
    table = Table(box=None, padding=(0, 1 + wide, 0, 0), pad_edge=False)
    for heading, numeric, _, _ in columns:
        table.add_column(heading, justify="right" if numeric else "left", no_wrap=True)
    for worker in workers:
        cells = [Text(cell(worker)) for *_, cell in columns]
        cells[1].stylize(_STATE_STYLES.get(worker["state"], ""))
        table.add_row(*cells)
    return table


def _columns(rates: Mapping[str, float] | None, *, wide: bool) -> list[_Column]:
    limit = 1000 if wide else _NARROW_ID
    columns: list[_Column] = [
        ("worker", False, "always", lambda worker: _tail(worker["worker_id"], limit)),
        ("state", False, "always", _state),
        ("phase", False, "wide" if rates is None else "always", lambda worker: worker["phase"] or "-"),
        ("gpu", True, "wide or status", lambda worker: _or_dash(worker["gpu"])),
        ("port", True, "wide or status", lambda worker: _or_dash(worker["port"])),
        ("pid", True, "wide or status", lambda worker: str(worker["pid"])),
        ("restarts", True, "always", lambda worker: str(worker["restarts"])),
        (
            "lease/row",
            False,
            "always",
            lambda worker: f"{worker['lease'][:8]}/{worker['row']}" if worker["lease"] else "-",
        ),
        ("RSS MiB", True, "always", lambda worker: _mib(worker["env_rss_bytes"], worker["server_rss_bytes"])),
        ("MiB/h", True, "wide", _growth),
        ("server", True, "wide", lambda worker: _mib(worker["server_rss_bytes"])),
        ("VRAM", True, "wide", lambda worker: _mib(worker["server_vram_bytes"])),
        ("tick+rend+obs", True, "wide", lambda one: "+".join([ms for _, ms in _env_parts(one)]) or "-"),
        ("simulator", False, "wide", lambda worker: worker["simulator"]),
        ("host", False, "wide", lambda worker: worker["host"]),
        ("seen s", True, "wide", lambda worker: "-" if worker["seen_s"] is None else f"{worker['seen_s']:.1f}"),
    ]
    if rates is None:
        columns.append(("steps", True, "wide", lambda worker: _or_dash(worker["steps"])))
    else:
        columns.insert(3, ("steps/s", True, "always", lambda worker: _rate(rates.get(worker["worker_id"]))))
    return columns


def _state(worker: Worker) -> str:
    """Starting, ready, retiring, lost or gone; with a mark when its memory grows without end."""
    state = "retiring" if worker["retiring"] and worker["state"] == "ready" else worker["state"]
    return f"{state}{'!' * bool(worker['leaks'])}"


def _growth(worker: Worker) -> str:
    growth_bytes = worker["growth_bytes_per_h"]
    return f"{growth_bytes / 2**20:+.0f}" if growth_bytes else "-"


def _tail(text: str, limit: int) -> str:
    """The end of an id tells workers apart, its beginning is the host's name."""
    return text if len(text) <= limit else "…" + text[1 - limit :]


def _or_dash(value: int | None) -> str:
    return "-" if value is None else str(value)


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _mib(*sizes_bytes: int | None) -> str:
    total_bytes = sum(size or 0 for size in sizes_bytes)
    return f"{total_bytes / 2**20:.0f}" if total_bytes else "-"


def _leak_line(worker: Worker) -> str:
    growth = f"{worker['growth_bytes_per_h'] / 2**20:+.0f} MiB/h"
    return f"! {worker['worker_id']}: {worker['leaks']} grows without end, {growth}"


def _spare_lines(pool: Mapping[str, Any]) -> list[Text]:
    """Free workers beside leases can take over rows whose worker is gone."""
    free = sum(
        worker["state"] == "ready" and not worker["lease"] and not worker["retiring"] for worker in pool["workers"]
    )
    return [Text(f"spare: {free} free worker{'s' * (free != 1)}")] if free and pool["leases"] else []


def _lease_lines(lease: Mapping[str, Any]) -> list[str]:
    """Who it is, and where the time of its steps goes."""
    lines = [
        f"lease {lease['lease'][:8]}: {lease['num_envs']} x {lease['env_id']}, {lease['commands']} commands, "
        f"{lease['age_s']:.0f} s old, heard {lease['silent_s']:.1f} s ago"
    ]
    if lease["step_p50_ms"] is not None:
        step, p99, env, transport, policy = (_ms(lease[name]) for name in STEP_TIMES)
        parts = f"env {env}, transport {transport}; policy {policy}"
        lines.append(f"  step {step} ms (p99 {p99}): {parts}")
    if lease["tick_ms"] is not None:
        lines.append("  slowest env: " + ", ".join([f"{name} {ms}" for name, ms in _env_parts(lease)]))
    return lines


def _env_parts(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(name.removesuffix("_ms"), _ms(values[name])) for name in ENV_PARTS if values[name] is not None]


def _ms(value_ms: float) -> str:
    return f"{value_ms:.2f}" if value_ms < 1 else f"{value_ms:.1f}" if value_ms < 100 else f"{value_ms:.0f}"


def _queue_line(request: Mapping[str, Any]) -> str:
    return f"waiting: {request['num_envs']} x {request['env_id']} for {request['waiting_s']:.0f} s"
