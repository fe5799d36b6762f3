"""Keys: made, allowed and taken away; and what hostile peers with and without one can do to a pool: nothing."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from conftest import wait_until
from keyed_pools import DEADLINE_S, KeyedPool, Peer, free_port, run_cli
from typer.testing import CliRunner

import zmqcarla
from zmqcarla import cli
from zmqcarla.broker import protocol as p
from zmqcarla.broker.errors import KeyRefusedError, KeysError, LeaseLostError
from zmqcarla.broker.keys import KeyFolder, keys_for
from zmqcarla.lease import ask_status
from zmqcarla.rows import Transport

COUNTER = "client_envs:Counter-v0"
STILL = np.zeros((1, 2), np.float32)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeyedPool]:
    """Two workers behind a broker that asks for keys."""
    with pytest.MonkeyPatch.context() as patch:
        directory = tmp_path_factory.mktemp("keyed")
        patch.setenv(p.KEYS_VARIABLE, str(directory / "keys"))
        pool = KeyedPool(directory, workers=2)
        yield pool
        pool.close()


@pytest.fixture
def ours(pool: KeyedPool, monkeypatch: pytest.MonkeyPatch) -> KeyFolder:
    """The keys that this process uses."""
    monkeypatch.setenv(p.KEYS_VARIABLE, str(pool.keys.path))
    return pool.keys


@pytest.fixture
def eve(pool: KeyedPool, tmp_path: Path) -> Iterator[Peer]:
    """A peer with an allowed key of its own."""
    peer = Peer(pool.address, pool.new_keys(tmp_path / "eve", "eve"))
    yield peer
    peer.close()
    pool.keys.revoke("eve")


def _vec(pool: KeyedPool, transport: Transport = "auto", n: int = 1) -> zmqcarla.VectorEnv:
    vec = zmqcarla.make_vec_env(n, COUNTER, None, pool.address, transport=transport)
    vec.reset()
    return vec


def _cli(*arguments: str) -> Any:
    """A command in this process, which keeps its environment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(p.KEYS_VARIABLE, "to be replaced")
        return CliRunner().invoke(cli.app, arguments)


# --- files ---


def test_keygen_makes_closed_files_and_keeps_what_is_there(tmp_path: Path) -> None:
    made = _cli("keygen", "--keys", str(tmp_path / "keys"))
    assert made.exit_code == 0, made.output
    folder = KeyFolder(tmp_path / "keys")
    assert folder.path.stat().st_mode & 0o777 == 0o700
    files = {path.name: path.read_text() for path in folder.path.iterdir()}
    assert set(files) == {"client.secret", "broker.secret", "broker.public", "allowed"}
    assert {path.stat().st_mode & 0o777 for path in folder.path.iterdir()} == {0o600}
    assert list(folder.allowed()) == [folder.client_key]
    for secret in (files["client.secret"], files["broker.secret"]):
        assert secret.strip() not in made.stdout
    again = _cli("keygen", "--keys", str(folder.path))
    assert again.stdout == made.stdout
    assert {path.name: path.read_text() for path in folder.path.iterdir()} == files


def test_the_keys_of_another_host_in_two_commands(tmp_path: Path) -> None:
    here, there = KeyFolder(tmp_path / "here"), KeyFolder(tmp_path / "there")
    here.make(None)
    made = _cli("keygen", "--broker", here.broker_key, "--keys", str(there.path))
    assert made.exit_code == 0, made.output
    assert there.broker_key == here.broker_key
    assert not there.serves
    assert f"zmqcarla authorize {there.client_key} NAME" in made.stdout
    assert _cli("authorize", there.client_key, "gpu2", "--keys", str(here.path)).exit_code == 0
    assert here.allowed()[there.client_key] == "gpu2"
    assert _cli("revoke", "gpu2", "--keys", str(here.path)).exit_code == 0
    assert there.client_key not in here.allowed()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["authorize", "nonsense", "bob"], "expected a key of 64 hex digits"),
        (["authorize", "ab" * 32, "a b"], "expected a name"),
        (["revoke", "nobody"], "found 'nobody'"),
        (["keygen", "--broker", "12"], "expected a key of 64 hex digits"),
    ],
)
def test_what_is_no_key_is_said(tmp_path: Path, arguments: list[str], text: str) -> None:
    KeyFolder(tmp_path / "keys").make(None)
    done = _cli(*arguments, "--keys", str(tmp_path / "keys"))
    assert isinstance(done.exception, KeysError)
    assert text in str(done.exception)


