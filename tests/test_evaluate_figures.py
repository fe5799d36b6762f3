"""The figures of an evaluation: comfort, efficiency, success, abilities, the remaining time, and the report.

With BENCH2DRIVE_ROOT, and LEADERBOARD_PYTHON for an interpreter that has scipy, networkx, shapely and carla, they are
compared with what Bench2Drive's own tools say of the same files.
"""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import carla
import numpy as np
import pytest
from numpy.typing import NDArray
from rich.console import Console

from zmqcarla.evaluate import ticks
from zmqcarla.evaluate.benchmark import abilities, efficiency, merged
from zmqcarla.evaluate.comfort import slope, smoothed, smoothness
from zmqcarla.evaluate.drive import Drive
from zmqcarla.evaluate.estimate import Leg, remaining
from zmqcarla.evaluate.progress import Progress, clock
from zmqcarla.evaluate.report import write_report
from zmqcarla.evaluate.results import ResultFolder, failed_record, results_of, write_json
from zmqcarla.evaluate.shots import Shots
from zmqcarla.evaluate.work_queue import Job
from zmqcarla.workers.observation import VEHICLE_STATE

SLOW = "Average speed is {}% of the surrounding traffic's one"


def record(index: int, route_id: str, score: float = 100.0, scenario: str = "", **infractions: list[str]) -> Any:
    made = failed_record(index, route_id, "Town01", "", 5.0)
    word = "Failed" if score < 100.0 else "Completed" if infractions else "Perfect"
    scores = {"score_composed": score, "score_route": score, "score_penalty": 1.0}
    name = f"{index:04d}-{route_id}"
    found = {**made["infractions"], **infractions}
    return {
        **made,
        "status": word,
        "scores": scores,
        "infractions": found,
        "scenario_type": scenario,
        "save_name": name,
    }


def drive(seed: int, length: int, roughness: float) -> list[NDArray[np.float32]]:
    """States of a car that sways more or less."""
    rng = np.random.default_rng(seed)
    sway = np.cumsum(rng.normal(0.0, roughness, (length, 4)), axis=0)
    states = np.zeros((length, len(VEHICLE_STATE)), np.float32)
    states[:, 3:6] = rng.normal(0.0, 3.0, (length, 3)) + np.array([0.0, 0.0, 40.0])
    states[:, 9:11] = sway[:, :2]
    states[:, 14] = sway[:, 2] * 0.3
    return list(states)


# ------------------------------------------------------------------------------------------------------------ the ticks


def test_places_in_the_state_are_those_of_the_worker() -> None:
    names = np.array(VEHICLE_STATE)
    assert names[ticks.POSITION].tolist() == ["x_m", "y_m", "z_m"]
    assert names[ticks.ROTATION].tolist() == ["roll_deg", "pitch_deg", "yaw_deg"]
    assert [name[:12] for name in names[ticks.ACCELERATION]] == ["acceleration"] * 3
    assert names[ticks.ANGULAR_VELOCITY].tolist() == [f"angular_velocity_{axis}_dps" for axis in "xyz"]
    assert names[ticks.SPEED] == "speed_mps"


def test_the_axes_of_a_tick_are_those_of_the_client() -> None:
    (state,) = drive(3, 1, 1.0)
    roll, pitch, yaw = (float(value) for value in state[ticks.ROTATION])
    there = carla.Transform(carla.Location(), carla.Rotation(roll=roll, pitch=pitch, yaw=yaw))
    axes = [there.get_forward_vector(), there.get_right_vector(), there.get_up_vector()]
    told = ticks.metric_info([state])["0"]
    for name, axis in zip(("forward_vector", "right_vector"), axes, strict=False):
        assert told[name] == pytest.approx([axis.x, axis.y, axis.z], abs=1e-5)
    world = sum(float(part) * np.array([axis.x, axis.y, axis.z]) for part, axis in zip(state[9:12], axes, strict=True))
    assert told["acceleration"] == pytest.approx(world, abs=1e-5)
    assert told["rotation"] == pytest.approx([roll, pitch, yaw], abs=1e-5)


def test_a_parabola_passes_the_filter_unchanged() -> None:
    x = np.arange(30.0)
    assert smoothed(2.0 - 3.0 * x + 0.5 * x**2, 7) == pytest.approx(2.0 - 3.0 * x + 0.5 * x**2)
    assert slope(2.0 - 3.0 * x + 0.5 * x**2, 7) == pytest.approx(-3.0 + x)


def test_a_drive_is_as_smooth_as_its_share_of_comfortable_pieces() -> None:
    calm = [np.zeros(16, np.float32)] * 40
    jolt = [np.zeros(16, np.float32) for _ in range(20)]
    for step in range(20):
        jolt[step][9] = 9.0 * (step % 2)
    assert smoothness(ticks.metric_info(calm)) == 1.0
    assert smoothness(ticks.metric_info([*calm, *jolt, *calm[:7]])) == pytest.approx(2 / 3)
    assert smoothness(ticks.metric_info(calm[:9])) == 1.0
    assert smoothness(ticks.metric_info(calm[:2])) is None


