"""What the commands share: options, and checks that turn a room's refusal into a usage error."""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Generator
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

OUT = Console()

Address = Annotated[
    str | None,
    typer.Option(envvar="ZMQCARLA_ADDRESS", help="ipc:///path or tcp://HOST:PORT; default: this user's socket"),
]


class Simulator(str, enum.Enum):
    """What a worker drives."""

    EMBEDDED = "embedded"
    CARLA = "carla"
    NONE = "none"


class LogFormat(str, enum.Enum):
    """How a process writes its log."""

    TEXT = "text"
    JSON = "json"


def simulator_of(
    chosen: Simulator | None, carla_root: str | None, connect: str | None
) -> Literal["embedded", "carla", "none"]:
    """The simulator that the options mean."""
    if chosen is not None:
        return chosen.value
    return "carla" if carla_root or connect else "embedded"


def gpu_list(text: str) -> tuple[int, ...]:
    """GPU numbers such as 0,0,1,1."""
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise typer.BadParameter(f"expected numbers such as 0,1, found {text!r}") from None


def check_startable(simulator: str, carla_root: str | None, first: int | None, workers: int) -> None:
    """A missing CARLA or a busy port is an error here and not in a worker's log."""
    from zmqcarla.workers import ports
    from zmqcarla.workers.servers import carla_script

    if simulator == "carla":
        carla_script(carla_root)
    if first is not None and simulator != "none":
        for index in range(workers):
            ports.claim(first + ports.BLOCK_SIZE * index).release()


def checked_map(path: str | None) -> str | None:
    """The absolute path of a readable OpenDRIVE file, so that a bad one is an error here and not in a worker's log."""
    if path is None:
        return None
    from zmqcarla.workers.session import read_opendrive

    read_opendrive(path)
    return str(Path(path).resolve())


@contextlib.contextmanager
def options_checked() -> Generator[None]:
    """An option that a room refuses is a usage error and not a traceback."""
    try:
        yield
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
