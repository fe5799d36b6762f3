"""Commands that drive: demo and evaluate."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zmqcarla.cli_options import OUT, Simulator, checked_map, gpu_list, options_checked, simulator_of
from zmqcarla.evaluate.settings import CARLA, LEADERBOARD

if TYPE_CHECKING:
    from zmqcarla.evaluate.work_queue import Job
    from zmqcarla.workers.routes import RouteSpec


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
    agent: Annotated[
        str, typer.Option(help="module:Class, or FILE.py of a Leaderboard agent")
    ] = "zmqcarla.demo.driver:LaneFollowingDriver",
    agent_config: Annotated[str, typer.Option(help="what a Leaderboard agent is set up with")] = "",
    agent_process: Annotated[
        bool, typer.Option("--agent-process", help="FILE.py drives in a process of its own")
    ] = False,
    agent_python: Annotated[
        str | None, typer.Option(help="its interpreter; implies --agent-process; default: this one")
    ] = None,
    env: Annotated[
        str | None,
        typer.Option(
            help="default: zmqcarla/Carla-v0; zmqcarla/Leaderboard-v0 runs your checkouts' scenarios, and is "
            "the default of a FILE.py"
        ),
    ] = None,
    workers: Annotated[int, typer.Option(help="how many drive at the same time", min=1)] = 1,
    out: Annotated[Path, typer.Option(help="where results and pictures go")] = Path("runs/evaluate"),
    resume: Annotated[bool, typer.Option("--resume", help="go on with the routes that are not done")] = False,
    only: Annotated[str, typer.Option(help="ids of routes, such as 0,3-5; default: all")] = "",
    maps: Annotated[
        Path | None, typer.Option(help="folder with the towns as .xodr, for the embedded simulator")
    ] = None,
    towns: Annotated[str, typer.Option(help="only routes in these, such as Town01,Town04; default: all")] = "",
    vehicles: Annotated[int | None, typer.Option(help="other vehicles; default: 0", min=0)] = None,
    walkers: Annotated[int | None, typer.Option(help="pedestrians; default: 0", min=0)] = None,
    parked: Annotated[int | None, typer.Option(help="parked vehicles; default: 0", min=0)] = None,
    blocked_s: Annotated[
        float | None, typer.Option(help="standing this long ends a route; default: 180; Bench2Drive: 60")
    ] = None,
    observation: Annotated[
        str | None, typer.Option(help="what a class sees; state has no camera; default: standard, with FILE.py state")
    ] = None,
    max_steps: Annotated[int, typer.Option(help="steps of 0.05 s after which a route is cut", min=1)] = 100_000,
    seed: Annotated[int, typer.Option(help="of the first route")] = 0,
    retries: Annotated[int, typer.Option(help="new attempts at a route after a lost worker", min=0)] = 2,
    agent_timeout_s: Annotated[float, typer.Option(help="longest time for an agent's set-up and a step")] = 300.0,
    simulator: Annotated[Simulator | None, typer.Option(help="default: carla with a root, else embedded")] = None,
    carla_root: Annotated[str | None, typer.Option(envvar="CARLA_ROOT", help="folder with CarlaUE4.sh")] = None,
    gpus: Annotated[str, typer.Option(help="GPU numbers of a private pool's workers, e.g. 0,0,1,1")] = "",
    address: Annotated[str | None, typer.Option(help="a running pool; default: a private one")] = None,
) -> None:
    """Drive the routes of a file with an agent and score it as the CARLA Leaderboard does."""
    from zmqcarla.evaluate.benchmark import merged
    from zmqcarla.evaluate.drivers import OwnProcess, choose_driver
    from zmqcarla.evaluate.pools import WORKER, PrivatePool, RunningPool, hosting
    from zmqcarla.evaluate.report import write_report
    from zmqcarla.evaluate.results import ResultFolder, write_json
    from zmqcarla.evaluate.run import Evaluation, results_table
    from zmqcarla.evaluate.run import evaluate as drive
    from zmqcarla.evaluate.settings import env_settings, town_settings
    from zmqcarla.pool import LocalPool
    from zmqcarla.workers.routes import choose_routes, read_routes

    with options_checked():
        chosen = _in_towns(choose_routes(read_routes(routes), only), towns)
        own = OwnProcess(agent_python, out / "agent-logs") if agent_process or agent_python else None
        driver = choose_driver(agent, agent_config, agent_timeout_s, own)
        env = env or (LEADERBOARD if agent.endswith(".py") else CARLA)
        if driver.env_id not in ("", env):
            raise ValueError(f"env: expected {driver.env_id} with {agent}, found {env!r}; pass --agent-process")
        if own is not None and observation is not None:
            raise ValueError("observation: expected none with --agent-process, for the agent says what it sees")
        observation = observation or ("state" if agent.endswith(".py") else "standard")
        traffic = {"traffic_vehicles": vehicles, "traffic_walkers": walkers, "parked_vehicles": parked}
        settings = env_settings(env, {**traffic, "blocked_s": blocked_s, "observation": observation})
        settings |= {"max_steps": max_steps, "terminate_on_collision": False, **driver.settings}
        if env == LEADERBOARD and address is None:
            _check_checkouts()
        town_maps = _town_maps({spec.town for spec in chosen}, maps)
        identity = {"env": env, "routes": [each.route_id for each in chosen], "agent": agent, "seed": seed, **settings}
        identity |= {"agent_config": agent_config} if agent_config else {}
        folder = ResultFolder(out, {"file": routes.read_text(encoding="utf-8"), **identity}, resume)
    what = simulator_of(simulator, carla_root, None)
    if maps is not None:
        # Worker processes inherit it: there the towns are found by their names.
        os.environ["ZMQCARLA_MAPS"] = str(maps.resolve())
    options = {"simulator": what, "map": town_maps[chosen[0].town], "carla_root": carla_root, "gpus": gpu_list(gpus)}
    worker = WORKER | (hosting(agent_timeout_s) if driver.env_id else {})
    private = PrivatePool(lambda: LocalPool(workers, worker=worker, **options)) if address is None else None
    try:
        evaluation = Evaluation(
            jobs=[_job(index, spec) for index, spec in enumerate(chosen)],
            new_driver=driver.new_driver,
            env_kwargs=lambda town: {
                "routes": str(routes.resolve()),
                **settings,
                **driver.settings,  # the sensors of an agent's process are known only when it runs
                **town_settings(env, town_maps[town]),
            },
            pool=private or RunningPool(address or ""),
            env_id=env,
            workers=workers,
            seed=seed,
            retries=retries,
            driver_timeout_s=math.inf if own is not None else agent_timeout_s,  # its process is watched more closely
        )
        results = drive(evaluation, folder, OUT)
    finally:
        if private is not None:
            private.close()
    figures = merged(results["_checkpoint"]["records"], len(chosen))
    write_json(out / "figures.json", figures)
    write_report(folder, results, figures, what)
    OUT.print(results_table(results))
    OUT.print(f"simulator: {what}; results in {out}/results.json, report in {out}/report.html", soft_wrap=True)
    raise typer.Exit(0 if results["entry_status"] in {"Finished", "Partial"} else 1)


def _job(index: int, spec: RouteSpec) -> Job:
    from zmqcarla.evaluate.work_queue import Job

    length_m = sum(math.dist(a, b) for a, b in itertools.pairwise(spec.keypoints_m))
    return Job(index, spec.route_id, spec.town, length_m, spec.scenarios[0].kind if spec.scenarios else "")


def _in_towns(chosen: Sequence[RouteSpec], towns: str) -> list[RouteSpec]:
    """The routes in these towns; all of them where none is named."""
    from zmqcarla.workers.routes import same_town

    wanted = [town.strip() for town in towns.split(",") if town.strip()]
    found = [spec for spec in chosen if not wanted or any(same_town(spec.town, town) for town in wanted)]
    if not found:
        there = ", ".join(sorted({spec.town for spec in chosen}))
        raise ValueError(f"towns: expected some of {there}, found {towns!r}")
    return found


def _town_maps(towns: set[str], maps: Path | None) -> dict[str, str | None]:
    """The OpenDRIVE file of each town, None where the server has its own maps."""
    if maps is None:
        return dict.fromkeys(towns)
    files = {town: maps / f"{town.removesuffix('_Opt')}.xodr" for town in sorted(towns)}
    missing = [town for town, file in files.items() if not file.is_file()]
    if missing:
        there = ",".join(town for town in files if town not in missing)
        advice = f"drive the others with --towns {there}" if there else "name another folder"
        raise ValueError(f"maps: expected {', '.join(missing)} as .xodr in {maps}, found no such files; {advice}")
    return {town: checked_map(str(file)) for town, file in files.items()}


def _check_checkouts() -> None:
    """A missing checkout is an error here and not in a worker's log."""
    from zmqcarla.workers.leaderboard.checkout import CheckoutError, Roots

    try:
        Roots.find()
    except CheckoutError as error:
        raise ValueError(str(error)) from None
