"""GRPO learns to follow a route from groups of rollouts that fork from one moment: one file, read from top to bottom.

    pip install -e '.[learn]'
    python examples/grpo.py --seed 1 --minutes 10 --out runs/grpo1

Group Relative Policy Optimization (Shao et al. 2024). Each group drives on from one saved moment of the world: its
members have the same past and differ only in what the policy drew. A rollout's advantage is how much better than its
group it was, in standard deviations of the group, so no critic is learnt. Then one member, drawn among those that still
drive, is where the group's next rollouts fork, and so the starts spread along the routes as the policy drives them.

The env is `zmqcarla/Carla-v0` without traffic and without cameras, with its own reward preset "carl", unchanged: a
rollout's return is the percent of its route that was driven in the few seconds of the rollout, less what driving badly
costs; 0 is a car that stands still.

It prints its progress and writes `curve.png`, `curve.json` and `branches.png`, some groups seen from above, into the
folder of `--out`.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import zmqcarla
from zmqcarla.workers.observation import MEASUREMENTS, NAVIGATION, VEHICLE_STATE, WAYPOINTS

try:
    import matplotlib
    import torch  # pyright: ignore[reportMissingImports]
    from matplotlib.collections import LineCollection
    from matplotlib.figure import Figure
except ImportError as error:
    sys.exit(f"expected torch and matplotlib for this example, found: {error}; install: pip install 'zmqcarla[learn]'")

ENV: dict[str, Any] = {
    "observation": "state",  # three vectors; no camera, so nothing is rendered
    "action_type": "acceleration",
    "reward_type": "carl",
    "frame_skip": 4,  # five decisions a simulated second
    "route_length_m": 200.0,
    "max_steps": 280,  # 56 simulated seconds; a car that stands still is "blocked" after 60
}
SCALE = np.array([0.5, 1.0], np.float32)  # the policy's 1 is half of the wheel's travel, enough for every corner

HORIZON = 15  # steps of a rollout, three simulated seconds
ROUNDS = 4  # rollouts of every member between two updates
EPOCHS, MINIBATCHES = 4, 4
LEARNING_RATE = 1e-3  # falls to 0 at the end
CLIP, ENTROPY_WEIGHT, MAX_GRADIENT = 0.2, 0.001, 0.5
PICTURES = 6  # groups that are drawn, spread over the training
REFERENCE_UPDATES = 10  # after so many the policy becomes its own reference, for --kl

FloatArray = NDArray[np.float32]


def features(observations: dict[str, FloatArray]) -> FloatArray:
    """What the policy sees, about -1 to 1 each: float32 (n, 34), a copy."""
    navigation, state, measurements = (observations[name] for name in ("navigation", "vehicle_state", "measurements"))

    def pick(vector: FloatArray, names: tuple[str, ...], **scales: float) -> list[FloatArray]:
        return [np.clip(vector[:, names.index(name)] / scale, -2.0, 2.0) for name, scale in scales.items()]

    columns = [
        *pick(navigation, NAVIGATION, lane_offset_m=2.0, heading_error_deg=30.0, distance_to_goal_m=50.0),
        *pick(state, VEHICLE_STATE, velocity_forward_mps=10.0, velocity_right_mps=2.0, angular_velocity_z_dps=45.0),
        *pick(state, VEHICLE_STATE, acceleration_forward_mps2=5.0),
        *pick(measurements, MEASUREMENTS, speed_limit_mps=10.0, red_light=1.0, at_junction=1.0),
    ]
    ahead = np.clip(navigation[:, WAYPOINTS][:, :24] / 20.0, -2.0, 2.0)  # the next twelve, 24 m
    return np.concatenate([np.stack(columns, axis=1), ahead], axis=1).astype(np.float32)


FEATURES = 34


def network() -> Any:
    """Two hidden layers of 64, orthogonal weights."""
    layers = [torch.nn.Linear(FEATURES, 64), torch.nn.Linear(64, 64), torch.nn.Linear(64, 2)]
    for layer, gain in zip(layers, (2**0.5, 2**0.5, 0.01), strict=True):
        torch.nn.init.orthogonal_(layer.weight, gain)
        torch.nn.init.zeros_(layer.bias)
    return torch.nn.Sequential(layers[0], torch.nn.Tanh(), layers[1], torch.nn.Tanh(), layers[2])


def to_env(actions: Any) -> FloatArray:
    """The env's [steer, acceleration] for what the policy said; the env clips it."""
    return np.asarray(actions, np.float32) * SCALE


