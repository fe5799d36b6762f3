"""One infos dict for a batch, as gymnasium's `VectorEnv._add_info` makes it, without its cost a key and row.

Gymnasium's rules: a key's values form one array (of their type for numbers, of objects otherwise) beside a mask
`_key`; dicts are treated in the same way one level down. `_add_info` looks up and assigns every key of every row;
where all rows have the same keys and plain numbers, as they nearly always have, one array a key is made at once.
Whatever is less plain goes through `_add_info` itself: the result is the same to the last dtype.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np

_PLAIN = (bool, int, float)
_FINAL_OBS = "final_obs"

AddInfo = Callable[[dict[str, Any], dict[str, Any], int], dict[str, Any]]


def batch_infos(infos: Sequence[dict[str, Any]], add_info: AddInfo) -> dict[str, Any]:
    """The infos of a batch.

    Args:
        infos: one dict a row, empty for a row without infos.
        add_info: gymnasium's own rule, for all that is not the common case.
    """
    first = infos[0]
    if not first and not any(infos):
        return {}
    if any(info.keys() != first.keys() for info in infos) or any(f"_{key}" in first for key in first):
        return _batch_any(infos, add_info)  # (an info named like another one's mask shares its array upstream)
    return _batch_equal(infos, add_info)


def add_info_for(num_envs: int) -> AddInfo:
    """Gymnasium's own rule, for a batch of another size than the vector env's."""
    return _Sized(num_envs).add_info


class _Sized(gymnasium.vector.VectorEnv[Any, Any, Any]):
    def __init__(self, num_envs: int) -> None:
        self.num_envs = num_envs
        self.add_info: AddInfo = self._add_info


def joined(columns: dict[str, Any], others: dict[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    """Two batches of infos that share no key as one, in the order of `keys`."""
    if not columns:
        return others
    both = {**columns, **others}
    ordered = {name: both[name] for key in keys for name in (key, f"_{key}") if name in both}
    return {**ordered, **both}


def _batch_equal(infos: Sequence[dict[str, Any]], add_info: AddInfo) -> dict[str, Any]:
    batch: dict[str, Any] = {}
    for key in infos[0]:
        values = [info[key] for info in infos]
        kind = type(values[0])
        same = all(type(value) is kind for value in values)
        if key == _FINAL_OBS:  # dicts too stay whole, one object a row
            batch[key] = np.full(len(infos), None, object)
            for row, value in enumerate(values):
                batch[key][row] = value
        elif same and kind in _PLAIN:
            batch[key] = np.array(values, dtype=kind)
        elif same and kind is dict and key != "final_obs":  # a dict there is an observation: one object a row
            batch[key] = batch_infos(values, add_info)
        elif same and kind is str:
            batch[key] = np.array(values, dtype=object)
        else:
            part: dict[str, Any] = {}
            for row, value in enumerate(values):
                part = add_info(part, {key: value}, row)
            batch[key] = part[key]
        batch[f"_{key}"] = np.ones(len(infos), np.bool_)
    return batch


def _batch_any(infos: Sequence[dict[str, Any]], add_info: AddInfo) -> dict[str, Any]:
    batch: dict[str, Any] = {}
    for row, info in enumerate(infos):
        if info:
            batch = add_info(batch, info, row)
    return batch
