"""The infos of a batch as one dict a row again: what `zmqcarla.infos` and gymnasium's `_add_info` put together."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

_PYTHON_DTYPES: Final = (np.dtype(np.bool_), np.dtype(np.int64), np.dtype(np.float64))
"""What bool, int and float became in a batch."""


def row_infos(infos: dict[str, Any], num_envs: int) -> list[dict[str, Any]]:
    """One dict a row, with the keys that the row's mask names; numbers and bools are Python's again.

    Args:
        infos: of a vector env: arrays of shape (num_envs, ...) or nested dicts, each with a mask `_key`.
        num_envs: how many rows.
    """
    rows: list[dict[str, Any]] = [{} for _ in range(num_envs)]
    for key, batch in infos.items():
        if key.startswith("_") and key[1:] in infos:
            continue
        values = row_infos(batch, num_envs) if isinstance(batch, dict) else batch
        if isinstance(values, np.ndarray) and values.ndim == 1 and values.dtype in _PYTHON_DTYPES:
            values = values.tolist()
        mask = infos.get(f"_{key}")
        for row in range(num_envs):
            if mask is None or mask[row]:
                rows[row][key] = values[row]
    return rows
