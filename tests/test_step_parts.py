"""Where the time of an env's steps goes: summed by envs, one after the other on one page, read by a supervisor."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Generator

import pytest
from conftest import wait_until

from zmqcarla.shm.status_page import Phase, StatusPage
from zmqcarla.workers.step_parts import UNKNOWN_MS, LatestParts, StepParts

MS = 1_000_000

WRITER = """
import sys
from zmqcarla.shm.status_page import StatusPage
from zmqcarla.workers.step_parts import StepParts
parts = StepParts()
parts.show_on(StatusPage.attach(int(sys.argv[1])))
while True:
    parts.add(0, 1, 3, 7)
"""


@pytest.fixture
def page() -> Generator[StatusPage]:
    page = StatusPage.create()
    yield page
    page.close()


def test_sums_go_on_with_the_next_env_of_the_page(page: StatusPage) -> None:
    theirs = StatusPage.attach(os.dup(page.fd))
    theirs.enter(Phase.STEPPING, row=1, seq=2)
    for _ in range(2):
        parts = StepParts()
        parts.show_on(theirs)
        parts.add(100, 110, 130, 135)
        parts.add(200, 210, 230, 235)
    assert page.parts() == (4, 40, 80, 20)
    assert page.look().phase is Phase.STEPPING
    assert page.look().row == 1
    theirs.close()


def test_an_env_without_a_page_counts_for_itself() -> None:
    parts = StepParts()
    parts.add(0, 1, 3, 7)
    assert parts.sums == (1, 1, 2, 4)


def test_means_are_of_the_steps_between_two_looks_and_stay_while_there_is_none(page: StatusPage) -> None:
    parts, latest = StepParts(), LatestParts()
    parts.show_on(page)
    page.enter(Phase.IDLE)
    assert latest.look(page) == UNKNOWN_MS
    for _ in range(4):
        parts.add(0, 8 * MS, 10 * MS, 11 * MS)
        page.count_step()
    assert latest.look(page) == (8.0, 2.0, 1.0)
    assert latest.look(page) == (8.0, 2.0, 1.0)
    parts.add(0, 4 * MS, 5 * MS, 5 * MS)
    assert latest.look(page) == (4.0, 1.0, 0.0)
    page.count_step()  # what was told already
    assert latest.look(page) == (4.0, 1.0, 0.0)


def test_an_env_that_does_not_tell_makes_them_unknown(page: StatusPage) -> None:
    parts, latest = StepParts(), LatestParts()
    parts.show_on(page)
    page.enter(Phase.IDLE)
    parts.add(0, 8 * MS, 10 * MS, 11 * MS)
    page.count_step()
    assert latest.look(page) == (8.0, 2.0, 1.0)
    for _ in range(2):
        page.count_step()
    assert latest.look(page) == UNKNOWN_MS


def test_sums_belong_together_beside_a_busy_writer(page: StatusPage) -> None:
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(page.fd)], pass_fds=(page.fd,))
    try:
        wait_until(lambda: page.parts().steps > 0, "the first step")
        before = page.parts()
        for _ in range(5_000):
            sums = page.parts()
            assert sums.steps >= before.steps
            own = (sums.tick_ns, sums.render_ns / 2, sums.observe_ns / 4)
            assert all(abs(steps - sums.steps) <= 1 for steps in own)  # a writer may be put to sleep between two words
            before = sums
    finally:
        writer.kill()
        writer.wait()
