"""Commands that run a pool or parts of one: broker, worker, up."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from zmqcarla.cli_options import (
    OUT,
    Address,
    Simulator,
    check_startable,
    checked_map,
    gpu_list,
    log_to_stderr,
    options_checked,
    simulator_of,
)
from zmqcarla.keys_cli import Insecure, Keys


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    for command in (broker, worker, up):
        app.command()(command)


def broker(address: Address = None, keys: Keys = None, insecure: Insecure = False) -> None:
    """Run the ROUTER between clients and workers; one a pool."""
    from zmqcarla.broker.protocol import default_address
    from zmqcarla.broker.router import serve

    log_to_stderr()
    serve(address or default_address())


def worker(
    gpu: Annotated[int | None, typer.Option(help="GPU for the CARLA server")] = None,
    port: Annotated[int | None, typer.Option(help="RPC port; takes PORT to PORT+3. Default: any free block")] = None,
    simulator: Annotated[Simulator | None, typer.Option(help="default: carla with a root, else embedded")] = None,
    carla_root: Annotated[str | None, typer.Option(envvar="CARLA_ROOT", help="folder with CarlaUE4.sh")] = None,
    connect: Annotated[str | None, typer.Option(help="HOST:PORT of a CARLA server that runs already")] = None,
    map: Annotated[str | None, typer.Option(help="OpenDRIVE file for the embedded simulator")] = None,
    env: Annotated[
        list[str] | None, typer.Option(help="allowed env ids and reward functions (fnmatch); repeatable")
    ] = None,
    step_timeout: Annotated[float, typer.Option(help="seconds after which a hanging step is cut")] = 60.0,
    fault: Annotated[list[str] | None, typer.Option(help="of the embedded simulator, see `sim`; repeatable")] = None,
    address: Address = None,
    keys: Keys = None,
    insecure: Insecure = False,
) -> None:
    """Run one worker: a CARLA server and the env that drives it, restarted when they die."""
    from zmqcarla.broker.protocol import default_address
    from zmqcarla.pool import new_log_directory
    from zmqcarla.workers.supervisor import run
    from zmqcarla.workers.worker_config import SupervisorConfig, WorkerConfig

    log_to_stderr()
    chosen = simulator_of(simulator, carla_root, connect)
    with options_checked():
        if connect is None:
            check_startable(chosen, carla_root, port, 1)
        config = WorkerConfig(
            worker_id=f"{os.uname().nodename}-{os.getpid()}",
            gpu=gpu,
            port=port,
            simulator=chosen,
            map=checked_map(map),
            carla_root=carla_root,
            connect=connect,
            env_patterns=tuple(env or ("zmqcarla/*",)),
            step_timeout_s=step_timeout,
            faults=tuple(fault or ()),
        )
    logs = str(new_log_directory())
    where = address or default_address()
    OUT.print(
        f"worker {config.worker_id}: simulator {config.simulator}, broker {where}, logs in {logs}", soft_wrap=True
    )
    raise typer.Exit(run(SupervisorConfig(broker=where, workers=(config,), log_directory=logs)))


def up(
    workers: Annotated[int, typer.Option(help="how many workers", min=1)] = 4,
    gpus: Annotated[str, typer.Option(help="GPU numbers, e.g. 0,0,1,1; worker i takes the i-th, round robin")] = "",
    base_port: Annotated[int, typer.Option(help="RPC port of worker 0; each takes 4 ports")] = 2000,
    simulator: Annotated[Simulator | None, typer.Option(help="default: carla with a root, else embedded")] = None,
    carla_root: Annotated[str | None, typer.Option(envvar="CARLA_ROOT", help="folder with CarlaUE4.sh")] = None,
    map: Annotated[str | None, typer.Option(help="OpenDRIVE file for the embedded simulator")] = None,
    env: Annotated[
        list[str] | None, typer.Option(help="allowed env ids and reward functions (fnmatch); repeatable")
    ] = None,
    step_timeout: Annotated[float, typer.Option(help="seconds after which a hanging step is cut")] = 60.0,
    address: Address = None,
    keys: Keys = None,
    insecure: Insecure = False,
) -> None:
    """Run a whole host: the broker and its workers, supervised together."""
    from zmqcarla.broker.errors import AddressInUseError
    from zmqcarla.broker.protocol import default_address, is_served
    from zmqcarla.pool import PoolConfig, new_log_directory, run_pool

    where = address or default_address()
    if is_served(where):
        raise AddressInUseError(f"a pool already runs at {where}: see `zmqcarla status`, or pass another --address")
    with options_checked():
        check_startable(simulator_of(simulator, carla_root, None), carla_root, base_port, workers)
    config = PoolConfig(
        address=where,
        workers=workers,
        gpus=gpu_list(gpus),
        base_port=base_port,
        simulator=simulator_of(simulator, carla_root, None),
        map=checked_map(map),
        carla_root=carla_root,
        env_patterns=tuple(env or ("zmqcarla/*",)),
        step_timeout_s=step_timeout,
        log_directory=str(new_log_directory()),
    )
    OUT.print(
        f"{workers} workers with simulator {config.simulator} at {where}\nlogs in {config.log_directory}; "
        "look with `zmqcarla status`, stop with Ctrl-C",
        soft_wrap=True,
    )
    raise typer.Exit(run_pool(config))
