"""One suite, three vector envs: gymnasium's AsyncVectorEnv is the contract, ours over shm and zmq have to keep it."""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import re
import warnings
from collections.abc import Iterator
from typing import Any

import contract_envs
import gymnasium
import numpy as np
import pytest
from gymnasium.error import AlreadyPendingCallError, ClosedEnvironmentError, NoAsyncCallError
from gymnasium.utils import seeding
from gymnasium.vector import AsyncVectorEnv, AutoresetMode
from gymnasium.vector.async_vector_env import AsyncState
from pools import ready_pool

import zmqcarla
from zmqcarla.broker.errors import InvalidActionError, RemoteEnvError
from zmqcarla.pool import LocalPool

ECHO = "contract_envs:Echo-v0"
N = 3
pytestmark = pytest.mark.filterwarnings("ignore:.*ERROR")  # upstream's log of an env that raised


@pytest.fixture(scope="module")
def pool() -> Iterator[LocalPool]:
    with ready_pool(N, "contract_envs:*", "CartPole-v1") as pool:
        yield pool


@pytest.fixture(params=["gymnasium", "shm", "zmq"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def build(pool: LocalPool) -> Iterator[Any]:
    """build(kind, env id, autoreset mode, env kwargs) -> a vector env of N rows."""
    made: list[Any] = []

    def build(kind: str, env_id: str = ECHO, mode: Any = AutoresetMode.NEXT_STEP, **kwargs: Any) -> Any:
        if kind == "gymnasium":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # fork in a process with threads
                maker = functools.partial(gymnasium.make, env_id, disable_env_checker=True, **kwargs)
                made.append(AsyncVectorEnv([maker] * N, autoreset_mode=mode))
        else:
            made.append(
                zmqcarla.make_vec_env(N, env_id, kwargs, pool.address, autoreset_mode=mode, transport=kind)  # type: ignore[arg-type]
            )
        return made[-1]

    yield build
    for vec in made:
        with contextlib.suppress(Exception):  # upstream's is broken after an env raised
            if vec._state is AsyncState.DEFAULT:
                vec.close(terminate=True)


@pytest.fixture
def make(build: Any, kind: str) -> Any:
    return functools.partial(build, kind)


def same(left: Any, right: Any) -> None:
    """Equal to the last dtype, key order and mask."""
    assert type(left) is type(right), (left, right)
    if isinstance(left, dict):
        assert list(left) == list(right)
        for key in left:
            same(left[key], right[key])
    elif isinstance(left, (list, tuple)):
        assert len(left) == len(right)
        for one, other in zip(left, right, strict=True):
            same(one, other)
    elif isinstance(left, np.ndarray):
        assert (left.dtype, left.shape) == (right.dtype, right.shape)
        if left.dtype == object:
            same(left.tolist(), right.tolist())
        else:
            np.testing.assert_array_equal(left, right)
    else:
        assert left == right


# --- constructor ---


def test_attributes(make: Any) -> None:
    vec = make(mode="SameStep", render_mode="rgb_array")
    single = gymnasium.make(ECHO).unwrapped
    assert vec.num_envs == N
    assert vec.single_observation_space == single.observation_space
    assert vec.single_action_space == single.action_space
    assert vec.observation_space == gymnasium.vector.utils.batch_space(single.observation_space, N)
    assert vec.action_space == gymnasium.vector.utils.batch_space(single.action_space, N)
    assert vec.metadata == {**single.metadata, "autoreset_mode": AutoresetMode.SAME_STEP}
    assert single.metadata.get("autoreset_mode") is None
    assert vec.render_mode == "rgb_array"
    assert vec.autoreset_mode is AutoresetMode.SAME_STEP
    assert vec.spec is None
    assert vec.closed is False
    assert vec.unwrapped is vec
    assert repr(vec).endswith(f"VectorEnv(num_envs={N})")
    assert isinstance(vec, gymnasium.vector.VectorEnv)


def test_the_default_mode_is_next_step(make: Any) -> None:
    assert make().metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP


def test_an_unknown_mode(make: Any) -> None:
    with pytest.raises(ValueError, match="not a valid AutoresetMode"):
        make(mode="Sometimes")


# --- reset ---


@pytest.mark.parametrize("seed", [7, 0, [5, None, 9], (5, 6, 7)], ids=str)
def test_seeds_reach_their_rows(make: Any, seed: Any) -> None:
    vec = make()
    observations, infos = vec.reset(seed=seed)
    seeds: Any = [seed + row for row in range(N)] if isinstance(seed, int) else seed
    for row, one in enumerate(seeds):
        if one is not None:
            expected = float(seeding.np_random(one)[0].integers(1000))
            assert observations["counts"][row, 3] == infos["draw"][row] == expected
            assert vec.np_random_seed[row] == one
            assert vec.np_random[row].random() == _after_one_draw(one)
    before = vec.np_random_seed
    vec.reset()
    assert vec.np_random_seed == before


def _after_one_draw(seed: int) -> float:
    generator, _ = seeding.np_random(seed)
    generator.integers(1000)
    return float(generator.random())


def test_seeds_of_the_wrong_length(make: Any) -> None:
    vec = make()
    text = f"If seeds are passed as a list the length must match num_envs={N} but got length=2."
    with pytest.raises(ValueError, match=re.escape(text)):
        vec.reset(seed=[1, 2])
    vec.reset_async(seed=3)
    with pytest.raises(ValueError, match=re.escape(text)):
        vec.reset_async(seed=[1, 2])
    vec.reset_wait()
    assert vec.np_random_seed == (3, 4, 5)


def test_options_reach_every_env(make: Any) -> None:
    vec = make()
    assert vec.reset(options={"town": 4})[1]["options"].tolist() == ["{'town': 4}"] * N
    assert vec.reset()[1]["options"].tolist() == ["None"] * N


@pytest.mark.parametrize(
    ("mask", "error", "text"),
    [
        ([True, False, True], TypeError, "`options['reset_mask']` must be a numpy array, got <class 'list'>"),
        (np.ones(2, np.bool_), ValueError, "`options['reset_mask']` must have shape `(3,)`, got (2,)"),
        (np.ones(3, np.int64), TypeError, "`options['reset_mask']` must have `dtype=np.bool_`, got int64"),
        (np.zeros(3, np.bool_), ValueError, "must contain a boolean array with at least one True value"),
    ],
)
def test_bad_masks(make: Any, mask: Any, error: type[Exception], text: str) -> None:
    vec = make(mode="Disabled")
    vec.reset()
    with pytest.raises(error, match=re.escape(text)):
        vec.reset(options={"reset_mask": mask})
    assert vec.reset(options={"reset_mask": np.ones(3, np.bool_)})[0]["counts"][:, 0].tolist() == [2] * N


def test_a_mask_resets_its_rows_and_the_others_keep_their_observation(make: Any) -> None:
    vec = make(mode="Disabled", length=100)
    vec.reset(seed=3)
    before, *_ = vec.step(np.array([0, 1, 0]))
    mask = np.array([False, True, False])
    observations, infos = vec.reset(seed=[1, 2, 3], options={"reset_mask": mask, "a": 1})
    assert observations["counts"][:, 1].tolist() == [1, 0, 1]
    assert observations["counts"][:, 0].tolist() == [1, 2, 1]
    np.testing.assert_array_equal(observations["counts"][[0, 2]], before["counts"][[0, 2]])
    assert infos["options"].tolist() == [None, "{'a': 1}", None]
    assert infos["_options"].tolist() == [False, True, False]
    observations, *_ = vec.step(np.array([0, 0, 0]))
    assert observations["counts"][:, 1].tolist() == [2, 1, 2]


# --- step ---


def test_types_and_shapes_of_a_step(make: Any) -> None:
    vec = make()
    observations, _ = vec.reset()
    assert observations in vec.observation_space
    held = {key: value.copy() for key, value in observations.items()}
    result, rewards, terminated, truncated, infos = vec.step(vec.action_space.sample() % 3)
    assert result in vec.observation_space
    assert (rewards.dtype, rewards.shape) == (np.float64, (N,))
    assert (terminated.dtype, truncated.dtype) == (np.bool_, np.bool_)
    assert rewards.tolist() == [0.5] * N
    assert infos["action_type"].tolist() == ["int64"] * N
    same(observations, held)
    assert result["counts"].flags.writeable


@pytest.mark.parametrize("mode", list(AutoresetMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize("transport", ["shm", "zmq"])
def test_a_run_is_the_same_as_upstreams(build: Any, mode: AutoresetMode, transport: str) -> None:
    reference, ours = build("gymnasium", mode=mode), build(transport, mode=mode)
    same(ours.reset(seed=11), reference.reset(seed=11))
    generator = np.random.default_rng(4)
    for _ in range(12):
        actions = generator.integers(0, 3, N)
        expected, found = list(reference.step(actions)), list(ours.step(actions))
        for infos in (expected[4], found[4]):
            infos.pop("final_obs", None)  # upstream's has been overwritten by the env's reset: see below
        same(found, expected)
        ended = expected[2] | expected[3]
        if mode is AutoresetMode.DISABLED and ended.any():
            same(ours.reset(options={"reset_mask": ended}), reference.reset(options={"reset_mask": ended.copy()}))


def test_same_step_brings_the_last_observation_and_info(make: Any, kind: str) -> None:
    vec = make(mode="SameStep", length=2)
    vec.reset(seed=1)
    vec.step(np.array([0, 1, 2]))
    observations, rewards, terminated, truncated, infos = vec.step(np.array([0, 1, 2]))
    assert terminated.tolist() == [True, True, False]
    assert truncated.tolist() == [False, False, True]
    assert rewards.tolist() == [1.0] * N
    assert observations["counts"][:, :2].tolist() == [[2, 0]] * N
    assert infos["final_obs"].dtype == object
    assert infos["_final_obs"].all()
    assert infos["final_info"]["steps"].tolist() == [2] * N
    assert infos["options"].tolist() == ["None"] * N
    assert all(final in vec.single_observation_space for final in infos["final_obs"])
    if kind != "gymnasium":  # Farama-Foundation/Gymnasium#1132: overwritten by the reset of an env that reuses buffers
        held = infos["final_obs"]
        for _ in range(6):
            vec.step(np.array([0, 0, 0]))
        for row in range(N):
            assert held[row]["counts"][:3].tolist() == [1, 2, row]


def test_final_observations_of_some_rows(make: Any) -> None:
    vec = make(mode="SameStep", length=3)
    vec.reset()
    vec.step(np.array([0, 0, 0]))
    vec.set_attr("length", [2, 9, 2])
    *_, infos = vec.step(np.array([0, 0, 0]))
    assert infos["_final_obs"].tolist() == [True, False, True]
    assert infos["final_obs"][1] is None
    assert infos["_final_info"].tolist() == [True, False, True]


def test_actions_of_the_wrong_number_step_no_env(make: Any, kind: str) -> None:
    vec = make()
    vec.reset()
    if kind == "gymnasium":
        return  # upstream leaves the first envs with a step that nobody reads
    for actions in (np.zeros(2, np.int64), np.array([0.5, 0, 0]), np.array(["left"] * N), [0, 1]):
        with pytest.raises(InvalidActionError):
            vec.step(actions)
    assert vec.step(np.array([1.0, 0.0, 1.0]))[0]["pick"].tolist() == [1] * N


# --- asynchronous pairs ---


def test_waits_without_a_call(make: Any) -> None:
    vec = make()
    vec.reset()
    for name in ("reset", "step", "call"):
        text = f"Calling `{name}_wait` without any prior call to `{name}_async`."
        with pytest.raises(NoAsyncCallError, match=re.escape(text)) as caught:
            getattr(vec, f"{name}_wait")()
        assert caught.value.name == name


@pytest.mark.parametrize("pending", ["reset", "step", "call"])
def test_calls_while_another_is_pending(make: Any, pending: str) -> None:
    vec = make()
    vec.reset()
    arguments: dict[str, tuple[Any, ...]] = {
        "reset_async": (),
        "step_async": (np.zeros(N, np.int64),),
        "call_async": ("add", 1),
        "set_attr": ("value", 1),
    }
    getattr(vec, f"{pending}_async")(*arguments[f"{pending}_async"])
    assert vec._state.value == pending
    for name, values in arguments.items():
        text = f"Calling `{name}` while waiting for a pending call to `{pending}` to complete"
        with pytest.raises(AlreadyPendingCallError, match=re.escape(text)) as caught:
            getattr(vec, name)(*values)
        assert caught.value.name == pending
    for other in {"reset", "step", "call"} - {pending}:
        with pytest.raises(NoAsyncCallError):
            getattr(vec, f"{other}_wait")()
    getattr(vec, f"{pending}_wait")()
    assert vec._state is AsyncState.DEFAULT
    assert vec.call("add", 1) == (2 if pending == "step" else 1,) * N


@pytest.mark.parametrize("name", ["step", "call"])
def test_a_wait_that_times_out(make: Any, kind: str, name: str) -> None:
    vec = make(length=100)
    vec.reset()
    if name == "step":
        vec.step_async(np.array([0, contract_envs.SLEEP, 0]))
    else:
        vec.call_async("nap", contract_envs.SLEEP_S)
    text = f"The call to `{name}_wait` has timed out after 0.01 second(s)."
    with pytest.raises(multiprocessing.TimeoutError, match=re.escape(text)):
        getattr(vec, f"{name}_wait")(timeout=0.01)
    assert vec._state is AsyncState.DEFAULT
    with pytest.raises(NoAsyncCallError):
        getattr(vec, f"{name}_wait")()
    if kind == "gymnasium":
        return  # from here on upstream takes the late answers for those of later calls
    observations, *_ = vec.step(np.array([0, 0, 0]))
    assert observations["pick"].tolist() == [2 if name == "step" else 1] * N
    assert vec.call("add", 1) == (observations["pick"][0] + 1,) * N


def test_the_end_of_an_episode_in_a_step_that_timed_out_is_remembered(make: Any, kind: str) -> None:
    if kind == "gymnasium":
        return
    vec = make(length=1)
    vec.reset()
    vec.step_async(np.array([0, contract_envs.SLEEP, 0]))
    with pytest.raises(multiprocessing.TimeoutError):
        vec.step_wait(timeout=0)
    observations, rewards, *_ = vec.step(np.array([0, 0, 0]))
    assert observations["counts"][:, :2].tolist() == [[2, 0]] * N
    assert rewards.tolist() == [0] * N


# --- calls ---


def test_calls_and_attributes(make: Any) -> None:
    vec = make(offset=4)
    vec.reset()
    assert vec.call("add", 1, second=2) == (3,) * N
    assert vec.get_attr("offset") == (4,) * N
    vec.set_attr("value", 5)
    assert vec.get_attr("value") == (5,) * N
    vec.set_attr("value", [1, 2, 3])
    assert vec.get_attr("value") == (1, 2, 3)
    vec.set_attr("value", (4, 5, 6))
    assert vec.get_attr("value") == (4, 5, 6)
    text = "Values must be a list or tuple with length equal to the number of environments. Got `2` values for 3 envir"
    with pytest.raises(ValueError, match=re.escape(text)):
        vec.set_attr("value", [1, 2])
    assert vec.get_attr("value") == (4, 5, 6)


def test_render(make: Any) -> None:
    vec = make(render_mode="rgb_array")
    vec.reset()
    vec.step(np.zeros(N, np.int64))
    frames = vec.render()
    assert isinstance(frames, tuple)
    same(list(frames), [np.full((8, 8, 3), 1, np.uint8)] * N)


@pytest.mark.parametrize("name", ["reset", "step", "close"])
def test_methods_of_the_vector_env_cannot_be_called_through_call(make: Any, name: str) -> None:
    text = f"Trying to call function `{name}` with `call`, use `{name}` directly instead."
    with pytest.raises(ValueError, match=re.escape(text)):
        make().call(name)


def test_an_attribute_that_is_not_there(make: Any) -> None:
    with pytest.raises(AttributeError):
        make().get_attr("no_such_thing")


def test_an_env_that_raises(make: Any, kind: str) -> None:
    vec = make(length=2)
    vec.reset()
    vec.step(np.zeros(N, np.int64))
    with pytest.raises(KeyError, match="asked to raise"):
        vec.step(np.array([0, contract_envs.RAISE, 0]))
    assert vec._state is AsyncState.DEFAULT
    if kind == "gymnasium":
        return  # its worker is gone
    observations, *_ = vec.step(np.zeros(N, np.int64))
    assert observations["counts"][:, :2].tolist() == [[2, 0], [1, 2], [2, 0]]  # rows 0 and 2 had ended


# --- close ---


def test_close_twice_and_what_is_closed(make: Any) -> None:
    vec = make()
    vec.reset()
    vec.close()
    vec.close()
    assert vec.closed is True
    text = f"Trying to operate on `{type(vec).__name__}`, after a call to `close()`."
    calls: dict[str, tuple[Any, ...]] = {
        "reset": (),
        "reset_async": (),
        "reset_wait": (),
        "step": (np.zeros(N, np.int64),),
        "step_wait": (),
        "call": ("add", 1),
        "call_wait": (),
        "get_attr": ("value",),
        "set_attr": ("value", 1),
        "render": (),
    }
    for name, arguments in calls.items():
        with pytest.raises(ClosedEnvironmentError, match=re.escape(text)):
            getattr(vec, name)(*arguments)


@pytest.mark.parametrize("pending", ["reset", "step", "call"])
def test_close_with_a_pending_call_warns(make: Any, pending: str) -> None:
    vec = make()
    vec.reset()
    arguments = {"reset": (), "step": (np.zeros(N, np.int64),), "call": ("add", 1)}[pending]
    getattr(vec, f"{pending}_async")(*arguments)
    text = f"Calling `close` while waiting for a pending call to `{pending}` to complete."
    with pytest.warns(UserWarning, match=re.escape(text)):
        vec.close()
    assert vec.closed


def test_close_in_a_hurry(make: Any) -> None:
    vec = make()
    vec.reset()
    vec.step_async(np.full(N, contract_envs.SLEEP))
    with pytest.warns(UserWarning, match="Calling `close` while waiting"):
        vec.close(timeout=0)
    assert vec.closed


def test_close_is_not_held_up_by_an_env_that_raises(make: Any, kind: str) -> None:
    if kind == "gymnasium":
        return
    vec = make()
    vec.reset()
    vec.step_async(np.full(N, contract_envs.RAISE))
    with pytest.warns(UserWarning, match="Calling `close` while waiting"):
        vec.close()
    assert vec.closed


def test_an_exception_type_that_only_the_worker_knows(make: Any, kind: str) -> None:
    if kind == "gymnasium":
        return
    vec = make()
    with pytest.raises(RemoteEnvError, match=r"contract_envs\.OddError.*odd") as caught:
        vec.call("be_odd")
    assert caught.value.remote_type == "contract_envs.OddError"
