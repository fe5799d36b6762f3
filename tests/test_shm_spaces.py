"""Spaces travel as plain values and come back equal."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from zmqcarla.broker.codec import pack, unpack
from zmqcarla.shm.spaces import build, describe

ALL: list[spaces.Space[Any]] = [
    spaces.Box(0, 255, (3, 4, 5), np.uint8),
    spaces.Box(-np.inf, np.inf, (), np.float32),
    spaces.Box(np.array([-1.0, -1.0, 0.0], np.float32), np.array([1.0, 1.0, 2.0], np.float32)),
    spaces.Box(np.array([-np.inf, 0.0]), np.array([0.0, np.inf]), dtype=np.float64),
    spaces.Box(-(2**40), 2**40, (2,), np.int64),
    spaces.Box(0, 1, (0, 3), np.float32),
    spaces.Discrete(5),
    spaces.Discrete(3, start=-1),
    spaces.MultiDiscrete([2, 3, 4]),
    spaces.MultiDiscrete(np.array([[2, 3], [4, 5]]), start=np.array([[0, 1], [2, 3]])),
    spaces.MultiDiscrete([2, 3], dtype=np.int32),
    spaces.MultiBinary(4),
    spaces.MultiBinary([2, 3]),
    spaces.Text(12, min_length=2, charset="abc"),
    spaces.Dict({"b": spaces.Discrete(2), "a": spaces.Tuple([spaces.Discrete(2), spaces.MultiBinary(2)])}),
    spaces.Tuple([]),
    spaces.Sequence(spaces.Box(0, 1, (2,), np.float32), stack=True),
    spaces.Sequence(spaces.Discrete(3)),
    spaces.Graph(spaces.Box(0, 1, (2,), np.float32), spaces.Discrete(3)),
    spaces.Graph(spaces.Discrete(3), None),
    spaces.OneOf([spaces.Discrete(3), spaces.Box(0, 1, (2,), np.float32)]),
]


@pytest.mark.parametrize("space", ALL, ids=repr)
def test_round_trip_through_a_message(space: spaces.Space[Any]) -> None:
    again = build(unpack(pack(describe(space))))
    assert again == space
    assert (type(again), again.shape, again.dtype) == (type(space), space.shape, space.dtype)
    assert space.contains(again.sample())


def test_the_order_of_a_dict_is_kept() -> None:
    space = spaces.Dict([("z", spaces.Discrete(2)), ("a", spaces.Discrete(3))])
    again = build(unpack(pack(describe(space))))
    assert isinstance(again, spaces.Dict)
    assert list(again.spaces) == ["z", "a"]


def test_an_image_space_is_small() -> None:
    assert len(pack(describe(spaces.Box(0, 255, (3, 1024, 1024), np.uint8)))) < 200


def test_a_space_of_somebody_else_is_refused() -> None:
    class Mine(spaces.Discrete):
        pass

    with pytest.raises(TypeError, match="expected one of Gymnasium's own spaces"):
        describe(Mine(3))


@pytest.mark.parametrize(
    "description",
    [{}, {"kind": "Box"}, {"kind": "os.system", "n": 1}, {"kind": "Discrete", "n": 0, "start": 0, "dtype": "<i8"}],
)
def test_a_bad_description_is_a_value_error(description: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        build(description)
