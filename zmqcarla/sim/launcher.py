"""A CarlaUE4.sh that starts the embedded simulator, for programs that start CARLA themselves from CARLA_ROOT.

`install` writes the script; the script runs this module, which reads CARLA's arguments and starts the simulator in the
same process, so that who kills the script kills the simulator.
"""

import shlex
import sys
from pathlib import Path

NAME = "CarlaUE4.sh"
DEFAULT_MAP = "Town10HD_Opt"
"""The map that CARLA starts with."""

_MARK = "starts the embedded simulator of zmqcarla"
# what only concerns windows, sound and graphics cards
_MEANINGLESS = frozenset(
    {
        "benchmark",
        "carla-server",
        "carla-streaming-port",  # 0: any
        "fullscreen",
        "graphicsadapter",
        "no-rendering",
        "nosound",
        "nullrhi",
        "nocursor",
        "noterminal",
        "opengl",
        "prefernvidia",
        "quality-level",
        "renderoffscreen",
        "resx",
        "resy",
        "stdout",
        "unattended",
        "vulkan",
        "windowed",
    }
)


class InstallError(Exception):
    """The script cannot be written; the text says why."""


def install(folder: Path) -> Path:
    """Write the script into a folder, which is made if need be; returns its path.

    Raises:
        InstallError: a script of that name is there that is not ours, or the folder cannot be written.
    """
    path = folder / NAME
    if path.exists() and _MARK not in path.read_text(errors="replace"):
        raise InstallError(f"{path} is there and is not ours (a CARLA release?); pass another folder")
    text = (
        "#!/bin/sh\n"
        f"# {_MARK}; it takes CarlaUE4's arguments\n"
        'CARLA_ROOT="${CARLA_ROOT:-$(cd "$(dirname "$0")" && pwd)}"\n'
        "export CARLA_ROOT\n"
        f'exec {shlex.quote(sys.executable)} -m zmqcarla.sim.launcher "$@"\n'
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    except OSError as error:
        raise InstallError(f"cannot write {path}: {error}") from error
    return path


def translate(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Our arguments for CARLA's, and those of CARLA's that mean nothing to anybody here.

    Args:
        arguments: as CarlaUE4.sh gets them. Unreal takes one dash or two and any case; what has none is the map.
    """
    ours = {"--map": DEFAULT_MAP}
    unknown: list[str] = []
    for argument in arguments:
        name, _, value = argument.lstrip("-").partition("=")
        match name.lower():
            case _ if not argument.startswith("-"):
                ours["--map"] = argument
            case "carla-rpc-port" | "carla-port" | "carla-world-port" | "world-port":
                ours["--port"] = value
            case "carla-streaming-port" if value not in ("", "0"):
                ours["--streaming-port"] = value
            case other if other not in _MEANINGLESS:
                unknown.append(argument)
            case _:
                pass
    return [word for option in ours.items() for word in option], unknown


def run(arguments: list[str]) -> int:
    """Start the simulator with CARLA's arguments; returns the exit code."""
    from zmqcarla.sim.__main__ import main  # noqa: PLC0415  which imports this module

    ours, unknown = translate(arguments)
    if unknown:
        print(f"{NAME}: not known to the embedded simulator and passed over: {' '.join(unknown)}", file=sys.stderr)
    return main(ours)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
