"""`zmqcarla/Leaderboard-v0`: the routes, scenarios, criteria and scores of the user's own Leaderboard checkout.

    env = gymnasium.make("zmqcarla/Leaderboard-v0", routes="bench2drive220.xml")

Observations, actions and rewards are those of `zmqcarla/Carla-v0`. What happens on the road, when an episode ends and
what it is worth is decided by the code of the checkouts (see `checkout`), which runs unchanged in this process.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import gymnasium
import numpy as np
from numpy.typing import NDArray

from zmqcarla.broker.errors import SnapshotError
from zmqcarla.workers.carla_env import CarlaEnv
from zmqcarla.workers.episode import Episode
from zmqcarla.workers.leaderboard import checkout
from zmqcarla.workers.leaderboard.hosted_agent import AgentCode
from zmqcarla.workers.leaderboard.official_episode import OfficialEpisode
from zmqcarla.workers.observation import Observation
from zmqcarla.workers.own_server import OwnServer
from zmqcarla.workers.routes import RouteSpec
from zmqcarla.workers.session import Session

_THEIRS = (
    "traffic_vehicles",
    "traffic_walkers",
    "parked_vehicles",
    "off_route_m",
    "blocked_s",
    "route_length_m",
    "map",
)


class LeaderboardEnv(CarlaEnv):
    """One vehicle on one route of the Leaderboard; see the module and `CarlaEnv`.

    `info["driving_score"]`, `info["infractions"]` and `info["episode_summary"]` (the route's record of the result file)
    come from the checkout's statistics. An episode of a Leaderboard scenario ends when its behaviour tree ends:
    "route_completed", "off_route", "blocked" or "route_timeout"; a collision ends it only with
    `terminate_on_collision=True`. What a checkout's code raises truncates the episode: its traceback is in
    `info["scenario_error"]`, and the record says "Failed - Simulation crashed" as the evaluators do.

    With `driver="agent"` an agent of the Leaderboard drives (see `hosted_agent`) and the action is ignored.
    `info["control"]`, float32 (3,), then says what it did in the form of an action: steer, throttle, which is negative
    in reverse, and brake. An agent that fails ends the episode: `terminated_by` is "agent_failed", its traceback is in
    `info["agent_error"]`, and the record has the Leaderboard's words for it. One that cannot be set up does so in the
    first step.

    A snapshot of an episode can be restored by replay only.
    """

    scenarios: ClassVar[str] = "Leaderboard"
    levels: ClassVar[tuple[str, ...]] = ("replay",)

    def __init__(
        self,
        *,
        routes: str,
        leaderboard_root: str | None = None,
        scenario_runner_root: str | None = None,
        bench2drive_root: str | None = None,
        agents_root: str | None = None,
        traffic_manager_seed: int = 0,
        terminate_on_collision: bool = False,
        driver: Literal["policy", "agent"] = "policy",
        agent_file: str | None = None,
        agent_config: str | None = None,
        agent_timeout_s: float = 300.0,
        **settings: Any,
    ) -> None:
        """Check the settings and find the checkouts; no process is started yet.

        Args:
            routes: path of a route file.
            leaderboard_root: folder of the checkout; None reads LEADERBOARD_ROOT.
            scenario_runner_root: likewise, SCENARIO_RUNNER_ROOT.
            bench2drive_root: stands for both; None reads BENCH2DRIVE_ROOT.
            agents_root: CARLA's folder PythonAPI/carla; None takes the one in CARLA_ROOT.
            traffic_manager_seed: the same for every episode, as in the Leaderboard.
            terminate_on_collision: whether a collision ends the episode.
            driver: "policy" applies the action, "agent" what the agent says.
            agent_file: its Python file; None reads ZMQCARLA_AGENT.
            agent_config: what its `setup` gets; None reads ZMQCARLA_AGENT_CONFIG.
            agent_timeout_s: longest time for its set-up and for one call, in which Python is interrupted; in the
                program's main thread only.
            **settings: as for `CarlaEnv`, but for what the scenarios decide themselves.

        Raises:
            TypeError: a setting is unknown or is not for this env.
            ValueError: a setting is out of range.
            CheckoutError: a checkout or the agent is missing.
        """
        taken = [name for name in _THEIRS if name in settings]
        if taken:
            raise TypeError(f"expected no {', '.join(taken)}: the route file and the Leaderboard's code decide that")
        self._roots = checkout.Roots.find(leaderboard_root, scenario_runner_root, bench2drive_root, agents_root)
        self._traffic_manager_seed = traffic_manager_seed
        if driver not in ("policy", "agent"):
            raise ValueError(f'driver: expected "policy" or "agent", found {driver!r}')
        if not agent_timeout_s > 0.0:
            raise ValueError(f"agent_timeout_s: expected more than 0 s, found {agent_timeout_s!r}")
        self._agent = AgentCode.find(agent_file, agent_config, agent_timeout_s) if driver == "agent" else None
        super().__init__(routes=routes, terminate_on_collision=terminate_on_collision, **settings)
        if self._agent is not None:
            self._control = _to_be_filled
            self.own_server = OwnServer(self.config, draws=True)  # what the agent sees is known at the reset only

    def global_plan(self) -> dict[str, Any]:
        """Return the plan that the checkout made; see `CarlaEnv.global_plan`."""
        if not isinstance(self.episode, OfficialEpisode):
            raise gymnasium.error.ResetNeeded("expected reset() before global_plan(), found no running episode")
        return self.episode.global_plan()

    def _go_back(self, options: Mapping[str, Any], seed: int | None) -> tuple[Observation, dict[str, Any]]:
        if options.get("level", "state") == "state":
            raise SnapshotError(
                "expected level='replay', found level='state': what the Leaderboard's own scenarios know stands in "
                "behaviour trees and class variables that cannot be copied; at 'replay' the episode begins anew with "
                "its seed and drives its actions again"
            )
        return super()._go_back(options, seed)

    def hand_over(self) -> None:
        """Hand nothing over: the checkout's modules keep what they like."""
        return None

    def _new_episode(self, session: Session, options: dict[str, Any], spec: RouteSpec | None) -> Episode:
        unknown = sorted(set(options) - {"route", "difficulty"})
        if unknown:
            raise ValueError(f"options: expected only 'route', found {unknown}")
        assert spec is not None
        theirs = checkout.load(self._roots)
        return OfficialEpisode(
            session, self.config, theirs, spec, self._traffic_manager_seed, self.np_random, self._agent
        )

    def _info(self) -> dict[str, Any]:
        info = super()._info()
        if self.episode is not None and self.episode.broken:
            info["scenario_error"] = self.episode.broken
        if isinstance(self.episode, OfficialEpisode) and self.episode.agent is not None:
            info["control"] = self.episode.control.copy()
            if self.episode.agent.error:
                info["agent_error"] = self.episode.agent.error
        return info


def _to_be_filled(action: Any) -> NDArray[np.float32]:
    """A control for the agent to write in; the action is ignored."""
    del action
    return np.zeros(3, np.float32)
