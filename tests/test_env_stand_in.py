"""An env alone with a CARLA release whose starts and servers fail; see `carla_stand_in`."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import carla_stand_in
import psutil
import pytest
from conftest import wait_until
from worker_broker import is_alive

from zmqcarla.broker.errors import SimulatorError, SimulatorStartError
from zmqcarla.workers import ports
from zmqcarla.workers.carla_env import CarlaEnv

NewEnv = Callable[..., CarlaEnv]


@pytest.fixture
def new_env(tmp_path: Path) -> Iterator[NewEnv]:
    """An env with the stand-in, whose starts go as planned; closed after the test."""
    made: list[CarlaEnv] = []

    def new_env(*plan: str, **settings: Any) -> CarlaEnv:
        root = carla_stand_in.install(tmp_path, *plan)
        made.append(CarlaEnv(carla_root=root, image_size=(32, 16), **settings))
        return made[-1]

    yield new_env
    for env in made:
        env.close()


def test_a_start_that_crashes_is_tried_again_on_other_ports(new_env: NewEnv, tmp_path: Path) -> None:
    env = new_env("crash", "late 0.2", observation="state", quality="Epic")
    _, info = env.reset(seed=0)
    assert info["simulator"] == "carla"
    first, second = carla_stand_in.starts(str(tmp_path))
    assert first[:3] == ["-nullrhi", "-nosound", first[2]]  # nobody asked for a camera
    assert first[3:] == ["-graphicsadapter=0", "-quality-level=Epic"]
    assert env.server is not None
    assert second[2] == f"-carla-rpc-port={env.server.spec.port}"
    assert first[2] != second[2]
    parent = psutil.Process(env.server.server_pid())
    (child,) = parent.children()  # as with CarlaUE4.sh, the script is not the server
    assert ports.listener_pid(env.server.spec.port) == child.pid
    env.close()
    wait_until(lambda: not is_alive(child.pid), "the child that does not mind SIGTERM to end")


def test_spent_attempts_say_what_the_server_wrote_last_and_the_next_reset_tries_anew(new_env: NewEnv) -> None:
    env = new_env("crash", "crash", observation="state", start_attempts=2)
    with pytest.raises(SimulatorStartError, match=r"(?s)within 2 attempts.*ended with status 139") as caught:
        env.reset(seed=0)
    assert "Segmentation fault" in str(caught.value)
    env.reset(seed=0)


def test_a_server_that_never_listens_is_ended(new_env: NewEnv) -> None:
    env = new_env("hang", observation="state", start_attempts=1, start_timeout_s=0.3)
    with pytest.raises(SimulatorStartError, match=r"did not listen on port \d+ within 0\.3 s; its output is in"):
        env.reset(seed=0)


def test_a_port_of_a_stranger_that_looked_free_is_left_to_him(new_env: NewEnv) -> None:
    """He listens on IPv6 alone, which the bind test does not see, so that he is only found after the start."""
    claim = ports.claim_free()
    port = claim.block.rpc
    claim.release()
    env = new_env()
    with socket.create_server(("::1", port), family=socket.AF_INET6):
        env.reset(seed=0)
        assert env.server is not None
        assert env.server.spec.port > port
        assert ports.listener_pid(port) == os.getpid()


def test_a_server_that_grows_is_replaced_between_two_episodes(new_env: NewEnv, tmp_path: Path) -> None:
    env = new_env("grow 2", observation="state", recycle_rss_growth_mib=15, recycle_episodes=50)
    for episode in range(1, 9):
        observation, _ = env.reset(seed=episode)
        assert env.server is not None
        port = env.server.spec.port
        for frame in (1, 2):
            observation, _, _, truncated, info = env.step(env.action_space.sample())
            assert observation in env.observation_space
            assert not truncated
            assert info["frame"] == frame
        assert env.server.spec.port == port
    assert env.own_server.recycled == 1
    assert len(carla_stand_in.starts(str(tmp_path))) == 2


def test_a_server_is_replaced_after_its_episodes_and_drives_the_same(new_env: NewEnv, tmp_path: Path) -> None:
    env = new_env(recycle_episodes=2, traffic_vehicles=3)
    seen: list[bytes] = []
    for _ in range(3):
        env.reset(seed=5)
        seen.append(env.step(env.action_space.sample() * 0)[0]["rgb"].tobytes())
    assert len(carla_stand_in.starts(str(tmp_path))) == 2
    assert seen[0] == seen[1] == seen[2]


# ------------------------------------------------------------------------------------------------- faults at each phase

# The client and the settling car ask for the first ticks; of an env without a camera the 13th is one of a step.
IN_RESET, IN_STEP = 4, 13


@pytest.mark.parametrize("fault", ["crash", "hang"])
@pytest.mark.parametrize("tick", [IN_RESET, IN_STEP])
def test_a_server_lost_in_a_reset_or_a_step_costs_one_error(
    new_env: NewEnv, tmp_path: Path, fault: str, tick: int
) -> None:
    """And the next one, which starts late, drives."""
    env = new_env(f"--fault={fault}-at-tick={tick}", "late 0.2", observation="state", timeout=3.0)
    if tick == IN_STEP:
        env.reset(seed=0)
    with pytest.raises(SimulatorError):
        drive(env, seed=0 if tick == IN_RESET else None, steps=tick)
    lost = ports_of(tmp_path)
    drive(env, seed=0, steps=tick)
    assert len(ports_of(tmp_path)) == len(lost) + 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_server_lost_before_the_end_is_no_error_and_leaves_nothing(
    new_env: NewEnv, tmp_path: Path, number: signal.Signals
) -> None:
    env = new_env(observation="state", timeout=2.0)
    env.reset(seed=0)
    (port,) = ports_of(tmp_path)
    pid = ports.listener_pid(port)
    assert pid is not None
    os.kill(pid, number)
    env.close()
    wait_until(lambda: not is_alive(pid), "the server to be gone")


def test_slow_ticks_are_waited_for_in_reset_and_step(new_env: NewEnv, tmp_path: Path) -> None:
    for tick in (IN_RESET, IN_STEP):
        env = new_env(f"--fault=slow-tick-at={tick}:400", observation="state")
        drive(env, seed=0, steps=IN_STEP)
        assert len(ports_of(tmp_path)) == 1
        env.close()
        (tmp_path / "starts").unlink()


def drive(env: CarlaEnv, seed: int | None, steps: int) -> None:
    """Reset, where there is a seed, and step."""
    if seed is not None:
        env.reset(seed=seed)
    for _ in range(steps):
        env.step(env.action_space.sample() * 0)


def ports_of(folder: Path) -> list[int]:
    """Of each start so far."""
    return [int(start[2].partition("=")[2]) for start in carla_stand_in.starts(str(folder))]
