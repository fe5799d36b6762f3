"""zmqcarla.sb3 against stable-baselines3's own vector env, and a short training run; the extra brings gigabytes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import client_envs
import gymnasium
import numpy as np
import pytest
from conftest import NewVecEnv
from gymnasium.utils import seeding
from pools import ready_pool

from zmqcarla.pool import LocalPool

PAGE = Path(__file__).parents[1] / "docs/sb3.md"
COUNTER = "client_envs:Counter-v0"


def test_without_the_extra_the_error_names_it() -> None:
    script = (
        "import sys; sys.modules['stable_baselines3'] = None\n"
        "try:\n    import zmqcarla.sb3\n"
        "except ImportError as error:\n    assert \"pip install 'zmqcarla[sb3]'\" in str(error), error\n"
        "else:\n    sys.exit('imported')"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


@pytest.fixture(scope="module")
def pool() -> Iterator[LocalPool]:
    with ready_pool(3, "client_envs:*", "contract_envs:*", "CartPole-v1") as pool:
        yield pool


@pytest.fixture
def make(new_vec_env: NewVecEnv, pool: LocalPool, transport: str) -> Any:
    sb3: Any = pytest.importorskip("zmqcarla.sb3", reason="the extra sb3 is not installed", exc_type=ImportError)

    def make(n: int, env_id: str, kwargs: Any = None) -> Any:
        vec = new_vec_env(n, env_id, kwargs, pool.address, transport=transport, autoreset_mode="SameStep")
        return sb3.VecEnv(vec)

    return make


def _same_infos(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert isinstance(found[key], type(value))
        np.testing.assert_array_equal(found[key], value)


def test_cartpole_steps_as_in_sb3s_own_vec_env(make: Any) -> None:
    from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv  # pyright: ignore  # noqa: PLC0415

    limits = [5, 300]
    theirs = DummyVecEnv(
        [lambda limit=limit: gymnasium.make("CartPole-v1", max_episode_steps=limit) for limit in limits]
    )
    ours = make(2, "CartPole-v1", [{"max_episode_steps": limit} for limit in limits])
    assert isinstance(ours, VecEnv)
    assert (ours.num_envs, ours.observation_space, ours.action_space) == (
        2,
        theirs.observation_space,
        theirs.action_space,
    )
    assert ours.seed(7) == theirs.seed(7)
    np.testing.assert_array_equal(ours.reset(), theirs.reset())
    ends = 0
    for step in range(60):
        actions = np.array([step % 2, 1])
        (observations, rewards, dones, infos), expected = ours.step(actions), theirs.step(actions)
        for found, wanted in zip((observations, rewards, dones), expected, strict=False):
            assert found.dtype == wanted.dtype
        if dones.any():  # which begins an unseeded episode in theirs as in ours
            np.testing.assert_array_equal(dones, expected[2])
        for row in range(2):
            _same_infos(infos[row], expected[3][row])
        np.testing.assert_array_equal(observations, expected[0])
        np.testing.assert_array_equal(rewards, expected[1])
        assert list(ours.reset_infos) == list(theirs.reset_infos)
        ends += int(dones.sum())
    assert ends > 12
    theirs.close()
    ours.close()
    ours.close()


def test_dict_observations_keep_the_last_one_of_an_episode(make: Any) -> None:
    env = make(2, "contract_envs:Echo-v0", {"length": 2})
    env.set_options([{"a": 1}, {"b": 2}])
    env.seed(3)
    observations = env.reset()
    assert observations["counts"][:, :2].tolist() == [[1, 0], [1, 0]]
    assert [info["options"] for info in env.reset_infos] == ["{'a': 1}", "{'b': 2}"]
    draws = [info["draw"] for info in env.reset_infos]
    assert draws == [float(seeding.np_random(3 + row)[0].integers(1000)) for row in range(2)]
    env.step(np.array([0, 1]))
    observations, rewards, dones, infos = env.step(np.array([0, 2]))  # 2: truncated instead of terminated
    assert (rewards.dtype, rewards.tolist(), dones.tolist()) == (np.float32, [1, 1], [True, True])
    assert observations["counts"][:, :2].tolist() == [[2, 0], [2, 0]]
    assert [info["terminal_observation"]["counts"][:3].tolist() for info in infos] == [[1, 2, 0], [1, 2, 2]]
    assert [info["TimeLimit.truncated"] for info in infos] == [False, True]
    assert [info["steps"] for info in infos] == [2, 2]
    assert [info["options"] for info in env.reset_infos] == ["None", "None"]
    assert not any("final_obs" in info or "final_info" in info for info in infos)


def test_some_envs_are_asked(make: Any) -> None:
    env = make(3, "contract_envs:Echo-v0", {"render_mode": "rgb_array"})
    env.reset()
    assert env.env_method("add", 1, second=2, indices=[0, 2]) == [3, 3]
    env.set_attr("offset", [4, 5], indices=1)
    assert env.get_attr("offset") == [0, [4, 5], 0]
    assert env.get_attr("offset", indices=-1) == [0]
    assert env.has_attr("length")
    assert not env.has_attr("width")
    assert env.env_is_wrapped(gymnasium.wrappers.OrderEnforcing) == [True] * 3
    assert env.env_is_wrapped(gymnasium.wrappers.TimeLimit, indices=0) == [False]
    assert env.render_mode == "rgb_array"
    assert [image.shape for image in env.get_images()] == [(8, 8, 3)] * 3
    assert env.render().shape == (16, 16, 3)
    with pytest.raises(IndexError):
        env.env_method("add", 1, indices=3)


def test_a_worker_that_dies_is_an_episode_that_ends(make: Any) -> None:
    env = make(3, COUNTER)
    env.reset()
    env.step(np.array([(1, 0), (2, 0), (3, 0)], np.float32))
    actions = np.array([(1, 0), (2, client_envs.DIE), (3, 0)], np.float32)
    observations, rewards, dones, infos = env.step(actions)
    assert (dones.tolist(), rewards.tolist()) == ([False, True, False], [1, 0, 3])
    assert infos[1]["TimeLimit.truncated"]
    assert infos[1]["worker_lost"]["exit_code"] == -9
    assert infos[1]["terminal_observation"]["vector"][:3].tolist() == [1, 1, 2]
    assert observations["vector"][:, 1].tolist() == [2, 0, 2]
    assert observations["vector"][1, 0] == 1  # the first episode of a new process
    assert env.reset_infos[1] == {"options": "{}"}
    observations, _, dones, _ = env.step(np.array([(1, 0), (2, 0), (3, 0)], np.float32))
    assert observations["vector"][:, 1].tolist() == [3, 1, 3]
    assert not dones.any()
    assert env.get_attr("steps") == [3, 1, 3]


def test_another_autoreset_mode_is_refused(new_vec_env: NewVecEnv, pool: LocalPool) -> None:
    sb3: Any = pytest.importorskip("zmqcarla.sb3", reason="the extra sb3 is not installed", exc_type=ImportError)
    vec = new_vec_env(1, COUNTER, None, pool.address)
    with pytest.raises(ValueError, match=r'autoreset_mode="SameStep".*NEXT_STEP'):
        sb3.VecEnv(vec)


def test_ppo_learns_while_workers_die(make: Any) -> None:
    import torch  # pyright: ignore  # noqa: PLC0415
    from stable_baselines3 import PPO  # pyright: ignore  # noqa: PLC0415
    from stable_baselines3.common.callbacks import BaseCallback  # pyright: ignore  # noqa: PLC0415
    from stable_baselines3.common.evaluation import evaluate_policy  # pyright: ignore  # noqa: PLC0415
    from stable_baselines3.common.vec_env import VecMonitor  # pyright: ignore  # noqa: PLC0415

    torch.set_num_threads(1)
    lost: list[dict[str, Any]] = []

    class Killer(BaseCallback):  # type: ignore[misc]
        def _on_step(self) -> bool:
            if self.n_calls == 100:
                os.kill(env.env_method("pid", indices=1)[0], signal.SIGKILL)
            lost.extend(info["worker_lost"] for info in self.locals["infos"] if "worker_lost" in info)
            return True

    env = VecMonitor(make(3, "client_envs:Pole-v0"))
    model = PPO("MlpPolicy", env, n_steps=128, batch_size=64, seed=0, device="cpu")
    model.learn(5 * 128 * 3, callback=Killer())
    assert [news["exit_code"] for news in lost] == [-9]
    assert model.num_timesteps == 5 * 128 * 3
    lengths = [episode["l"] for episode in model.ep_info_buffer]
    assert np.mean(lengths[-10:]) > np.mean(lengths[:10])
    assert evaluate_policy(model, env, n_eval_episodes=5)[0] > 40  # a random policy gets about 20


def test_the_script_in_the_docs_runs(tmp_path: Path) -> None:
    pytest.importorskip("stable_baselines3", reason="the extra sb3 is not installed")
    (script,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", script]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=55, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "128 steps, 2 episodes" in done.stdout
