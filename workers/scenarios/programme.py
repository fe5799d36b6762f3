"""The scenarios of one episode: made from the route file, asked before every tick, cleared away at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from zmqcarla.workers.criteria.base import NOTHING_STAGED, Staged, Tick
from zmqcarla.workers.routes import ScenarioSpec
from zmqcarla.workers.scenarios.base import Control, Phase, Scenario
from zmqcarla.workers.scenarios.kinds import KINDS
from zmqcarla.workers.scenarios.stage import CannotTakePlaceError, Stage

_DONE: Final = (Phase.OVER, Phase.SKIPPED)


class Programme:
    """All scenarios of a route.

    Attributes:
        scenarios: those that can take place, in the file's order.
    """

    def __init__(self, stage: Stage, specs: Sequence[ScenarioSpec], seed: int) -> None:
        """Plan them.

        Args:
            stage: the route and its world.
            specs: of the route file.
            seed: what is random in them comes from it.
        """
        self.scenarios: list[Scenario] = []
        self._stage = stage
        self._seed = seed
        self._never: list[str] = []
        for k, spec in enumerate(specs):
            try:
                if spec.kind not in KINDS:
                    raise CannotTakePlaceError("not a kind that can take place here")
                trigger_s_m = stage.route_s_m(spec.trigger_m, spec.trigger_yaw_deg)
                rng = np.random.default_rng((seed, k))
                self.scenarios.append(KINDS[spec.kind](spec, stage, trigger_s_m, rng))
            except CannotTakePlaceError as error:
                self._never.append(f"{spec.name} ({spec.kind}): {error}")

    @property
    def skipped(self) -> tuple[str, ...]:
        """Those that do not take place, with the reason; more may come, where actors find no room."""
        failed = (f"{each.name}: {each.reason}" for each in self.scenarios if each.phase is Phase.SKIPPED)
        return (*self._never, *failed)

    @property
    def going(self) -> list[Scenario]:
        """Those that are neither over nor skipped."""
        return [each for each in self.scenarios if each.phase not in _DONE]

    def report(self) -> dict[str, Any]:
        """Return how far each scenario came and where its trigger was, and which actors came where: plain values."""
        triggers = [(each, each.spec.trigger_m) for each in self.scenarios]
        return {
            "scenarios": [
                {"name": each.name, "status": each.phase.value, "x_m": x_m, "y_m": y_m}
                for each, (x_m, y_m, _) in triggers
            ],
            "scenario_actors": [{"type": kind, "x_m": x_m, "y_m": y_m} for kind, x_m, y_m in self._stage.brought],
        }

    @property
    def actor_ids(self) -> list[int]:
        """Of all of them that are there."""
        return [actor_id for each in self.scenarios for actor_id in each.actors.values()]

    def step(self, tick: Tick) -> Staged:
        """Act on what a tick led to, before the next one, and return what the criteria have to know."""
        going = self.going
        overdue = tuple(each.name for each in going if each.advance(tick))
        running = [each for each in going if each.running]
        if not running and not overdue:
            return NOTHING_STAGED
        return Staged(
            oncoming_allowed=any(each.oncoming_allowed for each in running),
            may_stand=any(each.timeout_s is not None for each in running),
            emergency=next((each.emergency for each in running if each.emergency is not None), None),
            overdue=overdue,
        )

    def disturb(self, control: Control) -> Control:
        """Return what becomes of the driver's control."""
        for each in self.scenarios:
            control = each.disturb(control)
        return control

    def stop(self) -> list[int]:
        """Forget the actors and return their ids, for the batch that destroys the episode's."""
        actor_ids = self.actor_ids
        for each in self.scenarios:
            each.actors.clear()
        return actor_ids

    def get_state(self) -> dict[str, Any]:
        """Return what a snapshot has to hold: plain values."""
        brought = [list(each) for each in self._stage.brought]
        return {"seed": self._seed, "brought": brought, "scenarios": [each.get_state() for each in self.scenarios]}

    def set_state(self, state: Mapping[str, Any], renamed: Mapping[int, int] | None = None) -> None:
        """Take the state of a programme of the same route over.

        Args:
            state: of `get_state`; this programme was made with its "seed".
            renamed: new ids of actors that have other ones now.

        Raises:
            ValueError: it is the state of another route or seed.
        """
        if state["seed"] != self._seed or len(state["scenarios"]) != len(self.scenarios):
            raise ValueError(
                f"expected the state of {len(self.scenarios)} scenarios with the seed {self._seed}, found "
                f"{len(state['scenarios'])} with {state['seed']}; restore it on the same route with its seed"
            )
        for each, own in zip(self.scenarios, state["scenarios"], strict=True):
            each.set_state(own, renamed or {})
        self._stage.brought[:] = [(str(kind), float(x_m), float(y_m)) for kind, x_m, y_m in state["brought"]]