def evaluate(vec: zmqcarla.VectorEnv, policy: Any, seed: int, until_s: float) -> dict[str, Any]:
    """One episode of every row without exploration, if there is time; `policy` None does nothing at all."""
    observations, _ = vec.reset(seed=seed)
    n = vec.num_envs
    returns, completed, running = np.zeros(n), np.zeros(n), np.ones(n, bool)
    terms: defaultdict[str, float] = defaultdict(float)
    endings = ["unfinished"] * n
    while running.any() and time.monotonic() < until_s:
        with torch.no_grad():
            actions = np.zeros((n, 2)) if policy is None else policy(torch.from_numpy(features(observations)))
        # A row that is done drives on until all are, and does not count.
        observations, rewards, terminated, truncated, infos = vec.step(to_env(actions))
        returns += rewards * running
        for row in np.flatnonzero(running):
            if "worker_lost" in infos and infos["_worker_lost"][row]:
                endings[row] = "worker_lost"
                continue
            for name, values in infos["reward_terms"].items():
                if not name.startswith("_"):
                    terms[name] += float(values[row]) / n
            completed[row] = infos["route_completion"][row]
            if terminated[row] or truncated[row]:
                endings[row] = infos["terminated_by"][row] or "max_steps"
        running &= ~(terminated | truncated)
    return {
        "mean_return": float(returns.mean()),
        "mean_route_percent": float(completed.mean()),
        "mean_reward_terms": dict(terms),
        "endings": dict(Counter(endings)),
    }


