"""A CARLA release that is none: CarlaUE4.sh with its arguments and its habits, and the embedded simulator inside.

Like the real script it is a shell that waits for a child, and like UnrealEngine the child does not mind SIGTERM. What
goes wrong stands in a file of the release: each start takes the next line of `plan` and does that.

    crash               ends by a signal before it listens
    hang                never listens
    late SECONDS        begins to load only then
    grow MIB            takes so much more memory with each tick
    --fault=FAULT       as for `zmqcarla sim`; may follow after `late SECONDS`
"""

from __future__ import annotations

import fcntl
import shlex
import signal
import sys
import threading
from pathlib import Path

from zmqcarla.sim import faults
from zmqcarla.sim.__main__ import main as run_simulator
from zmqcarla.sim.launcher import translate

PLAIN = "plain"


def install(folder: Path, *plan: str) -> str:
    """Write the release into a folder; the starts after those of the plan are plain ones. Returns its path."""
    script = folder / "CarlaUE4.sh"
    program = f"{shlex.quote(sys.executable)} {shlex.quote(str(Path(__file__).resolve()))}"
    script.write_text(f'#!/bin/sh\n{program} {shlex.quote(str(folder))} CarlaUE4 "$@"\nexit $?\n')
    script.chmod(0o755)
    (folder / "plan").write_text("".join(f"{line}\n" for line in plan))
    return str(folder)


def starts(folder: str) -> list[list[str]]:
    """The arguments of each start so far."""
    log = Path(folder, "starts")
    return [shlex.split(line) for line in log.read_text().splitlines()] if log.exists() else []


def _next_of_plan(folder: Path) -> str:
    with (folder / "plan").open("r+") as plan:
        fcntl.flock(plan, fcntl.LOCK_EX)
        first, *rest = [*plan.read().splitlines(), PLAIN]
        plan.seek(0)
        plan.truncate()
        plan.write("".join(f"{line}\n" for line in rest[:-1]))
    return first


def _grow_with_ticks(mib: int) -> None:
    hoard: list[bytes] = []
    before_tick = faults.Faults.before_tick

    def grow(self: faults.Faults) -> None:
        hoard.append(b"x" * (mib << 20))
        before_tick(self)

    faults.Faults.before_tick = grow  # type: ignore[method-assign]


def main(folder: Path, arguments: list[str]) -> int:
    """One start."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    with (folder / "starts").open("a") as log:
        log.write(shlex.join(arguments) + "\n")
    told, _, value = _next_of_plan(folder).partition(" ")
    match told:
        case "crash":
            faults.crash("at its start")
        case "hang":
            threading.Event().wait()
        case "late":
            seconds, _, told = value.partition(" ")
            threading.Event().wait(float(seconds))
        case "grow":
            _grow_with_ticks(int(value))
        case _:
            pass
    fault = [told] if told.startswith("--fault=") else []
    ours, _ = translate(arguments)
    return run_simulator([*ours, "--map", "default", *fault])


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[3:]))
