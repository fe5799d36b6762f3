"""The state machine of one worker, by events with `now` given."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from zmqcarla.broker.protocol import EXIT_SIMULATOR_FAILED
from zmqcarla.shm.status_page import Phase
from zmqcarla.workers.lifecycle import (
    SERVER_GRACE_S,
    TERM_GRACE_S,
    AskToRecycle,
    EndServer,
    EnvExited,
    EnvStopped,
    Lifecycle,
    NoteRecycled,
    NoteServerFailed,
    Observed,
    ReportLost,
    Restart,
    ServerExited,
    ServerFailed,
    ServerReady,
    ServerSilent,
    ServerWorn,
    SignalEnv,
    StartEnv,
    StartServer,
    Stop,
    Tick,
)
from zmqcarla.workers.worker_config import WorkerConfig


def plain(**settings: Any) -> Lifecycle:
    """Of a worker without a server."""
    return Lifecycle(WorkerConfig(worker_id="w", simulator="none", **settings), "w.log")


def with_server(**settings: Any) -> Lifecycle:
    """Of a worker whose server and env process run since t=0."""
    worker = Lifecycle(WorkerConfig(worker_id="w", simulator="embedded", **settings), "w.log")
    assert worker.handle(Tick(), 0.0) == [StartServer()]
    assert worker.handle(ServerReady(), 0.0) == [StartEnv(1)]
    return worker


def test_without_a_server_the_env_process_starts_at_once_and_once() -> None:
    worker = plain()
    assert worker.handle(Tick(), 0.0) == [StartEnv(1)]
    assert worker.handle(Tick(), 1.0) == []


def test_a_connected_server_is_neither_started_nor_ended() -> None:
    worker = Lifecycle(WorkerConfig(worker_id="w", simulator="carla", connect="localhost:2000"), "w.log")
    assert worker.handle(Tick(), 0.0) == [StartEnv(1)]
    (report, start) = worker.handle(EnvExited(EXIT_SIMULATOR_FAILED), 50.0)
    assert isinstance(report, ReportLost)
    assert start == StartEnv(2)
    worker.handle(Stop(), 51.0)
    assert worker.handle(EnvExited(0), 51.5) == []
    assert worker.stopped


def test_a_death_is_reported_before_the_restart_and_keeps_the_server() -> None:
    worker = with_server()
    assert worker.handle(EnvExited(-9), 100.0) == [
        ReportLost(1, "killed by SIGKILL", -9, restarts=0, final=False),
        StartEnv(2),
    ]
    assert worker.restarts == 1


def test_a_failed_simulator_is_restarted_with_the_env_process() -> None:
    worker = with_server()
    assert worker.handle(EnvExited(EXIT_SIMULATOR_FAILED, "SimulatorTimeoutError: no tick"), 100.0) == [
        ReportLost(1, "exited with code 70: SimulatorTimeoutError: no tick", 70, restarts=0, final=False),
        EndServer(),
    ]
    assert worker.handle(ServerExited(143), 101.0) == [StartServer()]
    assert worker.handle(ServerReady(), 102.0) == [StartEnv(2)]


def test_an_env_process_that_stays_stopped_is_cut_and_keeps_its_server() -> None:
    worker = with_server(step_timeout_s=7.0)
    assert worker.handle(EnvStopped(6.9), 100.0) == []
    assert worker.handle(EnvStopped(7.1), 100.2) == [SignalEnv(signal.SIGKILL)]
    report, start = worker.handle(EnvExited(-9), 100.3)
    assert isinstance(report, ReportLost)
    assert report.reason == "cut after 7.1 s of being stopped by a signal; the limit is 7 s"
    assert start == StartEnv(2)


def test_when_the_server_dies_the_env_process_is_killed_and_both_restart() -> None:
    worker = with_server()
    assert worker.handle(ServerExited(139), 100.0) == [SignalEnv(signal.SIGKILL)]
    report, start = worker.handle(EnvExited(-9), 100.1)
    assert report == ReportLost(1, "its embedded simulator ended with status 139", -9, restarts=0, final=False)
    assert start == StartServer()


@pytest.mark.parametrize(
    ("phase", "limit"),
    [
        (Phase.STEPPING, "step_timeout_s"),
        (Phase.RESETTING, "reset_timeout_s"),
        (Phase.CALLING, "reset_timeout_s"),
        (Phase.CLOSING, "reset_timeout_s"),
        (Phase.OPENING, "open_timeout_s"),
        (Phase.STARTING, "restart_timeout_s"),
    ],
)
def test_a_hang_is_cut_with_env_process_and_server(phase: Phase, limit: str) -> None:
    worker = with_server(**{limit: 7.0})
    assert worker.handle(Observed(phase, 6.9, 5), 100.0) == []
    assert worker.handle(Observed(phase, 7.1, 5), 100.2) == [SignalEnv(signal.SIGKILL)]
    assert worker.handle(Observed(phase, 7.3, 5), 100.4) == []
    report, end = worker.handle(EnvExited(-9), 100.5)
    assert isinstance(report, ReportLost)
    assert report.reason == f"cut after 7.1 s of {phase.name.lower()} (command 5); the limit is 7 s"
    assert end == EndServer()


def test_an_idle_env_process_may_wait_for_ever() -> None:
    worker = with_server()
    assert worker.handle(Observed(Phase.IDLE, 1e6, 5), 1e6) == []


def test_early_deaths_wait_longer_each_time_and_a_long_life_forgives() -> None:
    worker = plain(stable_start_s=5.0, max_restarts=100)
    worker.handle(Tick(), 0.0)
    now = 0.0
    for wait_s in (0.5, 1.0, 2.0, 4.0):
        assert StartEnv not in map(type, worker.handle(EnvExited(1), now))
        assert worker.handle(Tick(), now + wait_s - 0.01) == []
        (start,) = worker.handle(Tick(), now + wait_s)
        assert isinstance(start, StartEnv)
        now += wait_s
    assert StartEnv(6) in worker.handle(EnvExited(1), now + 5.0)


def test_the_budget_ends_in_a_final_report_that_names_the_log() -> None:
    worker = plain(stable_start_s=0.0, max_restarts=2, restart_window_s=60.0)
    worker.handle(Tick(), 0.0)
    assert StartEnv(2) in worker.handle(EnvExited(-11), 10.0)
    assert StartEnv(3) in worker.handle(EnvExited(-11), 20.0)
    (report,) = worker.handle(EnvExited(-11), 30.0)
    assert report == ReportLost(
        3,
        "killed by SIGSEGV; it was restarted 2 times within 60 s and stays down; its output is in w.log",
        -11,
        restarts=2,
        final=True,
    )
    assert worker.down
    assert worker.handle(Tick(), 1000.0) == []


def test_restarts_older_than_the_window_do_not_count() -> None:
    worker = plain(stable_start_s=0.0, max_restarts=1, restart_window_s=60.0)
    worker.handle(Tick(), 0.0)
    for incarnation, now in enumerate((100.0, 161.0, 222.0), start=2):
        assert StartEnv(incarnation) in worker.handle(EnvExited(1), now)
    assert StartEnv not in map(type, worker.handle(EnvExited(1), 223.0))


def test_a_server_that_does_not_come_up_is_ended_and_tried_again() -> None:
    worker = Lifecycle(WorkerConfig(worker_id="w", restart_timeout_s=30.0), "w.log")
    worker.handle(Tick(), 0.0)
    assert worker.handle(Tick(), 29.0) == []
    report, end = worker.handle(Tick(), 30.0)
    assert isinstance(report, ReportLost)
    assert (report.incarnation, report.final) == (0, False)
    assert end == EndServer()
    assert worker.handle(ServerExited(0), 31.0) == [StartServer()]
    assert worker.handle(ServerFailed("port 2000 is in use"), 31.1)[-1] == EndServer()


def test_a_server_that_fails_for_a_worker_known_to_be_lost_is_noted_and_not_reported_again() -> None:
    worker = with_server()
    report, _ = worker.handle(EnvExited(EXIT_SIMULATOR_FAILED), 50.0)
    assert isinstance(report, ReportLost)
    assert worker.handle(ServerExited(0), 50.5) == [StartServer()]
    assert worker.handle(ServerFailed("it ended"), 51.0) == [NoteServerFailed(1, "it ended", restarts=1), EndServer()]


def test_a_hopeless_server_is_final_at_once() -> None:
    worker = Lifecycle(WorkerConfig(worker_id="w", simulator="carla"), "w.log")
    worker.handle(Tick(), 0.0)
    assert worker.handle(ServerFailed("CarlaUE4 refuses to run as root", hopeless=True), 0.1) == [
        ReportLost(0, "CarlaUE4 refuses to run as root; its output is in w.log", -1, restarts=0, final=True),
        EndServer(),
    ]
    assert worker.handle(ServerExited(0), 0.1) == []
    assert worker.down


def test_stop_ends_the_env_process_then_the_server_and_reports_nothing() -> None:
    worker = with_server()
    assert worker.handle(Stop(), 10.0) == [SignalEnv(signal.SIGTERM)]
    assert worker.handle(EnvExited(0), 10.5) == [EndServer()]
    assert not worker.stopped
    assert worker.handle(ServerExited(143), 11.0) == []
    assert worker.stopped


def test_stop_kills_what_does_not_listen() -> None:
    worker = with_server()
    worker.handle(Stop(), 10.0)
    assert worker.handle(Tick(), 10.0 + TERM_GRACE_S - 0.1) == []
    assert worker.handle(Tick(), 10.0 + TERM_GRACE_S) == [SignalEnv(signal.SIGKILL)]
    worker.handle(EnvExited(-9), 14.0)
    assert worker.handle(Tick(), 14.0 + SERVER_GRACE_S) == [EndServer(force=True)]
    worker.handle(ServerExited(-9), 19.0)
    assert worker.stopped


def test_stop_during_the_start_of_the_server() -> None:
    worker = Lifecycle(WorkerConfig(worker_id="w"), "w.log")
    worker.handle(Tick(), 0.0)
    assert worker.handle(Stop(), 0.1) == [EndServer()]
    assert worker.handle(ServerReady(), 0.2) == []
    assert worker.handle(ServerExited(0), 0.3) == []
    assert worker.stopped


def test_stop_of_a_worker_that_is_down() -> None:
    worker = plain(max_restarts=0)
    worker.handle(Tick(), 0.0)
    worker.handle(EnvExited(1), 1.0)
    assert worker.down
    assert worker.handle(Stop(), 2.0) == []
    assert worker.stopped


def test_a_restart_on_request_renews_both_and_costs_no_budget() -> None:
    worker = with_server(max_restarts=0)
    assert worker.handle(Restart(), 10.0) == [SignalEnv(signal.SIGKILL)]
    (report, end) = worker.handle(EnvExited(-9), 10.0)
    assert report == ReportLost(1, "restarted on request", -9, restarts=0, final=False)
    assert end == EndServer()
    assert worker.handle(ServerExited(0), 10.1) == [StartServer()]
    assert worker.handle(ServerReady(), 10.2) == [StartEnv(2)]
    (report,) = worker.handle(EnvExited(-9), 11.0)[:1]
    assert isinstance(report, ReportLost)
    assert report.final  # the next death of its own is one too many for a budget of none


def test_a_worker_that_is_down_comes_back_on_request() -> None:
    worker = plain(max_restarts=0)
    worker.handle(Tick(), 0.0)
    worker.handle(EnvExited(1), 1.0)
    assert worker.down
    assert worker.handle(Restart(), 2.0) == [StartEnv(2)]
    assert not worker.down


def test_the_first_start_waits_for_its_turn() -> None:
    worker = plain(start_delay_s=3.0)
    assert worker.handle(Tick(), 50.0) == []
    assert worker.handle(Tick(), 52.9) == []
    assert worker.handle(Tick(), 53.0) == [StartEnv(1)]


# --- a worn server is replaced between two episodes ---


def waiting(**settings: Any) -> Lifecycle:
    """Of a worker whose env process waits since t=100 for a fresh server; the worn one has ended."""
    worker = with_server(**settings)
    assert worker.handle(ServerWorn("it grew"), 90.0) == [AskToRecycle()]
    assert worker.handle(ServerWorn("it grew more"), 91.0) == []
    assert worker.handle(Observed(Phase.STEPPING, 1.0, 7), 99.0) == []
    assert worker.handle(Observed(Phase.RECYCLING, 0.0, 8), 100.0) == [NoteRecycled("it grew", 0), EndServer()]
    assert worker.handle(Observed(Phase.RECYCLING, 0.1, 8), 100.1) == []
    assert worker.handle(ServerExited(143), 101.0) == [StartServer()]
    return worker


def test_a_worn_server_is_replaced_and_the_env_process_goes_on() -> None:
    worker = waiting()
    assert worker.handle(Observed(Phase.RECYCLING, 500.0, 8), 150.0) == []  # a server may take its time
    assert worker.handle(ServerReady(), 151.0) == []
    assert worker.handle(Observed(Phase.RECYCLING, 500.0, 8), 151.0) == []  # it has not looked yet
    assert (worker.recycled, worker.restarts, worker.incarnation) == (1, 0, 1)
    assert worker.handle(ServerWorn("again"), 200.0) == [AskToRecycle()]


def test_a_fresh_server_that_fails_to_start_is_tried_again_while_the_env_process_waits() -> None:
    worker = waiting(max_restarts=1)
    assert worker.handle(ServerFailed("segfault"), 102.0) == [NoteServerFailed(1, "segfault", 0), EndServer()]
    assert worker.handle(ServerExited(139), 102.1) == []
    assert worker.handle(Tick(), 102.6) == [StartServer()]
    assert worker.handle(ServerFailed("segfault"), 103.0) == [SignalEnv(signal.SIGKILL)]
    report, *_ = worker.handle(EnvExited(-9), 103.1)
    assert isinstance(report, ReportLost)
    assert report.final
    assert report.reason.startswith("segfault; it was restarted 1 times")


def test_an_env_process_that_dies_while_it_waits_comes_back_with_the_fresh_server() -> None:
    worker = waiting()
    (report,) = worker.handle(EnvExited(-9), 102.0)
    assert isinstance(report, ReportLost)
    assert worker.handle(ServerReady(), 103.0) == [StartEnv(2)]


def test_a_worker_can_be_stopped_while_its_env_process_waits() -> None:
    worker = waiting()
    assert worker.handle(Stop(), 102.0) == [SignalEnv(signal.SIGTERM)]
    assert worker.handle(EnvExited(0), 102.1) == [EndServer()]
    worker.handle(ServerExited(0), 102.2)
    assert worker.stopped


def test_a_new_env_process_finds_the_old_wish_to_recycle() -> None:
    worker = with_server()
    worker.handle(ServerWorn("it grew"), 90.0)
    assert StartEnv(2) in worker.handle(EnvExited(-9), 95.0)
    assert worker.handle(Observed(Phase.RECYCLING, 0.0, 1), 100.0) == [NoteRecycled("it grew", 1), EndServer()]


def test_a_server_that_answers_nobody_is_replaced_though_nobody_steps() -> None:
    worker = with_server()
    assert worker.handle(ServerSilent(61.0), 100.0) == [SignalEnv(signal.SIGKILL)]
    (report, end) = worker.handle(EnvExited(-9), 100.1)
    assert isinstance(report, ReportLost)
    assert report.reason == "its embedded simulator has not answered for 61 s"
    assert end == EndServer()
