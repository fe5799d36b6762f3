"""Rollouts that begin at one moment and are compared with each other: the group of GRPO, over rows of a vector env.

    vec = zmqcarla.make_vec_env(8)
    vec.reset(seed=0)
    group = zmqcarla.RolloutGroup(vec)
    observations, infos = group.start()          # every member stands where the first row stands
    while group.active.any():
        observations, rewards, terminated, truncated, infos = group.step(policy(observations))
    batch = group.batch()                        # (T, G, ...) arrays, returns, advantages

Several groups on disjoint rows of one vector env are stepped together by `step_groups`: their actions go out at once.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Sequence
from typing import Any, Final

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from zmqcarla.broker.errors import CommandTimeoutError
from zmqcarla.contract import chosen_rows
from zmqcarla.group_batch import GroupBatch
from zmqcarla.group_record import GroupRecord, GroupStep, Results
from zmqcarla.infos import add_info_for, batch_infos
from zmqcarla.row_infos import row_infos
from zmqcarla.shm.layout import make_flatten, unflatten
from zmqcarla.vector_env import VectorEnv

_group_ids: Final = itertools.count()


class RolloutGroup:
    """G members, each a row of a vector env.

    The rows stay the vector env's: between two calls of the group it can be used in any other way. Members are numbered
    from 0 in the order of `rows`. Observations that `start` and `step` return are the group's own arrays, which `batch`
    copies: read them, do not write into them.

    Args:
        vec: of a pool (`make_vec_env`), of an env that can be forked (`zmqcarla.snapshots`), not made with SAME_STEP.
        rows: of the members; None for all.

    Raises:
        ValueError: fewer than two rows, SAME_STEP, or a space with a leaf that has no fixed size.

    Attributes:
        vec: the vector env.
        rows: of the members.
        record: what they did since the group began.
    """

    def __init__(self, vec: VectorEnv, rows: Sequence[int] | None = None) -> None:
        self.vec = vec
        self.rows = tuple(chosen_rows(rows, vec.num_envs))
        if len(self.rows) < 2:
            raise ValueError(f"expected a group of two rows at least, found rows {self.rows}")
        if vec.autoreset_mode is AutoresetMode.SAME_STEP:
            raise ValueError(
                "expected a vector env with NEXT_STEP or DISABLED for a group, whose members stay at the end of their "
                "episodes; found SAME_STEP"
            )
        self.record = GroupRecord(vec.single_observation_space, vec.single_action_space, len(self.rows))
        self._flatten = make_flatten(vec.single_observation_space)

    @property
    def active(self) -> NDArray[np.bool_]:
        """Who is stepped, bool (G,), a copy: not who ended, was stopped, or lost its worker."""
        active: NDArray[np.bool_] = self.record.active.copy()
        return active

    # --- a new group ---

    def start(
        self, source: int | None = None, level: str = "state", snapshot: str | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Put all members at one moment; a new group begins, and the record of the one before is dropped.

        Args:
            source: the member at whose moment all go on; None for the first.
            level: "state" or "replay", see `VectorEnv.restore_snapshot`.
            snapshot: a saved moment instead, which every row has (`VectorEnv.import_snapshot`).

        Returns:
            Observations, each leaf (G, *shape), and infos of the members.

        Raises:
            ValueError: both a source and a snapshot, no such member, or the moment is the end of an episode.
            SnapshotError: the env knows no such snapshot, or was never reset.
            WorkerLostError: the source's worker died.
        """
        if snapshot is not None and source is not None:
            raise ValueError(f"expected a source or a snapshot, found {source} and {snapshot!r}")
        source_row = self.rows[self._member(source or 0)]
        self.record.active[:] = False
        if snapshot is None:
            others = [row for row in self.rows if row != source_row]
            batch, infos = self.vec.fork(source_row, others, level)
        else:
            batch, infos = self.vec.restore_snapshot(snapshot, self.rows, level)
        each = row_infos(infos, self.vec.num_envs)
        mine = [each[row] for row in self.rows]
        if any(info.get("restore", {}).get("ended") for info in mine):
            raise ValueError(
                "expected a moment within an episode, found the end of one: reset the source and start there"
            )
        rows = np.array(self.rows)
        self.record.begin([leaf[rows] for leaf in self._flatten(batch)], next(_group_ids))
        return self.record.newest(), batch_infos(mine, add_info_for(len(mine)))

    def select(self, member: int, level: str = "state") -> tuple[Any, dict[str, Any]]:
        """Put all members where `member` is, and begin a new group there: `start(source=member)`.

        Raises:
            ValueError: its episode has ended, or its worker died.
        """
        chosen = self._member(member)
        if self.record.terminated[chosen] or self.record.truncated[chosen]:
            raise ValueError(
                f"expected a member whose episode goes on, found that of member {chosen} ended: select another one, "
                "or reset the vector env and start()"
            )
        return self.start(chosen, level)

    # --- steps ---

    def step(self, actions: Any) -> GroupStep:
        """Step the active members.

        Args:
            actions: a batch, one for each member; those of members that are not active are not looked at.

        Returns:
            Observations (each leaf (G, *shape)), rewards float64 (G,), terminated and truncated bool (G,), infos. A
            member that is not stepped any more keeps observation and flags, with reward 0 and no infos.

        Raises:
            ResetNeeded: no member is active; `start` or `select` begin a new group.
            InvalidActionError: wrong number, shape or type, or NaN; nobody was stepped.
            Exception: what an env raised. The group has ended then: other members may have done the step.
        """
        return step_groups([self], [actions])[0]

    def stop(self, member: int) -> None:
        """Step this member no more; what it did so far counts."""
        self.record.active[self._member(member)] = False

    def _member(self, member: int) -> int:
        if not 0 <= member < len(self.rows):
            raise ValueError(f"expected a member from 0 to {len(self.rows) - 1}, found {member}")
        return int(member)

    # --- the record ---

    def batch(self, gamma: float = 1.0, epsilon: float = 1e-6) -> GroupBatch:
        """What the group did since it began.

        Args:
            gamma: discount of a step, for the returns.
            epsilon: added to the standard deviation of the returns.

        Raises:
            ValueError: no step was done.
        """
        return self.record.batch(gamma, epsilon)


