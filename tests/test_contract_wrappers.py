"""`gymnasium.make_vec` brings our vector env, and gymnasium's vector wrappers work on it as on its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from conftest import NewVecEnv
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import vector as wrappers
from pools import ready_pool

import zmqcarla
from zmqcarla.broker.errors import LeaseRefusedError
from zmqcarla.pool import LocalPool

ECHO = "contract_envs:Echo-v0"
N = 2


@pytest.fixture(scope="module")
def pool() -> Iterator[LocalPool]:
    with ready_pool(N, "contract_envs:*", "CartPole-v1") as pool:
        yield pool


@pytest.fixture
def make(new_vec_env: NewVecEnv, pool: LocalPool, transport: str) -> Any:
    def make(env_id: str = "CartPole-v1", kwargs: Any = None, **options: Any) -> zmqcarla.VectorEnv:
        return new_vec_env(N, env_id, kwargs, pool.address, transport=transport, **options)

    return make


def _reference(mode: AutoresetMode = AutoresetMode.NEXT_STEP) -> SyncVectorEnv[Any, Any]:
    return SyncVectorEnv([lambda: gymnasium.make("CartPole-v1")] * N, autoreset_mode=mode)


def test_make_vec_drives_carla_envs_in_workers() -> None:
    vec = gymnasium.make_vec(
        "zmqcarla/Carla-v0", num_envs=2, simulator="embedded", autoreset_mode="SameStep", max_steps=3
    )
    try:
        assert isinstance(vec, zmqcarla.VectorEnv)
        assert vec.spec is not None
        assert vec.spec.id == "zmqcarla/Carla-v0"
        assert repr(vec) == "VectorEnv(zmqcarla/Carla-v0, num_envs=2)"
        assert vec.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
        observations, _ = vec.reset(seed=1)
        assert observations in vec.observation_space
        for _ in range(2):
            vec.step(vec.action_space.sample())
        *_, truncated, infos = vec.step(vec.action_space.sample())
        assert truncated.all()
        assert infos["_final_obs"].all()
    finally:
        vec.close()


def test_make_vec_says_which_keywords_are_the_workers(pool: LocalPool) -> None:
    with pytest.raises(LeaseRefusedError, match="zmqcarla/Carla-v0"):
        gymnasium.make_vec("zmqcarla/Carla-v0", num_envs=1, address=pool.address)


def test_make_vec_in_gymnasiums_own_modes_keeps_working() -> None:
    with pytest.raises(gymnasium.error.Error, match="vector_kwargs"):
        gymnasium.make_vec("zmqcarla/Carla-v0", num_envs=1, vector_kwargs={"copy": False})
    vec = gymnasium.make_vec("zmqcarla/Carla-v0", 1, "sync", simulator="embedded")
    assert isinstance(vec, SyncVectorEnv)
    vec.close()


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP], ids=lambda mode: mode.value)
def test_record_episode_statistics(make: Any, mode: AutoresetMode) -> None:
    ours = wrappers.RecordEpisodeStatistics(make(autoreset_mode=mode))
    theirs = wrappers.RecordEpisodeStatistics(_reference(mode))
    ours.reset(seed=4)
    theirs.reset(seed=4)
    episodes = 0
    for _ in range(80):
        found, expected = ours.step(np.ones(N, np.int64))[-1], theirs.step(np.ones(N, np.int64))[-1]
        assert ("episode" in found) == ("episode" in expected)
        if "episode" in found:
            episodes += 1
            assert found["_episode"].tolist() == expected["_episode"].tolist()
            for key in ("r", "l"):
                assert found["episode"][key].tolist() == expected["episode"][key].tolist()
    assert episodes > 5
    theirs.close()


def test_normalize_observation(make: Any) -> None:
    ours, theirs = wrappers.NormalizeObservation(make()), wrappers.NormalizeObservation(_reference())
    np.testing.assert_array_equal(ours.reset(seed=4)[0], theirs.reset(seed=4)[0])
    for step in range(30):
        actions = np.full(N, step % 2)
        found, expected = ours.step(actions)[0], theirs.step(actions)[0]
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
    theirs.close()


def test_infos_as_a_list(make: Any) -> None:
    vec = wrappers.DictInfoToList(make(ECHO, autoreset_mode="SameStep"))
    infos: Any = vec.reset()[1]
    assert [row["options"] for row in infos] == ["None"] * N
    infos = vec.step(np.array([0, 1]))[-1]
    assert "rare" not in infos[0]
    assert infos[1]["rare"] == 7
    assert infos[1]["nested"]["only"] == [1, 2]
    assert infos[0]["where"].tolist() == [1, 2, 3]
    vec.step(np.array([0, 1]))
    infos = vec.step(np.array([0, 1]))[-1]
    assert [row["final_obs"]["pick"] for row in infos] == [3] * N
    assert infos[0]["final_info"]["steps"] == 3


def test_record_video(make: Any, tmp_path: Path) -> None:
    vec = wrappers.RecordVideo(
        make(ECHO, {"render_mode": "rgb_array", "length": 5}),
        str(tmp_path / "videos"),
        episode_trigger=lambda episode: True,
    )
    vec.reset()
    for _ in range(12):
        vec.step(np.zeros(N, np.int64))
    vec.close()
    assert len(list(tmp_path.glob("videos/*.mp4"))) >= 2
