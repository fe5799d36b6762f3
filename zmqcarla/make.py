"""How a training loop gets its envs: from an address, from the user's running pool, or from a private one."""

from __future__ import annotations

import contextlib
import inspect
import os
import time
import warnings
from collections.abc import Callable, Generator, Sequence
from typing import Any

from gymnasium.vector import AutoresetMode
from rich.console import Console

from zmqcarla.broker.errors import EmbeddedSimulatorWarning, LeaseTimeoutError
from zmqcarla.broker.protocol import Queued, default_address, is_served
from zmqcarla.lease import Lease
from zmqcarla.pool import LocalPool
from zmqcarla.remote_env import RemoteEnv
from zmqcarla.rows import Transport
from zmqcarla.shm.arena import DEFAULT_SLOTS
from zmqcarla.vector_env import DEFAULT_TIMEOUT_S, VectorEnv


def make_vec_env(
    n: int = 16,
    env: str = "zmqcarla/Carla-v0",
    env_kwargs: dict[str, Any] | Sequence[dict[str, Any]] | None = None,
    address: str | None = None,
    *,
    autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
    transport: Transport = "auto",
    simulator: str | None = None,
    gpu: int | None = None,
    pool_options: dict[str, Any] | None = None,
    lease_timeout_s: float = 180.0,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    slots: int = DEFAULT_SLOTS,
) -> VectorEnv:
    """N environments over the bus as one vector env.

    The pool is the one at `address`, else at ZMQCARLA_ADDRESS, else the running pool of this user (`zmqcarla up`),
    else a private pool of n workers that is started now and taken down at `close()`, at exit, or when this process
    dies.

    Args:
        n: how many rows.
        env: Gymnasium id; the workers must allow it.
        env_kwargs: for `gymnasium.make` in each worker; a sequence gives each row its own.
        address: of a broker.
        autoreset_mode: NEXT_STEP, SAME_STEP or DISABLED, as for gymnasium's AsyncVectorEnv.
        transport: "shm" steps through shared memory alone, "zmq" over the bus, "auto" the first where a worker can.
        simulator: "embedded" or "carla": only workers with that one; None for any. A private pool runs the CARLA
            of CARLA_ROOT when that is set, else the embedded simulator with an EmbeddedSimulatorWarning; "carla"
            forbids the latter.
        gpu: only workers on that GPU.
        pool_options: fields of `zmqcarla.pool.PoolConfig` for a private pool.
        lease_timeout_s: how long to wait for n free workers.
        timeout_s: for each later command.
        slots: batches that may be held at the same time before a batch is copied.

    Raises:
        BrokerUnavailableError: nobody answers at the address.
        LeaseTimeoutError: fewer than n free workers within `lease_timeout_s`.
        LeaseRefusedError: the workers do not allow this env.
    """
    pool, address = (None, address) if address else _find_or_start_pool(n, simulator, dict(pool_options or {}))
    close_pool = _nothing if pool is None else pool.close
    try:
        with _progress(n) as on_wait:
            lease = Lease.acquire(
                address, n, env, timeout_s=lease_timeout_s, simulator=simulator, gpu=gpu, on_wait=on_wait
            )
    except LeaseTimeoutError as error:
        if pool is None:
            raise
        close_pool()
        raise LeaseTimeoutError(f"{error} (logs of the private pool: {pool.log_directory})", error.timeout_s) from None
    except BaseException:
        close_pool()
        raise
    return VectorEnv(
        lease,
        env,
        env_kwargs,
        autoreset_mode=autoreset_mode,
        transport=transport,
        slots=slots,
        timeout_s=timeout_s,
        on_close=close_pool,
    )


def make_env(env: str = "zmqcarla/Carla-v0", env_kwargs: dict[str, Any] | None = None, **options: Any) -> RemoteEnv:
    """One environment of a pool as a `gymnasium.Env`; options as for `make_vec_env`."""
    return RemoteEnv(make_vec_env(1, env, env_kwargs, **options))


def make_registered(num_envs: int = 1, **kwargs: Any) -> VectorEnv:
    """What `gymnasium.make_vec("zmqcarla/Carla-v0", num_envs)` calls.

    Args:
        num_envs: how many rows.
        kwargs: options of `make_vec_env` by their names; every other keyword is the env's.
    """
    return _make_registered("zmqcarla/Carla-v0", num_envs, kwargs)


def make_registered_leaderboard(num_envs: int = 1, **kwargs: Any) -> VectorEnv:
    """The same for "zmqcarla/Leaderboard-v0"."""
    return _make_registered("zmqcarla/Leaderboard-v0", num_envs, kwargs)


def _make_registered(env_id: str, num_envs: int, kwargs: dict[str, Any]) -> VectorEnv:
    options = {name: kwargs.pop(name) for name in _OPTIONS & kwargs.keys()}
    return make_vec_env(num_envs, env_id, options.pop("env_kwargs", kwargs), **options)


_OPTIONS = inspect.signature(make_vec_env).parameters.keys() - {"n", "env"}


def _nothing() -> None:
    """What closing costs when the pool is not ours."""


def _find_or_start_pool(n: int, simulator: str | None, options: dict[str, Any]) -> tuple[LocalPool | None, str]:
    address = default_address()
    if "ZMQCARLA_ADDRESS" in os.environ or is_served(address):
        return None, address
    options.setdefault("carla_root", os.environ.get("CARLA_ROOT"))
    if simulator is not None:
        options["simulator"] = simulator
    elif "simulator" not in options:
        options["simulator"] = "carla" if options["carla_root"] else "embedded"
        if options["simulator"] == "embedded":
            warnings.warn(
                "no running pool and no CARLA_ROOT: a private pool drives the embedded simulator, which is not "
                'CarlaUE4; pass simulator="embedded" to say that this is meant, or simulator="carla" to forbid it',
                EmbeddedSimulatorWarning,
                stacklevel=3,
            )
    pool = LocalPool(n, **options)
    return pool, pool.address


@contextlib.contextmanager
def _progress(n: int) -> Generator[Callable[[Queued], None]]:
    """Say on a terminal what the wait is for."""
    console = Console(stderr=True)
    started_at = time.monotonic()
    with console.status(f"waiting for {n} workers") as status:

        def on_wait(queued: Queued) -> None:
            status.update(
                f"waiting for {n} workers: {queued.suitable_free} free of {queued.suitable_total}, "
                f"{queued.position} requests ahead, {time.monotonic() - started_at:.0f} s"
            )

        yield on_wait
