"""The configuration file of `zmqcarla up`, and the commands about it: config init, check, show."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from zmqcarla.cli_options import OUT

if TYPE_CHECKING:
    from zmqcarla.config_file import Section

_OF_THE_POOL: Final = frozenset({"worker_id", "gpu", "port", "connect", "seed", "start_delay_s"})
"""Fields of WorkerConfig that differ from worker to worker: the pool sets them."""
_HEAD: Final = (
    "Settings of `zmqcarla up --config FILE`. Every line that is commented out shows a default; options of the command "
    "line count more than the file. `zmqcarla config check FILE` says what is wrong with one."
)

File = Annotated[Path, typer.Argument(help="TOML file")]


def register(app: typer.Typer) -> None:
    """Add `config` with its commands."""
    config = typer.Typer(help="Write and check the configuration file of `up`.", no_args_is_help=True)
    for command in (init, check, show):
        config.command()(command)
    app.add_typer(config, name="config")


def init(
    file: Annotated[Path | None, typer.Argument(help="where to write; default: print")] = None,
    force: Annotated[bool, typer.Option("--force", help="replace the file")] = False,
) -> None:
    """Write a file with every setting, its meaning and its default."""
    from zmqcarla.config_file import template

    text = template(_sections(), _HEAD)
    if file is None:
        print(text, end="")
        return
    if file.exists() and not force:
        raise typer.BadParameter(f"{file} exists; --force replaces it")
    file.write_text(text, encoding="utf-8")
    OUT.print(f"wrote {file}; start with `zmqcarla up --config {file}`", soft_wrap=True)


def check(file: File) -> None:
    """Say whether a file is right: tables, keys, types and values."""
    told = read_settings(file)
    count = sum(len(table) for table in told.values())
    OUT.print(f"{file}: {count} settings, nothing wrong", soft_wrap=True)


def show(file: File) -> None:
    """Print all settings as `up` would take them, those of the file and the defaults."""
    from zmqcarla.config_file import as_toml

    told = read_settings(file)
    tables = {
        section.name: {name: told[section.name].get(name, field.default) for name, field in section.fields().items()}
        for section in _sections()
    }
    print(as_toml(tables))


def read_settings(file: Path | None) -> dict[str, dict[str, Any]]:
    """What a file sets of [pool] and [worker]; nothing without a file.

    Raises:
        ConfigError: the file or a setting in it is not what it has to be.
    """
    from zmqcarla.broker.errors import ConfigError
    from zmqcarla.config_file import read_config
    from zmqcarla.pool_settings import PoolSettings

    if file is None:
        return {section.name: {} for section in _sections()}
    told = read_config(file, _sections())
    try:
        PoolSettings(**told["pool"]).gpu_numbers((), None)
        check_worker(told["worker"])
    except ValueError as error:
        raise ConfigError(f"{file}: {error}") from None
    return told


def check_worker(settings: dict[str, Any]) -> None:
    """Raise ValueError, naming the setting, unless a worker can have these."""
    from zmqcarla.workers.worker_config import WorkerConfig

    WorkerConfig(worker_id="any", **settings)


def _sections() -> list[Section]:
    from zmqcarla.config_file import Section
    from zmqcarla.pool_settings import PoolSettings
    from zmqcarla.workers.worker_config import WorkerConfig

    return [Section("pool", PoolSettings), Section("worker", WorkerConfig, _OF_THE_POOL)]
