"""Commands for keys: `zmqcarla keygen`, `authorize`, `revoke`; and the options that say which keys a command uses.

The options put what they are told into the environment, where the processes that a command starts find it as well.
"""

from __future__ import annotations

import os
from typing import Annotated

import typer

from zmqcarla.broker.protocol import INSECURE_VARIABLE, KEYS_VARIABLE, key_folder


def _use_keys(folder: str | None) -> str | None:
    if folder is not None:
        os.environ[KEYS_VARIABLE] = os.path.abspath(folder)
    return folder


def _use_none(insecure: bool) -> bool:
    if insecure:
        os.environ[INSECURE_VARIABLE] = "1"
    return insecure


Keys = Annotated[
    str | None,
    typer.Option(
        "--keys", callback=_use_keys, help=f"folder of keys; default: {KEYS_VARIABLE}, else ~/.config/zmqcarla/keys"
    ),
]
Insecure = Annotated[
    bool,
    typer.Option("--insecure", callback=_use_none, help="plain tcp beyond this host: whoever reaches it may use it"),
]


def keygen(
    broker: Annotated[str | None, typer.Option(help="key of the broker, on every host but its own")] = None,
    keys: Keys = None,
) -> None:
    """Make this user's keys, or show them; nothing that is there is replaced."""
    folder = key_folder()
    folder.make(broker)
    print(f"keys in {folder.path}")
    print(f"this user's key:    {folder.client_key}")
    print(f"the broker's key:   {folder.broker_key}")
    if not folder.serves:
        print(f"on the broker's host: zmqcarla authorize {folder.client_key} NAME")
        return
    for key, name in folder.allowed().items():
        print(f"allowed:            {key} {name}")
    print(f"on another host: zmqcarla keygen --broker {folder.broker_key}")


def authorize(
    key: Annotated[str, typer.Argument(help="what `zmqcarla keygen` printed on the other host")],
    name: Annotated[str, typer.Argument(help="under which it is listed")],
    keys: Keys = None,
) -> None:
    """Allow a key to use the pools of this host; a running broker hears of it at once."""
    key_folder().authorize(key, name)
    print(f"{name} may use this host's pools")


def revoke(
    name: Annotated[str, typer.Argument(help="name or key")],
    keys: Keys = None,
) -> None:
    """Allow a key no longer: its leases and workers end, also in a running broker."""
    key = key_folder().revoke(name)
    print(f"{key} may no longer use this host's pools")


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    for command in (keygen, authorize, revoke):
        app.command()(command)
