"""Port blocks: claimed by one process at a time, never moved, owners named."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from zmqcarla.broker.errors import PortInUseError
from zmqcarla.workers import ports

FIRST = 23100

CLAIMER = """
import sys
from zmqcarla.workers import ports
claim = ports.claim(int(sys.argv[1]))
print("claimed", flush=True)
sys.stdin.read()
"""


def test_a_block_is_four_ports_in_a_row() -> None:
    block = ports.PortBlock(FIRST)
    assert block.ports == (FIRST, FIRST + 1, FIRST + 2, FIRST + 3)
    assert (block.stream, block.secondary, block.traffic_manager) == (FIRST + 1, FIRST + 2, FIRST + 3)


def test_a_claimed_block_cannot_be_claimed_again_until_it_is_released() -> None:
    claim = ports.claim(FIRST)
    with pytest.raises(PortInUseError, match=f"pid {os.getpid()}") as caught:
        ports.claim(FIRST + 2)  # overlaps
    assert caught.value.port == FIRST + 2
    claim.release()
    claim.release()
    ports.claim(FIRST + 2).release()


def test_a_bound_port_is_refused_with_the_pid_of_its_owner() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", FIRST + 21))
        listener.listen()
        with pytest.raises(PortInUseError, match=f"port {FIRST + 21} is in use by pid {os.getpid()}") as caught:
            ports.claim(FIRST + 20)
    assert caught.value.port == FIRST + 21
    ports.claim(FIRST + 20).release()


def test_claim_free_passes_over_what_is_taken() -> None:
    with ports_listening(FIRST + 40):
        first = ports.claim_free(FIRST + 40)
        second = ports.claim_free(FIRST + 40)
    assert first.block.rpc == FIRST + 44
    assert second.block.rpc == FIRST + 48
    first.release()
    second.release()


def test_the_kernel_ends_a_claim_with_its_process() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", CLAIMER, str(FIRST + 60)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as claimer:
        assert claimer.stdout is not None
        assert claimer.stdout.readline() == b"claimed\n"
        with pytest.raises(PortInUseError, match=f"claimed by pid {claimer.pid}"):
            ports.claim(FIRST + 60)
        claimer.kill()
    ports.claim(FIRST + 60).release()


@pytest.mark.parametrize("port", [80, 32766, 40000])
def test_blocks_outside_the_safe_range_are_refused(port: int) -> None:
    with pytest.raises(ValueError, match="expected a port block between 1024 and 32767"):
        ports.claim(port)


def test_is_listening_sees_a_listener_and_its_end() -> None:
    with ports_listening(FIRST + 80):
        assert ports.is_listening(FIRST + 80)
        assert ports.listener_pid(FIRST + 80) == os.getpid()
    assert not ports.is_listening(FIRST + 80)
    assert ports.listener_pid(FIRST + 80) is None


def ports_listening(port: int) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen()
    return listener
