"""What is kept of a drive beside its record: every tick of the ego, a picture of the way, and a contact sheet."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zmqcarla.evaluate.comfort import smoothness
from zmqcarla.evaluate.drive import Drive
from zmqcarla.evaluate.results import Record, ResultFolder
from zmqcarla.evaluate.ticks import SPEED, metric_info
from zmqcarla.evaluate.work_queue import Job
from zmqcarla.vector_env import VectorEnv

_MOMENTS = 8
_drawing = threading.Lock()
"""matplotlib is not safe in threads."""


def judged(env: VectorEnv, job: Job, drive: Drive, record: Record, folder: ResultFolder) -> Record:
    """Write the ticks down; return the record with what Bench2Drive's figures need beside it.

    Args:
        env: whose episode has just ended.
        job: what was driven.
        drive: how.
        record: of it.
        folder: of the evaluation.
    """
    info = metric_info(drive.states)
    name = folder.add_ticks(job.index, job.route_id, info)
    return {
        **record,
        "save_name": name,
        "scenario_type": job.scenario,
        "smoothness": smoothness(info),
        "first_junction_percent": _first_junction_percent(env),
    }


def _first_junction_percent(env: VectorEnv) -> float | None:
    """Percent of the route at which its first junction is passed, as Bench2Drive's tool has it; None without one.

    It counts points that lie a metre apart, up to the first in a junction and eight more.
    """
    inside = np.flatnonzero(env.call("route_junctions")[0])
    if not len(inside):
        return None
    line = np.asarray(env.call("route_line")[0])
    s_m = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
    return float(100.0 * (s_m[inside[0]] + 1.0 + 8.0) / (s_m[-1] + 1.0))


def draw(
    env: VectorEnv, lanes: list[NDArray[np.float64]], job: Job, drive: Drive, record: Record, folder: ResultFolder
) -> None:
    """Draw the way and the contact sheet; arguments as for `judged`, and the centre lines of the map."""
    from zmqcarla.evaluate.pictures import route_picture  # noqa: PLC0415 - matplotlib is an extra
    from zmqcarla.evaluate.sheet import contact_sheet  # noqa: PLC0415 - likewise

    route = np.asarray(env.call("route_line")[0])
    states = np.array(drive.states)
    scores: dict[str, Any] = record["scores"]
    what = f"{job.scenario}, {job.town}" if job.scenario else job.town
    score = f"{scores['score_composed']:.1f} = {scores['score_route']:.1f} % x {scores['score_penalty']:.3f}"
    title = f"route {job.route_id}, {what}: {record['status']}\n{score}"
    with _drawing:
        path = folder.picture(job.index, job.route_id)
        route_picture(path, title, lanes, route, states[:, [0, 1, SPEED]], record)
        sheet = folder.sheet(job.index, job.route_id)
        contact_sheet(sheet, title, lanes, route, states, drive.shots.spread(_MOMENTS), record["events"])
