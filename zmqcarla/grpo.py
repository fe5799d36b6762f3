"""Explore with one environment, branch it, compare the branches, go on with one: `GRPOCarlaEnv`.

    env = GRPOCarlaEnv(4, simulator="embedded", max_steps=500)
    observation, info = env.reset(seed=0)
    observation, reward, terminated, truncated, info = env.single_step(action)
    observations, infos = env.fork_from_snapshot(env.save_snapshot())
    observations, rewards, terminated, truncated, infos = env.branch_step(actions)
    env.select_branch(env.get_branch_statistics()["best_branch"])

The names and the two modes are those of an earlier system of this kind, over HTTP; docs/rollout_groups.md tells what
differs. Underneath is a `zmqcarla.RolloutGroup`, which is what to take for anything new.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array, iterate

from zmqcarla.broker.errors import SnapshotError
from zmqcarla.group_batch import GroupBatch
from zmqcarla.make import make_registered
from zmqcarla.rollout_group import RolloutGroup
from zmqcarla.row_infos import row_infos
from zmqcarla.vector_env import VectorEnv


class EnvStatus(enum.Enum):
    """What can be done next."""

    READY = "ready"
    """`single_step`."""
    BRANCHING_READY = "branching_ready"
    """`branch_step`."""
    TERMINATED = "terminated"
    """The episode has ended: `reset`, or restore a snapshot."""


@dataclasses.dataclass(frozen=True, slots=True)
class StatusInfo:
    """Answer of `enable_branching` and `check_branching_status`, and info["status"] of every step.

    Attributes:
        status: what can be done next.
        message: the same for people.
        ready: whether the env (or branch) can be stepped.
        details: numbers to it.
    """

    status: EnvStatus
    message: str
    ready: bool
    details: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True)
class _Progress:
    """Steps and sum of rewards since the episode began."""

    steps: int = 0
    reward: float = 0.0


class GRPOCarlaEnv:
    """An environment that is stepped alone (single mode), or as branches that began at one moment (branching mode).

    Args:
        num_services: how many branches at most; each is a worker with a CARLA server of its own.
        vec: a vector env to take instead of making one, made with autoreset_mode="Disabled"; owned from now on.
        kwargs: options of `make_vec_env` (address, simulator, pool_options, ...); every other one is the env's.

    Raises:
        ValueError: `vec` resets its rows on its own.

    Attributes:
        max_branches: as given, or the rows of `vec`.
        observation_space: of one env.
        action_space: of one env.
        group: the branches, None in single mode.
    """

    def __init__(self, num_services: int = 4, *, vec: VectorEnv | None = None, **kwargs: Any) -> None:
        self._vec = vec or make_registered(num_services, autoreset_mode=AutoresetMode.DISABLED, **kwargs)
        if self._vec.autoreset_mode is not AutoresetMode.DISABLED:
            raise ValueError(
                f'expected a vector env made with autoreset_mode="Disabled", found {self._vec.autoreset_mode}'
            )
        self.max_branches = self._vec.num_envs
        self.observation_space = self._vec.single_observation_space
        self.action_space = self._vec.single_action_space
        self.group: RolloutGroup | None = None
        self._primary = 0  # the row that is stepped in single mode
        self._progress = _Progress()  # of the primary, when branching began
        self._branch_rewards: np.ndarray[Any, np.dtype[np.float64]] = np.zeros(0)
        self._branch_steps = 0
        self._ended = False
        self._last_snapshot: str | None = None
        self._saved: dict[str, _Progress] = {}

    @property
    def is_branching(self) -> bool:
        """Whether `branch_step` is the one to call."""
        return self.group is not None

    @property
    def current_mode(self) -> str:
        """The mode: "single" or "branching"."""
        return "branching" if self.is_branching else "single"

    # --- one environment ---

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode in single mode; branches end."""
        self.group = None
        mask = np.zeros(self.max_branches, np.bool_)
        mask[self._primary] = True
        seeds = [seed if row == self._primary else None for row in range(self.max_branches)]
        found = self._vec.reset(seed=seeds, options={**(options or {}), "reset_mask": mask})
        self._progress, self._ended, self._last_snapshot = _Progress(), False, None
        return self._first(*found)

    def single_step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Step the environment.

        Returns:
            What `gymnasium.Env.step` returns; info has mode, episode_steps, cumulative_reward and status as well.

        Raises:
            RuntimeError: in branching mode.
        """
        self._expect("single", "single_step")
        self._vec.send(self._batched([action]), [self._primary])
        observations, rewards, terminated, truncated, infos = self._vec.recv(1)
        del infos["env_id"], infos["_env_id"]
        self._progress = _Progress(self._progress.steps + 1, self._progress.reward + float(rewards[0]))
        self._ended = bool(terminated[0] or truncated[0])
        info = row_infos(infos, 1)[0] | self._told(self._progress) | {"status": self.check_branching_status()}
        return self._split(observations, 1)[0], float(rewards[0]), bool(terminated[0]), bool(truncated[0]), info

    # --- branches ---

    def enable_branching(self, snapshot_id: str | None = None, num_branches: int | None = None) -> StatusInfo:
        """Go over to branching mode: put the branches to one moment.

        Args:
            snapshot_id: the moment; None for the last `save_snapshot` of this episode, without one the present.
            num_branches: from 2 to `max_branches`; None for all.

        Raises:
            RuntimeError: in branching mode.
            SnapshotError: no row has such a snapshot.
            ValueError: fewer than two branches, or more than there are.
        """
        self._fork(snapshot_id, num_branches)
        return self.check_branching_status()

    def fork_from_snapshot(
        self, snapshot_id: str | None = None, num_branches: int | None = None
    ) -> tuple[list[Any], list[dict[str, Any]]]:
        """`enable_branching`, with the observations and infos of the branches."""
        observations, infos = self._fork(snapshot_id, num_branches)
        count = self._branches()
        return self._split(observations, count), row_infos(infos, count)

    def _fork(self, snapshot_id: str | None, num_branches: int | None) -> tuple[Any, dict[str, Any]]:
        self._expect("single", "enable_branching")
        count = self.max_branches if num_branches is None else num_branches
        if not 2 <= count <= self.max_branches:
            raise ValueError(f"expected 2 to {self.max_branches} branches, found {count}")
        others = [row for row in range(self.max_branches) if row != self._primary]
        group = RolloutGroup(self._vec, [self._primary, *others[: count - 1]])
        snapshot = snapshot_id or self._last_snapshot
        if snapshot is None:
            found = group.start()
        else:
            self._bring(snapshot, group.rows)
            found = group.start(snapshot=snapshot)
            self._progress = self._saved.get(snapshot, _Progress())
        self.group, self._ended = group, False
        self._branch_rewards, self._branch_steps = np.zeros(count), 0
        return found

    def branch_step(
        self, actions: Sequence[Any]
    ) -> tuple[list[Any], list[float], list[bool], list[bool], list[dict[str, Any]]]:
        """Step the branches, each with its own action; one that has ended stays where it is.

        Returns:
            Observations, rewards, terminated, truncated and infos, each a list with one item a branch. Each info has
            branch_id, mode, episode_steps, cumulative_reward and status as well.

        Raises:
            RuntimeError: in single mode.
            ValueError: another number of actions.
            ResetNeeded: every branch has ended.
        """
        self._expect("branching", "branch_step")
        assert self.group is not None
        count = self._branches()
        if len(actions) != count:
            raise ValueError(f"expected {count} actions, one a branch, found {len(actions)}")
        observations, rewards, terminated, truncated, infos = self.group.step(self._batched(actions))
        self._branch_rewards += rewards
        self._branch_steps += 1
        active = self.group.active
        each = row_infos(infos, count)
        for branch, info in enumerate(each):
            info |= {"branch_id": branch, **self._told(self._progress_of(branch))}
            info["status"] = self._status(ended=not active[branch])
        return self._split(observations, count), rewards.tolist(), terminated.tolist(), truncated.tolist(), each

    def check_branching_status(self) -> StatusInfo:
        """What can be done next; never anything to wait for, as branches are ready when `enable_branching` returns."""
        ended = self._ended if self.group is None else not self.group.active.any()
        return self._status(ended)

    def select_branch(self, branch_idx: int) -> None:
        """Go on in single mode with one branch, from where it is; nothing is restored.

        Raises:
            RuntimeError: in single mode.
            ValueError: no such branch, or its worker died.
        """
        self._expect("branching", "select_branch")
        assert self.group is not None
        if not 0 <= branch_idx < self._branches():
            raise ValueError(f"expected a branch from 0 to {self._branches() - 1}, found {branch_idx}")
        record = self.group.record
        if record.lost[branch_idx]:
            raise ValueError(f"expected a branch whose worker lives, found that of branch {branch_idx} dead")
        self._progress = self._progress_of(branch_idx)
        self._primary = self.group.rows[branch_idx]
        self._ended = bool(record.terminated[branch_idx] or record.truncated[branch_idx])
        self.group, self._last_snapshot = None, None

    def disable_branching(self) -> None:
        """Go on in single mode with branch 0; nothing happens in single mode."""
        if self.is_branching:
            self.select_branch(0)

    def get_branch_statistics(self) -> dict[str, Any]:
        """Rewards of the branches.

        Returns:
            mode, active_branches (how many there are); in single mode primary_reward, since the episode began; in
            branching mode branch_rewards (since branching), cumulative_rewards (since the episode began), best_branch
            (of the highest, whose worker lives), steps_since_branch.
        """
        if self.group is None:
            return {"mode": "single", "active_branches": 1, "primary_reward": self._progress.reward}
        comparable = np.where(self.group.record.lost, -np.inf, self._branch_rewards)
        return {
            "mode": "branching",
            "active_branches": self._branches(),
            "branch_rewards": self._branch_rewards.tolist(),
            "cumulative_rewards": (self._progress.reward + self._branch_rewards).tolist(),
            "best_branch": int(np.argmax(comparable)),
            "steps_since_branch": self._branch_steps,
        }

    def branch_batch(self, gamma: float = 1.0) -> GroupBatch:
        """The branches' steps as arrays, with returns and advantages; see `RolloutGroup.batch`."""
        self._expect("branching", "branch_batch")
        assert self.group is not None
        return self.group.batch(gamma)

    # --- snapshots ---

    def save_snapshot(self, name: str | None = None) -> str:
        """Save the moment at which the environment is; the id.

        Raises:
            RuntimeError: in branching mode.
        """
        self._expect("single", "save_snapshot")
        snapshot = self._vec.save_snapshot(name, [self._primary])
        self._last_snapshot, self._saved[snapshot] = snapshot, self._progress
        return snapshot

    def restore_snapshot(self, snapshot_id: str, level: str = "state") -> tuple[Any, dict[str, Any]]:
        """Put the environment back to a saved moment; its observation and info.

        Raises:
            RuntimeError: in branching mode; `reset_from_snapshot` leaves it.
            SnapshotError: no row has such a snapshot.
        """
        self._expect("single", "restore_snapshot")
        self._bring(snapshot_id, [self._primary])
        observation, info = self._first(*self._vec.restore_snapshot(snapshot_id, [self._primary], level))
        self._progress = self._saved.get(snapshot_id, _Progress())
        self._ended, self._last_snapshot = bool(info["restore"].get("ended")), snapshot_id
        return observation, info

    def reset_from_snapshot(self, snapshot_id: str, level: str = "state") -> tuple[Any, dict[str, Any]]:
        """End branching, and put the environment back to a saved moment."""
        self.group = None
        return self.restore_snapshot(snapshot_id, level)

    def list_snapshots(self) -> list[dict[str, Any]]:
        """What can be restored: one dict an id."""
        found = {one["id"]: one for row in self._living() for one in self._vec.list_snapshots([row])[0]}
        return list(found.values())

    def delete_snapshot(self, snapshot_id: str) -> None:
        """Forget a snapshot.

        Raises:
            SnapshotError: no row has such a snapshot.
        """
        self._vec.delete_snapshot(snapshot_id, self._holders(snapshot_id))
        self._saved.pop(snapshot_id, None)
        if self._last_snapshot == snapshot_id:
            self._last_snapshot = None

    def _living(self) -> list[int]:
        lost = self._vec.lost_rows
        return [row for row in range(self.max_branches) if row not in lost]

    def _holders(self, snapshot: str) -> list[int]:
        living = self._living()
        lists = self._vec.list_snapshots(living)
        holders = [row for row, listed in zip(living, lists, strict=True) if snapshot in [one["id"] for one in listed]]
        if not holders:
            raise SnapshotError(f"expected a saved snapshot, found {snapshot!r} in no row; list_snapshots() says which")
        return holders

    def _bring(self, snapshot: str, rows: Sequence[int]) -> None:
        """Copy a snapshot to rows that do not have it; a restore does so itself for those whose worker died."""
        holders = self._holders(snapshot)
        missing = [row for row in self._living() if row in rows and row not in holders]
        if missing:
            self._vec.import_snapshot(self._vec.export_snapshot(snapshot, holders[0]), missing)

    # --- the rest ---

    def render(self) -> Any:
        """A frame of the environment, or in branching mode a list with one a branch."""
        if self.group is None:
            return self._vec.call("render", rows=[self._primary])[0]
        return list(self._vec.call("render", rows=self.group.rows))

    def close(self) -> None:
        """Release the rows, and take down a private pool."""
        self._vec.close()

    def _expect(self, mode: str, name: str) -> None:
        if self.current_mode != mode:
            raise RuntimeError(
                f"expected {mode} mode for {name}(), found {self.current_mode} mode: "
                + ("call enable_branching() first" if mode == "branching" else "call select_branch() first")
            )

    def _branches(self) -> int:
        return 0 if self.group is None else len(self.group.rows)

    def _progress_of(self, branch: int) -> _Progress:
        reward = self._progress.reward + float(self._branch_rewards[branch])
        return _Progress(self._progress.steps + self._branch_steps, reward)

    def _told(self, progress: _Progress) -> dict[str, Any]:
        return {"mode": self.current_mode, "episode_steps": progress.steps, "cumulative_reward": progress.reward}

    def _status(self, ended: bool) -> StatusInfo:
        if ended:
            return StatusInfo(EnvStatus.TERMINATED, "the episode has ended", False)
        if self.group is None:
            return StatusInfo(EnvStatus.READY, "single_step() may be called", True)
        return StatusInfo(
            EnvStatus.BRANCHING_READY, "branch_step() may be called", True, {"active_branches": self._branches()}
        )

    def _batched(self, actions: Sequence[Any]) -> Any:
        empty: Any = create_empty_array(self.action_space, len(actions))
        return concatenate(self.action_space, list(actions), empty)

    def _split(self, observations: Any, count: int) -> list[Any]:
        return list(iterate(batch_space(self.observation_space, count), observations))

    def _first(self, observations: Any, infos: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        row = self._primary
        return self._split(observations, self.max_branches)[row], row_infos(infos, self.max_branches)[row]
