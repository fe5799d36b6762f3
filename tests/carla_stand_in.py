"""A CARLA release that is none: CarlaUE4.sh with its arguments and its habits, and the embedded simulator inside.

Like the real script it is a shell that waits for a child, and like UnrealEngine the child does not mind SIGTERM. What
goes wrong stands in a file of the release: each start takes the next line of `plan` and does that.

    crash               ends by a signal before it listens
    hang                never listens
    late SECONDS        begins to load only then
    grow MIB            takes so much more memory each 50 ms, up to 300 MiB
    --fault=FAULT       as for `zmqcarla sim`
"""

from __future__ import annotations

import fcntl
import os
import shlex
import signal
import sys
import threading
from pathlib import Path

from zmqcarla.sim.__main__ import main as run_simulator
from zmqcarla.sim.faults import crash
from zmqcarla.sim.launcher import translate

PLAIN = "plain"
_MOST_MIB = 300


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


def _grow(mib: int) -> None:
    hoard: list[bytearray] = []
    while sum(map(len, hoard)) < _MOST_MIB << 20:
        hoard.append(bytearray(os.urandom(1) * (mib << 20)))
        threading.Event().wait(0.05)
    threading.Event().wait()


def main(folder: Path, arguments: list[str]) -> int:
    """One start."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    with (folder / "starts").open("a") as log:
        log.write(shlex.join(arguments) + "\n")
    told, _, value = _next_of_plan(folder).partition(" ")
    match told:
        case "crash":
            crash("at its start")
        case "hang":
            threading.Event().wait()
        case "late":
            threading.Event().wait(float(value))
        case "grow":
            threading.Thread(target=_grow, args=(int(value),), daemon=True).start()
        case _:
            pass
    faults = [told] if told.startswith("--fault=") else []
    ours, _ = translate(arguments)
    return run_simulator([*ours, "--map", "default", *faults])


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[3:]))
