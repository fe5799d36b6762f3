"""Commands that change a running pool: restart, scale, drain."""

from __future__ import annotations

from typing import Annotated

import typer

from zmqcarla.cli_options import OUT, Address


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    for command in (restart, scale, drain):
        app.command()(command)


def restart(
    workers: Annotated[
        list[str], typer.Argument(help="ends of worker ids, e.g. 3; or LEASE/ROW as `status` shows it; or `all`")
    ],
    address: Address = None,
) -> None:
    """Give workers new processes, also those that are down for good; their rows are truncated and go on."""
    from zmqcarla.broker.protocol import default_address
    from zmqcarla.lease import ask_status
    from zmqcarla.orders import find_workers

    where = address or default_address()
    _order(where, "restart", [] if workers == ["all"] else find_workers(workers, ask_status(where)))


def scale(
    workers: Annotated[int, typer.Argument(help="how many workers there are to be", min=1)], address: Address = None
) -> None:
    """Add workers, or take some away; one that is leased goes when its lease ends."""
    from zmqcarla.broker.protocol import default_address

    _order(address or default_address(), "scale", count=workers)


def drain(address: Address = None) -> None:
    """End a pool in good order: no new leases, running ones end, then workers stop, and `up` with the last."""
    from zmqcarla.broker.protocol import default_address

    _order(address or default_address(), "drain")


def _order(where: str, order: str, workers: list[str] | None = None, count: int = 0) -> None:
    from zmqcarla.orders import give_order

    reply = give_order(where, order, workers or [], count)
    for worker in reply.workers:
        OUT.print(f"{worker}: {reply.text}", soft_wrap=True)
    if not reply.workers:
        OUT.print(reply.text, soft_wrap=True)
