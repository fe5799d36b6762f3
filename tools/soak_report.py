"""Tables and a picture of a soak, and whether anything grew."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.table import Column, Table

KINDS: Final = ("up", "broker", "supervisor", "env process", "guard", "simulator")
LIMITS: Final = {
    "up": (4, 8.0),
    "broker": (8, 8.0),
    "supervisor": (8, 16.0),
    "env process": (8, 64.0),
    "guard": (0, 8.0),
    "simulator": (16, 128.0),
    "clients": (8, 24.0),
}
"""How many more file descriptors, and MiB of resident memory, all processes of a kind may have at the end together than
at the start, when all rows step and nobody is troubled. Processes and /dev/shm names: none more, none fewer."""


def growth(begin: list[dict[str, float]], end: list[dict[str, float]]) -> dict[str, tuple[float, float, float | None]]:
    """Medians of two quiet times, and how much more is allowed (None: exactly the same)."""

    def spread(key: str, allowed: float | None) -> tuple[float, float, float | None]:
        first, last = (float(np.median([one.get(key, 0) for one in part])) for part in (begin, end))
        return first, last, allowed

    found = {"segments": spread("segments", None)}
    for kind, (fds, mib) in LIMITS.items():
        found[f"{kind}: processes"] = spread(f"{kind}: processes", None)
        found[f"{kind}: fds"] = spread(f"{kind}: fds", fds)
        found[f"{kind}: MiB"] = spread(f"{kind}: MiB", mib)
    return found


def growth_violations(grown: dict[str, tuple[float, float, float | None]]) -> list[str]:
    """What is more than its limit."""
    return [
        f"{key}: expected {'as many as' if allowed is None else f'at most {allowed:g} more than'} at the start "
        f"({first:.1f}), found {last:.1f}"
        for key, (first, last, allowed) in grown.items()
        if (last != first if allowed is None else last > first + allowed)
    ]


def fault_table(report: dict[str, Any]) -> Table:
    """What was done, and what the ledger has of it: hidden by another fault, or harmless because it had to cause nothing."""
    table = Table(Column("fault", no_wrap=True), title=_headline(report).partition(" (")[0], title_justify="left")
    for name in ("struck", "in the ledger", "hidden", "harmless"):
        table.add_column(name, justify="right")
    ledger = report["ledger"]
    for fault, struck in sorted(report["faults"].items()):
        counts = [ledger[name].get(fault, 0) for name in ("found", "hidden", "harmless")]
        table.add_row(fault, *[str(count or "") for count in (struck, *counts)])
    events = ", ".join(f"{count} {what}" for what, count in report["events"].items())
    table.caption = f"ledger: {events}"
    return table


def client_table(report: dict[str, Any]) -> Table:
    """What the clients saw."""
    table = Table("client")
    for name in ("steps", "rows checked", "episodes", "lost", "longest", "wrong"):
        table.add_column(name, justify="right")
    for client in report["clients"]:
        steps = client["steps"]
        figures = (steps, steps * client.get("rows", 0), client.get("episodes", 0), client["lost"])
        longest = f"{client.get('slowest_s', 0):.1f} s"
        table.add_row(client["kind"], *map(str, figures), longest, str(len(client["violations"])))
    return table


def growth_table(report: dict[str, Any]) -> Table:
    """What pool and clients used at the start and at the end."""
    table = Table(Column("all of a kind", no_wrap=True))
    for name in ("processes", "fds", "at most", "MiB", "at most"):
        table.add_column(name, justify="right")
    for kind, (fds, mib) in LIMITS.items():
        cells = []
        for what, allowed in (("processes", None), ("fds", fds), ("MiB", mib)):
            first, last, _ = report["growth"][f"{kind}: {what}"]
            cells += [f"{first:.0f} -> {last:.0f}", *([] if allowed is None else [f"+{allowed:g}"])]
        table.add_row(kind, *cells)
    first, last, _ = report["growth"]["segments"]
    table.caption = f"/dev/shm names {first:.0f} -> {last:.0f}; the pool ended {report['stop_s']:.1f} s after SIGTERM"
    return table


def plot(report: dict[str, Any], path: Path) -> None:
    """Steps per second, memory and processes over time, with the faults."""
    import matplotlib  # noqa: PLC0415 - an extra

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt  # noqa: PLC0415

    at = np.array([one["at"] for one in report["samples"]]) / 60
    samples = report["samples"]
    figure, axes = plt.subplots(3, 1, figsize=(12, 9), sharex=True, constrained_layout=True)
    for kind, colour in (("counting", "tab:blue"), ("carla", "tab:orange")):
        steps = np.array([one[f"{kind}_steps"] for one in report["samples"]])
        seconds = np.maximum(np.diff(at) * 60, 1e-6)
        axes[0].step(at[1:], np.maximum(np.diff(steps), 0) / seconds + 0.1, where="pre", color=colour, label=kind, lw=1)
    axes[0].set(ylabel="vector steps/s", yscale="log", title=_headline(report))
    for kind in (*KINDS, "clients"):
        axes[1].plot(at, [one.get(f"{kind}: MiB", 0) for one in samples], label=kind, lw=1)
    axes[1].set(ylabel="resident MiB", ylim=(0, None))
    for what in ("processes", "fds"):
        totals = [sum(one.get(f"{kind}: {what}", 0) for kind in KINDS) for one in samples]
        axes[2].plot(at, totals, label=f"{what} of the pool", lw=1)
    axes[2].plot(at, [one["segments"] for one in samples], label="/dev/shm names", lw=1)
    axes[2].set(ylabel="count", xlabel="minutes", ylim=(0, None))
    colours = dict(zip(("kill", "stop", "restart"), ("tab:red", "tab:gray", "tab:green"), strict=True))
    for fault in report["fault_list"]:
        deed, _, kind = fault["fault"].partition(" ")
        for axis in axes:
            thick = 1.4 if kind in ("supervisor", "broker") else 0.5
            axis.axvline(fault["at"] / 60, color=colours[deed], alpha=0.35, lw=thick, zorder=0)
    for axis in axes:
        axis.legend(loc="upper right", fontsize=8)
        axis.grid(alpha=0.2)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _headline(report: dict[str, Any]) -> str:
    return (
        f"{report['workers']} workers, {report['minutes']:.1f} minutes, {sum(report['faults'].values())} faults "
        f"(red killed, gray stopped, green restarted; thick: broker, supervisor), {report['rows_lost']} rows lost, "
        f"{len(report['violations'])} violations"
    )
