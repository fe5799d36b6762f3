"""What every scenario has: a trigger on the route, actors of its own, and a state of plain values.

AHEAD     the ego is still far
READY     its actors stand there; tried again while something is in their way
RUNNING   the ego passed the trigger
OVER      it is done, its actors are gone
SKIPPED   it could not take place; `reason` says why
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from enum import Enum
from typing import Any, ClassVar, Final

import numpy as np

from zmqcarla.workers.criteria.base import Tick, Vector
from zmqcarla.workers.routes import ScenarioSpec
from zmqcarla.workers.scenarios.stage import CannotTakePlaceError, Side, Stage

Control = tuple[float, float, float]
"""Steer, throttle (negative drives in reverse), brake, as in the env's action."""

LEADERBOARD_TIMEOUT_S: Final = 240.0
"""How long a scenario that is in the ego's way lasts at most; then it is charged and cleared away."""

_TRIGGER_M: Final = 1.5
_RETRY_TICKS: Final = 10
_GIVE_UP_M: Final = 10.0


class Phase(str, Enum):
    """How far a scenario is; see the module."""

    AHEAD = "ahead"
    READY = "ready"
    RUNNING = "running"
    OVER = "over"
    SKIPPED = "skipped"


class Scenario(ABC):
    """One scenario of one episode.

    A kind plans its places when it is made, from the map alone; `build` brings its actors, and from the trigger on
    `step` is called after every tick, until it says that the scenario is over.

    Attributes:
        name: from the file, with the kind.
        trigger_s_m: place on the route that starts it.
        phase: how far it is.
        reason: why it was skipped.
        started_s: simulated time of the trigger.
        actors: id of each actor, by its part in the scenario.
    """

    build_ahead_m: ClassVar[float] = 60.0
    """How far before the trigger its actors come; 0 for those that set off at once."""

    timeout_s: ClassVar[float | None] = None
    """Time after which it is charged as timed out; standing is no blockage meanwhile."""

    own_state: ClassVar[tuple[str, ...]] = ()
    """Attributes that change while it runs: plain values."""

    def __init__(self, spec: ScenarioSpec, stage: Stage, trigger_s_m: float, rng: np.random.Generator) -> None:
        """Plan it.

        Raises:
            CannotTakePlaceError: the map or the file does not give what it needs.
        """
        self.spec = spec
        self.stage = stage
        self.name = f"{spec.name} ({spec.kind})"
        self.trigger_s_m = trigger_s_m
        self.phase = Phase.AHEAD
        self.reason = ""
        self.started_s = 0.0
        self.actors: dict[str, int] = {}
        self._last_try_frame = -_RETRY_TICKS
        self.plan(rng)

    @abstractmethod
    def plan(self, rng: np.random.Generator) -> None:
        """Choose places and blueprints; all that is random is drawn here."""

    @abstractmethod
    def build(self, tick: Tick) -> None:
        """Bring the actors; raise `CannotTakePlaceError` while one of them does not fit."""

    @abstractmethod
    def step(self, tick: Tick) -> bool:
        """Act on what the last tick led to; return whether the scenario is over."""

    def disturb(self, control: Control) -> Control:
        """Return what becomes of the driver's control."""
        return control

    @property
    def oncoming_allowed(self) -> bool:
        """Whether the ego may now pass on the oncoming lane."""
        return False

    @property
    def emergency(self) -> tuple[Vector, float] | None:
        """Place and heading (deg) of an emergency vehicle that wants to pass, None without one."""
        return None

    @property
    def running(self) -> bool:
        """Whether it was triggered and is not over."""
        return self.phase is Phase.RUNNING

    def advance(self, tick: Tick) -> bool:
        """Go on; return whether it just ended because its time is up."""
        if self.phase is Phase.AHEAD:
            if tick.s_m >= self.trigger_s_m - self.build_ahead_m:
                self._try_to_build(tick)
            return False  # the client knows where new actors are after the next tick
        if self.phase is Phase.READY and tick.s_m >= self.trigger_s_m - _TRIGGER_M:
            self.phase, self.started_s = Phase.RUNNING, tick.time_s
        if self.phase is not Phase.RUNNING:
            return False
        over = self.step(tick)
        overdue = self.timeout_s is not None and tick.time_s - self.started_s > self.timeout_s
        if over or overdue:
            self.phase = Phase.OVER
            self.dismiss()
        return overdue and not over

    def dismiss(self) -> None:
        """Destroy the actors."""
        self.stage.dismiss(self.actors.values())
        self.actors.clear()

    def elapsed_s(self, tick: Tick) -> float:
        """Simulated time since the trigger."""
        return tick.time_s - self.started_s

    def actor(self, part: str) -> Any:
        """The actor of a part, as the `carla` client knows it."""
        return self.stage.actor(self.actors[part])

    def get_state(self) -> dict[str, Any]:
        """Return what changes, as plain values; actors by their ids."""
        own = {name: getattr(self, name) for name in self.own_state}
        common = {"phase": self.phase.value, "reason": self.reason, "started_s": self.started_s}
        still = [part for part, actor_id in self.actors.items() if actor_id in self.stage.still]
        more = {"last_try_frame": self._last_try_frame, "actors": dict(self.actors), "still": still}
        return {**common, **more, "own": own}

    def set_state(self, state: Mapping[str, Any], renamed: Mapping[int, int]) -> None:
        """Take a state over.

        Args:
            state: of `get_state`.
            renamed: new ids of actors that have other ones now.
        """
        self.phase, self.reason = Phase(state["phase"]), str(state["reason"])
        self.started_s, self._last_try_frame = float(state["started_s"]), int(state["last_try_frame"])
        self.actors = {part: renamed.get(int(each), int(each)) for part, each in state["actors"].items()}
        for name in self.own_state:
            setattr(self, name, state["own"][name])
        for part in state["still"]:
            self.stage.hold(self.actors[part])
        for part in self.actors:
            # A client does not send a control that is the last one of its own; let it know the one that counts.
            actor = self.actor(part)
            if actor.type_id.startswith("vehicle."):
                actor.apply_control(actor.get_control())

    def _try_to_build(self, tick: Tick) -> None:
        if tick.frame - self._last_try_frame < _RETRY_TICKS:
            return
        self._last_try_frame = tick.frame
        try:
            self.build(tick)
            self.phase = Phase.READY
        except CannotTakePlaceError as error:
            self.dismiss()
            if tick.s_m > self.trigger_s_m + _GIVE_UP_M:
                self.phase, self.reason = Phase.SKIPPED, str(error)

    def number(self, name: str, default: float) -> float:
        """A parameter `<name value="..."/>`."""
        return _number(self.spec.parameters.get(name, {}).get("value", str(default)), name)

    def text(self, name: str, default: str) -> str:
        """A parameter that is a text."""
        return self.spec.parameters.get(name, {}).get("value", default)

    def interval(self, name: str, default: tuple[float, float]) -> tuple[float, float]:
        """A parameter `<name from="..." to="..."/>`."""
        given = self.spec.parameters.get(name, {})
        first, last = (
            _number(given.get(end, str(usual)), name) for end, usual in zip(("from", "to"), default, strict=True)
        )
        return first, max(first, last)

    def side(self) -> Side:
        """The parameter `direction`."""
        found = self.text("direction", "right")
        if found not in ("left", "right"):
            raise CannotTakePlaceError(f"expected the direction left or right, found {found!r}")
        return "left" if found == "left" else "right"

    def place(self, name: str) -> Vector:
        """A parameter `<name x="..." y="..." z="..."/>`."""
        given = self.spec.parameters.get(name)
        if given is None:
            raise CannotTakePlaceError(f"expected the parameter {name!r}, found {', '.join(self.spec.parameters)}")
        x, y, z = (_number(given.get(axis, ""), name) for axis in "xyz")
        return x, y, z


def distance_m(tick: Tick, place: Any) -> float:
    """Distance of the ego from a `carla.Location` in the plane."""
    return math.hypot(tick.position_m[0] - place.x, tick.position_m[1] - place.y)


def near(tick: Tick, place: Any, within_s: float, within_m: float) -> bool:
    """Whether the ego reaches a `carla.Location` within a time at its present speed, or is within a distance of it."""
    away_m = distance_m(tick, place)
    return away_m < within_m or away_m < within_s * tick.speed_mps


def _number(text: str, name: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise CannotTakePlaceError(f"expected a number as {name!r}, found {text!r}")
    return value
