"""What is left of a session of processes whose leader has ended, and its end.

SIGKILL only asks: until the kernel has taken a process down it holds its ports, and one with tens of gigabytes takes
its time. As long as the leader is not reaped, the session's number cannot pass to strangers.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal


def living(session: int) -> list[int]:
    """Pids of the processes of a session that have not ended, whoever their parent is.

    One that has ended and waits to be reaped does not count, for it holds nothing any more. (The letter Z in /proc
    would not tell: it also stands for a first thread that ended before the others.)
    """
    return [pid for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))) if _lives_in(pid, session)]


def kill(session: int) -> list[int]:
    """Send SIGKILL to every process of a session; returns those that have not ended yet, to be asked again."""
    for pid in living(session):
        with contextlib.suppress(ProcessLookupError, PermissionError):  # another user's, by a setuid program
            os.kill(pid, signal.SIGKILL)
    return living(session)


def _lives_in(pid: int, session: int) -> bool:
    try:
        if os.getsid(pid) != session:
            return False
        ended = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    except OSError:  # no file left to look closer with
        return True
    try:
        look = select.poll()
        look.register(ended, select.POLLIN)
        return not look.poll(0)
    finally:
        os.close(ended)
