"""Commands that run a pool or parts of one: broker, worker, up."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zmqcarla.cli_options import (
    OUT,
    Address,
    LogFormat,
    Simulator,
    check_startable,
    checked_map,
    options_checked,
    simulator_of,
)
from zmqcarla.config_cli import check_worker, read_settings
from zmqcarla.keys_cli import Insecure, Keys

if TYPE_CHECKING:
    from zmqcarla.pool_settings import PoolSettings


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    for command in (broker, worker, up):
        app.command()(command)


def broker(
    address: Address = None,
    keys: Keys = None,
    insecure: Insecure = False,
    log_format: Annotated[LogFormat, typer.Option(help="of the log")] = LogFormat.TEXT,
) -> None:
    """Run the ROUTER between clients and workers; one a pool."""
    from zmqcarla.broker.protocol import default_address, log_to_stderr
    from zmqcarla.broker.router import serve

    log_to_stderr(log_format.value)
    serve(address or default_address())


def worker(
    gpu: Annotated[int | None, typer.Option(help="GPU for the CARLA server, as nvidia-smi counts")] = None,
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
    log_format: Annotated[LogFormat, typer.Option(help="of the log")] = LogFormat.TEXT,
) -> None:
    """Run one worker: a CARLA server and the env that drives it, restarted when they die."""
    from zmqcarla.broker.protocol import EXIT_DRAINED, default_address, log_to_stderr
    from zmqcarla.pool import new_log_directory
    from zmqcarla.watch.gpus import adapters_of
    from zmqcarla.workers.supervisor import run
    from zmqcarla.workers.worker_config import SupervisorConfig, WorkerConfig

    log_to_stderr(log_format.value)
    chosen = simulator_of(simulator, carla_root, connect)
    with options_checked():
        if connect is None:
            check_startable(chosen, carla_root, port, 1)
        config = WorkerConfig(
            worker_id=f"{os.uname().nodename}-{os.getpid()}-0",
            gpu=gpu,
            adapter=adapters_of([gpu]).get(gpu) if gpu is not None and chosen == "carla" else None,
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
    code = run(SupervisorConfig(broker=where, workers=(config,), log_directory=logs))
    raise typer.Exit(0 if code == EXIT_DRAINED else code)


def up(
    config: Annotated[
        Path | None, typer.Option(help="TOML file, see `zmqcarla config init`; options count more")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="how many workers; default: 4", min=1)] = None,
    gpus: Annotated[
        str | None,
        typer.Option(help="GPU numbers, e.g. 0,0,1,1; worker i takes the i-th, round robin; `auto`: by free memory"),
    ] = None,
    base_port: Annotated[
        int | None, typer.Option(help="RPC port of worker 0; each takes 4 ports; default: 2000")
    ] = None,
    simulator: Annotated[Simulator | None, typer.Option(help="default: carla with a root, else embedded")] = None,
    carla_root: Annotated[str | None, typer.Option(envvar="CARLA_ROOT", help="folder with CarlaUE4.sh")] = None,
    map: Annotated[str | None, typer.Option(help="OpenDRIVE file for the embedded simulator")] = None,
    env: Annotated[
        list[str] | None, typer.Option(help="allowed env ids and reward functions (fnmatch); repeatable")
    ] = None,
    step_timeout: Annotated[
        float | None, typer.Option(help="seconds after which a hanging step is cut; default: 60")
    ] = None,
    metrics: Annotated[
        int | None, typer.Option(help="serve metrics for Prometheus at http://127.0.0.1:PORT/metrics", metavar="PORT")
    ] = None,
    log_format: Annotated[LogFormat | None, typer.Option(help="of the logs of broker and supervisor")] = None,
    address: Address = None,
    keys: Keys = None,
    insecure: Insecure = False,
) -> None:
    """Run a whole host: the broker and its workers, supervised together."""
    from zmqcarla.broker.errors import AddressInUseError
    from zmqcarla.broker.protocol import default_address, is_served
    from zmqcarla.pool import PoolConfig, new_log_directory, run_pool
    from zmqcarla.pool_settings import PoolSettings
    from zmqcarla.watch.metrics import serving_metrics
    from zmqcarla.watch.start import Progress

    told = read_settings(config)
    pool_options = {
        "workers": workers,
        "gpus": gpus,
        "base_port": base_port,
        "metrics_port": metrics,
        "log_format": None if log_format is None else log_format.value,
        "address": address,
    }
    settings = PoolSettings(**told["pool"] | _given(pool_options))
    worker_options = {
        "simulator": None if simulator is None else simulator.value,
        "carla_root": carla_root,
        "map": map,
        "env_patterns": tuple(env) if env else None,
        "step_timeout_s": step_timeout,
    }
    worker = told["worker"] | _given(worker_options)
    worker.setdefault("simulator", "carla" if worker.get("carla_root") else "embedded")
    worker["map"] = checked_map(worker.get("map"))
    where = settings.address or default_address()
    if is_served(where):
        raise AddressInUseError(f"a pool already runs at {where}: see `zmqcarla status`, or pass another --address")
    with options_checked():
        check_worker(worker)
        check_startable(worker["simulator"], worker.get("carla_root"), settings.base_port, settings.workers)
    pool = PoolConfig(
        address=where,
        workers=settings.workers,
        gpus=_gpu_numbers(settings),
        base_port=settings.base_port,
        start_interval_s=settings.start_interval(worker["simulator"]),
        log_format=settings.log_format,
        log_max_bytes=settings.log_max_bytes,
        logs_kept=settings.logs_kept,
        worker=worker,
        log_directory=str(new_log_directory()),
    )
    OUT.print(
        f"{pool.workers} workers with simulator {worker['simulator']} at {where}\nlogs in {pool.log_directory}\n"
        "look with `zmqcarla status`, stop with Ctrl-C",
        soft_wrap=True,
    )
    with contextlib.ExitStack() as stack:
        if settings.metrics_port is not None:
            port = stack.enter_context(serving_metrics(where, settings.metrics_port))
            OUT.print(f"metrics at http://127.0.0.1:{port}/metrics", soft_wrap=True)
        stack.enter_context(Progress(where, pool.workers, OUT))
        code = run_pool(pool)
    raise typer.Exit(code)


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _gpu_numbers(settings: PoolSettings) -> tuple[int, ...]:
    from zmqcarla.pool_settings import AUTO
    from zmqcarla.watch.gpus import read_gpus, read_vulkan_adapters

    if settings.gpus != AUTO:
        return settings.gpu_numbers((), None)
    numbers = settings.gpu_numbers(read_gpus(), read_vulkan_adapters())
    text = f"GPUs by free memory: {', '.join(map(str, numbers))}" if numbers else "no GPU by NVML: workers get none"
    OUT.print(text, soft_wrap=True)
    return numbers
