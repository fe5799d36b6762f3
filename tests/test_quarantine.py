"""An episode that kills its worker again and again is not begun any more, by decision and with real processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import NewVecEnv, wait_until
from pools import ready_pool

from zmqcarla.broker.errors import QuarantinedEpisodeError
from zmqcarla.shm.status_page import EPISODE_BYTES, StatusPage
from zmqcarla.watch.events import read_events
from zmqcarla.workers.ledger import ledger_path
from zmqcarla.workers.quarantine import EpisodeGate, Quarantine, episode_name, write_episodes

ENV = "fault_envs:Deadly-v0"


def test_three_deaths_within_the_window_are_too_many() -> None:
    quarantine = Quarantine()
    assert [quarantine.died("a", now, 3, 100.0) for now in (0.0, 90.0, 150.0, 180.0)] == [False, False, False, True]
    assert quarantine.episodes == {"a"}
    assert not quarantine.died("a", 181.0, 3, 100.0)  # told once
    assert not any(quarantine.died("", float(now), 3, 100.0) for now in range(9))
    assert not any(quarantine.died("b", float(now), 0, 100.0) for now in range(9))


def test_names_tell_what_was_asked_for_and_fit_the_page() -> None:
    assert episode_name("x/E-v0", None, None) == episode_name("x/E-v0", None, {}) == ""
    assert episode_name("x/E-v0", 3, {"route": "7", "goal": 1}) == "x/E-v0 seed=3 goal=1 route='7'"
    long = [episode_name("x/E-v0", seed, {"route": "ü" * 500}) for seed in (1, 2)]
    assert long[0] != long[1]
    page = StatusPage.create()
    for name in long:
        page.name_episode(name)
        assert page.episode == name
        assert len(name.encode()) <= EPISODE_BYTES
    page.close()


class Routes:
    """Draws route 1, 2, 3, 1, 2, 3 ... or takes the one that was asked for."""

    def __init__(self) -> None:
        self.drawn = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        self.drawn += not options
        route = (options or {}).get("route") or str(1 + (self.drawn - 1) % 3)
        return f"on {route}", {"route_id": route}


@pytest.fixture
def gate(tmp_path: Path) -> Any:
    page = StatusPage.create()
    write_episodes(tmp_path / "q.json", ["E route='1'", "E seed=5"])
    yield page, EpisodeGate(page, tmp_path / "q.json")
    page.close()


def test_another_route_is_drawn_for_one_in_quarantine(gate: Any) -> None:
    page, gate = gate
    env = Routes()
    assert [gate.reset(env, "E", None, None)[0] for _ in range(3)] == ["on 2", "on 3", "on 2"]
    assert page.episode == "E route='2'"


def test_what_was_asked_for_is_refused_by_name(gate: Any, tmp_path: Path) -> None:
    _, gate = gate
    env = Routes()
    for seed, options, name in ((5, None, "E seed=5"), (None, {"route": "1"}, "E route='1'")):
        with pytest.raises(QuarantinedEpisodeError, match=f"killed too many of them: {name}"):
            gate.reset(env, "E", seed, options)
    assert gate.reset(env, "E", 6, {"route": "2"})[0] == "on 2"
    write_episodes(tmp_path / "q.json", [f"E route='{route}'" for route in (1, 2, 3)])
    with pytest.raises(QuarantinedEpisodeError, match="drew 20 routes, and all of them are in quarantine"):
        gate.reset(env, "E", None, None)


def test_a_seed_that_kills_its_worker_is_refused_on_every_worker(new_vec_env: NewVecEnv) -> None:
    settings = {"quarantine_deaths": 2, "stable_start_s": 0.0, "max_restarts": 100}
    with ready_pool(2, "fault_envs:*", worker=settings) as pool:
        vec = new_vec_env(2, ENV, None, pool.address)
        vec.reset(seed=[1, 2])
        listed = pool.log_directory / "quarantine.json"
        for _ in range(2):
            assert not listed.exists()
            vec.reset(seed=[13, 2])
            *_, truncated, _ = vec.step(vec.action_space.sample())
            assert truncated.tolist() == [True, False]
        wait_until(listed.exists, "the quarantine")
        assert json.loads(listed.read_text()) == [f"{ENV} seed=13"]
        with pytest.raises(QuarantinedEpisodeError, match="seed=13"):
            vec.reset(seed=[1, 13])  # the other worker
        vec.reset(seed=[1, 2])
        vec.step(vec.action_space.sample())
    events = [event for event in read_events([ledger_path()], 1000) if event["what"] == "quarantined"]
    assert events[-1]["reason"] == f"{ENV} seed=13: 2 workers died in it within 3600 s; it is not begun any more"
