"""The guard ends the whole process group of its command when the starter is gone, and passes on the exit status."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from zmqcarla.workers import servers

GUARD = str(servers._GUARD)  # pyright: ignore[reportPrivateUsage]
TWO_SLEEPERS = ["sh", "-c", "sleep 1000 & sleep 1000"]
STUBBORN = ["sh", "-c", "trap '' TERM; touch $0; while :; do sleep 1; done"]

STARTER = """
import socket, subprocess, sys, time
ours, theirs = socket.socketpair()
guard = subprocess.Popen(
    [sys.executable, "-I", "-S", sys.argv[1], "--lifeline-fd", str(theirs.fileno()), "--", *sys.argv[2:]],
    pass_fds=(theirs.fileno(),), start_new_session=True,
)
theirs.close()
print(ours.recv(32).decode().strip(), flush=True)
time.sleep(1000)
"""


def start_guard(command: list[str]) -> tuple[subprocess.Popen[bytes], socket.socket, int]:
    ours, theirs = socket.socketpair()
    with theirs:
        guard = subprocess.Popen(
            [sys.executable, "-I", "-S", GUARD, "--lifeline-fd", str(theirs.fileno()), "--", *command],
            pass_fds=(theirs.fileno(),),
            start_new_session=True,
        )
    ours.settimeout(10.0)
    return guard, ours, int(ours.recv(32))


def group_is_gone(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def wait_until(condition: Callable[[], bool], timeout_s: float = 15.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.01)


@pytest.mark.parametrize(("command", "status"), [(["sh", "-c", "exit 3"], 3), (["sh", "-c", "kill -9 $$"], 137)])
def test_the_exit_status_of_the_command_is_passed_on(command: list[str], status: int) -> None:
    guard, lifeline, _ = start_guard(command)
    with lifeline:
        assert guard.wait(15.0) == status


def test_a_command_that_does_not_exist_ends_with_127() -> None:
    guard, lifeline, _ = start_guard(["/nonexistent/program"])
    with lifeline:
        assert guard.wait(15.0) == 127


def test_closing_the_lifeline_ends_the_whole_group() -> None:
    guard, lifeline, group = start_guard(TWO_SLEEPERS)
    assert not group_is_gone(group)
    lifeline.close()
    assert guard.wait(15.0) == 128 + signal.SIGTERM
    wait_until(lambda: group_is_gone(group))


def test_a_command_that_ignores_sigterm_is_killed_after_the_grace(tmp_path: Path) -> None:
    guard, lifeline, group = start_guard([*STUBBORN, str(tmp_path / "ready")])
    wait_until((tmp_path / "ready").exists)
    lifeline.close()
    assert guard.wait(20.0) == 128 + signal.SIGKILL
    wait_until(lambda: group_is_gone(group))


def test_sigterm_to_the_guard_ends_the_whole_group() -> None:
    guard, lifeline, group = start_guard(TWO_SLEEPERS)
    with lifeline:
        guard.terminate()
        assert guard.wait(15.0) == 128 + signal.SIGTERM
        wait_until(lambda: group_is_gone(group))


def test_nothing_outlives_a_starter_that_was_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", STARTER, GUARD, *TWO_SLEEPERS], stdout=subprocess.PIPE) as starter:
        assert starter.stdout is not None
        group = int(starter.stdout.readline())
        assert not group_is_gone(group)
        starter.kill()
    wait_until(lambda: group_is_gone(group))
