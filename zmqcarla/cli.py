"""The command line. Each command fills the config of its room and runs it; only in these files do all rooms meet.

The commands stand in files by topic (`*_cli.py`). Errors of ours are printed without a traceback and end with exit
code 2; Ctrl-C ends every command cleanly.
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn

import typer

from zmqcarla import config_cli, evaluate_cli, keys_cli, orders_cli, pool_cli, watch_cli
from zmqcarla.cli_options import OUT

app = typer.Typer(
    name="zmqcarla",
    help="N CARLA servers as one gymnasium.vector.VectorEnv.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
pool_cli.register(app)
config_cli.register(app)
orders_cli.register(app)
watch_cli.register(app)
evaluate_cli.register(app)
keys_cli.register(app)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True}, add_help_option=False)
def sim(context: typer.Context) -> None:
    """Run the embedded simulator, a server that speaks CARLA's protocol (--port, --map, --maps, --fault, --help)."""
    command = [sys.executable, "-m", "zmqcarla.sim", *context.args]
    os.execv(sys.executable, command)


@app.command()
def version() -> None:
    """Show the versions that matter in a bug report."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as version_of

    from zmqcarla.broker.protocol import PROTOCOL

    OUT.print(f"zmqcarla {version_of('zmqcarla')} (protocol {PROTOCOL}), Python {sys.version.split()[0]}")
    for package in ("carla", "gymnasium", "numpy", "pyzmq", "msgpack", "posix_ipc", "opencv-python-headless"):
        try:
            OUT.print(f"{package} {version_of(package)}")
        except PackageNotFoundError:
            OUT.print(f"{package} is not installed")


def main() -> NoReturn:
    """Entry point of the `zmqcarla` command."""
    from zmqcarla.broker.errors import ZmqCarlaError

    try:
        app()
    except ZmqCarlaError as error:
        print(f"zmqcarla: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(0)


if __name__ == "__main__":
    main()
