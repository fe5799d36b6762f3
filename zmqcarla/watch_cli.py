"""Commands that look at a pool and its machine: status, top, events, doctor, and clean."""

from __future__ import annotations

import json
import os
from typing import Annotated, Any

import typer

from zmqcarla.cli_options import OUT, Address
from zmqcarla.keys_cli import Insecure, Keys


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    for command in (status, top, events, doctor, clean):
        app.command()(command)


def status(
    address: Address = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the numbers as JSON")] = False,
    keys: Keys = None,
    insecure: Insecure = False,
) -> None:
    """Show the workers, leases and queue of a pool."""
    from zmqcarla.broker.protocol import default_address
    from zmqcarla.lease import ask_status
    from zmqcarla.watch.status import pool_view

    pool = ask_status(address or default_address())
    if as_json:
        print(json.dumps(pool, indent=2))
    else:
        OUT.print(pool_view(pool, OUT.width))


def top(
    interval: Annotated[float, typer.Option(help="seconds between two looks", min=0.1)] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="print one frame, after two looks, and end")] = False,
    address: Address = None,
    keys: Keys = None,
    insecure: Insecure = False,
) -> None:
    """Watch a pool live: steps per second, memory, restarts, leases, queue. Ctrl-C ends it."""
    from zmqcarla.broker.protocol import default_address
    from zmqcarla.watch.top import watch

    watch(address or default_address(), OUT, interval, once=once)


def events(
    last: Annotated[int, typer.Option(help="how many at most", min=1)] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="print them as JSON, with all they say")] = False,
) -> None:
    """Show what became of this user's workers: losses, restarts, servers that did not come up."""
    from zmqcarla.watch.events import read_events, show_events
    from zmqcarla.workers.ledger import aside, ledger_path

    path = ledger_path()
    show_events(read_events([aside(path), path], last), OUT, as_json=as_json)


def doctor(
    workers: Annotated[int, typer.Option(help="how many workers are wanted", min=1)] = 4,
    base_port: Annotated[int, typer.Option(help="RPC port of worker 0; each takes 4 ports")] = 2000,
    carla_root: Annotated[str | None, typer.Option(envvar="CARLA_ROOT", help="folder with CarlaUE4.sh")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the findings as JSON")] = False,
) -> None:
    """Check whether N workers will run on this machine; exit code 1 when something will fail."""
    from zmqcarla.broker.address import abandoned_sockets
    from zmqcarla.shm.segment import abandoned
    from zmqcarla.watch.checkouts import examine_checkouts
    from zmqcarla.watch.doctor import Wanted, examine
    from zmqcarla.watch.report import show_findings
    from zmqcarla.workers.ports import busy_blocks

    findings = examine(
        Wanted(workers, carla_root, base_port),
        _default_observation_space,
        busy_blocks(base_port, workers),
        abandoned() + abandoned_sockets(),
    )
    findings += examine_checkouts(os.environ)
    raise typer.Exit(show_findings(findings, OUT, as_json=as_json))


def clean() -> None:
    """Remove shared memory and sockets whose owners are dead; nothing that lives is touched."""
    from zmqcarla.broker.address import sweep_sockets
    from zmqcarla.shm.segment import sweep

    removed = sweep() + sweep_sockets()
    for name in removed:
        OUT.print(f"removed {name}", soft_wrap=True)
    OUT.print(f"{len(removed)} leftovers removed")


def _default_observation_space() -> Any:
    from zmqcarla.workers.config import CarlaEnvConfig
    from zmqcarla.workers.observation import Observer

    return Observer(CarlaEnvConfig(simulator="embedded")).space
