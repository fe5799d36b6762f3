"""Gymnasium spaces as plain values, so that they can travel in a message without pickle."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces


def describe(space: spaces.Space[Any]) -> dict[str, Any]:
    """The space as a dict of numbers, strings, arrays and lists.

    Raises:
        TypeError: a space type that Gymnasium does not define.
    """
    kind = type(space).__name__
    if type(space).__module__.split(".")[0] != "gymnasium" or kind not in _DESCRIBE:
        raise TypeError(f"expected one of Gymnasium's own spaces ({', '.join(_DESCRIBE)}), found {space!r}")
    return {"kind": kind, **_DESCRIBE[kind](space)}


def build(description: dict[str, Any]) -> spaces.Space[Any]:
    """The space that `describe` described.

    Raises:
        ValueError: not a description of ours.
    """
    kind = description.get("kind")
    if kind not in _BUILD:
        raise ValueError(f"expected the description of one of {', '.join(_BUILD)}, found kind {kind!r}")
    try:
        return _BUILD[kind](description)
    except (KeyError, TypeError, ValueError, AssertionError) as error:
        raise ValueError(
            f"expected a complete description of a {kind} space, found {description!r}: {error}"
        ) from error


def _describe_box(space: spaces.Box) -> dict[str, Any]:
    return {
        "low": _uniform_or_array(space.low),
        "high": _uniform_or_array(space.high),
        "shape": list(space.shape),
        "dtype": np.dtype(space.dtype).str,
    }


def _uniform_or_array(bound: np.ndarray[Any, np.dtype[Any]]) -> Any:
    """One scalar for the usual image bound instead of a megabyte of zeros."""
    flat = bound.reshape(-1)
    return flat[0] if flat.size and bool((flat == flat[0]).all()) else bound


def _build_box(description: dict[str, Any]) -> spaces.Box:
    dtype = np.dtype(description["dtype"])
    shape = tuple(description["shape"])
    low = np.broadcast_to(np.asarray(description["low"], dtype), shape)
    high = np.broadcast_to(np.asarray(description["high"], dtype), shape)
    return spaces.Box(low, high, shape, dtype.type)


def _build_discrete(description: dict[str, Any]) -> spaces.Discrete:
    space = spaces.Discrete(description["n"], start=description["start"])
    dtype = np.dtype(description["dtype"])
    if space.dtype != dtype:
        space = spaces.Discrete(description["n"], start=description["start"], dtype=dtype.type)  # type: ignore[call-arg, unused-ignore]
    return space


def _build_graph(description: dict[str, Any]) -> spaces.Graph:
    node: Any = build(description["node"])
    edge: Any = None if description["edge"] is None else build(description["edge"])
    return spaces.Graph(node, edge)


_DESCRIBE: dict[str, Callable[[Any], dict[str, Any]]] = {
    "Box": _describe_box,
    "Discrete": lambda s: {"n": int(s.n), "start": int(s.start), "dtype": np.dtype(s.dtype).str},
    "MultiDiscrete": lambda s: {"nvec": s.nvec, "start": s.start, "dtype": np.dtype(s.dtype).str},
    "MultiBinary": lambda s: {"shape": list(s.shape)},
    "Text": lambda s: {
        "min_length": s.min_length,
        "max_length": s.max_length,
        "charset": "".join(sorted(s.characters)),
    },
    "Dict": lambda s: {"keys": list(s.spaces), "spaces": [describe(sub) for sub in s.spaces.values()]},
    "Tuple": lambda s: {"spaces": [describe(sub) for sub in s.spaces]},
    "OneOf": lambda s: {"spaces": [describe(sub) for sub in s.spaces]},
    "Sequence": lambda s: {"space": describe(s.feature_space), "stack": bool(s.stack)},
    "Graph": lambda s: {
        "node": describe(s.node_space),
        "edge": None if s.edge_space is None else describe(s.edge_space),
    },
}

_BUILD: dict[str, Callable[[dict[str, Any]], spaces.Space[Any]]] = {
    "Box": _build_box,
    "Discrete": _build_discrete,
    "MultiDiscrete": lambda d: spaces.MultiDiscrete(d["nvec"], np.dtype(d["dtype"]).type, start=d["start"]),
    "MultiBinary": lambda d: spaces.MultiBinary(d["shape"][0] if len(d["shape"]) == 1 else d["shape"]),
    "Text": lambda d: spaces.Text(d["max_length"], min_length=d["min_length"], charset=d["charset"]),
    "Dict": lambda d: spaces.Dict(
        [(key, build(sub)) for key, sub in zip(d["keys"], d["spaces"], strict=True)]  # a list keeps the order
    ),
    "Tuple": lambda d: spaces.Tuple([build(sub) for sub in d["spaces"]]),
    "OneOf": lambda d: spaces.OneOf([build(sub) for sub in d["spaces"]]),
    "Sequence": lambda d: spaces.Sequence(build(d["space"]), stack=d["stack"]),
    "Graph": _build_graph,
}