# ---------------------------------------------------------------------------------------------------------- the figures


def test_efficiency_is_the_mean_speed_against_the_traffic() -> None:
    slow = [SLOW.format(percent) for percent in (50.0, 100, 2000.5)]
    assert efficiency(record(0, "a", min_speed_infractions=slow)) == 75.0
    assert efficiency(record(0, "a", min_speed_infractions=slow[2:])) is None
    assert efficiency(record(0, "a")) is None


def test_a_route_that_is_missing_counts_as_failed() -> None:
    records = [record(0, "a", min_speed_infractions=[SLOW.format(80)]), record(1, "b", red_light=["ran it"])]
    figures = merged(records, 4)
    assert figures["success rate"] == 0.25
    assert figures["score"] == 50.0
    assert figures["efficiency"] == 80.0
    assert figures["smoothness"] is None
    assert figures["routes"] == {"all": 4, "judged": 2, "efficiency": 1, "smoothness": 0}


def test_a_sign_counts_as_mastered_behind_the_first_junction() -> None:
    past = {**record(0, "a", 60.0, "T_Junction"), "first_junction_percent": 50.0}
    before = {**record(1, "b", 40.0, "T_Junction"), "first_junction_percent": 50.0}
    ran = {**record(2, "c", 60.0, "T_Junction", red_light=["ran it"]), "first_junction_percent": 50.0}
    crash = {**record(3, "d", 60.0, "BlockedIntersection"), "first_junction_percent": 50.0}
    table = abilities([past, before, ran, crash])
    assert table["Traffic_Signs"] == {"mastered": 2, "routes": 4, "share": 0.5}
    assert table["Emergency_Brake"] == {"mastered": 0, "routes": 1, "share": 0.0}
    assert table["Merging"]["share"] is None


# ------------------------------------------------------------------------------------------------------- theirs, opt-in


def tool(name: str, *arguments: str, **more: str) -> str:
    """What a tool of Bench2Drive's says."""
    root, python = os.environ.get("BENCH2DRIVE_ROOT"), os.environ.get("LEADERBOARD_PYTHON")
    if root is None or python is None:
        pytest.skip("BENCH2DRIVE_ROOT and LEADERBOARD_PYTHON name no checkout and no interpreter for its tools")
    command = [python, f"{root}/tools/{name}.py", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, env={**os.environ, **more})
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_comfort_and_efficiency_are_those_of_their_tool(tmp_path: Path) -> None:
    folder, records = ResultFolder(tmp_path, {}, resume=False), []
    for seed in range(24):
        info = ticks.metric_info(drive(seed, 7 + 31 * seed, 0.05 * seed + 0.01))
        slow = [SLOW.format(round(17.37 * seed + k, 2)) for k in range(seed % 4)]
        made = {**record(seed, f"r{seed}", min_speed_infractions=slow), "smoothness": smoothness(info)}
        folder.add_ticks(seed, f"r{seed}", info)
        records.append(made)
    write_json(tmp_path / "results.json", results_of(records, 24))
    said = tool("efficiency_smoothness_benchmark", "-f", f"{tmp_path}/results.json", "-m", f"{tmp_path}/routes")
    theirs = [float(number) for number in re.findall(r"=([0-9.]+)", said)]
    figures = merged(records, 24)
    assert [figures["efficiency"], figures["smoothness"]] == pytest.approx(theirs, abs=1e-12)
    assert 0.1 < theirs[1] < 0.9


def test_scores_and_abilities_are_those_of_their_tools(tmp_path: Path, town_maps: Path) -> None:
    root, api = os.environ.get("BENCH2DRIVE_ROOT"), os.environ.get("ZMQCARLA_CARLA_PYTHONAPI")
    if root is None or api is None:
        pytest.skip("BENCH2DRIVE_ROOT and ZMQCARLA_CARLA_PYTHONAPI name no checkouts")
    file = Path(root, "leaderboard/data/bench2drive220.xml")
    here = {path.stem for path in town_maps.glob("*.xodr")}
    rng, records = np.random.default_rng(5), []
    for index, route in enumerate(ElementTree.parse(file).getroot()):
        first = route.find("scenarios/scenario")
        assert first is not None
        kind, town = first.attrib["type"], route.attrib["town"]
        found = ({}, {"red_light": ["ran it"]}, {"min_speed_infractions": [SLOW.format(99)]})[int(rng.integers(3))]
        score = 100.0 if rng.random() < 0.6 else 0.0
        if town not in here and abilities([record(0, "", 100.0, kind)])["Traffic_Signs"]["routes"]:
            found, score = {}, 100.0  # else their tool wants the town's map
        made = record(index, route.attrib["id"], score, kind, **found)
        records.append({**made, "route_id": f"RouteScenario_{route.attrib['id']}_rep0"})
    carla_root, theirs = tmp_path / "carla", tmp_path / "theirs"
    theirs.mkdir()
    (carla_root / "CarlaUE4/Content/Carla/Maps").mkdir(parents=True)
    (carla_root / "CarlaUE4/Content/Carla/Maps/OpenDrive").symlink_to(town_maps)
    result = theirs / "all.json"
    result.write_text(json.dumps({"_checkpoint": {"records": records}}))
    tool("merge_route_json", "-f", str(theirs))
    said = json.loads((theirs / "merged.json").read_text())
    figures = merged(records, len(records))
    assert figures["score"] == pytest.approx(said["driving score"])
    assert figures["success rate"] == pytest.approx(said["success rate"])
    tool("ability_benchmark", "-f", str(file), "-r", str(result), PYTHONPATH=f"{api}/carla", CARLA_ROOT=str(carla_root))
    told = json.loads((theirs / "all_ability.json").read_text())
    assert told.pop("crashed") == []
    shares = {name: row["share"] for name, row in figures["abilities"].items()}
    assert {**shares, "mean": figures["ability mean"]} == pytest.approx(told)