def test_a_name_belongs_to_one_key(tmp_path: Path) -> None:
    folder = KeyFolder(tmp_path / "keys")
    folder.make(None)
    folder.authorize("ab" * 32, "bob")
    with pytest.raises(KeysError, match="which another key has"):
        folder.authorize("cd" * 32, "bob")
    folder.authorize("ab" * 32, "robert")
    assert folder.allowed()["ab" * 32] == "robert"


def test_keys_that_lie_open_are_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = KeyFolder(tmp_path / "keys")
    folder.make(None)
    (folder.path / "client.secret").chmod(0o640)
    monkeypatch.setenv(p.KEYS_VARIABLE, str(folder.path))
    with pytest.raises(KeysError, match=r"closed to others .* mode 640"):
        ask_status("tcp://127.0.0.1:1")


@pytest.mark.parametrize(
    ("address", "variables", "wanted"),
    [
        ("ipc:///tmp/x.sock", {p.KEYS_VARIABLE: "/k"}, False),
        ("tcp://127.0.0.1:5555", {}, False),
        ("tcp://localhost:5555", {}, False),
        ("tcp://[::1]:5555", {}, False),
        ("tcp://127.0.0.1:5555", {p.KEYS_VARIABLE: "/k"}, True),
        ("tcp://127.0.0.1.example.org:5555", {}, True),
        ("tcp://0.0.0.0:5555", {}, True),
        ("tcp://*:5555", {}, True),
        ("tcp://gpu1:5555", {}, True),
        ("tcp://gpu1:5555", {p.INSECURE_VARIABLE: "1"}, False),
    ],
)
def test_where_keys_are_used(
    address: str, variables: dict[str, str], wanted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert (keys_for(address) is not None) == wanted


# --- who may serve ---


@pytest.mark.parametrize("command", [["broker"], ["up", "--simulator", "none"]], ids=["broker", "up"])
def test_beyond_loopback_nothing_is_served_without_keys(tmp_path: Path, command: list[str]) -> None:
    done = run_cli(*command, "--address", f"tcp://0.0.0.0:{free_port()}", "--keys", str(tmp_path / "none"))
    assert done.returncode == 2
    assert "run `zmqcarla keygen` on the broker's host" in done.stderr
    assert "--insecure" in done.stderr


def test_insecure_is_a_word_that_has_to_be_said() -> None:
    address = f"tcp://0.0.0.0:{free_port()}"
    command = [sys.executable, "-m", "zmqcarla.cli", "broker", "--address", address, "--insecure"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as broker:
        assert broker.stderr is not None
        assert "whoever reaches it may use it" in broker.stderr.readline()
        done = run_cli("status", "--address", address, "--insecure", "--json")
        broker.send_signal(signal.SIGTERM)
        broker.wait(DEADLINE_S)
    assert done.returncode == 0, done.stderr
    assert '"workers": []' in done.stdout


def test_a_busy_port_names_its_owner_and_nothing_is_killed(pool: KeyedPool) -> None:
    done = run_cli("broker", "--address", pool.address, "--keys", str(pool.keys.path))
    assert done.returncode == 2
    assert f"pid {pool.processes[0].pid} listens there" in done.stderr
    assert pool.processes[0].is_running()


# --- who may come in ---


def test_a_vector_env_over_tcp_with_keys(pool: KeyedPool, ours: KeyFolder, transport: Transport) -> None:
    vec = _vec(pool, transport, n=2)
    for step in range(1, 4):
        observations, *_, truncated, _ = vec.step(np.zeros((2, 2), np.float32))
        assert observations["vector"][:, 1].tolist() == [step, step]
        assert not truncated.any()
    vec.close()


def test_a_key_that_is_not_listed_is_refused_by_name(
    pool: KeyedPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger = KeyFolder(tmp_path / "stranger")
    stranger.make(pool.keys.broker_key)
    monkeypatch.setenv(p.KEYS_VARIABLE, str(stranger.path))
    with pytest.raises(KeyRefusedError, match=f"zmqcarla authorize {stranger.client_key} NAME"):
        ask_status(pool.address)
    pool.keys.authorize(stranger.client_key, "stranger")
    assert len(ask_status(pool.address)["workers"]) == 2  # the running broker has read the list again
    pool.keys.revoke("stranger")


def test_a_worker_that_was_refused_comes_in_once_its_key_is_listed(
    pool: KeyedPool, ours: KeyFolder, tmp_path: Path
) -> None:
    late = KeyFolder(tmp_path / "late")
    late.make(pool.keys.broker_key)
    host = pool.start_host(tmp_path, late, "late")
    wait_until(lambda: late.client_key in pool.log.read_text(), "the refusal")
    assert "late-0" not in pool.states()
    pool.keys.authorize(late.client_key, "late")
    pool.wait_ready(3)
    host.terminate()
    host.wait(DEADLINE_S)
    pool.keys.revoke("late")


def test_a_broker_that_is_not_the_trusted_one_is_told_nothing(
    pool: KeyedPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    misled = KeyFolder(tmp_path / "misled")
    misled.make(None)
    monkeypatch.setenv(p.KEYS_VARIABLE, str(misled.path))
    with pytest.raises(KeyRefusedError, match="not the trusted broker"):
        ask_status(pool.address)


def test_a_client_without_keys_is_told_that_it_needs_some(pool: KeyedPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(p.KEYS_VARIABLE)
    with pytest.raises(KeyRefusedError, match=f"name your keys \\({p.KEYS_VARIABLE}\\)"):
        zmqcarla.make_vec_env(1, COUNTER, None, pool.address)


# --- who has to leave ---


def test_a_revoked_key_loses_lease_connection_and_worker(
    pool: KeyedPool, ours: KeyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another user's lease goes on meanwhile, and the revoked user's row is free again."""
    mine = _vec(pool)
    bob = pool.new_keys(tmp_path / "bob", "bob")
    monkeypatch.setenv(p.KEYS_VARIABLE, str(bob.path))
    his = _vec(pool)
    listener = Peer(pool.address, bob)
    assert isinstance(listener.ask(p.StatusRequest(p.PROTOCOL, b"q")), p.StatusReply)
    host = pool.start_host(tmp_path, bob, "bobs")
    monkeypatch.setenv(p.KEYS_VARIABLE, str(ours.path))
    pool.wait_ready(3)

    assert _cli("revoke", "bob", "--keys", str(ours.path)).exit_code == 0
    with pytest.raises(LeaseLostError, match="was revoked"):
        _step_until_lost(his)
    wait_until(lambda: listener.speaks_in_vain(p.StatusRequest(p.PROTOCOL, b"q")), "the connection to be closed")
    wait_until(lambda: set(pool.states()) == {"host0-0", "host0-1"}, "bob's worker to be gone")
    for step in range(1, 4):
        assert mine.step(STILL)[0]["vector"][:, 1].tolist() == [step]
    listener.close()
    his.close()
    host.terminate()
    host.wait(DEADLINE_S)
    again = _vec(pool)  # on the row that was bob's
    again.close()
    mine.close()


def _step_until_lost(vec: zmqcarla.VectorEnv) -> None:
    """Steps over shared memory need no broker; whether the lease lives is looked at when one is late, or asked for."""

    def lost() -> bool:
        vec.call("steps")
        return False

    wait_until(lost, "the lease to end")


# --- hostile peers ---


def test_ids_of_others_are_of_no_use(pool: KeyedPool, ours: KeyFolder, eve: Peer) -> None:
    """Eve may use the pool, knows every id and speaks the protocol."""
    vec = _vec(pool, "zmq")
    lease_id: bytes = vec._lease._lease_id  # type: ignore[attr-defined]  # pyright: ignore
    (worker,) = vec.statistics()["workers"]
    forged: list[tuple[p.Message, type[p.Message]]] = [
        (p.Command(lease_id, 3, (0,), ("step",)), p.LeaseLost),
        (p.Command(lease_id, 1, (0,), ("open",)), p.LeaseLost),  # replayed: what it answered is not told
        (p.Probe(lease_id), p.LeaseLost),
        (p.Renew(lease_id, COUNTER, 30.0, (worker,), None, None, ()), p.LeaseLost),
        (p.Register(p.PROTOCOL, worker, "host", 1, "none", None, None, ("*",), 30.0), p.Rejected),
        (
            p.Heartbeat((worker,), ("idle",), (0,), (0,), (0,), (0,), (0,), (0.0,), ("",), (0.0,), (0.0,), (0.0,)),
            p.UnknownWorker,
        ),
        (p.Leased(b"r", lease_id, b"b", (worker,)), p.Rejected),
    ]
    for message, answer in forged:
        assert isinstance(eve.ask(message, b"\xc0"), answer), message
    for silent in (
        p.Release(lease_id),
        p.Ready(p.PROTOCOL, worker, 99, 1, b"", -1, 0),
        p.WorkerLost(worker, 99, "a lie", 0, 0, True),
        p.Unregister(worker),
        p.RowReply(lease_id, 0, 3, "ok"),
    ):
        eve.tell(silent, b"\xc0")
    assert isinstance(eve.ask(p.StatusRequest(p.PROTOCOL, b"q")), p.StatusReply)
    for step in range(1, 4):
        assert vec.step(STILL)[0]["vector"][:, 1].tolist() == [step]
    vec.close()


def test_a_seq_that_was_done_is_answered_again_and_not_done_again(pool: KeyedPool, ours: KeyFolder) -> None:
    """The owner's own key: a link that was cut, or a copy of its messages."""
    vec = _vec(pool, "zmq")
    vec.step(STILL)
    lease: object = vec._lease  # pyright: ignore
    lease_id, seq = lease._lease_id, lease._seq  # type: ignore[attr-defined]
    peer = Peer(pool.address, ours)
    again = p.Command(lease_id, seq, (0,), ("step",))
    payload = p.pack([0, STILL[0]])
    for _ in range(3):
        answer = peer.ask(again, payload)
        assert isinstance(answer, p.CommandReply)
        assert answer.seq == seq
    refused = peer.ask(p.Command(lease_id, 1, (0,), ("step",)), payload)
    assert isinstance(refused, p.Rejected)
    assert f"seq above {seq}" in refused.text
    assert vec.step(STILL)[0]["vector"][:, 1].tolist() == [2]
    peer.close()
    vec.close()


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"\xc1",
        b"\x91" * 1000 + b"\x90",
        b"\xdd\xff\xff\xff\xff",
        msgpack.packb(["release", bytes(1000)]),
        bytes(p.MAX_HEADER_BYTES + 1),
    ],
    ids=["empty", "no msgpack", "deep", "a claim of 4 billion", "long id", "large"],
)
def test_a_bad_message_is_answered_and_disturbs_nobody(
    pool: KeyedPool, ours: KeyFolder, eve: Peer, header: bytes
) -> None:
    vec = _vec(pool)
    assert isinstance(eve.ask(header), p.Rejected)
    assert vec.step(STILL)[0]["vector"][:, 1].tolist() == [1]
    vec.close()


def test_a_message_of_too_many_frames_is_refused(pool: KeyedPool, eve: Peer) -> None:
    answer = eve.ask(p.Release(b"x"), *[b""] * p.MAX_FRAMES)
    assert isinstance(answer, p.Rejected)
    assert "frames" in answer.text


def test_a_frame_that_is_too_large_ends_the_connection(pool: KeyedPool, ours: KeyFolder, eve: Peer) -> None:
    vec = _vec(pool)
    eve.tell(p.Release(b"x"), bytes(p.MAX_PAYLOAD_BYTES + 1))
    eve.wait_disconnected()
    assert vec.step(STILL)[0]["vector"][:, 1].tolist() == [1]
    vec.close()


@pytest.mark.parametrize("payload", [b"\xc1", b"", b"\x91" * 1000 + b"\x90", b"\xdd\xff\xff\xff\xff", b"\xc0"])
def test_a_payload_that_no_worker_can_read_is_an_error_of_that_lease(
    pool: KeyedPool, ours: KeyFolder, payload: bytes
) -> None:
    vec = _vec(pool)
    pid = vec.call("pid")
    peer = Peer(pool.address, ours)
    leased = peer.ask(p.LeaseRequest(p.PROTOCOL, b"r", 1, COUNTER, 10.0, 30.0, None, None))
    assert isinstance(leased, p.Leased)
    answer = peer.ask(p.Command(leased.lease_id, 1, (0,), ("open",)), payload)
    assert isinstance(answer, p.CommandReply)
    assert answer.outcomes == ("error",)
    peer.tell(p.Release(leased.lease_id))
    assert vec.step(STILL)[0]["vector"][:, 1].tolist() == [1]
    assert vec.call("pid") == pid
    with contextlib.closing(peer):
        vec.close()
