"""See that snapshots and branches do what they should: drive, save, go back, branch, go on with one branch.

    python tools/visual_snapshot.py --num-workers 4 --test-branching --save-images --out runs/snapshot

One environment explores and saves its moment. Then the same actions are driven twice from there, and with
--test-branching once more by all branches: every path must be the same to the bit. After that each branch steers its
own way, the best one is selected, and goes on alone.

In the folder of --out: summary.json (differences, times, fidelity reports, rewards), positions.json (each path, metres
in the world frame), and with --save-images paths.png (from above), restored.png (what is seen one step after the save
and one step after each restore, and how many pixels differ) and branches.png (each branch from behind, at several
moments).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zmqcarla.demo.driver import LaneFollowingDriver
from zmqcarla.demo.pictures import contact_sheet, paths_plot
from zmqcarla.grpo import GRPOCarlaEnv
from zmqcarla.make import make_vec_env

PICTURES = 5
"""Moments of the branches on the sheet."""
_X_M, _Y_M = 0, 1  # in vehicle_state

Images = NDArray[np.uint8]
_drive = LaneFollowingDriver()


class Film:
    """What happened: places, times, pictures.

    Attributes:
        paths: places in the order of time by the name of the path, metres, world frame.
        seconds: how long each thing took, by its name.
        later: views one step after the saved moment by their titles, uint8 (3, height, width).
        branches: views of all branches by their titles, uint8 (branches, 3, height, width) each.
    """

    def __init__(self) -> None:
        self.paths: dict[str, list[tuple[float, float]]] = {}
        self.seconds: dict[str, float] = {}
        self.later: dict[str, Images] = {}
        self.branches: dict[str, Images] = {}

    def note(self, path: str, observation: dict[str, Any]) -> None:
        """Add a place to a path."""
        state = observation["vehicle_state"]
        self.paths.setdefault(path, []).append((float(state[_X_M]), float(state[_Y_M])))

    @contextlib.contextmanager
    def timed(self, name: str) -> Generator[None]:
        """Note how long a block takes."""
        began_s = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - began_s


def _view(env: GRPOCarlaEnv) -> Images:
    """The environment from behind, or all branches, uint8 (..., 3, height, width)."""
    return np.moveaxis(np.asarray(env.render()), -1, -3)


def _explore(env: GRPOCarlaEnv, film: Film, name: str, observation: Any, steps: int) -> tuple[Any, list[Any]]:
    """Follow the lane; the last observation, and the actions."""
    actions: list[Any] = []
    film.note(name, observation)
    for _ in range(steps):
        actions.append(_drive(observation))
        observation, _, terminated, truncated, _ = env.single_step(actions[-1])
        film.note(name, observation)
        film.later.setdefault(name, _view(env))
        if terminated or truncated:
            raise SystemExit(f"expected {steps} steps of '{name}', found the end of the episode; give another --seed")
    return observation, actions


def _repeat(env: GRPOCarlaEnv, film: Film, name: str, observation: Any, actions: list[Any]) -> None:
    film.note(name, observation)
    for action in actions:
        film.note(name, env.single_step(action)[0])
        film.later.setdefault(name, _view(env))


def _branch(env: GRPOCarlaEnv, film: Film, snapshot: str, actions: list[Any]) -> dict[str, Any]:
    """Drive the branches alike, then each its own way; what there is to tell."""
    with film.timed("fork_s"):
        observations, infos = env.fork_from_snapshot(snapshot)
    alike = [f"alike {branch}" for branch in range(env.max_branches)]
    for name, observation in zip(alike, observations, strict=True):
        film.note(name, observation)
    for action in actions:
        for name, observation in zip(alike, env.branch_step([action] * env.max_branches)[0], strict=True):
            film.note(name, observation)
        film.later.setdefault("branch 1", _view(env)[1])
    reports = [info["restore"] for info in infos]
    env.reset_from_snapshot(snapshot)
    observations, _ = env.fork_from_snapshot(snapshot)
    steer = np.linspace(-0.25, 0.25, env.max_branches)
    pictured = np.linspace(0, len(actions) - 1, PICTURES, dtype=int).tolist()
    for step in range(len(actions)):
        if step in pictured:
            film.branches[f"step {step}"] = _view(env)
        for branch, observation in enumerate(observations):
            film.note(f"branch {branch}", observation)
        own = [_drive(observation) for observation in observations]
        for branch, action in enumerate(own):
            action[0] = np.clip(action[0] + steer[branch], -1, 1)
        observations, *_ = env.branch_step(own)
    statistics = env.get_branch_statistics()
    env.select_branch(statistics["best_branch"])
    return {"branching": statistics, "fork_reports": reports, "selected_branch": statistics["best_branch"]}


def _differences_m(film: Film) -> dict[str, float]:
    """How far each path of the same actions is from the first one, at most, metres."""
    first = np.array(film.paths["after the save"])
    names = [name for name in film.paths if name == "again" or name.startswith("alike")]
    return {name: float(np.abs(np.array(film.paths[name]) - first).max()) for name in names}


def _film(env: GRPOCarlaEnv, film: Film, options: argparse.Namespace) -> dict[str, Any]:
    observation, _ = env.reset(seed=options.seed)
    observation, _ = _explore(env, film, "exploration", observation, options.steps)
    with film.timed("save_s"):
        snapshot = env.save_snapshot()
    _, actions = _explore(env, film, "after the save", observation, options.steps)
    with film.timed("restore_s"):
        observation, info = env.restore_snapshot(snapshot)
    _repeat(env, film, "again", observation, actions)
    told: dict[str, Any] = {"snapshot": env.list_snapshots()[0], "restore_report": info["restore"]}
    if options.test_branching:
        told |= _branch(env, film, snapshot, actions)
        observation, reward, *_ = env.single_step(np.array([0.0, 0.0, 0.5], np.float32))
        _explore(env, film, "going on", observation, options.steps)
        told["going_on"] = env.get_branch_statistics() | {"first_reward": reward}
    return told


def _save_images(film: Film, lanes: list[Any], out: Path, snapshot_step: int) -> None:
    views = {name: film.later[name] for name in ("after the save", "again", "branch 1") if name in film.later}
    differ = [int((image != views["after the save"]).any(axis=0).sum()) for image in views.values()]
    titles = [f"{name}, {count} pixels differ" for name, count in zip(views, differ, strict=True)]
    contact_sheet(out / "restored.png", np.stack(list(views.values())), titles)
    shown = [name for name in film.paths if not name.startswith(("alike", "again"))]
    paths = [np.array(film.paths[name]) for name in shown]
    paths_plot(out / "paths.png", lanes, paths, [[] for _ in shown], shown)
    if film.branches:
        names = [f"branch {branch}" for branch in range(len(next(iter(film.branches.values()))))]
        moments = [f"{snapshot_step} + {name.removeprefix('step ')}" for name in film.branches]
        contact_sheet(out / "branches.png", list(film.branches.values()), names, moments)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-workers", type=int, default=4, help="CARLA servers, one a branch")
    parser.add_argument("--test-branching", action="store_true", help="branch, select, go on; for two workers or more")
    parser.add_argument("--save-images", action="store_true", help="draw the pictures")
    parser.add_argument("--steps", type=int, default=40, help="of each part of the run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--address", help="of a running pool, in place of a private one with embedded simulators")
    parser.add_argument("--out", type=Path, default=Path("runs/snapshot"))
    options = parser.parse_args()
    if options.num_workers < 1 + options.test_branching:
        parser.error("--test-branching: expected --num-workers 2 or more, found fewer")
    return options


def main() -> int:
    options = _options()
    options.out.mkdir(parents=True, exist_ok=True)
    film = Film()
    vec = make_vec_env(
        options.num_workers,
        env_kwargs={"render_mode": "rgb_array"},
        address=options.address,
        autoreset_mode="Disabled",
        simulator=None if options.address else "embedded",
    )
    with contextlib.closing(GRPOCarlaEnv(vec=vec)) as env:
        told = _film(env, film, options)
        lanes = vec.call("lane_lines", rows=[0])[0]
    differences_m = _differences_m(film)
    worst_m = max(differences_m.values())
    summary = {"exact": worst_m == 0.0, "differences_m": differences_m, "seconds": film.seconds, **told}
    (options.out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    (options.out / "positions.json").write_text(json.dumps(film.paths) + "\n")
    if options.save_images:
        _save_images(film, lanes, options.out, options.steps)
    took = ", ".join(f"{name.removesuffix('_s')} {value * 1e3:.0f} ms" for name, value in film.seconds.items())
    print(f"the same actions from the saved moment: {len(differences_m)} times, at most {worst_m:g} m apart; {took}")
    print(f"{options.out}/: {', '.join(sorted(path.name for path in options.out.iterdir()))}")
    return 0 if summary["exact"] else 1


if __name__ == "__main__":
    sys.exit(main())
