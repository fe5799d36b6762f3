"""Envs that write their observations into the ring themselves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from conftest import NewVecEnv
from gymnasium.vector import AutoresetMode
from pools import ready_pool

import zmqcarla
from zmqcarla.pool import LocalPool

N = 2


@pytest.fixture(scope="module")
def pool() -> Iterator[LocalPool]:
    with ready_pool(N, "bound_envs:*") as pool:
        yield pool


@pytest.fixture
def make(new_vec_env: NewVecEnv, pool: LocalPool) -> Any:
    def make(env: str, **options: Any) -> zmqcarla.VectorEnv:
        return new_vec_env(N, f"bound_envs:{env}", None, pool.address, **options)

    return make


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_an_env_writes_straight_into_the_row(make: Any, transport: str, mode: AutoresetMode) -> None:
    vec = make("Bound-v0", transport=transport, autoreset_mode=mode)
    observations, _ = vec.reset(seed=0)
    held = [(observations, 0)]
    assert observations["told"].tolist() == [[1]] * N
    step = 0
    for turn in range(12):
        observations, _, terminated, _, infos = vec.step(np.zeros(N, np.int64))
        step = 0 if step == 4 else step + 1
        if mode is AutoresetMode.SAME_STEP and step == 4:
            assert terminated.all()
            assert [final["image"].max() for final in infos["final_obs"]] == [4] * N
            step = 0
        assert terminated.all() == (step == 4 or "final_obs" in infos)
        assert (observations["image"] == step).all(), turn
        held = [*held[-2:], (observations, step)]
        assert all((kept["image"] == value).all() for kept, value in held)
    assert vec.get_attr("told")[0] >= 13


def test_a_wrapper_that_keeps_observations_gets_arrays_of_its_own(make: Any) -> None:
    vec = make("BoundStack-v0")
    vec.reset(seed=0)
    for step in range(1, 4):
        observations, *_ = vec.step(np.zeros(N, np.int64))
        assert observations["image"][0, :, 0, 0].tolist() == [max(step - 2, 0), step - 1, step]
    assert vec.get_attr("told") == (0,) * N
