"""The three forms of an action, without a simulator."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from zmqcarla.broker.errors import InvalidActionError
from zmqcarla.workers.actions import DEFAULT_TABLE, checked_table, make_control
from zmqcarla.workers.carla_env import CarlaEnv
from zmqcarla.workers.config import CarlaEnvConfig

TABLE = [[0.0, 0.5, 0.0], [-1.0, -0.5, 0.0], [0.0, 0.0, 1.0]]


def control(action: Any, **settings: Any) -> list[float]:
    config = CarlaEnvConfig(simulator="embedded", **settings)
    made: list[float] = make_control(config.action_type, checked_table(config.action_table))(action).tolist()
    return made


def test_the_spaces_are_the_documented_ones() -> None:
    def space(**settings: Any) -> spaces.Space[Any]:
        return CarlaEnv(simulator="embedded", **settings).action_space

    assert space() == spaces.Box(np.array([-1, -1, 0], np.float32), np.array([1, 1, 1], np.float32))
    assert space(action_type="acceleration") == spaces.Box(-1.0, 1.0, (2,), np.float32)
    assert space(action_type="discrete") == spaces.Discrete(len(DEFAULT_TABLE))
    assert space(action_type="discrete", action_table=TABLE) == spaces.Discrete(3)


@pytest.mark.parametrize(
    ("action", "expected"),
    [([0.5, 0.25], [0.5, 0.25, 0.0]), ([-0.5, -0.75], [-0.5, 0.0, 0.75]), ([9.0, -9.0], [1.0, 0.0, 1.0])],
)
def test_an_acceleration_is_throttle_or_brake(action: list[float], expected: list[float]) -> None:
    assert control(np.array(action, np.float32), action_type="acceleration") == expected


def test_a_discrete_action_is_a_row_of_its_table() -> None:
    for row in range(3):
        for action in (row, np.int64(row), np.array(row)):
            assert control(action, action_type="discrete", action_table=TABLE) == TABLE[row]
    assert control(0, action_type="discrete") == [0.0, 0.0, 1.0]


@pytest.mark.parametrize("action", [3, -1, 0.5, True, [1], None, "left"])
def test_what_is_no_row_is_an_error(action: Any) -> None:
    with pytest.raises(InvalidActionError, match="expected a whole number from 0 to 2 as the action"):
        control(action, action_type="discrete", action_table=TABLE)


@pytest.mark.parametrize("action", [[0.0], [0.0, 0.0, 0.0], [0.0, float("nan")], ["a", "b"]])
def test_a_wrong_acceleration_is_an_error(action: Any) -> None:
    with pytest.raises(InvalidActionError, match=r"expected an action of 2 finite numbers, \[steer, acceleration\]"):
        control(action, action_type="acceleration")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"action_type": "throttle"}, "action_type: expected one of 'control', 'acceleration', 'discrete'"),
        ({"action_table": TABLE}, 'action_table: expected it with "discrete" only'),
        ({"action_type": "discrete", "action_table": [[0.0, 0.5]]}, "action_table: expected rows of"),
        ({"action_type": "discrete", "action_table": [[0.0, 0.5, 2.0]]}, "action_table: expected rows of"),
        ({"action_type": "discrete", "action_table": []}, "action_table: expected rows of"),
        ({"action_type": "discrete", "action_table": [[0.0], 1]}, "action_table: expected rows of"),
    ],
)
def test_wrong_settings_are_refused_at_once(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CarlaEnv(simulator="embedded", **settings)
