"""Another host, for tests: network, /dev/shm and steady clock of its own, joined to this one by a virtual cable.

Needs root and the kernel's namespaces; `reason_why_not` says what is missing.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Generator

from conftest import wait_until

CLOCK_AHEAD_S = 1_000_000
_NAMESPACES = ("--net", "--mount", "--time")


class OtherHost:
    """The namespaces that a holder process keeps alive.

    Args:
        holder_pid: of that process.

    Attributes:
        address: of this host, as the other one sees it.
        prefix: of commands that run over there.
    """

    def __init__(self, holder_pid: int) -> None:
        subnet = f"10.213.{os.getpid() % 250}"
        self.address = f"{subnet}.1"
        self._here, self._there = f"zq{os.getpid()}a", f"zq{os.getpid()}b"
        self.prefix = ("nsenter", f"--target={holder_pid}", *_NAMESPACES, "--")
        _run("ip", "link", "add", self._here, "type", "veth", "peer", "name", self._there, "netns", str(holder_pid))
        _run("ip", "addr", "add", f"{self.address}/30", "dev", self._here)
        _run("ip", "link", "set", self._here, "up")
        _run(*self.prefix, "ip", "addr", "add", f"{subnet}.2/30", "dev", self._there)
        _run(*self.prefix, "ip", "link", "set", "lo", "up")
        self.heal()

    def cut(self) -> None:
        """Pull the cable."""
        _run(*self.prefix, "ip", "link", "set", self._there, "down")

    def heal(self) -> None:
        """Put it back."""
        _run(*self.prefix, "ip", "link", "set", self._there, "up")


@contextlib.contextmanager
def other_host() -> Generator[OtherHost]:
    """A host that ends with the block."""
    with subprocess.Popen(_holder_command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        try:
            yield OtherHost(int(holder.stdout.readline()))
        finally:
            holder.stdin.close()  # cable and mounts go with the last process
            wait_until(lambda: holder.poll() is not None, "the other host to end")


def reason_why_not() -> str:
    """Why there can be no other host on this machine; empty when there can."""
    if os.getuid() != 0:
        return "needs root for network and mount namespaces"
    try:
        tried = subprocess.run(_holder_command(), input=b"", capture_output=True, timeout=20, check=False)
        cable = subprocess.run(["ip", "-V"], capture_output=True, timeout=20, check=False)
    except FileNotFoundError as error:
        return f"needs {error.filename}"
    if tried.returncode or cable.returncode:
        return f"needs namespaces: {tried.stderr.decode().strip()[:200]}"
    return ""


def _holder_command() -> list[str]:
    clock = [f"--monotonic={CLOCK_AHEAD_S}", f"--boottime={CLOCK_AHEAD_S}"]
    script = "mount -t tmpfs tmpfs /dev/shm && echo $$ && exec cat"
    # A time namespace begins with the first child.
    return ["unshare", *_NAMESPACES, *clock, "--propagation=private", "--fork", "--kill-child", "sh", "-c", script]


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
