"""Commands that drive: demo and evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zmqcarla.cli_options import OUT, Simulator, checked_map, gpu_list, options_checked, simulator_of


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    for command in (demo, evaluate):
        app.command()(command)


def demo(
    workers: Annotated[int, typer.Option(help="how many envs drive", min=1)] = 4,
    steps: Annotated[int, typer.Option(help="vector steps to drive", min=1)] = 1200,
    map: Annotated[str | None, typer.Option(help="OpenDRIVE file; default: the generated town")] = None,
    out: Annotated[Path, typer.Option(help="where the pictures go")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="of the first env")] = 0,
) -> None:
    """Drive N envs with a lane-following driver; summary, contact sheet, driven paths and latencies."""
    from zmqcarla.demo.run import run_demo

    raise typer.Exit(run_demo(workers=workers, steps=steps, map_path=checked_map(map), out=out, seed=seed))


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
    with options_checked():
        chosen = choose_routes(read_routes(routes), only)
        new_agent = load_agent(agent)
        town_maps = {spec.town: _map_of(spec.town, maps) for spec in chosen}
        identity = {"routes": [each.route_id for each in chosen], "agent": agent, "seed": seed, **settings}
        folder = ResultFolder(out, {"file": routes.read_text(encoding="utf-8"), **identity}, resume)
    what = simulator_of(simulator, carla_root, None)
    pool = None
    if address is None:
        first_map = next(iter(town_maps.values()))
        pool = LocalPool(workers, simulator=what, map=first_map, carla_root=carla_root, gpus=gpu_list(gpus))
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
        results = drive(evaluation, folder, OUT)
    finally:
        if pool is not None:
            pool.close()
    OUT.print(results_table(results))
    OUT.print(f"simulator: {what}; results in {out}/results.json, pictures in {out}/routes", soft_wrap=True)
    raise typer.Exit(0 if results["entry_status"] in {"Finished", "Partial"} else 1)


def _map_of(town: str, maps: Path | None) -> str | None:
    """The OpenDRIVE file of a town, None where the server has its own maps."""
    return None if maps is None else checked_map(str(maps / f"{town.removesuffix('_Opt')}.xodr"))
