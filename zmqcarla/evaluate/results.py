"""The result file, in the form of the CARLA Leaderboard's, and the files of the single routes beside it.

Every file is written beside its place and then renamed, so that a crash leaves a whole one. A route whose scenarios
could not take place is `partial`: then the sums are not called a driving score.
"""

from __future__ import annotations

import json
import os
import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from zmqcarla.evaluate.ticks import FILE_NAME

_SCORES: Final = ("score_composed", "score_route", "score_penalty")
_LABELS: Final = {
    "collisions_pedestrian": "Collisions with pedestrians",
    "collisions_vehicle": "Collisions with vehicles",
    "collisions_layout": "Collisions with layout",
    "red_light": "Red lights infractions",
    "stop_infraction": "Stop sign infractions",
    "outside_route_lanes": "Off-road infractions",
    "route_dev": "Route deviations",
    "route_timeout": "Route timeouts",
    "vehicle_blocked": "Agent blocked",
    "yield_emergency_vehicle_infractions": "Yield emergency vehicles infractions",
    "scenario_timeouts": "Scenario timeouts",
    "min_speed_infractions": "Min speed infractions",
}
_OUTSIDE: Final = "outside_route_lanes"
_DIGITS: Final = 3
_SCORE_DIGITS: Final = 6

Record = dict[str, Any]


def record_of(summary: dict[str, Any], index: int, route_id: str, duration_s: float) -> Record:
    """Return the record of a route from its episode's summary.

    Args:
        summary: `info["episode_summary"]`.
        index: of the route in its file.
        route_id: as in the file.
        duration_s: what it took on the clock.
    """
    own = {name: value for name, value in summary.items() if name not in ("route_id", "index", "town", "meta")}
    meta = {**summary["meta"], "duration_system": round(duration_s, _DIGITS)}
    names = {"index": index, "route_id": f"RouteScenario_{route_id}_rep0", "town_name": summary["town"]}
    return {**names, **own, "meta": meta}


def failed_record(index: int, route_id: str, town: str, message: str, duration_s: float) -> Record:
    """Return the record of a route that could not be judged; it counts as 0."""
    summary = {
        "status": f"Failed - {message}",
        "num_infractions": 0,
        "infractions": {kind: [] for kind in _LABELS},
        "scores": dict.fromkeys(_SCORES, 0.0),
        "meta": {"route_length": 0.0, "duration_game": 0.0},
        "town": town,
        "skipped_scenarios": [],
        "scenarios": [],
        "scenario_actors": [],
        "events": [],
    }
    return record_of(summary, index, route_id, duration_s)


def plain_id(record: Record) -> str:
    """The id of a record's route as in the file."""
    return str(record["route_id"]).removeprefix("RouteScenario_").removesuffix("_rep0")


def has_crashed(record: Record) -> bool:
    """Return whether the route was given up because its simulator crashed each time."""
    return "Simulation crashed" in record["status"]


def is_partial(records: Sequence[Record]) -> bool:
    """Return whether a scenario of some route did not take place."""
    return any(record["skipped_scenarios"] for record in records)


def results_of(records: Sequence[Record], total: int) -> dict[str, Any]:
    """Return the result file's content.

    Args:
        records: of the routes that are done.
        total: how many routes there are; those that are not done count as 0 in the means.
    """
    ordered = sorted(records, key=lambda record: int(record["index"]))
    partial = is_partial(ordered)
    summed = _global_record(ordered, total)
    status = _entry_status(ordered, total)
    score = "Avg. score without the skipped scenarios" if partial else "Avg. driving score"
    means, infractions = summed["scores_mean"], summed["infractions"]
    return {
        "_checkpoint": {"global_record": summed, "progress": [len(ordered), total], "records": ordered},
        "entry_status": status,
        "eligible": status == "Finished",
        "sensors": [],
        "values": [str(means[name]) for name in _SCORES] + [str(infractions[kind]) for kind in _LABELS],
        "labels": [score, "Avg. route completion", "Avg. infraction penalty", *_LABELS.values()],
    }


def _entry_status(records: Sequence[Record], total: int) -> str:
    """Return what the results are worth as a whole; only "Finished" is eligible."""
    failures = " ".join(record["status"] for record in records)
    if len(records) < total:
        return "Started"
    if "Simulation crashed" in failures:
        return "Crashed"
    if "couldn't be set up" in failures:
        return "Invalid"
    if "sensors were invalid" in failures:
        return "Rejected"
    return "Partial" if is_partial(records) else "Finished"


