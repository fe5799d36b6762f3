"""Which workers a supervisor looks after, kept in a file so that one that is started again goes on with the same.

A pool that was scaled or is being drained stays so when its supervisor dies.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from zmqcarla.workers.worker_config import WorkerConfig, worker_of_fields

_PORTS_A_WORKER: Final = 4


@dataclasses.dataclass(frozen=True, slots=True)
class Roster:
    """What the file says.

    Attributes:
        pid: of the supervisor that wrote it.
        workers: its workers.
        retiring: ids of those that stop when their lease ends.
    """

    pid: int
    workers: tuple[WorkerConfig, ...]
    retiring: frozenset[str]


def read_roster(path: Path) -> Roster | None:
    """The roster of a predecessor; None when there is none.

    Raises:
        ValueError: the file holds something else.
    """
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    try:
        workers = tuple([worker_of_fields(worker) for worker in fields["workers"]])
        return Roster(int(fields["pid"]), workers, frozenset(fields["retiring"]))
    except (TypeError, KeyError) as error:
        raise ValueError(f"{path}: expected the roster of a supervisor, found something else: {error}") from None


def write_roster(path: Path, roster: Roster) -> None:
    """Replace the file at once, so that nobody reads half of it."""
    fields = {
        "pid": roster.pid,
        "workers": [dataclasses.asdict(worker) for worker in roster.workers],
        "retiring": sorted(roster.retiring),
    }
    new = path.with_name(f".{path.name}.{os.getpid()}")
    new.write_text(json.dumps(fields), encoding="utf-8")
    new.replace(path)


def next_worker(workers: Sequence[WorkerConfig]) -> WorkerConfig:
    """One more of the same kind: the next number, the next port block, the GPU that the fewest use.

    Args:
        workers: those that are there, also retiring ones; at least one.
    """
    last = workers[-1]
    numbered = [re.fullmatch(r"(.*)-(\d+)", worker.worker_id) for worker in workers]
    stem = last.worker_id if numbered[-1] is None else numbered[-1][1]
    number = 1 + max((int(match[2]) for match in numbered if match is not None and match[1] == stem), default=0)
    ports = [worker.port for worker in workers if worker.port is not None]
    gpus = Counter([worker.gpu for worker in workers])
    gpu = min(gpus, key=lambda each: gpus[each])
    return dataclasses.replace(
        last,
        worker_id=f"{stem}-{number}",
        port=None if last.port is None else max(ports) + _PORTS_A_WORKER,
        gpu=gpu,
        adapter=next(worker.adapter for worker in workers if worker.gpu == gpu),
        start_delay_s=0.0,
    )
