"""The command line. Each command fills the config of its room and runs it; only here do all rooms meet.

Errors of ours are printed without a traceback and end with exit code 2; Ctrl-C ends every command cleanly.
"""

from __future__ import annotations

import contextlib
import enum
import json
import logging
import os
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer
from rich.console import Console

from zmqcarla import keys_cli
from zmqcarla.keys_cli import Insecure, Keys

app = typer.Typer(
    name="zmqcarla",
    help="N CARLA servers as one gymnasium.vector.VectorEnv.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
_OUT = Console()
keys_cli.register(app)

Address = Annotated[
    str | None,
    typer.Option(envvar="ZMQCARLA_ADDRESS", help="ipc:///path or tcp://HOST:PORT; default: this user's socket"),
]


class Simulator(str, enum.Enum):
    """What a worker drives."""

    EMBEDDED = "embedded"
    CARLA = "carla"
    NONE = "none"


@app.command()
def broker(address: Address = None, keys: Keys = None, insecure: Insecure = False) -> None:
    """Run the ROUTER between clients and workers; one a pool."""
    from zmqcarla.broker.protocol import default_address
    from zmqcarla.broker.router import serve

    _log_to_stderr()
    serve(address or default_address())


@app.command()
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

    _log_to_stderr()
    chosen = _simulator(simulator, carla_root, connect)
    with _options_checked():
        if connect is None:
            _check_startable(chosen, carla_root, port, 1)
        config = WorkerConfig(
            worker_id=f"{os.uname().nodename}-{os.getpid()}",
            gpu=gpu,
            port=port,
            simulator=chosen,
            map=_checked_map(map),
            carla_root=carla_root,
            connect=connect,
            env_patterns=tuple(env or ("zmqcarla/*",)),
            step_timeout_s=step_timeout,
            faults=tuple(fault or ()),
        )
    logs = str(new_log_directory())
    where = address or default_address()
    _OUT.print(
        f"worker {config.worker_id}: simulator {config.simulator}, broker {where}, logs in {logs}", soft_wrap=True
    )
    raise typer.Exit(run(SupervisorConfig(broker=where, workers=(config,), log_directory=logs)))


@app.command()
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
    with _options_checked():
        _check_startable(_simulator(simulator, carla_root, None), carla_root, base_port, workers)
    config = PoolConfig(
        address=where,
        workers=workers,
        gpus=_gpu_list(gpus),
        base_port=base_port,
        simulator=_simulator(simulator, carla_root, None),
        map=_checked_map(map),
        carla_root=carla_root,
        env_patterns=tuple(env or ("zmqcarla/*",)),
        step_timeout_s=step_timeout,
        log_directory=str(new_log_directory()),
    )
    _OUT.print(
        f"{workers} workers with simulator {config.simulator} at {where}\nlogs in {config.log_directory}; "
        "look with `zmqcarla status`, stop with Ctrl-C",
        soft_wrap=True,
    )
    raise typer.Exit(run_pool(config))


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True}, add_help_option=False)
def sim(context: typer.Context) -> None:
    """Run the embedded simulator, a server that speaks CARLA's protocol (--port, --map, --maps, --fault, --help)."""
    command = [sys.executable, "-m", "zmqcarla.sim", *context.args]
    os.execv(sys.executable, command)


@app.command()
def status(
    address: Address = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the numbers as JSON")] = False,
    keys: Keys = None,
    insecure: Insecure = False,
) -> None:
    """Show the workers, leases and queue of a pool."""
    from zmqcarla.broker.protocol import default_address
    from zmqcarla.lease import ask_status
    from zmqcarla.watch.status import pool_view

    pool = ask_status(address or default_address())
    if as_json:
        print(json.dumps(pool, indent=2))
    else:
        _OUT.print(pool_view(pool, _OUT.width))


@app.command()
def top(
    interval: Annotated[float, typer.Option(help="seconds between two looks", min=0.1)] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="print one frame, after two looks, and end")] = False,
    address: Address = None,
    keys: Keys = None,
    insecure: Insecure = False,
) -> None:
    """Watch a pool live: steps per second, memory, restarts, leases, queue. Ctrl-C ends it."""
    from zmqcarla.broker.protocol import default_address
    from zmqcarla.watch.top import watch

    watch(address or default_address(), _OUT, interval, once=once)


@app.command()
def events(
    last: Annotated[int, typer.Option(help="how many at most", min=1)] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="print them as JSON, with all they say")] = False,
) -> None:
    """Show what became of this user's workers: losses, restarts, servers that did not come up."""
    from zmqcarla.watch.events import read_events, show_events
    from zmqcarla.workers.ledger import aside, ledger_path

    path = ledger_path()
    show_events(read_events([aside(path), path], last), _OUT, as_json=as_json)