def _global_record(records: Sequence[Record], total: int) -> dict[str, Any]:
    columns = {name: [float(record["scores"][name]) for record in records] for name in _SCORES}
    padded = {name: values + [0.0] * (total - len(values)) for name, values in columns.items()}
    means = {name: round(statistics.fmean(values), _SCORE_DIGITS) if values else 0.0 for name, values in padded.items()}
    spread = {name: round(statistics.stdev(v), _DIGITS) if len(v) > 1 else 0 for name, v in padded.items()}
    failed = [[each["route_id"], each["index"], each["status"]] for each in records if "Failed" in each["status"]]
    perfect = all(each["status"].endswith("Perfect") for each in records)
    word = "Failed" if failed else "Perfect" if perfect else "Completed"
    sums = {
        "total_length": round(sum(each["meta"]["route_length"] for each in records), _DIGITS),
        "duration_game": round(sum(each["meta"]["duration_game"] for each in records), _DIGITS),
        "duration_system": round(sum(each["meta"]["duration_system"] for each in records), _DIGITS),
    }
    return {
        "index": -1,
        "route_id": -1,
        "status": f"Partial - {word}" if is_partial(records) else word,
        "infractions": _per_km(records),
        "scores_mean": means,
        "scores_std_dev": spread,
        "meta": {**sums, "exceptions": failed},
    }


def _per_km(records: Sequence[Record]) -> dict[str, float]:
    """Infractions by kind for each driven kilometre; of the driving outside the lanes, the kilometres."""
    driven_m = sum(each["meta"]["route_length"] * each["scores"]["score_route"] / 100.0 for each in records)
    driven_km = max(driven_m / 1000.0, 0.001)
    counts = {kind: sum(len(each["infractions"][kind]) for each in records) / driven_km for kind in _LABELS}
    outside_m = sum(_metres(message) for each in records for message in each["infractions"][_OUTSIDE])
    return {kind: round(value, _DIGITS) for kind, value in {**counts, _OUTSIDE: outside_m / 1000.0}.items()}


def _metres(message: str) -> float:
    """The distance in the Leaderboard's sentence about driving outside the lanes."""
    found = re.search(r"about ([0-9.]+) meters", message)
    return float(found[1]) if found else 0.0


class ResultFolder:
    """Where an evaluation keeps its files: `results.json`, and for each route `routes/ID.json` and a picture.

    Args:
        path: made when absent.
        identity: what was evaluated (routes, agent, settings); a folder only holds one evaluation.
        resume: take the routes that are there as done.

    Raises:
        ValueError: the folder holds results and `resume` is not set, or those of another evaluation.
    """

    def __init__(self, path: Path, identity: dict[str, Any], resume: bool) -> None:
        self.path = path
        (path / "routes").mkdir(parents=True, exist_ok=True)
        known = path / "evaluation.json"
        if known.exists() and not resume:
            raise ValueError(f"out: expected a folder without results, found {known}; pass --resume or another --out")
        if known.exists() and json.loads(known.read_text()) != json.loads(json.dumps(identity)):
            raise ValueError(f"out: expected the results of this evaluation, found another one's in {known}")
        write_json(known, identity)

    def done(self) -> list[Record]:
        """Return the records that are there."""
        return [json.loads(path.read_text()) for path in sorted((self.path / "routes").glob("*.json"))]

    def picture(self, index: int, route_id: str) -> Path:
        """Where the picture of a route goes."""
        return self.path / "routes" / f"{_file_name(index, route_id)}.png"

    def sheet(self, index: int, route_id: str) -> Path:
        """Where its contact sheet goes."""
        return self.path / "routes" / f"{_file_name(index, route_id)}-sheet.jpg"

    def add_ticks(self, index: int, route_id: str, info: dict[str, Any]) -> str:
        """Keep the ticks of a route; returns the name of the folder inside `routes` in which they are."""
        name = _file_name(index, route_id)
        (self.path / "routes" / name).mkdir(exist_ok=True)
        write_json(self.path / "routes" / name / FILE_NAME, info)
        return name

    def add(self, record: Record, route_id: str, total: int) -> None:
        """Keep the record of a route and renew the result file."""
        write_json(self.path / "routes" / f"{_file_name(record['index'], route_id)}.json", record)
        write_json(self.path / "results.json", results_of(self.done(), total))


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a file so that it is there as a whole or not at all."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with beside.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=4)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def _file_name(index: int, route_id: str) -> str:
    plain = "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in route_id)
    return f"{index:04d}-{plain}"
