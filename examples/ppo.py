"""PPO learns to follow a route: one file, read from top to bottom.

    pip install -e '.[learn]'
    python examples/ppo.py --seed 1 --minutes 10 --out runs/ppo1

Proximal Policy Optimization (Schulman et al. 2017) with a clipped ratio and generalised advantage estimation, on
`zmqcarla/Carla-v0` without traffic and without cameras: the policy sees the way ahead as numbers and answers with
steering and acceleration. The reward is the env's own preset "carl", unchanged: an episode's return is the percent of
its route that was driven, less what driving badly costs, so 0 is a car that stands still and 100 the best.

It prints its progress and writes `curve.png` and `curve.json` into the folder of `--out`.
"""

from __future__ import annotations

import argparse
import contextlib
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
    import torch  # pyright: ignore[reportMissingImports]
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

ROLLOUT = 128  # steps of each row between two updates
EPOCHS, MINIBATCHES = 8, 4
LEARNING_RATE = 3e-4  # falls to 0 at the end
GAMMA, LAMBDA = 0.97, 0.95
CLIP, ENTROPY_WEIGHT, VALUE_WEIGHT, MAX_GRADIENT = 0.2, 0.001, 0.5, 0.5

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


def network(outputs: int, last_gain: float) -> Any:
    """Two hidden layers of 64, orthogonal weights."""
    layers = [torch.nn.Linear(FEATURES, 64), torch.nn.Linear(64, 64), torch.nn.Linear(64, outputs)]
    for layer, gain in zip(layers, (2**0.5, 2**0.5, last_gain), strict=True):
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
        observations, rewards, terminated, truncated, infos = vec.step(to_env(actions))
        returns += rewards * running
        ended = terminated | truncated
        for row in np.flatnonzero(running):
            info = infos["final_info"] if ended[row] else infos
            if "worker_lost" in infos and infos["_worker_lost"][row]:
                endings[row] = "worker_lost"
                continue
            for name, values in info["reward_terms"].items():
                if not name.startswith("_"):
                    terms[name] += float(values[row]) / n
            completed[row] = info["route_completion"][row]
            if ended[row]:
                endings[row] = info["terminated_by"][row] or "max_steps"
        running &= ~ended
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
    parser.add_argument("--workers", type=int, default=8, help="environments that drive at the same time")
    parser.add_argument("--out", type=Path, default=Path("runs/ppo"), help="folder for curve.png and curve.json")
    options = parser.parse_args()
    n, began_s = options.workers, time.monotonic()
    until_s = began_s + 60.0 * options.minutes
    options.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(options.seed)
    torch.set_num_threads(1)  # the networks are small, and the cores belong to the simulators

    actor, critic = network(2, 0.01), network(1, 1.0)
    log_std = torch.nn.Parameter(torch.zeros(2))
    parameters = [*actor.parameters(), log_std, *critic.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=LEARNING_RATE, eps=1e-5)

    vec = zmqcarla.make_vec_env(n, env_kwargs=ENV, simulator="embedded", autoreset_mode="SameStep")
    with contextlib.closing(vec):
        zero_action = evaluate(vec, None, seed=10_000 * options.seed + 5_000, until_s=until_s)
        print(f"doing nothing: mean return {zero_action['mean_return']:.1f}", flush=True)

        observations, _ = vec.reset(seed=10_000 * options.seed)
        seen = torch.from_numpy(features(observations))
        returns_so_far = np.zeros(n)
        curve: list[dict[str, Any]] = []
        torch_s, steps, update, trained_from_s = 0.0, 0, 0, time.monotonic()
        train_s = max(0.95 * (until_s - trained_from_s), 1.0)  # the rest is for the evaluation
        batch = {
            "seen": torch.zeros(ROLLOUT, n, FEATURES),
            "actions": torch.zeros(ROLLOUT, n, 2),
            "log_probs": torch.zeros(ROLLOUT, n),
            "values": torch.zeros(ROLLOUT, n),
        }
        rewards_got, ended = torch.zeros(ROLLOUT, n), torch.zeros(ROLLOUT, n)
        while (share := (time.monotonic() - trained_from_s) / train_s) < 1.0 or update == 0:
            # Drive.
            returns: list[float] = []  # of the episodes that end now
            completed: list[float] = []
            for t in range(ROLLOUT):
                with torch.no_grad():
                    chances = torch.distributions.Normal(actor(seen), log_std.exp())
                    actions = chances.sample()
                    batch["seen"][t], batch["actions"][t] = seen, actions
                    batch["log_probs"][t] = chances.log_prob(actions).sum(-1)
                    batch["values"][t] = critic(seen)[:, 0]
                observations, rewards, terminated, truncated, infos = vec.step(to_env(actions))
                seen = torch.from_numpy(features(observations))
                rewards_got[t] = torch.from_numpy(rewards)
                returns_so_far += rewards
                ended[t] = torch.from_numpy(terminated | truncated)
                for row in np.flatnonzero(terminated | truncated):
                    if truncated[row]:
                        # The episode was cut, not ended: what would have come after it is the critic's guess.
                        last = {name: part[None] for name, part in infos["final_obs"][row].items()}
                        with torch.no_grad():
                            rewards_got[t, row] += GAMMA * critic(torch.from_numpy(features(last)))[0, 0]
                    if "worker_lost" not in infos or not infos["_worker_lost"][row]:
                        returns.append(float(returns_so_far[row]))
                        completed.append(float(infos["final_info"]["route_completion"][row]))
                    returns_so_far[row] = 0.0
            steps, update = steps + ROLLOUT * n, update + 1
            updating_from_s = time.monotonic()
            curve.append({"step": steps, "minute": (updating_from_s - began_s) / 60.0, "returns": returns})

            # Generalised advantage estimation, backwards.
            with torch.no_grad():
                next_value, advantage = critic(seen)[:, 0], torch.zeros(n)
            advantages = torch.zeros(ROLLOUT, n)
            for t in reversed(range(ROLLOUT)):
                going_on = 1.0 - ended[t]
                error = rewards_got[t] + GAMMA * next_value * going_on - batch["values"][t]
                advantages[t] = advantage = error + GAMMA * LAMBDA * going_on * advantage
                next_value = batch["values"][t]
            flat = {name: part.flatten(0, 1) for name, part in batch.items()}
            advantages = advantages.flatten()
            targets = advantages + flat["values"]

            # Several passes over the batch.
            optimizer.param_groups[0]["lr"] = LEARNING_RATE * max(1.0 - share, 0.0)
            for _ in range(EPOCHS):
                for chosen in torch.randperm(ROLLOUT * n).chunk(MINIBATCHES):
                    chances = torch.distributions.Normal(actor(flat["seen"][chosen]), log_std.exp())
                    ratio = (chances.log_prob(flat["actions"][chosen]).sum(-1) - flat["log_probs"][chosen]).exp()
                    gain = advantages[chosen]
                    gain = (gain - gain.mean()) / (gain.std() + 1e-8)
                    policy_loss = -torch.min(ratio * gain, ratio.clamp(1.0 - CLIP, 1.0 + CLIP) * gain).mean()
                    value_loss = 0.5 * (critic(flat["seen"][chosen])[:, 0] - targets[chosen]).square().mean()
                    entropy = chances.entropy().sum(-1).mean()
                    optimizer.zero_grad()
                    (policy_loss + VALUE_WEIGHT * value_loss - ENTROPY_WEIGHT * entropy).backward()
                    torch.nn.utils.clip_grad_norm_(parameters, MAX_GRADIENT)
                    optimizer.step()
            torch_s += time.monotonic() - updating_from_s

            print(
                f"minute {(time.monotonic() - began_s) / 60.0:5.2f}  update {update:4}  steps {steps:7}  "
                f"episodes {len(returns):3}  mean return {np.mean(returns or [np.nan]):6.1f}  "
                f"route {np.mean(completed or [np.nan]):5.1f} %  noise {log_std.exp().tolist()[0]:.2f}",
                flush=True,
            )

        trained_s = time.monotonic() - trained_from_s
        evaluation = evaluate(vec, actor, seed=10_000 * options.seed + 5_000, until_s=until_s)
    tenths: list[list[float]] = [[] for _ in range(10)]
    for one in curve:
        tenths[min(int(10 * (one["step"] - 1) / steps), 9)] += one["returns"]
    means = [float(np.mean(tenth)) if tenth else None for tenth in tenths]
    summary = {
        "example": "ppo",
        "settings": {"seed": options.seed, "minutes": options.minutes, "workers": n, "env": ENV},
        "steps": steps,
        "steps_per_s": steps / trained_s,
        "share_of_time_in_updates": torch_s / trained_s,
        "mean_return_by_tenth": means,
        "zero_action": zero_action,
        "evaluation": evaluation,
        "curve": curve,
    }
    (options.out / "curve.json").write_text(json.dumps(summary, indent=1))
    draw(options.out / "curve.png", curve, means, zero_action["mean_return"], steps, f"PPO, seed {options.seed}")
    print(f"mean return, tenth by tenth: {', '.join('-' if mean is None else f'{mean:.1f}' for mean in means)}")
    print(f"without exploration: {evaluation}\n{steps / trained_s:.0f} steps/s; see {options.out}/curve.png")


def draw(path: Path, curve: list[dict[str, Any]], means: list[Any], zero: float, steps: int, title: str) -> None:
    """The return of every episode, and the means of the tenths of training."""
    figure = Figure(figsize=(8.0, 4.5), dpi=110, layout="constrained")
    axis: Any = figure.subplots()
    for one in curve:
        axis.plot(np.full(len(one["returns"]), one["step"]), one["returns"], ".", markersize=2, color="0.7")
    middles = (np.arange(10) + 0.5) * steps / 10
    axis.plot(middles, np.array(means, float), "o-", color="tab:blue", label="mean of a tenth of training")
    axis.axhline(zero, color="tab:red", linestyle="--", label="doing nothing")
    axis.set_xlabel("environment steps")
    axis.set_ylabel("return of an episode (percent of the route, less charges)")
    axis.set_title(title)
    axis.legend(loc="lower right")
    figure.savefig(path)


if __name__ == "__main__":
    main()
