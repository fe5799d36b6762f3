"""One thread with one worker of the pool: it takes routes from the queue, drives them, and keeps what came of it.

A lost worker is not the agent's fault: its route goes back into the queue and is driven again, a few times at most; a
route that loses its worker each time is given up, recorded as a crashed simulation. A driver that raises fails its
route, and the next one is driven.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from zmqcarla.broker.errors import (
    BrokerUnavailableError,
    InvalidActionError,
    LeaseError,
    RemoteEnvError,
    SimulatorStartError,
    ZmqCarlaError,
)
from zmqcarla.evaluate.drive import Drive, Driver, DriverError, drive_route
from zmqcarla.evaluate.pools import Pool
from zmqcarla.evaluate.process_driver import OtherSensorsError
from zmqcarla.evaluate.progress import Progress
from zmqcarla.evaluate.results import Record, ResultFolder, failed_record, record_of
from zmqcarla.evaluate.souvenirs import draw, judged
from zmqcarla.evaluate.work_queue import Job, WorkQueue
from zmqcarla.make import make_vec_env
from zmqcarla.vector_env import VectorEnv

_FRUITLESS: Final = 3
"""How often in a row a crew may get no worker before it ends."""
_NOT_INSTALLED: Final = ".CheckoutError"
"""How the error of an env ends that lacks the user's checkouts or what they import."""
_POOL_ERRORS: Final = (LeaseError, BrokerUnavailableError)


@dataclass(frozen=True, slots=True)
class Work:
    """What all crews share.

    Attributes:
        pool: where they drive.
        env_id: which env.
        env_kwargs: settings of the env by town, among them the route file.
        new_driver: makes what drives one route.
        seed: of the first route; route i gets seed + i.
        total: how many routes the evaluation has.
        queue: the routes that are left.
        folder: where results go.
        progress: who is told.
        lease_timeout_s: how long to wait for a free worker.
    """

    pool: Pool
    env_id: str
    env_kwargs: Callable[[str], dict[str, Any]]
    new_driver: Callable[[], Driver]
    seed: int
    total: int
    queue: WorkQueue
    folder: ResultFolder
    progress: Progress
    lease_timeout_s: float