@app.command()
def clean() -> None:
    """Remove shared memory and sockets whose owners are dead; nothing that lives is touched."""
    from zmqcarla.broker.address import sweep_sockets
    from zmqcarla.shm.segment import sweep

    removed = sweep() + sweep_sockets()
    for name in removed:
        _OUT.print(f"removed {name}", soft_wrap=True)
    _OUT.print(f"{len(removed)} leftovers removed")


@app.command()
def doctor(
    workers: Annotated[int, typer.Option(help="how many workers are wanted", min=1)] = 4,
    base_port: Annotated[int, typer.Option(help="RPC port of worker 0; each takes 4 ports")] = 2000,
    carla_root: Annotated[str | None, typer.Option(envvar="CARLA_ROOT", help="folder with CarlaUE4.sh")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the findings as JSON")] = False,
) -> None:
    """Check whether N workers will run on this machine; exit code 1 when something will fail."""
    from zmqcarla.broker.address import abandoned_sockets
    from zmqcarla.shm.segment import abandoned
    from zmqcarla.watch.doctor import Wanted, examine
    from zmqcarla.watch.report import show_findings
    from zmqcarla.workers.ports import busy_blocks

    findings = examine(
        Wanted(workers, carla_root, base_port),
        _default_observation_space,
        busy_blocks(base_port, workers),
        abandoned() + abandoned_sockets(),
    )
    raise typer.Exit(show_findings(findings, _OUT, as_json=as_json))


@app.command()
def demo(
    workers: Annotated[int, typer.Option(help="how many envs drive", min=1)] = 4,
    steps: Annotated[int, typer.Option(help="vector steps to drive", min=1)] = 1200,
    map: Annotated[str | None, typer.Option(help="OpenDRIVE file; default: the generated town")] = None,
    out: Annotated[Path, typer.Option(help="where the pictures go")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="of the first env")] = 0,
) -> None:
    """Drive N envs with a lane-following driver; summary, contact sheet, driven paths and latencies."""
    from zmqcarla.demo.run import run_demo

    raise typer.Exit(run_demo(workers=workers, steps=steps, map_path=_checked_map(map), out=out, seed=seed))


@app.command()
def evaluate(
    routes: Annotated[Path, typer.Option(help="Leaderboard route file")],
    agent: Annotated[str, typer.Option(help="module:Class")] = "zmqcarla.demo.driver:LaneFollowingDriver",
    workers: Annotated[int, typer.Option(help="how many drive at the same time", min=1)] = 1,
    out: Annotated[Path, typer.Option(help="where results and pictures go")] = Path("runs/evaluate"),
    resume: Annotated[bool, typer.Option("--resume", help="go on with the routes that are not done")] = False,
    only: Annotated[str, typer.Option(help="ids of routes, such as 0,3-5; default: all")] = "",
    maps: Annotated[
        Path | None, typer.Option(help="folder with the towns as .xodr, for the embedded simulator")
    ] = None,
    vehicles: Annotated[int, typer.Option(help="other vehicles", min=0)] = 0,
    walkers: Annotated[int, typer.Option(help="pedestrians", min=0)] = 0,
    parked: Annotated[int, typer.Option(help="parked vehicles", min=0)] = 0,
    blocked_s: Annotated[float, typer.Option(help="standing this long ends a route; Bench2Drive: 60")] = 180.0,
    max_steps: Annotated[int, typer.Option(help="steps of 0.05 s after which a route is cut", min=1)] = 100_000,
    seed: Annotated[int, typer.Option(help="of the first route")] = 0,
    retries: Annotated[int, typer.Option(help="new attempts at a route after a lost worker", min=0)] = 2,
    simulator: Annotated[Simulator | None, typer.Option(help="default: carla with a root, else embedded")] = None,
    carla_root: Annotated[str | None, typer.Option(envvar="CARLA_ROOT", help="folder with CarlaUE4.sh")] = None,
    gpus: Annotated[str, typer.Option(help="GPU numbers of a private pool's workers, e.g. 0,0,1,1")] = "",
    address: Annotated[str | None, typer.Option(help="a running pool; default: a private one")] = None,
) -> None:
    """Drive the routes of a file with an agent and score it as the CARLA Leaderboard does."""
    from zmqcarla.evaluate.agent import load_agent
    from zmqcarla.evaluate.results import ResultFolder
    from zmqcarla.evaluate.run import Evaluation, results_table
    from zmqcarla.evaluate.run import evaluate as drive
    from zmqcarla.evaluate.work_queue import Job
    from zmqcarla.pool import LocalPool
    from zmqcarla.workers.routes import choose_routes, read_routes

    settings = {
        "traffic_vehicles": vehicles,
        "traffic_walkers": walkers,
        "parked_vehicles": parked,
        "blocked_s": blocked_s,
        "max_steps": max_steps,
        "terminate_on_collision": False,
    }
    with _options_checked():
        chosen = choose_routes(read_routes(routes), only)
        new_agent = load_agent(agent)
        town_maps = {spec.town: _map_of(spec.town, maps) for spec in chosen}
        identity = {"routes": [each.route_id for each in chosen], "agent": agent, "seed": seed, **settings}
        folder = ResultFolder(out, {"file": routes.read_text(encoding="utf-8"), **identity}, resume)
    what = _simulator(simulator, carla_root, None)
    pool = None
    if address is None:
        first_map = next(iter(town_maps.values()))
        pool = LocalPool(workers, simulator=what, map=first_map, carla_root=carla_root, gpus=_gpu_list(gpus))
    try:
        where = address if pool is None else pool.address
        assert where is not None
        evaluation = Evaluation(
            jobs=[Job(index, spec.route_id, spec.town) for index, spec in enumerate(chosen)],
            new_agent=new_agent,
            env_kwargs=lambda town: {"routes": str(routes.resolve()), "map": town_maps[town], **settings},
            address=where,
            workers=workers,
            seed=seed,
            retries=retries,
        )
        results = drive(evaluation, folder, _OUT)
    finally:
        if pool is not None:
            pool.close()
    _OUT.print(results_table(results))
    _OUT.print(f"simulator: {what}; results in {out}/results.json, pictures in {out}/routes", soft_wrap=True)
    raise typer.Exit(0 if results["entry_status"] in {"Finished", "Partial"} else 1)


