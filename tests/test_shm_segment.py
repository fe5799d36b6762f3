"""Segments: who owns them, what is left of them, and what a full /dev/shm says."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import numpy as np
import pytest
from conftest import wait_until

from zmqcarla.shm.segment import Segment, SegmentError, SegmentGoneError, SegmentSpaceError, sweep
from zmqcarla.shm.status_page import Phase, StatusPage

SHM = Path("/dev/shm")
OWNER = """
import sys
from zmqcarla.shm.segment import Segment
segment = Segment.create("test", 5000)
segment.memory[:5] = b"hello"
print(segment.name, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def segment() -> Generator[Segment]:
    made = Segment.create("test", 5000)
    yield made
    made.close()


@pytest.fixture
def owner() -> Generator[tuple[subprocess.Popen[str], str]]:
    """Another process that owns a segment, and the segment's name."""
    with subprocess.Popen(
        [sys.executable, "-c", OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as it:
        assert it.stdout is not None
        assert select.select([it.stdout], [], [], 30.0)[0]
        yield it, it.stdout.readline().strip()
        it.kill()
    sweep()


def test_what_one_process_writes_another_reads(owner: tuple[subprocess.Popen[str], str]) -> None:
    found = Segment.attach(owner[1], 5000)
    assert found.memory[:6] == b"hello\0"
    assert len(found.memory) == 8192
    found.close()


def test_a_segment_is_private_and_zero(segment: Segment) -> None:
    path = SHM / segment.name[1:]
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.name.startswith(f"zmqcarla-{os.getuid()}-test-")
    assert not any(segment.memory[:])
    assert path.stat().st_blocks * 512 >= 8192  # allocated, not only promised


def test_close_unlinks_only_for_the_owner(segment: Segment) -> None:
    attached = Segment.attach(segment.name, 5000)
    attached.close()
    assert (SHM / segment.name[1:]).exists()
    segment.close()
    segment.close()
    assert not (SHM / segment.name[1:]).exists()


def test_arrays_outlive_close(segment: Segment) -> None:
    array = np.frombuffer(segment.memory, np.uint8)
    segment.close()
    array[:] = 7
    assert array.sum() == 7 * 8192


def test_the_living_are_not_swept(segment: Segment, owner: tuple[subprocess.Popen[str], str]) -> None:
    assert not {segment.name, owner[1]} & set(sweep())
    assert (SHM / segment.name[1:]).exists()
    assert (SHM / owner[1][1:]).exists()


def test_the_dead_are_swept(owner: tuple[subprocess.Popen[str], str]) -> None:
    process, name = owner
    attached = Segment.attach(name, 5000)  # an attached process does not keep the name alive
    process.kill()
    process.wait(30.0)
    assert (SHM / name[1:]).exists()
    sweep()
    assert not (SHM / name[1:]).exists()
    assert attached.memory[:5] == b"hello"
    attached.close()
    with pytest.raises(SegmentGoneError, match="no segment"):
        Segment.attach(name, 5000)


def test_a_child_process_does_not_keep_a_segment_alive() -> None:
    segment = Segment.create("test", 1)
    with subprocess.Popen(["sleep", "600"], close_fds=False) as child:
        segment.close()
        assert not (SHM / segment.name[1:]).exists()
        held = [os.readlink(fd) for fd in Path(f"/proc/{child.pid}/fd").iterdir()]
        assert not [target for target in held if segment.name in target]
        child.kill()


def test_a_full_memory_file_system_says_so_in_numbers() -> None:
    before = set(SHM.iterdir())
    total_bytes = os.statvfs(SHM).f_blocks * os.statvfs(SHM).f_frsize
    with pytest.raises(SegmentSpaceError, match=rf"needs {2 * total_bytes / 2**20:.1f} MiB, /dev/shm has .* MiB free"):
        Segment.create("toolarge", 2 * total_bytes)
    assert not [path for path in set(SHM.iterdir()) - before if "toolarge" in path.name]


@pytest.mark.parametrize(
    "name", ["/zmqcarla-0-test-0000", "/somebody-else", "zmqcarla-x", "/zmqcarla-/../../etc/passwd"]
)
def test_names_that_are_not_segments(name: str) -> None:
    with pytest.raises(SegmentGoneError):
        Segment.attach(name, 1)


def test_another_size_is_not_attached(segment: Segment) -> None:
    with pytest.raises(SegmentGoneError, match=r"to have 12288 bytes, found 8192"):
        Segment.attach(segment.name, 9000)
    assert issubclass(SegmentGoneError, SegmentError)


_WRITER = """
import sys
from zmqcarla.shm.status_page import Phase, StatusPage
page = StatusPage.attach(int(sys.argv[1]))
while True:
    for seq in range(1000):
        page.enter(Phase.STEPPING, row=3, seq=seq)
        page.count_step()
        page.enter(Phase.IDLE, row=3, seq=seq)
"""


def test_a_status_page_never_shows_what_nobody_wrote() -> None:
    page = StatusPage.create()
    page.enter(Phase.IDLE)
    writer = subprocess.Popen([sys.executable, "-c", _WRITER, str(page.fd)], pass_fds=(page.fd,))
    try:
        wait_until(lambda: int(page.fields["steps"]), "the first step")
        for _ in range(20_000):
            look = page.look()
            assert look.phase in (Phase.STEPPING, Phase.IDLE)
            assert 0.0 <= look.age_s < 60.0
            assert look.steps > 0
    finally:
        writer.kill()
        writer.wait()
        page.close()


def test_a_status_page_is_read_by_its_owner() -> None:
    page = StatusPage.create()
    theirs = StatusPage.attach(os.dup(page.fd))
    assert page.look().phase is Phase.UNTOLD
    theirs.enter(Phase.STEPPING, row=3, seq=9)
    theirs.fields["lease_id"] = list(range(16))
    look = page.look()
    assert (look.phase, look.row, look.seq) == (Phase.STEPPING, 3, 9)
    assert page.fields["lease_id"].tolist() == list(range(16))
    assert 0.0 <= look.age_s < 60.0
    theirs.close()
    page.close()
