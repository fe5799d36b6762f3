"""AsyncVectorEnv(env_fns): the contract of gymnasium's class, over real child processes and real shared memory."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import client_envs
import gymnasium
import numpy as np
import psutil
import pytest
from client_envs import CounterEnv
from conftest import wait_until
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

from zmqcarla import AsyncVectorEnv
from zmqcarla.broker.errors import InvalidActionError, WorkerLostError

HERE = str(Path(__file__).parent)


class Odd(Exception):  # noqa: N818 - any name is a user's right
    """An exception with a constructor of its own: it pickles, but does not come back."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code} {text}")


class Greeting(spaces.Space[Any]):
    """A custom space."""

    def sample(self, mask: Any = None, probability: Any = None) -> Any:
        return "hello"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Greeting)

    def __hash__(self) -> int:
        return 1


@pytest.fixture(params=[True, False], ids=["shared", "sockets"])
def shared_memory(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


Make = Callable[..., AsyncVectorEnv]


@pytest.fixture
def make(shared_memory: bool) -> Iterator[Make]:
    made: list[AsyncVectorEnv] = []

    def make(n: int = 2, **options: Any) -> AsyncVectorEnv:
        length, mode = options.pop("length", 1000), options.pop("mode", AutoresetMode.NEXT_STEP)
        env_fns = options.pop("env_fns", [lambda: CounterEnv(length=length) for _ in range(n)])
        made.append(AsyncVectorEnv(env_fns, shared_memory=shared_memory, autoreset_mode=mode, **options))
        return made[-1]

    yield make
    for vec in made:
        vec.close()


def _actions(*rows: tuple[float, float]) -> np.ndarray[Any, Any]:
    return np.array(rows, np.float32)


def test_cartpole_steps_as_gymnasiums_own(make: Make) -> None:
    env_fns = [lambda i=i: gymnasium.make("CartPole-v1", max_episode_steps=10 + i) for i in range(3)]
    ours = make(env_fns=env_fns)
    theirs = gymnasium.vector.SyncVectorEnv(env_fns)
    theirs.action_space.seed(1)
    np.testing.assert_array_equal(ours.reset(seed=3)[0], theirs.reset(seed=3)[0])
    for _ in range(50):
        actions = theirs.action_space.sample()
        for mine, expected in zip(ours.step(actions)[:4], theirs.step(actions)[:4], strict=True):
            np.testing.assert_array_equal(mine, expected)
    assert ours.metadata == theirs.metadata
    assert ours.single_observation_space == theirs.single_observation_space
    assert ours.np_random_seed == (3, 4, 5)
    assert [type(one) for one in ours.np_random] == [np.random.Generator] * 3
    theirs.close()


def test_dict_spaces_and_seeds(make: Make, shared_memory: bool) -> None:
    vec = make(3)
    observations, infos = vec.reset(seed=5, options={"a": {1, 2}})
    assert infos["options"].tolist() == ["{'a': {1, 2}}"] * 3
    for step in range(1, 8):
        observations, rewards, _, _, infos = vec.step(_actions((step, 0), (-step, 0), (9, 0)))
        assert observations["vector"][:, 1].tolist() == [step] * 3
        assert (observations["image"] == step).all()
        assert observations["nested"][0].tolist() == [step] * 3
        assert rewards.tolist() == [step, -step, 9]
        assert infos["steps"].tolist() == [step] * 3
    assert vec.statistics()["rows_on_board"] == (3 if shared_memory else 0)


def test_next_step_ignores_the_action_of_the_reset_step(make: Make) -> None:
    vec = make(2, length=2)
    vec.reset()
    vec.step(_actions((5, 0), (6, 0)))
    assert vec.step(_actions((5, 0), (6, 0)))[2].all()
    observations, rewards, terminated, _, infos = vec.step(_actions((5, 0), (6, 0)))
    assert rewards.tolist() == [0, 0]
    assert not terminated.any()
    assert observations["vector"][:, :2].tolist() == [[2, 0]] * 2
    assert "options" in infos


def test_same_step_brings_the_final_observation(make: Make) -> None:
    vec = make(2, length=2, mode="SameStep")
    vec.reset()
    vec.step(_actions((5, 0), (6, 0)))
    observations, _, terminated, _, infos = vec.step(_actions((5, 0), (6, 0)))
    assert terminated.all()
    assert observations["vector"][:, 1].tolist() == [0, 0]
    theirs = gymnasium.vector.SyncVectorEnv([lambda: CounterEnv(length=2)] * 2, autoreset_mode="SameStep")
    theirs.reset()
    theirs.step(_actions((5, 0), (6, 0)))
    expected = theirs.step(_actions((5, 0), (6, 0)))[4]["final_obs"]
    assert infos["final_obs"].shape == expected.shape == (2,)
    for mine, other in zip(infos["final_obs"], expected, strict=True):
        assert mine["vector"][1] == other["vector"][1] == 2
    assert infos["final_info"]["steps"].tolist() == [2, 2]


def test_disabled_resets_what_the_mask_names(make: Make) -> None:
    vec = make(2, length=2, mode=AutoresetMode.DISABLED)
    vec.reset()
    vec.step(_actions((5, 0), (6, 0)))
    vec.step(_actions((5, 0), (6, 0)))
    observations, _ = vec.reset(options={"reset_mask": np.array([True, False])})
    assert observations["vector"][:, 1].tolist() == [0, 2]


def test_a_child_killed_mid_step_is_a_truncated_row_and_the_run_goes_on(make: Make) -> None:
    vec = make(3)
    vec.reset(seed=1)
    before, *_ = vec.step(_actions((1, 0), (2, 0), (3, 0)))
    observations, rewards, terminated, truncated, infos = vec.step(_actions((1, 0), (2, client_envs.DIE), (3, 0)))
    assert truncated.tolist() == [False, True, False]
    assert not terminated.any()
    assert rewards.tolist() == [1, 0, 3]
    np.testing.assert_array_equal(observations["vector"][1], before["vector"][1])
    assert infos["worker_lost"]["exit_code"].tolist()[1] == -signal.SIGKILL
    assert "SIGKILL" in infos["worker_lost"]["reason"][1]
    observations, rewards, _, truncated, _ = vec.step(_actions((1, 0), (2, 0), (3, 0)))
    assert observations["vector"][:, 1].tolist() == [3, 0, 3]
    assert not truncated.any()
    observations, *_ = vec.step(_actions((1, 0), (2, 0), (3, 0)))
    assert observations["vector"][:, 1].tolist() == [4, 1, 4]
    assert vec.statistics()["rows_on_board"] in (0, 3)


def test_a_child_killed_by_others_while_the_parent_waits(make: Make) -> None:
    vec = make(2)
    vec.reset()
    pid = vec.call("pid")[1]
    vec.step_async(_actions((0, 0), (0, client_envs.HANG)))
    threading.Timer(0.2, os.kill, (pid, signal.SIGKILL)).start()
    assert vec.step_wait()[3].tolist() == [False, True]
    assert vec.step(_actions((0, 0), (0, 0)))[0]["vector"][:, 1].tolist() == [2, 0]


def test_a_child_killed_between_steps_is_told_once(make: Make) -> None:
    vec = make(2)
    vec.reset()
    pid = vec.call("pid")[0]
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not psutil.pid_exists(pid), "the child to be reaped")
    _, _, _, truncated, infos = vec.step(_actions((0, 0), (0, 0)))
    assert truncated.tolist() == [True, False]
    assert infos["_worker_lost"].tolist() == [True, False]
    observations, _, _, truncated, _ = vec.step(_actions((0, 0), (0, 0)))
    assert observations["vector"][:, 1].tolist() == [0, 2]
    assert not truncated.any()


