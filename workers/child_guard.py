"""A process that cleans up after the children of an AsyncVectorEnv whose own process was killed.

    python -I -S child_guard.py LIFELINE_FD        starter writes lines: "+PID", "-PID", "end"

The starter holds the other end of the pipe. When it closes without an "end" before, the starter is dead: the process
groups that it named and did not take back are killed (with what they started), and the segments of dead owners are
unlinked. It runs by file path and imports only the standard library, so that it starts in some 20 ms.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys

_SWEEP = "from zmqcarla.shm.segment import sweep; sweep()"


def main(arguments: list[str]) -> int:
    """Wait for the end of the lifeline, then clean up unless the starter said that it did."""
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)  # it ends with its starter, never before
    children: set[int] = set()
    with open(int(arguments[0]), encoding="ascii") as lifeline:
        for line in lifeline:
            if line == "end\n":
                return 0
            number = int(line)
            if number > 0:
                children.add(number)
            else:
                children.discard(-number)
    for pid in children:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
    os.execv(sys.executable, [sys.executable, "-c", _SWEEP])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