# ----------------------------------------------------------------------------------------------------- the waiting time


def test_the_remaining_time_is_unknown_before_three_routes() -> None:
    legs = [Leg("A", 100.0, 10.0)] * 2
    assert remaining(legs, [], [Leg("A", 100.0)], 1) is None
    assert remaining([], [], [], 0) is None


def test_the_remaining_time_follows_length_and_town() -> None:
    measured = [Leg("A", 100.0, 10.0)] * 3 + [Leg("B", 100.0, 40.0)] * 3
    rest = remaining(measured, [Leg("A", 200.0, 5.0)], [Leg("B", 100.0), Leg("B", 50.0)], 1)
    assert rest is not None
    assert rest.expected_s == pytest.approx(15.0 + 40.0 + 20.0)
    assert rest.low_s == rest.high_s == rest.expected_s
    two = remaining(measured, [], [Leg("B", 100.0), Leg("A", 10.0)], 2)
    assert two is not None
    assert two.expected_s == pytest.approx(40.0), "the longest route cannot be shared"
    uneven = remaining([Leg("A", 100.0, s) for s in (5.0, 10.0, 15.0)], [], [Leg("A", 100.0)] * 4, 2)
    assert uneven is not None
    assert uneven.low_s < uneven.expected_s == 20.0 < uneven.high_s


def test_progress_says_what_is_known() -> None:
    assert [clock(s) for s in (40.0, 700.0, 11_100.0)] == ["40 s", "12 min", "3 h 05 min"]
    jobs, out = [Job(k, f"r{k}", "A", 100.0) for k in range(5)], io.StringIO()
    with Progress(Console(file=out, width=120), jobs, {0: 5.0, 1: 5.0}, 2) as progress:
        progress.begin(jobs[2], Drive(completion_percent=37.0))
        progress.begin(jobs[3], Drive(completion_percent=4.0))
        progress.lose(jobs[3], "found it lost")
        progress.end(jobs[3])
        progress.end(jobs[2])
        progress.finish(jobs[2], record(2, "r2"))
    assert "route r3: found it lost" in out.getvalue()
    assert "3 of 5 routes, 1 lost workers; remaining time: about 5 s (5 s to 5 s)" in out.getvalue()
    live = io.StringIO()
    console = Console(file=live, width=120, force_terminal=True)
    with Progress(console, jobs, {}, 2) as progress:
        progress.begin(jobs[2], Drive(completion_percent=37.0))
    assert "remaining time: unknown yet" in live.getvalue()
    assert "37 %" in live.getvalue()


# --------------------------------------------------------------------------------------------------------------- report


def test_shots_are_spread_over_a_drive_of_any_length() -> None:
    shots = Shots()
    picture = np.zeros((3, 4, 5), np.uint8)
    for step in range(1000):
        shots.offer(step, {"bev": picture, "rgb": picture})
    chosen = shots.spread(8)
    assert len(chosen) == 8
    assert chosen[0][0] == 0
    assert chosen[-1][0] > 900
    assert {taken.shape for _, taken in chosen if taken is not None} == {(4, 5, 3)}
    assert Shots().spread(8) == []


def test_the_report_carries_its_pictures_and_hides_no_loss(tmp_path: Path) -> None:
    folder = ResultFolder(tmp_path, {}, resume=False)
    good = record(0, "a<b", scenario="Accident")
    lost = {**failed_record(1, "c", "Town02", "Simulation crashed", 9.0), "losses": ["killed by signal 9"]}
    (tmp_path / "routes" / "0000-a<b-sheet.jpg").write_bytes(b"jpeg")
    results = results_of([good, lost], 3)
    write_report(folder, results, merged([good, lost], 3), "embedded")
    page, text = (tmp_path / "report.html").read_text(), (tmp_path / "report.md").read_text()
    assert "data:image/jpeg;base64,anBlZw==" in page
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    assert "a&lt;b" in page
    assert "a<b" not in page.replace("data:image", "")
    for said in (page, text):
        assert "killed by signal 9" in said or said is text
        assert "2 of 3 routes are judged" in said
        assert "No number from the embedded simulator" in said
        assert "Failed - Simulation crashed" in said