def main() -> None:
    """Train, measure, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=10.0, help="wall-clock budget, with start and evaluation")
    parser.add_argument("--workers", type=int, default=16, help="environments that drive at the same time")
    parser.add_argument("--groups", type=int, default=2, help="groups that they form")
    parser.add_argument("--kl", type=float, default=0.0, help="weight of the divergence from the reference policy")
    parser.add_argument("--out", type=Path, default=Path("runs/grpo"), help="folder for the pictures and curve.json")
    options = parser.parse_args()
    n, size = options.workers, options.workers // options.groups
    if size < 2 or size * options.groups != n:
        parser.error(f"expected --workers to be --groups times at least 2, found {n} and {options.groups}")
    began_s = time.monotonic()
    until_s = began_s + 60.0 * options.minutes
    options.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(options.seed)
    torch.set_num_threads(1)  # the network is small, and the cores belong to the simulators
    generator = np.random.default_rng(options.seed)

    policy = network()
    log_std = torch.nn.Parameter(torch.full((2,), -0.5))
    parameters = [*policy.parameters(), log_std]
    optimizer = torch.optim.Adam(parameters, lr=LEARNING_RATE, eps=1e-5)
    reference = copy.deepcopy((policy, log_std))

    vec = zmqcarla.make_vec_env(n, env_kwargs=ENV, simulator="embedded", autoreset_mode="Disabled")
    with contextlib.closing(vec):
        zero_action = evaluate(vec, None, seed=10_000 * options.seed + 5_000, until_s=until_s)
        print(f"doing nothing: mean return of an episode {zero_action['mean_return']:.1f}", flush=True)
        lanes = [np.asarray(line) for line in vec.call("lane_lines")[0]]

        vec.reset(seed=10_000 * options.seed)
        groups = [zmqcarla.RolloutGroup(vec, rows) for rows in np.arange(n).reshape(-1, size).tolist()]
        standing = [group.start()[0] for group in groups]  # observations of each group's members
        curve: list[dict[str, Any]] = []
        pictured: list[dict[str, Any]] = []
        torch_s, steps, update, trained_from_s = 0.0, 0, 0, time.monotonic()
        train_s = max(0.95 * (until_s - trained_from_s), 1.0)  # the rest is for the evaluation
        while (share := (time.monotonic() - trained_from_s) / train_s) < 1.0 or update == 0:
            # Drive: ROUNDS times, every group from where it stands.
            batches: list[Any] = []
            for _ in range(ROUNDS):
                for _ in range(HORIZON):
                    if not any(group.active.any() for group in groups):
                        break
                    seen = torch.from_numpy(np.concatenate([features(observations) for observations in standing]))
                    with torch.no_grad():
                        drawn = torch.normal(policy(seen), log_std.exp().expand(n, 2))
                    results = zmqcarla.step_groups(groups, np.split(to_env(drawn), len(groups)))
                    standing = [observations for observations, *_ in results]
                for k, group in enumerate(groups):
                    batches.append(group.batch())
                    # Fork anew: where one of the members is, or at the start of a new route.
                    going_on = np.flatnonzero(group.active)
                    if len(going_on):
                        standing[k], _ = group.select(int(generator.choice(going_on)))
                    else:
                        vec.reset(options={"reset_mask": np.arange(n) == group.rows[0]})
                        standing[k], _ = group.start()
            updating_from_s = time.monotonic()
            update += 1
            steps += sum(int(batch.active.sum()) for batch in batches)
            returns = np.concatenate([batch.returns[~batch.lost] for batch in batches])
            curve.append({"step": steps, "minute": (updating_from_s - began_s) / 60.0, "returns": returns.tolist()})
            if share * PICTURES >= len(pictured):
                pictured.append({"update": update, "batch": batches[-1]})

            # What all groups did, step by step; the advantage of a step is that of its rollout.
            seen = torch.from_numpy(np.concatenate([features(driven(batch, batch.observations)) for batch in batches]))
            drawn = torch.from_numpy(np.concatenate([driven(batch, batch.actions) for batch in batches]) / SCALE)
            advantages = torch.from_numpy(
                np.concatenate(
                    [np.broadcast_to(batch.advantages, batch.active.shape)[batch.active] for batch in batches]
                )
            ).float()
            if update % REFERENCE_UPDATES == 0:
                reference = copy.deepcopy((policy, log_std))
            with torch.no_grad():
                log_probs = log_prob(policy, log_std, seen, drawn)
                reference_log_probs = log_prob(*reference, seen, drawn)

            # Several passes over it.
            optimizer.param_groups[0]["lr"] = LEARNING_RATE * max(1.0 - share, 0.0)
            for _ in range(EPOCHS):
                for chosen in torch.randperm(len(seen)).chunk(MINIBATCHES):
                    now = log_prob(policy, log_std, seen[chosen], drawn[chosen])
                    ratio, gain = (now - log_probs[chosen]).exp(), advantages[chosen]
                    policy_loss = -torch.min(ratio * gain, ratio.clamp(1.0 - CLIP, 1.0 + CLIP) * gain).mean()
                    # The estimate of the paper: never negative, and 0 where both say the same.
                    apart = reference_log_probs[chosen] - now
                    divergence = (apart.exp() - apart - 1.0).mean()
                    optimizer.zero_grad()
                    (policy_loss + options.kl * divergence - ENTROPY_WEIGHT * log_std.sum()).backward()
                    torch.nn.utils.clip_grad_norm_(parameters, MAX_GRADIENT)
                    optimizer.step()
            torch_s += time.monotonic() - updating_from_s
            print(
                f"minute {(time.monotonic() - began_s) / 60.0:5.2f}  update {update:4}  steps {steps:7}  "
                f"rollouts {len(returns):4}  mean return {returns.mean():6.2f}  "
                f"noise {log_std.exp().tolist()[0]:.2f}",
                flush=True,
            )

        trained_s = time.monotonic() - trained_from_s
        evaluation = evaluate(vec, policy, seed=10_000 * options.seed + 5_000, until_s=until_s)
    tenths: list[list[float]] = [[] for _ in range(10)]
    for one in curve:
        tenths[min(int(10 * (one["step"] - 1) / steps), 9)] += one["returns"]
    means = [float(np.mean(tenth)) if tenth else None for tenth in tenths]
    summary = {
        "example": "grpo",
        "settings": {"seed": options.seed, "minutes": options.minutes, "workers": n, "groups": options.groups}
        | {"kl": options.kl, "env": ENV, "horizon": HORIZON},
        "steps": steps,
        "steps_per_s": steps / trained_s,
        "share_of_time_in_updates": torch_s / trained_s,
        "mean_return_by_tenth": means,
        "zero_action": zero_action,
        "evaluation": evaluation,
        "curve": curve,
    }
    (options.out / "curve.json").write_text(json.dumps(summary, indent=1))
    draw_curve(options.out / "curve.png", curve, means, steps, f"GRPO, seed {options.seed}")
    draw_branches(options.out / "branches.png", lanes, pictured)
    print(f"mean return, tenth by tenth: {', '.join('-' if mean is None else f'{mean:.2f}' for mean in means)}")
    print(f"whole episodes without exploration: {evaluation}")
    print(f"{steps / trained_s:.0f} steps/s; see {options.out}/curve.png and branches.png")


def log_prob(policy: Any, log_std: Any, seen: Any, drawn: Any) -> Any:
    """Logarithm of the density of actions: torch (k,)."""
    return torch.distributions.Normal(policy(seen), log_std.exp()).log_prob(drawn).sum(-1)


def driven(batch: Any, tree: Any) -> Any:
    """The leaves (T or T + 1, G, ...) of a batch where a member was stepped: (k, ...) each, step by step."""
    if isinstance(tree, dict):
        return {name: driven(batch, leaf) for name, leaf in tree.items()}
    return tree[: len(batch.active)][batch.active]


def draw_curve(path: Path, curve: list[dict[str, Any]], means: list[Any], steps: int, title: str) -> None:
    """The returns of the rollouts, and the means of the tenths of training."""
    figure = Figure(figsize=(8.0, 4.5), dpi=110, layout="constrained")
    axis: Any = figure.subplots()
    for one in curve:
        axis.plot(np.full(len(one["returns"]), one["step"]), one["returns"], ".", markersize=1.5, color="0.7")
    middles = (np.arange(10) + 0.5) * steps / 10
    axis.plot(middles, np.array(means, float), "o-", color="tab:blue", label="mean of a tenth of training")
    axis.axhline(0.0, color="tab:red", linestyle="--", label="standing still")
    axis.set_xlabel("environment steps")
    axis.set_ylabel("return of a rollout (percent of the route, less charges)")
    axis.set_title(title)
    axis.legend(loc="lower right")
    figure.savefig(path)


def draw_branches(path: Path, lanes: list[Any], pictured: list[dict[str, Any]]) -> None:
    """Some groups seen from above, the route dotted: red is the worst of its group, green the best."""
    figure = Figure(figsize=(12.0, 8.4), dpi=100, layout="constrained")
    axes: Any = figure.subplots(2, PICTURES // 2)
    for axis, one in zip(axes.ravel(), pictured, strict=False):
        batch = one["batch"]
        lines = batch.observations["vehicle_state"][..., :2].swapaxes(0, 1)  # (G, T + 1, 2): x and y in metres
        ranks = np.argsort(np.argsort(batch.returns)) / (len(lines) - 1)
        for line, rank in zip(lines, ranks, strict=True):
            colour = matplotlib.colormaps["RdYlGn"](float(rank))
            axis.plot(line[:, 0], line[:, 1], color=colour, linewidth=1.6, zorder=2)
            axis.plot(*line[-1], "o", color=colour, markeredgecolor="black", markersize=5, zorder=3)
        x_m, y_m, *_, yaw_deg = batch.observations["vehicle_state"][0, 0, : VEHICLE_STATE.index("yaw_deg") + 1]
        ahead = batch.observations["navigation"][0, 0, WAYPOINTS].reshape(-1, 2) @ rotation(yaw_deg) + (x_m, y_m)
        axis.plot(ahead[:, 0], ahead[:, 1], ":", color="black", linewidth=1.2, zorder=2)
        axis.plot(x_m, y_m, "s", color="white", markeredgecolor="black", markersize=7, zorder=4)
        low, high = lines.min(axis=(0, 1)), lines.max(axis=(0, 1))
        (x_m, y_m), half_m = (low + high) / 2.0, max(float((high - low).max()) / 2.0 + 4.0, 12.0)
        axis.set(xlim=(x_m - half_m, x_m + half_m), ylim=(y_m + half_m, y_m - half_m), aspect="equal")
        axis.set_xlabel("x (m)")
        # A lane is drawn three metres broad; a panel of this figure has a side of about 230 points.
        broad = 230.0 * 3.0 / (2.0 * half_m)
        axis.add_collection(LineCollection(lanes, colors="0.88", linewidths=broad, capstyle="butt", zorder=1))
        title = f"update {one['update']}: returns {batch.returns.min():.1f} to {batch.returns.max():.1f}"
        axis.set_title(title, fontsize=10)
    for axis in axes[:, 0]:
        axis.set_ylabel("y (m)")
    figure.savefig(path)


def rotation(yaw_deg: float) -> Any:
    """Turns rows (forward, right) into rows (x, y) of the world."""
    cosine, sine = np.cos(np.radians(yaw_deg)), np.sin(np.radians(yaw_deg))
    return np.array([[cosine, sine], [-sine, cosine]])


if __name__ == "__main__":
    main()