def step_groups(groups: Sequence[RolloutGroup], actions: Sequence[Any]) -> list[GroupStep]:
    """Step several groups of one vector env at the same time, each as `RolloutGroup.step` does.

    Args:
        groups: on disjoint rows. One without an active member is left as it is.
        actions: a batch for each group.

    Returns:
        What `RolloutGroup.step` returns, one for each group.

    Raises:
        ValueError: the groups are of different vector envs or share rows.
        ResetNeeded: no group has an active member.
        InvalidActionError: nobody was stepped.
    """
    vec = groups[0].vec
    if any(group.vec is not vec for group in groups):
        raise ValueError("expected groups of one vector env, found several: step those of each together")
    split = [group.record.split(batch) for group, batch in zip(groups, actions, strict=True)]
    active = [group.active for group in groups]
    rows = [row for group, who in zip(groups, active, strict=True) for row in np.array(group.rows)[who].tolist()]
    if not rows:
        raise gymnasium.error.ResetNeeded("expected an active member, found none: start() or select() before this step")
    columns = zip(*split, strict=True)
    leaves = [np.concatenate([leaf[who] for leaf, who in zip(column, active, strict=True)]) for column in columns]
    vec.send(unflatten(vec.single_action_space, iter(leaves)), rows)
    try:
        results, places = _received(vec, len(rows))
    except CommandTimeoutError:
        raise
    except Exception:
        for group in groups:
            group.record.active[:] = False
        for _ in rows:  # the results of the others: the vector env is free again
            with contextlib.suppress(Exception):
                vec.recv(1)
        raise
    return [
        group.record.add(leaves, results, places[list(group.rows)]) if who.any() else group.record.rest()
        for group, leaves, who in zip(groups, split, active, strict=True)
    ]


def _received(vec: VectorEnv, k: int) -> tuple[Results, NDArray[np.int64]]:
    """The results of k rows, and for each row of the vector env where its results stand; -1 for nowhere."""
    observations, rewards, terminated, truncated, infos = vec.recv(k)
    places: NDArray[np.int64] = np.full(vec.num_envs, -1, np.int64)
    places[infos.pop("env_id")] = np.arange(k)
    del infos["_env_id"]
    leaves = make_flatten(vec.single_observation_space)(observations)
    return Results(leaves, rewards, terminated, truncated, row_infos(infos, k)), places