def test_a_call_to_a_dead_row_says_so_and_reset_brings_it_back(make: Make) -> None:
    vec = make(2)
    vec.reset()
    os.kill(vec.call("pid")[0], signal.SIGKILL)
    with pytest.raises(WorkerLostError, match="reset"):
        vec.call("pid")
    assert vec.reset()[0]["vector"][:, 1].tolist() == [0, 0]
    assert len(set(vec.call("pid"))) == 2


def _step_to_death(vec: AsyncVectorEnv) -> None:
    for _ in range(40):
        vec.step(_actions((0, client_envs.DIE)))


def test_a_spent_restart_budget_closes_the_vector_env(make: Make) -> None:
    vec = make(1)
    vec.reset()
    with pytest.raises(WorkerLostError, match="will not come back"):
        _step_to_death(vec)
    assert vec.closed


def test_an_exception_keeps_type_and_message(make: Make) -> None:
    class MineError(RuntimeError):
        pass

    class Raiser(CounterEnv):
        def step(self, action: Any) -> Any:
            if action[1]:
                raise MineError("exactly this")
            return super().step(action)

        def odd(self) -> None:
            raise Odd(3, "times")

    vec = make(env_fns=[Raiser, Raiser])
    vec.reset()
    with pytest.raises(MineError, match=r"^exactly this$") as caught:
        vec.step(_actions((0, 0), (0, 1)))
    assert "row 1" in str(caught.value.__cause__)
    assert "test_drop_in" in str(caught.value.__cause__)
    with pytest.raises(Exception, match="3 times"):
        vec.call("odd")
    assert vec.reset()[0]["vector"][:, 1].tolist() == [0, 0]


