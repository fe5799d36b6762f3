"""Where the time of an env's steps goes: summed by the env, read from its status page by the supervisor.

A step of an env of ours has three parts, one after the other: the control and the world's ticks, the wait for what the
sensors saw of the last tick (that is what drawing costs), and what is made of it (observation, reward, criteria). An
env of somebody else tells nothing.
"""

from __future__ import annotations

from collections.abc import Callable

from zmqcarla.shm.status_page import PartSums, StatusPage

UNKNOWN_MS = (0.0, 0.0, 0.0)


class StepParts:
    """The sums of one env; they stand on a status page once the env has been given one."""

    def __init__(self) -> None:
        self._sums: tuple[int, int, int, int] = (0, 0, 0, 0)
        self._tell: Callable[[int, int, int, int], None] | None = None

    @property
    def sums(self) -> PartSums:
        """Up to now."""
        return PartSums(*self._sums)

    def show_on(self, page: StatusPage) -> None:
        """Go on from what stands there, for the page counts for all envs that a worker ever had."""
        self._tell, self._sums = page.tell_parts, page.parts()

    def add(self, began_ns: int, ticked_ns: int, read_ns: int, ended_ns: int) -> None:
        """One step more.

        Args:
            began_ns: when it began, of the monotonic clock.
            ticked_ns: when its last tick was done.
            read_ns: when the sensors had been read.
            ended_ns: when the observation was there.
        """
        steps, tick_ns, render_ns, observe_ns = self._sums
        self._sums = sums = (
            steps + 1,
            tick_ns + ticked_ns - began_ns,
            render_ns + read_ns - ticked_ns,
            observe_ns + ended_ns - read_ns,
        )
        if self._tell is not None:
            self._tell(*sums)


class LatestParts:
    """The means of the latest steps, from one look at a status page to the next."""

    def __init__(self) -> None:
        self._means_ms = UNKNOWN_MS
        self._steps = 0
        self._sums = PartSums(0, 0, 0, 0)

    def look(self, page: StatusPage) -> tuple[float, float, float]:
        """Tick, render and observe in milliseconds; of earlier looks when there was no step, 0 when nobody tells."""
        steps, sums, before = page.look().steps, page.parts(), self._sums
        told, done = sums.steps - before.steps, steps - self._steps
        if told > 0:
            self._means_ms = (
                (sums.tick_ns - before.tick_ns) / told / 1e6,
                (sums.render_ns - before.render_ns) / told / 1e6,
                (sums.observe_ns - before.observe_ns) / told / 1e6,
            )
        elif done > 1:  # one may have been told of at the last look, before it was counted
            self._means_ms = UNKNOWN_MS
        self._steps, self._sums = steps, sums
        return self._means_ms