class Crew:
    """A thread, and an env in one town at a time.

    Attributes:
        error: that ended it, None for none.
    """

    def __init__(self, work: Work, writing: threading.Lock) -> None:
        self.error: BaseException | None = None
        self._work = work
        self._writing = writing
        self._stopped = threading.Event()
        self._env: VectorEnv | None = None
        self._address = ""
        self._town: str | None = None
        self._settings: dict[str, Any] = {}
        self._wanted: dict[str, Any] = {}
        self._lanes: list[NDArray[np.float64]] = []
        self._fruitless = 0
        self._now: tuple[Job, Drive, float] | None = None
        self._claiming = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="evaluate", daemon=True)
        self._thread.start()

    @property
    def runs(self) -> bool:
        """Whether it still works."""
        return self._thread.is_alive() and not self._stopped.is_set()

    def stop(self) -> None:
        """Have it end after the present step."""
        self._stopped.set()

    def join(self, timeout_s: float) -> None:
        """Wait for its end."""
        self._thread.join(timeout_s)

    def notice_pool(self) -> None:
        """End the waits for a pool that has died."""
        env, address = self._env, self._address
        if env is not None and self._work.pool.has_died(address):
            env.pool_died()

    def give_up_driver(self, limit_s: float) -> bool:
        """Fail the route and leave this thread behind when the driver has not answered for so long."""
        now = self._now
        if now is None or now[1].asked_at is None or time.monotonic() - now[1].asked_at < limit_s:
            return False
        job, _, started = now
        if not self._claim(job):
            return False
        self.stop()
        self._work.progress.say(f"route {job.route_id}: the agent has not answered for {limit_s:g} s", "red")
        self._keep(job, self._failed(job, "Agent crashed", started))
        self._work.queue.finish()
        self._leave()
        return True

    def _run(self) -> None:
        try:
            while not self._stopped.is_set() and (job := self._work.queue.take(self._town)) is not None:
                self._do(job)
        except BaseException as error:  # told by the thread that waits for the crews
            self.error = error
        finally:
            self._leave()

    def _do(self, job: Job) -> None:
        started, drive = time.monotonic(), Drive()
        try:
            self._enter(job.town)
        except ValueError as error:
            self._say(job, error)
            self._keep(job, self._failed(job, "Route couldn't be set up", started))
            self._work.queue.finish()
            return
        except ZmqCarlaError as error:
            self._work.queue.put_back(job)
            self._go_without(error)
            return
        self._fruitless = 0
        self._now = job, drive, started
        self._work.progress.begin(job, drive)
        record = self._driven(job, drive, started)
        if record is not None and self._claim(job):
            if drive.summary:
                self._keep_drive(job, drive, record)
            else:
                self._keep(job, record)
            self._work.queue.finish()

    def _claim(self, job: Job) -> bool:
        """Whether what becomes of the present route is the caller's to say; true for the first one only."""
        with self._claiming:
            now, self._now = self._now, None
        self._work.progress.end(job)
        return now is not None

    def _driven(self, job: Job, drive: Drive, started: float) -> Record | None:
        """Drive; the record, or None when told to stop or when the worker was lost."""
        work = self._work
        try:
            self._drive(job, drive)
            if not drive.summary:  # told to stop
                return None
            return record_of(drive.summary, job.index, job.route_id, time.monotonic() - started)
        except DriverError as error:
            self._say(job, error)
            return self._failed(job, error.status, started)
        except InvalidActionError as error:
            self._say(job, error)
            return self._failed(job, "Agent crashed", started)
        except (ValueError, RemoteEnvError) as error:
            if isinstance(error, RemoteEnvError) and error.remote_type.endswith(_NOT_INSTALLED):
                self._claim(job)
                work.queue.put_back(job)
                raise  # no route can be driven, so none is to blame
            self._say(job, error)
            return self._failed(job, "Simulation crashed" if drive.states else "Route couldn't be set up", started)
        except _POOL_ERRORS as error:
            if self._claim(job):
                work.queue.put_back(job)
                self._go_without(error)
            return None
        except ZmqCarlaError as error:
            self._lost(job, _first_line(error), started)
            return None

    def _drive(self, job: Job, drive: Drive) -> None:
        """Drive; once more where the driver wants other sensors than the env has."""
        work = self._work
        for last in (False, True):
            self._enter(job.town)
            assert self._env is not None
            try:
                seed = work.seed + job.index
                return drive_route(self._env, seed, job.route_id, work.new_driver, drive, self._stopped.is_set)
            except OtherSensorsError as other:
                if last:
                    raise
                self._wanted = {"sensors": other.wanted}

    def _lost(self, job: Job, reason: str, started: float) -> None:
        """Have the route tried again, or give it up when it was tried often enough."""
        self._leave()
        if self._stopped.is_set() or not self._claim(job):
            return
        self._work.progress.lose(job, reason)
        given_up = self._work.queue.lose(job, reason)
        if given_up is not None:
            record = self._failed(job, "Simulation crashed", started)
            self._keep(job, {**record, "losses": list(given_up.losses)})
            self._work.queue.finish()

    def _go_without(self, error: ZmqCarlaError) -> None:
        """No worker could be had; the next time perhaps.

        Raises:
            ZmqCarlaError: the same, when that was so several times in a row.
        """
        self._leave()
        self._fruitless += 1
        if self._fruitless >= _FRUITLESS or isinstance(error, SimulatorStartError):
            raise error
        self._work.progress.say(f"no worker: {_first_line(error)}", "yellow")

    def _say(self, job: Job, error: Exception) -> None:
        text = str(error) if isinstance(error, DriverError) else _first_line(error)
        self._work.progress.say(f"route {job.route_id}: {text}", "red")

    def _failed(self, job: Job, message: str, started: float) -> Record:
        return failed_record(job.index, job.route_id, job.town, message, time.monotonic() - started)

    def _enter(self, town: str) -> None:
        """Have an env in that town, with the settings of now."""
        work = self._work
        settings = {**work.env_kwargs(town), **self._wanted}
        if self._env is not None and self._town == town and self._settings == settings:
            return
        self._leave()
        self._address = work.pool.address()
        self._env = make_vec_env(
            1,
            work.env_id,
            settings,
            self._address,
            autoreset_mode="Disabled",
            lease_timeout_s=work.lease_timeout_s,
        )
        self._town, self._settings = town, settings

    def _leave(self) -> None:
        env, self._env = self._env, None
        self._lanes = []
        if env is not None:
            with suppress(ZmqCarlaError):
                env.close()

    def _keep(self, job: Job, record: Record) -> None:
        work = self._work
        with self._writing:
            whole = {"scenario_type": job.scenario, "losses": list(job.losses), **record}
            work.folder.add(whole, job.route_id, work.total)
        work.progress.finish(job, record)

    def _keep_drive(self, job: Job, drive: Drive, record: Record) -> None:
        """Write the record, and then the pictures, without which it is still worth something."""
        work, env = self._work, self._env
        assert env is not None
        try:
            record = judged(env, job, drive, record, work.folder)
        except ZmqCarlaError as error:
            work.progress.say(f"route {job.route_id}: no figures, {_first_line(error)}", "yellow")
        self._keep(job, record)
        try:
            self._lanes = self._lanes or env.call("lane_lines")[0]
            draw(env, self._lanes, job, drive, record, work.folder)
        except ZmqCarlaError as error:
            work.progress.say(f"route {job.route_id}: no picture, {_first_line(error)}", "yellow")
            self._leave()


def _first_line(error: Exception) -> str:
    """What is wrong; of an error in a worker the rest is its traceback."""
    return str(error).partition("\n")[0]
