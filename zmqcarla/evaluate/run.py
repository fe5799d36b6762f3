"""The evaluation: one thread a worker takes routes from the queue, drives them, and keeps what came of it.

A lost worker is not the agent's fault: its route goes back into the queue and is driven again, a few times at most.
An agent that raises fails its route, and the next one is driven.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from zmqcarla.broker.errors import (
    InvalidActionError,
    RemoteEnvError,
    SimulatorError,
    WorkerError,
    ZmqCarlaError,
)
from zmqcarla.evaluate.drive import Drive, Driver, DriverError, drive_route
from zmqcarla.evaluate.results import Record, ResultFolder, failed_record, is_partial, record_of, results_of
from zmqcarla.evaluate.settings import CARLA
from zmqcarla.evaluate.work_queue import Job, WorkQueue
from zmqcarla.make import make_vec_env
from zmqcarla.vector_env import VectorEnv

_SPEED: Final = 15
"""Place of the speed in `vehicle_state`; x and y are the first two."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What is evaluated.

    Attributes:
        jobs: the routes.
        new_driver: makes what drives one route.
        env_kwargs: settings of the env by town, among them the route file.
        address: of the pool.
        env_id: which env.
        workers: how many of its workers drive.
        seed: of the first route; route i gets seed + i.
        retries: how often a route is driven again after its worker was lost.
    """

    jobs: Sequence[Job]
    new_driver: Callable[[], Driver]
    env_kwargs: Callable[[str], dict[str, Any]]
    address: str
    env_id: str = CARLA
    workers: int = 1
    seed: int = 0
    retries: int = 2


def evaluate(evaluation: Evaluation, folder: ResultFolder, console: Console) -> dict[str, Any]:
    """Drive every route that is not done yet, and return the content of the result file.

    Raises:
        ZmqCarlaError: the pool cannot be reached or gives no workers.
    """
    total = len(evaluation.jobs)
    done = {int(record["index"]) for record in folder.done()}
    left = [job for job in evaluation.jobs if job.index not in done]
    if done:
        console.print(f"{len(done)} of {total} routes are done already")
    queue = WorkQueue(left, evaluation.retries)
    stop, writing = threading.Event(), threading.Lock()
    workers = min(evaluation.workers, len(left))
    with ThreadPoolExecutor(max(workers, 1), "evaluate") as threads:
        crews = [_Crew(evaluation, queue, folder, console, writing, stop) for _ in range(workers)]
        futures = [threads.submit(crew.work) for crew in crews]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            stop.set()
    for future in futures:
        future.result()
    return results_of(folder.done(), total)


class _Crew:
    """One thread with one worker of the pool: an env in one town at a time."""

    def __init__(
        self,
        evaluation: Evaluation,
        queue: WorkQueue,
        folder: ResultFolder,
        console: Console,
        writing: threading.Lock,
        stop: threading.Event,
    ) -> None:
        self._evaluation = evaluation
        self._queue = queue
        self._folder = folder
        self._console = console
        self._writing = writing
        self._stop = stop
        self._env: VectorEnv | None = None
        self._town: str | None = None
        self._lanes: list[NDArray[np.float64]] = []

    def work(self) -> None:
        """Drive until nothing is left."""
        try:
            while not self._stop.is_set():
                job = self._queue.take(self._town)
                if job is None:
                    return
                self._do(job)
        finally:
            self._leave()

    def _do(self, job: Job) -> None:
        started = time.monotonic()
        drive = Drive()
        try:
            self._enter(job.town)
            self._drive(job, drive)
            if not drive.summary:  # told to stop
                return
            record = record_of(drive.summary, job.index, job.route_id, time.monotonic() - started)
        except (DriverError, InvalidActionError) as error:
            self._say(job, error, "red")
            record = self._failed(job, "Agent crashed", started)
        except (ValueError, RemoteEnvError) as error:
            self._say(job, error, "red")
            record = self._failed(job, "Simulation crashed" if drive.states else "Route couldn't be set up", started)
        except (WorkerError, SimulatorError) as error:
            self._say(job, error, "yellow")
            self._leave()
            if self._queue.give_back(job):
                return
            record = self._failed(job, "Simulation crashed", started)
        with self._writing:
            if drive.summary:
                self._draw(job, record, drive)
            self._folder.add(record, job.route_id, len(self._evaluation.jobs))
        score = record["scores"]["score_composed"]
        self._console.print(f"route {job.route_id} in {job.town}: {record['status']}, {score:.1f}")

    def _say(self, job: Job, error: Exception, style: str) -> None:
        # Of an error in a worker the first line says what is wrong; the rest is the worker's traceback.
        text = str(error) if isinstance(error, DriverError) else str(error).partition("\n")[0]
        self._console.print(f"route {job.route_id}: {text}", style=style, markup=False, soft_wrap=True)

    def _failed(self, job: Job, message: str, started: float) -> Record:
        return failed_record(job.index, job.route_id, job.town, message, time.monotonic() - started)

    def _enter(self, town: str) -> None:
        """Have an env in that town."""
        if self._env is not None and self._town == town:
            return
        self._leave()
        what = self._evaluation
        self._env = make_vec_env(1, what.env_id, what.env_kwargs(town), what.address, autoreset_mode="Disabled")
        self._town = town

    def _leave(self) -> None:
        env, self._env = self._env, None
        self._lanes = []
        if env is not None:
            with suppress(ZmqCarlaError):
                env.close()

    def _drive(self, job: Job, drive: Drive) -> None:
        evaluation = self._evaluation
        assert self._env is not None
        seed = evaluation.seed + job.index
        drive_route(self._env, seed, job.route_id, evaluation.new_driver, drive, self._stop.is_set)

    def _draw(self, job: Job, record: Record, drive: Drive) -> None:
        from zmqcarla.evaluate.pictures import route_picture  # noqa: PLC0415 - matplotlib is an extra

        assert self._env is not None
        if not self._lanes:
            self._lanes = self._env.call("lane_lines")[0]
        route = np.asarray(self._env.call("route_line")[0])
        score = f"{record['scores']['score_composed']:.1f} = {record['scores']['score_route']:.1f} % x "
        title = f"route {job.route_id}, {job.town}: {record['status']}\n{score}{record['scores']['score_penalty']:.3f}"
        path = self._folder.picture(job.index, job.route_id)
        route_picture(path, title, self._lanes, route, np.array(drive.states)[:, [0, 1, _SPEED]], record)


def results_table(results: dict[str, Any]) -> Table:
    """Return the routes and their scores for the terminal."""
    records = results["_checkpoint"]["records"]
    score = "partial score" if is_partial(records) else "driving score"
    table = Table("route", "town", "status", score, "route %", "penalty", "infractions", "skipped scenarios")
    for record in records:
        scores = record["scores"]
        counts = {kind: len(messages) for kind, messages in record["infractions"].items() if messages}
        table.add_row(
            record["route_id"].removeprefix("RouteScenario_").removesuffix("_rep0"),
            record["town_name"],
            record["status"],
            f"{scores['score_composed']:.2f}",
            f"{scores['score_route']:.1f}",
            f"{scores['score_penalty']:.3f}",
            "\n".join(f"{count} {kind}" for kind, count in counts.items()) or "-",
            str(len(record["skipped_scenarios"])),
        )
    means = results["_checkpoint"]["global_record"]["scores_mean"]
    table.add_section()
    numbers = (f"{means['score_composed']:.2f}", f"{means['score_route']:.1f}", f"{means['score_penalty']:.3f}")
    table.add_row("mean", "", results["entry_status"], *numbers, "", "")
    return table