def test_an_env_fn_that_fails_leaves_nothing(shared_memory: bool) -> None:
    """The leak check of every test looks for processes and segments afterwards."""
    with pytest.raises(ValueError, match=r"^asked to fail: please$"):
        AsyncVectorEnv([CounterEnv, lambda: CounterEnv(fail="please")], shared_memory=shared_memory)
    with pytest.raises(WorkerLostError, match="lost 3 times"):
        AsyncVectorEnv([lambda: os._exit(3)], shared_memory=shared_memory)
    with pytest.raises((TypeError, pickle.PicklingError)):
        AsyncVectorEnv([threading.Lock().acquire], shared_memory=shared_memory)  # type: ignore[list-item]


def test_attributes_calls_and_objects_of_any_kind(make: Make) -> None:
    vec = make(2)
    vec.set_attr("marker", [1.0, 2.0])
    assert vec.get_attr("marker") == (1.0, 2.0)
    vec.set_attr("hook", lambda x: x + 1)
    assert vec.call("hook", 2) == (3, 3)
    vec.set_attr("big", np.zeros(1 << 20))
    assert [one.shape for one in vec.get_attr("big")] == [(1 << 20,)] * 2
    with pytest.raises(ValueError, match="use `reset` directly instead"):
        vec.call("reset")


def test_time_limits_of_waits(make: Make) -> None:
    vec = make(2)
    vec.reset()
    vec.step_async(_actions((0, client_envs.HANG), (0, 0)))
    with pytest.raises(TimeoutError):  # multiprocessing's is one of its names
        _raise_builtin(vec)
    vec.close(terminate=True)


def _raise_builtin(vec: AsyncVectorEnv) -> None:
    import multiprocessing  # noqa: PLC0415 - only its exception

    try:
        vec.step_wait(timeout=0.05)
    except multiprocessing.TimeoutError as error:
        raise TimeoutError from error


def test_wrong_actions_step_nothing(make: Make) -> None:
    vec = make(2)
    vec.reset()
    for bad in (np.zeros((3, 2)), np.full((2, 2), np.nan), 0):
        with pytest.raises(InvalidActionError):
            vec.step(bad)
    assert vec.step(_actions((0, 0), (0, 0)))[0]["vector"][:, 1].tolist() == [1, 1]


class Bounded(gymnasium.Env[Any, Any]):
    """Bounds of its own."""

    def __init__(self, high: float, size: int = 2, space: spaces.Space[Any] | None = None) -> None:
        self.observation_space = spaces.Box(0, high, (size,), np.float32) if space is None else space
        self.action_space = spaces.Discrete(2)
        self.high = high

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        found = isinstance(self.observation_space, spaces.Box)
        return (np.full(2, self.high, np.float32) if found else "hi"), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.reset()[0], 0.0, False, False, {}


