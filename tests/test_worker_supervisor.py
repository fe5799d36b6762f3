"""What a supervisor does about deaths and hangs: real processes, a ROUTER driven by hand."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil
import pytest
from conftest import wait_until
from worker_broker import LEASE, Router, is_alive, running_pool
from worker_envs import EXIT, HANG, LOSE_SIMULATOR

from zmqcarla.broker import protocol as p

REBUILD = {
    "slot": 0,
    "seed": None,
    "options": None,
    "open": {"env_id": "worker_envs:Counting-v0", "kwargs": {}, "autoreset": "NextStep"},
}
REBUILD["attach"] = None


def lost(router: Router) -> p.WorkerLost:
    message, _ = router.receive(p.WorkerLost)
    return message


def test_it_registers_until_it_is_welcome_and_then_sends_heartbeats(tmp_path: Path) -> None:
    router = Router(tmp_path)
    router.welcome = False
    with running_pool(tmp_path, router, gpu=3) as pool:
        first, _ = router.receive(p.Register)
        router.welcome = True
        again, _ = router.receive(p.Register)
        assert first == again
        assert (first.worker_id, first.simulator, first.gpu) == ("w0", "none", 3)
        assert first.supervisor_pid == pool.process.pid
        while router.receive(p.Heartbeat)[0].worker_ids != ("w0",):
            pass
        router.send(router.supervisor, p.UnknownWorker("w0"))
        assert router.receive(p.Register)[0] == first


def test_a_killed_env_process_is_reported_at_once_and_restarted(tmp_path: Path) -> None:
    router = Router(tmp_path)
    with running_pool(tmp_path, router):
        ready = router.ready()
        assert router.command("rebuild", REBUILD, 1)[0] == "ok"
        os.kill(ready.pid, signal.SIGKILL)
        assert lost(router) == p.WorkerLost("w0", 1, "killed by SIGKILL", -9, restarts=0, final=False)
        again = router.ready(incarnation=2)
        assert again.lease_id == b""
        assert again.pid != ready.pid
        assert router.command("rebuild", REBUILD, 2)[0] == "ok"


def test_a_hang_is_cut_at_the_step_timeout(tmp_path: Path) -> None:
    router = Router(tmp_path)
    with running_pool(tmp_path, router, step_timeout_s=0.3):
        router.ready()
        router.command("rebuild", REBUILD, 1)
        router.post("step", (0, HANG), 2)
        message = lost(router)
        assert message.exit_code == -9
        assert "of stepping (command 2); the limit is 0.3 s" in message.reason
        router.ready(incarnation=2)


def test_a_stopped_env_process_is_cut_as_well(tmp_path: Path) -> None:
    router = Router(tmp_path)
    with running_pool(tmp_path, router, reset_timeout_s=0.3):
        ready = router.ready()
        router.command("rebuild", REBUILD, 1)
        router.post("call", {"name": "unwrapped.stop_myself", "args": [], "kwargs": {}}, 2)
        assert "of calling" in lost(router).reason
        assert not is_alive(ready.pid)
        router.ready(incarnation=2)


def test_last_words_name_a_failed_simulator(tmp_path: Path) -> None:
    router = Router(tmp_path)
    with running_pool(tmp_path, router):
        router.ready()
        router.command("rebuild", REBUILD, 1)
        router.post("step", (0, LOSE_SIMULATOR), 2)
        message = lost(router)
        assert message.exit_code == p.EXIT_SIMULATOR_FAILED
        assert message.reason == "exited with code 70: SimulatorTimeoutError: no answer from the test"
        router.ready(incarnation=2)


def test_when_the_budget_is_spent_the_worker_stays_down(tmp_path: Path) -> None:
    router = Router(tmp_path)
    with running_pool(tmp_path, router, max_restarts=1) as pool:
        for incarnation in (1, 2):
            router.ready(incarnation)
            router.command("rebuild", REBUILD, 1)
            router.post("step", (0, EXIT), 2)
            message = lost(router)
            assert (message.exit_code, message.restarts) == (3, incarnation - 1)
            assert message.final == (incarnation == 2)
        assert message.reason.startswith("exited with code 3; it was restarted 1 times within 600 s and stays down")
        assert str(pool.env_log) in message.reason
        assert not psutil.Process(pool.process.pid).children()


def test_the_children_of_an_env_process_die_with_it(tmp_path: Path) -> None:
    router = Router(tmp_path)
    with running_pool(tmp_path, router):
        ready = router.ready()
        router.command("rebuild", REBUILD, 1)
        outcome, grandchild = router.command("call", {"name": "spawn", "args": [], "kwargs": {}}, 2)
        assert outcome == "ok"
        assert is_alive(grandchild)
        os.kill(ready.pid, signal.SIGKILL)
        lost(router)
        wait_until(lambda: not is_alive(grandchild), "the env's own child to end")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_orderly_stop(tmp_path: Path, number: signal.Signals) -> None:
    router = Router(tmp_path)
    with running_pool(tmp_path, router) as pool:
        ready = router.ready()
        router.command("rebuild", REBUILD, 1)
        pool.process.send_signal(number)
        assert router.receive(p.Unregister)[0] == p.Unregister("w0")
        assert pool.wait() == 0
        assert not is_alive(ready.pid)
        assert "CountingEnv closed" in pool.env_log.read_text()


def test_a_stop_does_not_wait_for_an_env_that_hangs(tmp_path: Path) -> None:
    router = Router(tmp_path)
    with running_pool(tmp_path, router) as pool:
        ready = router.ready()
        router.command("rebuild", REBUILD, 1)
        router.post("call", {"name": "unwrapped.stop_myself", "args": [], "kwargs": {}}, 2)
        wait_until(
            lambda: psutil.Process(ready.pid).status() == psutil.STATUS_STOPPED, "the env process to stop itself"
        )
        pool.process.terminate()
        assert pool.wait(10.0) == 0
        assert not is_alive(ready.pid)


def test_the_end_of_the_lifeline_stops_everything(tmp_path: Path) -> None:
    router = Router(tmp_path)
    read_end, write_end = os.pipe()
    with running_pool(tmp_path, router, lifeline_fd=read_end) as pool:
        os.close(read_end)
        ready = router.ready()
        os.close(write_end)
        assert pool.wait() == 0
        assert not is_alive(ready.pid)


def test_a_killed_supervisor_leaves_nothing(tmp_path: Path) -> None:
    router = Router(tmp_path)
    with running_pool(tmp_path, router) as pool:
        ready = router.ready()
        router.command("rebuild", REBUILD, 1)
        assert not pool.segments()  # a status page has no name that could be left behind
        pool.kill()
        wait_until(lambda: not is_alive(ready.pid), "the env process to end")


def test_the_end_of_a_lease_sweeps_abandoned_segments(tmp_path: Path) -> None:
    router = Router(tmp_path)
    with running_pool(tmp_path, router):
        router.ready()
        abandoned = Path(f"/dev/shm/zmqcarla-{os.getuid()}-arena-{LEASE.hex()}")
        abandoned.write_bytes(b"left by a client that was killed")
        router.send(router.supervisor, p.LeaseEnded(LEASE))
        wait_until(lambda: not abandoned.exists(), "the segment to be swept")


def test_two_workers_do_not_disturb_each_other(tmp_path: Path) -> None:
    router = Router(tmp_path)
    with running_pool(tmp_path, router, worker_ids=("w0", "w1"), max_restarts=0) as pool:
        pids: dict[str, int] = {}
        while len(pids) < 2:
            ready, _ = router.receive(p.Ready)
            pids[ready.worker_id] = ready.pid
        os.kill(pids["w0"], signal.SIGKILL)
        message = lost(router)
        assert (message.worker_id, message.final) == ("w0", True)
        phases: dict[str, str] = {}
        while phases.get("w0") != "absent":  # it stays in sight
            beat, _ = router.receive(p.Heartbeat)
            phases = dict(zip(beat.worker_ids, beat.phases, strict=True))
        assert phases["w1"] != "absent"
        assert is_alive(pids["w1"])
        assert pool.process.poll() is None


def test_a_broker_that_comes_late_and_comes_again(tmp_path: Path) -> None:
    router = Router(tmp_path)
    router.close()
    with running_pool(tmp_path, router):
        for _ in range(2):
            later = Router(tmp_path)
            try:
                assert later.receive(p.Register)[0].worker_id == "w0"
                later.ready()
                assert later.command("rebuild", REBUILD, 1, lease_id=os.urandom(16))[0] == "ok"
            finally:
                later.close()


def test_a_wrong_command_line_is_named(tmp_path: Path) -> None:
    router = Router(tmp_path)
    with running_pool(tmp_path, router, arguments=['{"broker": 1}']) as pool:
        assert pool.wait() == 2
        assert "expected the fields of SupervisorConfig" in pool.log.read_text()
