"""Configs travel as JSON and refuse nonsense."""

from __future__ import annotations

from typing import Any

import pytest

from zmqcarla.workers.worker_config import EnvProcessConfig, SupervisorConfig, WorkerConfig, new_worker_id


def test_a_supervisor_config_survives_its_json() -> None:
    config = SupervisorConfig(
        broker="ipc:///tmp/b.sock",
        workers=(
            WorkerConfig(worker_id="a-24000", gpu=1, port=24000, env_patterns=("x:*", "y")),
            WorkerConfig(worker_id="b", simulator="carla", connect="10.0.0.1:2000"),
        ),
        log_directory="/tmp/logs",
        lifeline_fd=5,
    )
    assert SupervisorConfig.from_json(config.to_json()) == config


def test_an_env_process_config_survives_its_json() -> None:
    config = EnvProcessConfig(
        worker_id="a",
        incarnation=2,
        broker="tcp://127.0.0.1:24001",
        page_fd=7,
        supervisor_pid=1,
        last_words_fd=7,
        simulator="embedded",
        server="127.0.0.1:24004",
        rendering=False,
        env_patterns=("zmqcarla/*",),
    )
    assert EnvProcessConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"worker_id": "../x"}, "worker_id"),
        ({"simulator": "unreal"}, "simulator"),
        ({"env_patterns": ()}, "env_patterns"),
        ({"step_timeout_s": 0.0}, "step_timeout_s"),
        ({"connect": "localhost"}, "connect"),
        ({"connect": "localhost:2000", "simulator": "none"}, "connect"),
        ({"max_restarts": -1}, "max_restarts"),
    ],
)
def test_a_bad_worker_is_refused_by_name(settings: dict[str, Any], name: str) -> None:
    fields: dict[str, Any] = {"worker_id": "w", **settings}
    with pytest.raises(ValueError, match=f"^{name}: expected .*, found"):
        WorkerConfig(**fields)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"broker": "x", "workers": [{"worker_id": "a", "colour": 1}]}'])
def test_json_of_another_form_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected|Expecting"):
        SupervisorConfig.from_json(text)


def test_worker_ids_must_differ() -> None:
    twin = WorkerConfig(worker_id="a")
    with pytest.raises(ValueError, match="different worker_ids"):
        SupervisorConfig(broker="x", workers=(twin, twin), log_directory="/tmp")


def test_new_worker_ids() -> None:
    assert new_worker_id(2000).endswith("-2000")
    assert new_worker_id(None) != new_worker_id(None)
    WorkerConfig(worker_id=new_worker_id(None))
