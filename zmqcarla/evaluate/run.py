"""The evaluation: some crews drive the routes of a queue, and what they keep becomes the result file."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from zmqcarla.broker.errors import ZmqCarlaError
from zmqcarla.evaluate.crew import Crew, Work
from zmqcarla.evaluate.drive import Driver
from zmqcarla.evaluate.pools import Pool
from zmqcarla.evaluate.progress import Progress
from zmqcarla.evaluate.results import ResultFolder, has_crashed, is_partial, plain_id, results_of
from zmqcarla.evaluate.settings import CARLA
from zmqcarla.evaluate.work_queue import Job, WorkQueue

_LOOK_EVERY_S: Final = 0.1
_END_TIMEOUT_S: Final = 15.0


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What is evaluated.

    Attributes:
        jobs: the routes.
        new_driver: makes what drives one route.
        env_kwargs: settings of the env by town, among them the route file.
        pool: where.
        env_id: which env.
        workers: how many of its workers drive.
        seed: of the first route; route i gets seed + i.
        retries: how often a route is driven again after its worker was lost.
        driver_timeout_s: a driver that takes longer over one answer fails its route.
        lease_timeout_s: how long a crew waits for a free worker.
    """

    jobs: Sequence[Job]
    new_driver: Callable[[], Driver]
    env_kwargs: Callable[[str], dict[str, Any]]
    pool: Pool
    env_id: str = CARLA
    workers: int = 1
    seed: int = 0
    retries: int = 2
    driver_timeout_s: float = 300.0
    lease_timeout_s: float = 180.0


def evaluate(evaluation: Evaluation, folder: ResultFolder, console: Console) -> dict[str, Any]:
    """Drive every route that is not done yet, and return the content of the result file.

    A route whose simulation crashed in an earlier run counts as not done.

    Raises:
        ZmqCarlaError: no crew could get a worker any more; what is done is kept.
    """
    total = len(evaluation.jobs)
    done = {record["index"]: record["meta"]["duration_system"] for record in folder.done() if not has_crashed(record)}
    left = [job for job in evaluation.jobs if job.index not in done]
    if done:
        console.print(f"{len(done)} of {total} routes are done already")
    crews = min(evaluation.workers, len(left))
    queue = WorkQueue(left, evaluation.retries)
    with Progress(console, evaluation.jobs, done, crews) as progress:
        work = Work(
            pool=evaluation.pool,
            env_id=evaluation.env_id,
            env_kwargs=evaluation.env_kwargs,
            new_driver=evaluation.new_driver,
            seed=evaluation.seed,
            total=total,
            queue=queue,
            folder=folder,
            progress=progress,
            lease_timeout_s=evaluation.lease_timeout_s,
        )
        _watch(work, crews, evaluation.driver_timeout_s)
    return results_of(folder.done(), total)


def _watch(work: Work, count: int, driver_timeout_s: float) -> None:
    """Have so many crews work until nothing is left; one whose driver hangs is left behind and replaced."""
    writing = threading.Lock()
    crews = [Crew(work, writing) for _ in range(count)]
    errors: list[BaseException] = []
    try:
        while crews:
            crews[0].join(_LOOK_EVERY_S)
            work.progress.beat()
            for crew in crews:
                crew.notice_pool()
            stuck = [crew for crew in crews if crew.give_up_driver(driver_timeout_s)]
            ended = [crew for crew in crews if not crew.runs and crew not in stuck]
            errors += [crew.error for crew in ended if crew.error is not None]
            crews = [crew for crew in crews if crew not in ended and crew not in stuck]
            crews += [Crew(work, writing) for _ in stuck]
    finally:
        work.queue.close()
        for crew in crews:
            crew.stop()
        for crew in crews:
            crew.join(_END_TIMEOUT_S)
    for error in errors:
        if work.queue.left or not isinstance(error, ZmqCarlaError):
            raise error


def results_table(results: dict[str, Any]) -> Table:
    """Return the routes and their scores for the terminal."""
    records = results["_checkpoint"]["records"]
    score = "partial score" if is_partial(records) else "driving score"
    table = Table("route", "town", "status", score, "route %", "penalty", "infractions", "skipped scenarios")
    for record in records:
        scores = record["scores"]
        counts = {kind: len(messages) for kind, messages in record["infractions"].items() if messages}
        table.add_row(
            plain_id(record),
            record["town_name"],
            record["status"],
            f"{scores['score_composed']:.2f}",
            f"{scores['score_route']:.1f}",
            f"{scores['score_penalty']:.3f}",
            ", ".join(f"{count} {kind}" for kind, count in counts.items()) or "-",
            str(len(record["skipped_scenarios"])),
        )
    means = results["_checkpoint"]["global_record"]["scores_mean"]
    table.add_section()
    numbers = (f"{means['score_composed']:.2f}", f"{means['score_route']:.1f}", f"{means['score_penalty']:.3f}")
    table.add_row("mean", "", results["entry_status"], *numbers, "", "")
    return table