def test_envs_that_differ_in_bounds(make: Make) -> None:
    env_fns = [lambda high=high: Bounded(high) for high in (1.0, 2.0, 3.0)]
    with pytest.raises(RuntimeError, match="observation_mode='different'"):
        make(env_fns=env_fns)
    vec = make(env_fns=env_fns, observation_mode="different")
    assert vec.observation_space.high[:, 0].tolist() == [1, 2, 3]  # type: ignore[attr-defined]
    observations, _ = vec.reset()
    assert observations.tolist() == [[1, 1], [2, 2], [3, 3]]
    assert observations in vec.observation_space
    both = (spaces.Box(0, 9, (3, 2), np.float32), spaces.Box(0, 9, (2,), np.float32))
    custom = make(env_fns=env_fns, observation_mode=both)
    assert (custom.observation_space, custom.single_observation_space) == both
    assert custom.step([0, 0, 1])[0].tolist() == observations.tolist() if custom.reset() else False
    with pytest.raises(RuntimeError, match="common shape and dtype"):
        make(env_fns=[lambda: Bounded(1.0), lambda: Bounded(1.0, size=3)], observation_mode="different")


def test_custom_spaces_need_sockets(make: Make, shared_memory: bool) -> None:
    env_fns = [lambda: Bounded(1.0, space=Greeting())] * 2
    if shared_memory:
        with pytest.raises(ValueError, match="shared_memory=False"):
            make(env_fns=env_fns)
        return
    vec = make(env_fns=env_fns)
    assert vec.reset()[0] == ("hi", "hi")
    assert vec.step([0, 1])[0] == ("hi", "hi")


_with_any: Any = AsyncVectorEnv  # arguments that its types forbid


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"worker": print}, "worker=None.*Wrapper"),
        ({"context": "thread"}, "expected a context of None, 'spawn'"),
        ({"observation_mode": "many"}, "Invalid `observation_mode`"),
        ({"max_concurrency": 2}, "not supported"),
        ({"env_fns": []}, "at least one env_fn"),
    ],
)
def test_arguments_that_are_not_supported_say_so(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        _with_any(**{"env_fns": [CounterEnv], **options})


def test_views_outlive_it_and_held_batches_stay(make: Make) -> None:
    vec = make(2, copy=False, context="fork", daemon=False)
    held = [vec.reset()[0]] + [vec.step(_actions((i, 0), (i, 0)))[0] for i in range(1, 8)]
    vec.close()
    assert [int(batch["image"][1, 2, 3, 4]) for batch in held] == list(range(8))


def test_children_survive_the_thread_that_made_them() -> None:
    """PR_SET_PDEATHSIG means threads: ours lives as long as the children."""
    made: list[AsyncVectorEnv] = []
    thread = threading.Thread(target=lambda: made.append(AsyncVectorEnv([CounterEnv])))
    thread.start()
    thread.join()
    made[0].reset()
    assert made[0].step(_actions((0, 0)))[0]["vector"][0, 1] == 1
    made[0].close()


_CLIENT = """
import os, subprocess, sys, zmqcarla
from client_envs import CounterEnv

class Mine(CounterEnv):  # of the script itself
    def __init__(self):
        super().__init__()
        self.grandchild = subprocess.Popen(["sleep", "600"])
    def close(self):
        self.grandchild.kill()
        self.grandchild.wait()

vec = zmqcarla.AsyncVectorEnv([Mine for _ in range(2)], shared_memory=sys.argv[1] == "True")
vec.reset()
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM, None], ids=["kill", "term", "exit"])
def test_nothing_outlives_the_parent(ending: signal.Signals | None, shared_memory: bool, tmp_path: Path) -> None:
    """Script, envs and what the envs started; the leak check of every test looks afterwards."""
    script = tmp_path / "train.py"
    script.write_text(_CLIENT)
    path = os.pathsep.join([HERE, str(Path(HERE).parent)])
    client = subprocess.Popen(
        [sys.executable, str(script), str(shared_memory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
    )
    with client:
        assert client.stdout is not None
        assert client.stdin is not None
        assert client.stdout.readline() == b"ready\n"
        if ending is not None:
            client.send_signal(ending)
        client.stdin.close()
        client.wait(20)


def test_a_forked_copy_does_not_touch_the_children(make: Make) -> None:
    vec = make(1)
    vec.reset()
    pid = os.fork()
    if pid == 0:
        try:
            vec.close()
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    assert vec.step(_actions((0, 0)))[0]["vector"][0, 1] == 1
