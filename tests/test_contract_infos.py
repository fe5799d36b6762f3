"""Our batching of infos against gymnasium's own `_add_info`, on many generated batches."""

from __future__ import annotations

import random
import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
from test_contract_vector_env import same

from zmqcarla.broker.protocol import pack, unpack
from zmqcarla.infos import batch_infos

VALUES: tuple[Any, ...] = (
    lambda draw: draw.random() < 0.5,
    lambda draw: draw.randrange(-5, 5),
    lambda draw: draw.random(),
    lambda draw: "text" * draw.randrange(3),
    lambda draw: None,
    lambda draw: np.float32(draw.random()),
    lambda draw: np.uint8(draw.randrange(9)),
    lambda draw: np.bool_(draw.random() < 0.5),
    lambda draw: np.full((2, 3), draw.randrange(9), np.int16),
    lambda draw: np.array(draw.random()),
    lambda draw: [draw.randrange(9)] * draw.randrange(3),
    lambda draw: (draw.randrange(9), "b"),
    lambda draw: b"bytes",
)
NAMES = ("a", "b", "_a", "__a", "final_obs", "final_info", "episode", "c", "d")


class _Rows(gymnasium.vector.VectorEnv[Any, Any, Any]):
    def __init__(self, num_envs: int) -> None:
        self.num_envs = num_envs
        self.add = self._add_info


def _schema(draw: random.Random, depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for name in draw.sample(NAMES, draw.randrange(5)):
        nested = depth < 3 and (name in ("final_info", "episode") or draw.random() < 0.2)
        schema[name] = _schema(draw, depth + 1) if nested else draw.choice(VALUES)
    return schema


def _infos(draw: random.Random, schema: dict[str, Any], keep: float) -> dict[str, Any]:
    names = [name for name in schema if draw.random() < keep]
    if keep < 1 and draw.random() < 0.3:
        draw.shuffle(names)
    return {
        name: _infos(draw, part, keep)
        if isinstance(part, dict)
        else (draw.choice(VALUES) if keep < 1 and draw.random() < 0.1 else part)(draw)
        for name, part in ((name, schema[name]) for name in names)
    }


class _Upstream:
    """What gymnasium makes of infos."""

    @staticmethod
    def rule(num_envs: int) -> Any:
        return _Rows(num_envs).add

    @staticmethod
    def outcome(batch: Any) -> Any:
        """The batch, or the type of what was raised."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                return batch()
            except Exception as error:
                return type(error)

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        add, batch = self.rule(len(rows)), dict[str, Any]()
        for row, infos in enumerate(rows):
            batch = add(batch, infos, row)
        return batch


upstream = _Upstream()


def generated_rows(draw: random.Random) -> list[dict[str, Any]]:
    """The infos of some rows, alike or not."""
    schema, num_envs = _schema(draw, 0), draw.choice((1, 2, 3, 5))
    keep = draw.choice((1.0, 1.0, 0.8, 0.3))
    return [_infos(draw, schema, keep) for _ in range(num_envs)]


@pytest.mark.parametrize("seed", range(40))
def test_generated_infos_are_batched_as_upstream_does(seed: int) -> None:
    draw = random.Random(seed)
    for _ in range(100):
        rows = generated_rows(draw)
        travelled = [unpack(pack(infos)) for infos in rows]
        same(travelled, rows)
        expected = upstream.outcome(lambda rows=rows: upstream(rows))
        found = upstream.outcome(lambda rows=travelled: batch_infos(rows, _Rows(len(rows)).add))
        if expected is not found:
            same(found, expected)
