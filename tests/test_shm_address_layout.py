"""Processes that lie alike in memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from zmqcarla.shm.address_layout import same_address_layout

# The stack, for the program itself always lies at the same place where Python is not position-independent.
WHERE = (sys.executable, "-c", "print(next(line for line in open('/proc/self/maps') if '[stack]' in line))")


def _where() -> str:
    return subprocess.run(WHERE, capture_output=True, text=True, timeout=30, check=True).stdout


def test_programs_started_inside_lie_alike_and_those_after_do_not() -> None:
    with same_address_layout():
        inside = {_where() for _ in range(3)}
    if int(Path("/proc/sys/kernel/randomize_va_space").read_text()) == 0:
        pytest.skip("this system gives every process the same layout anyhow")
    if len(inside) == 3:
        pytest.skip("this container forbids personality(2)")
    assert len(inside) == 1
    assert len({_where() for _ in range(3)}) > 1
