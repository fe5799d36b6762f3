"""Forks of `zmqcarla/Carla-v0` over two workers with embedded simulators: same actions give the same, to the bit."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import NewVecEnv

import zmqcarla
from zmqcarla.pool import LocalPool

PAGE = Path(__file__).parents[1] / "docs/rollout_groups.md"
CARLA = "zmqcarla/Carla-v0"
N = 2


@pytest.fixture(scope="module")
def pool() -> Iterator[LocalPool]:
    pool = LocalPool(N, simulator="embedded")
    yield pool
    pool.close()


def drive(step: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.array([[0.1 * np.sin(step), 0.7, 0.0]] * N, np.float32)


def same_rows(tree: Any) -> bool:
    """Whether the two rows of a batch of observations, or of infos, are alike."""
    if isinstance(tree, dict):
        return all(same_rows(part) for part in tree.values())
    return bool(np.array_equal(tree[0], tree[1]))


def test_members_of_a_group_see_the_same_until_they_act_differently(
    new_vec_env: NewVecEnv, pool: LocalPool, transport: str
) -> None:
    vec = new_vec_env(N, CARLA, {"image_size": (48, 32)}, pool.address, transport=transport)
    observations, _ = vec.reset(seed=11)  # two routes
    for step in range(5):
        observations, *_ = vec.step(drive(step))
    assert not same_rows(observations)
    group = zmqcarla.RolloutGroup(vec)
    first = {name: leaf[1] for name, leaf in observations.items()}
    observations, infos = group.start(1)
    assert all(np.array_equal(observations[name][0], leaf) for name, leaf in first.items())
    report = {name: infos["restore"][name].tolist() for name in ("ticks_used", "position_error_max_m", "missing")}
    assert report == {"ticks_used": [0, 0], "position_error_max_m": [0, 0], "missing": [0, 0]}
    for step in range(12):
        observations, rewards, terminated, truncated, infos = group.step(drive(step))
        del infos["frame"]
        assert same_rows({**observations, "rewards": rewards, "infos": infos})
        assert not (terminated | truncated).any()
    actions = drive(0)
    actions[1] = (0.5, 0.0, 1.0)
    observations, rewards, *_ = group.step(actions)
    assert not same_rows(observations)
    observations, _ = group.select(1)
    assert same_rows(observations)
    observations, *_ = group.step(drive(0))
    assert same_rows(observations)
    batch = group.batch()
    assert batch.advantages.tolist() == [0, 0]


def test_the_end_of_an_episode_comes_back_as_an_end(new_vec_env: NewVecEnv, pool: LocalPool) -> None:
    vec = new_vec_env(N, CARLA, {"observation": "state", "max_steps": 2}, pool.address)
    vec.reset(seed=11)
    vec.step(drive(0))
    _, _, _, truncated, _ = vec.step(drive(1))
    assert truncated.all()
    vec.save_snapshot("end")
    vec.step(drive(0))
    vec.restore_snapshot("end", [1])
    _, rewards, _, truncated, _ = vec.step(drive(2))
    assert truncated.tolist() == [False, False]
    assert (rewards[1], vec.call("list_snapshots")[1][0]["ended"]) == (0, True)  # that was the reset
    _, _, _, truncated, _ = vec.step(drive(3))
    assert truncated.tolist() == [True, False]


def test_grpo_carla_env_branches_and_goes_on(pool: LocalPool) -> None:
    env = zmqcarla.GRPOCarlaEnv(N, address=pool.address, observation="state")
    try:
        env.reset(seed=3)
        env.single_step(drive(0)[0])
        observation, *_ = env.single_step(drive(1)[0])
        observations, _ = env.fork_from_snapshot(env.save_snapshot())
        assert all(np.array_equal(one["vehicle_state"], observation["vehicle_state"]) for one in observations)
        apart = [drive(0)[0], np.array([0.0, 0.0, 1.0], np.float32)]
        env.branch_step(apart)
        *_, infos = env.branch_step(apart)
        assert infos[0]["speed_mps"] > infos[1]["speed_mps"]
        env.select_branch(1)
        *_, info = env.single_step(drive(0)[0])
        assert info["episode_steps"] == 5
    finally:
        env.close()


def test_the_script_in_the_docs_runs(pool: LocalPool, tmp_path: Path) -> None:
    (script,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    script = script.replace("SIZE, STEPS, ROUNDS = 4, 30, 4", f"SIZE, STEPS, ROUNDS = {N}, 3, 4")
    environment = {**os.environ, "ZMQCARLA_ADDRESS": pool.address}
    command = [sys.executable, "-W", "error", "-c", script]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=55, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [re.fullmatch(r"round \d: mean return -?[\d.]+", line) is not None for line in lines] == [True] * 4


def test_the_visual_tool_finds_every_path_the_same(pool: LocalPool, tmp_path: Path) -> None:
    tool = Path(__file__).parents[1] / "tools/visual_snapshot.py"
    options = ["--num-workers", str(N), "--test-branching", "--save-images", "--steps", "4", "--address", pool.address]
    command = [sys.executable, str(tool), *options, "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=55, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    written = {path.name for path in tmp_path.iterdir()}
    assert written == {"branches.png", "paths.png", "positions.json", "restored.png", "summary.json"}
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["differences_m"] == {"again": 0, "alike 0": 0, "alike 1": 0}
    assert summary["branching"]["steps_since_branch"] == 4
