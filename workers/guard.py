"""A process that keeps a CARLA server from outliving whoever started it.

    python -I -S guard.py --lifeline-fd N -- command...

The starter holds one end of a socket pair, this process the other (N). When the starter ends, however it ends, the
kernel closes its end, and the guard ends the whole process group of the command: SIGTERM, three seconds, SIGKILL.
PR_SET_PDEATHSIG would not do: CarlaUE4.sh does not exec, so the signal would reach the shell and leave the binary.

The guard writes the command's pid as one decimal line into the lifeline. Its exit status is the command's, or
128 + signal. It runs by file path and imports only the standard library, so that it starts in some 20 ms.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys

GRACE_S = 3.0
"""Seconds between SIGTERM and SIGKILL."""


class _Stop(BaseException):
    """Raised by SIGTERM."""


def guard(lifeline_fd: int, command: list[str]) -> int:
    """Run `command` in a process group of its own until it ends or the lifeline does.

    Args:
        lifeline_fd: our end of the socket pair; end of file on it means that the starter is gone.
        command: program and arguments.

    Returns:
        The command's exit status, or 128 + signal number.
    """
    # Held back until each side has its own handler: the child must not run ours.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    if os.getsid(0) != os.getpid():
        os.setsid()
    os.set_inheritable(lifeline_fd, False)
    child = os.fork()
    if child == 0:
        _become(command)
    # Parent and child both do it, so that the group exists for whichever needs it first; the child may have become
    # the command already.
    with contextlib.suppress(OSError):
        os.setpgid(child, child)
    exited = os.pidfd_open(child)
    signal.signal(signal.SIGTERM, _stop)
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        os.write(lifeline_fd, b"%d\n" % child)
        _wait_for_either(exited, lifeline_fd)
    except (_Stop, OSError):
        pass
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return _end_group(child, exited)


def _become(command: list[str]) -> None:
    """In the forked child: take an own process group and turn into `command`; never returns."""
    try:
        os.setpgid(0, 0)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        os.execvp(command[0], command)
    except OSError as error:
        sys.stderr.write(f"guard: cannot start {command[0]}: {error.strerror}\n")
        sys.stderr.flush()
    os._exit(127)


def _wait_for_either(exited: int, lifeline_fd: int) -> None:
    poller = select.poll()
    poller.register(exited, select.POLLIN)
    poller.register(lifeline_fd, select.POLLIN)
    while True:
        ready = dict(poller.poll())
        if exited in ready:
            return
        if lifeline_fd in ready and os.read(lifeline_fd, 4096) == b"":
            return


def _end_group(child: int, exited: int) -> int:
    """End what is left of the group, reap the child and return its status."""
    os.killpg(child, signal.SIGTERM)
    poller = select.poll()
    poller.register(exited, select.POLLIN)
    poller.poll(GRACE_S * 1000.0)
    # The leader stays a zombie until it is reaped below, so the group's number cannot have passed to strangers.
    os.killpg(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _stop(number: int, frame: object) -> None:
    raise _Stop


def main(arguments: list[str]) -> int:
    """Parse the command line and guard."""
    if len(arguments) < 4 or arguments[0] != "--lifeline-fd" or arguments[2] != "--":
        sys.stderr.write("expected: guard.py --lifeline-fd N -- command...\n")
        return 2
    return guard(int(arguments[1]), arguments[3:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
