"""What the members of a rollout group did since the group began: who is stepped, and every step, leaf by leaf."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from zmqcarla.broker.errors import InvalidActionError
from zmqcarla.group_batch import GroupBatch, discounted_returns, group_advantages
from zmqcarla.infos import add_info_for, batch_infos
from zmqcarla.shm.layout import Layout, make_flatten, unflatten

Leaves = list[NDArray[Any]]
GroupStep = tuple[Any, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]


@dataclasses.dataclass(frozen=True, slots=True)
class Results:
    """Results of k rows, in any order.

    Attributes:
        leaves: of the observations, each (k, *shape).
        rewards: float64 (k,).
        terminated: bool (k,).
        truncated: bool (k,).
        infos: one dict for each.
    """

    leaves: Sequence[NDArray[Any]]
    rewards: NDArray[np.float64]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    infos: list[dict[str, Any]]


class GroupRecord:
    """The record of one group of G members.

    Args:
        observation_space: of one env.
        action_space: of one env.
        size: G.

    Raises:
        ValueError: a space has a leaf without a fixed size.

    Attributes:
        active: bool (G,), who is stepped.
        terminated: bool (G,), whose episode the last step ended.
        truncated: bool (G,), whose episode the last step cut off.
        lost: bool (G,), whose worker died.
    """

    def __init__(self, observation_space: gymnasium.Space[Any], action_space: gymnasium.Space[Any], size: int) -> None:
        for space in (observation_space, action_space):
            if any(leaf.inline for leaf in Layout.of(space, 1, 1).leaves):
                raise ValueError(
                    f"expected a space of fixed size for a group (no Text, Sequence or Graph), found {space}"
                )
        self.active: NDArray[np.bool_] = np.zeros(size, np.bool_)
        self.terminated: NDArray[np.bool_] = np.zeros(size, np.bool_)
        self.truncated: NDArray[np.bool_] = np.zeros(size, np.bool_)
        self.lost: NDArray[np.bool_] = np.zeros(size, np.bool_)
        self._size = size
        self._group_id = -1
        self._observation_space = observation_space
        self._action_space = action_space
        self._action_dtypes = [leaf.dtype for leaf in Layout.of(action_space, 1, 1).leaves]
        self._flatten_actions = make_flatten(action_space)
        self._observations: list[Leaves] = []
        self._actions: list[Leaves] = []
        self._rewards: list[NDArray[np.float64]] = []
        self._did: list[NDArray[np.bool_]] = []

    def begin(self, observations: Leaves, group_id: int) -> None:
        """Everybody stands at one moment, and what was recorded is dropped."""
        self.active[:] = True
        for ended in (self.terminated, self.truncated, self.lost):
            ended[:] = False
        self._group_id = group_id
        self._observations, self._actions, self._rewards, self._did = [observations], [], [], []

    def split(self, actions: Any) -> Leaves:
        """The leaves of a batch of G actions, 0 for members that are not active.

        Raises:
            InvalidActionError: another tree, or another number of actions.
        """
        leaves: Leaves = []
        try:
            found = [np.asarray(leaf) for leaf in self._flatten_actions(actions)]
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise InvalidActionError(
                f"expected actions of {self._action_space}, found {actions!r}: {error!r}"
            ) from None
        for leaf in found:
            if leaf.shape[:1] != (self._size,):
                raise InvalidActionError(f"expected {self._size} actions, one a member, found shape {leaf.shape}")
            active = self.active.reshape(-1, *[1] * (leaf.ndim - 1))
            leaves.append(np.where(active, leaf, np.zeros((), leaf.dtype)))
        return leaves

    def add(self, actions: Leaves, results: Results, places: NDArray[np.int64]) -> GroupStep:
        """Note a step of the active members, and hand it out.

        Args:
            actions: from `split`.
            results: of the step.
            places: (G,), where the results of each member stand.
        """
        did = self.active.copy()
        members = np.flatnonzero(did)
        places = places[members]
        newest: Leaves = []
        for before, leaf in zip(self._observations[-1], results.leaves, strict=True):
            now = before.copy()
            now[members] = leaf[places]
            newest.append(now)
        rewards = np.zeros(self._size)
        rewards[members] = results.rewards[places]
        self.terminated[members] = results.terminated[places]
        self.truncated[members] = results.truncated[places]
        infos: list[dict[str, Any]] = [{} for _ in range(self._size)]
        for member, place in zip(members.tolist(), places.tolist(), strict=True):
            infos[member] = results.infos[place]
            self.lost[member] = "worker_lost" in infos[member]
        self.active &= ~(self.terminated | self.truncated)
        self._observations.append(newest)
        self._actions.append([leaf.astype(dtype) for leaf, dtype in zip(actions, self._action_dtypes, strict=True)])
        self._rewards.append(rewards)
        self._did.append(did)
        return self._handed_out(rewards, batch_infos(infos, add_info_for(self._size)))

    def rest(self) -> GroupStep:
        """What a step brings when no member is active."""
        return self._handed_out(np.zeros(self._size), {})

    def _handed_out(self, rewards: NDArray[np.float64], infos: dict[str, Any]) -> GroupStep:
        return self.newest(), rewards, self.terminated.copy(), self.truncated.copy(), infos

    def newest(self) -> Any:
        """Where the members stand: the tree of the observation space, each leaf (G, *shape)."""
        return unflatten(self._observation_space, iter(self._observations[-1]))

    def batch(self, gamma: float, epsilon: float) -> GroupBatch:
        """All steps; see `RolloutGroup.batch`."""
        if not self._rewards:
            raise ValueError("expected a group that did a step, found none: start() and step() come before batch()")
        rewards = np.stack(self._rewards)
        returns = discounted_returns(rewards, gamma)
        return GroupBatch(
            observations=_stack(self._observation_space, self._observations),
            actions=_stack(self._action_space, self._actions),
            rewards=rewards,
            active=np.stack(self._did) & ~self.lost,
            terminated=self.terminated.copy(),
            truncated=self.truncated.copy(),
            lost=self.lost.copy(),
            group_ids=np.full(self._size, self._group_id, np.int64),
            returns=returns,
            advantages=group_advantages(returns, ~self.lost, epsilon),
        )


def _stack(space: gymnasium.Space[Any], steps: list[Leaves]) -> Any:
    return unflatten(space, iter([np.stack(column) for column in zip(*steps, strict=True)]))
