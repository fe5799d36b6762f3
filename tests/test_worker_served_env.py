"""Which env ids and keywords a worker opens; the rest of its ops is tested through a real env process."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import gymnasium
import pytest
from worker_envs import CountingEnv

from zmqcarla.broker.errors import LeaseRefusedError, SimulatorStartError
from zmqcarla.shm.status_page import Phase, StatusPage
from zmqcarla.workers.served_env import ServedEnv

OURS = "zmqcarla/Probe-v0"


class ProbeEnv(CountingEnv):
    """Shows what it was made with."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__()
        self.made_with = kwargs

    def connect_to(self, address: str) -> None:
        self.made_with["connect"] = address


def make_probe(**kwargs: Any) -> ProbeEnv:
    return ProbeEnv(**kwargs)


@pytest.fixture
def page() -> Generator[StatusPage]:
    gymnasium.register(id=OURS, entry_point=make_probe)
    page = StatusPage.create()
    yield page
    page.close()
    del gymnasium.registry[OURS]


def test_an_env_of_ours_gets_the_workers_simulator(page: StatusPage) -> None:
    served = ServedEnv(("zmqcarla/*",), "embedded", "127.0.0.1:24000", page)
    served.perform("open", {"env_id": OURS, "kwargs": {"map": "Town01"}, "autoreset": "NextStep"}, 0, 1)
    made_with = served.perform("call", {"name": "made_with", "args": [], "kwargs": {}}, 0, 2)
    assert made_with == {"map": "Town01", "connect": "127.0.0.1:24000", "simulator": "embedded"}
    served.close()


@pytest.mark.parametrize("name", ["connect", "simulator", "carla_root", "agent_file", "agent_config"])
def test_what_the_worker_owns_cannot_be_passed(page: StatusPage, name: str) -> None:
    served = ServedEnv(("zmqcarla/*",), "embedded", "127.0.0.1:24000", page)
    with pytest.raises(LeaseRefusedError, match=f"expected no {name} in the keyword arguments"):
        served.perform("open", {"env_id": OURS, "kwargs": {name: "x"}, "autoreset": "NextStep"}, 0, 1)


def test_a_reward_that_imports_code_must_match_a_pattern_of_the_worker(page: StatusPage) -> None:
    def opened(*patterns: str) -> None:
        served = ServedEnv(patterns, "embedded", "127.0.0.1:24000", page)
        kwargs = {"reward_type": "bisect:bisect"}
        served.perform("open", {"env_id": "zmqcarla/Carla-v0", "kwargs": kwargs, "autoreset": "NextStep"}, 0, 1)
        served.close()

    with pytest.raises(LeaseRefusedError, match="start the worker with --env 'bisect:bisect' to allow it"):
        opened("zmqcarla/*")
    opened("zmqcarla/*", "bisect:*")


def test_without_a_simulator_an_env_of_ours_is_refused(page: StatusPage) -> None:
    served = ServedEnv(("*",), "none", None, page)
    with pytest.raises(LeaseRefusedError, match="expected a worker with a simulator"):
        served.perform("open", {"env_id": OURS, "kwargs": {}, "autoreset": "NextStep"}, 0, 1)


def test_a_worn_server_that_nobody_replaces_is_waited_for_with_a_limit(page: StatusPage) -> None:
    served = ServedEnv(("zmqcarla/*",), "embedded", "127.0.0.1:24000", page, recycle_timeout_s=0.05)
    served.perform("open", {"env_id": OURS, "kwargs": {}, "autoreset": "NextStep"}, 0, 1)
    page.fields["recycle"] = 1
    with pytest.raises(SimulatorStartError, match=r"within 0\.05 s \(recycle_timeout_s\), found none"):
        served.perform("reset", {"slot": 0, "seed": None, "options": None}, 0, 2)
    assert page.look().phase is Phase.RECYCLING
    page.offer_server("127.0.0.1:24004")
    served.perform("reset", {"slot": 0, "seed": None, "options": None}, 0, 3)
    assert served.server == "127.0.0.1:24000"  # the next one is left only when it is worn
    served.close()


def test_a_failed_open_leaves_no_env(page: StatusPage) -> None:
    served = ServedEnv(("*",), "none", None, page)
    with pytest.raises(gymnasium.error.NameNotFound):
        served.perform("open", {"env_id": "Nowhere-v0", "kwargs": {}, "autoreset": "NextStep"}, 0, 1)
    served.close()
