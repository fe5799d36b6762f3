"""Traffic Managers: the cure for one that has missed its cue, and the way of one from an episode to the next.

A Traffic Manager lives in a client's process. On `world.tick()` in synchronous mode the client, after the tick, signals
the manager's thread and waits for it without a time-out. The signal is sent without holding the mutex: if the thread is
between its check and its sleep, the signal is lost and the client waits for ever. It happens once in some thousand to
some ten thousand ticks, more often when cores are short.

The server can tell: a manager asks for the vehicles' light states once a tick, and after the lost signal it does not.
Then `set_synchronous_mode(False)` and `(True)`, sent to the manager's own RPC port in one write, signal the thread
again; the pending step runs once, so the traffic is the same as without the hang. A manager that was merely slow would
step twice, and what comes after would be other traffic. So a manager is given many times as long as it took of late: on
a machine with thirty jobs for each core one question came more than a second after its tick.

It reads the map when it is made, and again when its client sees the number of the episode change. The client that loads
an episode forgets the one before and asks for the number anew; a real server is still in the old episode then, because
it changes at the next tick. So a client with a manager is told the old number once, and sees the change in the first
state that it is sent. A network thread of the client then renews the manager, beside the thread that loads: both may
fetch the map, into the same place and without a lock. The loading thread is about to tick once; the answer to that
waits until the manager has the map.
"""

import asyncio
import contextlib
import logging
from dataclasses import dataclass

from zmqcarla.sim import wire

log = logging.getLogger("zmqcarla.sim")

# The least and the most that a manager is given, and how many times the longest wait for a question.
GRACE_S, MOST_GRACE_S = 2.0, 60.0
GRACE_WAITS = 20.0
# What a new one is given, of which nobody knows how quick it is.
NEW_GRACE_S = 10.0
# How much of the longest wait is forgotten with each question.
_FORGETS = 0.005
_ANSWER_S = 2.0
# The longest that a tick waits for a manager to fetch the map.
RENEWAL_S = 10.0


@dataclass(slots=True)
class Renewal:
    """What the managers of one client have yet to do after it has loaded an episode.

    Attributes:
        before: number of the episode before, to be told once; None when it has been, or nothing is to be renewed.
        due: how many managers have not fetched the map.
        until_s: when nobody waits for them any more.
    """

    before: int | None = None
    due: int = 0
    until_s: float = 0.0

    def begin(self, before: int, managers: int, now_s: float) -> None:
        """The client has loaded an episode."""
        self.before = before if managers else None
        self.due = managers
        self.until_s = now_s + RENEWAL_S

    def tell(self, now: int) -> int:
        """The number of the episode that the client is to be told."""
        before, self.before = self.before, None
        return now if before is None else before

    def fetched(self) -> None:
        """A manager has fetched the map, or has gone."""
        self.due = max(0, self.due - 1)

    def wait_s(self, now_s: float) -> float:
        """How long a tick should still wait."""
        return max(0.0, self.until_s - now_s) if self.due else 0.0


@dataclass(slots=True)
class CueWatch:
    """Watches one client's ticks and its manager's questions.

    Attributes:
        ticked: frame of the client's last tick; `before` is that of the one before.
        ticked_s: when it was.
        asked: frame at the manager's last question.
        cured: frame that was cured last.
        drove: frame after which the last batch came.
        joined: frame of the client's last tick before its newest manager registered; None before there was one.
        wait_s: the longest that the manager's question came after the tick, of late.
    """

    ticked: int = -1
    before: int = -1
    ticked_s: float = 0.0
    asked: int = -1
    cured: int = -1
    drove: int = -1
    joined: int | None = None
    wait_s: float = 0.0

    def tick(self, frame: int, now_s: float) -> None:
        """The client has ticked."""
        self.before, self.ticked, self.ticked_s = self.ticked, frame, now_s

    def join(self) -> None:
        """A manager has registered."""
        self.joined = self.ticked

    def ask(self, frame: int, now_s: float) -> None:
        """The manager has asked for light states; so may a script, but later, and at a state shown without a tick."""
        # a cured one waited for the cure
        if frame == self.ticked != self.cured and self.asked != frame:
            self.wait_s = max(now_s - self.ticked_s, self.wait_s * (1.0 - _FORGETS))
        self.asked = min(frame, self.ticked)

    def drive(self) -> bool:
        """A batch has come. Whether it is the manager's, which sends one once a tick, after its question."""
        is_managers = self.asked == self.ticked != self.drove
        self.drove = self.ticked
        return is_managers

    @property
    def grace_s(self) -> float:
        """How long the manager may take."""
        return min(max(GRACE_S, GRACE_WAITS * self.wait_s), MOST_GRACE_S)

    def stuck(self, now_s: float) -> bool:
        """Whether the manager takes no part in the last tick for long, and did in the one before or is new."""
        waited_s = now_s - self.ticked_s
        took_part = self.asked == self.before != -1 and waited_s >= self.grace_s
        is_new = self.joined == self.before and self.asked < self.ticked and waited_s >= NEW_GRACE_S
        return self.cured != self.ticked and (took_part or is_new)


async def cue_again(host: str, port: int) -> None:
    """Signal a manager's thread again through its RPC port."""
    requests = [[0, number, "set_synchronous_mode", [flag]] for number, flag in ((1, False), (2, True))]
    try:
        reader, writer = await asyncio.wait_for(asyncio.open_connection(host, port), _ANSWER_S)
        writer.write(b"".join(map(wire.pack, requests)))
        await asyncio.wait_for(reader.read(64), _ANSWER_S)
    except (OSError, asyncio.TimeoutError) as error:
        log.warning("Traffic Manager at %s port %d has missed its cue and cannot be reached: %r", host, port, error)
        return
    with contextlib.suppress(OSError):
        writer.close()
        await writer.wait_closed()
    log.info("Traffic Manager at %s port %d had missed its cue: signalled again", host, port)
