"""The rollouts of one group as arrays, and the advantage of each within its group.

The advantage is the one of GRPO with outcome supervision (Shao et al., 2024, DeepSeekMath): a rollout's return against
the mean of its group, in standard deviations (of the population) of the group.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclasses.dataclass(frozen=True, slots=True)
class GroupBatch:
    """T steps of G members; all arrays are private.

    Attributes:
        observations: tree of the observation space, each leaf (T + 1, G, *shape): [t] is what actions[t] answer, [T]
            the last. A member that was not stepped repeats its observation.
        actions: tree of the action space, each leaf (T, G, *shape); 0 where a member was not stepped.
        rewards: float64 (T, G); 0 where a member was not stepped.
        active: bool (T, G): the member did this step. False throughout for a member that was lost.
        terminated: bool (G,): the member's last step ended its episode.
        truncated: bool (G,): the member's last step cut its episode off, or its worker died.
        lost: bool (G,): the member's worker died, so its return means nothing.
        group_ids: int64 (G,): number of the group, the same for all members and for no other group of this process.
        returns: float64 (G,): sum of gamma**t * rewards[t].
        advantages: float64 (G,): see `group_advantages`; 0 for a member that was lost.
    """

    observations: Any
    actions: Any
    rewards: NDArray[np.float64]
    active: NDArray[np.bool_]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    lost: NDArray[np.bool_]
    group_ids: NDArray[np.int64]
    returns: NDArray[np.float64]
    advantages: NDArray[np.float64]


def discounted_returns(rewards: NDArray[np.float64], gamma: float) -> NDArray[np.float64]:
    """Sum of gamma**t * rewards[t], seen from the first step: (T, G) to (G,)."""
    weights: NDArray[np.float64] = gamma ** np.arange(len(rewards), dtype=np.float64)
    returns: NDArray[np.float64] = (weights[:, None] * rewards).sum(axis=0)
    return returns


def group_advantages(
    returns: NDArray[np.float64], counted: NDArray[np.bool_], epsilon: float = 1e-6
) -> NDArray[np.float64]:
    """(return - mean) / (standard deviation + epsilon), mean and deviation over the members that count.

    Args:
        returns: (G,).
        counted: bool (G,); the others get 0.
        epsilon: keeps members that are all alike at 0.
    """
    advantages = np.zeros_like(returns)
    if counted.any():
        found = returns[counted]
        advantages[counted] = (found - found.mean()) / (found.std() + epsilon)
    return advantages
