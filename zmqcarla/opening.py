"""The envs of a new lease are made: what each worker is told, and what all of them answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from gymnasium.vector import AutoresetMode

from zmqcarla.broker.errors import WorkerLostError
from zmqcarla.contract import check_same_spaces
from zmqcarla.lease import Outcome, RowLease

_ATTEMPTS: Final = 3


def open_payloads(
    env_id: str, env_kwargs: dict[str, Any] | Sequence[dict[str, Any]] | None, num_envs: int, mode: AutoresetMode
) -> list[dict[str, Any]]:
    """What each row is told; see `VectorEnv` for the arguments.

    Raises:
        ValueError: a sequence of keyword arguments that are not one a row.
    """
    each = [env_kwargs or {}] * num_envs if env_kwargs is None or isinstance(env_kwargs, dict) else env_kwargs
    if len(each) != num_envs:
        raise ValueError(f"expected one dict of env_kwargs a row ({num_envs}), found {len(each)}")
    return [{"env_id": env_id, "kwargs": dict(kwargs), "autoreset": mode.value} for kwargs in each]


def open_all(
    lease: RowLease,
    payloads: Sequence[dict[str, Any]],
    timeout_s: float,
    settled: Callable[[list[Outcome]], list[Outcome]],
) -> list[dict[str, Any]]:
    """Have every worker make its env.

    Args:
        lease: the rows.
        payloads: one a row, from `open_payloads`.
        timeout_s: for each attempt.
        settled: raises what a worker raised, or that it will not come back.

    Returns:
        The answer of each row: spaces, metadata and render mode.

    Raises:
        SpaceMismatchError: the envs differ in their spaces.
        WorkerLostError: a worker died again and again.
    """
    answers: dict[int, dict[str, Any]] = {}
    rows = list(range(len(payloads)))
    outcomes: list[Outcome] = []
    for _ in range(_ATTEMPTS):  # a worker that dies meanwhile is asked again when it is back
        seq = lease.send(rows, ["open"] * len(rows), [lease.pack(payloads[row]) for row in rows])
        outcomes = settled(lease.wait(seq, timeout_s))
        answers.update({outcome.row: outcome.payload for outcome in outcomes if outcome.kind == "ok"})
        rows = [outcome.row for outcome in outcomes if outcome.kind == "lost"]
        if not rows:
            in_order = [answers[row] for row in range(len(payloads))]
            check_same_spaces(in_order)
            return in_order
    raise WorkerLostError(f"rows {rows} were lost {_ATTEMPTS} times while their envs were made: {outcomes}")