@app.command()
def version() -> None:
    """Show the versions that matter in a bug report."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as version_of

    from zmqcarla.broker.protocol import PROTOCOL

    _OUT.print(f"zmqcarla {version_of('zmqcarla')} (protocol {PROTOCOL}), Python {sys.version.split()[0]}")
    for package in ("carla", "gymnasium", "numpy", "pyzmq", "msgpack", "posix_ipc", "opencv-python-headless"):
        try:
            _OUT.print(f"{package} {version_of(package)}")
        except PackageNotFoundError:
            _OUT.print(f"{package} is not installed")


def main() -> NoReturn:
    """Entry point of the `zmqcarla` command."""
    from zmqcarla.broker.errors import ZmqCarlaError

    try:
        app()
    except ZmqCarlaError as error:
        print(f"zmqcarla: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(0)


def _log_to_stderr() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s", stream=sys.stderr)


def _simulator(
    chosen: Simulator | None, carla_root: str | None, connect: str | None
) -> Literal["embedded", "carla", "none"]:
    if chosen is not None:
        return chosen.value
    return "carla" if carla_root or connect else "embedded"


def _checked_map(path: str | None) -> str | None:
    """The absolute path of a readable OpenDRIVE file, so that a bad one is an error here and not in a worker's log."""
    if path is None:
        return None
    from zmqcarla.workers.session import read_opendrive

    read_opendrive(path)
    return str(Path(path).resolve())


def _map_of(town: str, maps: Path | None) -> str | None:
    """The OpenDRIVE file of a town, None where the server has its own maps."""
    return None if maps is None else _checked_map(str(maps / f"{town.removesuffix('_Opt')}.xodr"))


@contextlib.contextmanager
def _options_checked() -> Generator[None]:
    """An option that a room refuses is a usage error and not a traceback."""
    try:
        yield
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def _check_startable(simulator: str, carla_root: str | None, first: int | None, workers: int) -> None:
    """A missing CARLA or a busy port is an error here and not in a worker's log."""
    from zmqcarla.workers import ports
    from zmqcarla.workers.servers import carla_script

    if simulator == "carla":
        carla_script(carla_root)
    if first is not None and simulator != "none":
        for index in range(workers):
            ports.claim(first + ports.BLOCK_SIZE * index).release()


def _default_observation_space() -> Any:
    from zmqcarla.workers.config import CarlaEnvConfig
    from zmqcarla.workers.observation import Observer

    return Observer(CarlaEnvConfig(simulator="embedded")).space


def _gpu_list(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise typer.BadParameter(f"expected numbers such as 0,1, found {text!r}") from None


if __name__ == "__main__":
    main()
